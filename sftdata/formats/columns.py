"""The user's names for columns and roles: a record in their spelling becomes one in ours, and pointers go back.

What lives here: renaming. A mapping touches the columns it names and no other. What must not: any format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sftdata.formats.alpaca import OUTPUT_KEYS
from sftdata.formats.encoded import TURN_COLUMNS, decoded_turns
from sftdata.formats.options import TURN_FIELDS, FormatOptions

__all__ = ["original_pointer", "renamed"]

_BESIDE_TOO = frozenset({"reasoning_content"})
"""Fields of a turn that may also stand beside the one answer of a record without turns."""
_TURN_LISTS = (*TURN_COLUMNS, "prompt", "completion")


def renamed(record: dict[str, Any], options: FormatOptions) -> dict[str, Any]:
    """`record` under canonical names. A column that was mapped is used up; an unmapped one keeps its name.

    >>> renamed({"input": "Hi", "target": "Yo"}, FormatOptions(columns={"instruction": "input", "output": "target"}))
    {'instruction': 'Hi', 'output': 'Yo'}
    """
    columns = {field: name for field, name in options.columns.items() if field not in TURN_FIELDS - _BESIDE_TOO}
    taken = {*columns.values(), *columns}
    result = {field: record[name] for field, name in columns.items() if name in record}
    result.update((key, value) for key, value in record.items() if key not in taken)
    if "text" in columns and columns.get("instruction") == columns["text"]:
        # One column that may be either: an instruction where there is an answer to it, else a text.
        result.pop("instruction" if result.keys().isdisjoint(OUTPUT_KEYS) else "text", None)
    result = decoded_turns(result)
    turn_columns = {field: name for field, name in options.columns.items() if field in TURN_FIELDS}
    if turn_columns or options.roles:
        for key in _TURN_LISTS:
            if isinstance(result.get(key), list):
                result[key] = [_renamed_turn(turn, turn_columns, options.roles) for turn in result[key]]
    return result


def _renamed_turn(turn: Any, columns: Mapping[str, str], roles: Mapping[str, str]) -> Any:
    if not isinstance(turn, dict):
        return turn
    taken = {*columns.values(), *columns}
    result = {field: turn[name] for field, name in columns.items() if name in turn}
    result.update((key, value) for key, value in turn.items() if key not in taken)
    for key in ("role", "from"):
        name = result.get(key)
        if isinstance(name, str) and name in roles:
            result[key] = roles[name]
    return result


def original_pointer(pointer: str, options: FormatOptions) -> str:
    """The pointer into the user's record for one into the renamed record.

    >>> original_pointer("/output", FormatOptions(columns={"output": "target"}))
    '/target'
    """
    tokens = pointer.split("/")
    for place, is_turn in ((1, False), (3, True)):
        if len(tokens) > place and (tokens[place] in TURN_FIELDS) is is_turn:
            column = options.columns.get(tokens[place])
            if column is not None:
                tokens[place] = column.replace("~", "~0").replace("/", "~1")
    return "/".join(tokens)
