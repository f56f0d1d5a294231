"""CSV as RFC 4180 has it: a header, then rows of text, quoted fields with line ends in them; with tabs too (TSV).

What lives here: rows of a stream as JSON texts, each with the line it begins at. What must not: types (every value is
text; a field that a short row lacks is null).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import orjson

from sftdata.records import Finding
from sftdata.sources.container import Container
from sftdata.sources.items import KEPT, MAX_LINE
from sftdata.sources.lines import BOM, blocks, is_blank
from sftdata.sources.making import too_long
from sftdata.sources.spool import Spooled

__all__ = ["BadHeader", "rows"]


class BadHeader(ValueError):
    """The header cannot be used, and so no row can."""


def rows(windows: Iterator[bytes], container: Container, delimiter: str = ",") -> Iterator[Spooled]:
    """The rows below the header. Raises BadHeader where the header names a column twice.

    A row that cannot be read costs itself only; where a quote is never closed, reading goes on at the line after the
    one that opened it, and until those lines are used up only rows with exactly the header's fields are taken.
    """
    lines = _Lines(windows, container)
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    header: list[str] | None = None
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    while True:
        lines.begin_row()
        fault = ""
        row: list[str] = []
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            fault = str(error)
        if lines.unclosed(fault):
            lines.give_back()
            reader = csv.reader(lines, strict=True, delimiter=delimiter)
        if not fault and lines.blank():
            continue
        if header is None:
            header = _header(row, fault)
        else:
            yield lines.spooled(header, row, fault)
    container.close(lines.line)


def _header(row: list[str], fault: str) -> list[str]:
    names = [name or f"column_{index}" for index, name in enumerate(row, 1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if fault or twice is not None:
        what = f"the header cannot be read: {fault}" if fault else f"the header names the column {twice!r} twice"
        raise BadHeader(what)
    return names


class _Lines:
    """Physical lines as text, fed to the reader one by one; remembers those of the row that is being read."""

    def __init__(self, windows: Iterator[bytes], container: Container) -> None:
        self.line = 0
        """The line that the row began at."""
        self._container = container
        self._physical = self._read(windows)
        self._pushed: list[bytes] = []
        self._row: list[bytes] = []
        self._next = 1
        self._overlong = 0
        self._strict = False

    def _read(self, windows: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks(windows):
            text = block.text
            if block.first_line == 1 and text.startswith(BOM):
                self._container.add(1, "SFT003", "the file begins with a byte order mark, which was taken off")
                text = text.removeprefix(BOM)
            if block.length:
                self._overlong = block.length
                yield text
            else:
                yield from io.BytesIO(text)

    def begin_row(self) -> None:
        """The next line begins a row."""
        self._row = []
        self._overlong = 0
        self._strict = bool(self._pushed)
        self.line = self._next

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._pushed.pop() if self._pushed else next(self._physical)
        self._row.append(line)
        self._next += 1
        return line.decode("utf-8", "surrogateescape")

    def blank(self) -> bool:
        """Whether the row is one blank line."""
        return len(self._row) == 1 and is_blank(self._row[0])

    def unclosed(self, fault: str) -> bool:
        """Whether a row failed for a quote that no later line closed, and more lines than its own went into it."""
        return len(self._row) > 1 and ("unexpected end" in fault or "field larger" in fault)

    def give_back(self) -> None:
        """All lines of the row but the first are to be read again."""
        self._pushed += reversed(self._row[1:])
        self._next -= len(self._row) - 1
        del self._row[1:]

    def spooled(self, header: list[str], row: list[str], fault: str) -> Spooled:
        """The row as one JSON text, or its lines and what is wrong with them."""
        raw = b"".join(self._row).rstrip(b"\r\n")
        if self._overlong:
            return [self.line], [raw[:KEPT]], too_long(self._overlong, "row")
        finding = None if self._pushed or self._row[-1].endswith(b"\n") else self._container.cut_record()
        if finding is None and fault:
            finding = Finding("SFT019", f"the row cannot be read: {fault}")
        while len(row) > len(header) and not row[-1]:
            row.pop()
        if finding is None and (len(row) > len(header) or (self._strict and len(row) != len(header))):
            finding = Finding("SFT019", f"the row has {len(row)} fields and the header {len(header)}")
        if finding is not None:
            return [self.line], [raw], finding
        record = dict.fromkeys(header) | dict(zip(header, row, strict=False))
        try:
            return [self.line], [orjson.dumps(record)], None
        except TypeError:
            return [self.line], [raw], Finding("SFT002", "bytes that are not UTF-8")
