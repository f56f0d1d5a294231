"""Kill `prepare` at random and resume it: `make torture` does so 100 times and prints where the kills struck.

A kill is SIGKILL to the whole run, to its main process alone (its workers find out by themselves), or to one worker
(the run has to get over it); on a Ray cluster, to a node (the same) or to the driver. After every kill what lies there
must not pass for a dataset; after at most some kills the run is left to end, and the dataset must be, byte for byte,
that of a run that nobody disturbed.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["VICTIMS", "main", "torture", "torture_ray"]

_ROOT = Path(__file__).resolve().parents[1]
_PATIENCE = 120
"""Seconds after which a run of these few records hangs."""
VICTIMS = ("everything", "the main process", "a worker")
_STAGES = ("reading inputs", "preparing", "sealing")


def main() -> None:
    """100 kills, or as many as are asked for."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        counts = torture(kills, Path(folder), seed=seed, workers=5, say=print)
        if importlib.util.find_spec("ray"):
            counts += torture_ray(-(-kills // 10), Path(folder) / "ray", seed=seed, say=print)
    print(f"\n{sum(counts.values())} kills (seed {seed}), each resumed to the same bytes:")
    for (stage, victim), count in sorted(counts.items()):
        print(f"  {count:>4} x {victim} while {stage}")


def torture(
    kills: int,
    folder: Path,
    *,
    seed: int,
    kills_a_run: int = 4,
    workers: int = 3,
    victims: tuple[str, ...] = VICTIMS,
    say: Callable[[str], None] = lambda _: None,
) -> Counter[tuple[str, str]]:
    """Kill runs of 1 to `workers` workers `kills` times in all, each at most `kills_a_run` times.

    Returns how many kills struck which stage and whom.

    Raises AssertionError where a run that was killed ends in other bytes, or leaves half a dataset that looks whole.
    """
    draw = random.Random(seed)
    inputs = _inputs(folder)
    whole = folder / "whole"
    durations = _undisturbed(inputs, whole)
    expected = _contents(whole)
    counts: Counter[tuple[str, str]] = Counter()
    number = 0
    while sum(counts.values()) < kills:
        out = folder / f"run-{number}"
        number += 1
        for _ in range(draw.randint(1, kills_a_run)):
            if sum(counts.values()) < kills:
                stage = draw.choice(_STAGES)
                delay, count = draw.uniform(0, durations[stage]), draw.randint(1, workers)
                counts.update(_disturbed(inputs, out, stage, delay, count, draw.choice(victims)))
        _finish(inputs, out, draw.randint(1, min(2, workers)))
        assert _contents(out) == expected, f"seed {seed}: {out.name} ended in other bytes"
        say(f"{sum(counts.values())} kills, {number} runs")
    return counts


def torture_ray(
    kills: int, folder: Path, *, seed: int, say: Callable[[str], None] = lambda _: None
) -> Counter[tuple[str, str]]:
    """Kill nodes of a Ray cluster, and drivers, `kills` times in all, each time in another run; as `torture` else."""
    from benchmarks.ray_nodes import Nodes

    draw = random.Random(seed)
    folder.mkdir()
    inputs = _inputs(folder)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Nodes(3)
    os.environ["RAY_ADDRESS"] = nodes.address
    _undisturbed(inputs, folder / "whole")
    expected = _contents(folder / "whole")
    duration = _undisturbed(inputs, folder / "quiet", "ray")["preparing"]
    assert _contents(folder / "quiet") == expected
    counts: Counter[tuple[str, str]] = Counter()
    while sum(counts.values()) < kills:
        out = folder / f"run-{len(list(folder.iterdir()))}"
        process = _start(inputs, out, 1, "ray")
        _await_stage(process, "preparing")
        time.sleep(draw.uniform(0, duration))
        victim = draw.choice(("a node", "the driver"))
        counts[("preparing", victim)] += process.poll() is None
        if victim == "the driver":
            process.kill()
        else:
            nodes.kill(draw.choice(nodes.ids))
            nodes.add()
        _, told = process.communicate(timeout=_PATIENCE)
        assert victim == "the driver" or process.returncode == 0, told
        _half_done_is_no_dataset(out)
        _finish(inputs, out, 1, "ray")
        assert _contents(out) == expected, f"seed {seed}: {out.name} ended in other bytes"
        say(f"{sum(counts.values())} kills on Ray")
    nodes.stop()
    return counts


def _inputs(folder: Path) -> list[Path]:
    """Seven files: plain, compressed, with records that are rejected; each is a unit of its own."""
    paths = []
    for part in range(7):
        path = folder / (f"in-{part}.jsonl.gz" if part == 3 else f"in-{part}.jsonl")
        lines = []
        for n in range(400):
            reply = f"It is {part * n}. " * (1 + n % 9)
            chat = [{"role": "user", "content": f"{part} times {n}?"}, {"role": "assistant", "content": reply}]
            lines.append(json.dumps({"messages": chat if n % 50 else []}))
        data = "\n".join(lines).encode() + b"\n{broken\n"
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        paths.append(path)
    return paths


def _start(inputs: list[Path], out: Path, workers: int, engine: str = "local") -> subprocess.Popen[str]:
    job = {"inputs": [str(path) for path in inputs], "out": str(out), "workers": workers, "engine": engine}
    command = [sys.executable, "-m", "benchmarks.torture", "--child", json.dumps(job)]
    return subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def _undisturbed(inputs: list[Path], out: Path, engine: str = "local") -> dict[str, float]:
    """Run to the end; returns the seconds that every stage takes."""
    process = _start(inputs, out, 1, engine)
    begun = [(_await_stage(process, stage), time.monotonic())[1] for stage in _STAGES]
    _, told = process.communicate()
    assert process.returncode == 0, told
    ends = [*begun[1:], time.monotonic()]
    return {stage: max(end - begin, 0.01) for stage, begin, end in zip(_STAGES, begun, ends, strict=True)}


def _await_stage(process: subprocess.Popen[str], stage: str) -> bool:
    """Wait until the run says that `stage` begins; False where it ended before."""
    assert process.stdout is not None
    return any(line.strip() == stage for line in process.stdout)


def _disturbed(
    inputs: list[Path], out: Path, stage: str, delay: float, workers: int, victim: str
) -> list[tuple[str, str]]:
    """Run, and kill `victim` `delay` seconds into `stage`; returns both, or nothing where the run ended before."""
    process = _start(inputs, out, max(workers, 2) if victim == "a worker" else workers)
    _await_stage(process, stage)
    time.sleep(delay)
    children = _children(process.pid)
    running = process.poll() is None
    if victim == "a worker" and children:
        os.kill(children[-1], signal.SIGKILL)
    elif victim == "a worker":
        running = False
    elif victim == "everything" and running:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    _, told = process.communicate(timeout=_PATIENCE)
    if victim == "a worker":
        assert process.returncode == 0, told
    elif process.returncode == 0:
        running = False  # it was done before the signal came
    if process.returncode != 0:
        _half_done_is_no_dataset(out)
    return [(stage, victim)] if running else []


def _children(pid: int) -> list[int]:
    """Worker processes of a run; its resource tracker is none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


def _half_done_is_no_dataset(out: Path) -> None:
    from sftdata.shards import verify

    if (out / "manifest.json").exists():
        assert verify(str(out)).problems == [], "a manifest, and no whole dataset"


def _finish(inputs: list[Path], out: Path, workers: int, engine: str = "local") -> None:
    process = _start(inputs, out, workers, engine)
    _, told = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 0, told


def _contents(folder: Path) -> dict[str, bytes]:
    """Every file but the report, which holds times and addresses."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith("report.")}


class _Told:
    """Says on standard output which stage begins."""

    def stage(self, name: str, total: int | None) -> None:  # noqa: ARG002
        print(name, flush=True)

    def advance(self, records: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def _child(job: dict[str, Any]) -> None:
    from sftdata.config import build_config
    from sftdata.pipeline.run import run_prepare

    options = {"tokenizer": "builtin", "template": "chatml", "max_length": 256, "clock": "2026-01-01", "eval": "0.05"}
    run_prepare(build_config({**options, "max_reject_rate": 0.1, **job}), _Told(), unit_bytes=1)


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--child":
        _child(json.loads(sys.argv[2]))
    else:
        main()
