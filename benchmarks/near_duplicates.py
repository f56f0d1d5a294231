"""Near-duplicate search over many records: time, memory, and its findings beside brute force on a sample.

    python -m benchmarks.near_duplicates [--records N]

Texts are 20 to 220 words of a Zipf vocabulary; every block of 2,000 holds 100 copies of texts of the block before with
one word changed. Making the texts is not counted. The sample is 2,000 other texts, four in five of them copies of
another with up to a fifth of the words changed, so that all similarities occur; every pair of it is compared by its
sets of 3-word shingles.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sftdata.quality.near import Signatures, near_duplicates
from sftdata.quality.shingles import shingles

__all__ = ["main"]

BLOCK, COPIES, SAMPLE = 2000, 100, 2000
THRESHOLD = 0.8
_ERROR = 0.08
"""Two standard errors of a similarity estimated from 128 hashes."""


class Writer:
    """Makes texts."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._words = np.array([f"w{number:x}" for number in range(20_000)])

    def texts(self, count: int) -> list[str]:
        """`count` different texts."""
        sizes = self._random.integers(20, 220, count)
        return [" ".join(self._words[self._random.zipf(1.3, size) % 20_000]) for size in sizes]

    def changed(self, text: str, share: float) -> str:
        """The text with about `share` of its words changed."""
        words = text.split()
        for place in np.flatnonzero(self._random.random(len(words)) < share):
            words[place] = f"changed{self._random.integers(1 << 30)}"
        return " ".join(words)


def measure(records: int) -> dict[str, float]:
    """Seconds, MiB and how many of the planted copies are found, for `records` texts."""
    writer = Writer(0)
    before: list[str] = []
    signing = 0.0
    planted: set[int] = set()
    with tempfile.TemporaryDirectory() as folder:
        signatures = Signatures(Path(folder))
        for first in range(0, records, BLOCK):
            texts = writer.texts(BLOCK)
            for place, text in enumerate(before[COPIES : 2 * COPIES]):
                words = text.split()
                words[len(words) // 2] = "changed"
                texts[place] = " ".join(words)
                if len(words) >= 40:  # one word of fewer is more than a fifth of the shingles
                    planted.add(first + place)
            before = texts
            began = time.perf_counter()
            signatures.add(np.arange(first, first + BLOCK), texts)
            signing += time.perf_counter() - began
        began = time.perf_counter()
        found = set(near_duplicates([signatures], THRESHOLD)["record_id"].to_list())
        grouping = time.perf_counter() - began
    return {
        "records": records,
        "signatures_seconds": round(signing, 1),
        "groups_seconds": round(grouping, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "copies_planted": len(planted),
        "copies_found": round(len(found & planted) / max(len(planted), 1), 5),
    }


def beside_brute_force() -> dict[str, float]:
    """Recall and precision over all pairs of the sample."""
    writer = Writer(1)
    originals = writer.texts(SAMPLE // 5)
    texts = [writer.changed(text, share) for text in originals for share in (0.0, 0.01, 0.03, 0.08, 0.2)]
    similarity = _jaccard(texts)
    with tempfile.TemporaryDirectory() as folder:
        signatures = Signatures(Path(folder))
        signatures.add(np.arange(len(texts)), texts)
        found = near_duplicates([signatures], THRESHOLD)
    group = np.arange(len(texts))
    group[found["record_id"].to_numpy()] = found["kept_id"].to_numpy()
    together = group[:, None] == group[None, :]
    pairs = np.triu(np.ones_like(together), 1)
    alike = (similarity >= THRESHOLD) & pairs
    surely = (similarity >= THRESHOLD + _ERROR) & pairs
    dropped = found["record_id"].to_list()
    best = [_nearest(similarity, group, record) for record in dropped]
    return {
        "sample": len(texts),
        "pairs_alike": int(alike.sum()),
        "recall_of_pairs": round(float((alike & together).sum() / alike.sum()), 4),
        "recall_of_pairs_beyond_error": round(float((surely & together).sum() / surely.sum()), 4),
        "records_dropped": len(dropped),
        "dropped_and_alike": round(float(np.mean([one >= THRESHOLD for one in best])), 4),
        "dropped_and_alike_within_error": round(float(np.mean([one >= THRESHOLD - _ERROR for one in best])), 4),
    }


def _nearest(similarity: npt.NDArray[np.float64], group: npt.NDArray[np.int64], record: int) -> float:
    """The similarity with the nearest other of the group."""
    others = np.flatnonzero(group == group[record])
    return float(similarity[record, others[others != record]].max())


def _jaccard(texts: list[str]) -> npt.NDArray[np.float64]:
    """Jaccard similarity of all pairs, by brute force."""
    hashes, offsets = shingles(texts, 3)
    sets = [np.unique(hashes[begin:end]) for begin, end in itertools.pairwise(offsets)]
    sizes = np.array([len(one) for one in sets])
    flat, starts = np.concatenate(sets), np.concatenate([[0], np.cumsum(sizes)[:-1]])
    out = np.zeros((len(sets), len(sets)))
    for index, one in enumerate(sets):
        common = np.add.reduceat(np.isin(flat, one, kind="sort"), starts)
        out[index] = common / (sizes + sizes[index] - common)
    return out


def main() -> None:
    """Print both as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    given = parser.parse_args()
    print(json.dumps({**measure(given.records), "brute_force": beside_brute_force()}, indent=2))


if __name__ == "__main__":
    main()
