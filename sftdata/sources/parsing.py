"""JSON text becomes plain values, or the one finding that says why it does not.

What lives here: parsing, fast for what is sound and exact about what is not (encoding, syntax, numbers JSON has not,
duplicate keys, lone surrogates, depth). What must not: where a text came from.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
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
_LONG_INTEGER = re.compile(rb"(?<![^\s:,\[])-?[0-9]{19,}(?![0-9.eE])")
"""An integer that may need more than 64 bits, which orjson would round; now and then digits inside a string."""
_SEPARATOR = b"\0"  # stands in no JSON text
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


def parse_all(lines: Sequence[bytes]) -> tuple[list[Any], dict[int, tuple[Finding, ...]]]:
    """Parse many texts: their values, and what was found by index (nothing for almost all of them).

    `parse_all([b'{"a": 1}', b'{"a": NaN}'])` is `([{"a": 1}, None], {1: (Finding("SFT008", ...),)})`.
    """
    given, suspects = lines, set[int]()
    try:
        values = list(map(orjson.loads, lines))
    except ValueError:
        values = []
        for index, line in enumerate(lines):
            try:
                values.append(orjson.loads(line))
            except ValueError:
                values.append(None)
                suspects.add(index)
    if suspects:
        lines = [b"null" if index in suspects else line for index, line in enumerate(lines)]
    text = _SEPARATOR.join(lines)
    if not _keys_kept(text, values):
        suspects.update(index for index, line in enumerate(lines) if not _keys_kept(line, [values[index]]))
    suspects.update(index for index in _with_long_numbers(text) if _LONG_INTEGER.search(lines[index]))
    found: dict[int, tuple[Finding, ...]] = {}
    for index in sorted(suspects):
        values[index], findings = _parse_slowly(given[index])
        if findings:
            found[index] = findings
    return values, found


def parse(line: bytes) -> Parsed:
    """Parse one text: its value, or the first thing that is wrong with it.

    A byte order mark before it is taken off with a warning.
    """
    values, found = parse_all([line])
    return values[0], found.get(0, ())


def _keys_kept(text: bytes, values: list[Any]) -> bool:
    """Whether no object in `text` certainly has a key twice; `values` are those of its lines.

    orjson keeps the last of two equal keys. That shows in the number of quotes: written again, values have as many as
    their text had, plus one for every quote spelled \\u0022. Not true either where something is nested too deeply to
    be written.
    """
    try:
        return b"\\u0022" not in text and text.count(b'"') == orjson.dumps(values).count(b'"')
    except TypeError:
        return False


def _with_long_numbers(text: bytes) -> Iterator[int]:
    """Which of the separated lines of `text` have 19 digits in a row."""
    plain = text.translate(_DIGITS)
    line, begin = 0, 0
    while (at := plain.find(_LONG_NUMBER, begin)) >= 0:
        line += plain.count(_SEPARATOR, begin, at)
        yield line
        begin = plain.find(_SEPARATOR, at)
        if begin < 0:
            return


def _parse_slowly(line: bytes) -> Parsed:
    if not line.startswith(BOM):
        return _parse_exactly(line)
    value, findings = parse(line[len(BOM) :])
    return value, (Finding("SFT003", "the text begins with a byte order mark, which was taken off"), *findings)


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
