"""Lines are found from the bytes alone: not from how they come in windows, nor from where chunks are cut or merged."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata import sources
from sftdata.records import RawRecord
from sftdata.sources.items import Chunk, halved
from sftdata.sources.lines import BOM, blocks, cut_lines
from tests.sources.reading import read_stretch
from tests.sources.test_broken_lines import BROKEN, SOUND
from tests.strategies import examples

_LAW = examples(60)
_LINES = st.one_of(
    st.sampled_from([line for line, _ in (*BROKEN.values(), *SOUND.values()) if len(line) < 1000]),
    st.sampled_from([b"", b" ", b"\t\r", BOM, BOM + b'{"a": 1}', BOM[:2], BOM[:1], BOM + b" ", b"\x0b", b"\x00"]),
    st.text(max_size=30).map(lambda text: json.dumps({"t": text}, ensure_ascii=False).encode("utf-8", "replace")),
    st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"")),
)
_FILES = st.builds(
    lambda lines, end, last: end.join(lines) + last,
    st.lists(_LINES, max_size=25),
    st.sampled_from([b"\n", b"\r\n"]),
    st.sampled_from([b"", b"\n"]),
)


def _windows(content: bytes, seed: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    at = 0
    while at < len(content):
        size = chance.choice((1, 2, 3, 10, 50))
        yield content[at : at + size]
        at += size


def _records(content: bytes) -> list[tuple[int, bytes]]:
    """The plain definition: lines between LFs that are more than white space and a mark."""
    numbered = enumerate(content.split(b"\n"), 1)
    return [(number, line) for number, line in numbered if line.removeprefix(BOM).strip()]


@_LAW
@given(content=_FILES, seed=st.integers(0, 1 << 16), target=st.integers(1, 80))
def test_chunks_hold_all_records_whatever_the_windows(content: bytes, seed: int, target: int) -> None:
    chunks = cut_lines(_windows(content, seed), target)
    assert chunks == cut_lines([content] if content else [], target)
    for chunk in chunks:
        inside = _records(content[chunk.start : chunk.stop])
        assert chunk.records == len(inside) > 0
        assert chunk.first_line == content[: chunk.start].count(b"\n") + 1
    assert sum(chunk.records for chunk in chunks) == len(_records(content))


@_LAW
@given(content=_FILES, seed=st.integers(0, 1 << 16))
def test_blocks_hold_all_lines_whatever_the_windows(content: bytes, seed: int) -> None:
    assert b"".join(block.text for block in blocks(_windows(content, seed))) == content
    for block in blocks(_windows(content, seed)):
        assert block.ended == block.text.endswith(b"\n")


@_LAW
@given(content=_FILES, seed=st.integers(0, 1 << 16), target=st.integers(1, 80))
def test_reading_in_stretches_is_reading_whole(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, seed: int, target: int
) -> None:
    folder = tmp_path_factory.mktemp("stretches")
    path = folder / "a.jsonl"
    path.write_bytes(content)
    item = sources.Input(0, "a.jsonl", "jsonl", "none", str(path))
    chunks = cut_lines([content] if content else [], target)
    whole = read_stretch(item, chunks, 0, folder) if chunks else []
    assert [(record.line, record.record_id) for record in whole] == [
        (number, index) for index, (number, _) in enumerate(_records(content))
    ]
    chance = random.Random(seed)
    pieces: list[RawRecord] = []
    while chunks:
        count = chance.randint(1, len(chunks))
        pieces += read_stretch(item, chunks[:count], len(pieces), folder)
        chunks = chunks[count:]
    assert pieces == whole


@_LAW
@given(st.lists(st.integers(1, 9), max_size=9))
def test_halving_merges_neighbours_and_loses_nothing(records: list[int]) -> None:
    chunks = [Chunk(index, index + 1, 1 + sum(records[:index]), count, count) for index, count in enumerate(records)]
    merged = halved(chunks)
    assert len(merged) == -(-len(chunks) // 2)
    assert sum(chunk.records for chunk in merged) == sum(records)
    assert [chunk.start for chunk in merged] == [chunk.start for chunk in chunks[::2]]
    assert [chunk.first_line for chunk in merged] == [chunk.first_line for chunk in chunks[::2]]
