"""Where a tokenizer comes from: the carried one, a `tokenizer.json`, a folder, or a name on the hub.

What lives here: finding and reading files, and merging what `tokenizer_config.json` says about special tokens into
the tokenizer, as transformers does. What must not: encoding anything, or any knowledge of templates.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from sftdata.errors import ConfigError, describe
from sftdata.model_folder import fingerprint, read_model_folder, read_text

__all__ = ["TokenizerFiles", "load_files"]


class TokenizerFiles(msgspec.Struct, frozen=True):
    """The files of a tokenizer, read but not interpreted."""

    address: str
    """What the user wrote."""
    tokenizer_json: str
    config: dict[str, Any]
    """`tokenizer_config.json`, or an empty dict."""
    generation_eos: tuple[int, ...]
    """`eos_token_id` of `generation_config.json`, always as a tuple."""
    folder: str | None
    """The folder the files lie in; None for a bare `tokenizer.json`."""

    @property
    def sha256(self) -> str:
        """Hash over everything that changes ids or stops: the tokenizer, its config, the generation eos."""
        return fingerprint(self.tokenizer_json, self.config, self.generation_eos)


def load_files(address: str) -> TokenizerFiles:
    """Read the tokenizer that `address` names: `builtin`, a `tokenizer.json`, a folder, or a hub name.

    Raises ConfigError where there is none, it has no fast form, or a file of it cannot be read.
    """
    if address == "builtin":
        folder = Path(str(resources.files("sftdata.tokenizers").joinpath("builtin")))
        return _read_folder(folder, address)
    path = Path(address).expanduser()
    if path.is_file():
        return TokenizerFiles(address, read_text(path), {}, (), None)
    if path.is_dir():
        return _read_folder(path, address)
    if "/" in address and not address.startswith((".", "/", "~")) and address.count("/") == 1:
        return _read_folder(_download(address), address)
    raise ConfigError(
        describe(
            "no such tokenizer",
            where=address,
            expected="builtin, a tokenizer.json, a folder that holds one, or a hub name such as org/model",
        )
    )


def _read_folder(folder: Path, address: str) -> TokenizerFiles:
    files = read_model_folder(folder, address=address)
    return TokenizerFiles(address, files.tokenizer_json, files.config, files.generation_eos, str(folder))


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise ConfigError(
            describe(
                "no such folder, and a hub name needs the hub extra",
                where=name,
                fix="pip install 'sftdata[hub]', or give a folder.",
            )
        ) from error
    patterns = ["tokenizer*.json", "*.jinja", "additional_chat_templates/*", "generation_config.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            describe(
                f"the tokenizer could not be fetched from the hub: {type(error).__name__}",
                where=name,
                fix="Check the name and the network, or give a local folder.",
            )
        ) from error
