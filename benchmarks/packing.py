"""Packing: lengths assigned to bins a second, and bins over the lower bound, beside other packers.

`python -m benchmarks.packing` prints the table. One core; log-normal lengths as instruction sets have them (median
90 tokens). TRL is measured through its public function, which moves the tokens as well, on fewer examples; so ours
is shown with the tokens moved too. LLaMA-Factory and axolotl are measured where they can be imported
(`pip install --no-deps llamafactory axolotl numba llvmlite` is enough), each in groups of its own default size.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sftdata.packing import METHODS, lower_bound, pack
from sftdata.records import Int32Array, TokenBlock
from sftdata.shards import arrange

__all__ = ["Measured", "lengths_of", "measure"]

CAPACITY = 2048
_MANY, _FEW = 10_000_000, 50_000
_KNAPSACK_GROUP = 1000  # LLaMA-Factory's preprocessing_batch_size
_MULTIPACK_GROUP, _MULTIPACK_BIN = 100_000, 200  # axolotl's sample_packing_group_size and sample_packing_bin_size


class Measured(NamedTuple):
    """One line of the table."""

    name: str
    examples: int
    seconds: list[float]
    bins_over_bound: float
    """As a share of the bound."""


def lengths_of(count: int, capacity: int, seed: int = 0) -> Int32Array:
    """int32 `[count]`, log-normal with median 90, clipped to [1, capacity]."""
    drawn = np.exp(np.random.default_rng(seed).normal(4.5, 1.0, count))
    return np.clip(drawn, 1, capacity).astype(np.int32)


def measure(capacity: int, runs: int) -> Iterator[Measured]:
    """Ours on many examples, then ours and the peers on few with their tokens."""
    many, few = lengths_of(_MANY, capacity), lengths_of(_FEW, capacity, seed=1)
    for method in METHODS:
        yield _timed(method, many, capacity, runs, partial(_bins, many, capacity, method))
    yield _timed("best-fit, tokens moved", few, capacity, runs, lambda: _with_tokens(few, capacity))
    for name, peer in _PEERS.items():
        try:
            run = peer(few, capacity)
        except ImportError as error:
            print(f"{name}: not measured ({error})")
            continue
        yield _timed(name, few, capacity, runs, run)


def _timed(name: str, lengths: Int32Array, capacity: int, runs: int, run: Callable[[], int]) -> Measured:
    bins = run()  # warms caches and compilers; not counted
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        bins = run()
        seconds.append(time.perf_counter() - begin)
    return Measured(name, len(lengths), seconds, bins / lower_bound(lengths, capacity) - 1)


def _bins(lengths: Int32Array, capacity: int, method: str) -> int:
    return len(pack(lengths, capacity, method, seed=(0, 0)).offsets) - 1


def _with_tokens(lengths: Int32Array, capacity: int) -> int:
    total = int(lengths.sum())
    ids = np.zeros(total, np.int32)
    count = len(lengths)
    block = TokenBlock(ids, ids, lengths, np.arange(count), np.zeros(count, np.int32))
    bins = pack(lengths, capacity, "best-fit", seed=(0, 0))
    return sum(len(rows) for rows in arrange(block, bins))


def _trl(lengths: Int32Array, capacity: int) -> Callable[[], int]:
    import datasets
    import pyarrow as pa
    from trl.data_utils import pack_dataset

    datasets.disable_progress_bars()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(offsets[-1], np.int32)))
    table = pa.table({"input_ids": tokens})
    return lambda: len(pack_dataset(datasets.Dataset(table), capacity, "bfd", {"keep_in_memory": True}))


def _llama_factory(lengths: Int32Array, capacity: int) -> Callable[[], int]:
    found = importlib.util.find_spec("llamafactory")
    if found is None or found.origin is None:
        raise ImportError("no module named 'llamafactory'")
    # By its file: the package around it imports what packing does not need.
    file = Path(found.origin).parent / "data" / "processor" / "processor_utils.py"
    spec = importlib.util.spec_from_file_location("processor_utils", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    knapsack = module.greedy_knapsack
    listed = lengths.tolist()
    groups = range(0, len(listed), _KNAPSACK_GROUP)
    return lambda: sum(len(knapsack(listed[first : first + _KNAPSACK_GROUP], capacity)) for first in groups)


def _axolotl(lengths: Int32Array, capacity: int) -> Callable[[], int]:
    multipack = importlib.import_module("axolotl.utils.samplers.multipack").pack_parallel
    return lambda: len(multipack(lengths, capacity, _MULTIPACK_GROUP, _MULTIPACK_BIN, num_processes=1))


_PEERS: dict[str, Callable[[Int32Array, int], Callable[[], int]]] = {
    "TRL bfd, tokens moved": _trl,
    "LLaMA-Factory knapsack": _llama_factory,
    "axolotl multipack": _axolotl,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--capacity", type=int, default=CAPACITY)
    options = parser.parse_args()
    print(f"{'packer':<26}{'examples':>12}{'median s':>10}{'min':>8}{'max':>8}{'M a second':>12}{'bins over':>11}")
    for one in measure(options.capacity, options.runs):
        median = statistics.median(one.seconds)
        print(
            f"{one.name:<26}{one.examples:>12,}{median:>10.3f}{min(one.seconds):>8.3f}{max(one.seconds):>8.3f}"
            f"{one.examples / median / 1e6:>12.2f}{one.bins_over_bound:>11.3%}"
        )


if __name__ == "__main__":
    main()
