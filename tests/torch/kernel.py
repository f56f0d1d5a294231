"""A stand-in for torch's varlen kernel, so that the way to it is walked on a CPU.

It demands what the kernel demands on a GPU, and is exact attention document by document.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sftdata_torch import attention

HALF = (torch.bfloat16, torch.float16)


class Calls:
    """How often the kernel was asked; compiled layers do not count, for each number would compile them anew."""

    count = 0


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """q `[T, heads, dim]`, k and v `[T, kv_heads, dim]`, under the signature of torch 2.13."""
    if not torch.compiler.is_compiling():
        Calls.count += 1
    assert query.dtype == key.dtype == value.dtype
    assert query.dtype in HALF
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q.is_contiguous()
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert query.shape[-1] == value.shape[-1] <= 256
    assert query.shape[-1] % 8 == 0
    assert type(max_q) is type(max_k) is int
    assert enable_gqa or query.shape[1] == key.shape[1]
    at = torch.arange(query.shape[0], device=query.device)
    document = torch.searchsorted(cu_seq_q.to(at.dtype), at, right=True)
    distance = at[:, None] - at[None]
    allowed = (document[:, None] == document[None]) & (distance >= 0)
    if window_size[0] >= 0:
        allowed = allowed & (distance <= window_size[0])
    q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
    out = scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)


@pytest.fixture
def kernel_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Calls]]:
    """`packed_varlen` asks the stand-in on the CPU, under the conditions that hold for a GPU."""
    monkeypatch.setattr(attention, "_KERNEL_DEVICE", "cpu")
    monkeypatch.setattr(attention, "_KERNEL", attention.adapt_varlen(varlen_attn))
    Calls.count = 0
    yield Calls
    torch.compiler.reset()
