"""What only a GPU can show: products with a wider result, the varlen kernel under autocast, compiled layers."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from sftdata_torch.collate import PackedCollator
from sftdata_torch.head import LossModel
from sftdata_torch.loss import chunked_cross_entropy
from sftdata_torch.modes import SteadyCollator, compile_layers
from sftdata_torch.optim import make_optimizer
from sftdata_torch.step import train_step
from tests.torch.models import causal
from tests.torch.packs import many

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
GPU, CPU = torch.device("cuda"), torch.device("cpu")
SIZES = {"hidden_size": 128, "intermediate_size": 256}


@pytest.mark.parametrize("rows", [1, 7, 512])
def test_head_in_half_precision_is_near_float64(rows):
    torch.manual_seed(0)
    hidden = torch.randn(512, 256, device=GPU, requires_grad=True)
    weight = (torch.randn(4096, 256, device=GPU) / 16).requires_grad_()
    targets = torch.randint(0, 4096, (512,), device=GPU)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        nll, correct = chunked_cross_entropy(hidden, weight, targets, chunk_bytes=rows * 4096 * 6)
    logits = linear(hidden.double(), weight.double())
    exact = cross_entropy(logits, targets, reduction="sum")
    assert nll.item() == pytest.approx(exact.item(), rel=1e-3)
    assert abs(int(correct) - int((logits.argmax(1) == targets).sum())) <= 5
    for ours, theirs in zip(
        torch.autograd.grad(nll, (hidden, weight)), torch.autograd.grad(exact, (hidden, weight)), strict=True
    ):
        assert float((ours.double() - theirs).norm() / theirs.norm()) < 1e-2


@pytest.mark.parametrize("compiled", [False, True])
def test_steps_in_mixed_precision_follow_those_in_float32(compiled):
    curves = []
    for device, autocast in ((CPU, None), (GPU, torch.bfloat16)):
        model = causal("qwen2", **SIZES).to(device).train()
        collate = PackedCollator()
        if compiled and device.type == "cuda":
            compile_layers(model)
            collate = SteadyCollator(micro_batch=2, capacity=64)
        optimizer, loss_model = make_optimizer(model, lr=1e-3), LossModel(model)
        bins = many(12)
        curves.append(
            [
                train_step(loss_model, optimizer, [collate(bins[at : at + 2])], device=device, autocast=autocast).loss
                for at in range(0, 12, 2)
            ]
        )
    assert curves[1] == pytest.approx(curves[0], rel=2e-2)
