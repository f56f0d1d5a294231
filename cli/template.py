"""`sftdata template`: the carried templates, what a template does, and how two of them differ.

What lives here: the group, `list`, `show`, `probe`, `lint` and `diff`. Golden vectors are in `golden`.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import click

from sftdata_cli.golden import golden, serve_check
from sftdata_cli.prepare import command as prepare

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata template probe qwen3
  sftdata template lint ./my-model
  sftdata template diff old.jinja new.jinja --tokenizer ./my-model
  sftdata template golden --tokenizer ./my-model --out golden.json
  sftdata template serve-check http://127.0.0.1:8000 --tokenizer ./my-model

A TEMPLATE is a carried name (sftdata template list), a .jinja file, a tokenizer's folder or its tokenizer_config.json
(all its templates), a folder of .jinja files, or template source itself.
"""
_COLOURS = {"kept": "green", "altered": "yellow", "dropped": "red", "refused": "red", "same": "green", "differs": "red"}


class _Group(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            from sftdata.errors import nearest

            raise click.UsageError(f"no command {args[0]!r}; {nearest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)


@click.group("template", cls=_Group, epilog=_EPILOG)
def command() -> None:
    """List, show, examine and compare chat templates, and check that a server uses them."""


_format = click.option(
    "--format", "output", type=click.Choice(["human", "json"]), default="human", help="Output format."
)


@command.command("list")
@_format
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


def _day(clock: str | None) -> datetime.date:
    """The day that templates see: as given, else today."""
    if clock is None:
        return datetime.datetime.now(tz=datetime.timezone.utc).date()
    try:
        return datetime.date.fromisoformat(clock)
    except ValueError as error:
        raise click.BadParameter(f"{clock!r} is not a date such as 2026-01-31", param_hint="--clock") from error


def _named(names: tuple[str, ...], tokenizer: str | None) -> list[Any]:
    from sftdata.pipeline.named import named_templates

    if not names and tokenizer is None:
        raise click.UsageError("name a TEMPLATE, or a tokenizer with --tokenizer")
    return [one for name in names or (None,) for one in named_templates(name, tokenizer)]


_PROBE = """\b
Examples:
  sftdata template probe chatml
  sftdata template probe ./my-model --format json
  sftdata template probe qwen3 --template-arg enable_thinking=false

kept: as it stood. altered: trimmed, or only a part of it. dropped: left out without a word. refused: the template
raised.

Exit codes: 0 probed, 2 usage, or not a template.
"""


@command.command("probe", epilog=_PROBE, short_help="What a template keeps, alters, drops, adds.")
@click.argument("names", metavar="[TEMPLATE]...", nargs=-1)
@_format
def probe(names: tuple[str, ...], output: str, tokenizer: str | None, template_arg: Any, clock: str | None) -> None:
    """Show what a template does with each part of a conversation: keep, alter, drop, refuse; and what it adds."""
    import msgspec

    from sftdata.pipeline.named import compiled
    from sftdata.report.probes import probe_lines
    from sftdata.templates.probe import probe_template

    told = []
    for place, one in enumerate(_named(names, tokenizer)):
        found = probe_template(compiled(one, template_arg, _day(clock)), **template_arg)
        told.append(msgspec.to_builtins(found))
        if output == "human":
            click.echo("\n" * bool(place), nl=False)
            stand_ins = one.stand_ins and ("bos_token" in one.source or "eos_token" in one.source)
            for line, outcome in probe_lines(found, stand_ins=stand_ins):
                _echo_row(line, outcome)
    if output == "json":
        click.echo(json.dumps({"templates": told}, indent=2))


def _echo_row(line: str, outcome: str) -> None:
    if outcome == "heading":
        click.secho(line, bold=True)
        return
    before, word, after = line.partition(f"  {outcome}") if outcome in _COLOURS else (line, "", "")
    click.echo(before + click.style(word, fg=_COLOURS.get(outcome)) + after)


_LINT = """\b
Examples:
  sftdata template lint chat.jinja
  sftdata template lint ./my-model --template-arg enable_thinking=false
  sftdata template lint chat.jinja --format json

A line is FILE:LINE: SEVERITY CODE NAME: what was found. `sftdata rule CODE` explains a rule.

Exit codes: 0 no errors, 1 errors, 2 usage.
"""


@command.command("lint", epilog=_LINT, short_help="Faults in a template's source.")
@click.argument("names", metavar="[TEMPLATE]...", nargs=-1)
@_format
def lint(names: tuple[str, ...], output: str, tokenizer: str | None, template_arg: Any) -> int:
    """Look for faults in a template's source: syntax, undefined names, the clock, generation marks."""
    from sftdata.report.probes import finding_line, finding_rows, worst
    from sftdata.templates.lint import lint_template

    chosen = _named(names, tokenizer)
    rows = [
        row
        for one in chosen
        for row in finding_rows(one.label, lint_template(one.source, name=one.label, known=template_arg))
    ]
    if output == "json":
        click.echo(json.dumps({"templates": len(chosen), "findings": rows}, indent=2))
    else:
        for row in rows:
            click.echo(finding_line(row))
        counts = {word: sum(row["severity"] == word for row in rows) for word in ("error", "warning", "info")}
        told = ", ".join(
            f"{count} {word}{'s' * (count > 1 and word != 'info')}" for word, count in counts.items() if count
        )
        click.echo(f"{len(chosen)} template{'s' * (len(chosen) > 1)}: {told or 'nothing found'}", err=True)
    return 1 if worst(rows) == "error" else 0


_DIFF = """\b
Examples:
  sftdata template diff qwen2.5 qwen3
  sftdata template diff old.jinja new.jinja --tokenizer ./my-model
  sftdata template diff ./base-model ./tuned-model --records chats.jsonl

Compared are every prompt that a server would render for a conversation, and its whole text; with tokenizers (of
--tokenizer, or each folder's own) their ids too.

Exit codes: 0 the same, 1 different, 2 usage.
"""
_LISTED = 40


@command.command("diff", epilog=_DIFF, short_help="Where two templates differ.")
@click.argument("one", metavar="TEMPLATE")
@click.argument("other", metavar="TEMPLATE")
@click.option("--records", multiple=True, metavar="INPUT", help="Compare on these records, not on the built-in shapes.")
@_format
def diff(one: str, other: str, records: tuple[str, ...], output: str, **options: Any) -> int:
    """Compare two templates on the same conversations: same or different, and the first difference in context."""
    import msgspec

    from sftdata.pipeline.cases import cases
    from sftdata.pipeline.compare import compare

    vocabularies: dict[str, Any] = {}
    sides = [_side(name, options, vocabularies) for name in (one, other)]
    if sides[0].label == sides[1].label:
        sides[0].label, sides[1].label = f"{one} (first)", f"{other} (second)"
    found = list(compare(sides[0], sides[1], cases(records)))
    different = [row for row in found if row.outcome == "differs"]
    in_ids = all(side.engine is not None for side in sides)
    if output == "json":
        told = {"one": one, "other": other, "ids": in_ids, "same": not different}
        click.echo(json.dumps({**told, "conversations": msgspec.to_builtins(found)}, indent=2))
        return 1 if different else 0
    _tell_differences(found, [side.label for side in sides], in_ids=in_ids, few=not records)
    return 1 if different else 0


def _side(name: str, options: dict[str, Any], vocabularies: dict[str, Any]) -> Any:
    from sftdata.pipeline.compare import Side
    from sftdata.pipeline.named import compiled, served_templates
    from sftdata.tokenizers import load_files, load_vocabulary

    own = os.path.isfile(Path(name, "tokenizer.json"))
    address = name if own else options["tokenizer"]
    chosen = served_templates(name, address if not own else None)
    templates = {key: compiled(one, options["template_arg"], _day(options["clock"])) for key, one in chosen.items()}
    if address is not None and address not in vocabularies:
        vocabularies[address] = load_vocabulary(load_files(address))
    label = chosen["default"].label
    return Side.of(name if own else label, templates, vocabularies.get(address))


def _tell_differences(found: list[Any], labels: list[str], *, in_ids: bool, few: bool) -> None:
    from sftdata.report.terminal import clean

    width = max(len(row.name) for row in found)
    click.secho(clean(f"{labels[0]} and {labels[1]}, compared in text{' and ids' if in_ids else ''}"), bold=True)
    shown = found if few else [row for row in found if row.outcome != "same"]
    for row in shown[:_LISTED]:
        why = row.place or "; ".join(row.lines)
        line = f"  {clean(row.name):<{width}}  {row.outcome}{f'  {clean(why)}' if why else ''}"
        _echo_row(line, row.outcome)
    if len(shown) > _LISTED:
        click.echo(f"  … and {len(shown) - _LISTED:,} more that are not the same")
    first = next((row for row in found if row.outcome == "differs"), None)
    if first is not None:
        click.echo()
        click.secho(clean(f"First difference: {first.name}, {first.place}"), bold=True)
        for line in first.lines:
            click.echo(clean(line, limit=2000))
        click.echo()
    counts = {word: sum(row.outcome == word for row in found) for word in ("same", "differs", "refused", "skipped")}
    words = {"same": "the same", "differs": "different", "refused": "refused by both", "skipped": "skipped"}
    click.echo(", ".join(f"{count:,} {words[word]}" for word, count in counts.items() if count))


command.add_command(golden)
command.add_command(serve_check)


def _options(*names: str) -> list[click.Parameter]:
    """Options of prepare, so that they are spelled and read alike."""
    return [one for one in prepare.params if one.name in names]


probe.params += _options("tokenizer", "template_arg", "clock")
lint.params += _options("tokenizer", "template_arg")
diff.params += _options("tokenizer", "template_arg", "clock")
