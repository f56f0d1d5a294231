"""Replies that run in a loop (SFT708).

What lives here: two measures of repetition, one for a word said over and over, one for whole texts that compress to
almost nothing. Tables of numbers, rulers and code are left alone.
"""

from __future__ import annotations

import itertools
import operator
import zlib
from collections.abc import Iterator

from sftdata.checks.texts import prose, replies
from sftdata.records import Conversation, Finding

__all__ = ["loops"]

_WORD_RUN = 8
_LEAST = 400
_RATIO = 0.1
"""Prose compresses to about 0.5 of its bytes, a table of similar rows to 0.2."""


def loops(conversation: Conversation) -> Iterator[Finding]:
    """One finding a reply that says one word 8 times in a row, or that compresses to less than a tenth."""
    for text, pointer, _ in replies(conversation):
        if len(text) < 4 * _WORD_RUN:
            continue
        words = text.split()
        word = _repeated_word(words)
        if word is not None:
            yield Finding("SFT708", f"{word[:20]!r} is said {_WORD_RUN} times or more in a row", pointer)
            continue
        if len(text) < _LEAST or not _suspicious(text, words):
            continue
        data = prose(text).encode("utf-8", "replace")
        if len(data) >= _LEAST and len(zlib.compress(data, 1)) < _RATIO * len(data):
            yield Finding("SFT708", f"{len(data)} bytes repeat themselves more than tenfold", pointer)


def _suspicious(text: str, words: list[str]) -> bool:
    """Whether compressing is worth its time: few different words, or hardly any spaces."""
    return len(words) * 25 < len(text) or len(set(words)) * 3 < len(words)


def _repeated_word(words: list[str]) -> str | None:
    if True not in map(operator.eq, words, itertools.islice(words, 1, None)):
        return None
    run = 1
    for before, word in itertools.pairwise(words):
        if word != before:
            run = 1
            continue
        run += 1
        if run >= _WORD_RUN and any(map(str.isalpha, word)):
            return word
    return None
