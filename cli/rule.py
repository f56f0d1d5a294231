"""`sftdata rule`: what a code means, why it matters and what to do about it."""

from __future__ import annotations

import json

import click

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata rule SFT403
  sftdata rule missing-stop-on-turn --format json
  sftdata rule                              all rules, one line each
"""


@click.command("rule", epilog=_EPILOG)
@click.argument("wanted", metavar="[CODE|NAME]...", nargs=-1)
@click.option("--format", "output", type=click.Choice(["human", "json"]), default="human", help="Output format.")
def command(wanted: tuple[str, ...], output: str) -> None:
    """Explain rules, or list all of them."""
    import msgspec

    from sftdata.report.rules import explained, listed
    from sftdata.rules import RULES, rule

    chosen = [rule(one) for one in wanted] or list(RULES.values())
    if output == "json":
        rows = [msgspec.to_builtins(one) for one in chosen]
        click.echo(json.dumps(rows[0] if len(wanted) == 1 else rows, indent=2, ensure_ascii=False))
    elif wanted:
        click.echo("\n\n".join(map(explained, chosen)))
    else:
        click.echo(listed(chosen))
