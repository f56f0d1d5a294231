"""Law 9: what is read is what was written, and the bytes do not depend on how the bins were handed in."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sftdata.shards import FileEntry, Manifest, Rows, ShardWriter, dump_manifest, join, open_dataset, split
from tests.shards.sealing import FOOTER, any_rows, base
from tests.strategies import examples


def write(folder: Path, parts: list[Rows], group_tokens: int, file_bytes: int) -> list[FileEntry]:
    """Shards under `.work` names, then under their sealed ones, and a manifest."""
    with ShardWriter(
        lambda part: folder / f"unit-{part}.parquet",
        metadata=FOOTER,
        max_group_tokens=group_tokens,
        max_file_bytes=file_bytes,
    ) as writer:
        for rows in parts:
            writer.write(rows)
    entries = []
    for index, entry in enumerate(writer.entries):
        name = f"train-{index:05d}-of-{len(writer.entries):05d}.parquet"
        (folder / entry.name).rename(folder / name)
        entries.append(msgspec.structs.replace(entry, name=name))
    manifest = Manifest(files={"train": tuple(entries)}, **base().manifest)
    (folder / "manifest.json").write_bytes(dump_manifest(manifest))
    return entries


@examples(60)
@given(
    rows=any_rows(),
    cuts=st.integers(1, 40),
    group_tokens=st.integers(1, 60),
    file_bytes=st.sampled_from((1, 2000, 1 << 20)),
)
def test_read_of_write_is_the_same(rows: Rows, cuts: int, group_tokens: int, file_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        whole, pieces = Path(name) / "whole", Path(name) / "pieces"
        whole.mkdir()
        pieces.mkdir()
        entries = write(whole, [rows], group_tokens, file_bytes)
        assert entries == write(pieces, list(split(rows, cuts)), group_tokens, file_bytes)
        for path in whole.iterdir():
            assert path.read_bytes() == (pieces / path.name).read_bytes()
        dataset = open_dataset(whole)
        assert list(dataset.files) == entries
        groups = [dataset.read_row_group(file, at) for file in entries for at in range(len(file.row_groups))]
        assert (join(groups) if groups else rows_none(rows)) == rows
        assert sum(entry.loss_tokens for entry in entries) == int((rows.labels != -100).sum())


def rows_none(rows: Rows) -> Rows:
    """No bins were written, and so there is no file to read back."""
    assert not len(rows)
    return rows
