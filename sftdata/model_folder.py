"""The files by which a model's folder says how it is served: read and hashed, not interpreted.

    tokenizer.json, tokenizer_config.json, generation_config.json, chat_template.jinja, additional_chat_templates/

What lives here: reading them as transformers does, and the fingerprints by which a dataset remembers them. What must
not: tokenizers, Jinja, or anything else that a reader of shards has no need of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sftdata.errors import ConfigError, describe

__all__ = [
    "NAMED_TOKENS",
    "ModelFolder",
    "fingerprint",
    "fingerprints",
    "named_tokens",
    "own_templates",
    "read_json",
    "read_model_folder",
    "read_template",
    "read_text",
    "served_templates",
    "stop_ids",
]

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The named special tokens that transformers passes to a template and flags as special."""

SERVED = ("default", "tool_use")
"""The templates of a tokenizer that are used without being named."""

_OF_TOKENS = (*NAMED_TOKENS, "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens")
"""What `tokenizer_config.json` says about tokens; the rest of it changes no id."""


class ModelFolder(NamedTuple):
    """A folder's files, read."""

    tokenizer_json: str
    config: dict[str, Any]
    """`tokenizer_config.json`, or an empty dict."""
    generation_eos: tuple[int, ...]
    """`eos_token_id` of `generation_config.json`, always as a tuple."""


def read_model_folder(folder: str | Path, *, address: str = "") -> ModelFolder:
    """The files of a folder that holds a `tokenizer.json`; `address` is what the user called it.

    Raises ConfigError where one is missing or malformed.
    """
    path = Path(folder)
    if not (path / "tokenizer.json").is_file():
        slow = [name for name in ("tokenizer.model", "vocab.json", "vocab.txt") if (path / name).is_file()]
        raise ConfigError(
            describe(
                f"the folder has {slow[0]} but no tokenizer.json" if slow else "the folder has no tokenizer.json",
                where=address or str(folder),
                expected="the fast form of the tokenizer",
                fix="Save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER).",
            )
        )
    config = read_json(path / "tokenizer_config.json")
    eos = stop_ids(read_json(path / "generation_config.json"))
    return ModelFolder(read_text(path / "tokenizer.json"), config, eos)


def stop_ids(generation_config: Mapping[str, Any]) -> tuple[int, ...]:
    """`eos_token_id` as a tuple: `stop_ids({"eos_token_id": 7})` is `(7,)`."""
    found = generation_config.get("eos_token_id")
    ids = found if isinstance(found, list) else [found]
    return tuple(one for one in ids if isinstance(one, int) and not isinstance(one, bool))


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The named special tokens of a `tokenizer_config.json`: `bos_token` and so on, those that are set."""
    named = {}
    for name in NAMED_TOKENS:
        value = config.get(name)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str) and content:
            named[name] = content
    return named


def fingerprint(tokenizer_json: str, config: Mapping[str, Any], generation_eos: Iterable[int]) -> str:
    """sha256 over everything that a dataset may depend on, whole: the tokenizer, its config, the generation eos."""
    digest = hashlib.sha256()
    for part in (
        tokenizer_json.encode(),
        json.dumps(config, sort_keys=True).encode(),  # its model_max_length is often 10**30
        json.dumps(list(generation_eos), separators=(",", ":")).encode(),
    ):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def fingerprints(tokenizer_json: str, config: Mapping[str, Any], generation_eos: Iterable[int]) -> dict[str, Any]:
    """What a dataset remembers of the files that decide ids and stops: hashes, and the stop ids as they stand."""
    tokens = {key: config[key] for key in _OF_TOKENS if config.get(key)}
    return {
        "tokenizer.json": hashlib.sha256(tokenizer_json.encode()).hexdigest(),
        "tokenizer_config.json": hashlib.sha256(json.dumps(tokens, sort_keys=True).encode()).hexdigest(),
        "generation_config.json": sorted(set(generation_eos)),
    }


# -- templates


def served_templates(sources: Mapping[str, str]) -> dict[str, str]:
    """Those of a tokenizer's templates that are used without being named: `default`, and `tool_use`."""
    return {name: sources[name] for name in SERVED if name in sources}


def own_templates(folder: str | Path | None, config: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The file or folder that holds a tokenizer's own templates, and all of them by name.

    A folder's `chat_template.jinja` and `additional_chat_templates/*.jinja` hide the key `chat_template` of its
    `tokenizer_config.json`, which is a text or a list of `{name, template}`.

    Raises ConfigError where one of them is malformed or cannot be read.
    """
    if folder is not None:
        single = Path(folder) / "chat_template.jinja"
        sources = {"default": read_template(single)} if single.is_file() else {}
        more = Path(folder) / "additional_chat_templates"
        sources |= {path.stem: read_template(path) for path in sorted(more.glob("*.jinja"))}
        if sources:
            return single.name if single.is_file() else more.name, sources
    return "tokenizer_config.json", _configured(config.get("chat_template"))


def _configured(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    entries: dict[str, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, list):
        for index, entry in enumerate(value):
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                raise _malformed(f"chat_template[{index}] has no name")
            entries[entry["name"]] = entry.get("template")
    elif not isinstance(value, dict):
        raise _malformed(f"chat_template is a {type(value).__name__}")
    for name, source in entries.items():
        if not isinstance(source, str):
            raise _malformed(f"the chat template {name!r} is not text")
    return dict(entries)


def _malformed(what: str) -> ConfigError:
    return ConfigError(
        describe(
            what,
            where="tokenizer_config.json",
            expected='template source, or a list of {"name": ..., "template": ...}',
            fix="Repair the file, or pass a template with --template.",
        )
    )


def read_template(path: Path) -> str:
    """The source of a template. Raises ConfigError where it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            describe(f"the template cannot be read: {error}", where=path.name, expected="a UTF-8 text file")
        ) from error


# -- files


def read_text(path: Path) -> str:
    """A file as text. Raises ConfigError where it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(describe(f"the file cannot be read: {error}", where=str(path))) from error


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object; an empty one where there is no file.

    Raises ConfigError where it cannot be read or holds something else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            describe(f"not valid JSON: {error}", where=str(path), fix="Download the tokenizer again.")
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(describe("not a JSON object", where=str(path), fix="Download the tokenizer again."))
    return value
