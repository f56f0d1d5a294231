"""One optimizer step: forward, loss, the one normalisation, backward, update. Everything else stands around it.

    loss = Σ over all trained tokens of all micro-batches of all ranks of -log p(token)  /  their number

Whatever the step is cut into, packed bins, micro-batches, ranks, the loss and its gradient are those of the whole.
Data parallelism takes the mean of the ranks' gradients, so each rank's sum is multiplied by their number. The one
wait for the device is before the update, and all ranks learn the same from it: nothing that is not finite ever
reaches the weights, and no rank goes on alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from sftdata.errors import SftdataError, describe
from sftdata_torch.accumulation import global_targets, on_device
from sftdata_torch.collate import Batch
from sftdata_torch.optim import ReleasingOptimizer

__all__ = ["NonFiniteError", "StepResult", "train_step"]


class StepResult(NamedTuple):
    """What a step was; the same on every rank."""

    loss: float
    """Mean over the trained tokens of the step, in nats."""
    accuracy: float
    """Share of them that were the likeliest token."""
    targets: int
    """How many there were."""
    grad_norm: float
    """Of the whole gradient, before it was clipped; NaN where gradients are released."""


class NonFiniteError(SftdataError, ArithmeticError):
    """Loss or gradient is not finite. The weights are those from before the step."""

    def __init__(self, message: str, micro_batches: Sequence[int]) -> None:
        super().__init__(message)
        self.micro_batches = tuple(micro_batches)
        """Which of this rank's micro-batches it came from; empty where only the gradient shows it."""


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | ReleasingOptimizer,
    micro_batches: Sequence[Batch],
    *,
    device: torch.device,
    autocast: torch.dtype | None = None,
    clip: float | None = 1.0,
) -> StepResult:
    """Train `micro_batches`, one global batch's share of this rank, in one update.

    `model` is a `LossModel`, or one wrapped for data parallelism; the micro-batches are canonical batches with
    targets, as many on every rank. Gradients are zero before and after. Gradients of a norm above `clip` are scaled
    down to it. Raises NonFiniteError before the update.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    releases = isinstance(optimizer, ReleasingOptimizer)
    targets = global_targets(micro_batches, device)
    sums, hits = [], []
    for at, batch in enumerate(micro_batches):
        moved = on_device(batch, device)
        with _exchange(model, at == len(micro_batches) - 1):
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                nll, correct = model(moved)
            sums.append(nll.detach())
            hits.append(correct)
            if releases and not math.isfinite(sums[-1]):  # its backward pass is its update
                raise _not_finite(sums, math.nan)
            (nll * world / targets.clamp(min=1)).backward()
    totals = torch.stack([torch.stack(sums).double().sum(), torch.stack(hits).double().sum()])
    if world > 1:
        dist.all_reduce(totals)
    norm = torch.full_like(totals[0], math.nan) if releases else _clip(model, clip).to(totals.dtype)
    loss, hit, length, count = torch.stack([*totals, norm, targets]).tolist()
    if not math.isfinite(loss) or not (releases or math.isfinite(length)):
        raise _not_finite(sums, loss)
    optimizer.step()
    optimizer.zero_grad()
    return StepResult(loss / max(count, 1), hit / max(count, 1), int(count), length)


def _clip(model: nn.Module, most: float | None) -> torch.Tensor:
    """The norm of the whole gradient, 0-d, and the gradient scaled down to `most`; all on the device."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if isinstance(norm, DTensor):  # of shards: each rank has a part
        norm = norm.full_tensor()
    if most is not None:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def _not_finite(sums: Sequence[torch.Tensor], loss: float) -> NonFiniteError:
    """The error that all ranks raise, with the micro-batches of this one that it came from."""
    bad = [at for at, finite in enumerate(torch.stack(list(sums)).isfinite().tolist()) if not finite]
    if bad:
        what = f"the loss of micro-batch {bad[0]} is not finite"
    else:
        what = "the gradient is not finite" if math.isfinite(loss) else "the loss of another process is not finite"
    return NonFiniteError(describe(what, fix="Look at these records; lower the learning rate."), bad)


def _exchange(model: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Gradients are exchanged between ranks in this backward pass, or left for a later one."""
    if wanted or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()
