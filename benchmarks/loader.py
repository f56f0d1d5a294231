"""From Parquet on disk to batches: tokens/s of one core, time to the first batch, memory over epochs, and peers.

    python -m benchmarks.loader [--tokens 20000000] [--groups 10000] [--json FILE]

Every measurement is a process of its own with one thread, and reads files that were dropped from the page cache just
before. The set is synthetic (`benchmarks.synthetic`). Peers read the same Parquet files and end in the collator that
their users would take; litData reads its own format, where it is installed. CPU seconds stand beside those of the
wall: on a shared machine trust the former, and ratios.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.synthetic import CAPACITY, write_set

BINS_A_BATCH = 8
EPOCHS = 3
REPEATS = 3
Batches = Iterator[Any]


def ours(folder: Path, _scratch: Path) -> Batches:
    """PackedStream: shuffled, verified, no workers."""
    from sftdata_torch.dataset import PackedDataset
    from sftdata_torch.sampler import ElasticSampler
    from sftdata_torch.stream import PackedStream

    dataset = PackedDataset(folder, seed=0)
    sampler = ElasticSampler(dataset, global_batch=BINS_A_BATCH, micro_batch=BINS_A_BATCH)
    return iter(PackedStream(dataset, sampler))


def reader(folder: Path, _scratch: Path) -> Batches:
    """The verifying shard reader alone: row groups in file order, nothing made of them."""
    from sftdata.shards import open_dataset

    shards = open_dataset(folder)
    for file in shards.files:
        for at in range(len(file.row_groups)):
            yield {"input_ids": shards.read_row_group(file, at).input_ids}


def decoding(folder: Path, _scratch: Path) -> Batches:
    """The bound: pyarrow decodes the two token columns, unverified, and nothing is made of them."""
    import pyarrow.parquet as pq

    for path in sorted(folder.glob("*.parquet")):
        file = pq.ParquetFile(path)
        for at in range(file.num_row_groups):
            table = file.read_row_group(at, columns=["input_ids", "labels"], use_threads=False)
            yield {"input_ids": table.column(0).chunk(0).values.to_numpy()}


def datasets_map(folder: Path, scratch: Path) -> Batches:
    """datasets, map-style and shuffled (its Arrow cache is made before the clock starts), TRL's collator."""
    from torch.utils.data import DataLoader

    rows = _arrow_rows(folder, scratch)
    yield None
    yield from DataLoader(rows, batch_size=BINS_A_BATCH, shuffle=True, collate_fn=_trl_collator())


def datasets_streaming(folder: Path, _scratch: Path) -> Batches:
    """datasets, streaming with a shuffle buffer of 1,000 rows, TRL's collator."""
    from datasets import load_dataset
    from torch.utils.data import DataLoader

    loaded = load_dataset("parquet", data_files=_files(folder), split="train", streaming=True)
    rows = loaded.select_columns(["input_ids", "labels", "seq_lengths"]).shuffle(seed=0, buffer_size=1000)
    yield None
    yield from DataLoader(rows, batch_size=BINS_A_BATCH, collate_fn=_trl_collator())


def trainer_collator(folder: Path, scratch: Path) -> Batches:
    """What a Trainer does with unpacked documents: datasets, map-style, transformers' flattening collator."""
    from datasets import load_from_disk
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithFlattening

    from benchmarks.synthetic import DOCUMENTS
    from sftdata.shards.export import export_arrow

    export_arrow(folder, scratch / "documents", unpack=True)
    rows = load_from_disk(str(scratch / "documents")).select_columns(["input_ids", "labels"])
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    yield None
    yield from DataLoader(rows, batch_size=BINS_A_BATCH * DOCUMENTS, shuffle=True, collate_fn=collate)


def litdata(folder: Path, scratch: Path) -> Batches:
    """litData, its own format (written before the clock starts), shuffled, TRL's collator."""
    import numpy as np
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.cache import Cache

    from sftdata.shards import open_dataset

    out = scratch / "litdata"
    out.mkdir()
    cache = Cache(str(out), chunk_bytes="64MB")
    for number, row in enumerate(open_dataset(folder).iter_rows()):
        cache[number] = {name: np.array(row[name]) for name in ("input_ids", "labels", "seq_lengths")}
    cache.done()
    cache.merge()
    collate = _trl_collator()

    def listed(rows: list[dict[str, Any]]) -> Any:
        return collate([{name: column.tolist() for name, column in row.items()} for row in rows])

    stream = StreamingDataset(str(out), shuffle=True)
    yield None
    yield from StreamingDataLoader(stream, batch_size=BINS_A_BATCH, num_workers=0, collate_fn=listed)


