"""Plan, units, seal: the same bytes however the work is cut, scheduled or interrupted; nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sftdata
from sftdata.errors import ConfigError, InputError, OutputError
from sftdata.pipeline import run as run_module
from sftdata.pipeline.engines.local import run_units
from sftdata.shards import open_dataset, verify
from tests.pipeline.runs import chat, contents, go, long_chat, parts, write_lines

DEMO = Path(__file__).resolve().parents[2] / "examples" / "data"


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """2,000 different small chats, enough for several units when they are cut small."""
    records = [chat(f"What is {n} plus {n}?", f"It is {2 * n}. " * (1 + n % 7)) for n in range(2000)]
    return write_lines(tmp_path / "chats.jsonl", records)


def documents(folder: Path, split: str = "train") -> dict[int, list[tuple[list[int], list[int]]]]:
    """Ids and labels of every document, by record."""
    found: dict[int, list[tuple[list[int], list[int]]]] = {}
    for row in open_dataset(str(folder)).iter_rows(split):
        at = 0
        for length, record in zip(row["seq_lengths"].tolist(), row["record_ids"].tolist(), strict=True):
            piece = (row["input_ids"][at : at + length].tolist(), row["labels"][at : at + length].tolist())
            found.setdefault(record, []).append(piece)
            at += length
    return found


def test_the_demo_records_become_a_sound_dataset(tmp_path: Path) -> None:
    outcome = go(sorted(DEMO.glob("*.json*")), tmp_path / "out", max_length=1024, max_reject_rate=0.2, eval="0.05")
    assert outcome.sealed
    assert verify(str(tmp_path / "out")).problems == []
    ledger = outcome.report["ledger"]
    rejected = (tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rejected) == ledger["records"]["rejected"] > 0
    assert all(json.loads(line)["findings"] for line in rejected)


def test_two_runs_give_the_same_bytes(chats: Path, tmp_path: Path) -> None:
    go(chats, tmp_path / "a")
    go(chats, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    inputs = parts(tmp_path, 6)
    go(inputs, tmp_path / "1", unit_bytes=1, eval="0.1")
    for workers in (2, 5):
        go(inputs, tmp_path / str(workers), unit_bytes=1, eval="0.1", workers=workers)
        assert contents(tmp_path / str(workers)) == contents(tmp_path / "1")


def test_one_unit_and_many_hold_the_same_documents(tmp_path: Path) -> None:
    parts = []
    for part in range(4):
        records = [chat(f"What is {n} minus 1?", f"It is {n - 1}.") for n in range(part * 100, part * 100 + 100)]
        parts.append(write_lines(tmp_path / f"part-{part}.jsonl", records))
    go(parts, tmp_path / "one")
    go(parts, tmp_path / "many", unit_bytes=1)
    assert len(open_dataset(str(tmp_path / "many")).manifest.files["train"]) == 4
    assert documents(tmp_path / "one") == documents(tmp_path / "many")
    assert verify(str(tmp_path / "many")).problems == []


def test_an_interrupted_run_is_resumed_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [write_lines(tmp_path / f"{n}.jsonl", [chat(f"Say {n} {k}", "Yes.") for k in range(50)]) for n in range(5)]
    go(parts, tmp_path / "whole", unit_bytes=1)

    class Interrupted(Exception):
        pass

    def stop_at_third(plan: Any, todo: Any, folder: Any, advance: Any, loaded: Any) -> None:
        run_units(plan, list(todo)[:2], folder, advance)
        raise Interrupted

    monkeypatch.setattr(run_module, "run_units", stop_at_third)
    with pytest.raises(Interrupted):
        go(parts, tmp_path / "killed", unit_bytes=1)
    assert not list((tmp_path / "killed").glob("*.parquet")), "nothing unsealed lies where a glob would find it"
    assert not (tmp_path / "killed" / "manifest.json").exists()
    monkeypatch.undo()
    done: list[int] = []
    original = run_units

    def spy(plan: Any, todo: Any, folder: Any, advance: Any, loaded: Any) -> None:
        done.extend(todo)
        original(plan, todo, folder, advance, loaded)

    monkeypatch.setattr(run_module, "run_units", spy)
    go(parts, tmp_path / "killed", unit_bytes=1)
    assert done == [2, 3, 4]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_sealed_unchanged_output_is_left_alone(chats: Path, tmp_path: Path) -> None:
    go(chats, tmp_path / "out")
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert go(chats, tmp_path / "out").unchanged
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == stamps


def test_a_sealed_output_of_other_options_is_refused(chats: Path, tmp_path: Path) -> None:
    go(chats, tmp_path / "out")
    with pytest.raises(OutputError, match="--fresh"):
        go(chats, tmp_path / "out", max_length=128)
    assert go(chats, tmp_path / "out", max_length=128, fresh=True).sealed
    assert verify(str(tmp_path / "out")).problems == []


def test_a_folder_of_somebody_else_is_refused(chats: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="not empty"):
        go(chats, tmp_path / "out")
    go(chats, tmp_path / "out", fresh=True)
    assert (tmp_path / "out" / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_a_second_run_on_the_same_folder_is_refused(chats: Path, tmp_path: Path) -> None:
    from sftdata.pipeline.folder import Folder

    with Folder(tmp_path / "out").locked(), pytest.raises(OutputError, match="another run"):
        go(chats, tmp_path / "out")


def test_too_many_rejected_records_seal_nothing(tmp_path: Path) -> None:
    records = [chat("Hi", "Hello."), {"messages": []}, {"messages": [{"role": "user", "content": "x"}]}]
    outcome = go(write_lines(tmp_path / "in.jsonl", records), tmp_path / "out")
    assert not outcome.sealed
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert len((tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert json.loads((tmp_path / "out" / "report.json").read_bytes())["status"] == "refused"
    assert go(tmp_path / "in.jsonl", tmp_path / "out", max_reject_rate=0.9).sealed


def test_nothing_left_to_train_seals_nothing(tmp_path: Path) -> None:
    records = [{"messages": [{"role": "user", "content": "x"}]}]
    outcome = go(write_lines(tmp_path / "in.jsonl", records), tmp_path / "out", max_reject_rate=1.0)
    assert not outcome.sealed
    assert outcome.report["reason"] == "no record is left to train"


def test_no_template_or_no_stop_is_refused_before_anything_is_written(
    chats: Path, tmp_path: Path, bare_tokenizer: Path
) -> None:
    with pytest.raises(ConfigError, match="template"):
        go(chats, tmp_path / "out", tokenizer=str(bare_tokenizer), template=None)
    with pytest.raises(ConfigError, match="SFT420"):
        go(chats, tmp_path / "out", tokenizer=str(bare_tokenizer), template="alpaca")
    with pytest.raises(ConfigError, match="SFT407"):
        go(chats, tmp_path / "out", stop=("two words",))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def bare_tokenizer(tmp_path: Path) -> Path:
    """The carried tokenizer as a lone tokenizer.json: no named tokens, no template."""
    carried = Path(sftdata.__file__).parent / "tokenizers" / "builtin" / "tokenizer.json"
    path = tmp_path / "tokenizer.json"
    path.write_bytes(carried.read_bytes())
    return path


def test_an_input_without_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n\n", encoding="utf-8")
    with pytest.raises(InputError, match="SFT011"):
        go(tmp_path / "in.jsonl", tmp_path / "out")


def test_exact_duplicates_fall_on_one_side_of_the_split(tmp_path: Path) -> None:
    records = [chat(f"What is {n % 40}?", "A number.") for n in range(400)]
    outcome = go(write_lines(tmp_path / "in.jsonl", records), tmp_path / "out", eval="0.3")
    train, held_out = documents(tmp_path / "out"), documents(tmp_path / "out", "eval")
    assert len(train) + len(held_out) == outcome.report["ledger"]["records"]["written"] == 400
    assert held_out
    assert {n % 40 for n in train}.isdisjoint({n % 40 for n in held_out})


@pytest.mark.parametrize("policy", ["reject", "drop-turns", "truncate"])
def test_every_over_long_policy_keeps_the_ledger(tmp_path: Path, policy: str) -> None:
    records = [long_chat(1), long_chat(30), chat("Hi", "Hello."), chat("Long?", "Yes, " * 300)]
    outcome = go(
        write_lines(tmp_path / "in.jsonl", records),
        tmp_path / "out",
        overlong=policy,
        max_reject_rate=1.0,
        max_length=120,
    )
    ledger = outcome.report["ledger"]
    assert verify(str(tmp_path / "out")).problems == []
    assert ledger["records"]["read"] == 4
    assert ledger["records"]["rejected"] == {"reject": 2, "drop-turns": 1, "truncate": 0}[policy]
    if policy == "truncate":
        assert ledger["tokens"]["dropped"] > 0
        assert outcome.report["rules"]["SFT610"]["count"] == 2
    if policy == "drop-turns":
        assert outcome.report["turns_dropped"] > 0
        (ids, _), *_ = documents(tmp_path / "out")[1]
        assert len(ids) <= 120


def test_dropped_turns_are_the_fewest_and_the_oldest(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", [long_chat(12)])
    go(path, tmp_path / "whole", max_length=4096)
    ((ids, labels),) = documents(tmp_path / "whole")[0]
    limit = len(ids) - 1
    outcome = go(path, tmp_path / "cut", max_length=limit, overlong="drop-turns")
    ((short, short_labels),) = documents(tmp_path / "cut")[0]
    assert outcome.report["turns_dropped"] == 2, "one block of user and assistant is enough"
    trained = [label for label in labels if label != -100]
    kept = [label for label in short_labels if label != -100]
    assert trained[-len(kept) :] == kept
    assert len(short) <= limit


def test_a_long_text_is_split_into_marked_pieces(tmp_path: Path) -> None:
    from sftdata.records import DocFlag

    words = " ".join(f"word{n}" for n in range(400))
    outcome = go(write_lines(tmp_path / "in.jsonl", [{"text": words}]), tmp_path / "out", overlong="split")
    assert outcome.sealed
    assert verify(str(tmp_path / "out")).problems == []
    flags = [int(flag) for row in open_dataset(str(tmp_path / "out")).iter_rows("train") for flag in row["doc_flags"]]
    assert sum(not flag & DocFlag.CONTINUES for flag in flags) == 1
    assert sum(not flag & DocFlag.NO_STOP for flag in flags) == 1
    assert all(flag & DocFlag.TEXT for flag in flags)


def test_a_record_of_several_examples_is_marked_and_counted(tmp_path: Path) -> None:
    outcome = go(write_lines(tmp_path / "in.jsonl", [long_chat(3)]), tmp_path / "out", template="qwen3", max_length=512)
    assert len(documents(tmp_path / "out")[0]) == 3
    assert outcome.report["unroll"]["examples_a_record"] == {"3": 1}
    assert outcome.report["rules"]["SFT307"]["count"] == 1
