"""What is traded for memory: three modes by name, compilation of the decoder layers, and steady shapes for it.

What lives here: switching these on for any transformers model. What must not: the step, predictions (`plan`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from sftdata.errors import ConfigError, describe
from sftdata_torch.attention import leave_blocks_uncompiled, note_layer_types
from sftdata_torch.collate import Batch, FixedShape, PackedCollator, Row

__all__ = ["MODES", "Mode", "SteadyCollator", "apply_mode", "compile_layers", "decoder_layers", "not_compiled"]


class Mode(NamedTuple):
    """One way to spend memory or time."""

    checkpointing: bool
    """Activations of a layer are computed again in the backward pass: about a fifth slower."""
    release: bool
    """Weights are updated inside the backward pass: no accumulation, no clipping, one process."""
    chunk_bytes: int
    """Budget of the loss head."""


MODES: dict[str, Mode] = {
    "fast": Mode(checkpointing=False, release=False, chunk_bytes=2 << 30),
    "lean": Mode(checkpointing=True, release=False, chunk_bytes=256 << 20),
    "min": Mode(checkpointing=True, release=True, chunk_bytes=256 << 20),
}


def apply_mode(model: nn.Module, mode: Mode) -> None:
    """Switch non-reentrant gradient checkpointing on where the mode has it. Raises ConfigError where it cannot be."""
    if not mode.checkpointing:
        return
    older = getattr(model, "gradient_checkpointing_enable", None)
    enable = getattr(model, "activation_checkpointing_enable", older)  # its name from transformers 5.2x on
    if not callable(enable) or not getattr(model, "supports_gradient_checkpointing", True):
        raise ConfigError(describe("the model has no gradient checkpointing", where="mode", fix="Use mode fast."))
    enable({"use_reentrant": False})


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The layers of the decoder, in order, whatever it calls them. Raises ConfigError where it has no one list."""
    find: Any = getattr(model, "get_decoder", None)
    decoder: nn.Module = find() if callable(find) else model
    lists = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    if len(lists) != 1:
        raise ConfigError(
            describe(
                f"the model's decoder has {len(lists)} lists of layers",
                where=type(model).__name__,
                expected="one",
                fix="Leave out what needs to know its layers: --compile, --freeze-layers.",
            )
        )
    return lists[0]


def compile_layers(model: nn.Module, backend: str = "inductor") -> None:
    """Compile every decoder layer by itself: equal layers share one compilation of some ten seconds."""
    leave_blocks_uncompiled()
    note_layer_types(model)
    for layer in decoder_layers(model):
        layer.compile(dynamic=False, backend=backend)


def not_compiled() -> AbstractContextManager[None]:
    """Inside, compiled layers run as they are written: batches of other shapes are not worth a compilation."""
    return cast(AbstractContextManager[None], torch.compiler.set_stance("force_eager"))


_FEWEST_SEGMENTS = 64


class SteadyCollator:
    """Batches whose shapes hardly change, so that a compiled layer is not compiled again.

    Every batch has `micro_batch · capacity` tokens, the tail padding, and `cu_seq_lens` of the next power of two, 64
    at least: micro-batches of 7 and of 52 documents both have 64 segments, padding included.
    """

    def __init__(self, *, micro_batch: int, capacity: int, pad_id: int = 0) -> None:
        self.micro_batch = micro_batch
        self.capacity = capacity
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """The canonical batch of `rows`."""
        needed = sum(len(row["seq_lengths"]) for row in rows) + self.micro_batch + 1
        segments = max(_FEWEST_SEGMENTS, 1 << (needed - 1).bit_length())
        fixed = FixedShape(self.micro_batch * self.capacity, segments, self.capacity)
        return PackedCollator(fixed=fixed, pad_id=self.pad_id).flatten(rows)
