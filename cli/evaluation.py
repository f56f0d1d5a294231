"""`sftdata-eval`: what a model makes of held-out shards, by loss, by generation, and beside its base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sftdata_cli.packages import need

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata-eval loss --model run/model --shards shards
  sftdata-eval generate --model run/model --shards shards --temperature 0
  sftdata-eval side-by-side --base ./qwen2.5-0.5b --model run/model --shards shards --out report

Exit codes: 0 done, 1 damaged shards, 2 usage or configuration.
"""
_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sftdata")
def command() -> None:
    """Evaluate a model on the eval split of sealed shards: prompts are served as they were trained."""
    need("train", "torch", "transformers", "safetensors")


def _common(function: _Command) -> _Command:
    for option in (
        click.option("--format", "output", type=click.Choice(["human", "json"]), default="human"),
        click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True),
        click.option("--tokenizer", help="Default: that of --model."),
        click.option("--shards", required=True, help="Folder of sftdata prepare, made with --eval."),
        click.option("--model", required=True, help="Model or adapter folder, or a hub name."),
    ):
        function = option(function)
    return function


def _sampled(function: _Command) -> _Command:
    for option in (
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--limit", type=click.IntRange(min=1), help="Prompts to take. Default: all."),
        click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True),
        click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True),
        click.option("--temperature", type=click.FloatRange(min=0), default=0.7, show_default=True, help="0: greedy."),
    ):
        function = option(function)
    return function


@command.command("loss", short_help="Loss, perplexity, bits per byte, accuracy.")
@_common
@click.option("--attention", default="packed_varlen", show_default=True, help="packed_blocks, or one of transformers.")
def loss(model: str, shards: str, tokenizer: str | None, batch_size: int, output: str, attention: str) -> int:
    """Loss, perplexity, bits per byte and token accuracy of the true replies, by source."""
    from sftdata_torch.assemble import load_tokenizer, open_eval
    from sftdata_torch.attention import register_attention
    from sftdata_torch.compare import load_model
    from sftdata_torch.evaluate import evaluate_loss
    from sftdata_torch.head import LossModel

    bins, device = open_eval(shards), _device()
    _say_split(bins.split)
    found = load_tokenizer(tokenizer or model, bins.manifest, needed=tokenizer is not None)
    loaded = load_model(model, device)
    register_attention()
    loaded.set_attn_implementation(attention)
    scores = evaluate_loss(LossModel(loaded), bins, device=device, tokenizer=found, micro_batch=batch_size)
    if output == "json":
        click.echo(json.dumps({source: each._asdict() for source, each in scores.items()}))
        return 0
    click.echo(f"{'loss':>9}{'perplexity':>12}{'bits/byte':>11}{'accuracy':>10}{'tokens':>10}  source")
    for source, each in scores.items():
        bits = "-" if each.bits_per_byte is None else f"{each.bits_per_byte:.4f}"
        row = f"{each.loss:>9.4f}{each.perplexity:>12.3f}{bits:>11}{each.accuracy:>10.4f}{each.targets:>10,}"
        click.echo(f"{row}  {source}")
    return 0


@command.command("generate", short_help="Replies, scored by BLEU, chrF and ROUGE.")
@_common
@_sampled
@click.option("--compat", help="llamafactory: that project's definitions of BLEU and ROUGE.")
def generate(model: str, shards: str, tokenizer: str | None, output: str, compat: str | None, **drawn: Any) -> int:
    """Replies to held-out prompts, scored by BLEU, chrF and ROUGE, and whether the model stopped."""
    from sftdata_torch.compare import judge, load_model, load_task

    task = load_task(shards, tokenizer or model, limit=drawn["limit"])
    _say_split(task.split)
    verdict = judge(load_model(model, _device()), task, _sampling(drawn), batch_size=drawn["batch_size"], compat=compat)
    if output == "json":
        click.echo(json.dumps({**verdict.summary, "signatures": verdict.scores.signatures, "notes": verdict.notes}))
        return 0
    for name, value in verdict.summary.items():
        click.echo(f"{name:<10}{value:>7.2f}")
    for name, text in verdict.scores.signatures.items():
        click.echo(f"{name}: {text}")
    for text in verdict.notes:
        click.echo(f"note: {text}")
    return 0


@command.command("side-by-side", short_help="Base and tuned model on one page.")
@_common
@_sampled
@click.option("--base", help="The model before; may be left out for an adapter, which is then switched off.")
@click.option("--out", required=True, help="Folder for side-by-side.jsonl and side-by-side.html.")
def side_by_side(
    model: str, shards: str, tokenizer: str | None, output: str, base: str | None, out: str, **drawn: Any
) -> int:
    """Base and tuned model on the same held-out prompts: JSON Lines, and one page to read."""
    from sftdata_torch.compare import compare, load_model, load_task, write_comparison

    if base is None and not Path(model, "adapter_config.json").is_file():
        raise click.UsageError("--base is missing: only an adapter knows its own base")
    device = _device()
    task = load_task(shards, tokenizer or model, limit=drawn["limit"])
    _say_split(task.split)
    adapter = Path(model, "adapter_config.json").is_file()
    tuned = load_model(model, device, base=base)
    before = None if adapter else load_model(str(base), device)
    comparison = compare(before, tuned, task, _sampling(drawn), batch_size=drawn["batch_size"])
    lines, page = write_comparison(comparison, Path(out))
    first, second = comparison.base.summary, comparison.tuned.summary
    if output == "json":
        click.echo(json.dumps({"base": first, "tuned": second, "rouge_l_gain": comparison.difference}))
        return 0
    click.echo(f"{'':<10}{'base':>8}{'tuned':>8}")
    for name, value in first.items():
        click.echo(f"{name:<10}{value:>8.2f}{second[name]:>8.2f}")
    gain, low, high = comparison.difference
    click.echo(f"ROUGE-L changes by {gain:+.2f} (95 % of resamples: {low:+.2f} to {high:+.2f})")
    for note in (*comparison.base.notes, *comparison.tuned.notes):
        click.echo(f"note: {note}")
    click.echo(f"{lines}\n{page}")
    return 0


def _say_split(split: str) -> None:
    """What was trained says little about what was learned."""
    if split != "eval":
        click.echo(f"note: the shards have no eval split; this is their {split} split", err=True)


def _sampling(drawn: dict[str, Any]) -> Any:
    from sftdata_torch.generate import Sampling

    return Sampling(drawn["max_new_tokens"], drawn["temperature"], drawn["top_p"], drawn["seed"])


def _device() -> Any:
    """Where to compute; loading shows no bars from here on."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
