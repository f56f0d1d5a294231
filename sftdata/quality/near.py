"""Near-duplicates: MinHash signatures, buckets by band, candidates checked by their signatures, groups.

    texts ─ shingles ─► signatures on disk ─ one band at a time ─► candidate pairs ─ estimate ≥ threshold ─► groups

What lives here: that search. Memory holds one band (16 bytes a record) and a slice of signatures; the signatures lie in
a file (512 bytes a record) and each band in one of its own. What must not: reading records, exact duplicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sftdata.errors import ConfigError, describe
from sftdata.quality.shingles import UInt64Array, shingles

if TYPE_CHECKING:
    import polars as pl

__all__ = ["BANDS", "PERMUTATIONS", "ROWS", "SHINGLE", "Signatures", "near_duplicates", "signatures_of"]

SHINGLE = 3
PERMUTATIONS, BANDS, ROWS = 128, 21, 6
"""Two texts of Jaccard similarity 0.8 share a band with probability 0.998, of 0.5 with 0.28."""
_SEED = 1
_ROUNDS = 4
_SLICE = 1 << 18
_ODD = np.uint64(0x9E3779B97F4A7C15)

UInt32Array = npt.NDArray[np.uint32]


def signatures_of(texts: Sequence[str]) -> UInt32Array:
    """uint32 `[len(texts), 128]`; texts without a word have a signature of zeros, which matches nothing.

    Raises ConfigError where the library for signatures is not installed.
    """
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise ConfigError(
            describe("near-duplicates need the package rensa", fix="pip install 'sftdata[qa]'")
        ) from error
    hashes, offsets = shingles(texts, SHINGLE)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), PERMUTATIONS, _SEED)
    out = np.array(matrix.to_rows(), np.uint32).reshape(len(texts), PERMUTATIONS)
    out[np.diff(offsets) == 0] = 0
    return out


class Signatures:
    """Signatures of many records on disk, added block by block."""

    def __init__(self, folder: Path, stem: str = "near") -> None:
        self._rows = folder / f"{stem}-signatures.bin"
        self._bands = [folder / f"{stem}-band-{band:02d}.bin" for band in range(BANDS)]
        self._ids = folder / f"{stem}-ids.bin"

    def add(self, record_ids: npt.NDArray[np.int64], texts: Sequence[str]) -> None:
        """Append the signatures of these records."""
        signatures = signatures_of(texts)
        some = signatures.any(axis=1)
        with self._rows.open("ab") as file:
            file.write(signatures[some].tobytes())
        with self._ids.open("ab") as file:
            file.write(record_ids[some].astype(np.int64).tobytes())
        for band, path in enumerate(self._bands):
            with path.open("ab") as file:
                file.write(_band_hashes(signatures[some, band * ROWS : (band + 1) * ROWS]).tobytes())

    def ids(self) -> npt.NDArray[np.int64]:
        """The record ids, int64 `[N]`."""
        return _read(self._ids, np.int64)

    def band(self, number: int) -> UInt64Array:
        """The hashes of one band, uint64 `[N]`."""
        return _read(self._bands[number], np.uint64)

    def rows(self) -> UInt32Array:
        """The signatures, uint32 `[N, 128]`, mapped and not read."""
        if not self._rows.exists() or not self._rows.stat().st_size:
            return np.zeros((0, PERMUTATIONS), np.uint32)
        return np.memmap(self._rows, np.uint32, mode="r").reshape(-1, PERMUTATIONS)


def _read(path: Path, dtype: type) -> npt.NDArray[Any]:
    return np.fromfile(path, dtype) if path.exists() else np.zeros(0, dtype)


def _band_hashes(part: UInt32Array) -> UInt64Array:
    out = np.zeros(len(part), np.uint64)
    for column in part.T:
        out = (out ^ column.astype(np.uint64)) * _ODD
        out ^= out >> np.uint64(31)
    return out


def near_duplicates(parts: Sequence[Signatures], threshold: float = 0.8) -> pl.DataFrame:
    """All but the first of every group of records that are similar, directly or through others.

    Returns `record_id`, `kept_id` (the first record of the group), `similarity` (estimated Jaccard similarity of
    3-word shingles with the record that led to the group, ±0.04), `rule` ("SFT702"), by record.
    """
    import polars as pl

    ids = np.concatenate([part.ids() for part in parts]) if parts else np.zeros(0, np.int64)
    rows = [part.rows() for part in parts]
    label = np.arange(len(ids))
    best = np.zeros(len(ids), np.float32)
    for band in range(BANDS):
        hashes = np.concatenate([part.band(band) for part in parts]) if parts else np.zeros(0, np.uint64)
        for left, right in _candidates(hashes, label):
            same = _similarity(rows, left, right)
            hit = same >= threshold
            np.maximum.at(best, right[hit], same[hit])
            label = _joined(label, left[hit], right[hit])
    kept = ids[label]
    found = kept != ids
    return (
        pl.DataFrame(
            {"record_id": ids[found], "kept_id": kept[found], "similarity": best[found]},
            schema={"record_id": pl.Int64, "kept_id": pl.Int64, "similarity": pl.Float32},
        )
        .with_columns(pl.lit("SFT702").alias("rule"))
        .sort("record_id")
    )


Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _candidates(hashes: UInt64Array, label: npt.NDArray[np.int64]) -> Iterator[Pairs]:
    """Pairs (first, other) of each bucket that are not in one group yet.

    Others that do not resemble the first of their bucket may resemble each other: they are compared with the second,
    and so on, a few times.
    """
    import polars as pl

    buckets = (
        pl.DataFrame({"bucket": hashes, "place": np.arange(len(hashes)), "group": label})
        .filter(pl.col("bucket").is_duplicated())
        .unique(["bucket", "group"], keep="first", maintain_order=True)
        .sort("bucket", "place", maintain_order=True)
    )
    for skip in range(_ROUNDS):
        within = pl.col("place").cum_count().over("bucket") - 1
        pairs = buckets.with_columns(
            pl.col("place").slice(skip, 1).first().over("bucket").alias("first"), within.alias("within")
        ).filter(pl.col("within") > skip)
        if pairs.is_empty():
            return
        yield pairs["first"].to_numpy().astype(np.int64), pairs["place"].to_numpy().astype(np.int64)


def _similarity(
    rows: Sequence[UInt32Array], left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The share of equal signature slots of every pair."""
    bounds = np.cumsum([0, *(len(part) for part in rows)])
    out = np.empty(len(left), np.float32)
    for start in range(0, len(left), _SLICE):
        stop = min(start + _SLICE, len(left))
        one, two = _take(rows, bounds, left[start:stop]), _take(rows, bounds, right[start:stop])
        out[start:stop] = (one == two).mean(axis=1, dtype=np.float32)
    return out


def _take(rows: Sequence[UInt32Array], bounds: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> UInt32Array:
    out = np.empty((len(places), PERMUTATIONS), np.uint32)
    owner = np.searchsorted(bounds, places, side="right") - 1
    for index, part in enumerate(rows):
        mine = owner == index
        out[mine] = part[places[mine] - bounds[index]]
    return out


def _joined(
    label: npt.NDArray[np.int64], left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Groups joined along pairs; every group is named by its smallest place."""
    while True:
        low = np.minimum(label[left], label[right])
        before = label.copy()
        for side in (left, right):
            np.minimum.at(label, label[side], low)
            np.minimum.at(label, side, low)
        label = label[label]
        if np.array_equal(before, label):
            return label
