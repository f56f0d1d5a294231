"""Rows in, one packed batch out: the canonical form, from which `layouts` derives every other.

What lives here: concatenation, positions, boundaries and the count of targets, all on the CPU and without a Python
loop over tokens. What must not: any model, device or trainer, and any reading of shards.

The canonical batch of N documents and T tokens

    input_ids      int64 [1, T]    position_ids   int64 [1, T], from 0 in every document
    labels         int64 [1, T]    unshifted, -100 where untrained and at every document's first token
    cu_seq_lens_q  int32 [N + 1]   cu_seq_lens_k  the same tensor
    max_length_q   int             max_length_k   int
    seq_idx        int32 [1, T]    which document a token belongs to
    num_target_tokens  int         how many of the shifted targets are trained
    target_idx     int64 [M]       the positions t with labels[t + 1] trained

has no `attention_mask`: one that is all ones switches the isolation of documents off in transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from sftdata.errors import ConfigError, ShardError, describe
from sftdata.records import IGNORE_INDEX

__all__ = ["Batch", "FixedShape", "Form", "PackedCollator", "Row"]

Row = Mapping[str, Any]
"""One bin: at least `input_ids`, `labels` and `seq_lengths`, as numpy arrays or lists of int."""
Batch = dict[str, Any]
Form = Callable[[Batch], Any]
"""From the canonical batch to what one consumer reads; see `sftdata_torch.layouts`."""


class FixedShape(NamedTuple):
    """What a compiled model needs to see the same shapes in every step.

    The tail behind the last document becomes documents of padding, none longer than `max_length`, and
    `cu_seq_lens` is filled up by repeating its last value (empty documents).
    """

    tokens: int
    """T of every batch."""
    segments: int
    """N of every batch; documents, padding and empty documents together."""
    max_length: int
    """`max_length_q` and `max_length_k` of every batch: the capacity of a bin."""


class PackedCollator:
    """Rows to one batch: `PackedCollator()([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "seq_lengths": [3]}])`
    has `position_ids` `[[0, 1, 2]]`, `cu_seq_lens_q` `[0, 3]`, `target_idx` `[0, 1]` and `num_target_tokens` 2.

    `targets=False` leaves `target_idx` and `num_target_tokens` out, for trainers that hand every key to the model.
    `fixed` gives all batches one shape; `form` is applied last (a name of `layouts.FORMS` or a function).

    Raises ShardError for a row whose columns disagree, ConfigError where a batch does not fit into `fixed`.
    """

    def __init__(
        self,
        *,
        targets: bool = True,
        fixed: FixedShape | None = None,
        pad_id: int = 0,
        form: str | Form = "flat",
    ) -> None:
        self.targets = targets
        self.fixed = fixed
        self.pad_id = pad_id
        self.form = _form(form)

    def __call__(self, rows: Sequence[Row]) -> Any:
        """The batch of `rows`, documents in order."""
        batch = self.flatten(rows)
        if not self.targets:
            del batch["target_idx"], batch["num_target_tokens"]
        return self.form(batch) if self.form else batch

    def flatten(self, rows: Sequence[Row]) -> Batch:
        """The canonical batch of `rows`, targets included."""
        lengths = _lengths(rows)
        tokens, max_length = int(lengths.sum()), int(lengths.max())
        if self.fixed is not None:
            lengths = _fit(lengths, self.fixed)
            tokens, max_length = self.fixed.tokens, self.fixed.max_length
        bounds = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=bounds[1:])
        starts = bounds[:-1]
        input_ids = _joined(rows, "input_ids", tokens, self.pad_id)
        labels = _joined(rows, "labels", tokens, IGNORE_INDEX)
        labels[starts[starts < tokens]] = IGNORE_INDEX
        positions = np.repeat(starts.astype(np.int64), lengths)
        np.subtract(_counting(tokens), positions, out=positions)
        target_idx = np.flatnonzero(labels[1:] != IGNORE_INDEX)
        cu_seq_lens = torch.from_numpy(bounds)
        return {
            "input_ids": torch.from_numpy(input_ids[None]),
            "labels": torch.from_numpy(labels[None]),
            "position_ids": torch.from_numpy(positions[None]),
            "cu_seq_lens_q": cu_seq_lens,
            "cu_seq_lens_k": cu_seq_lens,
            "max_length_q": max_length,
            "max_length_k": max_length,
            "seq_idx": torch.from_numpy(np.repeat(_counting(len(lengths)).astype(np.int32), lengths)[None]),
            "num_target_tokens": len(target_idx),
            "target_idx": torch.from_numpy(target_idx),
        }


def _form(form: str | Form) -> Form | None:
    if callable(form):
        return form
    from sftdata_torch.layouts import form_named

    return form_named(form)


def _joined(rows: Sequence[Row], column: str, tokens: int, fill: int) -> npt.NDArray[np.int64]:
    """The column of all rows as one fresh int64 array of `tokens`, its tail filled."""
    out = np.empty(tokens, dtype=np.int64)
    parts = [row[column] for row in rows]
    used = sum(map(len, parts))
    np.concatenate(parts, out=out[:used])
    out[used:] = fill
    return out


@lru_cache(maxsize=2)
def _counting_to(power: int) -> npt.NDArray[np.int64]:
    numbers = np.arange(1 << power)
    numbers.flags.writeable = False
    return numbers


def _counting(stop: int) -> npt.NDArray[np.int64]:
    """0 to `stop`, a view of numbers that are counted once; not to be written to."""
    return _counting_to(stop.bit_length())[:stop]


def _lengths(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """The document lengths of all rows, after checking each row against itself."""
    if not rows:
        raise ShardError(describe("a batch of no rows", fix="Give the collator at least one row."))
    counts = [len(row["seq_lengths"]) for row in rows]
    if 0 in counts:
        raise _disagreement(rows[counts.index(0)], counts.index(0))
    lengths = np.concatenate([row["seq_lengths"] for row in rows], dtype=np.int64)
    sums = np.add.reduceat(lengths, np.cumsum([0, *counts[:-1]])).tolist()
    for at, (row, total) in enumerate(zip(rows, sums, strict=True)):
        if not total == len(row["input_ids"]) == len(row["labels"]):
            raise _disagreement(row, at)
    if lengths.min() <= 0:
        at = next(at for at, row in enumerate(rows) if min(row["seq_lengths"]) <= 0)
        raise _disagreement(rows[at], at)
    return lengths


def _disagreement(row: Row, at: int) -> ShardError:
    return ShardError(
        describe(
            f"{len(row['input_ids'])} input_ids, {len(row['labels'])} labels, document lengths with the sum "
            f"{sum(row['seq_lengths'])} and the minimum {min(row['seq_lengths'], default=None)}",
            where=f"row {at} of the batch",
            expected="three equal numbers, and positive lengths",
            fix="Run `sftdata verify` on the shards; rows must not be cut or padded after reading.",
        )
    )


def _fit(lengths: npt.NDArray[np.int64], fixed: FixedShape) -> npt.NDArray[np.int64]:
    """Document lengths filled up to `fixed`: the tail in pieces of at most `max_length`, then empty documents."""
    tail = fixed.tokens - int(lengths.sum())
    whole, rest = divmod(max(tail, 0), fixed.max_length)
    pieces = [fixed.max_length] * whole + [rest] * (rest > 0)
    empty = fixed.segments - len(lengths) - len(pieces)
    longest = int(lengths.max())
    if tail < 0 or empty < 0 or longest > fixed.max_length:
        raise ConfigError(
            describe(
                f"a batch of {int(lengths.sum())} tokens in {len(lengths)} documents, the longest {longest}, "
                f"does not fit into {fixed}",
                fix="Raise the number that is too small, or put fewer bins into a micro-batch.",
            )
        )
    return np.concatenate([lengths, np.array(pieces + [0] * empty, dtype=np.int64)])
