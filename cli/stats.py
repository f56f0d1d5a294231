"""`sftdata stats`: counts and measures of a dataset, before anything is decided about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sftdata_cli.check import _OF_PREPARE
from sftdata_cli.prepare import command as prepare

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata stats chats.jsonl --tokenizer ./qwen2.5
  sftdata stats chats.jsonl --tokenizer ./qwen2.5 --max-length 4096 --batch 64
  sftdata stats chats.jsonl --tokenizer ./qwen2.5 --output stats.parquet
"""


@click.command("stats", epilog=_EPILOG)
@click.argument("inputs", nargs=-1, metavar="INPUT...", required=True)
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Bins a step, for the steps of an epoch.")
@click.option("--format", "output", type=click.Choice(["human", "json"]), default="human", help="What to print.")
@click.option("--output", "path", metavar="FILE.parquet", help="Write the table as Parquet (group, name, value).")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    inputs: tuple[str, ...], batch: int | None, output: str, path: str | None, quiet: bool, **flags: Any
) -> None:
    """Measure records, turns, tokens, and what a maximum length would cost.

    Without --tokenizer only what needs none. With --max-length also a preview of packing. Rejected records are left
    out.
    """
    from sftdata.config import build_config
    from sftdata.pipeline.check import check
    from sftdata.report.tables import stats_rows
    from sftdata.report.terminal import Progress
    from sftdata_cli.interrupts import ending_cleanly

    options = {key: value for key, value in flags.items() if value not in (None, (), {})}
    limit = options.pop("max_length", None)
    config = build_config({"tokenizer": "", **options, "inputs": inputs, "max_length": 1 << 24, "out": "-"})
    with ending_cleanly("nothing is left behind"), Progress(quiet=quiet) as progress:
        checked = check(config, progress=progress)
    with checked:
        rows, curve = stats_rows(
            checked.records(), checked.documents(), checked.report, limit=limit, batch=batch, packing=config.packing
        )
        stamp = checked.stamp()
    if config.tokenizer:
        rows += [("tokens by input", one.name, one.tokens) for one in stamp.inputs]
    if path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from sftdata.durable import durable
        from sftdata.pipeline.identity import stamped

        names = ("group", "name", "value")
        columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
        columns["value"] = [float(value) for value in columns["value"]]
        with durable(Path(path)) as (target,):
            pq.write_table(stamped(pa.table(columns), stamp), target)
    if output == "json":
        table: dict[str, dict[str, float]] = {}
        for group, name, value in rows:
            table.setdefault(group, {})[name] = value
        click.echo(json.dumps({**table, "truncation": curve}, indent=2))
        return
    before = ""
    for group, name, value in rows:
        shown = f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else f"{value:,}"
        click.echo(f"{group if group != before else '':<16} {name:<28} {shown:>16}")
        before = group
    if curve:
        click.echo("\nmax length     tokens lost   trained lost   replies cut")
        for row in curve:
            lost = f"{row['tokens_lost']:>12.2%}   {row['trained_lost']:>12.2%}   {row['replies_lost']:>11.2%}"
            click.echo(f"{row['max_length']:>10,}   {lost}")


command.params[1:1] = [one for one in prepare.params if one.name in _OF_PREPARE]
