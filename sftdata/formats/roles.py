"""Which role a turn has, under all the names that data gives it.

What lives here: the tables. What must not: which of the names a format accepts (the format's JSON Schema says).
"""

from __future__ import annotations

from collections.abc import Mapping

from sftdata.records import Role

__all__ = ["CALL_ROLES", "ROLES", "ROLE_TARGETS", "SYSTEM_NAMES"]

ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("system", "System", "SYSTEM"), "system"),
    "developer": "developer",
    **dict.fromkeys(("user", "User", "USER", "human", "Human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "Assistant", "ASSISTANT", "gpt", "GPT", "chatgpt"), "assistant"),
    **dict.fromkeys(("bing", "bard", "claude", "bot", "ai"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "tool_response", "tool_result", "ipython"), "tool"),
    **dict.fromkeys(("function_response", "function-response"), "tool"),
}
"""`model` (Gemma's and Gemini's name) is missing on purpose: a template may take it for an unknown role and train
nothing, so it is refused unless the user maps it."""

SYSTEM_NAMES = frozenset(name for name, role in ROLES.items() if role in ("system", "developer"))

CALL_ROLES = frozenset({"function_call", "function-call", "tool_call"})
"""Turns of the assistant whose text is the JSON of a tool call, or of a list of them."""

ROLE_TARGETS = ("system", "developer", "user", "assistant", "tool", "function_call")
"""What a user may map a role of their data to."""
