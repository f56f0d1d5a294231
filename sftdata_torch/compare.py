"""Base and tuned model side by side on held-out prompts: replies, scores, whether they stopped; as rows and as a page.

What lives here: joining prompts, replies and scores. What must not: loading from a command line, printing.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sftdata.durable import durable
from sftdata.errors import ConfigError, describe
from sftdata_torch.advice import ran_to_the_limit
from sftdata_torch.assemble import load_tokenizer, open_eval
from sftdata_torch.evaluate import Sources
from sftdata_torch.generate import Prompt, Sampling, generate_replies, held_out_prompts
from sftdata_torch.scores import TextScores, bootstrap_difference, rouge, score_texts
from sftdata_torch.weights import load_causal

__all__ = ["Comparison", "Task", "Verdict", "compare", "judge", "load_model", "load_task", "write_comparison"]


class Task(NamedTuple):
    """Held-out prompts as ids and as text."""

    prompts: list[Prompt]
    sources: list[str]
    texts: list[str]
    """The prompts as served, control tokens included."""
    references: list[str]
    stops: tuple[int, ...]
    tokenizer: Any
    split: str
    """`eval`, or `train` where the shards have no other."""


class Verdict(NamedTuple):
    """What one model made of a task."""

    replies: list[str]
    stopped: list[bool]
    scores: TextScores
    notes: list[str]

    @property
    def summary(self) -> dict[str, float]:
        """Scores of the corpus, and the share of replies that ended by themselves, from 0 to 100."""
        return {**self.scores.corpus, "stopped": 100.0 * sum(self.stopped) / len(self.stopped)}


class Comparison(NamedTuple):
    """Both models on one task."""

    task: Task
    base: Verdict
    tuned: Verdict
    difference: tuple[float, float, float]
    """Mean gain in ROUGE-L, and its interval of 95 %."""
    sampling: Sampling


def load_task(shards: str, tokenizer: str, *, limit: int | None = None) -> Task:
    """Prompts of the `eval` split of `shards`. Raises ConfigError where it holds none."""
    bins = open_eval(shards)
    prompts = held_out_prompts(bins, limit=limit)
    if not prompts:
        raise ConfigError(
            describe("no trained reply is held out here", where=shards, fix="Prepare the shards with --eval.")
        )
    names, found = Sources(bins.manifest), load_tokenizer(tokenizer, bins.manifest)
    return Task(
        prompts,
        [names.of(prompt.record_id) for prompt in prompts],
        [found.decode(prompt.ids.tolist(), **_PLAIN) for prompt in prompts],
        [found.decode(prompt.reference.tolist(), skip_special_tokens=True, **_PLAIN) for prompt in prompts],
        tuple(int(each) for each in bins.manifest.tokenizer["stop_token_ids"]),
        found,
        bins.split,
    )


_PLAIN = {"clean_up_tokenization_spaces": False}


def load_model(path: str, device: torch.device, *, base: str | None = None) -> Any:
    """The model at `path` for evaluation, in bfloat16 on a GPU and float32 elsewhere.

    A folder with an adapter gives the adapter on its base model (`base`, or the one it names), so that both are in
    memory once. Raises ConfigError where it cannot be loaded.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    adapter = Path(path, "adapter_config.json")
    if not adapter.is_file():
        return load_causal(path, dtype=dtype).to(device).eval()
    try:
        from peft import PeftModel

        under = base or str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
        model = PeftModel.from_pretrained(load_causal(under, dtype=dtype), path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(describe(f"the adapter cannot be loaded: {error}", where=path)) from error
    except ImportError as error:
        raise ConfigError(describe("adapters need peft", where=path, fix="pip install peft")) from error
    return model.to(device).eval()


def judge(model: Any, task: Task, sampling: Sampling, *, batch_size: int = 8, compat: str | None = None) -> Verdict:
    """Let `model` answer all prompts of `task`, and score the answers."""
    drawn = generate_replies(model, task.prompts, task.stops, sampling, batch_size=batch_size)
    texts = [task.tokenizer.decode(reply.ids, skip_special_tokens=True, **_PLAIN) for reply in drawn]
    stopped = [reply.stopped for reply in drawn]
    note = ran_to_the_limit(1 - sum(stopped) / len(stopped), sampling.max_new_tokens)
    return Verdict(texts, stopped, score_texts(texts, task.references, compat=compat), [note] if note else [])


def compare(base: Any, tuned: Any, task: Task, sampling: Sampling, *, batch_size: int = 8) -> Comparison:
    """Both models on `task`; with `base` None, `tuned` is an adapter, and its base is the adapter switched off."""
    switched_off: AbstractContextManager[Any] = nullcontext() if base is not None else tuned.disable_adapter()
    with switched_off:
        first = judge(tuned if base is None else base, task, sampling, batch_size=batch_size)
    second = judge(tuned, task, sampling, batch_size=batch_size)
    difference = bootstrap_difference(second.scores.rouge_l, first.scores.rouge_l)
    return Comparison(task, first, second, difference, sampling)


def rows(comparison: Comparison) -> Iterable[dict[str, Any]]:
    """One plain object a prompt."""
    task, base, tuned = comparison.task, comparison.base, comparison.tuned
    for at, prompt in enumerate(task.prompts):
        yield {
            "id": prompt.record_id,
            "source": task.sources[at],
            "prompt": task.texts[at],
            "reference": task.references[at],
            "base": base.replies[at],
            "tuned": tuned.replies[at],
            "metrics": {
                "base": {"stopped": base.stopped[at], **rouge(base.replies[at], task.references[at])},
                "tuned": {"stopped": tuned.stopped[at], **rouge(tuned.replies[at], task.references[at])},
            },
        }


def write_comparison(comparison: Comparison, out: Path) -> tuple[Path, Path]:
    """`side-by-side.jsonl` and `side-by-side.html` in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    lines, page = out / "side-by-side.jsonl", out / "side-by-side.html"
    with durable(lines, page) as names:
        told = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(comparison))
        names[0].write_text(told, encoding="utf-8")
        names[1].write_text(_page(comparison), encoding="utf-8")
    return lines, page


def _page(comparison: Comparison) -> str:
    """One page without scripts and without anything from elsewhere."""
    summaries = (comparison.base.summary, comparison.tuned.summary)
    head = "".join(
        f"<tr><th>{_LABELS.get(name, name)}<td>{summaries[0][name]:.1f}<td>{summaries[1][name]:.1f}"
        for name in summaries[0]
    )
    gain, low, high = comparison.difference
    notes = "".join(
        f"<p class=note>{html.escape(model)}: {html.escape(note)}"
        for model, verdict in (("base", comparison.base), ("tuned", comparison.tuned))
        for note in verdict.notes
    )
    body = "".join(_section(row) for row in rows(comparison))
    signatures = html.escape("; ".join(f"{name}: {text}" for name, text in comparison.tuned.scores.signatures.items()))
    drawn = comparison.sampling
    how = (
        f"temperature {drawn.temperature:g}, top-p {drawn.top_p:g}"
        if drawn.temperature
        else "always the likeliest token"
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Side by side</title><style>{_STYLE}</style>"
        f"<h1>Side by side</h1><p>{len(comparison.task.prompts)} held-out prompts; "
        f"replies of at most {drawn.max_new_tokens} tokens, {how}, seed {drawn.seed}."
        f"<table class=scores><tr><th>score<th>base<th>tuned{head}</table>"
        f"<p>ROUGE-L changes by {gain:+.1f} (95 % of resamples: {low:+.1f} to {high:+.1f})."
        f"<p class=small>{signatures}{notes}{body}</html>\n"
    )


_LABELS = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge-1": "ROUGE-1",
    "rouge-2": "ROUGE-2",
    "rouge-l": "ROUGE-L",
    "stopped": "stopped by itself, %",
}


def _section(row: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<td><pre>{html.escape(row[name])}</pre>{_mark(row, name)}" for name in ("reference", "base", "tuned")
    )
    title = f"{html.escape(row['source'])}, record {row['id']}"
    return (
        f"<section><h2>{title}</h2><pre class=prompt>{html.escape(row['prompt'])}</pre>"
        f"<table><tr><th>reference<th>base<th>tuned<tr>{cells}</table></section>"
    )


def _mark(row: Mapping[str, Any], name: str) -> str:
    """Score and end of a reply; nothing under the reference."""
    if name == "reference":
        return ""
    metrics = row["metrics"][name]
    end = "stopped" if metrics["stopped"] else "<b>ran to the limit</b>"
    return f"<p class=small>ROUGE-L {metrics['rouge-l']:.0f}, {end}"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}"
    "body{color:#222;background:#fff}"
    "table{width:100%;border-collapse:collapse;table-layout:fixed}.scores{width:auto}"
    "th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border:1px solid #ccc}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font:13px/1.45 ui-monospace,monospace}"
    ".prompt{background:#f4f4f4;padding:.6rem;margin-bottom:.4rem}.small{font-size:13px;color:#555}.note{color:#a33}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}.prompt{background:#262626}"
    "th,td{border-color:#444}.small{color:#aaa}}"
)
