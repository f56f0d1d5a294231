"""JSON documents: a list of records, or whole values one after another, split into elements as they stream by.

Elements are found by Python's JSON scanner running over the bytes as Latin-1, so that positions are byte offsets and a
broken element is noticed where it breaks, not at the end of the file. After one, reading goes on at the next place that
looks as elements of this file do: a comma (or a new line), then the bracket and first key that the first element had.
What lives here: that splitting, with memory bounded by the longest element. What must not: parsing for the record's
sake.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from sftdata.sources.container import Container
from sftdata.sources.items import KEPT, MAX_LINE
from sftdata.sources.making import too_long
from sftdata.sources.sniff import document_decoder, ends_early
from sftdata.sources.spool import Spooled

__all__ = ["list_elements", "values"]

_SPACE = re.compile(r"[ \t\r\n]*")
_SIGNATURE = re.compile(r'([\[{])[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*"[ \t\r\n]*:)?', re.DOTALL)
_MARK = "\xef\xbb\xbf"
_OVERLAP = 1024
_NUMBER = 8  # a number cut by a window may go on in the next: `1` of `1e+5`


def list_elements(windows: Iterator[bytes], container: Container) -> Iterator[Spooled]:
    """The elements of one JSON list, each with the line it begins at."""
    text = _Text(windows, container, r",[ \t\r\n]*(?=%s)", follows=",]{[")
    text.skip_mark()
    text.advance(text.at + 1)  # the bracket that told a list
    before = "["
    while (character := text.next_character()) not in ("", "]"):
        if character == ",":
            if before != "element":
                container.add(text.line, "SFT001", "a comma without an element before it")
            text.advance(text.at + 1)
        else:
            if before == "element":
                container.add(text.line, "SFT001", "no comma between two elements")
            yield text.element()
        before = character if character == "," else "element"
    if character:
        if before == ",":
            container.add(text.line, "SFT001", "a comma without an element behind it")
        text.advance(text.at + 1)
        if text.next_character():
            container.add(text.line, "SFT001", "there is text behind the end of the list")
            text.discard()
    elif not (text.broke_off or container.broken):
        container.add(text.line, "SFT015", "the list is not closed: the file ends early")
    container.close(text.line)


def values(windows: Iterator[bytes], container: Container) -> Iterator[Spooled]:
    """JSON values that stand one after another, such as one object printed over several lines."""
    text = _Text(windows, container, r"\n[ \t\r\n]*(?=%s)")
    text.skip_mark()
    while text.next_character():
        yield text.element()
    container.close(text.line)


class _Text:
    """A stream of bytes as Latin-1 text, a place in it, and the line of that place."""

    def __init__(self, windows: Iterator[bytes], container: Container, boundary: str, follows: str = "") -> None:
        self.at = 0
        self.line = 1
        self.broke_off = False
        """Whether the last element reached to the end of the file and is broken."""
        self._windows = windows
        self._container = container
        self._boundary = boundary
        self._follows = follows
        """What may stand behind a sound element; empty for anything."""
        self._signature = ""
        self._decode = document_decoder().raw_decode
        self._text = ""
        self._ended = False

    def _more(self) -> bool:
        """Read on: as much as is held already, so that a long element is not begun again for every window."""
        held = self._text[self.at :]
        pieces = [held]
        size = 0
        while size < max(len(held), 1):
            window = next(self._windows, None)
            if window is None:
                self._ended = True
                break
            pieces.append(window.decode("latin-1"))
            size += len(window)
        self._text, self.at = "".join(pieces), 0
        return size > 0

    def advance(self, to: int) -> None:
        """Go to a later place."""
        self.line += self._text.count("\n", self.at, to)
        self.at = to

    def next_character(self) -> str:
        """Skip white space; the character that stands there, or the empty string at the end."""
        while True:
            match = _SPACE.match(self._text, self.at)
            self.advance(match.end() if match else self.at)
            if self.at < len(self._text):
                return self._text[self.at]
            if not self._more():
                return ""

    def skip_mark(self) -> None:
        """Skip a byte order mark, noted once, and white space."""
        self._more()
        while len(self._text) < len(_MARK) and self._more():
            pass
        if self._text.startswith(_MARK):
            self._container.add(1, "SFT003", "the file begins with a byte order mark, which was taken off")
            self.at = len(_MARK)
        self.next_character()

    def discard(self) -> None:
        """Go to the end without looking."""
        self.advance(len(self._text))
        while self._more():
            self.advance(len(self._text))

    def element(self) -> Spooled:
        """The value that begins here, or the bytes up to the next place where one seems to begin."""
        while True:
            try:
                _, end = self._decode(self._text, self.at)
            except json.JSONDecodeError as error:
                if self._ended or not ends_early(error, len(self._text)) or len(self._text) - self.at > MAX_LINE:
                    return self._broken()
            except RecursionError:
                return self._broken()
            else:
                match = _SPACE.match(self._text, end)
                behind = self._text[match.end() : match.end() + 1] if match else ""
                if self._ended or (behind and len(self._text) > end + _NUMBER):
                    sound = not self._follows or behind in self._follows
                    return self._whole(end) if sound else self._broken()
            self._more()

    def _whole(self, end: int) -> Spooled:
        line, length = self.line, end - self.at
        self.broke_off = False
        self._signature = self._signature or _signature(self._text[self.at : self.at + _OVERLAP])
        if length > MAX_LINE:
            spooled: Spooled = ([line], [self._bytes(self.at + KEPT)], too_long(length, "element"))
        else:
            spooled = ([line], [self._bytes(end)], None)
        self.advance(end)
        return spooled

    def _broken(self) -> Spooled:
        """Take everything up to the next boundary as one broken element."""
        line = self.line
        signature = self._signature or _signature(self._text[self.at : self.at + _OVERLAP]) or r"\S"
        boundary = re.compile(self._boundary % signature, re.ASCII)
        begin, length, kept = self.at + 1, 0, b""
        while (match := boundary.search(self._text, begin)) is None and self._more():
            begin = 1
            if len(self._text) > MAX_LINE:
                kept = kept or self._bytes(KEPT)
                length += len(self._text) - _OVERLAP
                self.advance(len(self._text) - _OVERLAP)
                begin = self.at
        end = match.start() if match else self._end()
        self.broke_off = match is None
        length += end - self.at
        raw = kept or self._bytes(end).rstrip()
        self.advance(end)
        if length > MAX_LINE:
            return [line], [raw[:KEPT]], too_long(length, "element")
        return [line], [raw], self._container.cut_record() if match is None else None

    def _end(self) -> int:
        """Where a broken last element ends: before the bracket that closes the list, if that is there."""
        text = self._text.rstrip(" \t\r\n")
        closed = self._boundary.startswith(",") and text.endswith("]") and len(text) - 1 > self.at
        return len(text) - 1 if closed else len(self._text)

    def _bytes(self, end: int) -> bytes:
        return self._text[self.at : end].encode("latin-1")


def _signature(text: str) -> str:
    """A pattern of how an element begins: its bracket and its first key; empty for what is no object or list."""
    match = _SIGNATURE.match(text)
    if match is None:
        return ""
    bracket, key = match.groups()
    pattern = re.escape(bracket) + r"[ \t\r\n]*"
    return pattern + re.escape(key.rstrip(": \t\r\n")) + r"[ \t\r\n]*:" if key else pattern
