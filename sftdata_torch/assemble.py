"""From settings to everything that a run is made of: data, model, optimizer, number of steps.

What lives here: loading and joining. What must not: the loop. transformers and peft are imported when they are used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sftdata.errors import ConfigError, ShardError, describe
from sftdata.shards import Manifest
from sftdata_torch.attention import ATTENTION, register_attention
from sftdata_torch.checkpoint import ModelFiles, seed_step
from sftdata_torch.collate import Batch, PackedCollator, Row
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.head import LossModel
from sftdata_torch.lora import adapt, freeze_layers, freeze_others
from sftdata_torch.mixture import MixedDataset
from sftdata_torch.modes import MODES, SteadyCollator, apply_mode, compile_layers
from sftdata_torch.optim import OPTIMIZERS, ReleasingOptimizer, make_optimizer
from sftdata_torch.sampler import ElasticSampler
from sftdata_torch.settings import TrainSettings
from sftdata_torch.sharded import shard_model
from sftdata_torch.signals import leave_signals_to_parent
from sftdata_torch.stream import PackedStream
from sftdata_torch.weights import load_causal

__all__ = [
    "Data",
    "Learner",
    "Schedule",
    "held_out",
    "join_processes",
    "load_data",
    "load_learner",
    "open_eval",
    "schedule_of",
    "split_weight",
    "stored_dtype",
]

EXAMPLES_A_STEP = 128
"""The effective batch of the usual recipes, in examples."""


class Schedule(NamedTuple):
    """What a run will do, known before the first step."""

    global_batch: int
    """Bins a step."""
    steps: int
    warmup: int
    steps_per_epoch: int


class Data(NamedTuple):
    """The training side of the data."""

    names: list[str]
    parts: list[PackedDataset]
    """The sealed sets, one or several."""
    dataset: PackedDataset | MixedDataset
    collate: Callable[[Sequence[Row]], Batch]
    stream: PackedStream
    schedule: Schedule

    @property
    def tokens_per_bin(self) -> float:
        """On average; padding is none."""
        files = [file for part in self.parts for file in part.manifest.files[part.split]]
        return sum(file.tokens for file in files) / sum(file.rows for file in files)

    @property
    def manifest(self) -> Manifest:
        """Of the first set: tokenizer and template are those of all."""
        return self.parts[0].manifest


class Learner(NamedTuple):
    """The training side of the model."""

    base: Any
    """The transformers model, adapted where asked for."""
    trained: nn.Module
    """`LossModel(base)`, wrapped for data parallelism where there are several processes."""
    optimizer: torch.optim.Optimizer | ReleasingOptimizer
    device: torch.device
    autocast: torch.dtype | None
    files: ModelFiles

    @property
    def loss_model(self) -> LossModel:
        """Without the wrapping."""
        inner = self.trained.module if isinstance(self.trained, DistributedDataParallel) else self.trained
        assert isinstance(inner, LossModel)
        return inner


@contextmanager
def join_processes() -> Iterator[torch.device]:
    """This rank's device, inside the process group that torchrun asked for (nccl on GPUs, else gloo)."""
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mine = dist.is_available() and dist.is_torchelastic_launched() and not dist.is_initialized()
    if mine:
        cuda = device.type == "cuda"
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        yield device
    finally:
        if mine:
            dist.destroy_process_group()


def load_data(settings: TrainSettings, device: torch.device) -> Data:
    """Open the sets and cut them into steps. Raises ShardError and ConfigError as those do, and where nothing is
    trained."""
    names, weights = zip(*(split_weight(each) for each in settings.shards), strict=True)
    parts = [PackedDataset(name, seed=settings.seed) for name in names]
    for name, part in zip(names, parts, strict=True):
        _check_targets(name, part)
    dataset = parts[0] if len(parts) == 1 else MixedDataset(list(zip(parts, weights, strict=True)))
    schedule = schedule_of(settings, parts)
    sampler = ElasticSampler(dataset, global_batch=schedule.global_batch, micro_batch=settings.micro_batch_size)
    manifest = parts[0].manifest
    pad = manifest.tokenizer.get("pad_token_id") or 0
    collate: Any = PackedCollator()
    if settings.compile:
        capacity = max(int(part.manifest.config["max_length"]) for part in parts)
        collate = SteadyCollator(micro_batch=settings.micro_batch_size, capacity=capacity, pad_id=pad)
    options = {"pin_memory": device.type == "cuda", "worker_init_fn": leave_signals_to_parent}
    stream = PackedStream(dataset, sampler, collate, workers=settings.workers, **options)
    return Data(list(names), parts, dataset, collate, stream, schedule)


