"""The conversations that templates, tokenizers and servers are compared on: built-in shapes, or records of the user's.

What lives here: naming and normalising them. What must not: rendering.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sftdata import formats
from sftdata.formats import FormatOptions
from sftdata.pipeline.plan import read_extent, read_inputs
from sftdata.records import Conversation, Finding, Rejection
from sftdata.rules import RULES
from sftdata.templates.shapes import SHAPES

__all__ = ["Case", "case_of", "cases"]


class Case(msgspec.Struct, frozen=True):
    """One conversation to compare on."""

    name: str
    """The shape's, or `chats.jsonl:12`."""
    conversation: Conversation | None
    problem: str = ""
    """Why there is no conversation: the first finding of severity error."""


def cases(records: Sequence[str] = (), options: FormatOptions | None = None) -> Iterator[Case]:
    """The built-in shapes, or every record of the inputs `records`.

    Raises InputError where an input cannot be read.
    """
    if not records:
        yield from (case_of(name, record) for name, record in SHAPES.items())
        return
    with tempfile.TemporaryDirectory(prefix="sftdata-") as spool:
        inputs, units = read_inputs(records, Path(spool))
        for extent in (extent for unit in units for extent in unit.extents):
            for raw in (raw for block in read_extent(inputs, extent, Path(spool)) for raw in block):
                name = f"{inputs[extent.input].name}:{raw.line}"
                problem = _problem(raw.findings)
                yield Case(name, None, problem) if problem else case_of(name, raw.value, options)


def case_of(name: str, record: Any, options: FormatOptions | None = None) -> Case:
    """The case that one raw record is."""
    conversation = formats.normalise(record, options or FormatOptions())
    if isinstance(conversation, Rejection):
        return Case(name, None, _problem(conversation.findings))
    if conversation.text is not None:
        return Case(name, None, "a text without roles is not rendered by a chat template")
    return Case(name, conversation)


def _problem(findings: Sequence[Finding]) -> str:
    errors = (one for one in findings if RULES[one.code].severity == "error")
    found = next(errors, None)
    return "" if found is None else f"{found.code} {found.message}{f' at {found.pointer}' if found.pointer else ''}"
