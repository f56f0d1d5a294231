"""`python -m tests.conformance.mutations`: faults of every kind, injected where they arise, and what finds each.

The faults are those of `faults`. After them the same without any, on the real data at hand: nothing may be found there
that would say tokens are wrong. Exit code 1 where a fault is missed or a clean dataset is not clean.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sftdata
from sftdata.errors import SftdataError
from sftdata.pipeline.drift import drift
from sftdata.shards import verify
from tests.conformance.faults import FAULTS, found_by

__all__ = ["clean", "main"]

LAWS = frozenset({"SFT018", "SFT403", "SFT405", "SFT410", "SFT417", "SFT502", "SFT506", "SFT510"})
"""Rejections that clean data cannot have: each would say that tokens are wrong."""


def clean(files: Sequence[Path], tokenizer: Path, folder: Path, **options: Any) -> set[str]:
    """What is found in one output of real files where nothing was injected: must be nothing."""
    settings = {"template": "chatml", "max_length": 32_768, "max_reject_rate": 1.0, "clock": "2026-01-01", **options}
    outcome = sftdata.prepare(
        list(map(str, files)), tokenizer=str(tokenizer), out=str(folder), engine_sample=1.0, **settings
    )
    problems = [*verify(folder).problems, *drift(str(folder), str(tokenizer)).problems]
    return {*LAWS.intersection(outcome.report["ledger"]["rejections"]), *(one.code for one in problems)}


def _real() -> Path | None:
    named = os.environ.get("SFTDATA_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    return folder if folder.is_dir() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a fault and one a clean dataset; 1 where a fault is missed or something clean is not."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.mutations", description="Faults and who finds them"
    )
    parser.add_argument("--place", action="append", help="only faults of this place; may be repeated")
    options = parser.parse_args(arguments)
    missed = alarms = runs = 0
    chosen = [fault for fault in FAULTS if not options.place or fault.place in options.place]
    with tempfile.TemporaryDirectory() as scratch:
        base = found_by(None, Path(scratch, "base"))
        assert not any(base.values()), f"found where nothing is wrong: {base}"
        for number, fault in enumerate(chosen):
            found = found_by(fault, Path(scratch, str(number)))
            who = next((f"{name} {' '.join(sorted(codes))}" for name, codes in found.items() if codes), "MISSED")
            missed += who == "MISSED"
            print(f"{fault.place:10} {fault.name:52} {who}", flush=True)
        real = _real()
        if real is not None and not options.place:
            for tokenizer in ("qwen2.5", "minimind", "phi-3-mini"):
                template = "phi-3" if tokenizer == "phi-3-mini" else "chatml"
                for path in sorted((real / "datasets").rglob("*.json*")):
                    out = Path(scratch, f"clean-{runs}")
                    found_here = _clean_or_refused(path, real / "tokenizers" / tokenizer, out, template)
                    runs += 1
                    alarms += bool(found_here)
                    if found_here:
                        print(f"FALSE ALARM {tokenizer} {path.relative_to(real)}: {' '.join(sorted(found_here))}")
    print(f"\n{len(chosen)} faults, {missed} missed; {runs} runs over clean data, {alarms} with a false alarm")
    return 1 if missed or alarms else 0


def _clean_or_refused(path: Path, tokenizer: Path, out: Path, template: str) -> set[str]:
    try:
        return clean([path], tokenizer, out, template=template)
    except SftdataError as error:
        # nothing of the file is a chat, or nothing of it can be trained: there is no output to look at
        return set() if not (out / "manifest.json").is_file() else {str(error)[:80]}


if __name__ == "__main__":
    sys.exit(main())
