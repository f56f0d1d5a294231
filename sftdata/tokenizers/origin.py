"""Where a tokenizer comes from: the carried one, a `tokenizer.json`, a folder, or a name on the hub.

What lives here: finding and reading files, and merging what `tokenizer_config.json` says about special tokens into
the tokenizer, as transformers does. What must not: encoding anything, or any knowledge of templates.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import orjson

from sftdata.errors import ConfigError, describe

__all__ = ["NAMED_TOKENS", "TokenizerFiles", "load_files"]

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The named special tokens that transformers passes to a template and flags as special."""


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
        digest = hashlib.sha256()
        for part in (
            self.tokenizer_json.encode(),
            json.dumps(self.config, sort_keys=True).encode(),  # its model_max_length is often 10**30
            orjson.dumps(self.generation_eos),
        ):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.hexdigest()


def load_files(address: str) -> TokenizerFiles:
    """Read the tokenizer that `address` names: `builtin`, a `tokenizer.json`, a folder, or a hub name.

    Raises ConfigError where there is none, it has no fast form, or a file of it cannot be read.
    """
    if address == "builtin":
        folder = Path(str(resources.files("sftdata.tokenizers").joinpath("builtin")))
        return _read_folder(folder, address)
    path = Path(address).expanduser()
    if path.is_file():
        return TokenizerFiles(address, _read_text(path), {}, (), None)
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
    path = folder / "tokenizer.json"
    if not path.is_file():
        slow = [name for name in ("tokenizer.model", "vocab.json", "vocab.txt") if (folder / name).is_file()]
        raise ConfigError(
            describe(
                f"the folder has {slow[0]} but no tokenizer.json" if slow else "the folder has no tokenizer.json",
                where=address,
                expected="the fast form of the tokenizer",
                fix="Save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER).",
            )
        )
    config = _read_json(folder / "tokenizer_config.json")
    generation = _read_json(folder / "generation_config.json").get("eos_token_id")
    eos = generation if isinstance(generation, list) else [generation]
    return TokenizerFiles(
        address,
        _read_text(path),
        config,
        tuple(one for one in eos if isinstance(one, int) and not isinstance(one, bool)),
        str(folder),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(describe(f"the file cannot be read: {error}", where=str(path))) from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            describe(f"not valid JSON: {error}", where=str(path), fix="Download the tokenizer again.")
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(describe("not a JSON object", where=str(path), fix="Download the tokenizer again."))
    return value


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
