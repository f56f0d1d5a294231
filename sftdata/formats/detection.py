"""Which format a record is in, by its own keys and shapes.

What lives here: the decision, precise and per record. Two formats that claim a record, or a column that would
change the meaning of another, make it ambiguous (SFT126): nothing is guessed. What must not: reading a record.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from sftdata.formats import alpaca, messages, pairs, prompt_completion, sharegpt, text
from sftdata.formats.faults import shown
from sftdata.formats.hints import alternating, chosen_alone, how_to_read
from sftdata.formats.roles import ROLES
from sftdata.records import Finding

__all__ = ["detect", "preference"]

_DOCUMENTS = "If so: --input-format {} reads the turns alone. If not, write them into the prompt: none is served."
_JOIN_IT = (
    "Join the turns of each conversation into one record of messages; "
    "--input-format text trains every turn as a text by itself."
)
_PART_OF_IT = "If it is: --input-format alpaca. If not, --input-format prompt-completion leaves it out."
_NAME_IT = "Name the format with --input-format, or map its columns."
_CONTEXT_KEYS = frozenset({"context", "history", "input"})
"""Columns that would belong to a prompt, but in which way only the user knows."""
_ASKING = frozenset({*alpaca.PROMPT_KEYS, *prompt_completion.PROMPT_KEYS})
_ANSWERING = frozenset({*alpaca.OUTPUT_KEYS, *prompt_completion.COMPLETION_KEYS})
_REJECTED = frozenset({"rejected_response", "rejected_messages", "non_preferred_output"})
"""Names of the worse answer that nothing else is called."""
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
    if name == "messages" or name == "sharegpt":
        column = "messages" if name == "messages" else "conversations" if "conversations" in record else "conversation"
        turns = record[column]
        if not isinstance(turns, list) or not turns:
            return name
        if not (isinstance(turns[0], dict) and ("role" in turns[0] or "from" in turns[0])):
            found = _without_roles(column, turns)
            if found is not None:
                return found
        if name == "messages" and _has_sharegpt_turns(turns):
            name = "sharegpt"
        if "documents" in record and _are_documents(record["documents"]):
            what = "`documents` beside the turns: are they in the prompt already?"
            return Finding("SFT126", what, "/documents", _DOCUMENTS.format(name))
        if _ANSWERING.isdisjoint(record):
            return name
        return _answered_beside(record, column, turns[-1]) or name
    if name == "text":
        speaker = record.get("role", record.get("from"))
        if isinstance(speaker, str) and speaker in ROLES:
            return Finding("SFT126", f"`text` beside its speaker, {shown(speaker)}", "/text", _JOIN_IT)
        return name
    if isinstance(name, Finding) and name.code == "SFT125" and record:
        asking, answering = prompt_completion.PROMPT_KEYS, prompt_completion.COMPLETION_KEYS
        return msgspec.structs.replace(name, fix=how_to_read(record, asking, answering))
    return name


def preference(record: dict[str, Any]) -> Finding | None:
    """The finding for data of preference training: two answers to choose from, or a thumb up or down (KTO)."""
    if "chosen" in record and "rejected" in record:
        return Finding("SFT124", "chosen and rejected answers", "/chosen", chosen_alone(record))
    if not _REJECTED.isdisjoint(record):
        for key in sorted(_REJECTED.intersection(record)):
            if record[key]:
                return Finding("SFT124", "a rejected answer beside the one to train", f"/{key}", chosen_alone(record))
    if isinstance(record.get("label"), bool) and not (_TURNS | _ANSWERING).isdisjoint(record):
        return Finding("SFT124", "an answer with a preference label", "/label")
    return None


def _are_documents(value: Any) -> bool:
    """Whether a column holds what transformers' templates take as `documents`: objects, each with a text."""
    return isinstance(value, list) and any(
        isinstance(one, dict) and not {"text", "content", "contents"}.isdisjoint(one) for one in value
    )


def _without_roles(column: str, turns: list[Any]) -> str | Finding | None:
    """What a list of turns is that does not begin with a role; None where its format shall say."""
    if pairs.is_round(turns[0]):
        return "pairs"
    if all(isinstance(turn, str) for turn in turns):
        what = "turns that are texts alone: who speaks is not said"
        return Finding("SFT102", what, f"/{column}", alternating(column))
    return None


def _answered_beside(record: dict[str, Any], column: str, last: Any) -> Finding | None:
    """The finding for turns that end with the user, and a text beside them that looks like the answer."""
    if not isinstance(last, dict) or ROLES.get(str(last.get("role", last.get("from")))) != "user":
        return None
    found = sorted(_ANSWERING.intersection(record))
    key = next((key for key in found if isinstance(record[key], str) and record[key].strip()), "")
    if not key:
        return None
    what = f"`{key}` beside turns that end with the user: is it the reply?"
    fix = f"If it is: --column prompt={column} --column completion={key}. If not, name the format with --input-format."
    return Finding("SFT126", what, f"/{key}", fix)


def _has_sharegpt_turns(turns: list[Any]) -> bool:
    """Whether turns under `messages` are in ShareGPT's words: `from`, or a role of its own among the first two."""
    for turn in turns[:2]:
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
    return Finding("SFT125", _unknown(present))


def _unless_ambiguous(name: str, keys: frozenset[str]) -> str | Finding:
    """`name`, or the finding that a second column competes with, or belongs to, one that would be read."""
    if name == "alpaca":
        rivals = keys & (_ASKING | _ANSWERING) - {"instruction", "input"}
        if "output" not in keys and len(rivals) > 1:
            return _competing(rivals, "output")
    if name == "prompt-completion" and not {"prompt", "completion"} <= keys:
        for side in (prompt_completion.PROMPT_KEYS, prompt_completion.COMPLETION_KEYS):
            if len(keys.intersection(side)) > 1:
                field = "prompt" if side is prompt_completion.PROMPT_KEYS else "completion"
                return _competing(keys.intersection(side), field)
    if name == "prompt-completion":
        read = next(key for key in prompt_completion.PROMPT_KEYS if key in keys)
        context = sorted(keys & _CONTEXT_KEYS - {read})
        if context == ["history"] and "inputs" not in keys and not keys.isdisjoint(alpaca.OUTPUT_KEYS):
            return "alpaca"  # earlier rounds can be nothing else
        if context:
            what = f"`{context[0]}` beside `{read}`: is it part of the prompt?"
            return Finding("SFT126", what, fix=_PART_OF_IT)
    return name


def _competing(keys: frozenset[str], field: str) -> Finding:
    names = sorted(keys)
    listed = ", ".join(f"`{key}`" for key in names)
    fix = f"Say which one is meant, such as --column {field}={names[0]}, or name the format with --input-format."
    return Finding("SFT126", f"{listed} compete", fix=fix)


def _unknown(keys: frozenset[str]) -> str:
    names = sorted(keys)[:8]
    return f"no format has the columns {', '.join(names)}" if names else "the record is empty"
