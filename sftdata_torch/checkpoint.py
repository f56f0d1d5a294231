"""Checkpoints: a model that `from_pretrained` loads, and what the run needs to go on exactly where it was.

    checkpoint-120/
      model.safetensors config.json generation_config.json    the weights in float32, and the stops that were trained
      tokenizer.json chat_template.jinja ...                  the tokenizer, with the template that trained
      optimizer.safetensors optimizer.json                    no pickle anywhere
      trainer_state.json                                      step, position in the data, settings

What lives here: writing such a folder whole or not at all, reading it, and keeping the last few. What must not: when
to save. Random states are not part of it, because every step seeds its own (`seed_step`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from sftdata.errors import ConfigError, OutputError, ShardError, describe
from sftdata_torch.optim import ReleasingOptimizer, members
from sftdata_torch.sharded import cut_like, whole

__all__ = [
    "STATE_FILE",
    "ModelFiles",
    "OptimizerState",
    "assert_can_be_saved",
    "latest_checkpoint",
    "load_optimizer",
    "load_state",
    "optimizer_state",
    "prune_checkpoints",
    "save_optimizer",
    "seed_step",
    "write_whole",
]

STATE_FILE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_PART = ".part"
_PLAIN = (int, float, str, type(None))
"""What JSON holds of an optimizer's state."""


class ModelFiles(NamedTuple):
    """What is written beside the weights, so that the model is served as it was trained."""

    tokenizer: Any
    """A transformers tokenizer, or None."""
    chat_template: str | dict[str, str] | None
    """The template that rendered the shards; several by name."""

    def write(
        self,
        model: Any,
        folder: Path,
        dtype: torch.dtype | None = None,
        weights: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """`model`, adapter or whole, in `dtype` (as it is by default), tokenizer and template into `folder`.

        `weights` is its state dict where the model itself holds but a part of it.
        """
        if dtype is not None:
            weights = _cast(model.state_dict() if weights is None else weights, dtype)
        model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
        if dtype is not None:
            _note_dtype(folder / "config.json", dtype)
        if self.tokenizer is not None:
            if self.chat_template is not None:
                self.tokenizer.chat_template = self.chat_template
            self.tokenizer.save_pretrained(folder)
        elif isinstance(self.chat_template, str):
            (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")


def _note_dtype(path: Path, dtype: torch.dtype) -> None:
    """transformers writes the dtype of the model in memory, whatever it saves."""
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}, indent=2), encoding="utf-8")


