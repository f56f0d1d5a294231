"""JSON text becomes plain values, or the one finding that says why it does not.

What lives here: parsing, fast for what is sound and exact about what is not (encoding, syntax, numbers JSON has not,
duplicate keys, lone surrogates, depth). What must not: where a text came from.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import orjson

from sftdata.records import Finding
from sftdata.sources.lines import BOM

__all__ = ["MAX_DEPTH", "Parsed", "parse", "parse_all"]

Parsed = tuple[Any, tuple[Finding, ...]]
"""A value and what was found on the way to it; the value is None where a finding is an error."""

MAX_DEPTH = 253
"""Levels of nesting: what orjson writes inside one more list, so that the check costs nothing."""

_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


def parse_all(lines: Sequence[bytes]) -> tuple[list[Any], dict[int, tuple[Finding, ...]]]:
    """Parse many texts: their values, and what was found by index (nothing for almost all of them).

    `parse_all([b'{"a": 1}', b'{"a": NaN}'])` is `([{"a": 1}, None], {1: (Finding("SFT008", ...),)})`.
    """
    try:
        values = list(map(orjson.loads, lines))
        if _sound(b"\n".join(lines), values):
            return values, {}
    except (ValueError, TypeError):  # of loads, and of dumps where something is nested too deeply
        pass
    values = []
    found: dict[int, tuple[Finding, ...]] = {}
    for index, line in enumerate(lines):
        value, findings = parse(line)
        values.append(value)
        if findings:
            found[index] = findings
    return values, found


def _sound(text: bytes, values: Any) -> bool:
    """Whether `values` certainly hold all that `text` says.

    orjson keeps the last of two equal keys and rounds integers beyond 64 bits. A lost key shows in the number of
    quotes: written again, a value has as many as its text, plus one for every quote spelled \\u0022.
    """
    return (
        b"\\u0022" not in text
        and text.count(b'"') == orjson.dumps(values).count(b'"')
        and text.translate(_DIGITS).find(_LONG_NUMBER) < 0
    )


def parse(line: bytes) -> Parsed:
    """Parse one text: its value, or the first thing that is wrong with it.

    A byte order mark before it is taken off with a warning.
    """
    try:
        value = orjson.loads(line)
        if _sound(line, [value]):
            return value, ()
    except (ValueError, TypeError):
        pass
    if line.startswith(BOM):
        value, findings = parse(line[len(BOM) :])
        return value, (Finding("SFT003", "the text begins with a byte order mark, which was taken off"), *findings)
    return _parse_exactly(line)


def _parse_exactly(line: bytes) -> Parsed:
    """As `parse`, slowly, for a text that is broken or that orjson does not read exactly."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return None, (Finding("SFT002", f"byte {error.start + 1} is not UTF-8 ({line[error.start]:#04x})"),)
    if _depth(line) > MAX_DEPTH:
        return None, (Finding("SFT001", f"nested more than {MAX_DEPTH} levels deep"),)
    try:
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_refuse_number, parse_float=_finite)
    except _Refused as refusal:
        return None, (refusal.finding,)
    except json.JSONDecodeError as error:
        return None, (Finding("SFT001", _syntax(text, error)),)
    except RecursionError:
        return None, (Finding("SFT001", "nested too deeply"),)
    except ValueError:  # Python's bound on the digits of an integer
        return None, (Finding("SFT001", "an integer has too many digits"),)
    if _lone_surrogate(value):
        return None, (Finding("SFT004", "a \\u escape is half of a surrogate pair"),)
    return value, ()


class _Refused(Exception):
    """Thrown out of the parser's hooks."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in made if names.count(name) > 1)
        shown = twice if len(twice) <= 40 else twice[:39] + "…"
        raise _Refused(Finding("SFT009", f"the key {json.dumps(shown)} stands more than once in one object"))
    return made


def _refuse_number(name: str) -> NoReturn:
    raise _Refused(Finding("SFT008", f"{name} is not a JSON number"))


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Refused(Finding("SFT008", f"the number {text[:40]} is too large to be finite"))
    return number


def _syntax(text: str, error: json.JSONDecodeError) -> str:
    """Where and how a text stops being JSON."""
    if error.pos >= len(text.rstrip()):
        return "the text ends before the JSON does"
    return f"not JSON from character {error.pos + 1}: {error.msg[:1].lower()}{error.msg[1:]}"


def _depth(line: bytes) -> int:
    """How deep brackets are nested outside strings; balanced or not."""
    if line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        return 0
    deepest = level = 0
    for bracket in _BRACKETS.findall(_STRING.sub(b"", line)):
        level += 1 if bracket in b"[{" else -1
        deepest = max(deepest, level)
    return deepest


def _lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
