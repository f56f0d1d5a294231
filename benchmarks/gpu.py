"""Speed and memory of training on one GPU: a ladder of ingredients, and TRL on the same shards with the same attention.

    python -m benchmarks.gpu --model 0.5b --out gpu.json
    python -m benchmarks.gpu --smoke                         (a tiny model, on the CPU: that it runs, not how fast)

Needs torch, transformers, numpy, pyarrow, msgspec, `sftdata.shards` and `sftdata_torch`; TRL, datasets and flashoptim
where they are installed, else their lines say what is missing. A line is printed, and `--out` written, as soon as it is
measured; a case that fails, or for which no time is left, is a line that says so. Weights are random: speed and memory
do not depend on them. Tokens/s counts real tokens. MFU is (6 N + 6 L q Σlen²/Σlen) · tokens/s over 989 TFLOP/s, N all
matrix weights with the head; beside it the same over the matmul rate measured here; `done` counts the head for
projected rows only.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, linear

from benchmarks.gpu_cases import CASES, Bench, Case, batches, made, wait
from benchmarks.synthetic import write_set
from sftdata_torch.collate import PackedCollator
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.isolation import assert_packing_isolated
from sftdata_torch.loss import chunked_cross_entropy
from sftdata_torch.modes import MODES
from sftdata_torch.plan import ModelSize, predict, size_of

DATASHEET = 989e12
"""bfloat16 operations a second of an H100 or H200, dense."""


def matmul_rate(device: torch.device) -> float:
    """Operations a second of a large product in bfloat16, the best of ten."""
    side = 8192 if device.type == "cuda" else 256
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        wait(device)
        began = time.perf_counter()
        left @ right
        wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def check_head(device: torch.device) -> str:
    """The chunked head in bfloat16 against float64: relative errors of loss and of both gradients."""
    torch.manual_seed(0)
    rows, width, vocab = 512, 256, 4096
    hidden = torch.randn(rows, width, device=device, requires_grad=True)
    weight = (torch.randn(vocab, width, device=device) / 16).requires_grad_()
    targets = torch.randint(0, vocab, (rows,), device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        nll, _ = chunked_cross_entropy(hidden, weight, targets, chunk_bytes=100 * vocab * 6)
    got = [nll.detach(), *torch.autograd.grad(nll, (hidden, weight))]
    exact = cross_entropy(linear(hidden.double(), weight.double()), targets, reduction="sum")
    want = [exact.detach(), *torch.autograd.grad(exact, (hidden, weight))]
    errors = [float((a.double() - b).norm() / b.double().norm()) for a, b in zip(got, want, strict=True)]
    if max(errors) > 2e-2:
        raise SystemExit(f"the head is wrong on this device: relative errors {errors}")
    return "head in bfloat16 against float64, relative errors of loss, d hidden, d weight: " + ", ".join(
        f"{error:.1e}" for error in errors
    )


def operations(size: ModelSize, bench: Bench) -> tuple[float, float]:
    """A token's operations, with the head for every row and for the projected rows only."""
    rows = [bench.dataset[at] for at in range(min(64, len(bench.dataset)))]
    lengths = np.concatenate([row["seq_lengths"] for row in rows]).astype(np.float64)
    trained = np.concatenate([row["labels"] for row in rows]) != -100
    attention = 6 * size.layers * size.query * float((lengths**2).sum() / lengths.sum())
    head = size.vocabulary * size.hidden
    all_rows = 6 * size.matmul_weights + attention
    return all_rows, all_rows - 6 * head * (1 - float(trained.mean()))


def measure(bench: Bench, case: Case) -> dict[str, Any]:
    """One line: numbers, or why there are none."""
    missing = [name for name in case.needs if importlib.util.find_spec(name) is None]
    if missing:
        return {"case": case.name, "gap": f"{', '.join(missing)} is not installed"}
    if time.perf_counter() > bench.until:
        return {"case": case.name, "gap": "no time left (--minutes)"}
    try:
        run = case.go(bench)
    except Exception as error:  # noqa: BLE001  # out of memory, or a library that moved: the rest goes on
        first = next(iter(str(error).splitlines()), "")
        return {"case": case.name, "gap": f"{type(error).__name__}: {first[:200]}"}
    finally:
        gc.collect()
        torch.compiler.reset()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    if not run.seconds:
        return {"case": case.name, "gap": "no time left (--minutes)"}
    cuts = range(0, len(run.seconds), bench.steps)
    medians = [statistics.median(run.seconds[at : at + bench.steps]) for at in cuts]
    speed = bench.bins * bench.capacity / statistics.median(medians)
    peak = {"allocated_gib": run.allocated / 2**30, "reserved_gib": run.reserved / 2**30}
    numbers = {"tokens_per_second": speed, "steps": len(run.seconds), **peak, "losses": run.losses}
    return {"case": case.name, **numbers}


