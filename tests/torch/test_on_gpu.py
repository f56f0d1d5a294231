"""What only a GPU can show: products with a wider result, the varlen kernel under autocast, compiled layers, a run.

The other tests are for a CPU: hide the GPU from them (`CUDA_VISIBLE_DEVICES= make test`).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from sftdata_torch import attention
from sftdata_torch.assemble import open_eval
from sftdata_torch.attention import register_attention
from sftdata_torch.collate import PackedCollator
from sftdata_torch.compare import load_model
from sftdata_torch.evaluate import ALL, evaluate_loss
from sftdata_torch.generate import Sampling, generate_replies, held_out_prompts
from sftdata_torch.head import LossModel
from sftdata_torch.isolation import assert_packing_isolated
from sftdata_torch.loop import train
from sftdata_torch.loss import chunked_cross_entropy
from sftdata_torch.modes import SteadyCollator, compile_layers
from sftdata_torch.optim import make_optimizer
from sftdata_torch.step import train_step
from tests.torch.models import causal
from tests.torch.packs import VOCAB, many, row, sealed
from tests.torch.runs import Killer, losses, model_folder, settings

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


def test_isolation_holds_in_mixed_precision_on_the_kernel(monkeypatch):
    asked = []
    kernel = attention._KERNEL
    monkeypatch.setattr(attention, "_KERNEL", lambda *given: asked.append(given[0].dtype) or kernel(*given))
    model = causal("qwen2", **SIZES).to(GPU)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert_packing_isolated(model, PackedCollator()([row([5, 9, 3], seed=1), row([7, 1, 9], seed=2)]))
    assert set(asked) == {torch.bfloat16}


MODES = {
    "fast": {},
    "compiled": {"compile": True},
    "lean": {"mode": "lean"},
    "min": {"mode": "min", "max_grad_norm": 0.0, "micro_batch_size": 4},
    "adapters": {"lora_rank": 2},
    "24-bit masters": {"optimizer": "flashadamw"},
}


@pytest.mark.parametrize("name", MODES)
def test_a_run_is_stopped_resumed_saved_evaluated_and_generates(tmp_path, name):
    if name == "24-bit masters":
        pytest.importorskip("flashoptim", reason="flashoptim is not installed")
    if name == "adapters":
        pytest.importorskip("peft", reason="peft is not installed")
    model = model_folder(tmp_path / "model", "qwen2", **SIZES)
    shards = sealed(tmp_path / "set", many(10), eval=many(4, seed=7))
    options = {"model": str(model), "shards": str(shards), "eval_shards": str(shards), "workers": 1, **MODES[name]}
    whole = train(settings(tmp_path, "whole", **options))
    cut = settings(tmp_path, "cut", save_every=2, **options)
    assert not train(cut, watch=Killer(after=3)).finished
    assert train(cut).finished
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-2)
    assert "peak_mem_gib" in (tmp_path / "whole" / "metrics.jsonl").read_text(encoding="utf-8")
    tuned = load_model(str(whole.model), GPU, base=str(model))
    tuned.set_attn_implementation(register_attention())
    scores = evaluate_loss(LossModel(tuned), open_eval(str(shards)), device=GPU)
    assert scores[ALL].loss == pytest.approx(math.log(VOCAB), rel=0.2)
    prompts = held_out_prompts(open_eval(str(shards)), limit=3)
    drawn = [generate_replies(tuned, prompts, [1], Sampling(max_new_tokens=4), batch_size=2) for _ in range(2)]
    assert drawn[0] == drawn[1]
