"""The batches of one rank as an iterable for plain loops, with a state that counts what was delivered.

What lives here: the joining of dataset, sampler and collator, with or without worker processes. What must not: the
order (`order`), the shares (`sampler`), training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from sftdata.errors import ConfigError, describe
from sftdata_torch.collate import PackedCollator, Row
from sftdata_torch.sampler import Bin, ElasticSampler, Micro

__all__ = ["PackedStream"]


class PackedStream(IterableDataset[Any]):
    """`for batch in PackedStream(dataset, sampler)`: the micro-batches of one epoch; `steps()` groups them.

    `workers` processes read ahead; what is delivered, and its order, does not depend on their number. `state_dict`
    holds what the loop has received, so it is exact when taken between two steps, whatever lies in the queues.
    After the last batch the stream stands at the next epoch. `options` go to torch's `DataLoader` (`pin_memory`,
    `prefetch_factor`, `multiprocessing_context`).

    Raises ConfigError when iterated inside a DataLoader's worker: give it the workers instead.
    """

    def __init__(
        self,
        dataset: Dataset[Row],
        sampler: ElasticSampler,
        collate: Callable[[Sequence[Row]], Any] | None = None,
        *,
        workers: int = 0,
        **options: Any,
    ) -> None:
        self.sampler = sampler
        self._feed = _Feed(sampler)
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._feed,
            collate_fn=collate or PackedCollator(),
            num_workers=workers,
            persistent_workers=workers > 0,
            **options,
        )

    def __len__(self) -> int:
        """Micro-batches of this rank in a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        """The micro-batches from where the state was loaded to the epoch's end."""
        for batch, _ in self._delivered():
            yield batch

    def steps(self) -> Iterator[list[Any]]:
        """The same, one list of micro-batches a global batch: what a rank trains before the optimizer's step."""
        micro_batches = []
        for batch, last in self._delivered():
            micro_batches.append(batch)
            if last:
                yield micro_batches
                micro_batches = []

    def _delivered(self) -> Iterator[tuple[Any, bool]]:
        if get_worker_info() is not None:
            raise ConfigError(
                describe(
                    "a PackedStream inside a DataLoader with workers would lose count of what was trained",
                    fix="Use PackedStream(..., workers=N), and DataLoader(stream, batch_size=None, num_workers=0).",
                )
            )
        for batch in self._loader:
            micro = self._feed.sent.popleft()
            self.sampler.advance(micro)
            yield batch, micro.last

    def set_epoch(self, epoch: int) -> None:
        """See `ElasticSampler.set_epoch`."""
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the loop stands; see `ElasticSampler.state_dict`."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken; see `ElasticSampler.load_state_dict`."""
        self.sampler.load_state_dict(state)


class _Feed:
    """The sampler's walk as a batch sampler that remembers what it has sent to the workers."""

    def __init__(self, sampler: ElasticSampler) -> None:
        self.sampler = sampler
        self.sent: deque[Micro] = deque()

    def __iter__(self) -> Iterator[list[Bin]]:
        self.sent.clear()
        for micro in self.sampler.walk():
            self.sent.append(micro)
            yield micro.bins

    def __len__(self) -> int:
        return len(self.sampler)
