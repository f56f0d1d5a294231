"""`sftdata export`: the rows of a dataset in the files of other projects."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata export shards --to arrow --out packed               a folder for datasets.load_from_disk, a bin a row
  sftdata export shards --to arrow --unpack --out documents   for LLaMA-Factory, axolotl, Together
  sftdata export shards --to megatron --out data/chats        data/chats_input_ids.bin and .idx, data/chats_labels...

Every row is verified as it is read; an export is there whole or not at all, and overwrites nothing.

\b
Exit codes: 0 done, 1 the dataset is damaged or has no such split, 2 usage, or the output is there already.
"""


@click.command("export", epilog=_EPILOG)
@click.argument("path", metavar="DATASET")
@click.option("--to", "form", type=click.Choice(["arrow", "megatron"]), required=True, help="Whose files.")
@click.option("--out", required=True, metavar="PATH", help="The new folder; for megatron, what the files begin with.")
@click.option("--unpack", is_flag=True, help="arrow: a document a row: input_ids, attention_mask, labels.")
@click.option("--split", default="train", show_default=True, help="Which split.")
def command(path: str, form: str, out: str, unpack: bool, split: str) -> None:
    """Write the rows of a sealed dataset in the files of other projects."""
    from sftdata.shards.export import export_arrow, export_megatron

    if form == "megatron":
        if unpack:
            raise click.UsageError("--unpack is for --to arrow: megatron files hold a document a sequence anyhow")
        count = export_megatron(path, Path(out), split=split)
        click.echo(f"{count:,} documents to {out}_input_ids and {out}_labels (.bin, .idx)")
    else:
        count = export_arrow(path, Path(out), split=split, unpack=unpack)
        click.echo(f"{count:,} {'documents' if unpack else 'bins'} to {out}")
