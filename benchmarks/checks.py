"""The share of `prepare`'s time that the checks of every row take, by CPU time within one run.

    python -m benchmarks.checks [--records N] [--turns T] [--tokenizer FOLDER]

One process prepares chats; what belongs to a check is timed where it is called, by CPU time of the process (user and
system), and divided by that of the whole run. Timed are the second opinions: decoded replies (`TokenBytes.otherwise`,
`RoundTrip`), the tails of prompts encoded by themselves (`Joint._learn`), the weights of finished documents (`Scale`),
what a template loses (`Kept`), generation marks (`second_opinion`), the sampled comparison of both engines, and, where
a text is encoded in pieces, the joint encoding that the pieces are held to (the second of `Encoder._encode_quick`).
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import sftdata
from benchmarks.corpus import data_folder, write_chats
from sftdata.pipeline.workshop import Workshop
from sftdata.templates import turns
from sftdata.templates.kept import Kept
from sftdata.tokenizers.encode import Encoder
from sftdata.tokenizers.engines import FastEngine, ReferenceEngine
from sftdata.tokenizers.joint import Joint
from sftdata.tokenizers.roundtrip import RoundTrip
from sftdata.tokenizers.token_bytes import TokenBytes
from sftdata.tokenizers.weigh import Scale

__all__ = ["main", "measure"]

CHECKS: tuple[tuple[str, Any, str], ...] = (
    ("decoded replies", TokenBytes, "otherwise"),
    ("decoded replies", RoundTrip, "batch"),
    ("decoded replies", RoundTrip, "documents"),
    ("tails alone", Joint, "_learn"),
    ("weights", Scale, "otherwise"),
    ("fields lost", Kept, "missing"),
    ("generation marks", turns, "second_opinion"),
    ("both engines", Workshop, "compare"),
)


def measure(path: Path, tokenizer: str, template: str, folder: Path) -> dict[str, float]:
    """CPU seconds of the whole run and of every kind of check, in one process."""
    spent: defaultdict[str, float] = defaultdict(float)
    inside = [0]

    def timed(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*args: Any, **options: Any) -> Any:
            began = time.process_time()
            inside[0] += 1
            try:
                return real(*args, **options)
            finally:
                inside[0] -= 1
                if not inside[0]:
                    spent[name] += time.process_time() - began

        return call

    calls = [2]

    def quick(self: Encoder, *args: Any) -> Any:
        calls[0] = 0
        try:
            return quickly(self, *args)
        finally:
            calls[0] = 2

    def encode(real: Callable[..., Any]) -> Callable[..., Any]:
        joint = timed("joint beside pieces", real)

        def call(*args: Any) -> Any:
            calls[0] += 1
            return joint(*args) if calls[0] == 2 else real(*args)

        return call

    quickly = Encoder._encode_quick
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Encoder, "_encode_quick", quick))
        for engine in (FastEngine, ReferenceEngine):
            stack.enter_context(mock.patch.object(engine, "encode", encode(engine.encode)))
        for name, owner, attribute in CHECKS:
            stack.enter_context(mock.patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        began = time.process_time()
        sftdata.prepare(
            str(path),
            tokenizer=tokenizer,
            template=template,
            max_length=2048,
            clock="2026-01-01",
            out=str(folder / "out"),
        )
        whole = time.process_time() - began
    return {"whole": whole, **dict(sorted(spent.items()))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print seconds and shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--tokenizer", help="by default qwen2.5 of the real data")
    parser.add_argument("--template", default="qwen2.5")
    options = parser.parse_args(arguments)
    tokenizer = options.tokenizer or str(data_folder() / "tokenizers" / "qwen2.5")
    with tempfile.TemporaryDirectory(prefix="sftdata-bench-") as scratch:
        folder = Path(scratch)
        path = write_chats(folder / "chats.jsonl", options.records, turns=options.turns)
        seconds = measure(path, tokenizer, options.template, folder)
    whole = seconds.pop("whole")
    checks = sum(seconds.values())
    print(
        json.dumps({"cpu_seconds": whole, "checks_cpu_seconds": checks, "share": checks / whole, **seconds}, indent=2)
    )


if __name__ == "__main__":
    main()
