"""The training loop: steps of `step.train_step`, and what happens between them.

What lives here: the order of things in a run. What must not: how any one of them is done. A run that is killed and
started again with the same settings goes on from its last checkpoint, bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist

from sftdata.errors import ConfigError, describe
from sftdata_torch.advice import rising, too_many_epochs
from sftdata_torch.assemble import Data, Learner, held_out, join_processes, load_data, load_learner, stored_dtype
from sftdata_torch.checkpoint import (
    STATE_FILE,
    assert_can_be_saved,
    latest_checkpoint,
    load_optimizer,
    load_state,
    optimizer_state,
    prune_checkpoints,
    save_optimizer,
    seed_step,
    write_whole,
)
from sftdata_torch.collate import Batch
from sftdata_torch.evaluate import ALL, evaluate_loss
from sftdata_torch.folder import claimed
from sftdata_torch.metrics import Metrics
from sftdata_torch.mixture import MixedDataset
from sftdata_torch.modes import not_compiled
from sftdata_torch.optim import learning_rate, members, set_learning_rate
from sftdata_torch.precautions import assert_same_run, look_first
from sftdata_torch.sampler import Bin, share
from sftdata_torch.settings import TrainSettings
from sftdata_torch.sharded import whole_weights
from sftdata_torch.signals import noted_signals
from sftdata_torch.step import NonFiniteError, StepResult, train_step

__all__ = ["Outcome", "Watch", "train"]


class Watch(Protocol):
    """Who looks on: a progress bar, or nothing."""

    def step(self, done: int, total: int, values: dict[str, float]) -> None:
        """A step was made."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class Outcome(NamedTuple):
    """How a run ended."""

    steps: int
    """Steps made in all, those before a resume included."""
    finished: bool
    """False where a signal ended it; the same command goes on."""
    signal: int
    """Its number, 0 where there was none."""
    model: Path | None
    """The final model, in the Hugging Face layout."""
    checkpoint: Path | None
    loss: float | None
    """Of the last step; None where nothing was left to do."""


class Quiet:
    """Looks on and says nothing."""

    def step(self, done: int, total: int, values: dict[str, float]) -> None:
        """See Watch."""

    def note(self, text: str) -> None:
        """See Watch."""


def train(settings: TrainSettings, *, watch: Watch | None = None) -> Outcome:
    """Run, or go on with, the training that `settings` describe; under torchrun, in all processes together.

    Raises ConfigError, ShardError before the first step, and for a checkpoint of another run; ConfigError where a GPU
    has not enough memory; NonFiniteError with the records of the step; OutputError.
    """
    watch, out = watch or Quiet(), Path(settings.out)
    with join_processes() as device, noted_signals() as stop, claimed(out) if _rank() == 0 else nullcontext():
        checkpoint = latest_checkpoint(out)
        state = load_state(checkpoint) if checkpoint else None
        data = load_data(settings, device)
        if state is not None:
            assert_same_run(state, settings, data.schedule, watch.note)
        learner = load_learner(settings, data.manifest, device, checkpoint=checkpoint)
        if learner.files.tokenizer is None:
            watch.note(f"no tokenizer is in {settings.model}: the model is saved without one (--tokenizer names it)")
        run = _Run(settings, data, learner, watch, out)
        if checkpoint is not None and state is not None:
            run.resume(checkpoint, state)
        try:
            return run.go(stop)
        except torch.OutOfMemoryError as error:
            what = f"the GPU has not enough memory: {str(error).partition('. ')[0]}"
            raise ConfigError(describe(what, where=f"step {run.done + 1}", fix=_LESS_MEMORY)) from error


_LESS_MEMORY = "Take --mode lean, a smaller --micro-batch-size or shorter bins; --plan says what each mode needs."


