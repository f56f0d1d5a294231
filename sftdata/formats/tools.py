"""Tool definitions and tool calls in one normal form.

Definitions become a tuple of JSON objects, bare function schemas wrapped as `{"type": "function", "function": …}`;
calls become `ToolCall` with their arguments as an object, decoded once where the data held JSON text. What lives
here: that reading. What must not: which turn a call stands in.

Arguments that are text but no JSON object are refused (SFT118), with one exception that real data needs: a call to
a tool which is not declared as a function (a code interpreter, a custom tool) may carry free text, as long as the
text does not set out to be JSON.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from sftdata.formats.faults import Faults, shown
from sftdata.formats.roles import SYSTEM_NAMES
from sftdata.records import ToolCall

__all__ = ["Tools", "read_calls", "read_tools"]

_KEEPS_NULL = frozenset({"default", "const", "enum", "examples", "example"})
"""Where null is a value of JSON Schema and not the padding of a table."""

_ARGUMENT_KEYS = ("arguments", "parameters")
"""`parameters` is what models of the Llama 3 and InternLM families write."""
_CALL_KEYS = frozenset({"name", "arguments", "id", "type", "index", "function", "custom"})


class Tools(msgspec.Struct, frozen=True):
    """The tools of a record."""

    definitions: tuple[dict[str, Any], ...] = ()
    parameters: Mapping[str, Collection[str] | None] = {}
    """Declared functions by name, with the names of their parameters (None where they are open)."""
    builtin: bool = False
    """Whether something other than functions is declared, such as a code interpreter."""


NO_TOOLS = Tools()
NO_TURN: Mapping[str, Any] = {}


def read_tools(record: Mapping[str, Any], faults: Faults, turns: str = "") -> Tools:
    """The definitions under `tools` and `functions`, each a list or its JSON text; empty ones count as absent.

    `turns` names the column of turns, the first of which may be a system message that brings the tools (GLM-4's
    form). What is said twice counts once.
    """
    first = record[turns][0] if turns else NO_TURN
    if "tools" not in first and "tools" not in record and "functions" not in record:
        return NO_TOOLS
    in_turn = "tools" in first and first.get("role", first.get("from")) in SYSTEM_NAMES
    found = [(record.get(key), f"/{key}") for key in ("tools", "functions")]
    if in_turn:
        found.append((first["tools"], f"/{turns}/0/tools"))
    definitions: list[dict[str, Any]] = []
    for value, place in found:
        if value:
            listed = _listed(value, place, faults)
            definitions += [tool for tool in listed if tool not in definitions] if definitions else listed
    if not definitions:
        return NO_TOOLS
    functions = [tool["function"] for tool in definitions if isinstance(tool.get("function"), dict)]
    parameters = {
        function["name"]: _parameter_names(function) for function in functions if isinstance(function.get("name"), str)
    }
    return Tools(tuple(definitions), parameters, len(functions) < len(definitions))


def _listed(value: Any, base: str, faults: Faults) -> list[dict[str, Any]]:
    tools = _decoded(value) if isinstance(value, str) else value
    if isinstance(value, str) and not value.strip():
        return []
    if isinstance(tools, dict):
        tools = [tools]
    if not isinstance(tools, list):
        name = base.rpartition("/")[2]
        faults.add("SFT129", f"`{name}` is neither a list of tools nor the JSON text of one", base)
        return []
    read = []
    padded = _holds_null(tools)
    for index, tool in enumerate(tools):
        tool = _decoded(tool) if isinstance(tool, str) else tool
        place = f"{base}/{index}" if isinstance(value, list) else base
        if isinstance(tool, dict) and isinstance(tool.get("function"), (dict, type(None))):
            if not isinstance((tool.get("function") or tool).get("name"), (str, type(None))):
                faults.add("SFT129", "a tool's name is not text", place)
            read.append(_wrapped(_without_nulls(tool) if padded else tool))
        elif isinstance(tool, dict):
            faults.add("SFT129", "a tool's `function` is not a JSON object", f"{place}/function")
        elif tool is not None:
            faults.add("SFT129", "a tool is not a JSON object", place)
    return read


def _wrapped(tool: dict[str, Any]) -> dict[str, Any]:
    """A bare function schema in OpenAI's envelope; anything else as it is."""
    if "function" in tool or "name" not in tool or tool.get("type", "function") != "function":
        return tool
    return {"type": "function", "function": {key: tool[key] for key in tool if key != "type"}}


