"""Which bins this rank reads next, and a state that any other world can continue from.

What lives here: the cutting of an epoch's order into global batches, ranks and micro-batches, and its state. What
must not: reading, permuting (`order`), or anything that depends on workers.

Step s of an epoch trains the bins at positions `s·G` to `(s+1)·G` of the order, whatever the world. They are cut
into chunks of `world_size · micro_batch` bins, and each chunk into one share a rank:

    G = 5, two ranks, micro_batch = 1     chunk 0: rank 0 | rank 1     chunk 2: rank 0 | blank
                                          chunk 1: rank 0 | rank 1

A rank whose share is empty gets a bin with all labels -100, so that every rank makes the same number of steps, no bin
is trained twice, and a loss that is normalised by the global number of targets does not notice.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch.distributed
from torch.utils.data import Sampler

from sftdata.errors import ConfigError, ShardError, describe
from sftdata_torch.order import Order

__all__ = ["Bin", "ElasticSampler", "Micro", "Ordered", "Position"]

STATE_VERSION = 1


class Bin(NamedTuple):
    """A bin by its place on disk, as a key of the dataset; an int is a position of the epoch's order instead."""

    place: int
    blank: bool = False
    """Read it with all labels -100."""


class Position(NamedTuple):
    """A place in the run: this many bins of this epoch's order were trained by all ranks together."""

    epoch: int
    consumed: int


class Micro(NamedTuple):
    """One micro-batch of a rank."""

    bins: list[Bin]
    after: Position
    """Where the run stands once it was trained: only the last of a step moves it."""
    last: bool
    """It ends its global batch."""


class Ordered(Protocol):
    """What a sampler needs of a dataset."""

    @property
    def seed(self) -> int | None:
        """Of its order; None for the order of the files."""

    @property
    def fingerprint(self) -> str:
        """What a saved state must agree with."""

    @property
    def order(self) -> Order:
        """The order of its epochs."""


