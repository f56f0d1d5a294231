"""`sftdata verify`: is this dataset sound, from its files alone?"""

from __future__ import annotations

import json

import click

__all__ = ["command"]

_EPILOG = """\b
Exit codes: 0 sound, 1 not sound (or no rows), 2 usage.
"""


@click.command("verify", epilog=_EPILOG)
@click.argument("path", metavar="DATASET")
@click.option("--against", metavar="TOKENIZER", help="Also: is this still the tokenizer (and its template)?")
@click.option("--format", "output", type=click.Choice(["human", "json"]), default="human", help="Output format.")
def command(path: str, against: str | None, output: str) -> int:
    """Re-derive every invariant of a sealed dataset from its files."""
    from sftdata.rules import RULES
    from sftdata.shards import verify

    result = verify(path)
    problems = [*result.problems]
    if against is not None:
        from sftdata.pipeline.drift import drift

        problems += drift(path, against)
    if output == "json":
        rows = [
            {"code": one.code, "name": RULES[one.code].name, "file": one.file, "place": one.place}
            | {"message": one.message, "fix": one.fix or RULES[one.code].remedy}
            for one in problems
        ]
        click.echo(json.dumps({"sound": not problems, "problems": rows, "checked": result.checked}, indent=2))
        return 1 if problems else 0
    for one in problems:
        where = f"{one.file}{', ' + one.place if one.place else ''}"
        click.echo(f"{one.code} {where}: {one.message}. {one.fix or RULES[one.code].remedy}")
    if problems:
        click.echo(f"not sound: {len(problems)} problems in {path}")
        return 1
    counts = ", ".join(f"{count:,} {name}" for name, count in result.checked.items())
    click.echo(f"sound: {path} ({counts})")
    return 0
