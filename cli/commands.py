"""The command `sftdata`: a group that imports a command's file only when the command is used.

What lives here: the list of commands. What must not: the library; exit codes (`exits`).
"""

from __future__ import annotations

import importlib

import click

__all__ = ["command"]

_COMMANDS: dict[str, tuple[str, str]] = {
    "prepare": ("prepare", "Turn raw records into verified training shards."),
    "unit": ("unit", "Prepare in three steps, for Slurm arrays and other schedulers."),
    "check": ("check", "Find what is wrong with raw records before anything is trained."),
    "stats": ("stats", "Count and measure records, turns, tokens."),
    "dedup": ("dedup", "List duplicates and near-duplicates, for prepare --drop."),
    "split": ("split", "Split records into train and eval, copies on one side."),
    "verify": ("verify", "Re-derive every invariant of a dataset from its files alone."),
    "export": ("export", "Write the rows as other projects keep them: Arrow, Megatron."),
    "inspect": ("inspect", "Show one record or one bin, trained tokens marked."),
    "template": ("template", "List, show and examine chat templates."),
    "formats": ("formats", "List the record formats and how each is recognised."),
    "rule": ("rule", "Explain a rule, or list all."),
}
"""Name: (file of this package, one line for the help)."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"sftdata_cli.{_COMMANDS[cmd_name][0]}")
        found: click.Command = module.command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS:
            from sftdata.errors import nearest

            raise click.UsageError(f"no command {args[0]!r}; {nearest(args[0], _COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 data below the bar, 2 usage, configuration or internal error, 128 + N signal N.",
)
@click.version_option(package_name="sftdata")
def command() -> None:
    """Raw chat records in; validated, rendered, tokenized, loss-masked, bin-packed Parquet shards out."""
