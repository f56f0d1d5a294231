"""A canary for packed rows: change one document, and demand that nothing moves in any other.

What lives here: the assertion, and the search for the cause where it fails. What must not: a table of models; every
cause is found by repairing the batch and looking again. Three forward passes without the head: run it at step 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sftdata.errors import ConfigError, SftdataError, describe
from sftdata_torch.collate import Batch

__all__ = ["IsolationCheck", "PackingLeakError", "assert_packing_isolated"]

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""How far others may move, as a share of how far the changed ones moved. An exact mask moves them by nothing;
kernels that choose their reduction by content (routed experts) move them by rounding."""
_APART = "train one document a row: PackedCollator(form='padded')."
_ATTENTION_LAYERS = ("full_attention", "sliding_attention", "chunked_attention")


class PackingLeakError(SftdataError, RuntimeError):
    """A document of a packed batch reached another one."""


class _Response(NamedTuple):
    """How far the hidden states of the changed documents and of the others moved (largest absolute difference)."""

    own: float
    others: float


class _Repair(NamedTuple):
    """A known cause, as the change of a batch that takes it away."""

    cause: str
    fix: str
    applies: Callable[[Batch, nn.Module], bool]
    apply: Callable[[Batch], Batch]


@torch.no_grad()
def assert_packing_isolated(model: nn.Module, batch: Batch, *, tolerance: float | None = None) -> None:
    """Return if changing documents of `batch` moves no hidden state of another, else say why.

    `batch` is what the training loop gives the model, in any form, with two documents at least; `labels` and the
    counts of targets are left aside. The model is called as in training, since what it hands on to its decoder is
    half of the question, but its head sees one token; in eval mode and without gradients. Its mode and all random
    states are the same afterwards. `tolerance` is relative to the
    move of the changed documents (default 1e-5 in float32, 1e-2 in half precision and under its autocast).

    Raises PackingLeakError with the cause; ConfigError where the batch cannot show anything.
    """
    model, batch = _unwrapped(model), _inputs(batch, model)
    documents = _documents(batch)
    if int(documents.max()) == int(documents.min()):
        raise ConfigError(
            describe("the batch holds one document", expected="two or more", fix="Give a batch that is packed.")
        )
    with _evaluating(model):
        response, dtype = _respond(model, batch, documents)
        limit = tolerance if tolerance is not None else _TOLERANCE.get(dtype, 1e-2)
        if response.own == 0.0:
            raise PackingLeakError(
                describe("changing a document's tokens does not move its own hidden states", where="isolation")
            )
        if response.others > limit * response.own:
            causes = _causes(model, batch, limit)
            raise PackingLeakError(
                describe(
                    f"changing documents moved another's hidden states by {response.others:.3g} (their own by "
                    f"{response.own:.3g}): {'; '.join(cause for cause, _ in causes)}",
                    where="packed documents are not isolated",
                    expected=f"at most {limit * response.own:.3g}",
                    fix=" ".join(fix for _, fix in causes),
                )
            )


class IsolationCheck:
    """`assert_packing_isolated` on the first batch with two documents, and on no later one: for training loops."""

    def __init__(self) -> None:
        self.done = False

    def __call__(self, model: nn.Module, batch: Batch) -> None:
        """Check `batch` if none was checked so far and this one can show anything."""
        if not self.done and int(_documents(batch).max()) > int(_documents(batch).min()):
            assert_packing_isolated(model, batch)
            self.done = True


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model that data parallelism and compilation were put around."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def _body(model: nn.Module) -> nn.Module:
    """What computes the hidden states: the decoder of a transformers model, else the model itself."""
    decoder = getattr(model, "get_decoder", None)
    found = decoder() if callable(decoder) else model
    return found if isinstance(found, nn.Module) else model


def _inputs(batch: Batch, model: nn.Module) -> Batch:
    left_aside = ("labels", "target_idx", "num_target_tokens")
    device = next(model.parameters()).device
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) or name == "attention_mask" else value
        for name, value in batch.items()
        if name not in left_aside
    }


def _documents(batch: Batch) -> torch.Tensor:
    """The document of every token, counted from 1 along the rows, int64 `[B, T]`: from the batch's bounds, else from
    restarting positions, else one a row."""
    ids = batch["input_ids"]
    at = torch.arange(ids.numel(), device=ids.device)
    if "cu_seq_lens_q" in batch:
        flat = torch.searchsorted(batch["cu_seq_lens_q"].to(at.dtype), at, right=True)
    elif "position_ids" in batch:
        flat = (batch["position_ids"].reshape(-1) == 0).cumsum(0)
    else:
        flat = at // ids.shape[1]
    return _beginnings(flat).cumsum(0).view(ids.shape)


def _beginnings(flat: torch.Tensor) -> torch.Tensor:
    """`[4, 4, 6]` to `[True, False, True]`."""
    begins = torch.ones_like(flat, dtype=torch.bool)
    begins[1:] = flat[1:] != flat[:-1]
    return begins


def _respond(model: nn.Module, batch: Batch, documents: torch.Tensor) -> tuple[_Response, torch.dtype]:
    """Change every second document and look at the rest, then the other way round: so each stands between two
    that change while it does not, and leaks in both directions, and in every row, are seen."""
    ids = batch["input_ids"]
    other_ids = torch.where(ids > 0, ids - 1, ids + 1)
    before, computed = _hidden(model, batch)
    if not bool(before.isfinite().all()):
        raise ConfigError(describe("the model's hidden states are not finite", where="isolation", fix="Check them."))
    own, others = [], []
    for parity in (0, 1):
        changed = documents % 2 == parity
        after, _ = _hidden(model, {**batch, "input_ids": torch.where(changed, other_ids, ids)})
        moved = (after - before).abs().float().amax(-1).view(changed.shape)
        own.append(moved[changed].max())
        others.append(moved[~changed].max())
    return _Response(float(torch.stack(own).min()), float(torch.stack(others).max())), computed