def split_weight(text: str) -> tuple[str, float]:
    """`a/b=2.5` to ("a/b", 2.5), `a/b` to ("a/b", 1.0)."""
    path, equals, weight = text.rpartition("=")
    try:
        return (path, float(weight)) if equals else (text, 1.0)
    except ValueError:
        return text, 1.0


def schedule_of(settings: TrainSettings, parts: list[PackedDataset]) -> Schedule:
    """Bins a step, steps and warm-up: of 1,000 bins of 4 examples, 32 bins a step, 32 steps an epoch."""
    files = [file for part in parts for file in part.manifest.files[part.split]]
    bins, examples = sum(file.rows for file in files), sum(file.documents for file in files)
    global_batch = settings.global_batch_size or min(max(1, round(EXAMPLES_A_STEP * bins / examples)), bins)
    per_epoch = -(-bins // global_batch)
    steps = settings.max_steps or max(1, math.ceil(settings.epochs * per_epoch))
    return Schedule(global_batch, steps, math.ceil(settings.warmup_ratio * steps), per_epoch)


def _check_targets(name: str, part: PackedDataset) -> None:
    if not sum(file.loss_tokens for file in part.manifest.files[part.split]):
        raise ShardError(
            describe(
                f"no token of its {part.split} split is trained",
                where=name,
                expected="replies",
                fix="Prepare the records with replies, or leave this set out.",
            )
        )


def open_eval(path: str) -> PackedDataset:
    """The `eval` split of a set in the order of its files; its `train` split where it has no other.

    Raises ShardError where no token of it is trained.
    """
    from sftdata.shards import read_manifest

    split = "eval" if read_manifest(path).files.get("eval") else "train"
    bins = PackedDataset(path, seed=None, split=split)
    _check_targets(path, bins)
    return bins


def held_out(path: str, trained: Sequence[PackedDataset]) -> PackedDataset:
    """`open_eval`, but never what the run trains on: raises ConfigError where the set has no `eval` split and is one
    of those `trained`."""
    bins = open_eval(path)
    if any(bins.split == part.split and bins.fingerprint == part.fingerprint for part in trained):
        raise ConfigError(
            describe(
                "it has no eval split, and its train split is what is trained",
                where=path,
                expected="records that are held out",
                fix="Prepare the shards with --eval 0.02, or name another set.",
            )
        )
    return bins


def load_learner(
    settings: TrainSettings, manifest: Manifest, device: torch.device, *, checkpoint: Path | None = None
) -> Learner:
    """Load the model (of `checkpoint`, where the run goes on), adapt, arrange and wrap it; make its optimizer.

    Raises ConfigError where model, tokenizer and shards do not belong together, or the choices exclude each other.
    """
    _check_choices(settings)
    master = OPTIMIZERS[settings.optimizer].keeps_master if settings.optimizer in OPTIMIZERS else False
    computes_bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
    stored = torch.bfloat16 if master and computes_bf16 else torch.float32
    model = _load_model(settings, stored, checkpoint)
    _check_vocabulary(model, manifest)
    _serve_as_trained(model, manifest)
    freeze_layers(model, settings.freeze_layers)
    if settings.lora_rank:
        seed_step(settings.seed, -1, 0)  # an adapter begins with random weights
        model = adapt(model, settings, checkpoint)
    freeze_others(model)
    mode = MODES[settings.mode]
    apply_mode(model, mode)
    sharded = settings.parallel == "fsdp"
    if not sharded:
        model.to(device)
    loss_model = LossModel(model.train(), chunk_bytes=mode.chunk_bytes)
    if settings.compile:
        compile_layers(model)
    if sharded:
        shard_model(loss_model)
    optimizer = make_optimizer(
        model, settings.optimizer, lr=settings.learning_rate, weight_decay=settings.weight_decay, release=mode.release
    )
    trained: nn.Module = loss_model
    if dist.is_initialized() and not sharded:
        trained = DistributedDataParallel(loss_model, gradient_as_bucket_view=True)
    autocast = torch.bfloat16 if computes_bf16 and not master else None
    return Learner(model, trained, optimizer, device, autocast, _files(settings, manifest))


def _load_model(settings: TrainSettings, dtype: torch.dtype, checkpoint: Path | None) -> Any:
    if settings.attention in ATTENTION:
        register_attention()
    try:
        source = settings.model if checkpoint is None or settings.lora_rank else str(checkpoint)
        model = load_causal(source, dtype=dtype, attention=settings.attention)
    except ConfigError as error:
        if source == settings.model:
            raise
        fix = "Delete this folder to go on from the checkpoint before."
        raise ShardError(describe(f"the checkpoint is damaged: {error}", where=source, fix=fix)) from error
    model.config.use_cache = False
    return model


def stored_dtype(settings: TrainSettings) -> torch.dtype:
    """Of the final model: what `save_dtype` says, else that of the model that was loaded."""
    from transformers import AutoConfig

    named = {"fp32": torch.float32, "bf16": torch.bfloat16}
    found = named.get(settings.save_dtype) or AutoConfig.from_pretrained(settings.model).dtype
    return found if isinstance(found, torch.dtype) else torch.float32


def _check_choices(settings: TrainSettings) -> None:
    """Gradients that are released cannot be summed, clipped or exchanged; shards need processes to lie on."""
    releases, sharded = MODES[settings.mode].release, settings.parallel == "fsdp"
    faults = {
        "mode min has one micro-batch a step: set micro_batch_size to global_batch_size": releases
        and settings.global_batch_size != settings.micro_batch_size,
        "mode min cannot clip gradients: set max_grad_norm to 0": releases and settings.max_grad_norm > 0,
        "mode min works in one process": releases and dist.is_initialized(),
        "parallel fsdp needs several processes: start it with torchrun": sharded and not dist.is_initialized(),
        "parallel fsdp works with the optimizer adamw": sharded and settings.optimizer != "adamw",
        "parallel fsdp has not been tried with compile: leave one out": sharded and settings.compile,
        "adapters are on all layers: leave out freeze_layers or lora_rank": bool(settings.lora_rank)
        and settings.freeze_layers > 0,
    }
    for fault, present in faults.items():
        if present:
            raise ConfigError(describe(fault, where="train"))


def _check_vocabulary(model: Any, manifest: Manifest) -> None:
    largest, rows = int(manifest.tokenizer["largest_id"]), model.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        raise ConfigError(
            describe(
                f"the shards hold the token {largest}, and the model has embeddings for {rows}",
                where="train",
                fix="Prepare the shards with this model's tokenizer.",
            )
        )


def _serve_as_trained(model: Any, manifest: Manifest) -> None:
    """Generation ends where the trained replies end; and what is saved is what transformers agrees to save.

    Some published models give a temperature and do not sample. transformers loads that and refuses to save it, which
    would end the run at its first checkpoint.
    """
    generation = model.generation_config
    try:
        generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True
    generation.eos_token_id = [int(each) for each in manifest.tokenizer["stop_token_ids"]]
    if generation.pad_token_id is None:
        pad = manifest.tokenizer.get("pad_token_id")
        generation.pad_token_id = generation.eos_token_id[0] if pad is None else pad


def _files(settings: TrainSettings, manifest: Manifest) -> ModelFiles:
    """The tokenizer, if there is one, held against the shards; and the template that rendered them."""
    sources = {name: text for name, text in manifest.template.get("sources", {}).items() if text}
    template = sources.get("default") if len(sources) == 1 else sources or None
    return ModelFiles(
        load_tokenizer(settings.tokenizer or settings.model, manifest, needed=bool(settings.tokenizer)), template
    )


def _holds_none(folder: Path) -> bool:
    """A folder without a tokenizer's files, from which transformers makes up an empty one for some models."""
    names = ("tokenizer*", "vocab.*", "*.model", "*.tiktoken")
    return folder.is_dir() and not any(any(folder.glob(name)) for name in names)


def load_tokenizer(address: str, manifest: Manifest, *, needed: bool = True) -> Any:
    """The tokenizer at `address`; None where there is none and it is not `needed`.

    Raises ConfigError where it has another number of ids than the shards', its stop tokens have other ids, or it
    cannot be loaded.
    """
    from transformers import AutoTokenizer

    tokenizer, why = None, "the folder holds none"
    if not _holds_none(Path(address)):
        try:
            tokenizer = AutoTokenizer.from_pretrained(address)
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = str(error)
    if tokenizer is None:
        if not needed:
            return None
        raise ConfigError(describe(f"no tokenizer: {why}", where=address, fix="Name its folder with --tokenizer."))
    ids, theirs = 1 + max(tokenizer.get_vocab().values()), int(manifest.tokenizer["vocab_size"])
    if ids != theirs:
        raise ConfigError(
            describe(
                f"this tokenizer has {ids:,} ids, that of the shards {theirs:,}",
                where=address,
                fix="Use the tokenizer that the shards were prepared with, or prepare them with this one.",
            )
        )
    stops = list(manifest.tokenizer.get("stop_tokens", ()))
    found = sorted({tokenizer.convert_tokens_to_ids(token) for token in stops} - {None})
    if stops and found != sorted(manifest.tokenizer["stop_token_ids"]):
        raise ConfigError(
            describe(
                f"its stop tokens {stops} have the ids {found}, in the shards {manifest.tokenizer['stop_token_ids']}",
                where=address,
                fix="Use the tokenizer that the shards were prepared with.",
            )
        )
    return tokenizer
