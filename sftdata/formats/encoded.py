"""Turn lists that a table holds as JSON text: CSV has no other way, and Parquet files often take this one.

What lives here: decoding them. Only columns that hold nothing but turns are decoded: a prompt that begins with `[` is
text. What must not: what a turn means.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["TURN_COLUMNS", "decoded_turns"]

TURN_COLUMNS = ("messages", "conversations", "conversation")


def decoded_turns(record: dict[str, Any]) -> dict[str, Any]:
    """`record` with lists where a column of turns holds the JSON text of one; any other text stays, to be refused.

    >>> decoded_turns({"messages": '[{"role": "user", "content": "Hi"}]'})
    {'messages': [{'role': 'user', 'content': 'Hi'}]}
    """
    for key in TURN_COLUMNS:
        if type(record.get(key)) is str:
            record = {**record, key: _decoded(record[key])}
    return record


def _decoded(text: str) -> list[Any] | str:
    try:
        turns = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return text
    return turns if isinstance(turns, list) else text
