"""Small conversations of every shape that templates treat differently: what `diff`, `golden` and `serve-check` ask.

What lives here: the conversations, as records of the format `messages`. What must not: rendering. Names and words of
a shape never change, as golden files hold them; a new shape is a new entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["SHAPES"]


def _said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def _turns(*texts: str) -> list[dict[str, Any]]:
    """User and assistant by turns."""
    return [_said("assistant" if at % 2 else "user", text) for at, text in enumerate(texts)]


def _tool(name: str, description: str, parameter: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _call(number: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    # nine letters and digits: the one form of an id that all templates accept
    return {"id": f"callabc{number:02d}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(number: int, name: str, content: str) -> dict[str, Any]:
    return _said("tool", content, tool_call_id=f"callabc{number:02d}", name=name)


_WEATHER = _tool("get_weather", "The weather of a city", "city")
_TIME = _tool("get_time", "The hour in a city", "city")
_ONE = _call(1, "get_weather", {"city": "Paris"})
_TWO = _call(2, "get_time", {"city": "Tokyo"})
_ASKED = _said("user", "How warm is it in Paris, and how late in Tokyo?")
_BOTH = (
    _ASKED,
    {"role": "assistant", "tool_calls": [_ONE, _TWO]},
    _result(1, "get_weather", '{"celsius": 20}'),
    _result(2, "get_time", '{"hour": "noon"}'),
)
_WARM = _said("user", "How warm is it in Paris?")
_DEGREES = (_result(1, "get_weather", '{"celsius": 20}'), _said("assistant", "Twenty degrees."))
_THINKING = (
    _said("user", "Is 7 prime?"),
    _said("assistant", "Yes.", reasoning_content="Neither 2 nor 3 divides 7."),
    _said("user", "Is 9?"),
    _said("assistant", "No.", reasoning_content="3 divides 9."),
)


def _record(*messages: dict[str, Any], tools: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"messages": list(messages), **({"tools": list(tools)} if tools else {})}


SHAPES: dict[str, dict[str, Any]] = {
    "single turn": _record(*_turns("What is the capital of France?", "Paris.")),
    "two turns": _record(*_turns("Name a prime.", "Seven.", "And another?", "Eleven.")),
    "five turns": _record(*_turns(*(text for n in range(1, 6) for text in (f"Question {n}?", f"Answer {n}.")))),
    "system": _record(_said("system", "You answer in one word."), *_turns("Which way is up?", "North.")),
    "ends on a question": _record(*_turns("Name a prime.", "Seven.", "And another?")),
    "tool call": _record(_WARM, {"role": "assistant", "tool_calls": [_ONE]}, *_DEGREES, tools=[_WEATHER]),
    "parallel tool calls": _record(*_BOTH, _said("assistant", "Twenty degrees, and noon."), tools=[_WEATHER, _TIME]),
    "ends on tool results": _record(*_BOTH, tools=[_WEATHER, _TIME]),
    "text beside a tool call": _record(
        _WARM, _said("assistant", "Let me look.", tool_calls=[_ONE]), *_DEGREES, tools=[_WEATHER]
    ),
    "tools unused": _record(*_turns("Say hello.", "Hello."), tools=[_WEATHER, _TIME]),
    "reasoning": _record(*_THINKING),
    "edges of content": _record(*_turns("  \n padded question \t", "\n padded answer \n\n", " once more ", " done\n")),
    "unicode": _record(
        *_turns("Zażółć gęślą jaźń 你好 👩‍👩‍👧 e\u0301\u00a0\r\nend", "שלום नमस्ते ﬁ \U0001f1e9\U0001f1ea")
    ),
    "empty content": _record(*_turns("", "An answer to nothing.", "", "Another.")),
}
"""Name: record."""
