"""Our own decoder of row groups beside pyarrow's: the same arrays, or none; and which of the two the reader takes."""

from __future__ import annotations

import random
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata.shards import RowGroupEntry, Rows, ShardWriter, open_dataset
from sftdata.shards import pages as pages_module
from sftdata.shards import read as read_module
from sftdata.shards.decode import Columns, decode_group
from sftdata.shards.layout import SCHEMA
from sftdata.shards.pages import decode_pages
from tests.shards.sealing import FOOTER, TRAIN, any_rows, rows_of, seal
from tests.strategies import examples

Group = tuple[pq.FileMetaData, int, RowGroupEntry, bytes]


def written(rows: Rows, group_tokens: int) -> list[Group]:
    """The row groups of a shard: what both decoders take."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.parquet"
        with ShardWriter(lambda _: path, metadata=FOOTER, max_group_tokens=group_tokens) as writer:
            writer.write(rows)
        data, footer = path.read_bytes(), pq.read_metadata(path)
        groups = writer.entries[0].row_groups
    return [
        (footer, index, group, data[group.offset : group.offset + group.bytes]) for index, group in enumerate(groups)
    ]


def same(one: Columns, other: Columns) -> bool:
    return all(
        list(getattr(one, part)) == list(getattr(other, part))
        and all(
            values.dtype == getattr(other, part)[name].dtype and np.array_equal(values, getattr(other, part)[name])
            for name, values in getattr(one, part).items()
        )
        for part in ("values", "offsets")
    )


def bins_of(lengths: list[list[int]]) -> Rows:
    """Bins of documents of these lengths, with random tokens, all trained but the first of each document."""
    random = np.random.default_rng(0)
    sizes = np.array([length for one in lengths for length in one], np.int32)
    ids = random.integers(0, 50_000, int(sizes.sum()), dtype=np.int32)
    labels = ids.copy()
    labels[np.cumsum(sizes) - sizes] = -100
    return Rows(
        input_ids=ids,
        labels=labels,
        seq_lengths=sizes,
        record_ids=random.integers(0, 10**9, len(sizes), dtype=np.int64),
        doc_flags=np.zeros(len(sizes), np.int32),
        bins=np.cumsum([0, *map(len, lengths)], dtype=np.int64),
    )


@examples(60)
@given(rows=any_rows().filter(len), group_tokens=st.integers(1, 60))
def test_what_was_written_is_decoded_as_pyarrow_does(rows: Rows, group_tokens: int) -> None:
    for group in written(rows, group_tokens):
        ours = decode_pages(*group)
        assert ours is not None
        assert same(ours, decode_group(*group))


@pytest.mark.parametrize(
    "lengths",
    [
        [[70_001]],
        [[1_200_001]],
        [[1]] * 1000,
        [[1] * 900],
        [[4096]] * 40,
        [[7]] * 900,
        [[40, 1, 3], [250], [9, 9]] * 100,
    ],
    ids=["long", "longer than a window of zstd", "ones", "one of ones", "full", "short", "ragged"],
)
def test_every_shape_of_levels_and_of_zstd_frames_is_decoded(lengths: list[list[int]]) -> None:
    (group,) = written(bins_of(lengths), 1 << 20)
    ours = decode_pages(*group)
    assert ours is not None
    assert same(ours, decode_group(*group))
    for values in (*ours.values.values(), *ours.offsets.values()):
        assert values.flags.aligned
        assert not values.flags.writeable


def unchecked(footer: pq.FileMetaData, index: int, group: RowGroupEntry, data: bytes) -> Columns | None:
    """What pyarrow reads without looking at page checksums; None where it refuses."""
    source = pa.BufferReader(bytes(group.offset) + data)
    try:
        table = pq.ParquetFile(source, metadata=footer).read_row_group(index).combine_chunks()
        columns = {name: table.column(name).chunk(0) for name in table.column_names}
        lists = {name for name, column in columns.items() if pa.types.is_list(column.type)}
        flat = {name: column.values if name in lists else column for name, column in columns.items()}
        return Columns(
            values={name: np.array(column) for name, column in flat.items()},
            offsets={name: np.array(columns[name].offsets) for name in columns if name in lists},
        )
    except (OSError, ValueError, pa.ArrowException, IndexError):
        return None


def test_damaged_bytes_give_nothing_or_what_pyarrow_reads_in_them() -> None:
    """No checksum is looked at here: the reader does that first, so these bytes would have to be forged."""
    (footer, index, group, data), *_ = written(bins_of([[3, 9], [17], [1, 1, 1]]), 1 << 18)
    sound = decode_group(footer, index, group, data)
    draw = random.Random(0)
    seen = {"nothing": 0, "sound": 0, "pyarrow's": 0}
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(draw.choice((1, 1, 3))):
            damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        ours = decode_pages(footer, index, group, bytes(damaged))
        if ours is None:
            seen["nothing"] += 1
        elif same(ours, sound):  # a bit of a checksum or of a statistic
            seen["sound"] += 1
        else:
            theirs = unchecked(footer, index, group, bytes(damaged))
            assert theirs is not None
            assert same(ours, theirs)
            seen["pyarrow's"] += 1
    assert seen["nothing"] > 500


@pytest.mark.parametrize("cut", [0, 1, 20, 100, -100, -1])
def test_bytes_that_are_too_few_or_too_many_give_nothing(cut: int) -> None:
    ((footer, index, group, data),) = written(bins_of([[3, 9], [17]]), 1 << 18)
    assert decode_pages(footer, index, group, data[:cut]) is None
    assert decode_pages(footer, index, group, data + b"\0") is None
    assert decode_pages(footer, index, group, data[1:] + data[:1]) is None


def number(value: int) -> bytes:
    return pages_module._varint_bytes(value)


FORGED = {
    "a run of 2^60": number(2**61) + b"\0",
    "2^40 bytes": number((2**40 << 1) | 1) + b"\0",
    "a number without an end": b"\x80" * 4000 + b"\1",
    "a run without its byte": b"\x03",
    "no runs": b"",
    "the first row does not begin": b"\x02\1",
    "too many": b"\x05\0\0",
}


@pytest.mark.parametrize("runs", FORGED.values(), ids=FORGED)
def test_forged_levels_give_nothing_at_once(runs: bytes) -> None:
    ones = number(3 << 1) + b"\1"
    levels = b"".join(len(part).to_bytes(4, "little") + part for part in (runs, ones))
    with pytest.raises((pages_module._OtherwiseError, IndexError)):
        pages_module._row_offsets(levels, 3)


@pytest.mark.parametrize("header", [b"\x1c" * 5000, b"\x15" + b"\xff" * 5000, b"\x18\xff\xff\xff\xff\x0f", b"\x0d"])
def test_forged_header_gives_nothing_at_once(header: bytes) -> None:
    with pytest.raises((pages_module._OtherwiseError, IndexError)):
        pages_module._Page.at(header, 0)


def test_frame_that_holds_less_than_the_header_says_gives_no_bytes_of_others() -> None:
    frame = pa.Codec("zstd").compress(b"\1\2\3\4", asbytes=True)
    page = pages_module._Page(begin=0, zstd_bytes=len(frame), plain_bytes=4000, num_values=1000)
    with pytest.raises(pages_module._OtherwiseError):
        page.body(frame)


LAYOUTS: dict[str, dict[str, Any]] = {
    "pages of version 2": {"data_page_version": "2.0"},
    "dictionary": {"use_dictionary": True, "column_encoding": None},
    "several pages": {"data_page_size": 64},
    "snappy": {"compression": "snappy", "compression_level": None},
    "not compressed": {"compression": "none", "compression_level": None},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_are_left_to_pyarrow(layout: str, tmp_path: Path) -> None:
    dataset = open_dataset(seal(tmp_path))
    file = dataset.files[0]
    table = pq.read_table(tmp_path / file.name, schema=SCHEMA)
    table = pa.concat_tables([table] * 300)
    settings = {"compression": "zstd", "compression_level": 3, "use_dictionary": False, "column_encoding": "PLAIN"}
    path = tmp_path / "other.parquet"
    pq.write_table(table, path, store_schema=False, write_page_checksum=True, **{**settings, **LAYOUTS[layout]})
    footer, data = pq.read_metadata(path), path.read_bytes()
    size = sum(footer.row_group(0).column(place).total_compressed_size for place in range(len(SCHEMA)))
    group = RowGroupEntry(
        offset=4, bytes=size, crc32=zlib.crc32(data[4 : 4 + size]), rows=1, tokens=1, loss_tokens=1, documents=1
    )
    assert decode_pages(footer, 0, group, data[4 : 4 + size]) is None
    assert np.array_equal(decode_group(footer, 0, group, data[4 : 4 + size]).values["num_tokens"], table["num_tokens"])


def test_many_short_rows_are_left_to_pyarrow() -> None:
    (group,) = written(bins_of([[2]] * 1100), 1 << 18)
    assert decode_pages(*group) is None
    assert len(decode_group(*group).values["num_tokens"]) == 1100


def test_reader_decodes_what_we_write_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Falling back would change nothing but the speed, and so be seen by nobody."""

    def never(*_: object) -> Columns:
        raise AssertionError

    monkeypatch.setattr(read_module, "decode_group", never)
    dataset = open_dataset(seal(tmp_path))
    assert dataset.read_row_group(dataset.files[0], 0) == next(
        iter([rows_of(TRAIN[: dataset.files[0].row_groups[0].rows])])
    )
