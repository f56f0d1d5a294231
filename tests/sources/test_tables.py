"""Parquet and Arrow: no padding reaches a record, values are plain JSON, what cannot be decoded is a finding."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import random
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sftdata import sources
from sftdata.errors import InputError
from sftdata.sources.arrow_values import rows_of
from sftdata.sources.opening import Steady
from tests.sources.reading import ReadWhole, codes, read_stretch


def _tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}


PADDED: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Ulm"}}}]},
        ],
        "tools": [_tool("weather", city={"type": "string"})],
    },
    {
        "messages": [
            {"role": "user", "content": "Mail?"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "mail", "arguments": {"to": "a", "n": 1}}}]},
        ],
        "tools": [_tool("mail", to={"type": "string", "enum": ["a", None]}, n={"type": "integer"}), _tool("none")],
    },
]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_keys_that_the_common_schema_adds_do_not_reach_a_record(
    suffix: str, tmp_path: Path, read_whole: ReadWhole
) -> None:
    table = pa.Table.from_pylist(PADDED)
    assert table.to_pylist() != PADDED
    path = tmp_path / f"a.{suffix}"
    _write(table, path)
    _, records = read_whole(path)
    assert [record.value for record in records] == PADDED
    assert codes(records) == [(1, "SFT020"), (2, "SFT020")]


def _write(table: pa.Table, path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)


def test_nulls_of_columns_lists_maps_and_json_text_stay(tmp_path: Path, read_whole: ReadWhole) -> None:
    table = pa.table(
        {
            "text": pa.array([None, "b"]),
            "list": pa.array([["a", None], None]),
            "map": pa.array([[("k", None)], []], pa.map_(pa.string(), pa.string())),
            "tools": pa.array(['{"default": null}', "[]"]),
            "json": pa.array(['{"default": null}', "[1, 2]"], pa.json_()),
        }
    )
    _write(table, tmp_path / "a.arrow")
    _, records = read_whole(tmp_path / "a.arrow")
    assert [record.value for record in records] == [
        {
            "text": None,
            "list": ["a", None],
            "map": {"k": None},
            "tools": '{"default": null}',
            "json": {"default": None},
        },
        {"text": "b", "list": None, "map": {}, "tools": "[]", "json": [1, 2]},
    ]
    assert codes(records) == []


def test_a_message_without_its_optional_keys_is_no_finding(tmp_path: Path, read_whole: ReadWhole) -> None:
    table = pa.Table.from_pylist([{"messages": [{"role": "user", "name": None}, {"role": "user", "name": "n"}]}])
    _write(table, tmp_path / "a.parquet")
    _, [record] = read_whole(tmp_path / "a.parquet")
    assert record.value == {"messages": [{"role": "user"}, {"role": "user", "name": "n"}]}
    assert record.findings == ()


def test_every_type_becomes_plain_json(tmp_path: Path, read_whole: ReadWhole) -> None:
    when = datetime.datetime(2026, 11, 21, 10, 30, 0, 5, tzinfo=datetime.timezone.utc)
    columns = {
        "int": pa.array([-(2**63)]),
        "uint": pa.array([2**64 - 1], pa.uint64()),
        "float": pa.array([0.5]),
        "half": pa.array([0.5], pa.float32()),
        "bool": pa.array([True]),
        "null": pa.nulls(1),
        "large": pa.array(["x"], pa.large_string()),
        "view": pa.array(["x"], pa.string_view()),
        "dictionary": pa.array(["x"]).dictionary_encode(),
        "lists": pa.array([[["x"], []]], pa.large_list(pa.list_(pa.string()))),
        "fixed": pa.array([[1, 2]], pa.list_(pa.int8(), 2)),
        "utf8 bytes": pa.array(["é".encode()]),
        "bytes": pa.array([b"\xff"]),
        "decimal": pa.array([decimal.Decimal("1.10")]),
        "date": pa.array([when.date()]),
        "time": pa.array([when.time()]),
        "timestamp": pa.array([when]),
        "nanoseconds": pa.array([1], pa.timestamp("ns")),
        "nested nanoseconds": pa.array([[{"t": 1001}]], pa.list_(pa.struct([("t", pa.timestamp("ns"))]))),
    }
    _write(pa.table(columns), tmp_path / "a.arrow")
    _, [record] = read_whole(tmp_path / "a.arrow")
    assert record.findings == ()
    assert json.loads(json.dumps(record.value)) == record.value
    assert record.value == {
        "int": -(2**63),
        "uint": 2**64 - 1,
        "float": 0.5,
        "half": 0.5,
        "bool": True,
        "null": None,
        "large": "x",
        "view": "x",
        "dictionary": "x",
        "lists": [["x"], []],
        "fixed": [1, 2],
        "utf8 bytes": "é",
        "bytes": "/w==",
        "decimal": "1.10",
        "date": "2026-11-21",
        "time": "10:30:00.000005",
        "timestamp": "2026-11-21T10:30:00.000005+00:00",
        "nanoseconds": "1970-01-01T00:00:00",
        "nested nanoseconds": [{"t": "1970-01-01T00:00:00.000001"}],
    }


def test_a_number_that_json_has_not_is_a_finding_on_its_row(tmp_path: Path, read_whole: ReadWhole) -> None:
    table = pa.table({"a": ["x", "y", "z"], "scores": [[1.0], [float("nan")], [float("inf")]]})
    _write(table, tmp_path / "a.parquet")
    _, records = read_whole(tmp_path / "a.parquet")
    assert codes(records) == [(2, "SFT008"), (3, "SFT008")]
    assert records[0].value == {"a": "x", "scores": [1.0]}
    assert records[1].value is None
    assert records[1].raw == b'{"a": "y", "scores": [NaN]}'


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_text_that_is_not_utf8_is_a_finding_on_its_row(suffix: str, tmp_path: Path, read_whole: ReadWhole) -> None:
    offsets, data = pa.py_buffer(b"".join(i.to_bytes(4, "little") for i in (0, 1, 3, 4))), pa.py_buffer(b"a\xff\xfec")
    broken = pa.StringArray.from_buffers(3, offsets, data)
    _write(pa.table({"text": broken}), tmp_path / f"a.{suffix}")
    _, records = read_whole(tmp_path / f"a.{suffix}")
    assert codes(records) == [(2, "SFT002")]
    assert [record.value for record in records] == [{"text": "a"}, None, {"text": "c"}]


def test_two_columns_of_one_name_are_refused(tmp_path: Path, read_whole: ReadWhole) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    _write(table, tmp_path / "a.arrow")
    with pytest.raises(InputError, match="two columns 'a'"):
        read_whole(tmp_path / "a.arrow")


@pytest.mark.usefixtures("small")
def test_a_row_group_that_cannot_be_decoded_costs_its_own_rows(tmp_path: Path, read_whole: ReadWhole) -> None:
    chance = random.Random(3)
    table = pa.table({"text": [chance.randbytes(50).hex() for _ in range(3000)]})
    path = tmp_path / "a.parquet"
    pq.write_table(
        table,
        path,
        row_group_size=1000,
        write_page_checksum=True,
        use_dictionary=False,
        data_page_size=9000,
        write_batch_size=50,
    )
    content = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content[group.data_page_offset + group.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    _, records = read_whole(path)
    broken = [record.line for record in records if record.findings]
    assert {finding.code for record in records for finding in record.findings} == {"SFT015"}
    assert 1001 < broken[0] < 2000
    assert broken == list(range(broken[0], 2001))
    sound = [record.value["text"] for record in records if not record.findings]
    assert sound == table["text"].to_pylist()[: broken[0] - 1] + table["text"].to_pylist()[2000:]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 and nothing of the kind", b"ARROW1 neither", b"FEA1xx"])
def test_what_is_no_table_is_refused(name: str, content: bytes, tmp_path: Path, read_whole: ReadWhole) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="SFT015: cannot be opened as a Parquet or Arrow table"):
        read_whole(tmp_path / name)


def test_an_arrow_stream_that_breaks_off_keeps_what_came_before(tmp_path: Path, read_whole: ReadWhole) -> None:
    sink = io.BytesIO()
    table = pa.table({"a": list(range(1000))})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    path = tmp_path / "a.arrow"
    path.write_bytes(sink.getvalue()[: len(sink.getvalue()) // 2])
    scan, records = read_whole(path)
    assert [record.value["a"] for record in records] == list(range(len(records)))
    assert 300 <= len(records) <= 500
    assert [(line, finding.code) for line, finding in scan.findings] == [(len(records) + 1, "SFT015")]


def test_a_table_of_columns_without_rows_has_no_records(tmp_path: Path, read_whole: ReadWhole) -> None:
    _write(pa.table({"a": pa.array([], pa.string())}), tmp_path / "a.parquet")
    scan, records = read_whole(tmp_path / "a.parquet")
    assert (scan.records, scan.chunks, records) == (0, (), [])


def test_rows_whose_bytes_a_store_fails_to_give_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [f"{number} " * 50 for number in range(2000)]}), file, compression="none")
    system = fsspec.filesystem("memory")
    system.pipe_file("/store/t.parquet", file.getvalue())
    (item,) = sources.resolve(["memory://store/t.parquet"])
    chunks = sources.scan(item, tmp_path).chunks
    reads = Steady._read
    faults: list[int] = []

    def failing(stream: Steady, size: int) -> bytes:
        if stream.tell() < 1000:  # the first data page; the footer is read without a fault
            faults.append(size)
            raise RuntimeError("the client of a store has errors of its own")
        return reads(stream, size)

    monkeypatch.setattr(Steady, "_read", failing)
    monkeypatch.setattr("sftdata.sources.opening._PAUSES", (0.0,))
    with pytest.raises(InputError, match="cannot be read: RuntimeError: the client of a store has errors of its own"):
        read_stretch(item, chunks, 0, tmp_path)
    assert len(faults) == 2, "tried again"
    system.rm("/store", recursive=True)


@pytest.mark.parametrize("far", [1 << 20, 1 << 30, -1])
def test_a_batch_that_points_outside_of_itself_is_a_finding_and_no_crash(tmp_path: Path, far: int) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    batch = pa.RecordBatch.from_pylist([{"messages": turns}, {"messages": turns}])
    file = io.BytesIO()
    with pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    sound, damaged = (np.array([0, 2, end], np.int32).tobytes() for end in (4, far))
    assert file.getvalue().count(sound) == 1
    (tmp_path / "t.arrow").write_bytes(file.getvalue().replace(sound, damaged))
    (item,) = sources.resolve([str(tmp_path / "t.arrow")])
    found = sources.scan(item, tmp_path)
    assert found.records == 0
    assert [(line, finding.code) for line, finding in found.findings] == [(1, "SFT015")]


@pytest.mark.parametrize("size", [1 << 20, 1 << 60])
def test_want_of_memory_costs_no_row_and_damage_that_wants_all_memory_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "t.parquet")
    (item,) = sources.resolve([str(tmp_path / "t.parquet")])
    chunks = sources.scan(item, tmp_path).chunks

    def starved(_: Any) -> Any:
        raise pa.lib.ArrowMemoryError(f"malloc of size {size} failed")

    monkeypatch.setattr("sftdata.sources.tables.rows_of", starved)
    if size == 1 << 20:
        with pytest.raises(MemoryError):
            read_stretch(item, chunks, 0, tmp_path)
    else:
        assert codes(read_stretch(item, chunks, 0, tmp_path)) == [(1, "SFT015"), (2, "SFT015")]


def test_want_of_memory_is_no_fault_of_the_row_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: Any) -> Any:
        raise pa.lib.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr("sftdata.sources.arrow_values._Reader.values", starved)
    with pytest.raises(MemoryError):
        rows_of(pa.record_batch({"a": [1, 2]}))
