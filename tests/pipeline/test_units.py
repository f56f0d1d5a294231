"""How the work is cut: equal shares, an even number of them, nothing lost, whatever the chunks."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata.pipeline.engines import local
from sftdata.pipeline.harvest import Harvest
from sftdata.pipeline.plan import cut, unit_size
from sftdata.pipeline.unit import run_unit
from sftdata.sources import Chunk, Scan
from tests.pipeline.runs import go, parts

_SIZES = st.lists(st.lists(st.integers(1, 1000), max_size=40), min_size=1, max_size=5).filter(any)


def _scans(inputs: list[list[int]]) -> list[Scan]:
    scans = []
    for sizes in inputs:
        ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
        chunks = tuple(
            Chunk(end - size, end, place + 1, 1, size)
            for place, (end, size) in enumerate(zip(ends, sizes, strict=True))
        )
        scans.append(Scan(sum(sizes), "", len(sizes), chunks))
    return scans


@given(_SIZES, st.integers(1, 5000))
def test_units_hold_every_chunk_once_and_in_order(inputs: list[list[int]], size: int) -> None:
    units = cut(_scans(inputs), size)
    covered = [
        (extent.input, byte) for unit in units for extent in unit.extents for byte in range(extent.start, extent.stop)
    ]
    assert covered == [(index, byte) for index, sizes in enumerate(inputs) for byte in range(sum(sizes))]
    assert [unit.index for unit in units] == list(range(len(units)))
    records = [record for unit in units for record in unit.record_ids]
    assert records == list(range(sum(map(len, inputs))))


@given(_SIZES, st.integers(1, 5000))
def test_units_are_equal_within_a_chunk_and_no_larger_than_asked_for(inputs: list[list[int]], size: int) -> None:
    units = cut(_scans(inputs), size)
    total, longest = sum(map(sum, inputs)), max(map(max, filter(None, inputs)))
    shares = max(-(-total // size), 1)
    shares += shares % 2 if shares > 1 else 0
    assert all(total / shares - longest < unit.size < total / shares + longest for unit in units)


def test_two_workers_get_equal_shares_of_what_five_large_units_would_hold() -> None:
    mebibyte = 1 << 20
    units = cut(_scans([[mebibyte] * 162]), unit_size(162 * mebibyte))
    assert [unit.size // mebibyte for unit in units] == [27] * 6


def test_a_small_input_is_one_unit() -> None:
    assert len(cut(_scans([[1000] * 20]), unit_size(20_000))) == 1


def test_the_tokens_of_a_unit_go_with_it_whenever_garbage_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    def counted(*arguments: object) -> object:
        result = run_unit(*arguments)  # type: ignore[arg-type]
        kept.append(sum(type(one) is Harvest for one in gc.get_objects()))
        return result

    monkeypatch.setattr(local, "run_unit", counted)
    gc.collect()
    gc.disable()
    try:
        go(parts(tmp_path, 3), tmp_path / "out", unit_bytes=1)
    finally:
        gc.enable()
    assert len(kept) > 2
    assert max(kept) == 0
