"""`make bench`: every measurement of this folder, one after another, each with its own command line.

    python -m benchmarks.run [--quick]

Figures differ between machines and hours; the ratios of one run are what counts. `docs/benchmarks.md` states numbers
that came from here, with the machine and the date.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys

__all__ = ["main"]

_FULL = (
    ("prepare, one turn", ("benchmarks.prepare", "--records", "500000", "--runs", "5")),
    ("prepare, sixteen turns", ("benchmarks.prepare", "--records", "40000", "--turns", "16", "--runs", "5")),
    ("prepare, 1 to 64 turns", ("benchmarks.prepare", "--curve", "turns", "--records", "256000")),
    ("prepare, 10,000 to 5 million", ("benchmarks.prepare", "--curve", "records", "--records", "5000000")),
    ("prepare beside TRL", ("benchmarks.peers", "--records", "200000", "--runs", "5")),
    ("checks of every row", ("benchmarks.checks", "--records", "50000")),
    ("packing", ("benchmarks.packing",)),
    ("check beside prepare", ("benchmarks.check", "--records", "100000", "--runs", "3")),
    ("near-duplicates", ("benchmarks.near_duplicates", "--records", "1000000")),
    ("loader", ("benchmarks.loader",)),
)
_QUICK = (
    ("prepare, one turn", ("benchmarks.prepare", "--records", "50000", "--runs", "1")),
    ("checks of every row", ("benchmarks.checks", "--records", "20000")),
    ("packing", ("benchmarks.packing", "--runs", "1")),
    ("check beside prepare", ("benchmarks.check", "--records", "20000", "--runs", "1")),
    ("near-duplicates", ("benchmarks.near_duplicates", "--records", "20000")),
)


def main() -> None:
    """Run all, or a quick few; a measurement that fails fails the run."""
    names = ("tokenizers", "fastokens", "pyarrow", "numpy", "jinja2", "trl", "transformers", "torch")
    used = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}; {used}\n", flush=True)
    for title, (module, *arguments) in _QUICK if "--quick" in sys.argv[1:] else _FULL:
        print(f"== {title}: python -m {module} {' '.join(arguments)}", flush=True)
        subprocess.run([sys.executable, "-m", module, *arguments], check=True)


if __name__ == "__main__":
    main()