def _holds_null(value: Any) -> bool:
    """Whether a null may stand somewhere inside; a cheap look before a costly walk."""
    try:
        return b"null" in msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        return False


def _without_nulls(value: Any) -> Any:
    """Without the null keys that a table's common schema adds; `"default": null` and its like stay."""
    if isinstance(value, dict):
        return {
            key: item if key in _KEEPS_NULL else _without_nulls(item)
            for key, item in value.items()
            if item is not None or key in _KEEPS_NULL
        }
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _parameter_names(function: Mapping[str, Any]) -> Collection[str] | None:
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return properties if isinstance(properties, dict) else None


def read_calls(raw: Any, where: str, tools: Tools, faults: Faults) -> tuple[ToolCall, ...]:
    """The calls at `where`: one call or a list of them, as objects or as JSON text.

    A call is OpenAI's object (`function`, `id`), its `custom` variant, or a bare `{name, arguments}`.
    """
    calls = _decoded(raw) if isinstance(raw, str) else raw
    if isinstance(calls, dict):
        places, calls = [where], [calls]
    elif isinstance(calls, list):
        places = [where if isinstance(raw, str) else f"{where}/{index}" for index in range(len(calls))]
    else:
        faults.add("SFT117", "the text is not the JSON of a tool call", where)
        return ()
    read = [_call(call, place, tools, faults) for call, place in zip(calls, places, strict=True)]
    return tuple(call for call in read if call is not None)


def _call(raw: Any, where: str, tools: Tools, faults: Faults) -> ToolCall | None:
    body = raw
    if isinstance(raw, dict):
        body = next((raw[key] for key in ("function", "custom") if isinstance(raw.get(key), dict)), raw)
    name = body.get("name") if isinstance(body, dict) else None
    if not isinstance(name, str) or not name:
        faults.add("SFT117", "a tool call has no name", where)
        return None
    call_id = raw.get("id") if isinstance(raw.get("id"), str) else None
    if isinstance(body.get("input"), str) and "arguments" not in body:
        return ToolCall(name, body["input"], call_id)
    key = "arguments" if body.keys() <= _CALL_KEYS else _arguments_key(body, name, where, faults)
    return ToolCall(name, _arguments(body.get(key), name, where, tools, faults), call_id)


def _arguments_key(body: dict[str, Any], name: str, where: str, faults: Faults) -> str:
    """The key of the arguments of a call that has more than the usual ones; what it says elsewhere is named."""
    key = next((key for key in _ARGUMENT_KEYS if body.get(key) is not None), "arguments")
    unread = [other for other in body if other not in _CALL_KEYS and other != key and body[other] is not None]
    if unread and body.get(key) is not None:
        faults.ignore(unread)
    elif unread:
        what = f"the call to {shown(name)} has no arguments, but {shown(unread[0])}"
        faults.add("SFT118", what, where, "Put the arguments under `arguments`.")
    return key


def _arguments(value: Any, name: str, where: str, tools: Tools, faults: Faults) -> dict[str, Any] | str:
    if isinstance(value, dict):
        return _only_declared(value, tools.parameters.get(name))
    if value is None or (isinstance(value, str) and value.strip() in ("", "null")):
        return {}
    decoded = _decoded(value) if isinstance(value, str) else value
    if isinstance(decoded, dict):
        return decoded
    free_text = isinstance(value, str) and name not in tools.parameters and decoded is None
    if free_text and value.lstrip()[0] not in '{["':
        return str(value)
    what = "are text, but not a JSON object" if isinstance(value, str) else f"are {shown(value)}"
    faults.add("SFT118", f"the arguments of the call to {shown(name)} {what}", where)
    return {}


def _only_declared(arguments: dict[str, Any], declared: Collection[str] | None) -> dict[str, Any]:
    """Without nulls for parameters the tool does not have: those are another tool's columns in a table."""
    if declared is None or None not in arguments.values():
        return arguments
    return {key: value for key, value in arguments.items() if value is not None or key in declared}


def _decoded(text: str) -> Any:
    """The value of a JSON text, or None where it is none (or is `null`)."""
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return None
