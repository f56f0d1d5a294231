"""`sftdata unit`: plan, run and seal as commands of their own, for Slurm arrays and other schedulers."""

from __future__ import annotations

import os
from typing import Any

import click

from sftdata_cli.prepare import SECTIONS
from sftdata_cli.prepare import command as prepare
from sftdata_cli.sections import SectionedCommand

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata unit plan data/ --tokenizer ./qwen2.5 --max-length 4096 --out shards     prints the number of units
  sftdata unit run shards --index 0
  sftdata unit run shards --index-env SLURM_ARRAY_TASK_ID
  sftdata unit seal shards

Every step may be repeated, and the bytes are those of `sftdata prepare`. docs/scale.md has a Slurm script.
"""
_NOT_OF_PLAN = ("output", "engine")


@click.group("unit", epilog=_EPILOG)
def command() -> None:
    """Prepare in three steps: plan, run each unit anywhere, seal."""


def _plan(inputs: tuple[str, ...], config: str | None, quiet: bool, **flags: Any) -> int:
    from sftdata.config import build_config, read_yaml
    from sftdata.pipeline.steps import plan_units
    from sftdata.report.terminal import Progress
    from sftdata_cli.interrupts import ending_cleanly

    options = read_yaml(config) if config else {}
    options.update({key: value for key, value in flags.items() if value not in (None, (), {})})
    if inputs:
        options["inputs"] = inputs
    settings = build_config(options, where=config or "unit plan")
    with ending_cleanly("run the same command again"), Progress(quiet=quiet) as progress:
        plan = plan_units(settings, progress)
    click.echo(len(plan.units))
    if not quiet:
        last = len(plan.units) - 1
        click.echo(f"Next: sftdata unit run {settings.out} --index K for K from 0 to {last}, then", err=True)
        click.echo(f"      sftdata unit seal {settings.out}", err=True)
    return 0


command.add_command(
    SectionedCommand(
        "plan",
        sections=SECTIONS,
        callback=_plan,
        params=[option for option in prepare.params if option.name not in _NOT_OF_PLAN],
        help="Read the inputs once, write the plan into --out, and print the number of units.",
    )
)


@command.command("run")
@click.argument("out", metavar="OUT")
@click.option("--index", "indices", type=int, multiple=True, metavar="K", help="A unit to run; may be repeated.")
@click.option("--index-env", metavar="NAME", help="Take the unit from this environment variable.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def _run(out: str, indices: tuple[int, ...], index_env: str | None, quiet: bool) -> int:
    """Run units of the plan in OUT; a unit that is done is left alone."""
    from sftdata.pipeline.steps import run_planned
    from sftdata.report.terminal import Progress
    from sftdata_cli.interrupts import ending_cleanly

    wanted = [*indices, *([_from_environment(index_env)] if index_env else [])]
    if not wanted:
        raise click.UsageError("name a unit: --index K, or --index-env NAME")
    with ending_cleanly("run the same command again"), Progress(quiet=quiet) as progress:
        done = run_planned(out, wanted, progress)
    if not quiet:
        click.echo(f"{len(done)} units run, {len(set(wanted)) - len(done)} were done already", err=True)
    return 0


def _from_environment(name: str) -> int:
    value = os.environ.get(name)
    if value is None:
        raise click.UsageError(f"the environment variable {name} is not set; it should hold the number of a unit")
    if not value.strip().isdecimal():
        raise click.UsageError(f"the environment variable {name} is {value!r}, not the number of a unit")
    return int(value)


@command.command("seal")
@click.argument("out", metavar="OUT")
@click.option("--format", "output", type=click.Choice(("human", "json")), default="human", help="What to print.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def _seal(out: str, output: str, quiet: bool) -> int:
    """Check all units of the plan in OUT, and seal the dataset."""
    from sftdata.pipeline.steps import seal_planned
    from sftdata.report.terminal import Progress, print_summary
    from sftdata_cli.interrupts import ending_cleanly

    with ending_cleanly("run the same command again"), Progress(quiet=quiet) as progress:
        outcome = seal_planned(out, progress)
    print_summary(outcome.report, out=outcome.out, as_json=output == "json", unchanged=outcome.unchanged)
    return 0 if outcome.sealed else 1
