"""The chunked head is plain cross entropy, value and gradient, whatever the chunks."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from sftdata_torch.loss import CHUNK_BYTES, LogitShape, chunked_cross_entropy, chunked_token_losses

N, H, V = 11, 8, 13
SHAPES = {
    "plain": LogitShape(),
    "scaled": LogitShape(0.25),
    "capped": LogitShape(1.0, 2.0),
    "scaled and capped": LogitShape(3.0, 2.0),
}


def made(bias=True, dtype=torch.float64):
    """hidden, weight, bias, targets."""
    torch.manual_seed(0)
    tensors = [torch.randn(*size, dtype=dtype, requires_grad=True) for size in ((N, H), (V, H), (V,))]
    return (*tensors[:2], tensors[2] if bias else None, torch.randint(0, V, (N,)))


def plain(hidden, weight, bias, targets, shape):
    logits = linear(hidden, weight, bias) * shape.scale
    if shape.softcap is not None:
        logits = shape.softcap * torch.tanh(logits / shape.softcap)
    return cross_entropy(logits, targets, reduction="sum"), (logits.argmax(1) == targets).sum()


def budget(rows, shape, itemsize=8):
    """Bytes that hold the logits of exactly so many rows."""
    return rows * V * itemsize * (1 if shape.softcap is None else 2)


@pytest.mark.parametrize("rows", [1, 7, N])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_value_gradient_and_hits_are_those_of_plain_cross_entropy(rows, shape, bias):
    hidden, weight, offset, targets = made(bias)
    wanted = [tensor for tensor in (hidden, weight, offset) if tensor is not None]
    loss, hits = plain(hidden, weight, offset, targets, shape)
    expected = torch.autograd.grad(loss * 0.3, wanted)
    ours = chunked_cross_entropy(hidden, weight, targets, bias=offset, shape=shape, chunk_bytes=budget(rows, shape))
    torch.testing.assert_close(ours.nll, loss, rtol=1e-12, atol=0)
    assert ours.correct == hits
    for got, want in zip(torch.autograd.grad(ours.nll * 0.3, wanted), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


@pytest.mark.skipif(not hasattr(torch.nn.functional, "linear_cross_entropy"), reason="torch before 2.13")
def test_value_and_gradient_are_those_of_torchs_own_linear_cross_entropy():
    hidden, weight, _, targets = made()
    theirs = torch.nn.functional.linear_cross_entropy(hidden, weight, targets, reduction="sum")
    expected = torch.autograd.grad(theirs, (hidden, weight))
    ours = chunked_cross_entropy(hidden, weight, targets, chunk_bytes=budget(7, LogitShape()))
    torch.testing.assert_close(ours.nll, theirs, rtol=1e-12, atol=0)
    for got, want in zip(torch.autograd.grad(ours.nll, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


def test_no_rows_give_a_zero_that_can_be_differentiated():
    hidden, weight, offset, targets = made()
    loss = chunked_cross_entropy(hidden[:0], weight, targets[:0], bias=offset)
    assert (loss.nll.item(), loss.correct.item()) == (0.0, 0)
    for gradient in torch.autograd.grad(loss.nll, (hidden, weight, offset)):
        assert not gradient.any()


def test_equal_logits_cost_the_logarithm_of_the_vocabulary():
    nll, _ = chunked_cross_entropy(torch.zeros(5, H), torch.randn(4, H), torch.tensor([0, 1, 2, 3, 0]))
    assert nll.item() == pytest.approx(5 * math.log(4))


def test_large_logits_stay_finite():
    hidden, weight, _, targets = made(dtype=torch.float32)
    nll, _ = chunked_cross_entropy(hidden * 1e4, weight * 1e4, targets)
    (gradient,) = torch.autograd.grad(nll, hidden)
    assert nll.isfinite()
    assert gradient.isfinite().all()


def test_frozen_head_gets_no_gradient_and_costs_none():
    hidden, weight, _, targets = made()
    frozen = weight.detach()
    nll, _ = chunked_cross_entropy(hidden, frozen, targets)
    nll.backward()
    torch.testing.assert_close(
        hidden.grad, torch.autograd.grad(plain(hidden, weight, None, targets, LogitShape())[0], hidden)[0]
    )
    assert frozen.grad is None


def test_token_losses_sum_to_the_loss_and_hold_without_gradients():
    hidden, weight, offset, targets = made()
    losses, hits = chunked_token_losses(hidden, weight, targets, bias=offset, chunk_bytes=budget(3, LogitShape()))
    expected = cross_entropy(linear(hidden, weight, offset), targets, reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    with torch.no_grad():
        nll, correct = chunked_cross_entropy(hidden, weight, targets, bias=offset)
    torch.testing.assert_close(nll, losses.sum())
    assert correct == hits.sum()
    assert not nll.requires_grad


def test_gradient_can_be_taken_once():
    hidden, weight, _, targets = made()
    nll, _ = chunked_cross_entropy(hidden, weight, targets)
    nll.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already taken; run the forward pass again"):
        nll.backward()


def test_weight_gradient_in_half_precision_is_summed_in_float32():
    """5,000 equal rows: a sum in bfloat16 would stop growing at 256 times one row's share."""
    rows = 5000
    hidden = torch.ones(rows, 2, dtype=torch.bfloat16)
    weight = torch.zeros(4, 2, dtype=torch.bfloat16, requires_grad=True)
    nll, _ = chunked_cross_entropy(hidden, weight, torch.zeros(rows, dtype=torch.int64), chunk_bytes=4 * 4)
    (gradient,) = torch.autograd.grad(nll, weight)
    torch.testing.assert_close(gradient[0].float(), torch.full((2,), -0.75 * rows), rtol=4e-3, atol=0)


def test_autocast_makes_the_products_in_its_dtype_and_gradients_in_the_weights_own():
    hidden, weight, offset, targets = made(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll, _ = chunked_cross_entropy(hidden, weight, targets, bias=offset)
    expected, _ = plain(hidden, weight, offset, targets, LogitShape())
    torch.testing.assert_close(nll, expected, rtol=1e-2, atol=0)
    for gradient in torch.autograd.grad(nll, (hidden, weight, offset)):
        assert gradient.dtype == torch.float32


def test_no_more_rows_than_the_budget_holds_are_ever_there(monkeypatch):
    seen = []
    original = torch.Tensor.exp_
    monkeypatch.setattr(torch.Tensor, "exp_", lambda self: (seen.append(tuple(self.shape)), original(self))[1])
    hidden, weight, _, targets = made()
    chunked_cross_entropy(hidden, weight, targets, chunk_bytes=budget(4, LogitShape()))
    assert sum(rows for rows, _ in seen) == N
    assert max(rows for rows, _ in seen) <= 4
    assert CHUNK_BYTES > V
