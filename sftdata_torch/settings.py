"""Everything that can be chosen about a training run, by the names that flags and YAML files use.

What lives here: names, defaults, and what can be said about their values without looking at data or a model. What must
not: torch, files.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from sftdata.errors import ConfigError, describe, nearest

__all__ = ["TrainSettings", "build_settings"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A training run. Only `model`, `shards` and `out` have no default."""

    model: str
    """A folder in the Hugging Face layout, or a hub name."""
    shards: tuple[str, ...]
    """Sealed datasets; with several, `PATH=WEIGHT` gives each its share of the bins (default 1)."""
    out: str
    """Where checkpoints, metrics and the model go."""
    eval_shards: str | None = None
    """A sealed dataset whose `eval` split (or, if it has none, `train`) is looked at while training."""
    tokenizer: str | None = None
    """Saved with the model; by default that of `model`."""
    epochs: float = 3.0
    max_steps: int | None = None
    """Ends earlier, or later, than `epochs` says."""
    learning_rate: float = 2e-5
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """0 leaves gradients as they are."""
    optimizer: str = "adamw"
    global_batch_size: int | None = None
    """Bins a step on all ranks together; by default as many as hold about 128 examples."""
    micro_batch_size: int = 1
    """Bins in one forward pass."""
    mode: str = "fast"
    """`fast`, `lean` (gradient checkpointing) or `min` (gradients released as well)."""
    parallel: str = "ddp"
    """What several processes share: `ddp`, nothing but gradients; `fsdp`, weights, gradients and optimizer state."""
    compile: bool = False
    precision: str = "auto"
    """`bf16` computes in bfloat16 on float32 weights, `fp32` in float32; auto is bf16 on a GPU."""
    attention: str = "packed_varlen"
    """A name of `attention.ATTENTION`, or of transformers."""
    lora_rank: int = 0
    """0 trains the weights themselves."""
    lora_alpha: float | None = None
    """Default: twice the rank."""
    lora_dropout: float = 0.0
    freeze_layers: int = 0
    """The first so many decoder layers, and the input embeddings, stay as they are."""
    seed: int = 0
    workers: int = 1
    """Processes that read ahead."""
    eval_every: int = 0
    """Steps between evaluations; 0 evaluates at the end only."""
    save_every: int = 0
    """Steps between checkpoints; 0 saves at the end only."""
    keep_checkpoints: int = 2
    log_to: tuple[str, ...] = ()
    """Beside `metrics.jsonl`: names of `metrics.LOGGERS`."""
    save_dtype: str = "auto"
    """Of the final model: `fp32`, `bf16`, or as `model` was stored."""


_POSITIVE = ("epochs", "learning_rate", "micro_batch_size", "keep_checkpoints", "max_steps", "global_batch_size")
_NOT_NEGATIVE = ("weight_decay", "max_grad_norm", "lora_rank", "freeze_layers", "workers", "eval_every", "save_every")
_WORDS = {
    "mode": ("fast", "lean", "min"),
    "parallel": ("ddp", "fsdp"),
    "precision": ("auto", "bf16", "fp32"),
    "save_dtype": ("auto", "fp32", "bf16"),
}


def build_settings(options: Mapping[str, Any], *, where: str = "train") -> TrainSettings:
    """Plain options to settings: `{"model": "m", "shards": "s", "out": "o"}` has `shards` `("s",)`.

    A text stands for a list of one, a whole number for a float. Raises ConfigError for an unknown name (with the
    nearest known one), a missing one, and a value of the wrong type or out of range.
    """
    kinds = typing.get_type_hints(TrainSettings)
    unknown = [name for name in options if name not in kinds]
    if unknown:
        raise ConfigError(describe(f"no option {unknown[0]!r}", where=where, fix=nearest(unknown[0], kinds)))
    missing = [name for name in ("model", "shards", "out") if not options.get(name)]
    if missing:
        raise ConfigError(describe(f"{missing[0]} is missing", where=where, fix=f"Give --{missing[0]}."))
    settings = TrainSettings(**{name: _typed(name, value, kinds[name], where) for name, value in options.items()})
    for name in (*_POSITIVE, *_NOT_NEGATIVE):
        value = getattr(settings, name)
        if value is not None and (value < 0 or (value == 0 and name in _POSITIVE)):
            raise _wrong(name, value, "a positive number" if name in _POSITIVE else "0 or more", where)
    for name, words in _WORDS.items():
        if getattr(settings, name) not in words:
            raise _wrong(name, getattr(settings, name), " or ".join(words), where)
    if not 0 <= settings.warmup_ratio <= 1:
        raise _wrong("warmup_ratio", settings.warmup_ratio, "a share between 0 and 1", where)
    return settings


_POWER = re.compile(r"[+-]?\d+e[+-]?\d+", re.IGNORECASE)
"""YAML 1.1 reads `2e-5` as text, because it has no point."""


def _typed(name: str, value: Any, kind: Any, where: str) -> Any:
    """The value as the field's type has it."""
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(each for each in kind.__args__ if each is not type(None))
    if typing.get_origin(kind) is tuple:
        values = [value] if isinstance(value, str) else value
        if isinstance(values, (list, tuple)) and all(isinstance(each, str) for each in values):
            return tuple(values)
    elif kind is float and (_POWER.fullmatch(value) if isinstance(value, str) else type(value) in (int, float)):
        return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise _wrong(name, value, "a list of texts" if typing.get_origin(kind) is tuple else f"{kind.__name__}", where)


def _wrong(name: str, value: Any, expected: str, where: str) -> ConfigError:
    return ConfigError(describe(f"{name} is {value!r}", where=where, expected=expected))
