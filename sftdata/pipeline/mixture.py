"""The mixture of sources: how often the records of each are taken, fixed in the plan.

    weight, epochs, max_records ─► records to take of each source ─► whole passes, and a threshold for one more

A record is taken once for every whole pass, and once more where the hash of (seed, record id, pass) does not exceed
the threshold, which is chosen so that exactly the wanted number of records is taken. So the choice depends on nothing
but the plan. What must not live here: reading records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from sftdata.config import SourceOptions
from sftdata.errors import ConfigError, describe
from sftdata.pipeline.identity import stamp_of
from sftdata.records import Int64Array

if TYPE_CHECKING:
    from sftdata.pipeline.plan import PlannedInput

__all__ = ["Portion", "passes_of", "portions", "tokens_of_inputs"]

UInt64Array = npt.NDArray[np.uint64]

_CHUNK = 1 << 20
_ODD = 0x9E3779B97F4A7C15
_ALL = 0xFFFFFFFFFFFFFFFF


class Portion(msgspec.Struct, frozen=True):
    """One source's part of the mixture; its records are those from `first_record` on, `records` of them."""

    name: str
    first_record: int
    records: int
    dropped: int
    """Those among them that the list of duplicates names."""
    weight: float
    share: float
    """Of the mixture, planned: of its tokens where a stats run counted them, of its records otherwise."""
    taken: int
    """Records to take, one that is taken in several passes counted as often."""
    passes: int
    """Whole passes over all records."""
    last: int | None
    """The largest hash that is taken once more; None where there is no further pass."""

    @property
    def left_out(self) -> int:
        """Records that are in no pass."""
        return 0 if self.passes else self.records - self.dropped - self.taken


def portions(
    sources: Mapping[str, SourceOptions],
    records: Sequence[int],
    dropped: Int64Array,
    *,
    seed: int,
    tokens: Sequence[int] | None = None,
) -> list[Portion]:
    """Decide the mixture.

    `records`: how many each source holds, in order. `dropped`: ids that are not to be taken, ascending. `tokens`: how
    many each source holds; then weights are of tokens. Of every source as much is taken as its `epochs` and
    `max_records` allow (once all of it by default); with weights, as much of the mixture as the scarcest source allows.
    1,000 and 3,000 records with weights 1 and 1 give 1,000 of each.

    Raises ConfigError where only some sources have a weight, or nothing of a source would be taken.
    """
    firsts = np.cumsum([0, *records])[:-1].tolist()
    gone = [_within(dropped, first, count) for first, count in zip(firsts, records, strict=True)]
    here = [count - len(ids) for count, ids in zip(records, gone, strict=True)]
    most = [
        min(one.epochs * count, one.max_records or math.inf) for one, count in zip(sources.values(), here, strict=True)
    ]
    size = [1.0] * len(here) if tokens is None else [t / max(n, 1) for t, n in zip(tokens, records, strict=True)]
    weights = _weights(sources, [many * each for many, each in zip(most, size, strict=True)])
    scale = min(many * each / weight for many, each, weight in zip(most, size, weights, strict=True))
    wanted = [
        min(round(scale * weight / each) if each else 0, int(many))
        for weight, each, many in zip(weights, size, most, strict=True)
    ]
    whole = sum(many * each for many, each in zip(wanted, size, strict=True))
    out = []
    for place, (name, taken) in enumerate(zip(sources, wanted, strict=True)):
        if not taken:
            raise ConfigError(
                describe(
                    f"nothing of the source {name!r} would be taken",
                    where="sources",
                    fix="Give it more weight, or leave it out.",
                )
            )
        passes, more = divmod(taken, here[place])
        first, count = firsts[place], records[place]
        last = _last(seed, passes, first, count, gone[place], more) if more else None
        share = taken * size[place] / whole
        out.append(Portion(name, first, count, len(gone[place]), weights[place], round(share, 6), taken, passes, last))
    return out


