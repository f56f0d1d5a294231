"""From a causal language model and a packed batch to the summed loss of its trained tokens.

What lives here: finding a model's body, head and what it does to its logits, and the proof that this is all it does.
What must not: a table of models, normalisation, optimizers. The body gives hidden states; only those of trained
positions meet the head, chunk by chunk (`loss`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from sftdata.errors import ConfigError, describe
from sftdata_torch.collate import Batch
from sftdata_torch.loss import CHUNK_BYTES, ChunkedLoss, LogitShape, chunked_cross_entropy, chunked_token_losses

__all__ = ["Head", "LossModel", "assert_head_is_whole", "head_of"]

NOT_FOR_THE_MODEL = ("labels", "target_idx", "num_target_tokens")


class Head(NamedTuple):
    """What turns hidden states into logits."""

    weight: torch.Tensor
    """`[V, H]`; tied embeddings are the very same parameter, so that both gradients meet in it."""
    bias: torch.Tensor | None
    shape: LogitShape


_SCALES: dict[str, Callable[[float], float]] = {
    "logit_scale": lambda value: value,
    "logits_scaling": lambda value: 1.0 / value,
    "lm_head_multiplier": lambda value: value,
    "output_multiplier": lambda value: value,
}
"""Names under which configurations keep a factor of the logits. Whether the model reads it so is then tried out."""


def head_of(model: nn.Module) -> Head:
    """The output head of a transformers model. Raises ConfigError where it is not one plain linear layer."""
    find = getattr(model, "get_output_embeddings", None)
    layer = find() if callable(find) else None
    if type(layer) is not nn.Linear:
        what = "no output embeddings" if layer is None else f"a {type(layer).__module__}.{type(layer).__qualname__}"
        raise ConfigError(
            describe(
                f"the model's output head is {what}",
                where=type(model).__name__,
                expected="a plain torch.nn.Linear",
                fix="Leave lm_head out of the adapter's target_modules and modules_to_save, and out of quantisation.",
            )
        )
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = 1.0
    for name, meaning in _SCALES.items():
        value = getattr(text, name, None)
        if isinstance(value, (int, float)):
            scale *= meaning(float(value))
    return Head(layer.weight, layer.bias, LogitShape(scale, getattr(text, "final_logit_softcapping", None)))


class LossModel(nn.Module):
    """A model whose forward pass takes a canonical batch to `ChunkedLoss`; wrap this one for data parallelism.

    Raises ConfigError for a head that is adapted, or a router's loss that would be left out.
    """

    def __init__(self, model: nn.Module, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        super().__init__()
        self.model = model
        self.chunk_bytes = chunk_bytes
        head_of(model)
        if getattr(getattr(model, "config", None), "output_router_logits", False):
            raise ConfigError(
                describe(
                    "output_router_logits adds a balance loss that this head does not compute",
                    where=type(model).__name__,
                    fix="Set config.output_router_logits = False.",
                )
            )

    def forward(self, batch: Batch) -> ChunkedLoss:
        """The summed loss of the batch's trained tokens, and how many the model would have said by itself."""
        hidden, targets = self._rows(batch)
        weight, bias, shape = head_of(self.model)
        return chunked_cross_entropy(hidden, weight, targets, bias=bias, shape=shape, chunk_bytes=self.chunk_bytes)

    def token_losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """For each of `target_idx`, float `[M]` and bool `[M]`: its loss, and whether it is the likeliest token."""
        hidden, targets = self._rows(batch)
        weight, bias, shape = head_of(self.model)
        return chunked_token_losses(hidden, weight, targets, bias=bias, shape=shape, chunk_bytes=self.chunk_bytes)

    def look(self, function: Callable[[nn.Module], None]) -> None:
        """Call `function` with the model while its weights are whole on this rank, however they are kept."""
        function(self.model)

    def _rows(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states `[M, H]` of the trained positions and the tokens that follow them, int64 `[M]`."""
        hidden = hidden_states(self.model, batch)[0]
        positions = batch["target_idx"]
        return hidden.index_select(0, positions), batch["labels"][0].index_select(0, positions + 1)


def hidden_states(model: nn.Module, batch: Batch) -> torch.Tensor:
    """What the body makes of the batch, `[1, T, H]`."""
    inputs = {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
    body = cast(nn.Module, cast(Any, model).get_decoder())
    states: torch.Tensor = body(**inputs, use_cache=False)[0]
    return states


_ELSEWHERE = "This head would compute a wrong loss; train the model with Trainer or TRL (docs/trainers.md)."


@torch.no_grad()
def assert_head_is_whole(model: nn.Module, batch: Batch) -> None:
    """Return if body, head, scale and cap of `model` make the logits that its own forward pass makes.

    A model that does anything else to them (another factor, a bias of its own) raises ConfigError: its loss would be
    computed wrongly. `batch` is a small canonical batch on the model's device; the model's mode is the same after it.
    """
    training = model.training
    model.eval()
    try:
        inputs = {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
        theirs = model(**inputs, use_cache=False).logits[0].float()
        hidden = hidden_states(model, batch)[0]
    finally:
        model.train(training)
    weight, bias, shape = head_of(model)
    if hidden.shape[-1] != weight.shape[1]:
        raise ConfigError(
            describe(
                f"its decoder gives {hidden.shape[-1]} numbers a token, and its head takes {weight.shape[1]}",
                where=type(model).__name__,
                fix=_ELSEWHERE,
            )
        )
    ours = torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias).float() * shape.scale
    if shape.softcap is not None:
        ours = torch.tanh(ours / shape.softcap) * shape.softcap
    limit = 2e-2 if weight.dtype.itemsize < 4 or torch.is_autocast_enabled(weight.device.type) else 1e-4
    difference = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
    if not difference <= limit * float(theirs.abs().max()):
        raise ConfigError(
            describe(
                f"its logits are not its head's product with {shape}: they differ by up to {difference:.3g}",
                where=type(model).__name__,
                fix=_ELSEWHERE,
            )
        )
