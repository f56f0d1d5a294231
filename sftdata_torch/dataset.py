"""A sealed set as a map-style dataset of bins: verified, a window of row groups in memory, nothing held open.

What lives here: from a bin's number to its row. What must not: batches, ranks, anything a model needs. Everything is
checked by the shard reader before a row leaves it (size and footer when a file is first read, crc32 of a row group
before it is decoded, then that its columns agree), so a damaged byte is an error that names the file, never a token.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils import data

from sftdata.errors import ShardError, describe
from sftdata.records import IGNORE_INDEX
from sftdata.shards import DamageError, FileEntry, Manifest, Rows, open_dataset, refuse_drift
from sftdata_torch.cache import ShardCache
from sftdata_torch.collate import Row
from sftdata_torch.order import WINDOW, BinOrder, FileOrder, Order
from sftdata_torch.sampler import Bin

__all__ = ["PackedDataset"]

_MANIFEST = "manifest.json"
_ATTEMPTS = 3
"""How often a mirrored file is fetched again when other processes keep evicting it."""


class PackedDataset(data.Dataset[Row]):
    """The bins of one split of a sealed set.

    `PackedDataset("OUT", seed=0)[3]` is the bin at position 3 of the present epoch's order, a dict of numpy arrays
    under the columns' names (views into a cached row group, not to be written to); with `seed=None` it is bin 3 of
    the files. `ElasticSampler` asks for bins by `Bin`, so epochs need no word to worker processes.

    `path` is a folder or any fsspec address. With `cache_dir` an address is mirrored there: whole files, fetched when
    first needed, verified, at most `cache_bytes` of them; without, row groups are fetched by byte ranges.
    `cache_groups` row groups are kept decoded: by default as many as the order needs to decode each once an epoch.
    There are no open handles, so a dataset may be forked and pickled; a pickle leaves its cache behind. `against` is
    the folder of the model that will be served: its tokenizer, stops and template must be those of the set.

    Raises ShardError for a set that is missing, unsealed, of a foreign format, damaged (then or on reading), or not
    made for `against`, with what differs; ConfigError where that folder has no tokenizer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        seed: int | None = 0,
        split: str = "train",
        cache_groups: int = WINDOW,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        against: str | os.PathLike[str] | None = None,
    ) -> None:
        self._mirror = ShardCache(os.fspath(path), cache_dir, limit_bytes=cache_bytes) if cache_dir else None
        self._shards = open_dataset(path if self._mirror is None else self._mirror.fetch(_MANIFEST).parent)
        if against is not None:
            refuse_drift(os.fspath(path), self.manifest, against)
        self.seed = seed
        self.split = split
        self.epoch = 0
        files = self.manifest.files.get(split, ())
        if not files:
            known = sorted(name for name, entries in self.manifest.files.items() if entries)
            raise ShardError(
                describe(f"the set has no split {split!r}", where=os.fspath(path), expected=" or ".join(known))
            )
        self._groups = [(file, at) for file in files for at in range(len(file.row_groups))]
        rows = np.array([group.rows for file in files for group in file.row_groups], dtype=np.int64)
        self._ends: list[int] = np.cumsum(rows).tolist()
        """Where each row group's bins end; a list, for `bisect` finds one place in it faster than numpy."""
        self._order: Order = (
            FileOrder(self._ends[-1]) if seed is None else BinOrder(rows, seed=seed, fingerprint=self.fingerprint)
        )
        self._cache_groups = max(cache_groups, 1)
        self._cached: OrderedDict[int, _Group] = OrderedDict()

    @property
    def manifest(self) -> Manifest:
        """What the set says about itself."""
        return self._shards.manifest

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the set's bytes: inputs, template, tokenizer, configuration."""
        return self._shards.manifest.fingerprint

    @property
    def vocab_size(self) -> int:
        """The number of rows that a model's embedding needs at least."""
        tokenizer = self.manifest.tokenizer
        return max(int(tokenizer["vocab_size"]), int(tokenizer["largest_id"]) + 1)

    @property
    def order(self) -> Order:
        """The order of its epochs."""
        return self._order

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's order plain positions mean."""
        self.epoch = epoch

    def __len__(self) -> int:
        """The number of bins."""
        return self._order.length

    def __getitem__(self, key: int | Bin) -> Row:
        """The bin at a position of the present epoch, or a `Bin` by its place on disk.

        Raises IndexError where there is none, ShardError where it is damaged.
        """
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | Bin]) -> list[Row]:
        """The rows of several keys, in their order."""
        return [self._row(wanted) for wanted in resolved(keys, self._order, self.epoch)]

    def _row(self, wanted: Bin) -> Row:
        if not 0 <= wanted.place < self._ends[-1]:
            raise IndexError(f"bin {wanted.place} of {self._ends[-1]}: the sampler was made for another dataset")
        number = bisect_right(self._ends, wanted.place)
        row = self._group(number).row(wanted.place - (self._ends[number - 1] if number else 0))
        if wanted.blank:
            row["labels"] = np.full_like(row["labels"], IGNORE_INDEX)
            row["num_loss_tokens"] = np.zeros_like(row["num_loss_tokens"])
        return row

    def _group(self, number: int) -> _Group:
        """A row group from the cache, else from disk, the least recently used one making room."""
        if number in self._cached:
            self._cached.move_to_end(number)
            return self._cached[number]
        while len(self._cached) >= self._cache_groups:
            self._cached.popitem(last=False)
        group = _Group.of(self._read(*self._groups[number]))
        self._cached[number] = group
        return group

    def _read(self, file: FileEntry, at: int) -> Rows:
        """A row group from disk; a mirrored file that was evicted meanwhile, or went bad on this disk, comes anew."""
        if self._mirror is None:
            return self._shards.read_row_group(file, at)
        for attempt in range(_ATTEMPTS):
            path = self._mirror.fetch(file.name, size=file.bytes, sha256=file.sha256)
            try:
                return self._shards.read_row_group(file, at)
            except DamageError:
                if path.exists() and attempt:
                    raise
                path.unlink(missing_ok=True)
        raise ShardError(
            describe(
                "the file is evicted before it can be read",
                where=str(Path(self._shards.path, file.name)),
                fix="Raise cache_bytes: the processes that share this cache_dir need more files at once.",
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": OrderedDict()}


class _Group(NamedTuple):
    """A decoded row group, cut into bins by offsets."""

    rows: Rows
    tokens: list[int]
    """`[B + 1]` where the bins' tokens begin."""
    documents: list[int]
    """`[B + 1]` where the bins' documents begin."""
    num_tokens: npt.NDArray[np.int32]
    num_loss_tokens: npt.NDArray[np.int32]

    @classmethod
    def of(cls, rows: Rows) -> _Group:
        """With the offsets as lists: indexing those is several times cheaper than indexing arrays."""
        return cls(rows, rows.token_offsets.tolist(), rows.bins.tolist(), rows.num_tokens, rows.num_loss_tokens)

    def row(self, at: int) -> dict[str, Any]:
        """Bin `at` under the columns' names; slices, no copies."""
        inside = slice(self.tokens[at], self.tokens[at + 1])
        mine = slice(self.documents[at], self.documents[at + 1])
        rows = self.rows
        return {
            "input_ids": rows.input_ids[inside],
            "labels": rows.labels[inside],
            "seq_lengths": rows.seq_lengths[mine],
            "record_ids": rows.record_ids[mine],
            "doc_flags": rows.doc_flags[mine],
            "num_tokens": self.num_tokens[at],
            "num_loss_tokens": self.num_loss_tokens[at],
        }


def resolved(keys: Sequence[int | Bin], order: Order, epoch: int) -> list[Bin]:
    """Keys of a dataset as places on disk: ints are positions of the epoch's order, from the end where negative."""
    length = order.length
    positions = [key for key in keys if not isinstance(key, Bin)]
    if any(not -length <= position < length for position in positions):
        raise IndexError(f"position {positions} of {length} bins")
    places = iter(order.bins(epoch, np.array(positions, dtype=np.int64) % length).tolist() if positions else [])
    return [key if isinstance(key, Bin) else Bin(next(places)) for key in keys]
