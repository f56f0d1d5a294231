"""Near-duplicate search over many records: time, memory, and how many planted copies are found.

    python benchmarks/near_duplicates.py 1000000

Texts are 20 to 220 words of a Zipf vocabulary; every block of 2,000 holds 100 copies of the block before with one word
changed. Making the texts is not counted.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sftdata.quality.near import Signatures, near_duplicates

BLOCK, COPIES = 2000, 100


def measure(records: int) -> dict[str, float]:
    """Seconds, MiB and shares for `records` texts."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"w{number:x}" for number in range(20_000)])
    before: list[str] = []
    signing = 0.0
    planted: set[int] = set()
    with tempfile.TemporaryDirectory() as folder:
        signatures = Signatures(Path(folder))
        for first in range(0, records, BLOCK):
            texts = [" ".join(vocabulary[rng.zipf(1.3, size) % 20_000]) for size in rng.integers(20, 220, BLOCK)]
            for place, text in enumerate(before[COPIES : 2 * COPIES]):
                words = text.split()
                words[len(words) // 2] = "changed"
                texts[place] = " ".join(words)
                planted.add(first + place)
            before = texts
            began = time.perf_counter()
            signatures.add(np.arange(first, first + BLOCK), texts)
            signing += time.perf_counter() - began
        began = time.perf_counter()
        found = set(near_duplicates([signatures])["record_id"].to_list())
        grouping = time.perf_counter() - began
    return {
        "records": records,
        "signatures_seconds": round(signing, 1),
        "groups_seconds": round(grouping, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "planted": len(planted),
        "found_of_planted": round(len(found & planted) / max(len(planted), 1), 5),
        "found_besides": len(found - planted),
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000), indent=2))
