"""`sftdata prepare`: options into a configuration, the result onto the terminal."""

from __future__ import annotations

import json
from typing import Any

import click

from sftdata_cli.sections import SectionedCommand

__all__ = ["SECTIONS", "command"]

SECTIONS = {
    "In and out": ("--out", "--config", "--fresh", "--format", "--quiet"),
    "Tokenizer and template": (
        *("--tokenizer", "--template", "--template-arg", "--clock", "--stop", "--bos-token", "--eos-token"),
        *("--engine-tokenizer", "--engine-sample"),
    ),
    "Records": (*("--input-format", "--column", "--role", "--dataset-info", "--drop", "--eval", "--max-reject-rate"),),
    "What is trained": ("--train-on", "--unroll", "--reasoning", "--append-eos", "--strip-trailing-stop"),
    "Control tokens and losses": (*("--control-tokens", "--allow-control", "--allow-dropped", "--allow-normalised"),),
    "Length and packing": ("--max-length", "--overlong", "--packing", "--seed"),
    "Who does the work": ("--workers", "--engine"),
}
"""The help's headings, with what stands under each."""

_EPILOG = """\b
Examples:
  sftdata prepare chats.jsonl --tokenizer ./qwen2.5 --max-length 4096 --out shards
  sftdata prepare 'data/*.json.gz' --tokenizer builtin --template chatml --max-length 2048 --out shards
  sftdata prepare --config recipe.yaml --workers 8
  RAY_ADDRESS=auto sftdata prepare --config recipe.yaml --engine ray --out s3://bucket/shards

Exit codes: 0 done, 1 data below the bar (nothing is sealed), 2 usage, configuration or internal error.
"""


