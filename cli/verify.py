"""`sftdata verify`: is this dataset sound, from its files alone?"""

from __future__ import annotations

import json
from typing import Any

import click

from sftdata_cli.prepare import command as prepare

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata verify shards
  sftdata verify shards --against ./my-model
  sftdata verify shards --against ./my-model --template-arg enable_thinking=false

With --against, tokenizer, stops and template are compared with those of the dataset; --template and --template-arg say
what is served, where it is not the tokenizer's own.

Exit codes: 0 sound, 1 not sound (or no rows), 2 usage.
"""


@click.command("verify", epilog=_EPILOG)
@click.argument("path", metavar="DATASET")
@click.option("--against", metavar="TOKENIZER", help="Also: is this still the tokenizer (and its template)?")
@click.option("--format", "output", type=click.Choice(["human", "json"]), default="human", help="Output format.")
def command(path: str, against: str | None, template: str | None, template_arg: dict[str, Any], output: str) -> int:
    """Re-derive every invariant of a sealed dataset from its files."""
    from sftdata.report.terminal import clean
    from sftdata.rules import RULES
    from sftdata.shards import verify

    if against is None and (template or template_arg):
        raise click.UsageError("--template and --template-arg say what is served: name its tokenizer with --against")
    result = verify(path)
    problems, notes = [*result.problems], []
    if against is not None:
        from sftdata.pipeline.drift import drift

        found = drift(path, against, template=template, template_arg=template_arg)
        problems, notes = problems + found.problems, found.notes
    if output == "json":
        rows = [
            {"code": one.code, "name": RULES[one.code].name, "file": one.file, "place": one.place}
            | {"message": one.message, "fix": one.fix or RULES[one.code].remedy}
            for one in problems
        ]
        click.echo(
            json.dumps({"sound": not problems, "problems": rows, "notes": notes, "checked": result.checked}, indent=2)
        )
        return 1 if problems else 0
    for one in problems:
        where = f"{one.file}{', ' + one.place if one.place else ''}"
        told = one.message if one.message.endswith("\n") else f"{one.message}. "
        click.echo(clean(f"{one.code} {where}: {told}{one.fix or RULES[one.code].remedy}", limit=10_000))
    for note in notes:
        click.echo(clean(f"note: {note}"))
    if problems:
        click.echo(f"not sound: {len(problems)} problems in {path}")
        return 1
    counts = ", ".join(f"{count:,} {name}" for name, count in result.checked.items())
    click.echo(f"sound: {path} ({counts})")
    return 0


# with --against: what is served now, spelled as in prepare
command.params[2:2] = [one for one in prepare.params if one.name in ("template", "template_arg")]