LOADERS: dict[str, Callable[[Path, Path], Batches]] = {
    "decoding alone, unverified": decoding,
    "shard reader, verified": reader,
    "sftdata": ours,
    "datasets, map": datasets_map,
    "datasets, streaming": datasets_streaming,
    "Trainer's own collator": trainer_collator,
    "litData": litdata,
}
"""Each yields batches; one that has something to prepare yields None when the clock may start."""


def _files(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.parquet"))]


def _arrow_rows(folder: Path, scratch: Path) -> Any:
    from datasets import load_dataset

    loaded = load_dataset("parquet", data_files=_files(folder), split="train", cache_dir=str(scratch))
    return loaded.select_columns(["input_ids", "labels", "seq_lengths"])


def _trl_collator() -> Callable[[list[dict[str, Any]]], Any]:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate: Callable[[list[dict[str, Any]]], Any] = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    return collate


def measure_speed(name: str, folder: Path) -> dict[str, float]:
    """Million tokens a second over one pass, by the wall and by CPU seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        batches = LOADERS[name](folder, Path(scratch))
        _drop_from_page_cache(folder)
        tokens, wall, cpu = 0, time.perf_counter(), time.process_time()
        for batch in batches:
            if batch is None:
                _drop_from_page_cache(folder)
                wall, cpu = time.perf_counter(), time.process_time()
            else:
                tokens += batch["input_ids"].reshape(-1).shape[0]
        return {
            "mtok_per_s": tokens / (time.perf_counter() - wall) / 1e6,
            "mtok_per_cpu_s": tokens / (time.process_time() - cpu) / 1e6,
        }


def measure_first_batch(folder: Path) -> dict[str, float]:
    """Seconds from the call that opens the set to its first batch; imports are done."""
    from sftdata_torch import dataset, stream  # noqa: F401

    _drop_from_page_cache(folder)
    began = time.perf_counter()
    next(ours(folder, folder))
    return {"seconds": time.perf_counter() - began}


def measure_memory(folder: Path) -> dict[str, float]:
    """Resident MiB when the loader is imported, and after each of three epochs."""
    from sftdata_torch.dataset import PackedDataset
    from sftdata_torch.sampler import ElasticSampler
    from sftdata_torch.stream import PackedStream

    found = {"before": _resident_mib()}
    dataset = PackedDataset(folder, seed=0)
    stream = PackedStream(dataset, ElasticSampler(dataset, global_batch=BINS_A_BATCH, micro_batch=BINS_A_BATCH))
    for epoch in range(EPOCHS):
        for _ in stream:
            pass
        found[f"epoch {epoch + 1}"] = _resident_mib()
    return found


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def _drop_from_page_cache(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def alone(measure: Callable[..., dict[str, float]], *given: Any) -> dict[str, float]:
    """The result of `measure(*given)` in a fresh process with one thread."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=_one_thread) as pool:
        return pool.apply(measure, given)


def _one_thread() -> None:
    import pyarrow as pa
    import torch

    torch.set_num_threads(1)
    pa.set_cpu_count(1)


def best(name: str, folder: Path) -> dict[str, float]:
    """The run with the most tokens a CPU second of several: other work on the machine only ever slows one down."""
    return max((alone(measure_speed, name, folder) for _ in range(REPEATS)), key=lambda run: run["mtok_per_cpu_s"])


def main() -> None:
    """Measure everything, print a table, and write JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--groups", type=int, default=10_000, help="row groups of the set for the first batch")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        large = write_set(Path(scratch, "large"), given.tokens)
        print(f"{given.tokens:,} tokens in bins of {CAPACITY:,}, {BINS_A_BATCH} bins a batch, one thread")
        print(f"{'':30} Mtok/s   Mtok/CPU s")
        for name in LOADERS:
            if name == "litData" and find_spec("litdata") is None:
                print(f"{name:30} not installed")
                continue
            results[name] = best(name, large)
            print(f"{name:30} {results[name]['mtok_per_s']:6.1f}   {results[name]['mtok_per_cpu_s']:10.1f}", flush=True)
        many = write_set(Path(scratch, "many"), given.groups * CAPACITY, group_tokens=CAPACITY)
        runs = [alone(measure_first_batch, many)["seconds"] for _ in range(REPEATS)]
        results["first batch"] = {"seconds": statistics.median(runs)}
        print(f"first batch of {given.groups:,} row groups: {results['first batch']['seconds']:.3f} s")
        results["memory"] = alone(measure_memory, large)
        print("resident MiB: " + ", ".join(f"{name} {value:.0f}" for name, value in results["memory"].items()))
    if given.json:
        versions = {name: metadata.version(name) for name in ("pyarrow", "torch", "numpy")}
        machine = {"cpu": platform.processor() or platform.machine(), "python": platform.python_version(), **versions}
        given.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
