"""`prepare` beside the raw tokenizer that all peers are bound by, on the same texts in the same run.

    python -m benchmarks.prepare [--records N] [--turns T] [--runs R] [--workers W] [--peers]

Both sides are whole processes. The stick is `tokenizers.encode_batch_fast` with 2 threads over the rendered texts, in
batches of 10,000, nothing else done; its time is that of the encoding loop alone, without start-up or loading. The
time of `prepare` is the whole process, start-up included and reported apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.corpus import data_folder, write_chats

__all__ = ["main", "measure"]

_RAW = """
import json, sys, time
import orjson
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[2])
system = "<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n"
texts = []
for line in open(sys.argv[1], "rb"):
    turns = orjson.loads(line)["messages"]
    texts.append(system + "".join(f"<|im_start|>{t['role']}\\n{t['content']}<|im_end|>\\n" for t in turns))
began = time.perf_counter()
tokens = 0
for at in range(0, len(texts), 10000):
    tokens += sum(map(len, tokenizer.encode_batch_fast(texts[at:at + 10000], add_special_tokens=False)))
print(json.dumps({"seconds": time.perf_counter() - began, "tokens": tokens}))
"""


def raw(path: Path, tokenizer: Path, threads: int = 2) -> dict[str, float]:
    """Seconds and tokens of the stick."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-c", _RAW, str(path), str(tokenizer / "tokenizer.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def prepare(path: Path, tokenizer: Path, out: Path, workers: int) -> dict[str, float]:
    """Seconds of the whole process, peak memory of its largest process in MiB."""
    shutil.rmtree(out, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "sftdata_cli", "prepare", str(path), "--tokenizer", str(tokenizer)),
        *("--template", "qwen2.5", "--max-length", "2048", "--clock", "2026-01-01", "--out", str(out)),
        *("--workers", str(workers), "--quiet", "--format", "json"),
    ]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    report = json.loads(done.stdout)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    records, tokens = report["ledger"]["records"], report["ledger"]["tokens"]
    return {"seconds": seconds, "records": records["written"], "tokens": tokens["written"], "peak_mib": peak}


def measure(records: int, turns: int, runs: int, workers: int, folder: Path) -> dict[str, float]:
    """Medians over `runs` alternating runs, and the ratio that matters."""
    tokenizer = data_folder() / "tokenizers" / "qwen2.5"
    path = write_chats(folder / f"chats-{records}-{turns}.jsonl", records, turns=turns)
    startup = prepare(write_chats(folder / "one.jsonl", 1), tokenizer, folder / "out", workers)["seconds"]
    sticks, ours = [], []
    for _ in range(runs):
        sticks.append(raw(path, tokenizer))
        ours.append(prepare(path, tokenizer, folder / "out", workers))
    ratios = [stick["seconds"] / mine["seconds"] for stick, mine in zip(sticks, ours, strict=True)]
    seconds = statistics.median(one["seconds"] for one in ours)
    return {
        "records": records,
        "turns": turns,
        "workers": workers,
        "tokens": ours[0]["tokens"],
        "raw_seconds": statistics.median(one["seconds"] for one in sticks),
        "prepare_seconds": seconds,
        "startup_seconds": startup,
        "records_a_second": records / seconds,
        "tokens_a_second": ours[0]["tokens"] / seconds,
        "peak_mib": max(one["peak_mib"] for one in ours),
        "ratio_median": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "ratio_without_startup": statistics.median(
            stick["seconds"] / (mine["seconds"] - startup) for stick, mine in zip(sticks, ours, strict=True)
        ),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sftdata-bench-") as folder:
        result = measure(options.records, options.turns, options.runs, options.workers, Path(folder))
    print(json.dumps(result, indent=2))
    print(
        f"prepare, {options.workers} workers: {result['ratio_median']:.2f} times as fast as raw encode_batch_fast with "
        f"2 threads ({result['ratio_lowest']:.2f} to {result['ratio_highest']:.2f} over {options.runs} runs), "
        f"peak {result['peak_mib']:.0f} MiB a process",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
