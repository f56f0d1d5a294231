"""`alpaca`: one instruction with its input, and the answer.

What lives here: how the format is recognised and read. Instruction and input are joined by an empty line; a blank
input, or one that only says there is none, is left out. What must not: other formats.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any

from sftdata.formats.conversation import CHAT_COLUMNS, conclude
from sftdata.formats.faults import Faults, shown
from sftdata.formats.tools import read_tools
from sftdata.formats.turns import reasoning_beside, reply
from sftdata.formats.validation import schema
from sftdata.records import Conversation, Message, Rejection

__all__ = ["INPUT_KEYS", "OUTPUT_KEYS", "PROMPT_KEYS", "claims", "read"]

PROMPT_KEYS = ("instruction", "prompt", "question", "query", "problem")
"""Only `instruction` makes a record look like Alpaca; the others are read where the user names the format."""
INPUT_KEYS = ("input", "context")
OUTPUT_KEYS = ("output", "response", "answer", "completion", "solution", "target")
_PLACEHOLDERS = frozenset(
    {
        *("noinput", "no input", "noinput given", "no input given", "no input required", "no input needed"),
        *("n/a", "not applicable"),
    }
)
_LONGEST_PLACEHOLDER = 24


def claims(keys: AbstractSet[str]) -> bool:
    """Whether a record with these keys looks like this format, if perhaps without its answer."""
    return "instruction" in keys and not ("text" in keys and keys.isdisjoint(OUTPUT_KEYS))


@lru_cache(maxsize=1024)
def _plan(keys: tuple[str, ...]) -> tuple[str | None, str | None, str, frozenset[str]]:
    """The columns read as instruction, input and output (None where there is none), and the unread ones."""
    instruction, given = (next((key for key in names if key in keys), None) for names in (PROMPT_KEYS, INPUT_KEYS))
    output = next(key for key in OUTPUT_KEYS if key in keys)
    return instruction, given, output, frozenset(keys) - CHAT_COLUMNS - {instruction, given, output, "history"}


def read(record: dict[str, Any]) -> Conversation | Rejection:
    """History, prompt and answer as a conversation, or everything that is wrong with the record."""
    faults = Faults()
    rules = schema("alpaca")
    if not rules.accepts(record):
        return rules.reject(record, faults)
    tools = read_tools(record, faults)
    instruction_key, input_key, output_key, unread = _plan(tuple(record))
    thought = reasoning_beside(record) if unread else None
    if unread:
        faults.ignore(unread - {thought})
    instruction: str = record[instruction_key] if instruction_key else ""
    given = _given(record.get(input_key), input_key, faults) if input_key else ""
    if given:
        prompt = f"{instruction}\n\n{given}" if instruction and not instruction.isspace() else given
    else:
        prompt = instruction
    messages = [
        Message("user", prompt),
        reply(record[output_key], f"/{output_key}", faults, record[thought] if thought else None),
    ]
    pointers: tuple[str, ...] = (f"/{instruction_key or input_key}", f"/{output_key}")
    if record.get("history"):
        earlier, places = _history(record["history"], faults)
        messages, pointers = earlier + messages, places + pointers
    return conclude("alpaca", record, messages, pointers, tools, faults)


def _history(pairs: list[list[str]], faults: Faults) -> tuple[list[Message], tuple[str, ...]]:
    """The turns of earlier rounds, and the pointer of each."""
    messages: list[Message] = []
    places: list[str] = []
    for index, (asked, answered) in enumerate(pairs):
        places += [f"/history/{index}/0", f"/history/{index}/1"]
        messages += [Message("user", asked), reply(answered, places[-1], faults)]
    return messages, tuple(places)


def _given(text: str | None, key: str, faults: Faults) -> str:
    """The input, or "" where it is blank or only a placeholder."""
    if not text or text.isspace():
        return ""
    if len(text) <= _LONGEST_PLACEHOLDER and text.strip(" \n\t.<>()[]").lower() in _PLACEHOLDERS:
        faults.add("SFT123", f"{shown(text)} stands for no input", f"/{key}")
        return ""
    return text
