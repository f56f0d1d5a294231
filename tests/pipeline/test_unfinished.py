"""Commands that are ended while they write leave nothing that looks whole, and the same command then works."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sftdata.config import PrepareConfig, build_config
from sftdata.pipeline import copies, run
from sftdata.pipeline.check import Checked, check
from sftdata.pipeline.repair import as_json
from sftdata.pipeline.serving import settle_serving
from tests.pipeline.runs import chat, write_lines

OPTIONS = {"tokenizer": "builtin", "template": "chatml", "max_length": 256}


class Stopped(BaseException):
    """What a signal raises."""


@pytest.fixture
def asked(tmp_path: Path) -> PrepareConfig:
    lines = [chat(f"What is {n}?", f"It is {n}. " * 3) for n in range(40)]
    inputs = (str(write_lines(tmp_path / "in.jsonl", lines)),)
    return build_config({"inputs": inputs, "tokenizer": "", "max_length": 2, "out": "-"})


def stopping(function: Callable[..., Any], after: int) -> Callable[..., Any]:
    """`function`, but that its call number `after` is interrupted."""
    calls = itertools.count(1)

    def called(*arguments: Any) -> Any:
        if next(calls) == after:
            raise Stopped
        return function(*arguments)

    return called


def test_a_split_that_is_interrupted_leaves_no_part_of_a_dataset(
    tmp_path: Path, asked: PrepareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def split() -> dict[str, int]:
        return copies.split(asked, out, share="10", by="hash", near=False, seed=0)

    with monkeypatch.context() as patch:
        patch.setattr(copies, "as_json", stopping(as_json, 20))
        with pytest.raises(Stopped):
            split()
    assert list(out.iterdir()) == []
    assert split() == {"train": 30, "eval": 10, "unreadable": 0}


def test_a_list_of_copies_is_there_whole_or_stays_what_it_was(
    tmp_path: Path, asked: PrepareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "drop.parquet"
    copies.dedup(asked, out, near=False)
    before = out.read_bytes()

    def half(table: Any, path: Path) -> None:
        path.write_bytes(b"PAR1")
        raise Stopped

    monkeypatch.setattr("pyarrow.parquet.write_table", half)
    with pytest.raises(Stopped):
        copies.dedup(asked, out, near=False)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drop.parquet", "in.jsonl"]


def test_a_repair_that_is_interrupted_leaves_no_part_of_the_records(
    tmp_path: Path, asked: PrepareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "repaired.jsonl"
    with check(asked, repair=True) as checked:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", stopping(Path.read_bytes, 2))
            with pytest.raises(Stopped):
                checked.write_repaired(target)
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
        assert checked.write_repaired(target)[0] == 40


def test_what_a_check_found_goes_with_it_though_nobody_took_it() -> None:
    checked = Checked()
    work = checked.work
    assert work.is_dir()
    with pytest.warns(ResourceWarning, match="Implicitly cleaning up"):
        del checked
    assert not work.exists()


def test_a_signal_while_inputs_are_read_does_not_wait_for_the_tokenizer(
    tmp_path: Path, asked: PrepareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config({**OPTIONS, "inputs": asked.inputs, "out": str(tmp_path / "out")})
    ended, loaded = threading.Event(), []

    def loading(*_: Any) -> None:
        ended.wait(60)
        loaded.append(True)

    def reading(*_: Any, **__: Any) -> None:
        raise Stopped

    monkeypatch.setattr(run, "choose_engine", loading)
    monkeypatch.setattr(run, "read_inputs", reading)
    with pytest.raises(Stopped):
        run.make_plan(config, "2026-01-01", settle_serving(config, "2026-01-01"), tmp_path)
    assert not loaded
    ended.set()
