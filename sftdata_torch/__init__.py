"""Streams sftdata shards into torch: dataset, sampler, collator, attention for packed rows, loss and loop.

Imports torch and `sftdata.shards` (pyarrow and numpy), and nothing else of the core. `docs/trainers.md` says how the
names below fit together; adapters to trainers are modules of `sftdata_torch.adapters`. Nothing is imported before it
is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "ElasticSampler",
    "FixedShape",
    "IsolationCheck",
    "MixedDataset",
    "PackedCollator",
    "PackedDataset",
    "PackedStream",
    "PackingLeakError",
    "accumulate",
    "assert_packing_isolated",
    "register_attention",
]

if TYPE_CHECKING:
    from sftdata_torch.accumulation import accumulate
    from sftdata_torch.attention import register_attention
    from sftdata_torch.collate import FixedShape, PackedCollator
    from sftdata_torch.dataset import PackedDataset
    from sftdata_torch.isolation import IsolationCheck, PackingLeakError, assert_packing_isolated
    from sftdata_torch.mixture import MixedDataset
    from sftdata_torch.sampler import ElasticSampler
    from sftdata_torch.stream import PackedStream

_HOMES = {
    "ElasticSampler": "sampler",
    "FixedShape": "collate",
    "IsolationCheck": "isolation",
    "MixedDataset": "mixture",
    "PackedCollator": "collate",
    "PackedDataset": "dataset",
    "PackedStream": "stream",
    "PackingLeakError": "isolation",
    "accumulate": "accumulation",
    "assert_packing_isolated": "isolation",
    "register_attention": "attention",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sftdata_torch' has no attribute {name!r}")
    return getattr(import_module(f"sftdata_torch.{_HOMES[name]}"), name)
