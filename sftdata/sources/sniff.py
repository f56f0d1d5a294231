"""What the first bytes of an input say that it is: content decides, not the name.

What lives here: telling lines, a JSON list, whole JSON values, CSV and tables apart. What must not: reading records.
"""

from __future__ import annotations

import json
from typing import Any

from sftdata.sources.lines import BOM

__all__ = ["HEAD", "delimiter", "document_decoder", "ends_early", "is_prose", "sniff"]

HEAD = 1 << 20
"""Bytes that are looked at; a first line longer than that is told by its first character."""

_TABLES = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_LOOKED_AT = 16


def document_decoder() -> json.JSONDecoder:
    """A lenient decoder that finds the end of a value: numbers are not converted, any character may be in a string.

    It is fed bytes as Latin-1, where positions are byte offsets and everything outside ASCII is just a character.
    """
    return json.JSONDecoder(strict=False, parse_int=len, parse_float=len)


def sniff(head: bytes, *, whole: bool) -> str:
    """The form of an input that begins with `head`; `whole` says that this is all of it.

    `lines` (JSON Lines), `list` (one JSON list of records), `values` (one JSON object or more, over several lines),
    `csv`, `tsv`, `parquet` or `arrow`. A list on one line is a record where it is a chat, `[{"role": ...}, ...]`, and a
    list of records else; several such lines are records each.
    """
    for magic, kind in _TABLES.items():
        if head.startswith(magic):
            return kind
    text = head.removeprefix(BOM).lstrip()
    if text[:1] == b"[":
        return _sniff_list(text, whole)
    if text[:1] == b"{":
        return _sniff_object(text, whole)
    first = text.partition(b"\n")[0]
    if b"{" in first or _value(first) is not _BROKEN:
        return "lines"
    return "csv" if b"," in first else "tsv" if b"\t" in first else "lines"


def delimiter(head: bytes) -> str:
    """What separates the columns of CSV that begins with `head`: a comma, if its header has one.

    >>> delimiter(b"question,answer\\n"), delimiter(b"question;answer\\n")
    (',', ';')
    """
    header = head.partition(b"\n")[0]
    return "," if b"," in header else ";" if b";" in header else "\t" if b"\t" in header else ","


def is_prose(head: bytes) -> bool:
    """Whether a file that begins with `head` is plain text: no line of it is JSON, and the first is no header.

    >>> is_prose(b"It began in 1901, they say."), is_prose(b"question,answer\\nQ,A"), is_prose(b'{"text": "T"}')
    (True, False, False)
    """
    lines = [line for line in head.removeprefix(BOM).split(b"\n")[:_LOOKED_AT] if line.strip()]
    if not lines or any(line.lstrip()[:1] in (b"{", b"[") or _value(line) is not _BROKEN for line in lines):
        return False
    fields = lines[0].strip().replace(b"\t", b",").split(b",")
    return len(fields) == 1 or any(b" " in field.strip() or not field.strip() for field in fields)


_BROKEN = object()


def _value(text: bytes) -> Any:
    """The value that `text` is the JSON of, or `_BROKEN`."""
    try:
        return json.loads(text.decode("latin-1"), strict=False)
    except (ValueError, RecursionError):
        return _BROKEN


def _sniff_list(text: bytes, whole: bool) -> str:
    first, newline, rest = text.partition(b"\n")
    if newline or whole:
        value = _value(first)
        if value is not _BROKEN:
            several = bool(rest.strip())
            return "lines" if several or (isinstance(value, list) and _is_chat(value)) else "list"
        later = [line for line in rest.split(b"\n")[:_LOOKED_AT] if line.strip()]
        if first.strip() != b"[" and any(isinstance(_value(line), list) for line in later):
            return "lines"
    return "values" if _begins_as_chat(text) else "list"


def _sniff_object(text: bytes, whole: bool) -> str:
    first, newline, _ = text.partition(b"\n")
    if not newline or _value(first) is not _BROKEN:
        return "lines"
    if first.strip() == b"{":
        return "values"
    try:
        document_decoder().raw_decode(text.decode("latin-1"))
    except json.JSONDecodeError as error:
        return "values" if ends_early(error, len(text)) and not whole else "lines"
    except RecursionError:
        return "lines"
    return "values"


def ends_early(error: json.JSONDecodeError, length: int) -> bool:
    """Whether a decoding error may only mean that a text of `length` characters is not all there yet."""
    return error.pos >= length - 16 or error.msg.startswith("Unterminated string")


def _is_chat(items: list[Any]) -> bool:
    """Whether a list is one conversation and not a list of records."""
    return bool(items) and all(
        isinstance(item, dict) and ({"role", "content"} <= item.keys() or {"from", "value"} <= item.keys())
        for item in items
    )


def _begins_as_chat(text: bytes) -> bool:
    """The same for a list of which the first element is all that is looked at."""
    inner = text[1:].lstrip().decode("latin-1")
    try:
        first, _ = document_decoder().raw_decode(inner)
    except (ValueError, RecursionError):
        return False
    return _is_chat([first])
