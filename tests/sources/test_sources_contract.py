"""One contract for all kinds and compressions: the same records in, the same values, ids and lines out."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import itertools
import json
import lzma
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard

from sftdata import sources
from sftdata.errors import InputError
from sftdata.sources.items import Chunk, Input, Scan
from tests.sources.reading import ReadWhole, read_stretch

RECORDS: list[dict[str, Any]] = [
    {"instruction": f'say \u201c{index}\u201d, "twice"', "output": "x\n" * (index % 5) + f" \U0001f600{index}"}
    for index in range(60)
]


def _lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def _list(records: list[dict[str, Any]]) -> bytes:
    return b"[\n" + b",\n".join(json.dumps(record).encode() for record in records) + b"\n]\n"


def _objects(records: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(record, indent=1) for record in records).encode()


def _csv(records: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def _parquet(records: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), sink, row_group_size=17)
    return sink.getvalue()


def _feather(records: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(pa.Table.from_pylist(records), sink, chunksize=13)
    return sink.getvalue()


def _stream(records: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(records)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=11)
    return sink.getvalue()


def _csv_lines() -> list[int]:
    line, lines = 2, []
    for record in RECORDS:
        lines.append(line)
        line += 1 + record["output"].count("\n")
    return lines


ROWS = list(range(1, len(RECORDS) + 1))
KINDS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], bytes], list[int]]] = {
    "lines": (".jsonl", _lines, ROWS),
    "lines named json": (".json", _lines, ROWS),
    "list": (".json", _list, [row + 1 for row in ROWS]),
    "list named jsonl": (".jsonl", _list, [row + 1 for row in ROWS]),
    "list on one line": (".json", lambda records: json.dumps(records).encode(), [1] * len(ROWS)),
    "objects over several lines": (".json", _objects, [4 * row - 3 for row in ROWS]),
    "csv": (".csv", _csv, _csv_lines()),
    "csv with semicolons": (".csv", partial(_csv, delimiter=";"), _csv_lines()),
    "tsv": (".tsv", partial(_csv, delimiter="\t"), _csv_lines()),
    "parquet": (".parquet", _parquet, ROWS),
    "feather": (".feather", _feather, ROWS),
    "arrow stream": (".arrow", _stream, ROWS),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda plain: plain,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_records_in_are_the_same_records_out(
    kind: str, compression: str, tmp_path: Path, read_whole: ReadWhole
) -> None:
    suffix, write, lines = KINDS[kind]
    path = tmp_path / f"data{suffix}{compression}"
    path.write_bytes(COMPRESSIONS[compression](write(RECORDS)))
    scan, records = read_whole(path)
    assert [record.value for record in records] == RECORDS
    assert [record.line for record in records] == lines
    assert {record.source for record in records} == {str(path)}
    assert [record.findings for record in records] == [()] * len(RECORDS)
    assert [record.raw for record in records] == [None] * len(RECORDS)
    assert scan.findings == ()
    assert (scan.size, scan.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_however_chunks_are_merged_the_records_are_the_same(kind: str, compression: str, tmp_path: Path) -> None:
    suffix, write, _ = KINDS[kind]
    path = tmp_path / f"data{suffix}{compression}"
    path.write_bytes(COMPRESSIONS[compression](write(RECORDS)))
    [item] = sources.resolve([str(path)])
    scan = sources.scan(item, tmp_path)
    assert len(scan.chunks) > 3
    assert sum(chunk.records for chunk in scan.chunks) == scan.records == len(RECORDS)
    whole = read_stretch(item, scan.chunks, 7, tmp_path)
    for seed in range(4):
        assert _in_pieces(item, scan, 7, tmp_path, random.Random(seed)) == whole


def _in_pieces(item: Input, scan: Scan, first_record: int, folder: Path, chance: random.Random) -> list[Any]:
    """All records, read in stretches of chunks chosen by chance."""
    records: list[Any] = []
    chunks = list(scan.chunks)
    while chunks:
        count = chance.randint(1, len(chunks))
        stretch, chunks = chunks[:count], chunks[count:]
        made = read_stretch(item, stretch, first_record + len(records), folder)
        assert len(made) == sum(chunk.records for chunk in stretch)
        records += made
    return records


@pytest.mark.usefixtures("small")
def test_neighbouring_chunks_meet_so_that_a_planner_can_merge_them(tmp_path: Path) -> None:
    for kind, (suffix, write, _) in KINDS.items():
        path = tmp_path / f"{len(kind)}{kind[:3]}{suffix}"
        path.write_bytes(write(RECORDS))
        [item] = sources.resolve([str(path)])
        chunks = sources.scan(item, tmp_path).chunks
        assert all(one.stop == two.start for one, two in itertools.pairwise(chunks)), kind


def test_what_goes_into_a_plan_comes_back_from_json(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(_parquet(RECORDS))
    [item] = sources.resolve([str(path)])
    scan = sources.scan(item, tmp_path)
    for value, kind in ((item, Input), (scan, Scan), (scan.chunks[0], Chunk)):
        assert msgspec.json.decode(msgspec.json.encode(value), type=kind) == value


def test_an_input_that_ends_before_its_plan_says_so_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(_lines(RECORDS))
    [item] = sources.resolve([str(path)])
    scan = sources.scan(item, tmp_path)
    path.write_bytes(_lines(RECORDS[:5]))
    with pytest.raises(InputError, match="as planned"):
        read_stretch(item, scan.chunks, 0, tmp_path)


@pytest.mark.parametrize("multiple", [b"\0\0\0\0", b""])
@pytest.mark.parametrize("compression", [".gz", ".zst", ".xz"])
def test_members_one_after_another_are_one_file(
    compression: str, multiple: bytes, tmp_path: Path, read_whole: ReadWhole
) -> None:
    compress = COMPRESSIONS[compression]
    plain = _lines(RECORDS)
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(compress(plain[:333]) + multiple + compress(plain[333:]))
    scan, records = read_whole(path)
    assert [record.value for record in records] == RECORDS
    assert scan.findings == ()
