"""Compressed files that break off: what came before is kept, and the break is told once."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sftdata.sources import compression
from sftdata.sources.compression import Decoded
from tests.sources.reading import ReadWhole, codes

_CHANCE = random.Random(5)
VALUES: list[dict[str, Any]] = [{"n": index, "text": _CHANCE.randbytes(20).hex()} for index in range(12_000)]
LINES = [json.dumps(value).encode() for value in VALUES]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": lambda plain: bz2.compress(plain, 1),
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".xz": lambda plain: lzma.compress(plain, preset=0),
}


def test_a_few_bytes_of_bzip2_that_stand_for_many_are_handed_out_in_pieces() -> None:
    small = bz2.compress(b"\0" * (1 << 27))
    assert len(small) < 200
    tracemalloc.start()
    try:
        assert sum(map(len, Decoded([small], "bzip2"))) == 1 << 27
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 23


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.9999])
def test_what_comes_before_a_cut_is_kept(compression: str, share: float, tmp_path: Path, read_whole: ReadWhole) -> None:
    whole = COMPRESS[compression](b"\n".join(LINES))
    content = whole[: int(len(whole) * share)]
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(content)
    scan, records = read_whole(path)
    sound = [record.value for record in records if not record.findings]
    assert sound == VALUES[: len(sound)]
    assert len(sound) > 0.5 * share * len(VALUES)
    told = codes(records) + [(line, finding.code) for line, finding in scan.findings]
    assert [code for _, code in told] == ["SFT015"]
    assert told[0][0] in (len(sound), len(sound) + 1)
    assert scan.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("compression", COMPRESS)
def test_what_comes_before_damage_is_kept(compression: str, tmp_path: Path, read_whole: ReadWhole) -> None:
    compress = COMPRESS[compression]
    first, second = compress(b"\n".join(LINES[:8000]) + b"\n"), bytearray(compress(b"\n".join(LINES[8000:])))
    second[len(second) // 2 :] = b"\xff" * (len(second) - len(second) // 2)
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(first + second)
    scan, records = read_whole(path)
    assert [record.value for record in records[:8000]] == VALUES[:8000]
    assert len(codes(records)) + len(scan.findings) == 1
    assert scan.size == len(first) + len(second)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b'{"a": 1}\n', b"\x1f"])
def test_what_is_not_compressed_at_all_is_told(
    content: bytes, compression: str, tmp_path: Path, read_whole: ReadWhole
) -> None:
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(content)
    scan, records = read_whole(path)
    assert records == []
    assert [finding.code for _, finding in scan.findings] == ["SFT015"]


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_compressed_file_without_the_suffix_is_told_by_its_content(
    compression: str, tmp_path: Path, read_whole: ReadWhole
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(COMPRESS[compression](b"\n".join(LINES)))
    _, records = read_whole(path)
    assert [record.value for record in records] == VALUES


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("compression", COMPRESS)
def test_size_and_hash_are_those_of_all_bytes_also_behind_a_break(
    compression: str, tmp_path: Path, read_whole: ReadWhole
) -> None:
    content = COMPRESS[compression](LINES[0]) + b"rubbish" * 200
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(content)
    scan, records = read_whole(path)
    assert [record.value for record in records if not record.findings] == VALUES[: 1 - len(codes(records))]
    assert (scan.size, scan.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert len(codes(records)) + len(scan.findings) == 1


def test_a_list_cut_off_inside_an_element_is_told_once(tmp_path: Path, read_whole: ReadWhole) -> None:
    whole = gzip.compress(b"[" + b",".join(LINES) + b"]")
    path = tmp_path / "a.json.gz"
    path.write_bytes(whole[: len(whole) // 2])
    scan, records = read_whole(path)
    assert [record.value for record in records[:-1]] == VALUES[: len(records) - 1]
    assert [code for _, code in codes(records)] + [finding.code for _, finding in scan.findings] == ["SFT015"]


def test_csv_cut_off_inside_a_row_is_told_once(tmp_path: Path, read_whole: ReadWhole) -> None:
    rows = b"".join(b'%d,"%s"\r\n' % (value["n"], value["text"].encode()) for value in VALUES)
    whole = gzip.compress(b"n,text\r\n" + rows)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    scan, records = read_whole(path)
    assert len(records) > 1000
    assert [code for _, code in codes(records)] + [finding.code for _, finding in scan.findings] == ["SFT015"]


def test_want_of_memory_is_no_break_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Starved:
        eof, unused_data = False, b""

        def decompress(self, data: bytes) -> bytes:
            raise MemoryError

    monkeypatch.setitem(compression.CODECS, "xz", (Starved, b""))
    with pytest.raises(MemoryError):
        list(Decoded([b"some bytes"], "xz"))
