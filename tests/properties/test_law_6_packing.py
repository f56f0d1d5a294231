"""Law 6: every example is in exactly one bin, whole and in order; no bin over capacity; no token lost on the way."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sftdata.packing import METHODS, lower_bound, pack
from sftdata.records import Bins, Int32Array, TokenBlock
from sftdata.shards import arrange


@st.composite
def cases(draw: st.DrawFn) -> tuple[Int32Array, int, tuple[int, int]]:
    """Lengths (many alike, many at the edges), a capacity that holds them, a seed."""
    capacity = draw(st.one_of(st.integers(1, 12), st.integers(1, 5000)))
    edges = st.sampled_from([n for n in (1, capacity // 3, capacity // 2, capacity // 2 + 1, capacity) if n])
    lengths = draw(st.lists(st.one_of(edges, st.integers(1, capacity)), max_size=60))
    repeats = draw(st.integers(1, 40))
    return (
        np.repeat(np.array(lengths, np.int32), repeats),
        capacity,
        (draw(st.integers(0, 2**64)), draw(st.integers(0, 9))),
    )


def sizes_of(lengths: Int32Array, bins: Bins) -> list[int]:
    ends = np.cumsum([0, *lengths[bins.order].tolist()])
    return np.diff(ends[bins.offsets]).tolist()  # type: ignore[no-any-return]


@given(cases(), st.sampled_from(sorted(METHODS)))
def test_each_example_is_in_exactly_one_bin_and_none_is_over_capacity(
    case: tuple[Int32Array, int, tuple[int, int]], method: str
) -> None:
    lengths, capacity, seed = case
    bins = pack(lengths, capacity, method, seed=seed)
    assert sorted(bins.order.tolist()) == list(range(len(lengths)))
    assert (bins.offsets[0], bins.offsets[-1]) == (0, len(lengths))
    assert (np.diff(bins.offsets) > 0).all()
    sizes = sizes_of(lengths, bins)
    assert max(sizes, default=0) <= capacity
    assert sum(sizes) == int(lengths.sum())
    assert len(sizes) >= lower_bound(lengths, capacity)


@given(cases())
def test_a_sequential_bin_closes_only_when_the_next_does_not_fit(
    case: tuple[Int32Array, int, tuple[int, int]],
) -> None:
    lengths, capacity, seed = case
    bins = pack(lengths, capacity, "sequential", seed=seed)
    assert bins.order.tolist() == list(range(len(lengths)))
    following = lengths[bins.offsets[1:-1]].tolist()
    for size, more in zip(sizes_of(lengths, bins), following, strict=False):
        assert size + more > capacity


@given(cases(), st.sampled_from(sorted(METHODS)), st.integers(1, 9000))
def test_the_tokens_of_every_example_arrive_whole_and_in_order(
    case: tuple[Int32Array, int, tuple[int, int]], method: str, max_tokens: int
) -> None:
    lengths, capacity, seed = case
    lengths = lengths[:200]
    total = int(lengths.sum())
    ids = np.arange(total, dtype=np.int32)
    records = np.arange(len(lengths))
    block = TokenBlock(ids, -ids, lengths, records, records.astype(np.int32) % 7)
    bins = pack(lengths, capacity, method, seed=seed)
    begins = np.cumsum(lengths) - lengths
    seen = tokens = 0
    for rows in arrange(block, bins, max_tokens=max_tokens):
        place = 0
        for length, record, flag in zip(
            rows.seq_lengths.tolist(), rows.record_ids.tolist(), rows.doc_flags.tolist(), strict=True
        ):
            assert length == lengths[record]
            wanted = ids[begins[record] : begins[record] + length]
            assert np.array_equal(rows.input_ids[place : place + length], wanted)
            assert np.array_equal(rows.labels[place : place + length], -wanted)
            assert flag == record % 7
            place += length
            seen += 1
        tokens += place
        assert int(rows.num_tokens.max()) <= capacity
    assert (seen, tokens) == (len(lengths), total)
