"""The cases that `benchmarks.gpu` measures: this loop with more and more of its ingredients, and TRL's trainer.

What lives here: one function a kind of case, from the shared numbers to seconds, losses and peaks. What must not:
tables, files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sftdata_torch.attention import register_attention
from sftdata_torch.collate import Batch, PackedCollator
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.head import NOT_FOR_THE_MODEL, LossModel
from sftdata_torch.modes import MODES, SteadyCollator, apply_mode, compile_layers
from sftdata_torch.optim import OPTIMIZERS, make_optimizer
from sftdata_torch.step import train_step

RATE = 2e-5
SIZES: dict[str, dict[str, int]] = {
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}
"""Qwen2.5's, with two key-value heads and tied embeddings."""


class Bench(NamedTuple):
    """What all cases share."""

    model: str
    vocab: int
    shards: Path
    dataset: PackedDataset
    device: torch.device
    bins: int
    """In a micro-batch, which is a step."""
    warmup: int
    steps: int
    repeats: int
    capacity: int
    until: float
    """On the clock of `time.perf_counter`: no step begins after it."""


class Run(NamedTuple):
    """What a case did."""

    seconds: list[float]
    """Of every step after the warm-up."""
    losses: list[float]
    allocated: int
    reserved: int


class Case(NamedTuple):
    """One line of the table."""

    name: str
    needs: tuple[str, ...]
    """Packages without which it is a gap."""
    go: Callable[[Bench], Run]
    compiles: bool = False
    predicted: tuple[str, str] | None = None
    """Mode and optimizer of the plan that it is held against."""


class NaiveLoss(nn.Module):
    """Full logits, then cross entropy in float32: what models compute by themselves."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed loss and hits, as `LossModel` gives them."""
        inputs = {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
        logits = self.model(**inputs, use_cache=False).logits[0, :-1].float()
        labels = batch["labels"][0, 1:]
        return cross_entropy(logits, labels, reduction="sum"), (logits.argmax(-1) == labels).sum()


def made(bench: Bench, dtype: torch.dtype = torch.float32) -> Any:
    """The random model, the same every time."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {**SIZES[bench.model], "num_key_value_heads": 2, "vocab_size": bench.vocab}
    config = Qwen2Config(**sizes, tie_word_embeddings=True, use_cache=False, max_position_embeddings=32768)
    with torch.device(bench.device):
        model = Qwen2ForCausalLM(config).to(dtype)
    model.set_attn_implementation(register_attention())
    return model.train()


def batches(bench: Bench, collate: Callable[[Sequence[Any]], Batch]) -> Iterator[Batch]:
    """Bins in the order of the files, again from the beginning where they end."""
    at = 0
    while True:
        rows = [bench.dataset[(at + offset) % len(bench.dataset)] for offset in range(bench.bins)]
        at += bench.bins
        yield collate(rows)


def timed(bench: Bench, step: Callable[[int], float]) -> Run:
    """Warm up, then measure while there is time; every step ends with the device idle."""
    losses = [step(at) for at in range(bench.warmup)]
    _reset_peak(bench.device)
    seconds: list[float] = []
    for at in range(bench.warmup, bench.warmup + bench.steps * bench.repeats):
        began = time.perf_counter()
        if began > bench.until:
            break
        losses.append(step(at))
        wait(bench.device)
        seconds.append(time.perf_counter() - began)
    return Run(seconds, losses, *_peak(bench.device))


def ours(
    mode: str = "fast", *, head: bool = True, compiled: bool = False, optimizer: str = "adamw"
) -> Callable[[Bench], Run]:
    """A case of this loop."""

    def go(bench: Bench) -> Run:
        cuda = bench.device.type == "cuda"
        master = OPTIMIZERS[optimizer].keeps_master
        model = made(bench, torch.bfloat16 if master else torch.float32)
        apply_mode(model, MODES[mode])
        wrapped = LossModel(model, chunk_bytes=MODES[mode].chunk_bytes) if head else NaiveLoss(model)
        collate: Callable[[Sequence[Any]], Batch] = PackedCollator()
        if compiled:
            compile_layers(model)
            collate = SteadyCollator(micro_batch=bench.bins, capacity=bench.capacity)
        updates = make_optimizer(model, optimizer, lr=RATE, release=MODES[mode].release)
        stream = batches(bench, collate)
        clip = None if MODES[mode].release else 1.0
        autocast = torch.bfloat16 if cuda and not master else None

        def step(at: int) -> float:  # noqa: ARG001
            return train_step(wrapped, updates, [next(stream)], device=bench.device, autocast=autocast, clip=clip).loss

        return timed(bench, step)

    return go


def trl(*, checkpointing: bool, compiled: bool = False) -> Callable[[Bench], Run]:
    """A case of TRL's SFTTrainer: the same files, order, attention, rate and clipping."""

    def go(bench: Bench) -> Run:
        from datasets import load_dataset
        from trl import SFTConfig, SFTTrainer

        cuda = bench.device.type == "cuda"
        total = bench.warmup + bench.steps * bench.repeats
        config = SFTConfig(
            str(bench.shards / "trl"),
            per_device_train_batch_size=bench.bins,
            max_steps=total,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            packing=False,
            padding_free=True,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            gradient_checkpointing=checkpointing,
            bf16=cuda,
            use_cpu=not cuda,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        files = sorted(map(str, bench.shards.glob("train-*.parquet")))
        rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(bench.shards / "cache"))
        model = made(bench)
        if compiled:
            for layer in model.model.layers:
                layer.compile()
        clock = _clock(bench)
        trainer = SFTTrainer(model, config, train_dataset=rows, processing_class=_no_tokenizer(), callbacks=[clock])
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return Run(np.diff(clock.ends)[bench.warmup - 1 :].tolist(), losses, *_peak(bench.device))

    return go


def _clock(bench: Bench) -> Any:
    """A callback that notes when every step ends."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]  # its base is untyped
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
            wait(bench.device)
            self.ends.append(time.perf_counter())
            control.should_training_stop |= self.ends[-1] > bench.until
            if len(self.ends) == bench.warmup:
                _reset_peak(bench.device)

    return Clock()


def _no_tokenizer() -> Any:
    """TRL wants one, and reads no text with it here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="b", pad_token="a", unk_token="a")


CASES = (
    Case("logits in full", (), ours(head=False)),
    Case("+ chunked head (fast)", (), ours(), predicted=("fast", "adamw")),
    Case("+ compiled layers", (), ours(compiled=True), compiles=True),
    Case("+ 24-bit masters", ("flashoptim",), ours(compiled=True, optimizer="flashadamw"), compiles=True),
    Case("lean", (), ours("lean"), predicted=("lean", "adamw")),
    Case("lean, compiled", (), ours("lean", compiled=True), compiles=True),
    Case(
        "lean, 24-bit masters", ("flashoptim",), ours("lean", optimizer="flashadamw"), predicted=("lean", "flashadamw")
    ),
    Case("min", (), ours("min"), predicted=("min", "adamw")),
    Case("min, 24-bit masters", ("flashoptim",), ours("min", optimizer="flashadamw"), predicted=("min", "flashadamw")),
    Case("TRL, its defaults", ("trl", "datasets"), trl(checkpointing=True)),
    Case("TRL, no checkpointing", ("trl", "datasets"), trl(checkpointing=False)),
    Case("TRL, compiled layers", ("trl", "datasets"), trl(checkpointing=False, compiled=True), compiles=True),
)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> tuple[int, int]:
    if device.type != "cuda":
        return 0, 0
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
