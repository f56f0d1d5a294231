"""Does a running server give the model the very prompts that were trained? Golden vectors against its tokenizer.

What lives here: asking for every vector, and telling a template that differs from a tokenizer that does. What must
not: requests (`server`), deriving vectors (`golden`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec

from sftdata.pipeline.golden import Golden, GoldenCase, GoldenTurn
from sftdata.pipeline.server import Dialect, RefusedError, Server
from sftdata.report.difference import ids_difference
from sftdata.report.terminal import clean

__all__ = ["Asked", "serve_check"]

Decode = Callable[[Sequence[int]], str]


class Asked(msgspec.Struct, frozen=True):
    """What the server made of one prompt."""

    name: str
    message: int
    """The index of the reply that is asked for."""
    outcome: Literal["same", "differs", "refused", "failed", "skipped"]
    """`refused`: the server will not render what the template renders here. `failed`: it answered with an error of its
    own. `skipped`: it was not asked."""
    ids: int = 0
    """How many there are in the golden prompt."""
    why: str = ""
    lines: tuple[str, ...] = ()
    """The first difference, decoded, in its context."""


def serve_check(server: Server, dialect: Dialect, golden: Golden, decode: Decode) -> Iterator[Asked]:
    """Ask for every prompt; at most two requests each, one after another.

    Raises ServerError as soon as the server cannot be asked at all.
    """
    for case in golden.conversations:
        if not case.turns:
            yield Asked(case.name, 0, "skipped", why=f"no prompt to compare: {case.refused or 'no reply is asked for'}")
        for turn in case.turns:
            if turn.protected:
                why = "content spells a control token, which a server may or may not encode as text"
                yield Asked(case.name, turn.message, "skipped", len(turn.prompt_ids), why)
            else:
                yield _asked(server, dialect, golden, case, turn, decode)


def _asked(
    server: Server, dialect: Dialect, golden: Golden, case: GoldenCase, turn: GoldenTurn, decode: Decode
) -> Asked:
    expected = turn.prompt_ids
    try:
        served = dialect.chat(server, case.record, turn.message, golden.template.kwargs)
    except RefusedError as refusal:
        outcome: Literal["refused", "failed"] = "failed" if refusal.status == 500 else "refused"
        why = f"status {refusal.status}: {clean(str(refusal))}"
        return Asked(case.name, turn.message, outcome, len(expected), why)
    if served == expected:
        return Asked(case.name, turn.message, "same", len(expected))
    lines = ids_difference(expected, served, decode, ("golden", "server"))
    why = _cause(server, dialect, turn, served)
    return Asked(case.name, turn.message, "differs", len(expected), why, tuple(lines))


def _cause(server: Server, dialect: Dialect, turn: GoldenTurn, served: Sequence[int]) -> str:
    """Which of the two differs: the server is asked for the ids of the golden text itself."""
    expected = turn.prompt_ids
    if list(served[1:]) == expected:
        return "the server puts one more token in front, such as a second BOS"
    if expected[1:] == list(served):
        return "the server leaves out the first token, such as the BOS"
    try:
        text = dialect.text(server, turn.prompt)
    except RefusedError as refusal:
        return f"the server will not tokenize the golden text (status {refusal.status})"
    if text == expected:
        return "the same tokenizer, another text: its template, arguments or date"
    return "another tokenizer: it gives the golden text other ids"
