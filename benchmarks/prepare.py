"""`prepare` beside the raw tokenizer that all peers are bound by, on the same texts in the same run.

    python -m benchmarks.prepare [--records N] [--turns T] [--runs R] [--workers W]    the ratio, start-up and memory
    python -m benchmarks.prepare --curve turns [--records N]                           cost a token, 1 to 64 turns
    python -m benchmarks.prepare --curve records [--records N]                         the same, 10,000 to N records

The stick is `tokenizers.encode_batch_fast` with 2 threads over the rendered texts, in batches of 10,000, nothing else
done; its time is that of the encoding loop alone, without start-up or loading. The time of `prepare` is that of the
whole process, start-up included; start-up, which is a run over one record, is reported beside it. CPU time is that of
all processes together: it moves less than wall time where other programs run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.corpus import data_folder, write_chats
from benchmarks.processes import Ran, run

__all__ = ["Prepared", "main", "measure", "prepare", "used"]

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
began, busy = time.perf_counter(), time.process_time()
tokens = 0
for at in range(0, len(texts), 10000):
    tokens += sum(map(len, tokenizer.encode_batch_fast(texts[at:at + 10000], add_special_tokens=False)))
print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time() - busy, "tokens": tokens}))
"""
_TURNS = (1, 2, 4, 8, 16, 32, 64)


class Prepared(NamedTuple):
    """One run of `prepare`."""

    ran: Ran
    records: int
    tokens: int


def used() -> str:
    """The versions behind a figure."""
    names = ("tokenizers", "fastokens", "pyarrow", "numpy", "orjson", "jinja2")
    return ", ".join(f"{name} {version(name)}" for name in names)


def raw(path: Path, tokenizer: Path, threads: int = 2) -> dict[str, float]:
    """Seconds, CPU seconds and tokens of the stick."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    done = run([sys.executable, "-c", _RAW, str(path), str(tokenizer / "tokenizer.json")], environment)
    result: dict[str, float] = json.loads(done.output)
    return result


def prepare(path: Path, tokenizer: Path, out: Path, workers: int, *, max_length: int = 2048) -> Prepared:
    """One run of the whole command; `out` is emptied before."""
    shutil.rmtree(out, ignore_errors=True)
    ran = run(
        [
            *(sys.executable, "-m", "sftdata_cli", "prepare", str(path), "--tokenizer", str(tokenizer)),
            *("--template", "qwen2.5", "--max-length", str(max_length), "--clock", "2026-01-01", "--out", str(out)),
            *("--workers", str(workers), "--quiet", "--format", "json"),
        ]
    )
    ledger = json.loads(ran.output)["ledger"]
    return Prepared(ran, ledger["records"]["written"], ledger["tokens"]["written"])


def measure(records: int, turns: int, runs: int, workers: int, folder: Path) -> dict[str, Any]:
    """Medians over `runs` alternating runs, their spread, and the ratio that matters."""
    tokenizer, out = data_folder() / "tokenizers" / "qwen2.5", folder / "out"
    path = write_chats(folder / f"chats-{records}-{turns}.jsonl", records, turns=turns)
    startup = _startup(runs, workers, folder)
    length = 2048 if turns <= 8 else 8192
    sticks, ours = [], []
    for _ in range(runs):
        sticks.append(raw(path, tokenizer))
        ours.append(prepare(path, tokenizer, out, workers, max_length=length))
        told = f"raw {sticks[-1]['seconds']:.1f} s, prepare {ours[-1].ran.seconds:.1f} s"
        print(f"  {told}", file=sys.stderr, flush=True)
    pairs = list(zip(sticks, ours, strict=True))
    seconds = statistics.median(one.ran.seconds for one in ours)
    tokens = ours[0].tokens
    return {
        "records": records,
        "turns": turns,
        "workers": workers,
        "tokens": tokens,
        "raw_seconds": _spread([one["seconds"] for one in sticks]),
        "prepare_seconds": _spread([one.ran.seconds for one in ours]),
        "startup_seconds": startup.seconds,
        "records_a_second": round(records / seconds),
        "tokens_a_second": round(tokens / seconds),
        "ratio": _spread([stick["seconds"] / mine.ran.seconds for stick, mine in pairs]),
        "ratio_without_startup": _spread(
            [stick["seconds"] / (mine.ran.seconds - startup.seconds) for stick, mine in pairs]
        ),
        "ratio_of_cpu": _spread([stick["cpu"] / mine.ran.cpu_seconds for stick, mine in pairs]),
        "parent_mib": round(max(one.ran.parent_mib for one in ours)),
        "worker_mib": round(max(one.ran.worker_mib for one in ours)),
    }


def _startup(runs: int, workers: int, folder: Path) -> Ran:
    """The run over one record that took the median time."""
    tokenizer, one = data_folder() / "tokenizers" / "qwen2.5", write_chats(folder / "one.jsonl", 1)
    done = [prepare(one, tokenizer, folder / "out", workers).ran for _ in range(runs)]
    return sorted(done, key=lambda ran: ran.seconds)[len(done) // 2]


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "lowest": round(min(values), 2),
        "highest": round(max(values), 2),
    }


def curve(kind: str, records: int, workers: int, folder: Path) -> Iterator[dict[str, Any]]:
    """What a token costs beyond start-up, for more and more turns of as many messages, or for more and more records."""
    tokenizer, startup = data_folder() / "tokenizers" / "qwen2.5", _startup(3, workers, folder)
    sizes = [size for size in (10_000, 50_000, 200_000, 1_000_000, 5_000_000) if size < records]
    points = [(records // turns, turns) for turns in _TURNS] if kind == "turns" else [(n, 1) for n in (*sizes, records)]
    for count, turns in points:
        path = write_chats(folder / "chats.jsonl", count, turns=turns)
        one = prepare(path, tokenizer, folder / "out", workers, max_length=1 << 15)
        path.unlink()
        yield {
            "records": count,
            "turns": turns,
            "tokens": one.tokens,
            "seconds": round(one.ran.seconds, 1),
            "cpu_ns_a_token": round((one.ran.cpu_seconds - startup.cpu_seconds) / one.tokens * 1e9),
            "wall_ns_a_token": round((one.ran.seconds - startup.seconds) / one.tokens * 1e9),
            "parent_mib": round(one.ran.parent_mib),
            "worker_mib": round(one.ran.worker_mib),
        }


def main(arguments: list[str] | None = None) -> None:
    """Print one measurement, or a line a point of a curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=500_000)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--curve", choices=("records", "turns"))
    options = parser.parse_args(arguments)
    print(used(), file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="sftdata-bench-") as name:
        if options.curve:
            for point in curve(options.curve, options.records, options.workers, Path(name)):
                print(json.dumps(point), flush=True)
            return
        result = measure(options.records, options.turns, options.runs, options.workers, Path(name))
    print(json.dumps(result, indent=2))
    ratio = result["ratio"]
    print(
        f"prepare, {options.workers} workers: {ratio['median']:.2f} times as fast as raw encode_batch_fast with "
        f"2 threads ({ratio['lowest']:.2f} to {ratio['highest']:.2f} over {options.runs} runs), "
        f"peak {result['parent_mib']} MiB in the parent and {result['worker_mib']} MiB in a worker",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