class _Run:
    """State of a run between two steps."""

    def __init__(self, settings: TrainSettings, data: Data, learner: Learner, watch: Watch, out: Path) -> None:
        self.settings, self.data, self.learner, self.watch, self.out = settings, data, learner, watch, out
        self.rank = _rank()
        self.done = 0
        self.checkpoint: Path | None = None
        self.eval_losses: list[float] = []
        self.eval_set = held_out(settings.eval_shards, data.parts) if settings.eval_shards else None
        self.places: list[int] = []
        """The bins of the present global batch, in order."""
        self.from_source = np.zeros(len(data.parts), dtype=np.int64)
        """Bins trained of each set since the run began."""

    def resume(self, checkpoint: Path, state: dict[str, Any]) -> None:
        self.done = int(state["global_step"])
        self.eval_losses = list(state["eval_losses"])
        self.from_source = np.array(state["bins_of_sources"], dtype=np.int64)
        self.data.stream.load_state_dict(state["data"])
        load_optimizer(checkpoint, self.learner.base, self.learner.optimizer)
        self.checkpoint = checkpoint

    def go(self, stop: list[int]) -> Outcome:
        settings, total = self.settings, self.data.schedule.steps
        metrics = self._metrics()
        note = too_many_epochs(total / self.data.schedule.steps_per_epoch)
        if note:
            self.watch.note(note)
        result, steps, signalled = None, self._steps(), 0
        if self.done < total:
            look_first(self.data, self.learner)
        while self.done < total and not (signalled := _agreed(max(stop, default=0), self.learner.device)):
            began = time.perf_counter()
            micro_batches = next(steps)
            waited = time.perf_counter() - began
            first, result = result is None, self._step(micro_batches)
            if first:
                assert_can_be_saved(self.learner.optimizer)
            self.done += 1
            values = self._values(result, time.perf_counter() - began, waited)
            last = self.done == total
            if self.eval_set is not None and (last or _due(self.done, settings.eval_every)):
                values.update(self._evaluate())
            if metrics:
                metrics.log(self.done, values)
            self.watch.step(self.done, total, values)
            if not last and _due(self.done, settings.save_every):
                self._save()
        if self.checkpoint is None or self.checkpoint.name != f"checkpoint-{self.done}":
            self._save()
        finished = self.done >= total
        model = self._save_model() if finished else None
        return Outcome(
            self.done, finished, 0 if finished else signalled, model, self.checkpoint, result and result.loss
        )

    def _steps(self) -> Iterator[list[Batch]]:
        """Global batches, epoch after epoch."""
        sampler, order = self.data.stream.sampler, self.data.dataset.order
        while True:
            epoch, start = sampler.position
            for micro_batches in self.data.stream.steps():
                stop = min(start + sampler.global_batch, order.length)
                self.places = order.bins(epoch, np.arange(start, stop)).tolist()
                start = stop
                yield micro_batches

    def _metrics(self) -> Metrics | None:
        if self.rank:
            return None
        settings = dataclasses.asdict(self.settings)
        return Metrics(self.out, after_step=self.done, log_to=self.settings.log_to, settings=settings)

    def _step(self, micro_batches: list[Batch]) -> StepResult:
        learner, settings, schedule = self.learner, self.settings, self.data.schedule
        rate = learning_rate(self.done, peak=settings.learning_rate, warmup=schedule.warmup, total=schedule.steps)
        set_learning_rate(learner.optimizer, rate)
        seed_step(settings.seed, self.done, self.rank)
        try:
            return train_step(
                learner.trained,
                learner.optimizer,
                micro_batches,
                device=learner.device,
                autocast=learner.autocast,
                clip=settings.max_grad_norm or None,
            )
        except NonFiniteError as error:
            records = sorted(self._records(_all_of(error.micro_batches)))
            message = f"step {self.done + 1}: {error} Record ids: {', '.join(map(str, records))}."
            raise NonFiniteError(message, error.micro_batches) from error

    def _records(self, guilty: list[tuple[int, ...]]) -> set[int]:
        """Records of those micro-batches, by rank; of the whole step where none is to blame by itself."""
        chunk = self.data.stream.sampler.chunk
        chunks = [self.places[at : at + chunk] for at in range(0, len(self.places), chunk)]
        places = [
            place for rank, mine in enumerate(guilty) for at in mine for place in share(chunks[at], rank, len(guilty))
        ]
        return {int(one) for place in places or self.places for one in self.data.dataset[Bin(place)]["record_ids"]}

    def _values(self, result: StepResult, took: float, waited: float) -> dict[str, float]:
        """What is logged of a step; tokens are real ones, on all ranks."""
        tokens = self.data.tokens_per_bin * len(self.places)
        values = {
            "train/loss": result.loss,
            "train/mean_token_accuracy": result.accuracy,
            "train/grad_norm": result.grad_norm,
            "train/learning_rate": members(self.learner.optimizer)[0].param_groups[0]["lr"],
            "train/epoch": self.done / self.data.schedule.steps_per_epoch,
            "train/target_tokens": float(result.targets),
            "tokens_per_second": tokens / took,
            "target_tokens_per_second": result.targets / took,
            "data_wait_ms": waited * 1e3,
        }
        if self.learner.device.type == "cuda":
            values["peak_mem_gib"] = torch.cuda.max_memory_allocated(self.learner.device) / 2**30
        if isinstance(self.data.dataset, MixedDataset):
            sources = np.searchsorted(self.data.dataset.order.starts, self.places, side="right") - 1
            self.from_source += np.bincount(sources, minlength=len(self.from_source))
            shares = self.from_source / self.from_source.sum()
            values.update({f"data/share/{name}": float(one) for name, one in zip(self.data.names, shares, strict=True)})
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def _evaluate(self) -> dict[str, float]:
        """Scores of the held-out set, flat: `eval/loss` of all, `eval/loss/ADDRESS` where there are several inputs."""
        assert self.eval_set is not None
        learner = self.learner
        with not_compiled():
            scores = evaluate_loss(
                learner.loss_model,
                self.eval_set,
                device=learner.device,
                autocast=learner.autocast,
                tokenizer=learner.files.tokenizer,
                micro_batch=self.settings.micro_batch_size,
            )
        self.eval_losses.append(scores[ALL].loss)
        note = rising(self.eval_losses)
        if note:
            self.watch.note(note)
        values = {}
        for source, each in scores.items():
            if source == ALL or len(scores) > 2:
                tail = "" if source == ALL else f"/{source}"
                values[f"eval/loss{tail}"] = each.loss
                values[f"eval/perplexity{tail}"] = each.perplexity
                values[f"eval/mean_token_accuracy{tail}"] = each.accuracy
                if each.bits_per_byte is not None:
                    values[f"eval/bits_per_byte{tail}"] = each.bits_per_byte
        return values

    def _save(self) -> None:
        """A checkpoint of this step, written by the first process while the others wait."""
        folder, learner = self.out / f"checkpoint-{self.done}", self.learner
        first = self.rank == 0
        weights = whole_weights(learner.base, wanted=first)
        updates = optimizer_state(learner.base, learner.optimizer, wanted=first)
        if first:
            state = {
                "global_step": self.done,
                "epoch": self.done / self.data.schedule.steps_per_epoch,
                "max_steps": self.data.schedule.steps,
                "data": self.data.stream.state_dict(),
                "eval_losses": self.eval_losses,
                "bins_of_sources": self.from_source.tolist(),
                "settings": dataclasses.asdict(self.settings),
            }

            def fill(part: Path) -> None:
                learner.files.write(learner.base, part, weights=weights)
                save_optimizer(part, updates)
                (part / STATE_FILE).write_text(json.dumps(state, indent=1), encoding="utf-8")

            write_whole(folder, fill)
            prune_checkpoints(self.out, self.settings.keep_checkpoints)
        self.checkpoint = folder
        _wait()

    def _save_model(self) -> Path:
        """The model alone, in the dtype that it is to be used in; an adapter stays as it is."""
        folder, learner = self.out / "model", self.learner
        weights = whole_weights(learner.base, wanted=self.rank == 0)
        if self.rank == 0:
            dtype = None if self.settings.lora_rank else stored_dtype(self.settings)
            write_whole(folder, lambda part: learner.files.write(learner.base, part, dtype, weights))
        _wait()
        return folder


def _due(done: int, every: int) -> bool:
    return bool(every) and done % every == 0


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _all_of(mine: tuple[int, ...]) -> list[tuple[int, ...]]:
    """What every rank has, by rank."""
    if not dist.is_initialized():
        return [mine]
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, mine)
    return every


def _agreed(signalled: int, device: torch.device) -> int:
    """The same on all ranks: a signal as soon as one of them got it, else 0."""
    if not dist.is_initialized():
        return signalled
    shared = torch.tensor(signalled, device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared)
