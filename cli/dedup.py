"""`sftdata dedup`: which records repeat others."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata dedup chats.jsonl --out drop.parquet
  sftdata dedup a.jsonl b.jsonl --near-duplicates --threshold 0.85 --out drop.parquet
  sftdata prepare a.jsonl b.jsonl --drop drop.parquet ...      with the same inputs in the same order
"""


@click.command("dedup", epilog=_EPILOG)
@click.argument("inputs", nargs=-1, metavar="INPUT...", required=True)
@click.option("--out", required=True, metavar="FILE.parquet", help="The list: record_id, kept_id, rule.")
@click.option("--near-duplicates", "near", is_flag=True, help="Near-duplicates as well.")
@click.option(
    "--threshold",
    type=click.FloatRange(0.5, 1.0),
    default=0.8,
    show_default=True,
    help="Least estimated Jaccard similarity of 3-word shingles.",
)
@click.option("--input-format", default="auto", show_default=True, help="As in prepare.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    inputs: tuple[str, ...], out: str, near: bool, threshold: float, input_format: str, workers: int, quiet: bool
) -> None:
    """List the records that repeat earlier ones, of all inputs together, for prepare --drop.

    Exact duplicates say the same in the same turns; letter case and white space do not count. Near-duplicates are
    told by MinHash (128 permutations, 21 bands of 6) over the words of user and assistant.
    """
    from sftdata.config import build_config
    from sftdata.pipeline.copies import dedup
    from sftdata.report.terminal import Progress
    from sftdata_cli.interrupts import ending_cleanly

    config = build_config(
        {
            "inputs": inputs,
            "tokenizer": "",
            "max_length": 2,
            "out": "-",
            "workers": workers,
            "input_format": input_format,
        }
    )
    with ending_cleanly("run the same command again"), Progress(quiet=quiet) as progress:
        counts = dedup(config, Path(out), near=near, threshold=threshold, progress=progress)
    click.echo(
        f"{counts['records']:,} records, {counts['SFT701']:,} exact duplicates, {counts['SFT702']:,} near-duplicates"
        f"{'' if near else ' (not looked for)'}; wrote {out}"
    )
