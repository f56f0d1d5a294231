"""Bins as flat arrays: what the writer takes and the reader gives back.

What lives here: `Rows`, cutting and joining it, and laying encoded examples out into bins. What must not: files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from sftdata.records import IGNORE_INDEX, Bins, Int32Array, Int64Array, TokenBlock
from sftdata.shards.layout import GROUP_TOKENS

__all__ = ["Rows", "arrange", "join", "split"]


class Rows(msgspec.Struct, frozen=True, eq=False):
    """B bins with D documents and T tokens, flat.

    Two bins, the first with two documents of 2 and 1 tokens, the second with one of 3:
    `seq_lengths = [2, 1, 3]`, `bins = [0, 2, 3]`, `token_offsets = [0, 3, 6]`, `num_tokens = [3, 3]`.
    Arrays that come from a reader are read-only views of its buffers.
    """

    input_ids: Int32Array
    """int32 `[T]`"""
    labels: Int32Array
    """int32 `[T]`, unshifted targets, IGNORE_INDEX where untrained."""
    seq_lengths: Int32Array
    """int32 `[D]`, tokens a document, all positive; they sum to T."""
    record_ids: Int64Array
    """int64 `[D]`"""
    doc_flags: Int32Array
    """int32 `[D]`, bits of `records.DocFlag`."""
    bins: Int64Array
    """int64 `[B + 1]`: bin b holds the documents `bins[b]` to `bins[b + 1]`; strictly increasing from 0 to D."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rows):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in self.__struct_fields__)

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def __len__(self) -> int:
        """The number of bins."""
        return len(self.bins) - 1

    @property
    def token_offsets(self) -> Int64Array:
        """int64 `[B + 1]`: bin b holds the tokens `token_offsets[b]` to `token_offsets[b + 1]`."""
        return offsets_of(self.seq_lengths)[self.bins]

    @property
    def num_tokens(self) -> Int32Array:
        """int32 `[B]`, tokens a bin."""
        return np.diff(self.token_offsets).astype(np.int32)

    @property
    def num_loss_tokens(self) -> Int32Array:
        """int32 `[B]`, trained tokens a bin: labels that are not IGNORE_INDEX."""
        if not len(self):
            return np.zeros(0, np.int32)
        trained = (self.labels != IGNORE_INDEX).view(np.uint8)
        return np.add.reduceat(trained, self.token_offsets[:-1], dtype=np.int32)

    def copy(self) -> Rows:
        """The same bins in arrays of their own."""
        return Rows(*(getattr(self, name).copy() for name in self.__struct_fields__))


def split(rows: Rows, max_tokens: int) -> Iterator[Rows]:
    """Cut into runs of as many bins as stay within `max_tokens` (at least one), as views.

    Where a run ends depends on the bins before it alone: only the last run would grow if more bins followed.
    """
    tokens = offsets_of(rows.seq_lengths)
    for first, stop in _spans(tokens[rows.bins], max_tokens):
        begin, end = int(rows.bins[first]), int(rows.bins[stop])
        within = slice(int(tokens[begin]), int(tokens[end]))
        yield Rows(
            input_ids=rows.input_ids[within],
            labels=rows.labels[within],
            seq_lengths=rows.seq_lengths[begin:end],
            record_ids=rows.record_ids[begin:end],
            doc_flags=rows.doc_flags[begin:end],
            bins=rows.bins[first : stop + 1] - begin,
        )


def join(parts: Sequence[Rows]) -> Rows:
    """All bins of `parts`, one after another."""
    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0, *(len(part.seq_lengths) for part in parts)])
    bins = [part.bins[:-1] + shift for part, shift in zip(parts, shifts[:-1], strict=True)]
    return Rows(
        input_ids=np.concatenate([part.input_ids for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        seq_lengths=np.concatenate([part.seq_lengths for part in parts]),
        record_ids=np.concatenate([part.record_ids for part in parts]),
        doc_flags=np.concatenate([part.doc_flags for part in parts]),
        bins=np.concatenate([*bins, shifts[-1:]]),
    )


def arrange(block: TokenBlock, bins: Bins, *, max_tokens: int = GROUP_TOKENS) -> Iterator[Rows]:
    """Lay the examples of `block` out into `bins`, some `max_tokens` tokens at a time (at least one bin).

    With lengths `[2, 1, 3]`, order `[1, 0, 2]` and offsets `[0, 2, 3]`, the first bin is example 1 and then
    example 0, the second example 2. Needs memory for `max_tokens` tokens beside the block.
    """
    lengths = block.lengths[bins.order]
    begins = offsets_of(block.lengths)[bins.order]
    ends = offsets_of(lengths)
    for first, stop in _spans(ends[bins.offsets], max_tokens):
        low, high = int(bins.offsets[first]), int(bins.offsets[stop])
        here = bins.order[low:high]
        shifts = begins[low:high] - (ends[low:high] - ends[low])
        tokens = np.repeat(shifts, lengths[low:high])
        tokens += np.arange(len(tokens))
        yield Rows(
            input_ids=block.input_ids[tokens],
            labels=block.labels[tokens],
            seq_lengths=lengths[low:high],
            record_ids=block.record_ids[here],
            doc_flags=block.flags[here],
            bins=bins.offsets[first : stop + 1] - low,
        )


def offsets_of(lengths: Int32Array) -> Int64Array:
    """int64 running sums with a leading 0: `[2, 1, 3]` gives `[0, 2, 3, 6]`."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _spans(token_offsets: Int64Array, max_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut bins into runs (first, stop) of as many as stay within `max_tokens`, and at least one.

    Offsets `[0, 3, 5, 9]` and `max_tokens=5` give (0, 2), (2, 3).
    """
    first, count = 0, len(token_offsets) - 1
    while first < count:
        within = int(np.searchsorted(token_offsets, token_offsets[first] + max_tokens, "right")) - 1
        stop = max(within, first + 1)
        yield first, stop
        first = stop
