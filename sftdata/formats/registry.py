"""A LLaMA-Factory `dataset_info.json` as a source of format options.

What lives here: the translation of its words. Columns that an entry does not name keep their own names: unlike in
its home, a partial mapping takes nothing away. What must not: reading the data sets themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sftdata.errors import ConfigError, describe
from sftdata.formats.options import FormatOptions

__all__ = ["dataset_info", "entry_of"]

_FORMATS = {"alpaca": "auto", "sharegpt": "sharegpt", "openai": "messages"}
"""Its default is `alpaca`, and an entry that says nothing may still hold pairs or texts: those are recognised."""
_COLUMNS = {
    "query": "input",
    "response": "output",
    "kto_tag": "label",
    **{name: name for name in ("history", "system", "tools", "images", "videos", "audios", "chosen", "rejected")},
}
_TURN_TAGS = {"sharegpt": ("from", "value"), "openai": ("role", "content")}
_ROLE_TAGS = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}


def dataset_info(path: str | Path) -> dict[str, tuple[str, FormatOptions]]:
    """Entry name → (address of its data, how to read it).

    The address is the entry's file name as it stands there, or `hf:NAME` (`hf:NAME:SPLIT`) for a data set of the
    hub; entries that name neither are left out. Raises ConfigError where the file is not such a registry.
    """
    try:
        entries = msgspec.json.decode(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(describe(f"cannot be read: {error.strerror}", where=str(path))) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(describe("not JSON", where=str(path))) from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ConfigError(describe("not a registry of datasets", where=str(path), expected="an object of objects"))
    return {
        name: (_address(entry), _options(entry, f"{path}: {name}"))
        for name, entry in entries.items()
        if _address(entry)
    }


def entry_of(address: str, entries: Mapping[str, tuple[str, FormatOptions]]) -> FormatOptions | None:
    """How to read the data at `address`: the options of the entry that names it, or a folder that it lies in.

    The longest name counts. Raises ConfigError where two entries with different options share that name.

    >>> entry_of("data/my_a.json", {"a": ("a.json", FormatOptions("text"))}) is None
    True
    """
    naming = {name: entry for name, entry in entries.items() if _names(entry[0], address)}
    longest = max((len(file) for file, _ in naming.values()), default=0)
    closest = {name: options for name, (file, options) in naming.items() if len(file) == longest}
    first, *others = closest.items() or [("", None)]
    for name, options in others:
        if options != first[1]:
            what = f"the entries {first[0]!r} and {name!r} both name it, with different columns"
            raise ConfigError(describe(what, where=address, fix="Leave one of them in the file of --dataset-info."))
    return first[1]


def _names(file: str, address: str) -> bool:
    """Whether an entry's file or data set is what lies at an address: whole parts of the path, not letters."""
    if file.startswith("hf:"):
        return address == file or address.startswith(f"{file}:")
    return f"/{file.strip('/')}/" in f"/{address}/"


def _address(entry: Mapping[str, Any]) -> str:
    if isinstance(entry.get("file_name"), str):
        return str(entry["file_name"])
    if isinstance(entry.get("hf_hub_url"), str):
        split = entry.get("split")
        return f"hf:{entry['hf_hub_url']}" + (f":{split}" if isinstance(split, str) else "")
    return ""


def _options(entry: Mapping[str, Any], where: str) -> FormatOptions:
    formatting = entry.get("formatting", "alpaca")
    if formatting not in _FORMATS:
        raise ConfigError(describe(f"no formatting {formatting!r}", where=where, expected=", ".join(_FORMATS)))
    named, tags = entry.get("columns", {}), entry.get("tags", {})
    if not _is_names(named) or not _is_names(tags):
        raise ConfigError(describe("columns and tags must map names to names", where=where))
    columns = {ours: named[theirs] for theirs, ours in _COLUMNS.items() if theirs in named}
    if "messages" in named:
        columns["messages" if formatting == "openai" else "conversations"] = named["messages"]
    if "prompt" in named:
        columns["instruction"] = named["prompt"]
        if "response" not in named:
            # A prompt without a response is how its pretraining entries look; a record with an answer says otherwise.
            columns["text"] = named["prompt"]
    role, content = _TURN_TAGS.get(formatting, ("role", "content"))
    columns.update({ours: tags[tag] for ours, tag in ((role, "role_tag"), (content, "content_tag")) if tag in tags})
    roles = {tags[tag]: ours for tag, ours in _ROLE_TAGS.items() if tag in tags}
    return FormatOptions(_FORMATS[formatting], columns, roles)


def _is_names(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
