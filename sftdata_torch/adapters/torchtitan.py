"""torchtitan: a data loader of its shape, and a random-access source for its Grain recipes. Imports nothing of it.

torchtitan asks a loader for `({"input": ids, "positions": positions}, labels)`, labels shifted and -100 where
untrained, and for `state_dict`/`load_state_dict`; a Grain recipe asks a source for `__len__`, `__getitem__` and
`fingerprint`, and a row for `input_ids`, `labels` (unshifted) and `positions`. Both were read, not run, in its public
source of August 2026.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from sftdata.records import Int64Array
from sftdata_torch.collate import PackedCollator
from sftdata_torch.sampler import ElasticSampler
from sftdata_torch.stream import PackedStream

__all__ = ["TitanLoader", "TitanRow", "TitanSource"]


class TitanLoader:
    """An endless stream of micro-batches in flat tensors `[T]`, epoch after epoch.

    Every rank gets as many micro-batches a step as the global batch needs, so torchtitan's accumulation steps are
    `loader.micro_batches`; it divides by the global number of valid targets itself. The state is the same on all
    ranks and fits any world.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        dp_rank: int,
        dp_world_size: int,
        global_batch: int,
        micro_batch: int = 1,
        workers: int = 0,
    ) -> None:
        sampler = ElasticSampler(
            dataset,
            global_batch=global_batch,
            micro_batch=micro_batch,
            rank=dp_rank,
            world_size=dp_world_size,
            drop_last=True,
        )
        self.micro_batches = sampler.micro_batches
        self._stream = PackedStream(dataset, sampler, PackedCollator(form="torchtitan"), workers=workers)

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        while True:
            yield from self._stream

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands; see `ElasticSampler.state_dict`."""
        return self._stream.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue there; an empty state, which torchtitan gives on a first start, changes nothing."""
        if state_dict:
            self._stream.load_state_dict(state_dict)


class TitanRow(NamedTuple):
    """One bin, token-aligned, as torchtitan's collator takes it."""

    input_ids: Int64Array
    labels: Int64Array
    """Unshifted; -100 where untrained."""
    positions: Int64Array
    """From 0 in every document."""


class TitanSource:
    """Random access to bins as rows, for recipes that shuffle, shard and batch by themselves."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._flatten = PackedCollator().flatten

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, place: int) -> TitanRow:
        batch = self._flatten([self._dataset[place]])
        columns = (batch[name][0].numpy() for name in ("input_ids", "labels", "position_ids"))
        return TitanRow(*(np.asarray(column) for column in columns))

    def fingerprint(self) -> str:
        """The dataset's, so that torchtitan refuses to resume on another one."""
        return str(self._dataset.fingerprint)
