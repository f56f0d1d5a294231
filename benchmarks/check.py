"""`check` beside `prepare` on the same records: what the rules cost that prepare also runs, and what the others add.

    python -m benchmarks.check [--records N] [--runs R]

Whole processes, one worker each, taken in turns; seconds of processor time (user and system), which another's work on
the machine disturbs least. `row rules` are those of every record's way to tokens; `all rules` adds those about texts
and about the dataset.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.corpus import data_folder, write_chats
from sftdata.rules import RULES

__all__ = ["main"]

_ROW = sorted(code for code, one in RULES.items() if one.found_by in {"row", "start"} and code != "SFT003")


def seconds(command: list[str]) -> float:
    """Processor time of one run of the command line, its start included."""
    before = os.times()
    done = subprocess.run([sys.executable, "-m", "sftdata_cli", *command], capture_output=True, check=False)
    after = os.times()
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr.decode())
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Print medians and ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_chats(Path(folder) / "chats.jsonl", given.records)
        tokenizer = data_folder() / "tokenizers" / "qwen2.5"
        served = [str(path), "--tokenizer", str(tokenizer), "--template", "qwen2.5", "--max-length", "2048", "-q"]
        out = Path(folder) / "out"
        quiet = ["--format", "concise", "--output", os.devnull]
        cases = {
            "prepare": ["prepare", *served, "--out", str(out)],
            "check, row rules": ["check", *served, *quiet, *(part for code in _ROW for part in ("--select", code))],
            "check, all rules": ["check", *served, *quiet],
        }
        found: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(given.runs):
            for name, command in cases.items():
                shutil.rmtree(out, ignore_errors=True)
                found[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratios = {name: round(value / medians["prepare"], 2) for name, value in medians.items()}
    told = {name: round(value, 2) for name, value in medians.items()}
    print(json.dumps({"records": given.records, "cpu_seconds": told, "times_prepare": ratios}, indent=2))


if __name__ == "__main__":
    main()
