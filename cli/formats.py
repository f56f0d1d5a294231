"""`sftdata formats`: the record formats and how each is recognised."""

from __future__ import annotations

import json

import click

__all__ = ["command"]


@click.command("formats")
@click.option("--format", "output", type=click.Choice(["human", "json"]), default="human", help="Output format.")
def command(output: str) -> None:
    """List the record formats and how a record is told to be in each."""
    from sftdata.formats import FORMATS

    if output == "json":
        rows = [
            {"name": one.name, "recognised_by": one.recognised_by, "schema": one.schema} for one in FORMATS.values()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(map(len, FORMATS))
    for one in FORMATS.values():
        click.echo(f"{one.name:<{width}}  {one.recognised_by}")
