"""`sftdata inspect`: records or bins with their trained tokens marked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata inspect shards --bin 0
  sftdata inspect shards --record 12 --raw             where record 12 went, and what it was
  sftdata inspect chats.jsonl --line 13 --tokenizer ./qwen2.5
  sftdata inspect chats.jsonl --rule SFT423 --tokenizer ./qwen2.5
  sftdata inspect chats.jsonl --random 5 --seed 1 --tokenizer builtin --template chatml --steps

Trained tokens are green on a terminal and stand in [[ ]] elsewhere.
"""


@click.command("inspect", epilog=_EPILOG)
@click.argument("source", metavar="DATASET|INPUT...", nargs=-1, required=True)
@click.option("--bin", "bin_number", type=int, metavar="N", help="Show bin N of a dataset (from 0).")
@click.option("--record", type=int, metavar="ID", help="Show the record with this id (from 0), of a dataset or inputs.")
@click.option("--line", type=int, metavar="N", help="Show the record that begins on line N of the first input.")
@click.option("--rule", metavar="CODE", help="Show records of inputs in which this rule finds something.")
@click.option("--random", type=click.IntRange(min=1), metavar="N", help="Show N records, or N bins, at random.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of --random: the same seed, the same choice.")
@click.option("--limit", type=click.IntRange(min=1), default=3, show_default=True, help="Records of --rule.")
@click.option("--split", default="train", show_default=True, help="The split that the bin is of.")
@click.option("--tokenizer", metavar="T", help="As in prepare; a dataset's own is found by itself where it can be.")
@click.option("--template", metavar="X", help="As in prepare.")
@click.option("--max-length", type=int, default=1 << 20, help="Only notes what would be too long.")
@click.option("--config", metavar="FILE", help="A configuration of prepare, for all other options.")
@click.option("--stop", multiple=True, metavar="TOKEN", help="As in prepare.")
@click.option("--tokens", is_flag=True, help="One line a token: position, id, label, text.")
@click.option("--raw", is_flag=True, help="Show the raw record as well.")
@click.option("--steps", is_flag=True, help="Raw record beside rendered text, then tokens and labels.")
@click.option("--plain", is_flag=True, help="[[ ]] instead of colours, also on a terminal.")
def command(source: tuple[str, ...], **options: Any) -> int:
    """Show records, or bins of a dataset, with their trained tokens marked."""
    ways = [name for name in ("bin_number", "record", "line", "rule", "random") if options[name] is not None]
    if len(ways) != 1:
        raise click.UsageError("give one of --bin, --record, --line, --rule and --random")
    shown = 0
    for looked in _bins(source[0], options) if _is_dataset(source, ways[0]) else _records(source, options):
        if shown:
            click.echo()
        _show(looked, options)
        shown += bool(looked.documents)
    return 0 if shown else 1


def _is_dataset(source: tuple[str, ...], way: str) -> bool:
    """Whether what is named is a sealed dataset, and not raw inputs."""
    import os

    if way == "bin_number":
        return True
    sealed = len(source) == 1 and os.path.isfile(os.path.join(source[0], "manifest.json"))
    if sealed and way in ("line", "rule"):
        raise click.UsageError(f"--{way} is for raw inputs; a dataset has --bin, --record and --random")
    return sealed


def _bins(source: str, options: dict[str, Any]) -> Iterator[Any]:
    from sftdata.pipeline.look_shards import WantedBins, look_at_bins

    wanted = WantedBins(
        bin=options["bin_number"],
        record=options["record"],
        random=options["random"],
        split=options["split"],
        seed=options["seed"],
        raw=options["raw"] or options["steps"],
    )
    return look_at_bins(source, wanted, options["tokenizer"])


def _records(source: tuple[str, ...], options: dict[str, Any]) -> Iterator[Any]:
    import datetime

    from sftdata.config import build_config, read_yaml
    from sftdata.pipeline.look import Wanted, look_at_records

    settings = read_yaml(options["config"]) if options["config"] else {}
    settings.update({key: options[key] for key in ("tokenizer", "template", "stop") if options[key]})
    settings.setdefault("max_length", options["max_length"])
    for key in ("sources", "stats", "drop"):
        settings.pop(key, None)  # what is named here is looked at, taken or not
    config = build_config({**settings, "inputs": source, "out": settings.get("out", "-")}, where="inspect")
    today = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    wanted = Wanted(
        record=options["record"],
        line=options["line"],
        rule=options["rule"],
        random=options["random"] is not None,
        number=options["random"] or options["limit"],
        seed=options["seed"],
    )
    return look_at_records(config, wanted, config.clock or today)


def _show(looked: Any, options: dict[str, Any]) -> None:
    from rich.console import Console

    from sftdata.report.view import beside, plain_lines, raw_text, rich_lines, runs_of, token_lines
    from sftdata.tokenizers import ReferenceEngine

    console = Console(highlight=False, soft_wrap=True)
    plain = options["plain"] or not sys.stdout.isatty()
    vocabulary = getattr(looked.serving, "vocabulary", looked.serving)
    engine = ReferenceEngine(vocabulary)
    special = frozenset(one.id for one in vocabulary.added)

    def decode(ids: Any) -> str:
        return engine.decode([list(ids)])[0]

    raw = raw_text(looked.raw) if looked.raw is not None and (options["raw"] or options["steps"]) else ""
    if raw and (not options["steps"] or not looked.documents):
        console.print(raw, markup=False)
    for document in looked.documents:
        if options["steps"]:
            console.print(document.title, markup=False, style="" if plain else "bold underline")
            text = document.rendered if document.rendered is not None else decode(document.ids)
            for line in beside(raw, text, width=console.width):
                console.print(line, markup=False)
            raw = ""  # once, beside the first of its examples
        if options["tokens"] or options["steps"]:
            for line in token_lines(document, decode, special, title=not options["steps"]):
                console.print(line, markup=False, style="green" if line.endswith("trained") and not plain else "")
            continue
        runs = runs_of(document, decode, special)
        lines: list[Any] = plain_lines(document, runs) if plain else rich_lines(document, runs)
        for one in lines:
            console.print(one, markup=False)
    for problem in looked.problems:
        from sftdata.report.terminal import clean

        console.print(clean(problem), markup=False)
