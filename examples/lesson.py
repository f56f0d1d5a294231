"""The whole lesson of supervised fine-tuning, from raw records to a page with both models side by side.

    python examples/lesson.py chats.jsonl --model ./qwen2.5-0.5b --out lesson
    python examples/lesson.py examples/data/alpaca.jsonl --hold-out 4 --out lesson      (a tiny random model)

Sample 1,000 records stratified by shape and size, hold 20 of them out, prepare both, train, and let the model before
and the model after answer the prompts that were held out. JSON Lines in any format that `sftdata formats` lists.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

import sftdata
from sftdata_torch.compare import compare, load_model, load_task, write_comparison
from sftdata_torch.generate import Sampling
from sftdata_torch.loop import train
from sftdata_torch.plan import make_plan
from sftdata_torch.settings import TrainSettings, build_settings


def stratified(lines: list[str], count: int) -> list[str]:
    """About `count` of the lines, each kind in proportion; a kind is which fields are filled, and the size in octaves.

    The same lines give the same sample in every order: within a kind those of the smallest hash are taken.
    """
    kinds: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for line in sorted(set(lines), key=lambda each: hashlib.sha256(each.encode()).digest()):
        filled = tuple(sorted(name for name, value in json.loads(line).items() if value))
        kind = (*filled, len(line).bit_length())
        kinds[kind].append(line)
    share = min(1.0, count / max(len(lines), 1))
    return [line for each in kinds.values() for line in each[: max(1, round(share * len(each)))]]


def write_lines(path: Path, lines: list[str]) -> str:
    """The lines as a file; returns its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def tiny_model(folder: Path) -> str:
    """A random model of 0.4 M weights over the tokenizer that sftdata carries, as a folder like any other."""
    tokenizer = AutoTokenizer.from_pretrained(Path(sftdata.__file__).parent / "tokenizers" / "builtin")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, max_position_embeddings=1024, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def prepared(lines: list[str], model: str, out: Path, max_length: int) -> str:
    """The lines as sealed shards, rendered by the template of the model's own tokenizer."""
    source = write_lines(out.with_suffix(".jsonl"), lines)
    outcome = sftdata.prepare(source, tokenizer=model, max_length=max_length, out=str(out), max_reject_rate=0.2)
    if not outcome.sealed:
        raise SystemExit(f"nothing was sealed: look at {out / 'rejected.jsonl'}")
    return str(out)


def settings_for(given: argparse.Namespace, model: str, shards: str, held_out: str) -> TrainSettings:
    """The lesson's recipe; a model that has learned nothing yet takes a higher rate and more epochs."""
    rate = given.learning_rate or (2e-5 if given.model else 5e-3)
    epochs = given.epochs or (3.0 if given.model else 12.0)
    batch = {} if given.model else {"global_batch_size": 1}
    options: dict[str, Any] = {"model": model, "shards": shards, "eval_shards": held_out, "workers": 0, **batch}
    return build_settings({**options, "out": str(given.out / "run"), "epochs": epochs, "learning_rate": rate})


class Shown:
    """Prints about ten steps of a run, and what its user should know."""

    def step(self, done: int, total: int, values: dict[str, float]) -> None:
        """A step was made."""
        if done in (1, total) or done % max(1, total // 10) == 0:
            print(f"step {done:>5} of {total}   loss {values['train/loss']:.3f}", flush=True)

    def note(self, text: str) -> None:
        """Something happened that has a reason."""
        print(f"note: {text}")


def main() -> None:
    """Read the command line and do it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="a model folder or hub name; default: a tiny random one")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--hold-out", type=int, default=20)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--epochs", type=float, help="default 3; 12 for the tiny model, which has learned nothing yet")
    parser.add_argument("--learning-rate", type=float, help="default 2e-5; 5e-3 for the tiny model")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    given = parser.parse_args()
    disable_progress_bar()

    lines = stratified(
        [line for line in given.input.read_text(encoding="utf-8").split("\n") if line.strip()], given.rows
    )
    held_out = stratified(lines, given.hold_out)[: given.hold_out]
    learned = [line for line in lines if line not in set(held_out)]
    print(f"{len(learned)} records to learn from, {len(held_out)} held out")

    model = given.model or tiny_model(given.out / "tiny")
    shards = prepared(learned, model, given.out / "shards", given.max_length)
    unseen = prepared(held_out, model, given.out / "held-out", given.max_length)
    settings = settings_for(given, model, shards, unseen)
    print("\n".join(make_plan(settings).lines()))

    outcome = train(settings, watch=Shown())
    print(f"{outcome.steps} steps, loss {outcome.loss:.3f}" if outcome.loss is not None else "trained already")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = load_task(unseen, model)
    sampling = Sampling(max_new_tokens=given.max_new_tokens)
    both = compare(load_model(model, device), load_model(str(outcome.model), device), task, sampling)
    print("held-out prompts: the model before -> the model after")
    for name, value in both.base.summary.items():
        print(f"{name:<10}{value:>8.2f} -> {both.tuned.summary[name]:.2f}")
    print(*both.tuned.notes, *write_comparison(both, given.out / "report"), sep="\n")


if __name__ == "__main__":
    main()
