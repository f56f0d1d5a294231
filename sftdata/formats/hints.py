"""What to do about a record that cannot be read, said in the names of its own columns.

What lives here: looking at the values of a record that is refused anyway. What must not: deciding a format.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from typing import Any

__all__ = ["alternating", "chosen_alone", "how_to_read"]

_ASIDE = frozenset(
    {
        *("id", "category", "source", "url", "dataset", "lang", "language", "split", "type", "name", "model", "system"),
        *("data_source", "version", "ability", "repo_name"),
        *("reasoning_content", "thinking", "reasoning", "tools", "functions"),
    }
)
"""Columns that are neither a question nor an answer, whatever text they hold."""
_THOUGHT = re.compile(r"cot\b|_cot|reason|think|thought|rationale", re.IGNORECASE)
"""How columns are called that hold what was thought before the answer."""


def how_to_read(record: dict[str, Any], asking: Collection[str], answering: Collection[str]) -> str:
    """The remedy for a record of unknown columns; `asking` and `answering` are the names that formats know.

    >>> how_to_read({"content": "Q", "summary": "A"}, (), ())
    'Map its columns, such as --column prompt=content --column completion=summary.'
    """
    texts = [key for key, value in record.items() if isinstance(value, str) and value.strip() and not _aside(key)]
    asked = next((key for key in asking if isinstance(record.get(key), (str, list))), "")
    answered = next((key for key in answering if isinstance(record.get(key), (str, list))), "")
    if asked or answered:
        side, field = ("answer", "completion") if asked else ("question", "prompt")
        other = next((key for key in texts if key not in (asked, answered)), "NAME")
        return f"`{asked or answered}` has no {side} beside it: name its column, such as {_column(field, other)}."
    inside = _inside(record, texts)
    if inside or not texts:
        return inside or "Map its columns, such as --column prompt=ASKED --column completion=ANSWERED."
    thought = next((key for key in texts if _THOUGHT.search(key)), None) if len(texts) > 2 else None
    said = [key for key in texts if key != thought]
    if len(said) == 1:
        return f"If it is a text to train as it stands: {_column('text', said[0])}."
    fields = ("instruction", "input", "output") if len(said) == 3 else ("prompt", "completion")
    named = [
        _column(field, name)
        for field, name in zip(fields, said if len(said) == 3 else (said[0], said[-1]), strict=True)
    ]
    named += [_column("reasoning_content", thought)] if thought is not None else []
    return f"Map its columns, such as {' '.join(named)}."


def _inside(record: dict[str, Any], texts: list[str]) -> str:
    """The remedy where the turns, or whole records, stand one level down."""
    for key, value in record.items():
        path = f".[{_quoted(key)}]"
        if isinstance(value, dict) and not {"messages", "conversations"}.isdisjoint(value):
            return f"Its turns stand inside `{key}`: jq -c '{path}' FILE > NEW.jsonl"
        if not isinstance(value, list) or not value:
            continue
        if isinstance(value[0], dict) and isinstance(value[0].get("parts"), list):
            return f"If these are Gemini's turns: jq -c '{_gemini(key)}' FILE > NEW.jsonl"
        if isinstance(value[0], dict) and not {"content", "value"}.isdisjoint(value[0]):
            return f"Name the column of the turns: {_column('messages', key)}."
        if isinstance(value[0], dict) and "role" not in value[0] and not texts:
            return f"If its records are the elements of `{key}`: jq -c '{path}[]' FILE > NEW.jsonl"
        if len(value) > 1 and all(isinstance(item, str) and not item.isidentifier() for item in value):
            return alternating(key)
    return ""


def alternating(column: str) -> str:
    """The remedy for turns that are texts alone, where user and assistant take turns."""
    role = 'if .key % 2 == 0 then "user" else "assistant" end'
    turns = f".[{_quoted(column)}] | to_entries[] | {{role: ({role}), content: .value}}"
    return f"If the user begins and the assistant answers: jq -c '{{messages: [{turns}]}}' FILE > NEW.jsonl"


def _gemini(column: str) -> str:
    """A jq program for records as the Gemini API has them: `contents`, and the system prompt beside it."""
    system = '.systemInstruction // .system_instruction // empty | {role: "system", content: [.parts[] | {text}]}'
    role = 'if .role == "model" then "assistant" else .role end'
    return f"{{messages: [({system}), (.[{_quoted(column)}][] | {{role: ({role}), content: [.parts[] | {{text}}]}})]}}"


def chosen_alone(record: dict[str, Any]) -> str:
    """How to train the chosen answers of preference data by themselves, or "" where no option does it.

    >>> chosen_alone({"prompt": "Q", "chosen": "A", "rejected": "B"})
    'To train the chosen answers alone: --column completion=chosen.'
    """
    chosen = record.get("chosen")
    first = chosen[0] if isinstance(chosen, list) and chosen else None
    if isinstance(first, dict) and first.get("role") in ("user", "system"):
        return f"To train the chosen answers alone: {_column('messages', 'chosen')}."
    if "prompt" in record and isinstance(record.get("chosen_response"), str):
        named = f"{_column('completion', 'chosen_response')} --input-format prompt-completion"
        return f"To train the chosen answers alone: {named}."
    if "prompt" in record and (isinstance(chosen, str) or isinstance(first, dict)):
        return f"To train the chosen answers alone: {_column('completion', 'chosen')}."
    if "chosen_messages" in record:
        named = f"{_column('messages', 'chosen_messages')} --input-format messages"
        return f"To train the chosen answers alone: {named}."
    if "messages" in record and "chosen" not in record:
        return "To train `messages` as they stand: --input-format messages."
    return ""


def _aside(key: str) -> bool:
    return key in _ASIDE or key.endswith(("_id", "_state"))


def _column(field: str, name: str) -> str:
    return f"--column {field}={shlex.quote(name)}"


def _quoted(key: str) -> str:
    """A key as it may stand in a jq program within single quotes."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"').replace("'", "\\u0027") + '"'