HEADER = f"{'':<24}{'tokens/s':>11}{'MFU 989':>9}{'measured':>9}{'done':>7}{'peak GiB':>10}{'reserved':>10}{'plan':>8}"


def line(bench: Bench, size: ModelSize, rate: float, case: Case, result: Mapping[str, Any]) -> str:
    """A row of the table."""
    if "gap" in result:
        return f"{case.name:<24}{result['gap']}"
    with_head, done = operations(size, bench)
    speed = result["tokens_per_second"]
    shares = (with_head * speed / DATASHEET, with_head * speed / rate, done * speed / DATASHEET)
    text = f"{shares[0]:>9.1%}{shares[1]:>9.1%}{shares[2]:>7.1%}"
    return (
        f"{case.name:<24}{speed:>11,.0f}{text}{result['allocated_gib']:>10.2f}{result['reserved_gib']:>10.2f}"
        f"{_planned(bench, size, case):>8}"
    )


def overlaid(curves: Mapping[str, list[float]]) -> str | None:
    """The losses of both trainers over each other; None where one of them has no line."""
    names = ("+ chunked head (fast)", "TRL, no checkpointing")
    if any(name not in curves for name in names):
        return None
    pairs = list(zip(*(curves[name] for name in names), strict=False))
    largest = max(abs(ours - theirs) for ours, theirs in pairs)
    return f"losses over each other: largest difference {largest:.1e} in {len(pairs)} steps"


def _planned(bench: Bench, size: ModelSize, case: Case) -> str:
    if case.predicted is None:
        return ""
    mode, optimizer = case.predicted
    tokens, cuda = bench.bins * bench.capacity, bench.device.type == "cuda"
    memory = predict(size, MODES[mode], tokens=tokens, optimizer=optimizer, accumulates=False, cuda=cuda)
    return f"{memory.peak / 2**30:.2f}"


def set_up(folder: Path, given: argparse.Namespace) -> Bench:
    """Shards, and the numbers of the run."""
    smoke = given.smoke
    device = torch.device("cuda" if torch.cuda.is_available() and not smoke else "cpu")
    capacity, vocab = (256, 512) if smoke else (4096, 151_936)
    warmup, steps, repeats = (1, 2, 1) if smoke else (10, 20, 3)
    bins = 2 if smoke else given.tokens // capacity
    write_set(folder, capacity * bins * (warmup + steps * repeats), capacity=capacity, vocab=vocab)
    model = "tiny" if smoke else given.model
    dataset = PackedDataset(folder, seed=None)
    until = time.perf_counter() + 60 * given.minutes
    return Bench(model, vocab, folder, dataset, device, bins, warmup, steps, repeats, capacity, until)


def main() -> None:
    """Read the command line, run every case, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["0.5b", "1.5b"], default="0.5b")
    parser.add_argument("--tokens", type=int, default=16384, help="of a micro-batch")
    parser.add_argument("--minutes", type=float, default=9.0, help="no step is begun after so long (default 9)")
    parser.add_argument("--smoke", action="store_true", help="a tiny model on the CPU, without compilation")
    parser.add_argument("--out", type=Path, help="all numbers as JSON")
    given = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # TRL would spread over all GPUs
    if not given.smoke and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: --smoke runs a tiny model on the CPU")
    with tempfile.TemporaryDirectory() as folder:
        bench = set_up(Path(folder), given)
        name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU"
        size = size_of(model := made(bench), model.config)
        print(f"{name}, torch {torch.__version__}, {bench.model}: {size.weights / 1e6:.0f} M weights", flush=True)
        first = next(batches(bench, PackedCollator()))
        with torch.autocast(bench.device.type, dtype=torch.bfloat16, enabled=bench.device.type == "cuda"):
            assert_packing_isolated(model, first)
        del model
        rate = matmul_rate(bench.device)
        print(
            f"{check_head(bench.device)}\nmatmul {rate / 1e12:.1f} TFLOP/s; packed documents are isolated", flush=True
        )
        print(HEADER, flush=True)
        results: list[dict[str, Any]] = []
        for case in CASES:
            skipped = given.smoke and case.compiles
            result = {"case": case.name, "gap": "not in a smoke test"} if skipped else measure(bench, case)
            print(line(bench, size, rate, case, result), flush=True)
            results.append(result)
            if given.out:
                about = {"device": name, "torch": torch.__version__, "model": given.model, "cases": results}
                given.out.write_text(json.dumps(about, indent=1))
        compared = overlaid({each["case"]: each["losses"] for each in results if "losses" in each})
        if compared:
            print(compared, flush=True)


if __name__ == "__main__":
    main()
