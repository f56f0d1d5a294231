"""Characters that nobody meant to write: controls, wrongly decoded text, invisible ones (SFT003, SFT005–SFT007).

What lives here: one regular expression a rule over all texts of a conversation. Characters that writing systems need
are left alone: joiners in emoji, Indic and Arabic words, the zero-width space of scripts that set no spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sftdata.checks.texts import texts
from sftdata.records import Conversation, Finding

__all__ = ["odd_characters"]

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""C0 and C1 without tab, line feed, carriage return and NEL."""
_INVISIBLE = re.compile(
    "[\u202a-\u202e\u2066-\u2069\u2060-\u2064\u206a-\u206f\u180e]"
    "|(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b(?![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])"
    "|(?<=[A-Za-z])[\u200c\u200d](?=[A-Za-z])"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0001-\U000e007f]"
)
_CONTINUATION = (
    "\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178\x81\x8d\x8f\x90\x9d\xa0-\xbf"
)
"""What the bytes 0x80 to 0xBF become in Windows-1252."""
_DOUBLE = re.compile(f"[\xc2-\xdf][{_CONTINUATION}]|[\xe0-\xef][{_CONTINUATION}]{{2}}")
_BOM, _LOST = "\ufeff", "\ufffd"
_ANY = re.compile(
    "[\x7f-\x84\x86-\x9f\ufeff\ufffd\xc2-\xef\u180e\u200b-\u200d\u202a-\u202e\u2060-\u206f\U000e0001-\U000e007f]"
)
"""What every finding beyond ASCII has among its characters; most texts have none of them."""
_ASCII_CONTROL = bytes(code for code in range(128) if _CONTROL.match(chr(code)))


def odd_characters(conversation: Conversation) -> Iterator[Finding]:
    """Findings about single characters, one a rule and text, with the first character and how many there are."""
    for text, pointer in texts(conversation):
        if _has_controls(text):
            yield Finding("SFT005", _counted(_CONTROL.findall(text)), pointer)
        if text.isascii() or _ANY.search(text) is None:
            continue
        if _BOM in text:
            yield Finding("SFT003", f"{text.count(_BOM)} byte order marks (U+FEFF) inside the text", pointer)
        if _LOST in text:
            yield Finding("SFT006", f"{text.count(_LOST)} replacement characters (U+FFFD): bytes were lost", pointer)
        elif (spelled := _double_decoded(text)) is not None:
            yield Finding("SFT006", f"{spelled[0]!r} is {spelled[1]!r} decoded as Windows-1252", pointer)
        invisible = _INVISIBLE.findall(text)
        if invisible:
            yield Finding("SFT007", f"{_counted(invisible)}", pointer)


def _has_controls(text: str) -> bool:
    if not text.isascii():
        return _CONTROL.search(text) is not None
    data = text.encode()
    return len(data.translate(None, _ASCII_CONTROL)) != len(data)  # several times faster than a search


def _counted(found: list[str]) -> str:
    names = sorted({f"U+{ord(char):04X}" for char in found})
    more = " and others" if len(names) > 4 else ""
    return f"{len(found)} characters that cannot be seen: {', '.join(names[:4])}{more}"


def _double_decoded(text: str) -> tuple[str, str] | None:
    """The first stretch that is UTF-8 read as Windows-1252, and what it was; None where there is none."""
    for match in _DOUBLE.finditer(text):
        raw = bytearray()
        for char in match.group():
            try:
                raw += char.encode("cp1252")
            except UnicodeEncodeError:  # the five bytes that Windows-1252 leaves open
                raw.append(ord(char))
        try:
            meant = raw.decode()
        except UnicodeDecodeError:
            continue
        # a capital with tilde or circumflex before a sign is rare, but is text; before a quote it may be
        if meant.isalpha() or match.group()[0] in "\xe2\xc2\xc3":
            return match.group(), meant
    return None
