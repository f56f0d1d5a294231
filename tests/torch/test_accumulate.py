"""Law 12 for the plain loop: how a global batch is cut leaves loss and gradient unchanged."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata_torch.accumulation import accumulate, global_targets
from sftdata_torch.attention import register_attention
from sftdata_torch.collate import PackedCollator
from tests.torch.packs import row, rows, tiny

MODEL = tiny("llama", register_attention()).double()


def outcome(parts):
    """Loss and gradient of the micro-batches `parts`."""
    MODEL.zero_grad()
    loss = accumulate(MODEL, [PackedCollator()(part) for part in parts], device="cpu")
    return loss, torch.cat([parameter.grad.flatten() for parameter in MODEL.parameters()])


@settings(deadline=None, max_examples=15)
@given(rows(most_rows=6), st.data())
def test_any_cut_into_micro_batches_gives_the_same_loss_and_gradient(bins, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(bins)), max_size=3)) - {len(bins)})
    parts = [bins[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(bins)], strict=True)]
    for ours, theirs in zip(outcome(parts), outcome([bins]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_loss_is_the_models_own_mean_over_trained_targets():
    batch = PackedCollator(targets=False)([row([7, 5], seed=3)])
    loss, _ = outcome([[row([7, 5], seed=3)]])
    # transformers takes its loss in float32
    torch.testing.assert_close(loss, MODEL(**batch).loss.double(), rtol=1e-5, atol=0)


def test_untrained_micro_batch_adds_exactly_nothing():
    bins, blank = [row([7, 5], seed=3)], [row([6], trained=0.0)]
    for ours, theirs in zip(outcome([bins, blank]), outcome([bins]), strict=True):
        assert torch.equal(ours, theirs)
    loss, gradient = outcome([blank, blank])
    assert loss == 0
    assert not gradient.any()


def test_targets_are_summed_without_a_process_group():
    assert global_targets([PackedCollator()([row([7, 5], seed=seed)]) for seed in (1, 2)], "cpu") == sum(
        int((row([7, 5], seed=seed)["labels"] != -100).sum()) for seed in (1, 2)
    )
