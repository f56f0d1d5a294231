"""`sftdata split`: raw records into train and eval, copies on one side."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata split chats.jsonl --eval 0.02 --out split
  sftdata split chats.jsonl --eval 20 --by length --out split      spread over the lengths of the questions
"""


@click.command("split", epilog=_EPILOG)
@click.argument("inputs", nargs=-1, metavar="INPUT...", required=True)
@click.option("--eval", "share", required=True, metavar="N|FRACTION", help="How many records to hold out.")
@click.option(
    "--by",
    type=click.Choice(["hash", "length"]),
    default="hash",
    show_default=True,
    help="By content hash, or one from each stratum of question length.",
)
@click.option("--exact-only", is_flag=True, help="Keep exact duplicates together, but not near-duplicates.")
@click.option("--out", required=True, metavar="DIR", help="Gets train.jsonl and eval.jsonl.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another choice.")
@click.option("--input-format", default="auto", show_default=True, help="As in prepare.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    inputs: tuple[str, ...], share: str, by: str, exact_only: bool, out: str, seed: int, input_format: str, quiet: bool
) -> None:
    """Split records into train and eval; records that repeat each other stay on one side."""
    from sftdata.config import build_config
    from sftdata.pipeline.copies import split
    from sftdata.report.terminal import Progress
    from sftdata_cli.interrupts import ending_cleanly

    config = build_config(
        {"inputs": inputs, "tokenizer": "", "max_length": 2, "out": "-", "input_format": input_format}
    )
    with ending_cleanly("run the same command again"), Progress(quiet=quiet) as progress:
        counts = split(config, Path(out), share=share, by=by, near=not exact_only, seed=seed, progress=progress)
    click.echo(f"{counts['train']:,} records to {out}/train.jsonl, {counts['eval']:,} to {out}/eval.jsonl")
    if counts["unreadable"]:
        click.echo(f"{counts['unreadable']:,} records cannot be read and are in neither: sftdata check", err=True)
