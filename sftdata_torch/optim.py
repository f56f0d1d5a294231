"""Optimizers by name, and the learning rate of a step.

What lives here: the table of optimizers, weight decay's groups, the schedule, and the update inside the backward
pass. What must not: the step, checkpoints.

AdamW on weights in bfloat16 is refused. At a learning rate of 2e-5 a weight of 0.02 moves by a thousandth of itself
at most, half of what bfloat16 can tell apart: most updates would be lost. The default keeps weights in float32 and
computes in bfloat16 (autocast).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from sftdata.errors import ConfigError, describe, nearest

__all__ = ["OPTIMIZERS", "ReleasingOptimizer", "learning_rate", "make_optimizer", "members", "set_learning_rate"]

Make = Callable[[Any, float], torch.optim.Optimizer]
"""(parameter groups, learning rate) to an optimizer."""
BETAS = (0.9, 0.999)
EPS = 1e-8


class Choice(NamedTuple):
    """An optimizer that can be chosen by name."""

    make: Make
    bytes_per_weight: float
    """Memory of its state, for the plan."""
    keeps_master: bool = False
    """It holds the bits that weights in bfloat16 have not."""


def make_optimizer(
    model: nn.Module, name: str = "adamw", *, lr: float, weight_decay: float = 0.0, release: bool = False
) -> torch.optim.Optimizer | ReleasingOptimizer:
    """The optimizer `name` of `OPTIMIZERS` over all weights that require a gradient.

    Decay is applied to matrices only, not to norms and biases. With `release` every weight is updated within the
    backward pass. Raises ConfigError for an unknown name, a missing package, nothing to train, or AdamW on weights in
    half precision.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(describe(f"no optimizer {name!r}", fix=nearest(name, OPTIMIZERS)))
    choice = OPTIMIZERS[name]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise ConfigError(describe("no weight requires a gradient", where="optimizer"))
    if not choice.keeps_master and any(weight.dtype.itemsize < 4 for weight in weights):
        raise ConfigError(
            describe(
                f"{name} on weights in half precision loses most updates of a low learning rate",
                where="optimizer",
                expected="weights in float32",
                fix="Load the model in float32 and let autocast compute in bfloat16, or use flashadamw.",
            )
        )
    if release:
        return ReleasingOptimizer(weights, lambda groups: choice.make(groups, lr), weight_decay)
    return choice.make(_groups(weights, weight_decay), lr)


def _groups(weights: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices, which decay, and the rest, which do not; no empty group."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for weight in weights:
        (matrices if weight.ndim >= 2 else rest).append(weight)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class ReleasingOptimizer:
    """One optimizer a weight, run as soon as the weight's gradient is complete, which is then freed.

    The gradients of all weights never exist together: with it a step may have one micro-batch only, and no clipping.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        weight_decay: float,
    ) -> None:
        self.members: dict[nn.Parameter, torch.optim.Optimizer] = {}
        for weight in weights:
            self.members[weight] = make(_groups([weight], weight_decay))
            weight.register_post_accumulate_grad_hook(self._update)  # type: ignore[no-untyped-call]

    def _update(self, weight: torch.Tensor) -> None:
        member = self.members[weight]  # type: ignore[index]  # hooks are typed for tensors
        member.step()
        member.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Everything is done already."""

    def zero_grad(self) -> None:
        """Everything is freed already."""


def members(optimizer: torch.optim.Optimizer | ReleasingOptimizer) -> list[torch.optim.Optimizer]:
    """The torch optimizers it is made of, in the order of the weights."""
    return list(optimizer.members.values()) if isinstance(optimizer, ReleasingOptimizer) else [optimizer]


def set_learning_rate(optimizer: torch.optim.Optimizer | ReleasingOptimizer, value: float) -> None:
    """The rate of the next update."""
    for member in members(optimizer):
        for group in member.param_groups:
            group["lr"] = value


def learning_rate(step: int, *, peak: float, warmup: int, total: int) -> float:
    """The rate of step `step`, counted from 0: linear to `peak` over `warmup` steps, then half a cosine to 0.

    With warmup 2 and total 4: 0.5, 1, 1, 0.5 times the peak; no step has the rate 0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    along = (step - warmup) / max(total - warmup, 1)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(along, 1.0)))


def _adamw(groups: Any, lr: float) -> torch.optim.Optimizer:
    fused = groups[0]["params"][0].is_cuda
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS, fused=fused)


def _from(module: str, attribute: str, package: str) -> Make:
    """An optimizer of another package, imported when it is made."""

    def make(groups: Any, lr: float) -> torch.optim.Optimizer:
        try:
            found = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            raise ConfigError(
                describe(f"{attribute} needs {package}: {error}", where="optimizer", fix=f"pip install {package}")
            ) from error
        try:
            made: torch.optim.Optimizer = found(groups, lr=lr, betas=BETAS, eps=EPS)
        except (NotImplementedError, ValueError) as error:
            raise ConfigError(
                describe(f"{attribute} cannot be used here: {error}", where="optimizer", fix="Use adamw.")
            ) from error
        return made

    return make


OPTIMIZERS: dict[str, Choice] = {
    "adamw": Choice(_adamw, 8),
    "flashadamw": Choice(_from("flashoptim", "FlashAdamW", "flashoptim"), 3.1, keeps_master=True),
    "adamw8bit": Choice(_from("bitsandbytes.optim", "AdamW8bit", "bitsandbytes"), 2.1),
}