def _cast(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights in `dtype`; tied ones stay one tensor, so that they are stored once."""
    made: dict[tuple[int, torch.Size], torch.Tensor] = {}
    out = {}
    for name, value in weights.items():
        key = (value.data_ptr(), value.shape)
        if key not in made:
            made[key] = value.to(dtype) if value.is_floating_point() else value
        out[name] = made[key]
    return out


def write_whole(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`fill` a hidden folder beside `folder`, flush it to disk and rename it: `folder` is whole or not there.

    What was at `folder` is replaced. Raises OutputError where it cannot be written; what was begun is then removed,
    so that a full disk is not filled by it.
    """
    part = folder.with_name(f".{folder.name}{_PART}")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        fill(part)
        for path in part.rglob("*"):
            _flush(path)
        _flush(part)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
        _flush(folder.parent)
    except (OSError, SafetensorError) as error:  # safetensors has its own for a disk that is full
        raise OutputError(
            describe(
                f"it cannot be written: {error}",
                where=str(folder),
                fix="Make room, or name another folder; the run goes on from the checkpoint before.",
            )
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def latest_checkpoint(out: Path) -> Path | None:
    """The checkpoint with the highest step in `out`, None where there is none."""
    return max(_checkpoints(out), key=_step, default=None)


def prune_checkpoints(out: Path, keep: int) -> None:
    """Delete all checkpoints but the last `keep`, and what was never finished."""
    found = sorted(_checkpoints(out), key=_step)
    unfinished = [path for path in out.glob(f".checkpoint-*{_PART}") if path.is_dir()]
    for path in [*found[: len(found) - keep], *unfinished]:
        shutil.rmtree(path)


def _checkpoints(out: Path) -> list[Path]:
    return [path for path in out.glob("checkpoint-*") if _NAME.fullmatch(path.name) and (path / STATE_FILE).is_file()]


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def load_state(checkpoint: Path) -> dict[str, Any]:
    """`trainer_state.json`. Raises ShardError where it is damaged."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ShardError(describe(f"not a checkpoint: {error}", where=str(checkpoint))) from error
    return state


def assert_can_be_saved(optimizer: torch.optim.Optimizer | ReleasingOptimizer) -> None:
    """Return if the optimizer's state is plain tensors and numbers; raise ConfigError before a run depends on it."""
    for member in members(optimizer):
        for _, state in _states(member):
            for key, value in state.items():
                if not _can_be_saved(value):
                    raise ConfigError(
                        describe(
                            f"its state {key!r} is a {type(value).__qualname__}, which is saved by pickle only",
                            where=_kind(optimizer),
                            fix="Use adamw.",
                        )
                    )


def _can_be_saved(value: Any) -> bool:
    return type(value) in (torch.Tensor, DTensor) or isinstance(value, _PLAIN)


def _states(member: torch.optim.Optimizer) -> Iterable[tuple[torch.Tensor, Mapping[str, Any]]]:
    """Every weight with its state. What an optimizer holds in objects of its own (FlashAdamW does) it gives out as
    tensors in its state dict, and takes back so."""
    if all(_can_be_saved(value) for state in member.state.values() for value in state.values()):
        return member.state.items()
    weights = [weight for group in member.param_groups for weight in group["params"]]
    return [(weights[at], state) for at, state in member.state_dict()["state"].items()]


class OptimizerState(NamedTuple):
    """The state of every weight under the weight's name."""

    kind: str
    tensors: dict[str, torch.Tensor]
    plain: dict[str, dict[str, Any]]


def optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer | ReleasingOptimizer, *, wanted: bool = True
) -> OptimizerState:
    """The state of `optimizer`, whole and on the CPU of the ranks that want it; all ranks call it together."""
    names = _names(model)
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for member in members(optimizer):
        for weight, state in _states(member):
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    full = whole(value.detach())
                    if wanted:  # a copy: weights may share a part of their state, which safetensors refuses
                        tensors[f"{names[weight]}/{key}"] = full.to("cpu", copy=True).contiguous()
                else:
                    plain.setdefault(names[weight], {})[key] = value
    return OptimizerState(_kind(optimizer), tensors, plain)


def save_optimizer(folder: Path, state: OptimizerState) -> None:
    """Tensors as safetensors, numbers as JSON."""
    save_file(state.tensors, folder / "optimizer.safetensors")
    description = {"class": state.kind, "values": state.plain}
    (folder / "optimizer.json").write_text(json.dumps(description, indent=1, sort_keys=True), encoding="utf-8")


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | ReleasingOptimizer) -> None:
    """The reverse of `save_optimizer`; every rate and decay stays as `optimizer` was made. All ranks call it together.

    Raises ShardError where the state is that of another optimizer or of other weights.
    """
    try:
        description = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
        states: dict[str, dict[str, Any]] = {name: dict(value) for name, value in description["values"].items()}
        with safe_open(folder / "optimizer.safetensors", framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                name, _, part = key.rpartition("/")
                states.setdefault(name, {})[part] = file.get_tensor(key)
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise ShardError(describe(f"the optimizer's state cannot be read: {error}", where=str(folder))) from error
    names = _names(model)
    trained = {
        names[weight] for member in members(optimizer) for group in member.param_groups for weight in group["params"]
    }
    if description["class"] != _kind(optimizer) or not set(states) <= trained:
        raise ShardError(
            describe(
                f"the state of {description['class']} over {len(states)} weights",
                where=str(folder),
                expected=f"{_kind(optimizer)} over {len(trained)} weights",
                fix="Resume with the optimizer and the trained weights of the run, or start a new one.",
            )
        )
    for member in members(optimizer):
        state = member.state_dict()
        weights = [weight for group in member.param_groups for weight in group["params"]]
        state["state"] = {
            at: {key: _part_of(value, weight) for key, value in states[names[weight]].items()}
            for at, weight in enumerate(weights)
            if names[weight] in states
        }
        member.load_state_dict(state)


def _part_of(value: Any, weight: torch.Tensor) -> Any:
    return cut_like(value, weight) if isinstance(value, torch.Tensor) else value


def _names(model: nn.Module) -> dict[torch.Tensor, str]:
    return {weight: name for name, weight in model.named_parameters()}


def _kind(optimizer: torch.optim.Optimizer | ReleasingOptimizer) -> str:
    first = type(members(optimizer)[0])
    return f"{first.__module__}.{first.__qualname__}"


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step of one rank: dropout of step 7 is the same whether or not the run began before it."""
    digest = hashlib.sha256(f"step\x00{seed}\x00{step}\x00{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
