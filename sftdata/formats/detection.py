"""Which format a record is in, by its own keys and shapes.

What lives here: the decision, precise and per record. Two formats that claim a record, or a column that would
change the meaning of another, make it ambiguous (SFT126): nothing is guessed. What must not: reading a record.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sftdata.formats import alpaca, messages, prompt_completion, sharegpt, text
from sftdata.records import Finding

__all__ = ["detect", "preference"]

_NAME_IT = "Name the format with --input-format, or map its columns."
_MAP_IT = "Map its columns, such as --column prompt=ASKED --column completion=ANSWERED."
_CONTEXT_KEYS = frozenset({"context", "history", "input"})
"""Columns that would belong to a prompt, but in which way only the user knows."""
_ASKING = frozenset({*alpaca.PROMPT_KEYS, *prompt_completion.PROMPT_KEYS})
_ANSWERING = frozenset({*alpaca.OUTPUT_KEYS, *prompt_completion.COMPLETION_KEYS})
_FEW = 64
"""Records of up to so many columns are looked up by their columns."""
_SHAREGPT_ROLES = frozenset({"human", "gpt", "prompter", "chatgpt", "bing", "bard"})
_TURNS = frozenset({"messages", *sharegpt.KEYS})


def detect(record: dict[str, Any]) -> str | Finding:
    """The name of the record's format, or the finding that says why there is none.

    >>> detect({"question": "1 + 1?", "answer": "2"})
    'prompt-completion'
    """
    name = (_by_keys if len(record) <= _FEW else _by_keys.__wrapped__)(tuple(record))
    if name == "messages" and _has_sharegpt_turns(record["messages"]):
        return "sharegpt"
    return name


def preference(record: dict[str, Any]) -> Finding | None:
    """The finding for data of preference training: two answers to choose from, or a thumb up or down (KTO)."""
    if "chosen" in record and "rejected" in record:
        return Finding("SFT124", "chosen and rejected answers", "/chosen")
    if isinstance(record.get("label"), bool) and not (_TURNS | _ANSWERING).isdisjoint(record):
        return Finding("SFT124", "an answer with a preference label", "/label")
    return None


def _has_sharegpt_turns(turns: Any) -> bool:
    """Whether turns under `messages` are in ShareGPT's words: `from`, or a role of its own among the first two."""
    for turn in turns[:2] if isinstance(turns, list) else ():
        if isinstance(turn, dict):
            role = turn.get("role")
            if (role is None and "from" in turn) or (type(role) is str and role in _SHAREGPT_ROLES):
                return True
    return False


@lru_cache(maxsize=4096)
def _by_keys(keys: tuple[str, ...]) -> str | Finding:
    present = frozenset(keys)
    claimed = [
        name
        for name, claims in (
            ("messages", messages.claims),
            ("sharegpt", sharegpt.claims),
            ("alpaca", alpaca.claims),
            ("prompt-completion", prompt_completion.claims),
        )
        if claims(present)
    ]
    if len(claimed) > 1:
        fix = f"Say which it is: {' or '.join(f'--input-format {name}' for name in claimed)}."
        return Finding("SFT126", f"{' and '.join(claimed)} both fit", fix=fix)
    if claimed:
        return _unless_ambiguous(claimed[0], present)
    if text.claims(present):
        others = sorted(present & (_ASKING | _ANSWERING))
        if not others:
            return "text"
        return Finding("SFT126", f"`text` beside `{others[0]}`", "/text", _NAME_IT)
    return Finding("SFT125", _unknown(present), fix=_MAP_IT)


def _unless_ambiguous(name: str, keys: frozenset[str]) -> str | Finding:
    """`name`, or the finding that a second column competes with, or belongs to, one that would be read."""
    if name == "alpaca":
        rivals = keys & (_ASKING | _ANSWERING) - {"instruction", "input"}
        if "output" not in keys and len(rivals) > 1:
            return _competing(rivals)
    if name == "prompt-completion" and not {"prompt", "completion"} <= keys:
        for side in (prompt_completion.PROMPT_KEYS, prompt_completion.COMPLETION_KEYS):
            if len(keys.intersection(side)) > 1:
                return _competing(keys.intersection(side))
    if name == "prompt-completion":
        read = next(key for key in prompt_completion.PROMPT_KEYS if key in keys)
        context = sorted(keys & _CONTEXT_KEYS - {read})
        if context:
            return Finding("SFT126", f"`{context[0]}` beside `{read}`: is it part of the prompt?", fix=_NAME_IT)
    return name


def _competing(keys: frozenset[str]) -> Finding:
    listed = ", ".join(f"`{key}`" for key in sorted(keys))
    return Finding("SFT126", f"{listed} compete", fix=_NAME_IT)


def _unknown(keys: frozenset[str]) -> str:
    names = sorted(keys)[:8]
    return f"no format has the columns {', '.join(names)}" if names else "the record is empty"
