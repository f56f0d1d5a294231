"""JSON Schema violations as findings: one gate that says yes fast, one slow path that names every fault.

What lives here: running the schemas of `sftdata_schemas` and wording their violations. What must not: rules of its
own; which rule a violation falls under is written in the schema, as `x-rule` (a code for the whole subschema, or a
code for each keyword).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import sftdata_schemas
from sftdata.formats.faults import MAX_FINDINGS, Faults, pointer, shown
from sftdata.formats.roles import ROLE_TARGETS, ROLES
from sftdata.records import Rejection

if TYPE_CHECKING:
    import jsonschema_rs

__all__ = ["Schema", "schema"]

_DEFAULT_RULE = "SFT129"
_PREFIX = "sftdata://schemas/"
_REFUSED = {
    "SFT104": "unknown role {}",
    "SFT105": "{} is a role of ShareGPT, in a record of messages",
    "SFT115": "{} is not a training flag (0, 1, true or false)",
    "SFT122": "it holds images, audio or video",
}
"""How a value is refused that is not among those allowed."""
_MODEL_NAMES = frozenset({"model", "chatbot", "agent", "llm"})
_TURN_WORDS = frozenset({"role", "from", "content", "value", "name", "tool_call_id", "id"})
_TYPE_NAMES = {dict: "object", list: "array", str: "text", bool: "boolean", int: "number", float: "number"}


class Schema:
    """One record format's schema, compiled."""

    def __init__(self, name: str) -> None:
        import jsonschema_rs  # 50 ms that a command which reads no record need not pay

        self._validator = jsonschema_rs.Draft202012Validator(sftdata_schemas.load(name), retriever=_document)
        self.accepts = self._validator.is_valid

    def explain(self, value: Any, faults: Faults) -> list[list[str | int]]:
        """Add a finding for every violation in a refused `value`; returns the path of each, keys and indices."""
        paths = []
        try:
            for error in islice(self._validator.iter_errors(value), MAX_FINDINGS):
                code, what, where = _described(error)
                faults.add(code, what, where, _remedy(code, error))
                paths.append(list(error.instance_path))
        except (ValueError, RecursionError):
            faults.add(_DEFAULT_RULE, "the record cannot be held against its schema")
        return paths

    def reject(self, value: Any, faults: Faults) -> Rejection:
        """The rejection of a refused `value` with all its violations."""
        self.explain(value, faults)
        return Rejection(faults.all())


def _described(error: jsonschema_rs.ValidationError) -> tuple[str, str, str]:
    """(code, message, pointer) of one violation."""
    location = error.absolute_keyword_location or ""
    code = _rule(location)
    what = _wording(code, error.kind.name, error.kind.as_dict(), error.instance, location)
    return code, what, pointer(*error.instance_path)


def _remedy(code: str, error: jsonschema_rs.ValidationError) -> str:
    """How to fix it where the record's own words tell; "" leaves it to the rule's general remedy."""
    value = error.instance
    if code == "SFT104" and isinstance(value, str):
        role = "assistant" if value.lower() in _MODEL_NAMES else "ROLE"
        return f"Say what it stands for: --role {shlex.quote(f'{value}={role}')} ({', '.join(ROLE_TARGETS)})."
    if code == "SFT101" and isinstance(value, str) and value.lstrip().startswith("["):
        return "The text is not JSON: write the column with json.dumps, not as Python prints it."
    if code == "SFT110" and value in ("tool_use", "tool_result"):
        return (
            "Write tool_use as tool_calls, and tool_result as a message of role tool (Anthropic's blocks are not read)."
        )
    if code != "SFT103" or error.kind.name != "required" or not isinstance(value, dict):
        return ""
    if "observation" in value and "parameters" in value:
        return "Write the call as tool_calls of an assistant's turn, and the observation as the content of the tool's."
    field = error.kind.as_dict()["property"]
    texts = [key for key, text in value.items() if isinstance(text, str) and key not in _TURN_WORDS]
    roles = [key for key in texts if value[key] in ROLES]
    if not roles and not {"role", "from"} & value.keys():
        return ""
    names = roles if field in ("role", "from") else [key for key in texts if key not in roles]
    return f"If `{names[0]}` holds it: --column {shlex.quote(f'{field}={names[0]}')}." if names else ""


@cache
def schema(name: str) -> Schema:
    """The compiled schema of this name, as `sftdata_schemas` calls it."""
    return Schema(name)


@cache
def _document(uri: str) -> dict[str, Any]:
    document: dict[str, Any] = sftdata_schemas.load(uri.removeprefix(_PREFIX).removesuffix(".schema.json"))
    return document


@cache
def _rule(location: str) -> str:
    """The code of the innermost `x-rule` around the keyword at this absolute location."""
    uri, _, fragment = location.partition("#")
    if not uri.startswith(_PREFIX):
        return _DEFAULT_RULE
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in fragment.split("/")[1:]]
    keyword = tokens[-1] if tokens else ""
    node: Any = _document(uri)
    code = _DEFAULT_RULE
    for token in ["", *tokens]:
        if token != "":
            node = node[int(token)] if isinstance(node, list) else node[token]
        named = node.get("x-rule") if isinstance(node, dict) else None
        if isinstance(named, Mapping):
            code = named.get(keyword, code)
        elif isinstance(named, str):
            code = named
    return code


def _wording(code: str, keyword: str, details: Mapping[str, Any], value: Any, location: str) -> str:
    got = _TYPE_NAMES.get(type(value), "null")
    if keyword == "required":
        return f"`{details['property']}` is missing"
    if keyword == "type":
        wanted = " or ".join("text" if name == "string" else name for name in details["types"])
        return f"expected {wanted}, got {got}"
    if keyword == "anyOf":
        names = [option[0].kind.as_dict().get("property", "?") for option in details["context"] if option]
        return f"none of {', '.join(f'`{name}`' for name in names)} is there"
    if keyword in ("enum", "const"):
        return _REFUSED.get(code, "{} is not allowed here").format(shown(value))
    if keyword in ("minItems", "minLength", "pattern"):
        return "it is empty"
    if keyword == "not":
        return f"it is {got}"
    return f"{shown(value)} breaks `{location.rpartition('#')[2]}`"
