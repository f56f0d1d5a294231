"""What a GPU runs by default, walked on the CPU with a stand-in for the kernel: float32 weights under autocast."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode

from sftdata_torch.attention import register_attention
from sftdata_torch.collate import PackedCollator
from sftdata_torch.head import LossModel
from sftdata_torch.modes import MODES, SteadyCollator, apply_mode, compile_layers, decoder_layers
from sftdata_torch.optim import ReleasingOptimizer, make_optimizer
from sftdata_torch.step import train_step
from tests.torch.kernel import kernel_on_cpu
from tests.torch.packs import row
from tests.torch.zoo import ZOO, made

__all__ = ["kernel_on_cpu"]

CPU = torch.device("cpu")
ROWS = [row([5, 9, 1], seed=1), row([7, 12], seed=2)]
PACKED = register_attention()
NO_DROPOUT = {"gpt2": {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}, "opt": {"dropout": 0.0}}
UNCAPPED = [name for name, each in ZOO.items() if each.packed and name not in ("gemma2", "gpt-oss")]


def loss_and_gradient(model, rows, collate):
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll = LossModel(model)(collate(rows)).nll
    nll.backward()
    return nll.detach(), torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


@pytest.mark.parametrize("family", UNCAPPED)
def test_every_layer_under_autocast_asks_the_kernel(family, kernel_on_cpu):
    """Rotated queries and keys come in float32 there and values do not; no model is left on the slow way for it."""
    model = made(family, PACKED, **NO_DROPOUT.get(family, {})).train()
    found = loss_and_gradient(model, ROWS, PackedCollator())
    assert kernel_on_cpu.count == len(decoder_layers(model))
    model.set_attn_implementation("packed_blocks")
    expected = loss_and_gradient(model, ROWS, PackedCollator())
    assert found[0].item() == pytest.approx(expected[0].item(), rel=2e-2)
    assert torch.nn.functional.cosine_similarity(found[1], expected[1], dim=0) > 0.99


def test_what_the_kernel_cannot_do_goes_the_exact_way(kernel_on_cpu):
    for family, sizes in (("gemma2", {}), ("gpt-oss", {}), ("llama", {"head_dim": 12}), ("llama", {"head_dim": 264})):
        model = made(family, PACKED, **sizes)
        loss_and_gradient(model, ROWS, PackedCollator())
    with torch.no_grad():
        LossModel(made("llama", PACKED))(PackedCollator()(ROWS))  # in float32
    assert kernel_on_cpu.count == 0


class Waits(TorchDispatchMode):
    """Notes every operation that on a GPU would make the processor wait for it."""

    SIZED_BY_VALUES = ("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::repeat_interleave.Tensor")

    def __init__(self, monkeypatch):
        super().__init__()
        self.seen = []
        for name in ("tolist", "cpu", "numpy"):
            monkeypatch.setattr(torch.Tensor, name, self._noting(name, getattr(torch.Tensor, name)))

    def _noting(self, name, method):
        def noted(*given, **more):
            self.seen.append(name)
            return method(*given, **more)

        return noted

    def __torch_dispatch__(self, function, types, given=(), more=None):
        name = function.name()
        indices = given[1] if name.startswith(("aten::index.", "aten::index_put")) else ()
        chosen = any(index is not None and index.dtype == torch.bool for index in indices)
        if name == "aten::_local_scalar_dense" or name in self.SIZED_BY_VALUES or chosen:
            self.seen.append(name)
        return function(*given, **(more or {}))


@pytest.mark.parametrize("mode", ["fast", "lean", "min"])
@pytest.mark.parametrize("family", ["qwen2", "gemma3", "mixtral"])
def test_a_step_waits_for_the_device_once(family, mode, kernel_on_cpu, monkeypatch):
    """Before the update, for loss and gradient; with gradients released also before the backward pass, for the loss."""
    model = made(family, PACKED).train()
    apply_mode(model, MODES[mode])
    releases = MODES[mode].release
    optimizer = ReleasingOptimizer(model.parameters(), SGD, 0.0) if releases else SGD(model.parameters())
    batches = [PackedCollator()(ROWS[at:]) for at in range(1 if releases else 2)]
    with Waits(monkeypatch) as waits:
        clip = None if releases else 1.0
        train_step(LossModel(model), optimizer, batches, device=CPU, autocast=torch.bfloat16, clip=clip)
    ours = [name for name in waits.seen if family != "mixtral" or name == "tolist"]  # its experts wait by themselves
    assert ours == ["aten::_local_scalar_dense"] * (releases and family != "mixtral") + ["tolist"]


@pytest.mark.parametrize("mode", ["fast", "lean"])
def test_documents_by_themselves_cost_one_wait_a_batch_and_not_one_a_layer(mode, monkeypatch):
    """What caps its scores goes this way on a GPU, too."""
    model = made("gemma2", PACKED, num_hidden_layers=3, layer_types=["full_attention"] * 3).train()
    apply_mode(model, MODES[mode])
    batches = [PackedCollator()(ROWS[at:]) for at in range(2)]
    with Waits(monkeypatch) as waits:
        train_step(LossModel(model), SGD(model.parameters()), batches, device=CPU, autocast=torch.bfloat16)
    assert waits.seen == ["tolist"] * 3


class Compilations:
    """A backend that counts what it is asked to compile, and compiles nothing."""

    def __init__(self):
        self.count = 0
        self.kernels = 0

    def __call__(self, graph, inputs):
        self.count += 1
        self.kernels += sum("searchsorted" in str(node.target) for node in graph.graph.nodes)  # of the stand-in
        return graph.forward


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("qwen2", {}),
        ("gemma", {}),
        ("gemma3", {"layer_types": ["sliding_attention", "full_attention"] * 6}),
        ("cohere2", {"layer_types": ["sliding_attention", "full_attention"] * 6}),
    ],
)
def test_twelve_layers_on_the_kernel_are_compiled_as_often_as_two(family, sizes, kernel_on_cpu):
    """A number of the layer that the attention looks at is a compilation a layer, up to torch's limit of eight, and
    no compilation from there on."""
    counts = []
    for layers in (2, 12):
        torch.compiler.reset()
        cut = {name: value[:layers] for name, value in sizes.items()}
        model = made(family, PACKED, num_hidden_layers=layers, **cut).train()
        counter = Compilations()
        compile_layers(model, backend=counter)
        collate = SteadyCollator(micro_batch=1, capacity=48)
        optimizer, loss_model = make_optimizer(model, lr=1e-3), LossModel(model)
        for rows in ([ROWS[0]], [ROWS[1]]):
            train_step(loss_model, optimizer, [collate(rows)], device=CPU, autocast=torch.bfloat16)
        counts.append((counter.count, counter.kernels))
    assert counts[0] == counts[1]
    assert min(counts[0]) > 0
