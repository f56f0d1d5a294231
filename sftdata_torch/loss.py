"""Cross entropy of a linear head without ever holding the logits of more than a chunk of rows.

What lives here: one function of tensors and its gradient. What must not: models, batches, normalisation.

    logits = cap(scale · (hidden @ weightᵀ + bias))      cap(z) = softcap · tanh(z / softcap), or z
    loss   = Σ over rows of logsumexp(logits) - logits[target]

The gradient is computed in the forward pass while a chunk's logits are there, so that a chunk is one GEMM forward and
two backward, nothing is recomputed, and between the passes only `d hidden` `[N, H]` and `d weight` `[V, H]` are kept.
`d weight` is summed over the chunks in float32 at least: sums in half precision would be biased.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

__all__ = ["CHUNK_BYTES", "ChunkedLoss", "LogitShape", "chunked_cross_entropy", "chunked_token_losses"]

CHUNK_BYTES = 1 << 30
"""Default budget for a chunk's logits and their gradient: 1,177 rows of a vocabulary of 151,936 in bfloat16."""


class LogitShape(NamedTuple):
    """What a model does to its logits after the product with the head."""

    scale: float = 1.0
    softcap: float | None = None


class ChunkedLoss(NamedTuple):
    """What is known of N rows."""

    nll: torch.Tensor
    """0-d, float32 (float64 for float64 rows): the summed loss. A differentiable 0 for no rows."""
    correct: torch.Tensor
    """0-d int64: rows whose largest logit is the target's."""


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    shape: LogitShape = LogitShape(),  # noqa: B008  # an immutable constant
    chunk_bytes: int = CHUNK_BYTES,
) -> ChunkedLoss:
    """Rows `[N, H]`, a head `[V, H]` with bias `[V]`, targets int64 `[N]` in [0, V), to the summed loss.

    Equal logits for V = 4 give `nll = N · ln 4`. Under autocast the products are made in its dtype. Works forward
    without gradients too; backward may run once, and not be differentiated again.
    """
    if torch.is_grad_enabled():
        nll, correct = _Chunked.apply(hidden, weight, bias, targets, shape, chunk_bytes)  # type: ignore[no-untyped-call]
        return ChunkedLoss(nll, correct)
    nll, correct = chunked_token_losses(hidden, weight, targets, bias=bias, shape=shape, chunk_bytes=chunk_bytes)
    return ChunkedLoss(nll.sum(), correct.sum())


@torch.no_grad()
def chunked_token_losses(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    shape: LogitShape = LogitShape(),  # noqa: B008
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of every row, float `[N]`, and whether its largest logit is the target's, bool `[N]`."""
    return _Sweep(hidden, weight, bias, shape, (False, False, False)).run(targets, chunk_bytes)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        shape: LogitShape,
        chunk_bytes: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sweep = _Sweep(hidden, weight, bias, shape, ctx.needs_input_grad[:3])
        nll, hits = sweep.run(targets, chunk_bytes)
        correct = hits.sum()
        ctx.gradients, ctx.dtypes = (
            sweep.gradients,
            (hidden.dtype, weight.dtype, bias.dtype if bias is not None else None),
        )
        ctx.mark_non_differentiable(correct)
        return nll.sum(), correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_nll: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # scaled in place, so they serve once
        if gradients is None:
            raise RuntimeError("the gradient of chunked_cross_entropy was already taken; run the forward pass again")
        scaled = (
            None if gradient is None else gradient.mul_(d_nll).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return (*scaled, None, None, None)


class _Sweep:
    """One pass over the rows; `gradients` are those of the summed loss, None where not asked for."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        shape: LogitShape,
        wanted: tuple[bool, bool, bool],
    ) -> None:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        self.precise = torch.promote_types(dtype, torch.float32)
        self.mixed = dtype != self.precise and hidden.is_cuda  # elsewhere there is no product with a wider result
        dtype = dtype if self.mixed else self.precise
        self.hidden, self.weight = hidden.to(dtype), weight.to(dtype)
        self.bias = None if bias is None else bias.to(self.precise)
        self.shape = shape
        self.gradients: tuple[torch.Tensor | None, ...] = (
            torch.empty_like(hidden, dtype=self.precise) if wanted[0] else None,
            torch.zeros_like(weight, dtype=self.precise) if wanted[1] else None,
            torch.zeros_like(bias, dtype=self.precise) if wanted[2] and bias is not None else None,
        )

    def run(self, targets: torch.Tensor, chunk_bytes: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = len(targets)
        nll = torch.empty(rows, dtype=self.precise, device=targets.device)
        hits = torch.empty(rows, dtype=torch.bool, device=targets.device)
        chunks = math.ceil(rows / self._rows(chunk_bytes))
        with torch.autocast(self.hidden.device.type, enabled=False):
            for at in range(chunks):
                part = slice(rows * at // chunks, rows * (at + 1) // chunks)
                self._chunk(part, targets[part], nll, hits)
        return nll, hits

    def _rows(self, chunk_bytes: int) -> int:
        """How many rows' logits, and their gradient in the dtype of the products, fit into the budget."""
        values = self.precise.itemsize * (1 if self.shape.softcap is None else 2)
        return max(1, chunk_bytes // (len(self.weight) * (values + (self.weight.dtype.itemsize if self.mixed else 0))))

    def _chunk(self, part: slice, targets: torch.Tensor, nll: torch.Tensor, hits: torch.Tensor) -> None:
        logits, slope = self._logits(self.hidden[part])
        at_target = logits.gather(1, targets[:, None])
        largest, best = logits.max(dim=1, keepdim=True)
        odds = logits.sub_(largest).exp_()
        total = odds.sum(dim=1, keepdim=True)
        nll[part] = (total.log() + largest - at_target)[:, 0]
        hits[part] = best[:, 0] == targets
        if any(gradient is not None for gradient in self.gradients):
            odds.div_(total).scatter_add_(1, targets[:, None], torch.full_like(total, -1.0))
            if slope is not None:
                odds.mul_(slope)
            if self.shape.scale != 1.0:
                odds.mul_(self.shape.scale)
            self._accumulate(part, odds)

    def _logits(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits `[n, V]`, precise, and how fast they move with what was capped (None: as fast)."""
        head = self.weight.T
        logits = torch.mm(hidden, head, out_dtype=self.precise) if self.mixed else hidden @ head
        if self.bias is not None:
            logits.add_(self.bias)
        if self.shape.scale != 1.0:
            logits.mul_(self.shape.scale)
        if self.shape.softcap is None:
            return logits, None
        logits.div_(self.shape.softcap).tanh_()
        slope = (logits * logits).neg_().add_(1.0)
        return logits.mul_(self.shape.softcap), slope

    def _accumulate(self, part: slice, d_logits: torch.Tensor) -> None:
        d_hidden, d_weight, d_bias = self.gradients
        if d_bias is not None:
            d_bias.add_(d_logits.sum(dim=0))
        d_logits = d_logits.to(self.weight.dtype)
        if d_hidden is not None:
            d_hidden[part] = d_logits @ self.weight
        if d_weight is not None and self.mixed:
            torch.addmm(d_weight, d_logits.T, self.hidden[part], out_dtype=self.precise, out=d_weight)
        elif d_weight is not None:
            d_weight.addmm_(d_logits.T, self.hidden[part])
