"""Small training runs on disk for the tests: a model folder, sealed shards, settings."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sftdata_torch.settings import TrainSettings, build_settings
from tests.torch.models import causal
from tests.torch.packs import VOCAB, many, sealed


class Killer:
    """Sends SIGTERM to this process after a step, and remembers what was said."""

    def __init__(self, after: int | None = None) -> None:
        self.after = after
        self.notes: list[str] = []
        self.values: list[dict[str, float]] = []

    def step(self, done, total, values):
        self.values.append(values)
        if done == self.after:
            os.kill(os.getpid(), signal.SIGTERM)

    def note(self, text):
        self.notes.append(text)


def model_folder(path: Path, family: str = "llama", **sizes: Any) -> Path:
    causal(family, **sizes).save_pretrained(path)
    return path


def settings(tmp_path: Path, out: str = "out", **options: Any) -> TrainSettings:
    """Ten bins, three steps of four an epoch, on a tiny llama; all of it made on the first call."""
    model, shards = tmp_path / "llama", tmp_path / "shards"
    if not model.exists():
        model_folder(model, attention_dropout=0.1)
    if not shards.exists():
        sealed(shards, many(10), eval=many(4, seed=7))
    given = {"model": str(model), "shards": str(shards), "out": str(tmp_path / out), "epochs": 2, "workers": 0}
    return build_settings({**given, "global_batch_size": 4, "learning_rate": 1e-3, **options})


def losses(out: str | Path) -> list[float]:
    lines = (Path(out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["train/loss"] for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    files = folder.glob("*.safetensors")
    return {f"{path.name}:{name}": value for path in files for name, value in load_file(path).items()}


def replies(count: int, prompt: int = 6, reply: int = 5, stop: int = 1) -> list[dict[str, np.ndarray]]:
    """`count` bins of one chat each: a random prompt, a random reply that ends in `stop`; all prompts differ."""
    random = np.random.default_rng(0)
    ids = random.integers(2, VOCAB, (count, prompt + reply)).astype(np.int32)
    ids[:, -1] = stop
    labels = np.where(np.arange(prompt + reply) < prompt, -100, ids).astype(np.int32)
    lengths = np.array([prompt + reply], dtype=np.int32)
    return [{"input_ids": a, "labels": b, "seq_lengths": lengths} for a, b in zip(ids, labels, strict=True)]
