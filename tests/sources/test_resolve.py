"""Addresses become inputs: a fixed order, nothing twice, nothing silently missed."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import fsspec
import pytest

from sftdata import sources
from sftdata.errors import ConfigError, InputError
from sftdata.sources.resolve import kind_of


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.jsonl",
        "a.json",
        "sub/c.csv",
        "sub/d.jsonl.gz",
        "z.txt",
        "README.md",
        ".hidden.jsonl",
        "_x/e.jsonl",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"a": 1}\n')
    (tmp_path / "dataset_info.json").write_text("{}")
    return tmp_path


def _names(tree: Path, *given: str) -> list[str]:
    inputs = sources.resolve([str(tree / name) if name else str(tree) for name in given])
    assert [item.index for item in inputs] == list(range(len(inputs)))
    return [os.path.relpath(item.address, tree) for item in inputs]


def test_a_folder_gives_its_data_files_sorted(tree: Path) -> None:
    assert _names(tree, "") == ["a.json", "b.jsonl", "sub/c.csv", "sub/d.jsonl.gz"]


def test_a_glob_gives_what_it_matches_sorted(tree: Path) -> None:
    assert _names(tree, "*.json*") == ["a.json", "b.jsonl", "dataset_info.json"]
    assert _names(tree, "**/*.csv") == ["sub/c.csv"]
    assert _names(tree, "[bz].*") == ["b.jsonl", "z.txt"]


def test_addresses_keep_the_order_they_are_given_in(tree: Path) -> None:
    assert _names(tree, "z.txt", "sub", "a.json") == ["z.txt", "sub/c.csv", "sub/d.jsonl.gz", "a.json"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tree: Path) -> None:
    (tree / "a[1].jsonl").write_text("1\n")
    assert _names(tree, "a[1].jsonl") == ["a[1].jsonl"]


@pytest.mark.parametrize("missing", ["none.jsonl", "*.parquet", "nothing/"])
def test_an_address_that_names_nothing_is_refused(missing: str, tree: Path) -> None:
    with pytest.raises(InputError, match="SFT011: no input found") as error:
        _names(tree, "a.json", missing)
    assert missing.rstrip("/") in str(error.value)


def test_an_empty_folder_and_no_address_are_refused(tmp_path: Path) -> None:
    for given in ([str(tmp_path)], []):
        with pytest.raises(InputError, match="SFT011"):
            sources.resolve(given)


def test_one_file_named_twice_is_refused(tree: Path) -> None:
    os.symlink(tree / "a.json", tree / "link.json")
    for twice in ("a.json", "./a.json", "sub/../a.json", "link.json", ""):
        with pytest.raises(InputError, match="named twice"):
            _names(tree, "a.json", twice)
    with pytest.raises(InputError, match="named twice"):
        sources.resolve(["-", "-"])


def test_a_relative_address_stays_as_given_and_is_found_from_anywhere(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    [item] = sources.resolve(["sub/../b.jsonl"])
    assert item.address == "sub/../b.jsonl"
    assert item.location == str(tree / "b.jsonl")


def test_a_file_address_is_a_path(tree: Path) -> None:
    [item] = sources.resolve([f"file://{tree}/b.jsonl"])
    assert item.location == str(tree / "b.jsonl")


@pytest.mark.parametrize(
    ("name", "kind", "compression"),
    [
        ("a.jsonl", "jsonl", "none"),
        ("A.JSONL.GZ", "jsonl", "gzip"),
        ("a.ndjson.zst", "jsonl", "zstd"),
        ("a.json.xz", "json", "xz"),
        ("s3://b/a.csv", "csv", "none"),
        ("a.tsv", "tsv", "none"),
        ("a.csv.bz2", "csv", "bzip2"),
        ("a.parquet", "parquet", "none"),
        ("a.feather", "arrow", "none"),
        ("a.arrow", "arrow", "none"),
        ("a.gz", "stream", "gzip"),
        ("a", "stream", "none"),
    ],
)
def test_names_tell_kinds(name: str, kind: str, compression: str) -> None:
    assert kind_of(name) == (kind, compression)


def test_a_file_of_unknown_name_is_told_by_its_content(tmp_path: Path) -> None:
    for content, kind in (
        (b'{"a": 1}\n', "jsonl"),
        (b'[{"a": 1}]', "json"),
        (b"a,b\n1,2\n", "csv"),
        (b"a\tb\n1\t2\n", "tsv"),
    ):
        path = tmp_path / "data.txt"
        path.write_bytes(content)
        assert sources.resolve([str(path)])[0].kind == kind


@pytest.mark.parametrize(
    "content", [b"Anarchism\n\nIt is old, they say.\n", b"It began in 1901, they say.", b"\xef\xbb\xbfOne"]
)
@pytest.mark.parametrize("name", ["wiki.txt", "README.md"])
def test_plain_text_is_refused_with_the_ways_to_make_it_records(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match="plain text") as caught:
        sources.resolve([str(path)])
    assert "jq -Rc" in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html></html>", "HTML page"),
        ('{"text": "T"}\n'.encode("utf-16"), "iconv -f UTF-16"),
    ],
)
def test_what_is_no_data_is_refused_by_what_it_is(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=what):
        sources.resolve([str(path)])


def test_an_archive_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", "{}")
    with pytest.raises(InputError, match="zip archive"):
        sources.resolve([str(path)])


def test_remote_files_are_found_and_read_like_local_ones(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    lines = b'{"a": 1}\n{"a": 2}\n'
    for name, content in (("/in/b.jsonl", lines), ("/in/sub/a.json", b"[1, 2]"), ("/in/notes.txt", b"x")):
        store.pipe_file(name, content)
    try:
        for given in ("memory://in", "memory://in/**/*.json*"):
            inputs = sources.resolve([given])
            assert [item.address for item in inputs] == ["memory:///in/b.jsonl", "memory:///in/sub/a.json"]
        for item, values in zip(inputs, ([{"a": 1}, {"a": 2}], [1, 2]), strict=True):
            scan = sources.scan(item, tmp_path)
            blocks = sources.read(
                item, scan.chunks[0].start, scan.chunks[-1].stop, first_record=0, first_line=1, spool=tmp_path
            )
            assert [record.value for block in blocks for record in block] == values
        with pytest.raises(InputError, match="SFT011"):
            sources.resolve(["memory://nowhere/a.jsonl"])
    finally:
        store.rm("/in", recursive=True)


def test_a_store_nobody_knows_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        sources.resolve(["nonsense://bucket/a.jsonl"])


def test_an_unreadable_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("1\n")
    [item] = sources.resolve([str(path)])
    path.unlink()
    with pytest.raises(InputError, match=r"a\.jsonl: cannot be read: No such file"):
        sources.scan(item, tmp_path)
