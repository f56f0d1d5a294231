"""Raw records become conversations: six formats, one normal form.

    value (plain JSON data)  ─►  Conversation, or Rejection with all that is wrong

What lives here: `normalise`, which chooses the format of one record and reads it, and the table of formats. Raw
dicts end in this package. What must not: templates, tokenizers, files of data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from sftdata.formats import alpaca, messages, ordinary, pairs, prompt_completion, sharegpt, text
from sftdata.formats.columns import original_pointer, renamed
from sftdata.formats.detection import detect, preference
from sftdata.formats.encoded import decoded_turns
from sftdata.formats.options import FORMAT_NAMES, FormatOptions
from sftdata.formats.reasoning import join_think, split_think
from sftdata.formats.registry import dataset_info, entry_of
from sftdata.formats.writing import to_messages
from sftdata.records import Conversation, Finding, Rejection

__all__ = [
    "FORMATS",
    "FORMAT_NAMES",
    "Format",
    "FormatOptions",
    "dataset_info",
    "entry_of",
    "join_think",
    "normalise",
    "split_think",
    "to_messages",
]

_DEFAULT = FormatOptions()
_MAY_BE_MESSAGES = frozenset({"auto", "messages"})
_PREFERENCE_COLUMNS = frozenset({"chosen", "rejected", "label"})


class Format(msgspec.Struct, frozen=True):
    """One record format."""

    name: str
    recognised_by: str
    """How a record is told to be in it, in one line for `sftdata formats`."""
    schema: str
    """The name of its JSON Schema in `sftdata_schemas`."""
    read: Callable[[dict[str, Any]], Conversation | Rejection]
    """A record with canonical columns and without null columns → what it says, or all that is wrong."""


def normalise(value: Any, options: FormatOptions = _DEFAULT) -> Conversation | Rejection:
    """The conversation that one record holds, or a Rejection with every fault found in it.

    `value` is plain JSON data: an object, or a bare list of messages. Pure, and raises nothing. Findings carry RFC
    6901 pointers into `value`; warnings and information ride on the Conversation. Keys whose value is null count as
    absent. Text is never trimmed. Turns may be the JSON text of their list; pointers then lead on into what it says.

    >>> normalise({"instruction": "Add 1 and 1.", "input": "", "output": "2"}).messages[1].content
    '2'
    """
    mapped = bool(options.columns or options.roles)
    if not mapped and options.input_format in _MAY_BE_MESSAGES:
        found = ordinary.read(value)
        if found is not None:
            return found
    bare = isinstance(value, list)
    if isinstance(value, dict):
        record = value
    elif bare:
        record = {"messages": value}
    else:
        kind = type(value).__name__ if value is not None else "null"
        return Rejection((Finding("SFT016", f"a record must be an object or a list, not {kind}"),))
    nulls = None in record.values()
    if nulls:
        record = {key: item for key, item in record.items() if item is not None}
    mapped = bool(options.columns or options.roles)
    record = renamed(record, options) if mapped else decoded_turns(record)
    result = _read(record, options)
    if nulls and _is_unknown(result):
        result = _read_with_nulls(value, record, options)
    if mapped or bare:
        result = _with_original_pointers(result, options, bare)
    return result


def _read(record: dict[str, Any], options: FormatOptions) -> Conversation | Rejection:
    """Read a record that has canonical columns only."""
    if options.input_format == "auto" or not _PREFERENCE_COLUMNS.isdisjoint(options.columns):
        found = preference(record)
        if found is not None:
            return Rejection((found,))
    name = detect(record) if options.input_format == "auto" else options.input_format
    return Rejection((name,)) if isinstance(name, Finding) else FORMATS[name].read(record)


def _is_unknown(result: Conversation | Rejection) -> bool:
    return isinstance(result, Rejection) and result.findings[0].code == "SFT125"


def _read_with_nulls(value: dict[str, Any], record: dict[str, Any], options: FormatOptions) -> Conversation | Rejection:
    """A record whose format only its null columns give away: what it lacks is then a fault with a name."""
    name = detect({**dict.fromkeys(renamed(value, options)), **record})
    return FORMATS[name].read(record) if isinstance(name, str) else _read(record, options)


def _with_original_pointers(
    result: Conversation | Rejection, options: FormatOptions, bare_list: bool
) -> Conversation | Rejection:
    """`result` with pointers into the record as the user wrote it."""

    def original(place: str) -> str:
        place = original_pointer(place, options)
        return place.removeprefix("/messages") if bare_list else place

    findings = tuple(msgspec.structs.replace(found, pointer=original(found.pointer)) for found in result.findings)
    if isinstance(result, Rejection):
        return Rejection(findings)
    pointers = tuple(original(place) for place in result.pointers)
    return msgspec.structs.replace(result, findings=findings, pointers=pointers)


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("alpaca", "`instruction` with `output`, `response` or another name of it", "alpaca", alpaca.read),
        Format("sharegpt", "`conversations`, or turns with `from` and `value`", "sharegpt", sharegpt.read),
        Format("messages", "`messages`, or a bare list of messages", "messages", messages.read),
        Format(
            "pairs",
            "rounds of `human` and `assistant`, `input` and `output`, … under `conversation`",
            "pairs",
            pairs.read,
        ),
        Format(
            "prompt-completion",
            "`prompt` and `completion`, `question` and `answer`, and the like",
            "prompt_completion",
            prompt_completion.read,
        ),
        Format("text", "`text` and no column of another format", "text", text.read),
    )
}
