"""Safe repairs: what a record says, written in normal form, and a list of what that changed.

Roles under other names, arguments of calls as JSON text, null keys and text parts come out as OpenAI-style messages;
no word is changed, and a record that cannot be read is left out. What must not live here: rules, files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sftdata import formats
from sftdata.records import Conversation, RawRecord

__all__ = ["repaired"]

_MOST = 50


def repaired(raw: RawRecord, conversation: Conversation) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The record in normal form, and what changed: None where nothing did.

    A record of another format than messages is new as a whole; of one in messages every changed place is named.
    """
    record = formats.to_messages(conversation)
    change: dict[str, Any] = {"record_id": raw.record_id, "source": raw.source, "line": raw.line}
    if conversation.format not in {"messages", "text"}:
        return record, {**change, "from": conversation.format}
    places = list(_differences(raw.value, record, ""))
    if not places:
        return record, None
    return record, {**change, "from": conversation.format, "changed": places[:_MOST], "places": len(places)}


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
