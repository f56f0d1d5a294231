"""`sftdata template golden` and `serve-check`: exact vectors, kept in a file, and asked of a running server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from sftdata_cli.prepare import command as prepare

__all__ = ["golden", "serve_check"]

_GOLDEN = """\b
Examples:
  sftdata template golden --tokenizer ./my-model --out golden.json
  sftdata template golden --tokenizer builtin --template qwen3 --template-arg enable_thinking=false
  sftdata template golden --tokenizer ./my-model --records chats.jsonl --out golden.json
  sftdata template golden --verify golden.json
  sftdata template golden --verify golden.json --tokenizer ./tuned-model

--verify takes from the file what no flag says.

Exit codes: 0 written, or all the same; 1 something moved; 2 usage.
"""
_SHOWN = 5


@click.command("golden", epilog=_GOLDEN, short_help="Prompts and replies with their exact ids.")
@click.option("--records", multiple=True, metavar="INPUT", help="Vectors of these records, not of the built-in shapes.")
@click.option("--out", metavar="FILE", help="Where to write; default: standard output.")
@click.option("--verify", metavar="FILE", help="Derive the vectors of FILE again and say what moved.")
@click.option("--format", "output", type=click.Choice(["human", "json"]), default="human", help="Of --verify.")
def golden(records: tuple[str, ...], out: str | None, verify: str | None, output: str, **flags: Any) -> int:
    """Write prompts and replies with their exact ids as JSON, or check that none has moved."""
    from sftdata.durable import durable
    from sftdata.pipeline.cases import cases
    from sftdata.pipeline.golden import derive
    from sftdata.pipeline.golden_files import dump

    options = _given(flags)
    if verify is not None:
        if records or out:
            raise click.UsageError("--verify reads a file: --records and --out have no place beside it")
        return _verify(verify, options, output)
    made = derive(options, cases(records))
    if out is None:
        click.echo(dump(made), nl=False)
        return 0
    try:
        with durable(Path(out)) as (name,):
            name.write_text(dump(made), encoding="utf-8")
    except OSError as error:
        from sftdata.errors import OutputError, describe

        raise OutputError(describe(f"the file cannot be written: {error.strerror}", where=out)) from error
    click.echo(f"{_counted(made)}; wrote {out}")
    return 0


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flags.items() if value not in (None, (), {})}


def _counted(made: Any) -> str:
    """`14 conversations, 23 prompts, 21 replies`."""
    turns = [turn for case in made.conversations for turn in case.turns]
    refused = sum(turn.reply is None for turn in turns if turn.refused) + sum(
        bool(one.refused) for one in made.conversations
    )
    replies = sum(turn.reply is not None for turn in turns)
    told = f"{len(made.conversations):,} conversations, {len(turns):,} prompts, {replies:,} replies"
    return told + (f", {refused:,} refused" if refused else "")


def _verify(path: str, options: dict[str, Any], output: str) -> int:
    import msgspec

    from sftdata.pipeline.golden_files import derive_again, moved, read
    from sftdata.report.terminal import clean

    before = read(path)
    after = derive_again(before, options)
    found = moved(before, after)
    if output == "json":
        click.echo(json.dumps({"same": not found, "moved": msgspec.to_builtins(found)}, indent=2))
        return 1 if found else 0
    if not found:
        click.echo(f"the same: {path} ({_counted(before)})")
        return 0
    for one in found[:_SHOWN]:
        click.secho(clean(one.what), bold=True)
        for line in one.lines:
            click.echo(clean(line, limit=2000))
    if len(found) > _SHOWN:
        click.echo(f"… and {len(found) - _SHOWN:,} more")
    click.echo(f"moved: {len(found):,} of what {path} says")
    return 1


_SERVE_CHECK = """\b
Examples:
  sftdata template serve-check http://127.0.0.1:8000 --tokenizer ./my-model
  sftdata template serve-check http://127.0.0.1:8000 --golden golden.json
  sftdata template serve-check http://127.0.0.1:8080 --tokenizer ./my-model --records chats.jsonl

The server is vLLM (POST /tokenize) or llama.cpp (POST /apply-template, /tokenize); nothing is generated.