def _arguments(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG001
    """KEY=VALUE pairs; a value that is JSON is taken as such, anything else as text."""
    out: dict[str, Any] = {}
    for pair in value:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE")
        try:
            out[key] = json.loads(text)
        except ValueError:
            out[key] = text
    return out


def _choice(*words: str) -> click.Choice[str]:
    return click.Choice(words, case_sensitive=True)


@click.command("prepare", cls=SectionedCommand, sections=SECTIONS, epilog=_EPILOG)
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@click.option("--tokenizer", metavar="T", help="builtin, a tokenizer.json, a folder, or a hub name.")
@click.option(
    "--template",
    metavar="X",
    help="A carried name (sftdata template list) or a .jinja file; default: the tokenizer's own.",
)
@click.option("--out", metavar="DIR", help="The output folder; must be new, empty, or hold an unfinished run.")
@click.option("--max-length", type=int, metavar="N", help="Longest example, and a bin's capacity, in tokens. Required.")
@click.option(
    "--template-arg",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_arguments,
    help="Argument for the template, as serving passes it.",
)
@click.option(
    "--reasoning",
    type=_choice("reject", "empty"),
    help="Where the prompt opens a reasoning block and the record has none. Default reject.",
)
@click.option("--append-eos", is_flag=True, default=None, help="End replies that the template leaves open with eos.")
@click.option(
    "--unroll",
    type=_choice("all", "last", "refuse"),
    help="Where a template rewrites history: one example a turn, the last only, or refuse. Default all.",
)
@click.option("--clock", metavar="DATE", help="The date that templates see; default: the day of the plan.")
@click.option(
    "--packing",
    type=_choice("best-fit", "sequential", "none"),
    help="How examples are put into bins. Default best-fit.",
)
@click.option(
    "--input-format",
    type=_choice("auto", "alpaca", "sharegpt", "messages", "pairs", "prompt-completion", "text"),
    help="Take all records to be in one format; default auto, each is recognised by its keys.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="FIELD=COLUMN",
    callback=_arguments,
    help="Read FIELD from another column, such as output=target.",
)
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE=STANDARD",
    callback=_arguments,
    help="Read one role name as another, such as bot=assistant.",
)
@click.option("--dataset-info", metavar="FILE", help="Column maps of a LLaMA-Factory dataset_info.json.")
@click.option(
    "--train-on", type=_choice("replies", "last", "everything"), help="Which tokens are trained. Default replies."
)
@click.option(
    "--overlong",
    type=_choice("reject", "drop-turns", "truncate", "split"),
    help="What becomes of examples above --max-length. Default reject.",
)
@click.option("--stop", multiple=True, metavar="TOKEN", help="Add a stop token.")
@click.option("--strip-trailing-stop", is_flag=True, default=None, help="Remove a stop spelled at a reply's end.")
@click.option("--bos-token", metavar="TOKEN", help="Override the tokenizer's BOS.")
@click.option("--eos-token", metavar="TOKEN", help="Override the tokenizer's EOS.")
@click.option(
    "--control-tokens",
    type=_choice("text", "reject", "allow"),
    help="Content that spells a control token. Default text: encoded as ordinary characters.",
)
@click.option("--allow-control", multiple=True, metavar="TOKEN", help="Spellings that content may use as tokens.")
@click.option("--allow-dropped", multiple=True, metavar="FIELD", help="Fields that the template may lose.")
@click.option("--allow-normalised", is_flag=True, default=None, help="Accept replies that lose leading whitespace.")
@click.option(
    "--engine-tokenizer",
    type=_choice("auto", "fast", "reference"),
    help="Which library encodes. Default auto: the fast one where it is proved to agree.",
)
@click.option(
    "--engine-sample",
    type=float,
    metavar="R",
    help="Share of records that the fast engine's ids are compared on with the reference's. Default 0.01.",
)
@click.option("--eval", "eval", metavar="N|FRACTION", help="Set records aside, by hash of their content.")
@click.option("--drop", metavar="FILE.parquet", help="Leave out the records that sftdata dedup listed in this file.")
@click.option("--seed", type=int, metavar="S", help="Order of bins, choice of a mixture. Default 0.")
@click.option(
    "--max-reject-rate",
    type=float,
    metavar="R",
    help="Seal nothing above this share of rejected records. Default 0.05.",
)
@click.option("--workers", type=int, metavar="N", help="Processes. Never changes the bytes. Default 1.")
@click.option(
    "--engine", type=_choice("local", "ray"), help="Processes here, or tasks on a Ray cluster. Default local."
)
@click.option("--fresh", is_flag=True, default=None, help="Start over in a folder that holds another run.")
@click.option("--config", metavar="FILE", help="YAML with the same names; flags win.")
@click.option("--format", "output", type=_choice("human", "json"), default="human", help="What to print at the end.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(inputs: tuple[str, ...], config: str | None, output: str, quiet: bool, **flags: Any) -> int:
    """Turn raw chat records into packed, loss-masked Parquet shards.

    INPUT is a file (JSON Lines, JSON, CSV, TSV, Parquet, Arrow; .gz, .bz2, .zst, .xz), a folder, a glob, an fsspec
    address, hf:NAME[:SPLIT], or - for standard input.
    """
    from sftdata.config import build_config, read_yaml
    from sftdata_cli.interrupts import ending_cleanly

    options = read_yaml(config) if config else {}
    given = {key: value for key, value in flags.items() if value not in (None, (), {})}
    options.update(given)
    if inputs:
        options["inputs"] = inputs
    settings = build_config(options, where=config or "prepare")
    without = " without --fresh" if settings.fresh else ""
    hint = f"what is done is kept; run the same command{without} to resume"
    with ending_cleanly(hint):
        from sftdata.pipeline.run import run_prepare
        from sftdata.report.terminal import Progress, print_summary

        with Progress(quiet=quiet) as progress:
            outcome = run_prepare(settings, progress=progress)
    print_summary(outcome.report, out=outcome.out, as_json=output == "json", unchanged=outcome.unchanged)
    return 0 if outcome.sealed else 1
