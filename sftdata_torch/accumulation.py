"""One optimizer step over several packed micro-batches, for loops that have no machinery of their own.

What lives here: one normalisation, the sum over all trained tokens of the step divided by their number on all ranks,
and the backward passes that follow from it. What must not: the optimizer, and any trainer. The memory-efficient loss
of the training loop lives elsewhere; this one takes whole logits and any causal model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from sftdata_torch.collate import Batch

__all__ = ["accumulate", "global_targets", "on_device"]


def accumulate(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    *,
    device: torch.device | str,
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
) -> torch.Tensor:
    """Add the gradients of the step's loss to `model` and return the loss: float 0-d, the same on every rank.

    Three micro-batches with 3, 0 and 5 targets on each of two ranks give the sum of all 16 losses over 16, whatever
    the split. `micro_batches` are canonical batches with targets, one step of `PackedStream.steps()`. Gradients are
    exchanged in the last of them only. `backward` is how the trainer wants the backward pass to be made; it must not
    divide by anything.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    total = global_targets(micro_batches, device).clamp(min=1)
    losses = []
    for at, batch in enumerate(micro_batches):
        moved = on_device(batch, device)
        with _exchange(model, at == len(micro_batches) - 1):
            loss = _summed(model, moved) / total
            backward(loss * world)  # data parallelism takes the mean over ranks
        losses.append(loss.detach())
    step_loss = torch.stack(losses).sum()
    if world > 1:
        dist.all_reduce(step_loss)
    return step_loss


def global_targets(micro_batches: Sequence[Batch], device: torch.device | str) -> torch.Tensor:
    """How many trained targets the micro-batches of all ranks hold together, int64 0-d on `device`: nobody waits."""
    count = sum(batch["num_target_tokens"] for batch in micro_batches)
    shared = torch.full((), count, dtype=torch.int64, device=device)
    if dist.is_initialized():
        dist.all_reduce(shared)
    return shared


def on_device(batch: Batch, device: torch.device | str) -> Batch:
    """The batch with its tensors on `device`, copied without waiting where they are pinned."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def _summed(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The sum of the losses of all trained targets; a differentiable 0 where there are none."""
    inputs = {name: value for name, value in batch.items() if name not in _NOT_FOR_THE_MODEL}
    logits = model(**inputs, use_cache=False).logits[0, batch["target_idx"]]
    targets = batch["labels"][0, batch["target_idx"] + 1]
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return cross_entropy(precise, targets, reduction="sum")


_NOT_FOR_THE_MODEL = ("labels", "target_idx", "num_target_tokens")


def _exchange(model: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Gradients are exchanged between ranks in this backward pass, or left for a later one."""
    if wanted or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()
