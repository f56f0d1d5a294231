"""Texts as sets of hashed word n-grams, for near-duplicates and overlaps.

What lives here: cutting texts into words and n-grams, in polars and numpy. A word is a run of letters and digits in any
alphabet; scripts without spaces give one word a character. Letter case does not count. What must not: comparing texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["UInt64Array", "shingles"]

UInt64Array = npt.NDArray[np.uint64]

_WORDS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\p{L}\p{N}\p{M}]+"
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def shingles(texts: Sequence[str], size: int) -> tuple[UInt64Array, npt.NDArray[np.int64]]:
    """The hashed n-grams of `size` words of every text, one after another, and where each text's begin.

    Returns uint64 `[N]` and int64 `[len(texts) + 1]`. A text of w words has max(w - size + 1, 1) of them, one of no
    word none: `["a b c d", "", "a b"]` by 3 gives offsets `[0, 2, 2, 3]`.
    """
    import polars as pl

    words = pl.Series("words", texts, dtype=pl.String).str.to_lowercase().str.extract_all(_WORDS)
    counts = words.list.len().to_numpy().astype(np.int64)
    if not counts.sum():
        return np.zeros(0, np.uint64), np.zeros(len(texts) + 1, np.int64)
    flat = words.filter(words.list.len() > 0).explode().rename("word")
    distinct = flat.unique()
    table = pl.DataFrame({"word": distinct, "hash": pl.Series(map(_hash, distinct), dtype=pl.UInt64)})
    hashes = flat.to_frame().join(table, on="word", how="left", maintain_order="left")["hash"].to_numpy()
    return _windows(hashes, counts, size)


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _windows(
    hashes: UInt64Array, counts: npt.NDArray[np.int64], size: int
) -> tuple[UInt64Array, npt.NDArray[np.int64]]:
    """Hashes of windows over each text's words; a text shorter than the window has one, of all its words."""
    ends = np.cumsum(counts)
    number = np.where(counts > 0, np.maximum(counts - size + 1, 1), 0)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(number)])
    starts = np.arange(offsets[-1]) + np.repeat(ends - counts - offsets[:-1], number)
    limit = np.repeat(ends, number)
    out = np.zeros(len(starts), np.uint64)
    padded = np.concatenate([hashes, np.zeros(size, np.uint64)])
    for step in range(size):
        word = np.where(starts + step < limit, padded[starts + step], np.uint64(0))
        out = (out ^ word) * _ODD
        out ^= out >> np.uint64(29)
    out *= _MIX
    return out ^ (out >> np.uint64(32)), offsets
