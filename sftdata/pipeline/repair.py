"""Safe repairs: what a record says, written in normal form, and a list of what that changed.

Roles under other names, arguments of calls as JSON text, null keys and text parts come out as OpenAI-style messages;
no word is changed, keys that nothing reads stay, and a record that cannot be read stays as it was: none is lost. What
must not live here: rules, files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from sftdata import formats
from sftdata.formats import FormatOptions
from sftdata.records import Conversation, RawRecord

__all__ = ["as_it_was", "as_json", "repaired"]

_MOST = 50
_WRITTEN = frozenset({"messages", "tools", "chat_template_kwargs", "text"})


def repaired(
    raw: RawRecord, conversation: Conversation, options: FormatOptions
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The record in normal form, and what changed: None where nothing did.

    A record of another format than messages is new as a whole; of one in messages every changed place is named.
    """
    record = formats.to_messages(conversation)
    if any(one.code == "SFT116" for one in conversation.findings):
        record = _with_unread(raw.value, record, conversation, options)
    change: dict[str, Any] = {"record_id": raw.record_id, "source": raw.source, "line": raw.line}
    if conversation.format not in {"messages", "text"}:
        return record, {**change, "from": conversation.format}
    places = list(_differences(raw.value, record, ""))
    if not places:
        return record, None
    return record, {**change, "from": conversation.format, "changed": places[:_MOST], "places": len(places)}


def _with_unread(
    value: dict[str, Any], record: dict[str, Any], conversation: Conversation, options: FormatOptions
) -> dict[str, Any]:
    """`record` with the keys of `value` that make no difference to what either says."""
    keys = [key for key, one in value.items() if key not in _WRITTEN and one is not None]
    said = _said(conversation)
    spare = {
        key: value[key] for key in keys if _said(_read({k: v for k, v in value.items() if k != key}, options)) == said
    }
    whole = {**record, **spare}
    return whole if _said(_read(whole, FormatOptions())) == said else record


def _read(value: dict[str, Any], options: FormatOptions) -> Conversation | None:
    outcome = formats.normalise(value, options)
    return outcome if isinstance(outcome, Conversation) else None


def _said(conversation: Conversation | None) -> Any:
    return conversation and (
        conversation.messages,
        conversation.text,
        conversation.tools,
        conversation.template_kwargs,
    )


def as_it_was(raw: RawRecord) -> bytes:
    """A record that cannot be read, as a line: its own bytes where they are one, else what was read of it as JSON."""
    if raw.raw is None:
        return as_json(raw.value)
    return raw.raw if b"\n" not in raw.raw else as_json(raw.raw.decode("utf-8", "replace"))


def as_json(value: Any) -> bytes:
    """One line of JSON, whatever a record may hold: lone surrogates and integers beyond 64 bits as well."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    """JSON pointers, into the old value, at which two values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            place = f"{where}/{str(key).replace('~', '~0').replace('/', '~1')}"
            if key not in old or key not in new:
                yield place
            else:
                yield from _differences(old[key], new[key], place)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, two) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, two, f"{where}/{index}")
    elif old != new or type(old) is not type(new):
        yield where or "/"
