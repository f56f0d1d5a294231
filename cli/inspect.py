"""`sftdata inspect`: one record or one bin with its trained tokens marked."""

from __future__ import annotations

import sys
from typing import Any

import click

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata inspect shards --bin 0
  sftdata inspect chats.jsonl --record 12 --tokenizer ./qwen2.5
  sftdata inspect chats.jsonl --record 12 --tokenizer builtin --template chatml --tokens

Trained tokens are green on a terminal and stand in [[ ]] elsewhere.
"""


@click.command("inspect", epilog=_EPILOG)
@click.argument("source", metavar="DATASET|INPUT...", nargs=-1, required=True)
@click.option("--bin", "bin_number", type=int, metavar="N", help="Show bin N of a dataset (from 0).")
@click.option("--split", default="train", show_default=True, help="The split that the bin is of.")
@click.option("--record", type=int, metavar="ID", help="Show the record with this id (from 0) of raw inputs.")
@click.option("--tokenizer", metavar="T", help="As in prepare; a dataset's own is found by itself where it can be.")
@click.option("--template", metavar="X", help="As in prepare.")
@click.option("--max-length", type=int, default=1 << 20, help="Only notes what would be too long.")
@click.option("--config", metavar="FILE", help="A configuration of prepare, for all other options.")
@click.option("--stop", multiple=True, metavar="TOKEN", help="As in prepare.")
@click.option("--tokens", is_flag=True, help="One line a token: position, id, text, trained or not.")
@click.option("--raw", is_flag=True, help="Show the raw record as well.")
@click.option("--plain", is_flag=True, help="[[ ]] instead of colours, also on a terminal.")
def command(source: tuple[str, ...], bin_number: int | None, record: int | None, **options: Any) -> int:
    """Show one record, or one bin of a dataset, with its trained tokens marked."""
    from sftdata.pipeline.look import look_at_bin

    if (bin_number is None) == (record is None):
        raise click.UsageError("give --bin N for a dataset, or --record ID for raw inputs")
    if bin_number is not None:
        looked = look_at_bin(source[0], options["split"], bin_number, options["tokenizer"])
        vocabulary = looked.serving
    else:
        assert record is not None
        looked = _record(source, record, options)
        vocabulary = looked.serving.vocabulary
    _show(looked, vocabulary, options)
    return 0 if looked.documents else 1


def _record(source: tuple[str, ...], record: int, options: dict[str, Any]) -> Any:
    import datetime

    from sftdata.config import build_config, read_yaml
    from sftdata.pipeline.look import look_at_record

    settings = read_yaml(options["config"]) if options["config"] else {}
    settings.update({key: options[key] for key in ("tokenizer", "template", "stop") if options[key]})
    settings.setdefault("max_length", options["max_length"])
    config = build_config({**settings, "inputs": source, "out": settings.get("out", "-")}, where="inspect")
    today = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    return look_at_record(config, record, config.clock or today)


def _show(looked: Any, vocabulary: Any, options: dict[str, Any]) -> None:
    from rich.console import Console

    from sftdata.report.terminal import clean
    from sftdata.report.view import plain_lines, rich_lines, runs_of, token_rows
    from sftdata.tokenizers import ReferenceEngine

    console = Console(highlight=False, soft_wrap=True)
    plain = options["plain"] or not sys.stdout.isatty()
    engine = ReferenceEngine(vocabulary)
    special = frozenset(one.id for one in vocabulary.added)
    if options["raw"] and looked.raw is not None:
        import json

        text = looked.raw.decode("utf-8", "replace") if isinstance(looked.raw, bytes) else None
        text = text or json.dumps(looked.raw, indent=2, ensure_ascii=False)
        console.print(clean(text, limit=100_000), markup=False)
    for document in looked.documents:
        if options["tokens"]:
            console.print(document.title, markup=False)
            for row in token_rows(document, lambda ids: engine.decode([ids])[0], special):
                console.print("{:>6} {:>8}  {:<24} {:<8} {}".format(*row).rstrip(), markup=False)
            continue
        runs = runs_of(document, lambda ids: engine.decode([ids])[0], special)
        lines: list[Any] = plain_lines(document, runs) if plain else rich_lines(document, runs)
        for line in lines:
            console.print(line, markup=False)
    for problem in looked.problems:
        console.print(problem, markup=False)