class ElasticSampler(Sampler[list[Bin]]):
    """The micro-batches of one rank: a batch sampler for a `DataLoader` over a `PackedDataset`.

    `ElasticSampler(dataset, global_batch=8, micro_batch=2)` on two ranks gives each rank 2 lists of 2 bins a step.
    `global_batch` bins make a step in every world, so keep it when the world changes. Rank and world size are those
    of `torch.distributed` where it is initialised. With `drop_last` the short step at an epoch's end is left out.

    Iterating begins where the state was loaded, or at the epoch's beginning, every time, so that a look at the first
    batch loses nothing; with its last micro-batch the sampler stands at the beginning of the next epoch.

    Raises ConfigError where the numbers make no step.
    """

    def __init__(
        self,
        dataset: Ordered,
        *,
        global_batch: int,
        micro_batch: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
    ) -> None:
        own_rank, own_world = _world()
        self.rank = own_rank if rank is None else rank
        self.world_size = own_world if world_size is None else world_size
        self.dataset = dataset
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self.drop_last = drop_last
        self.position = Position(0, 0)
        """Where the next iteration begins."""
        self.reached = Position(0, 0)
        """Where the last iteration has come to."""
        self._check()

    def _check(self) -> None:
        length = self.dataset.order.length
        faults = {
            "global_batch and micro_batch must be positive": min(self.global_batch, self.micro_batch) < 1,
            "rank must be in [0, world_size)": not 0 <= self.rank < self.world_size,
            "drop_last leaves no step: the set has fewer bins than a global batch": self.drop_last
            and length < self.global_batch,
        }
        for fault, present in faults.items():
            if present:
                raise ConfigError(
                    describe(
                        fault,
                        where=f"ElasticSampler(global_batch={self.global_batch}, micro_batch={self.micro_batch}, "
                        f"rank={self.rank}, world_size={self.world_size}) over {length} bins",
                    )
                )

    @property
    def chunk(self) -> int:
        """Bins that all ranks together take in one micro-batch."""
        return self.world_size * self.micro_batch

    @property
    def micro_batches(self) -> int:
        """Micro-batches a rank makes of a whole global batch: the number of gradient accumulation steps."""
        return -(-self.global_batch // self.chunk)

    @property
    def steps(self) -> int:
        """Global batches in an epoch."""
        length = self.dataset.order.length
        return length // self.global_batch if self.drop_last else -(-length // self.global_batch)

    def __len__(self) -> int:
        """Micro-batches of this rank in a whole epoch, the same on all ranks."""
        rest = 0 if self.drop_last else self.dataset.order.length % self.global_batch
        whole = self.dataset.order.length // self.global_batch
        return whole * self.micro_batches + -(-rest // self.chunk)

    def __iter__(self) -> Iterator[list[Bin]]:
        """The micro-batches of this rank, from where the state was loaded to the epoch's end."""
        for micro in self.walk():
            self.advance(micro)
            yield micro.bins

    def walk(self) -> Iterator[Micro]:
        """What iterating yields, with the position that each micro-batch leads to. Changes nothing."""
        order, (epoch, consumed) = self.dataset.order, self.position
        end = self._end()
        for start in range(consumed, end, self.global_batch):
            stop = min(start + self.global_batch, end)
            step = order.bins(epoch, np.arange(start, stop)).tolist()
            after = Position(epoch, stop) if stop < end else Position(epoch + 1, 0)
            for low in range(0, len(step), self.chunk):
                last = low + self.chunk >= len(step)
                yield Micro(self._share(step[low : low + self.chunk]), after if last else Position(epoch, start), last)

    def advance(self, micro: Micro) -> None:
        """Note that `micro` was handed out. The last one of an epoch moves the next iteration's beginning, too:
        trainers that count batches never ask for one more.
        """
        self.reached = micro.after
        if micro.after.epoch != self.position.epoch:
            self.position = micro.after

    def set_epoch(self, epoch: int) -> None:
        """Stand at the beginning of this epoch; where it is the present one, stay at the loaded place within it."""
        if epoch != self.position.epoch:
            self._stand_at(Position(epoch, 0))

    def seek(self, steps: int) -> None:
        """Stand where a run from the beginning stands after so many global batches."""
        epoch, inside = divmod(steps, self.steps)
        self._stand_at(Position(epoch, inside * self.global_batch))

    def state_dict(self) -> dict[str, Any]:
        """What this run has handed out: small, plain, the same on every rank, of whole global batches only.

        Where workers fetch ahead, what was handed out has not been trained yet; `PackedStream` counts rightly then.
        """
        epoch, consumed = self.reached
        return {
            "version": STATE_VERSION,
            "fingerprint": self.dataset.fingerprint,
            "seed": self.dataset.seed,
            "epoch": epoch,
            "consumed": consumed,
            "global_batch": self.global_batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, in any world. Another `global_batch` continues at the same bin, and warns.

        Raises ShardError where the state belongs to another dataset, ConfigError where to another seed or version.
        """
        if state["fingerprint"] != self.dataset.fingerprint:
            raise ShardError(
                describe(
                    f"the state belongs to the dataset {state['fingerprint']}, this is {self.dataset.fingerprint}",
                    where="ElasticSampler.load_state_dict",
                    fix="Open the dataset that the run was started with, or start a new run.",
                )
            )
        here = {"version": STATE_VERSION, "seed": self.dataset.seed}
        for name, value in here.items():
            if state[name] != value:
                raise ConfigError(
                    describe(
                        f"the state has {name} {state[name]}, this run {value}",
                        where="ElasticSampler.load_state_dict",
                        fix=f"Use the same {name}, or start a new run.",
                    )
                )
        if state["global_batch"] != self.global_batch:
            warnings.warn(
                f"global_batch changes from {state['global_batch']} to {self.global_batch}: the run continues at the "
                f"same bin of the same order, with other steps",
                stacklevel=2,
            )
        self._stand_at(Position(int(state["epoch"]), int(state["consumed"])))

    def _stand_at(self, position: Position) -> None:
        """Begin there; what lies in the part that `drop_last` leaves out is the next epoch's beginning."""
        if position.consumed >= self._end():
            position = Position(position.epoch + 1, 0)
        self.position = self.reached = position

    def _end(self) -> int:
        length = self.dataset.order.length
        return length - length % self.global_batch if self.drop_last else length

    def _share(self, chunk: list[int]) -> list[Bin]:
        """This rank's part of a chunk; a blank bin where there are fewer bins than ranks and none is left for it."""
        return [Bin(place) for place in share(chunk, self.rank, self.world_size)] or [Bin(chunk[0], blank=True)]


def share(chunk: Sequence[int], rank: int, world_size: int) -> Sequence[int]:
    """The part of one rank: of 5 places on 2 ranks, the first 3 and the last 2."""
    first, stop = (-(-len(chunk) * each // world_size) for each in (rank, rank + 1))
    return chunk[first:stop]


def _world() -> tuple[int, int]:
    """(rank, world size) of the process group, (0, 1) where there is none."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
