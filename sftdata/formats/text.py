"""`text`: a text without roles, such as pretraining data mixed in against forgetting.

What lives here: how the format is recognised and read. What must not: other formats.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from sftdata.formats.faults import Faults
from sftdata.formats.validation import schema
from sftdata.records import Conversation, Rejection

__all__ = ["claims", "read"]

_KNOWN = frozenset({"text", "image", "images", "audio", "audios", "video", "videos"})


def claims(keys: AbstractSet[str]) -> bool:
    """Whether a record with these keys looks like this format."""
    return "text" in keys


def read(record: dict[str, Any]) -> Conversation | Rejection:
    """The text as it stands, or everything that is wrong with the record."""
    faults = Faults()
    rules = schema("text")
    if not rules.accepts(record):
        return rules.reject(record, faults)
    if not record.keys() <= _KNOWN:
        faults.ignore(record.keys() - _KNOWN)
    return Conversation(text=record["text"], format="text", findings=faults.all())
