"""Whole training steps on a GPU that is not there: shapes, dtypes, devices and operations, and no numbers.

    LD_PRELOAD=fake_gpu.so python -m tests.torch.fake_gpu fake_gpu.so        (see test_fake_gpu)

torch's fake tensors say of every operation what a GPU would give, refuse operands on different devices, and cannot be
read: every place where the processor would wait for the device's values comes to light. Prints one JSON object.
"""

from __future__ import annotations

import ctypes
import json
import sys
import traceback
from collections import Counter
from pathlib import Path

import torch
import torch._subclasses.fake_impls
import torch.cuda.amp.common
import transformers
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sftdata_torch.accumulation import on_device
from sftdata_torch.attention import register_attention
from sftdata_torch.collate import PackedCollator
from sftdata_torch.head import LossModel, hidden_states
from sftdata_torch.modes import MODES, apply_mode
from sftdata_torch.optim import make_optimizer, members
from sftdata_torch.plan import activation_bytes, size_of
from sftdata_torch.step import train_step
from tests.torch.packs import row
from tests.torch.zoo import ZOO

GPU = torch.device("cuda")
ROWS = [row([5, 9, 1], seed=1), row([7, 12], seed=2)]
WAITS: list[str] = []


class Operations(TorchDispatchMode):
    """Counts them by name; what is copied to the processor is a wait."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, given=(), more=None):
        self.counts[function.name()] += 1
        out = function(*given, **(more or {}))
        if function.name() in ("aten::_to_copy", "aten::copy_") and out.device.type == "cpu":
            source = given[1] if function.name() == "aten::copy_" else given[0]
            WAITS.extend([_here()] * (source.device.type == "cuda"))
        return out


def _here():
    ours = [frame.filename for frame in traceback.extract_stack() if "sftdata_torch" in frame.filename]
    return Path(ours[-1]).name if ours else "elsewhere"


def _read(mode, function, tensor):
    WAITS.append(_here())
    return {torch.bool: True}.get(tensor.dtype, 1.0 if tensor.dtype.is_floating_point else 1)


def _read_all(tensor):
    WAITS.append(_here())
    return [1.0] * tensor.numel()


def made(family, **sizes):
    known = ZOO[family]
    with torch.device(GPU):
        model = getattr(transformers, known.model)(getattr(transformers, known.config)(**{**known.sizes, **sizes}))
    model.set_attn_implementation(register_attention())
    return model.train()


def batch(rows):
    """Of these sizes, on the processor still, as a loader gives it."""
    real = PackedCollator()(rows)
    return {
        name: torch.empty(value.shape, dtype=value.dtype) if isinstance(value, torch.Tensor) else value
        for name, value in real.items()
    }


def step(family, mode):
    """One step of two micro-batches (of one where gradients are released): kernels asked, waits, devices of states."""
    model, chosen = made(family), MODES[mode]
    apply_mode(model, chosen)
    optimizer = make_optimizer(model, lr=1e-3, release=chosen.release)
    WAITS.clear()
    with Operations() as operations:
        parts = [batch(ROWS) for _ in range(1 if chosen.release else 2)]
        clip = None if chosen.release else 1.0
        train_step(LossModel(model), optimizer, parts, device=GPU, autocast=torch.bfloat16, clip=clip)
    states = [value for each in members(optimizer) for state in each.state.values() for value in state.values()]
    return {
        "kernels": operations.counts["torch_attn::_varlen_attn"],
        "backward": operations.counts["torch_attn::_varlen_attn_backward"],
        "wide products": operations.counts["aten::mm.dtype"] + operations.counts["aten::addmm.dtype_out"],
        "waits": list(WAITS),
        "states on": sorted({str(state.device) for state in states}),
    }


def kept(dtype):
    """Bytes that a layer keeps of a token for the backward pass, counted and planned."""
    tokens, sums = 512, []
    for layers in (1, 2):
        torch.set_default_dtype(dtype)
        model = made("qwen2", num_hidden_layers=layers, hidden_size=128, intermediate_size=352)
        torch.set_default_dtype(torch.float32)
        weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
        shapes = {shape for weight in model.parameters() for shape in (tuple(weight.shape), tuple(weight.shape[::-1]))}
        seen = {}

        def note(tensor, seen=seen, weights=weights, shapes=shapes):
            storage = tensor.untyped_storage()
            if storage._cdata not in weights and tuple(tensor.shape) not in shapes:
                seen[storage._cdata] = storage
            return tensor

        autocast = torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype is torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast:
            states = hidden_states(model, on_device(batch([row([tokens])]), GPU))
        assert states.requires_grad
        sums.append(sum(storage.nbytes() for storage in seen.values()))
    size = size_of(model, model.config)
    planned = activation_bytes(size, itemsize=dtype.itemsize, autocast=dtype is torch.float32, kernel=True)
    return [(sums[1] - sums[0]) / tokens, planned]


def main():
    """Everything that test_fake_gpu asks for."""
    library = ctypes.CDLL(sys.argv[1])
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *given: True
    torch._subclasses.fake_impls.op_implementations_dict[torch.ops.aten._local_scalar_dense.default] = _read
    FakeTensor.tolist = _read_all
    with FakeTensorMode():
        assert library.install()
        steps = {f"{family}, {mode}": step(family, mode) for family in ("qwen2", "gemma3") for mode in MODES}
        bytes_kept = {str(dtype): kept(dtype) for dtype in (torch.float32, torch.bfloat16)}
    json.dump({"steps": steps, "kept": bytes_kept}, sys.stdout)


if __name__ == "__main__":
    main()
