"""Weights, gradients and optimizer state in shards on all ranks (FSDP2), and whole again where files are written.

What lives here: cutting a model up, and joining what was cut. What must not: the step, which is the same, files. Every
function that joins or cuts is collective: all ranks call it, in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from sftdata_torch.head import LossModel
from sftdata_torch.modes import decoder_layers

__all__ = ["cut_like", "shard_model", "whole", "whole_weights"]


def shard_model(model: LossModel) -> LossModel:
    """`model` itself, cut up: each decoder layer is gathered for its own time only, so is the rest.

    Its weights are moved to this rank's device shard by shard; the optimizer must be made afterwards.
    """
    for layer in decoder_layers(model.model):
        fully_shard(layer)
    fully_shard(model, reshard_after_forward=True)
    for name in ("token_losses", "look"):
        register_fsdp_forward_method(model, name)
    return model


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor that was cut, on every rank; any other as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def cut_like(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """This rank's part of `value`, where `weight` is cut and `value` has its shape."""
    if isinstance(weight, DTensor) and value.shape == weight.shape:
        return distribute_tensor(value, weight.device_mesh, weight.placements)
    return value


def whole_weights(model: Any, *, wanted: bool) -> dict[str, torch.Tensor] | None:
    """The state dict of a model that was cut up, on the CPU of the ranks that want it; None for one that was not.

    Tied weights are one tensor in it, as in the model.
    """
    if not any(isinstance(weight, DTensor) for weight in model.parameters()):
        return None
    owners = dict(model.named_parameters(remove_duplicate=False))
    joined: dict[int, torch.Tensor] = {}
    out = {}
    for name, value in model.state_dict().items():
        key = id(owners.get(name, value))
        if key not in joined:
            full = whole(value.detach())
            joined[key] = full.cpu() if wanted else torch.empty(0)
        out[name] = joined[key]
    return out
