"""Lines out of a stream of bytes: where chunks begin and how many records they hold, and the lines themselves.

A record is a line that is not blank; a line ends at LF, and a CR before it belongs to the line end. What lives here:
finding line ends in windows of bytes, with memory bounded by `MAX_LINE` however long a line is. What must not: what
stands in a line, where the bytes come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from sftdata.sources.items import KEPT, MAX_CHUNKS, MAX_LINE, Chunk, halved

__all__ = ["BOM", "Block", "blocks", "cut_lines", "is_blank"]

BOM = b"\xef\xbb\xbf"


class Block(msgspec.Struct, frozen=True):
    """Whole lines, or the beginning of one line that is too long."""

    first_line: int
    text: bytes
    """Lines with their ends; the last line of a stream may have none."""
    length: int = 0
    """0, or the whole length of the over-long line of which `text` is the beginning."""
    ended: bool = True
    """Whether the last line of `text` has its line end."""


def is_blank(line: bytes) -> bool:
    """Whether a line is no record: white space, or a byte order mark and white space."""
    return not line.removeprefix(BOM).strip()


def cut_lines(windows: Iterable[bytes], target: int) -> list[Chunk]:
    """Chunks of plain JSON Lines: byte ranges that end at the first line end after `target` bytes.

    Depends on the bytes alone, not on how they come in windows. `cut_lines([b'1\\n\\n2'], 1)` gives
    `[Chunk(0, 2, 1, 1, 2), Chunk(2, 4, 2, 1, 2)]`: the blank line is no record.
    """
    cutter = _Cutter(target)
    for window in windows:
        cutter.take(window)
    return cutter.finish()


class _Cutter:
    """Where the lines of a stream end, counted in windows."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.chunks: list[Chunk] = []
        self.position = 0  # of the window's first byte
        self.start = 0  # of the chunk that is being filled
        self.first_line = 1
        self.line = 1  # the line that is open at `position`
        self.records = 0
        self.carry = b""  # what the open line holds, as far as that decides whether it is blank

    def take(self, window: bytes) -> None:
        """Count one more window."""
        ends = np.flatnonzero(np.frombuffer(window, np.uint8) == 10)
        if not ends.size:
            self.carry = _carried(self.carry + window)
            self.position += len(window)
            return
        solid = np.cumsum(self._solid(window, ends))
        done = 0
        while True:
            index = max(
                int(np.searchsorted(ends, self.start + self.target - 1 - self.position)),
                int(np.searchsorted(solid, 1 - self.records + (int(solid[done - 1]) if done else 0))),
            )
            if index >= ends.size:
                break
            self.records += int(solid[index]) - (int(solid[done - 1]) if done else 0)
            self._cut(self.position + int(ends[index]) + 1, self.line + index + 1)
            done = index + 1
        self.records += int(solid[-1]) - (int(solid[done - 1]) if done else 0)
        self.line += ends.size
        self.position += len(window)
        self.carry = _carried(window[int(ends[-1]) + 1 :])

    def _solid(self, window: bytes, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of the lines that end in `window` are records; only lines that begin suspiciously are looked at."""
        starts = np.empty_like(ends)
        starts[0] = 0
        starts[1:] = ends[:-1] + 1
        first = np.frombuffer(window, np.uint8)[starts]
        solid = np.ones(ends.size, np.bool_)
        for index in np.flatnonzero((first <= 32) | (first == BOM[0])).tolist():
            solid[index] = not is_blank(window[int(starts[index]) : int(ends[index])])
        solid[0] = not is_blank(self.carry + window[: int(ends[0])])
        return solid

    def _cut(self, stop: int, next_line: int) -> None:
        self.chunks.append(Chunk(self.start, stop, self.first_line, self.records, stop - self.start))
        self.start, self.first_line, self.records = stop, next_line, 0
        if len(self.chunks) == MAX_CHUNKS:
            self.chunks = halved(self.chunks)
            self.target *= 2

    def finish(self) -> list[Chunk]:
        """All chunks; a rest without records belongs to none."""
        self.records += not is_blank(self.carry)
        if self.records:
            self._cut(self.position, self.line)
        return self.chunks


def _carried(text: bytes) -> bytes:
    """As little of an open line as decides whether it is blank: all of a possible mark, one byte of anything else."""
    if BOM.startswith(text):
        return text
    return b" " if is_blank(text) else b"x"


def blocks(windows: Iterable[bytes], first_line: int = 1) -> Iterator[Block]:
    """Whole lines, about a window at a time; a line of more than `MAX_LINE` bytes comes as its beginning alone."""
    pieces: list[bytes] = []
    held = 0  # length of the open line
    carry = b""  # as in the cutter, kept where the open line is too long to be kept itself
    line = first_line
    for window in windows:
        begin = 0
        first = window.find(b"\n")
        until = len(window) if first < 0 else first
        if held + until > MAX_LINE:
            if not carry:
                joined = b"".join([*pieces, window[:until]])
                pieces, carry = [joined[:KEPT]], _carried(joined)
            else:
                carry = _carried(carry + window[:until])
            held += until
            if first < 0:
                continue
            if not is_blank(carry):
                yield Block(line, pieces[0], held)
            line += 1
            pieces, held, carry, begin = [], 0, b"", first + 1
        cut = window.rfind(b"\n") + 1
        if cut > begin:
            text = b"".join([*pieces, window[begin:cut]])
            yield Block(line, text)
            line += text.count(b"\n")
            pieces, held, begin = [], 0, cut
        if begin < len(window):
            pieces.append(window[begin:])
            held += len(window) - begin
    if carry:
        if not is_blank(carry):
            yield Block(line, pieces[0], held, ended=False)
    elif pieces:
        yield Block(line, b"".join(pieces), ended=False)
