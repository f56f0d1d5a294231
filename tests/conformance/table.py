"""`make conformance`: what becomes of every template on every shape of conversation, and why, as a table.

    python -m tests.conformance.table [FOLDER | TEMPLATES.jsonl]... [--tokenizer NAME]... [--workers N]

Without arguments: the original templates of the installed `trl`, those of `../shared/data/templates.jsonl` where that
is there, and the carried ones, with the carried tokenizer. Exit code 1 on any silent difference from the oracle, and on
any refusal that the design does not allow.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer as NativeTokenizer

from tests.conformance.harness import (
    SHAPES,
    Bench,
    Verdict,
    base_tokenizer,
    carried,
    from_folder,
    from_lines,
    trl_templates,
)
from tests.conformance.masks import CATEGORIES, Difference, compare

__all__ = ["Row", "main", "row"]

MASK_SHAPES = ("single", "two turns", "reasoning", "tool call")


class Row(NamedTuple):
    """One template: for every shape the verdict by default, and the one with the flags that a refusal names."""

    name: str
    verdicts: dict[str, tuple[Verdict, Verdict | None]]


@cache
def _base(name: str) -> NativeTokenizer:
    return base_tokenizer(name)


def row(source: tuple[str, str], tokenizer: str = "builtin", shapes: Sequence[str] = tuple(SHAPES)) -> Row:
    """Judge one template, given as (name, source)."""
    bench = Bench(source[1], _base(tokenizer))
    return Row(source[0], {shape: bench.best(SHAPES[shape]) for shape in shapes})


def masks(pair: tuple[str, str, str]) -> tuple[str, dict[str, list[Difference] | None]]:
    """Compare one original with its patched variant: (name, original, patched)."""
    name, original, patched = pair
    return name, {shape: compare(original, patched, _base("builtin"), SHAPES[shape]) for shape in MASK_SHAPES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print everything; 1 where something is silently different or refused without need."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.table", description="Conformance of templates")
    parser.add_argument("sources", nargs="*", type=Path, metavar="FOLDER|JSONL")
    parser.add_argument("--tokenizer", action="append", help="builtin, or a tokenizer's folder; may be repeated")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    templates = _given(options.sources) if options.sources else _known()
    bad = 0
    with ProcessPoolExecutor(options.workers) as pool:
        for tokenizer in options.tokenizer or ["builtin"]:
            rows = list(pool.map(partial(row, tokenizer=tokenizer), templates.items()))
            bad += _print_rows(rows, tokenizer)
        if not options.sources:
            _print_masks(dict(pool.map(masks, _pairs())))
    print(f"\nsilent differences and refusals without need: {bad}")
    return 1 if bad else 0


def _known() -> dict[str, str]:
    found = {f"trl/{name}": source for name, source in trl_templates().items()}
    named = os.environ.get("SFTDATA_TEST_DATA")
    shared = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    lines = shared / "templates.jsonl"
    if lines.is_file():
        found |= {f"public/{name}": source for name, source in from_lines(lines).items()}
    else:
        print("no templates.jsonl: ../shared/data is missing and SFTDATA_TEST_DATA names no folder that has it")
    return found | {f"carried/{name}": source for name, source in carried().items()}


def _given(sources: Sequence[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sources:
        found |= from_folder(path) if path.is_dir() else from_lines(path)
    return found


def _pairs() -> list[tuple[str, str, str]]:
    originals = trl_templates()
    patched = trl_templates(training=True)
    return [
        (name.removesuffix("_training"), originals[name.removesuffix("_training")], patched[name]) for name in patched
    ]


def _print_rows(rows: Sequence[Row], tokenizer: str) -> int:
    print(f"\n# Templates with the tokenizer {tokenizer!r}\n")
    print("exact: one example; N examples: history is rewritten, one example a stretch; SFTnnn: refused by that rule;")
    print("behind an arrow: with the flags that the refusal names (+eos: --append-eos, +empty: --reasoning empty)\n")
    width = max(len(one.name) for one in rows)
    cells = {one.name: {shape: _cell(*pair) for shape, pair in one.verdicts.items()} for one in rows}
    widths = {shape: max(len(shape), *(len(line[shape]) for line in cells.values())) for shape in SHAPES}
    print(" " * width, *(shape.ljust(widths[shape]) for shape in SHAPES), sep="  ")
    for name, line in cells.items():
        print(name.ljust(width), *(line[shape].ljust(widths[shape]) for shape in SHAPES), sep="  ")
    _print_refusals(rows)
    _print_counts(rows)
    return _print_faults(rows)


def _cell(first: Verdict, second: Verdict | None) -> str:
    return _word(first) if second is None else f"{_word(first)} > {_word(second)}"


_SHORT = {"--append-eos": "+eos", "--reasoning empty": "+empty"}


def _word(verdict: Verdict) -> str:
    said = verdict.code or ("exact" if verdict.outcome == "exact" else f"{verdict.examples} examples")
    return " ".join([said + ("!" if verdict.faults else ""), *(_SHORT[flag] for flag in verdict.flags)])


def _print_refusals(rows: Sequence[Row]) -> None:
    print("\n## Why refused\n")
    for one in rows:
        reasons: dict[str, list[str]] = {}
        for shape, (first, second) in one.verdicts.items():
            final = second or first
            if final.code:
                reasons.setdefault(final.note, []).append(shape)
        for note, shapes in reasons.items():
            print(f"{one.name}: {note[:160]!r} on {', '.join(shapes)}")


def _print_counts(rows: Sequence[Row]) -> None:
    print(f"\n## Counts over {len(rows)} templates (by default | with the named flags)\n")
    for shape in SHAPES:
        counts = [Counter(pair[0].outcome for pair in (one.verdicts[shape] for one in rows))]
        counts.append(Counter((pair[1] or pair[0]).outcome for pair in (one.verdicts[shape] for one in rows)))
        words = [" ".join(f"{count[kind]:3} {kind}" for kind in ("exact", "unrolled", "refused")) for count in counts]
        print(f"{shape:18} {words[0]} | {words[1]}")


def _print_faults(rows: Sequence[Row]) -> int:
    bad = 0
    for one in rows:
        for shape, pair in one.verdicts.items():
            for verdict in filter(None, pair):
                for fault in verdict.faults:
                    bad += 1
                    print(f"FAULT {one.name}, {shape} {' '.join(verdict.flags)}: {fault[:1000]}")
    return bad


def _print_masks(compared: dict[str, dict[str, list[Difference] | None]]) -> None:
    print("\n# Our masks beside those of TRL's patched templates (transformers' assistant mask)\n")
    totals: Counter[str] = Counter()
    for name, shapes in sorted(compared.items()):
        for shape, turns in shapes.items():
            if turns is None:
                continue
            for number, turn in enumerate(turns, start=1):
                totals.update(turn.categories)
                if turn.categories == ("same",):
                    continue
                print(f"{name}, {shape}, reply {number}: {', '.join(turn.categories)}")
                if not {"whitespace behind the stop", "same"}.issuperset(turn.categories):
                    print(f"    ours   {turn.ours!r}\n    theirs {turn.theirs!r}")
    print()
    for kind, meaning in CATEGORIES.items():
        print(f"{totals[kind]:4} {kind}: {meaning}")


if __name__ == "__main__":
    sys.exit(main())