def _hidden(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.dtype]:
    """What the body makes of the batch, float `[B, T, H]`, when the whole model is called with it; and in which dtype.

    The decoder alone may keep documents apart by what the model around it never hands on. A model that cannot be
    told to leave the head out is asked for its decoder's states all the same.
    """
    body = _body(model)
    if body is model or not _slices_logits(model):
        return _states(body(**batch))
    seen: list[tuple[torch.Tensor, torch.dtype]] = []
    handle = body.register_forward_hook(lambda _module, _given, out: seen.append(_states(out)))
    try:
        model(**batch, logits_to_keep=1)
    finally:
        handle.remove()
    return seen[-1] if seen else _states(body(**batch))


def _states(out: Any) -> tuple[torch.Tensor, torch.dtype]:
    """The states and what they were computed in: asked here, because trainers put autocast into the model's forward."""
    states: torch.Tensor = out if isinstance(out, torch.Tensor) else out[0]
    kind = states.device.type
    return states, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


def _slices_logits(model: nn.Module) -> bool:
    """Its forward pass, or that of the model which an adapter was put on, takes `logits_to_keep`."""
    base = getattr(model, "get_base_model", None)
    inner = base() if callable(base) else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def _causes(model: nn.Module, batch: Batch, limit: float) -> list[tuple[str, str]]:
    """Repair everything that could be wrong; what brings the leak back when left as it was is a cause."""

    def leaks(repairs: list[_Repair]) -> bool:
        repaired = batch
        for repair in repairs:
            repaired = repair.apply(repaired)
        try:
            response, _ = _respond(model, repaired, _documents(repaired))
        except (TypeError, ValueError, RuntimeError):
            return True  # what the model refuses to read repairs nothing
        return response.others > limit * response.own

    body = _body(model)
    possible = [repair for repair in _REPAIRS if repair.applies(batch, body)]
    if possible and not leaks(possible):
        needed = [repair for repair in possible if leaks([other for other in possible if other is not repair])]
        return [(repair.cause, repair.fix) for repair in needed or possible]
    if _recurrent(body):
        return [
            (
                "a recurrent or convolutional layer carries its state across documents on this device",
                f"Install the kernels that read seq_idx for this model, or {_APART}",
            )
        ]
    name = getattr(getattr(body, "config", None), "_attn_implementation", None)
    return [
        (
            f"nothing in this model reads the documents' bounds (its attention implementation is {name!r})",
            f"Use the one that sftdata_torch.attention.register_attention() returns; if that does not help, {_APART}",
        )
    ]


def _recurrent(body: nn.Module) -> bool:
    """Some layer passes state along the row by other means than attention."""
    layers = getattr(getattr(body, "config", None), "layer_types", None) or ()
    return any(kind not in _ATTENTION_LAYERS for kind in layers) or any(
        isinstance(module, (nn.Conv1d, nn.RNNBase)) for module in body.modules()
    )


def _flattened(batch: Batch) -> Batch:
    return {
        name: value.reshape(1, -1) if isinstance(value, torch.Tensor) and value.ndim == 2 else value
        for name, value in batch.items()
    }


def _with_positions(batch: Batch) -> Batch:
    """Positions counted from the last place where the document changed."""
    documents = _documents(batch).reshape(-1)
    at = torch.arange(len(documents), device=documents.device)
    starts = torch.where(_beginnings(documents), at, torch.zeros_like(at)).cummax(0).values
    return {**batch, "position_ids": (at - starts).view(batch["input_ids"].shape)}


_REPAIRS = (
    _Repair(
        "an attention_mask with one entry a token says nothing of documents, and switches their isolation off",
        "Leave attention_mask out of the batch.",
        lambda batch, _: getattr(batch.get("attention_mask"), "ndim", 0) == 2,
        lambda batch: {name: value for name, value in batch.items() if name != "attention_mask"},
    ),
    _Repair(
        "the model makes a cache (use_cache=True), with which positions are no longer looked at",
        "Pass use_cache=False, or set model.config.use_cache = False.",
        lambda batch, body: bool(batch.get("use_cache", getattr(_config(body), "use_cache", False))),
        lambda batch: {**batch, "use_cache": False},
    ),
    _Repair(
        "the batch has no position_ids, and this attention reads nothing else",
        "Pass the whole batch of PackedCollator to the model.",
        lambda batch, _: "position_ids" not in batch,
        _with_positions,
    ),
    _Repair(
        "the batch has several rows and only position_ids to tell documents apart",
        "Flatten the rows into one, as PackedCollator does.",
        lambda batch, _: batch["input_ids"].shape[0] > 1 and "cu_seq_lens_q" not in batch,
        _flattened,
    ),
    _Repair(
        "a recurrent or convolutional layer got no seq_idx",
        "Pass the whole batch of PackedCollator to the model.",
        lambda batch, body: "seq_idx" not in batch and _recurrent(body),
        lambda batch: {**batch, "seq_idx": (_documents(batch) - 1).to(torch.int32)},
    ),
)


def _config(body: nn.Module) -> Any:
    return getattr(body, "config", None)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, every module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
