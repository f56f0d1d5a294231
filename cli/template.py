"""`sftdata template`: the carried templates, and what a template does."""

from __future__ import annotations

import json

import click

__all__ = ["command"]


@click.group("template")
def command() -> None:
    """List, show and examine chat templates."""


@command.command("list")
@click.option("--format", "output", type=click.Choice(["human", "json"]), default="human", help="Output format.")
def list_templates(output: str) -> None:
    """The templates that the package carries."""
    from sftdata.templates.builtin import BUILTIN

    if output == "json":
        rows = [
            {"name": one.name, "description": one.description, "bos": one.bos_token, "stop": list(one.stop_tokens)}
            for one in BUILTIN.values()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(map(len, BUILTIN))
    for one in BUILTIN.values():
        click.echo(f"{one.name:<{width}}  {one.description} (stop: {' '.join(one.stop_tokens)})")


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Print the source of a carried template."""
    from sftdata.errors import ConfigError, describe, nearest
    from sftdata.templates.builtin import BUILTIN

    if name not in BUILTIN:
        raise ConfigError(describe(f"no carried template {name!r}", fix=nearest(name, BUILTIN)))
    click.echo(BUILTIN[name].source())
