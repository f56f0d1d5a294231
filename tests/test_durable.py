"""A file appears under its name whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sftdata.durable import durable


def test_files_appear_together_when_all_are_written(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    other.write_text("before")
    with durable(one, other) as names:
        for name in names:
            name.write_text("after")
        assert not one.exists()
        assert other.read_text() == "before"
    assert (one.read_text(), other.read_text()) == ("after", "after")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def write_both(folder: Path, error: BaseException | None = None) -> None:
    with durable(folder / "one", folder / "other") as names:
        for name in names:
            name.write_text("half")
        if error is not None:
            raise error


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt()])
def test_whatever_ends_the_writing_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    other = tmp_path / "other"
    other.write_text("before")
    with pytest.raises(type(error)):
        write_both(tmp_path, error)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert other.read_text() == "before"


def test_of_two_files_none_stays_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if target.name == "other":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_both(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named_before_anything_is_written(tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "file"
    with pytest.raises(FileNotFoundError) as found, durable(target):
        pytest.fail("it was not refused")
    assert found.value.filename == str(target)


def test_a_pipe_or_device_is_written_and_stays_what_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with durable(pipe) as (name,):
        name.write_text("hello")
    assert os.read(reader, 99) == b"hello"
    os.close(reader)
    assert pipe.is_fifo()
    with durable(Path(os.devnull)) as (name,):
        name.write_text("x")
    assert Path(os.devnull).is_char_device()


def test_a_link_still_points_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    (tmp_path / "link").symlink_to("file")
    with durable(tmp_path / "link") as (name,):
        name.write_text("after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "after"
