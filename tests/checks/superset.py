"""What other tools check before training, and the rule here that finds the same; an example of each.

`python tests/checks/superset.py` prints the table that `docs/rules-of-others.md` holds.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
COOKBOOK = "OpenAI cookbook, data preparation"
TOGETHER = "together files check"
MISTRAL = "mistral-finetune validate_data"
UNSLOTH = "unsloth"
SOUP = "Soup data doctor, lint"


class Check(msgspec.Struct, frozen=True):
    """One check of another tool."""

    tool: str
    what: str
    rule: str
    """The code that answers it; `stats` and `report` for numbers that are no fault."""
    example: bytes = b""
    options: dict[str, Any] = {}


def talk(*turns: Any, **more: Any) -> bytes:
    """One record as a line."""
    return json.dumps({"messages": list(turns), **more}).encode() + b"\n"


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
LONG = {"role": "assistant", "content": "and on it goes " * 100}

CHECKS = (
    Check(COOKBOOK, "data type: an example that is no object", "SFT016", b'"text"\n'),
    Check(COOKBOOK, "missing messages list", "SFT125", b'{"prompts": []}\n'),
    Check(COOKBOOK, "message missing key (role, content)", "SFT103", talk({"content": "Hi"}, ANSWER)),
    Check(COOKBOOK, "message with an unrecognised key", "SFT116", talk({**USER, "colour": "red"}, ANSWER)),
    Check(COOKBOOK, "unrecognised role", "SFT104", talk({"role": "narrator", "content": "x"}, USER, ANSWER)),
    Check(COOKBOOK, "missing content", "SFT103", talk(USER, {"role": "assistant"})),
    Check(COOKBOOK, "example without an assistant message", "SFT106", talk(USER)),
    Check(COOKBOOK, "examples without a system or user message", "stats"),
    Check(COOKBOOK, "messages and tokens an example, tokens a reply", "stats"),
    Check(COOKBOOK, "examples over the token limit", "SFT601", talk(USER, LONG), {"max_length": 64}),
    Check(TOGETHER, "the file is there and holds rows", "SFT011"),
    Check(TOGETHER, "not UTF-8", "SFT002", talk(USER, ANSWER).replace(b"Hello", b"\xff\xfe")),
    Check(TOGETHER, "a line that is not JSON", "SFT001", b"{broken\n" + talk(USER, ANSWER)),
    Check(TOGETHER, "one format a file", "SFT012", talk(USER, ANSWER) + b'{"prompt": "a", "completion": "b"}\n'),
    Check(TOGETHER, "extra columns", "SFT116", talk(USER, ANSWER, colour="red")),
    Check(TOGETHER, "required columns", "SFT125", b'{"frage": "a", "antwort": "b"}\n'),
    Check(TOGETHER, "messages is a list with turns", "SFT101", talk()),
    Check(TOGETHER, "a turn is an object", "SFT102", talk("Hi", "Hello")),
    Check(TOGETHER, "roles of the known set", "SFT104", talk({"role": "bot9", "content": "x"}, ANSWER)),
    Check(TOGETHER, "turns alternate", "SFT112", talk(USER, USER, ANSWER)),
    Check(TOGETHER, "at least one assistant turn", "SFT106", talk(USER)),
    Check(TOGETHER, "weight is 0 or 1", "SFT115", talk(USER, {**ANSWER, "weight": 3})),
    Check(TOGETHER, "content is text or parts", "SFT110", talk(USER, {"role": "assistant", "content": 5})),
    Check(TOGETHER, "text that is not a text", "SFT128", b'{"text": 5}\n'),
    Check(MISTRAL, "a line that is not JSON", "SFT001", b"{broken\n" + talk(USER, ANSWER)),
    Check(MISTRAL, "role known", "SFT104", talk({"role": "boss", "content": "x"}, ANSWER)),
    Check(
        MISTRAL, "text or a call: an answer with neither", "SFT108", talk(USER, {"role": "assistant", "content": ""})
    ),
    Check(
        MISTRAL, "one system prompt, at the beginning", "SFT114", talk(USER, {"role": "system", "content": "x"}, ANSWER)
    ),
    Check(
        MISTRAL, "calls have a function with a name", "SFT117", talk(USER, {"role": "assistant", "tool_calls": [{}]})
    ),
    Check(
        MISTRAL,
        "results name their call",
        "SFT119",
        talk(
            USER,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": "1", "tool_call_id": "c9"},
            ANSWER,
        ),
    ),
    Check(
        MISTRAL,
        "order of turns: a result after the user",
        "SFT111",
        talk(USER, {"role": "tool", "content": "1"}, ANSWER),
    ),
    Check(
        MISTRAL,
        "called functions are declared",
        "SFT120",
        talk(
            USER,
            {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "g", "arguments": "{}"}}]},
            tools=TOOLS,
        ),
    ),
    Check(
        MISTRAL,
        "arguments are JSON",
        "SFT118",
        talk(USER, {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}]}),
    ),
    Check(MISTRAL, "tokens, epochs", "stats"),
    Check(UNSLOTH, "share of supervised tokens; rows with none", "SFT107", talk(USER, {**ANSWER, "weight": 0})),
    Check(
        UNSLOTH,
        "rows cut in the middle of an answer",
        "SFT610",
        talk(USER, LONG),
        {"max_length": 64, "overlong": "truncate"},
    ),
    Check(UNSLOTH, "end of sequence present and supervised", "SFT403"),
    Check(UNSLOTH, "examples with the trained text marked", "report"),
    Check(SOUP, "template present", "SFT301"),
    Check(SOUP, "double BOS", "SFT401"),
    Check(SOUP, "unknown roles", "SFT104", talk({"role": "boss", "content": "x"}, ANSWER)),
    Check(SOUP, "risk of truncation", "SFT601", talk(USER, LONG), {"max_length": 64}),
    Check(SOUP, "near-duplicates", "SFT702"),
    Check(SOUP, "duplicates", "SFT701", talk(USER, ANSWER) * 2),
    Check(SOUP, "control characters", "SFT005", talk(USER, {"role": "assistant", "content": "a\x00b"})),
)


def table() -> str:
    """All of it as Markdown."""
    rows = "\n".join(f"| {one.tool} | {one.what} | {one.rule} |" for one in CHECKS)
    return f"{_HEAD}{rows}\n"


_HEAD = """# What other tools check

Written by `python tests/checks/superset.py`. A test runs an example of every row that is about data; `stats` and
`report` are numbers and views, not faults. Rules that cannot be tried with a record (no file, no template, what
cannot happen in what sftdata writes) have tests of their own: see [the rules](rules.md).

| tool | checks | here |
|---|---|---|
"""

if __name__ == "__main__":
    sys.stdout.write(table())
