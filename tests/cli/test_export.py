"""`sftdata export`: what it writes is what the library writes, and its exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sftdata.shards.export import export_arrow, export_megatron
from sftdata_cli.main import main
from tests.shards.sealing import seal

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `sftdata export` with arguments; exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sftdata", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("split", ["train", "eval"])
def test_export_writes_what_the_library_writes(run: Run, tmp_path: Path, split: str) -> None:
    shards, ours, theirs = seal(tmp_path / "shards"), tmp_path / "ours", tmp_path / "theirs"
    counts = [
        export_arrow(shards, theirs / "bins", split=split),
        export_arrow(shards, theirs / "documents", split=split, unpack=True),
        export_megatron(shards, theirs / "set", split=split),
    ]
    cases = [("arrow", "bins"), ("arrow", "documents", "--unpack"), ("megatron", "set")]
    for count, (form, name, *more) in zip(counts, cases, strict=True):
        code, out, err = run(shards, "--to", form, "--split", split, "--out", ours / name, *more)
        assert (code, err) == (0, "")
        assert out.startswith(f"{count} ")
        assert str(ours / name) in out
    assert contents(ours) == contents(theirs)


def test_export_of_what_is_damaged_is_1_and_of_what_is_there_is_2(run: Run, tmp_path: Path) -> None:
    shards = seal(tmp_path / "shards")
    assert run(shards, "--to", "megatron", "--unpack", "--out", tmp_path / "out")[0] == 2
    assert run(shards, "--to", "arrow", "--out", shards)[0] == 2
    code, _, err = run(shards, "--to", "arrow", "--split", "test", "--out", tmp_path / "out")
    assert (code, "no split 'test' (expected eval or train)" in err) == (1, True)
    path = shards / "train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    for form in ("arrow", "megatron"):
        code, _, err = run(shards, "--to", form, "--out", tmp_path / "out")
        assert (code, path.name in err) == (1, True)
    assert list(tmp_path.iterdir()) == [shards]
