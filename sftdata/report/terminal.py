"""What a run shows on a terminal, and the plain lines it writes where there is none.

What lives here: progress, the closing summary, and the cleaning of data before it is shown. What must not: deciding
anything. Results go to standard output, progress and hints to standard error.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["NO_LIMIT", "Progress", "clean", "print_summary"]

_EVERY_SECONDS = 10.0
NO_LIMIT = 1 << 24
"""A capacity from which on no maximum length was given."""


def clean(text: str, *, limit: int = 400) -> str:
    """`text` fit for a terminal: control, bidi and invisible characters as escapes, at most `limit` characters.

    `clean("a\\x1b[31mb")` is `"a\\\\x1b[31mb"`.
    """
    shown = "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text[:limit])
    return shown + ("…" if len(text) > limit else "")


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


class Progress:
    """A bar on a terminal, a line now and then elsewhere, nothing where `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._tty = sys.stderr.isatty() and not quiet
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._name, self._total, self._done = "", 0, 0
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Progress:
        if self._tty:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("records"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins; `total` records are to come, None where that is not known."""
        self._name, self._total, self._done = name, total or 0, 0
        self._began = self._told = time.monotonic()
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(name, total=total)

    def note(self, text: str) -> None:
        """Something that the user should know now."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self._quiet:
            _tell(text)

    def advance(self, records: int) -> None:
        """So many more records are done."""
        self._done += records
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, records)
            return
        now = time.monotonic()
        if self._quiet or now - self._told < _EVERY_SECONDS:
            return
        self._told = now
        rate = self._done / max(now - self._began, 1e-9)
        line = f"{self._name}: {self._done:,} records, {rate:,.0f} a second"
        if self._total:
            left = (self._total - self._done) / rate if rate else 0
            line = f"{self._name}: {self._done:,} of {self._total:,} records, {rate:,.0f} a second, {left:,.0f} s left"
        _tell(line)


def _tell(line: str) -> None:
    """A line of progress; a terminal or a pipe that has gone away is no reason to end a run of hours."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def print_summary(report: dict[str, Any], *, out: str, as_json: bool = False, unchanged: bool = False) -> None:
    """The closing summary of a run, from its report; with `as_json` the report itself on standard output."""
    if as_json:
        print(json.dumps(report, indent=2, sort_keys=True))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if unchanged:
        console.print(f"[bold green]sealed already[/] {out}: the same inputs and options, nothing to do")
        return
    sealed = report["status"] == "sealed"
    head = f"[bold green]sealed[/] {out}" if sealed else f"[bold red]not sealed[/] {report.get('reason', '')}"
    console.print(head)
    for line in summary_lines(report):
        console.print(line, markup=False)
    print_findings(console, report)
    if sealed:
        _tell(f"Next: sftdata verify {out}")
    else:
        _tell(f"Look at {out}/rejected.jsonl and {out}/report.json.")


def summary_lines(report: dict[str, Any]) -> list[str]:
    """The counts that everybody wants to see, one line each."""
    ledger = report["ledger"]
    records, tokens, examples = ledger["records"], ledger["tokens"], ledger["examples"]
    packing = report["packing"]
    trained = tokens["trained"] / tokens["written"] if tokens["written"] else 0.0
    records_line = (
        f"  records   {records['read']:>12,} read = {records['written']:,} written + {records['rejected']:,} rejected"
        f" + {records['duplicate']:,} duplicate"
    )
    if records.get("unsampled"):
        records_line += f" + {records['unsampled']:,} unsampled"
    tokens_line = (
        f"  tokens    {tokens['rendered']:>12,} rendered = {tokens['written']:,} written"
        f" + {tokens['dropped']:,} dropped; {tokens['trained']:,} trained ({trained:.1%})"
    )
    examples_line = f"  examples  {examples['written']:>12,} written, {examples['rejected']:,} rejected"
    lines = [records_line, examples_line, tokens_line]
    for split, one in packing.items():
        if one["capacity"] >= NO_LIMIT:
            continue
        lines.append(f"  {split:<9} {one['bins']:>12,} bins of {one['capacity']:,}, {one['fill']:.2%} full")
    for name, one in report.get("mixture", {}).get("sources", {}).items():
        lines.append(
            f"  source    {clean(name, limit=40)}: {one['taken']:,} records taken ({one['passes']:.2f} passes), "
            f"{one['written']['tokens']:,} tokens, {one['share_of_tokens']:.1%} of all"
        )
    return lines


def print_findings(console: Any, report: dict[str, Any]) -> None:
    """Every rule that found something, the most severe first."""
    rules = report["rules"]
    order = {"error": 0, "warning": 1, "info": 2}
    colours = {"error": "red", "warning": "yellow", "info": "cyan"}
    rows = sorted(rules.items(), key=lambda pair: (order[pair[1]["severity"]], -pair[1]["count"], pair[0]))
    for code, one in rows:
        colour = colours[one["severity"]]
        console.print(f"  [{colour}]{code}[/] {one['name']:<28} {one['count']:>9,}  ", end="")
        told = " | ".join(fix[:1].upper() + fix[1:] for fix in one.get("fixes", [one["remedy"]]))
        console.print(clean(told), style="dim", markup=False)
    for note in report.get("notes", []):
        console.print(f"  note      {note}", style="dim", markup=False)