def _within(ids: Int64Array, first: int, count: int) -> Int64Array:
    begin, end = np.searchsorted(ids, [first, first + count])
    return ids[begin:end]


def _weights(sources: Mapping[str, SourceOptions], amounts: Sequence[float]) -> list[float]:
    """The weights that were given, or those under which every source gives all it may."""
    given = [one.weight for one in sources.values()]
    if all(weight is None for weight in given):
        return [max(amount, 1e-9) for amount in amounts]
    without = [name for name, one in sources.items() if one.weight is None]
    if without:
        raise ConfigError(
            describe(f"{', '.join(without)} has no weight, and others have", where="sources", fix="Weigh all, or none.")
        )
    return [float(weight) for weight in given if weight is not None]


def passes_of(portion: Portion, ids: Int64Array, seed: int) -> npt.NDArray[np.int64]:
    """How often each of these records of the source is taken, int64 `[N]`."""
    out = np.full(len(ids), portion.passes, np.int64)
    if portion.last is not None:
        out += _hashes(ids, seed, portion.passes) <= np.uint64(portion.last)
    return out


def _last(seed: int, number: int, first: int, count: int, gone: Int64Array, wanted: int) -> int:
    """The hash of the last record taken in pass `number`, where `wanted` of the source's records are to be.

    Two looks at all hashes and never all of them at once: which of 65,536 ranges it falls into, then which one it is.
    """
    histogram = np.zeros(1 << 16, np.int64)
    for hashes in _chunks(seed, number, first, count, gone):
        histogram += np.bincount((hashes >> np.uint64(48)).astype(np.int64), minlength=1 << 16)
    ends = np.cumsum(histogram)
    bucket = int(np.searchsorted(ends, wanted))
    inside = [hashes[(hashes >> np.uint64(48)) == bucket] for hashes in _chunks(seed, number, first, count, gone)]
    before = int(ends[bucket - 1]) if bucket else 0
    return int(np.sort(np.concatenate(inside))[wanted - before - 1])


def _chunks(seed: int, number: int, first: int, count: int, gone: Int64Array) -> Iterator[UInt64Array]:
    for begin in range(first, first + count, _CHUNK):
        ids = np.arange(begin, min(begin + _CHUNK, first + count))
        mine = _within(gone, begin, len(ids))
        yield _hashes(ids[~np.isin(ids, mine, assume_unique=True)] if len(mine) else ids, seed, number)


def _hashes(ids: Int64Array, seed: int, number: int) -> UInt64Array:
    """64-bit hashes of (seed, id, pass), all different for different ids."""
    start = ((seed & _ALL) * _ODD + (number + 1) * 0xD1B54A32D192ED03) & _ALL
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(_ODD) ^ np.uint64(start ^ (start >> 31))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    out: UInt64Array = mixed ^ (mixed >> np.uint64(31))
    return out


def tokens_of_inputs(path: str, inputs: Sequence[PlannedInput], tokenizer: str) -> list[int]:
    """How many tokens each input holds, by the table of `sftdata stats --output` at `path`.

    Inputs are told by content, wherever they lay. Raises ConfigError where the file is no such table, where it was
    counted with another tokenizer than the one of sha256 `tokenizer`, and where it does not know an input.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stamp = stamp_of(pq.read_schema(path))
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(describe(f"the counts of a stats run cannot be read: {error}", where=path)) from error
    again = "Count again: sftdata stats INPUT... --tokenizer T --output FILE.parquet."
    if stamp is None or not stamp.tokenizer:
        raise ConfigError(describe("the file does not hold the counts of a stats run", where=path, fix=again))
    if stamp.tokenizer != tokenizer:
        raise ConfigError(describe("the tokens were counted with another tokenizer", where=path, fix=again))
    known = {(one.sha256, one.records): one.tokens for one in stamp.inputs}
    for one in inputs:
        if (one.sha256, one.records) not in known:
            raise ConfigError(describe(f"the stats run did not count {one.name}", where=path, fix=again))
    return [known[one.sha256, one.records] for one in inputs]