Exit codes: 0 all prompts are the same, 1 one differs or is refused, 2 usage, or the server cannot be asked.
"""
_WORDS = {
    "same": "the same",
    "differs": "different",
    "refused": "refused by the server",
    "failed": "failed in the server",
    "skipped": "not asked",
}
_COLOURS = {"same": "green", "differs": "red", "refused": "red", "failed": "red"}


@click.command("serve-check", epilog=_SERVE_CHECK, short_help="Does a server send the very same prompts?")
@click.argument("url", metavar="URL")
@click.option("--golden", "golden_file", metavar="FILE", help="Ask for the vectors of this file.")
@click.option("--records", multiple=True, metavar="INPUT", help="Ask for these records, not for the built-in shapes.")
@click.option("--model", metavar="NAME", help="The model's name; default: the first that the server lists.")
@click.option("--dialect", default="auto", show_default=True, metavar="vllm|llama.cpp", help="The server's kind.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.01, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="For each request.",
)
@click.option("--api-key-env", metavar="NAME", help="The environment variable that holds the server's key.")
@click.option("--format", "output", type=click.Choice(["human", "json"]), default="human", help="Output format.")
def serve_check(url: str, golden_file: str | None, records: tuple[str, ...], output: str, **flags: Any) -> int:
    """Ask a running server whether it gives the model the very prompts that were trained."""
    from sftdata.pipeline.serve_check import serve_check as ask
    from sftdata.pipeline.server import choose_dialect

    asking = {key: flags.pop(key) for key in ("model", "dialect", "timeout", "api_key_env")}
    if golden_file is not None and records:
        raise click.UsageError("--golden brings its own conversations: --records has no place beside it")
    vectors, decode = _vectors(golden_file, records, _given(flags))
    server = _server(url, asking)
    dialect = choose_dialect(server, asking["dialect"])
    rows = []
    if output == "human":
        click.secho(f"{url}, {dialect.name}{f', model {_clean(server.model)}' if server.model else ''}", bold=True)
    for row in ask(server, dialect, vectors, decode):
        rows.append(row)
        if output == "human":
            _echo(row, max(len(case.name) for case in vectors.conversations))
    return _conclude(rows, output, {"url": url, "dialect": dialect.name, "model": server.model})


def _vectors(golden_file: str | None, records: tuple[str, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    """The golden vectors, and what decodes ids."""
    from sftdata.pipeline.cases import cases
    from sftdata.pipeline.golden import decoder, derive
    from sftdata.pipeline.golden_files import read

    vectors = derive(options, cases(records)) if golden_file is None else read(golden_file)
    return vectors, decoder(vectors, options.get("tokenizer"))


def _server(url: str, asking: dict[str, Any]) -> Any:
    from sftdata.pipeline.server import RefusedError, Server, ServerError

    key = None
    if asking["api_key_env"] is not None:
        key = os.environ.get(asking["api_key_env"])
        if not key:
            raise click.UsageError(f"--api-key-env: the environment variable {asking['api_key_env']} is not set")
    server = Server(url, timeout=asking["timeout"], model=asking["model"], key=key)
    if server.model is None:
        try:
            server.model = str(server.get("/v1/models")["data"][0]["id"])
        except (RefusedError, ServerError, LookupError, TypeError):
            server.model = None  # a server of one model needs no name; a dead one is told of by the first question
    return server


def _clean(text: str) -> str:
    from sftdata.report.terminal import clean

    return clean(text)


def _echo(row: Any, width: int) -> None:
    name = f"{_clean(row.name):<{width}}  message {row.message + 1:<3}"
    told = f"{row.ids:,} ids" if row.outcome == "same" else _clean(row.why)
    click.echo(f"  {name}  {click.style(f'{row.outcome:<8}', fg=_COLOURS.get(row.outcome))} {told}")


def _conclude(rows: list[Any], output: str, server: dict[str, Any]) -> int:
    import msgspec

    counts = {word: sum(row.outcome == word for row in rows) for word in _WORDS}
    same = counts["same"] > 0 and not any(counts[word] for word in ("differs", "refused", "failed"))
    if output == "json":
        click.echo(
            json.dumps({**server, "same": same, "counts": counts, "prompts": msgspec.to_builtins(rows)}, indent=2)
        )
    else:
        first = next((row for row in rows if row.outcome == "differs"), None)
        if first is not None:
            click.echo()
            click.secho(_clean(f"First difference: {first.name}, prompt of message {first.message + 1}"), bold=True)
            for line in first.lines:
                click.echo(_clean(line))
            click.echo(f"  {_clean(first.why)}")
            click.echo()
        click.echo(", ".join(f"{count:,} {_WORDS[word]}" for word, count in counts.items() if count))
    if counts["differs"] or counts["refused"]:
        return 1
    return 0 if same else 2


_OF_PROMPTS = ("tokenizer", "template", "template_arg", "clock", "stop", "bos_token", "eos_token")
_OF_REPLIES = ("append_eos", "reasoning", "strip_trailing_stop", "control_tokens", "allow_control", "allow_dropped")
golden.params += [one for one in prepare.params if one.name in (*_OF_PROMPTS, *_OF_REPLIES)]
serve_check.params += [one for one in prepare.params if one.name in _OF_PROMPTS]
