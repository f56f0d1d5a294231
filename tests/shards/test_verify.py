"""Every invariant has a forgery that breaks it alone, with all hashes right, and `verify` names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sftdata.records import DocFlag
from sftdata.rules import RULES
from sftdata.shards import SCHEMA, open_dataset, verify
from tests.shards.sealing import (
    CAPACITY,
    CHAT,
    SEVERAL,
    STOP,
    Draft,
    base,
    change_manifest,
    forge,
    reject_lines,
    rows_of,
    seal,
)

Doc = tuple[int, list[int], list[int], int]


def codes(folder: Path) -> set[str]:
    return {problem.code for problem in verify(folder).problems}


def test_a_sound_dataset_has_no_problem_and_says_what_was_looked_at(tmp_path: Path) -> None:
    result = verify(seal(tmp_path))
    assert result.problems == []
    assert result.sound
    assert result.checked == {
        "files": 3,
        "rows": 5,
        "documents": 8,
        "tokens": 34,
        "trained tokens": 21,
        "records": 8,
        "rejected records": 2,
        "partial records": 1,
    }


def first_document(document: Doc) -> Callable[[Draft], None]:
    """Put this in the place of record 0's document, and let the ledger agree with it."""

    def change(draft: Draft) -> None:
        draft.files["train"][0] = rows_of([[document], [(2, [5, STOP], [0, 1], 8), (2, [6, STOP], [0, 1], 8)], TEXT])
        tokens = draft.manifest["ledger"]["tokens"]
        every = [rows for parts in draft.files.values() for rows in parts]
        tokens["written"] = sum(len(rows.input_ids) for rows in every)
        tokens["trained"] = sum(int((rows.labels != -100).sum()) for rows in every)
        tokens["rendered"] = tokens["written"] + tokens["dropped"]

    return change


TEXT: list[Doc] = [(3, [1, 11, STOP], [0, 1, 1], DocFlag.TEXT)]


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ((0, [5, 7, STOP], [0, 1, 1], 0), None),
        ((0, [5, 7], [0, 1], 0), "SFT813"),
        ((0, [5, 7, 8, STOP, 9, STOP], [0, 1, 0, 0, 1, 1], 0), "SFT813"),
        ((0, [5, 7, 8, STOP, 9, 9], [0, 1, 0, 0, 1, 1], DocFlag.NO_STOP), "SFT813"),
        ((0, [5, 7, STOP, 8, 9, 9], [0, 1, 1, 0, 1, 1], DocFlag.NO_STOP), None),
        ((0, [5, 7, STOP], [0, 0, 0], 0), "SFT503"),
        ((0, [5, 7, STOP], [0, 0, 1], DocFlag.TEXT), "SFT606"),
        ((0, [5, 7, 8], [0, 1, 1], DocFlag.TEXT), "SFT813"),
        ((0, [5, 7, STOP], [0, 1, 1], DocFlag.CONTINUES), "SFT801"),
        ((0, [5, 7, STOP], [0, 1, 1], 16), "SFT801"),
        ((0, [5, *[7] * (CAPACITY - 1), STOP], [0, *[1] * CAPACITY], 0), "SFT607"),
        ((0, [5, 41, STOP], [0, 1, 1], 0), "SFT803"),
        ((0, [5, -1, STOP], [0, 1, 1], 0), "SFT803"),
        ((8, [5, 7, STOP], [0, 1, 1], 0), "SFT808"),
        ((-1, [5, 7, STOP], [0, 1, 1], 0), "SFT808"),
        ((1, [5, 7, STOP], [0, 1, 1], 0), "SFT808"),
        ((3, [5, 7, STOP], [0, 1, 1], 0), "SFT808"),
        ((6, [5, 7, STOP], [0, 1, 1], 0), "SFT705"),
    ],
)
def test_every_law_of_documents_is_checked(tmp_path: Path, document: Doc, code: str | None) -> None:
    draft = base()
    first_document(document)(draft)
    found = codes(seal(tmp_path, draft))
    assert code in found if code else not found


def test_eos_ends_a_text_where_the_stop_set_lacks_it(tmp_path: Path) -> None:
    draft = base()
    draft.manifest["tokenizer"]["stop_token_ids"] = [7]
    assert {problem.place for problem in verify(seal(tmp_path, draft)).problems} == {
        "row group 0, row 0, record 0",
        "row group 0, row 1, record 5",
        "row group 0, row 0, record 6",
    }


def test_everything_trained_needs_no_stop_but_all_labels(tmp_path: Path) -> None:
    draft = base()
    first_document((0, [5, 6, 7], [0, 1, 1], 0))(draft)
    draft.manifest["config"]["train_on"] = "everything"
    found = verify(seal(tmp_path, draft)).problems
    assert {(one.code, one.place) for one in found} == {("SFT606", "row group 0, row 1, record 5")}


def test_a_text_ends_in_a_stop_also_where_everything_is_trained(tmp_path: Path) -> None:
    draft = base()
    first_document((0, [5, 6, 7], [0, 1, 1], DocFlag.TEXT))(draft)
    draft.manifest["config"]["train_on"] = "everything"
    found = {(one.code, one.place) for one in verify(seal(tmp_path, draft)).problems}
    assert ("SFT813", "row group 0, row 0, record 0") in found


@pytest.mark.parametrize("flags", [(0, SEVERAL), (SEVERAL, 0), (0, 0), (SEVERAL, SEVERAL)])
@pytest.mark.parametrize("apart", [False, True])
def test_a_record_written_again_is_one_of_several_both_times(
    tmp_path: Path, flags: tuple[int, int], apart: bool
) -> None:
    """In one row group and in two; only where both say so may a record have two documents."""
    one, two = ((0, [5, 6, 7, 8, 9, 10, 11, 12, STOP], [0, 0, 0, 0, 0, 0, 0, 1, 1], mark) for mark in flags)
    draft = base()
    draft.files = {"train": [rows_of([[one], [two]] if apart else [[one, two]])], "eval": []}
    if not apart:
        draft.manifest["config"]["max_length"] = 2 * CAPACITY
    twice = [problem for problem in verify(seal(tmp_path, draft)).problems if "written twice" in problem.message]
    assert bool(twice) == (flags != (SEVERAL, SEVERAL))
    assert len(open_dataset(tmp_path).files[0].row_groups) == 1 + apart


def test_damage_is_named_with_its_place(tmp_path: Path) -> None:
    """The row group, the footer or the head that holds the flipped bit, and nothing else of the file."""
    seal(tmp_path)
    file = open_dataset(tmp_path).files[0]
    path = tmp_path / file.name
    sound = path.read_bytes()
    for place, byte in (
        ("row group 0", file.row_groups[0].offset),
        ("row group 1", file.row_groups[1].offset + file.row_groups[1].bytes - 1),
        ("footer", file.bytes - 1),
        ("", 0),
    ):
        path.write_bytes(sound[:byte] + bytes([sound[byte] ^ 16]) + sound[byte + 1 :])
        found = [(one.code, one.place) for one in verify(tmp_path).problems]
        assert found == [("SFT802", place)]


def set_cell(row: int, column: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[row][column] = value

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (set_cell(0, "labels", [-100] * 12), "SFT606"),
        (set_cell(0, "seq_lengths", [4, 3, 7]), "SFT606"),
        (set_cell(0, "seq_lengths", [4, 0, 9]), "SFT606"),
        (set_cell(0, "seq_lengths", [4, -1, 10]), "SFT606"),
        (set_cell(0, "record_ids", [0, 2]), "SFT606"),
        (set_cell(0, "doc_flags", [0, 0, 0, 0]), "SFT606"),
        (set_cell(0, "num_tokens", 12), "SFT606"),
        (set_cell(0, "num_loss_tokens", 1), "SFT606"),
        (set_cell(1, "labels", [-100, 11, 12, 14, STOP]), "SFT809"),
        (set_cell(1, "labels", [1, 11, 12, 13, STOP]), "SFT605"),
        (lambda rows: rows[1].update(input_ids=[], labels=[], seq_lengths=[], record_ids=[], doc_flags=[]), "SFT606"),
    ],
)
def test_columns_that_disagree_are_caught_by_verify_and_by_the_reader(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], code: str
) -> None:
    forge(seal(tmp_path), change)
    assert code in codes(tmp_path)
    with pytest.raises(ValueError, match=code):
        list(open_dataset(tmp_path).iter_rows())


def test_another_column_or_type_is_no_shard(tmp_path: Path) -> None:
    spare = SCHEMA.append(pa.field("spare", pa.int32()))
    forge(seal(tmp_path / "more"), lambda rows: [row.update(spare=1) for row in rows], spare)
    wide = SCHEMA.set(0, pa.field("input_ids", pa.list_(pa.field("element", pa.int64(), nullable=False)), False))
    forge(seal(tmp_path / "wide"), lambda rows: None, wide)
    for folder in ("more", "wide"):
        assert "SFT801" in codes(tmp_path / folder)
        with pytest.raises(ValueError, match="SFT801"):
            list(open_dataset(tmp_path / folder).iter_rows())


def count(*path: str, by: int) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        for key in path[:-1]:
            body = body[key]
        body[path[-1]] += by

    return change


@pytest.mark.parametrize(
    "path",
    [
        *(("ledger", "records", name) for name in ("read", "written", "rejected", "duplicate")),
        ("ledger", "examples", "written"),
        *(("ledger", "tokens", name) for name in ("rendered", "written", "dropped", "trained")),
        *(("ledger", "rejections", name) for name in ("SFT106", "SFT601")),
        ("tokenizer", "largest_id"),
    ],
)
def test_every_count_of_the_ledger_is_derived_anew(tmp_path: Path, path: tuple[str, ...]) -> None:
    change_manifest(seal(tmp_path), count(*path, by=1))
    assert codes(tmp_path) == {"SFT808"}


def test_counts_that_are_wrong_together_are_caught_by_the_rows(tmp_path: Path) -> None:
    """The ledger closes and is not that of these rows."""

    def change(body: dict[str, Any]) -> None:
        for name in ("read", "written"):
            body["ledger"]["records"][name] += 1
        body["inputs"][0]["records"] += 1
        for name in ("rendered", "written"):
            body["ledger"]["tokens"][name] += 1

    change_manifest(seal(tmp_path), change)
    assert {problem.message.split(":")[0] for problem in verify(tmp_path).problems} == {
        "records written",
        "tokens written",
    }


@pytest.mark.parametrize(
    "codes_by_record",
    [{1: "SFT106"}, {1: "SFT106", 7: "SFT601", 9: "SFT601"}, {1: "SFT106", 7: "SFT999"}, {0: "SFT106", 7: "SFT601"}],
)
def test_the_reject_file_agrees_with_ledger_and_rows(tmp_path: Path, codes_by_record: dict[int, str]) -> None:
    draft = base()
    draft.sidecars["rejected.jsonl"] = reject_lines(codes_by_record)
    assert codes(seal(tmp_path, draft)) == {"SFT808"}


@pytest.mark.parametrize("line", [b"{}", b"\xff", b'{"record_id": 1, "findings": []}', b"[" * 100_000])
def test_a_line_that_is_no_reject_is_named(tmp_path: Path, line: bytes) -> None:
    draft = base()
    draft.sidecars["rejected.jsonl"] += line + b"\n"
    problems = verify(seal(tmp_path, draft)).problems
    assert [(one.code, one.place) for one in problems] == [("SFT808", "line 3")]


def test_a_record_twice_rejected_or_partly_lost_without_rows_is_named(tmp_path: Path) -> None:
    draft = base()
    draft.sidecars["partial.jsonl"] = reject_lines({1: "SFT601"})
    draft.sidecars["rejected.jsonl"] *= 2
    problems = verify(seal(tmp_path, draft)).problems
    assert {one.message for one in problems if one.place} == {
        "record 1 is rejected twice",
        "record 7 is rejected twice",
        "record 1 is not written at all",
    }


def test_rejected_records_without_their_file_are_a_problem(tmp_path: Path) -> None:
    draft = base()
    del draft.sidecars["rejected.jsonl"]
    assert codes(seal(tmp_path, draft)) == {"SFT807"}


def test_a_changed_template_text_is_caught(tmp_path: Path) -> None:
    change_manifest(seal(tmp_path), lambda body: body["template"]["sources"].update(default="other"))
    assert codes(tmp_path) == {"SFT803"}


def test_no_rows_is_not_sound(tmp_path: Path) -> None:
    draft = base()
    draft.files = {"train": [], "eval": []}
    assert "SFT810" in codes(seal(tmp_path, draft))


def test_a_shard_of_another_run_is_foreign_though_its_hashes_fit(tmp_path: Path) -> None:
    draft = base()
    draft.footer = {"fingerprint": "f" * 64}
    assert codes(seal(tmp_path, draft)) == {"SFT811"}
    with pytest.raises(ValueError, match="SFT811"):
        list(open_dataset(tmp_path).iter_rows())


@pytest.mark.parametrize("name", ["train-00002-of-00003.parquet", "eval-00001-of-00002.parquet", "extra.parquet"])
def test_a_file_that_a_glob_would_find_is_foreign(tmp_path: Path, name: str) -> None:
    seal(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / "train-00000-of-00002.parquet").read_bytes())
    assert [(one.code, one.file) for one in verify(tmp_path).problems] == [("SFT811", name)]


def test_a_partial_file_that_the_manifest_does_not_name_is_foreign(tmp_path: Path) -> None:
    draft = base()
    del draft.sidecars["partial.jsonl"]
    (seal(tmp_path, draft) / "partial.jsonl").write_bytes(reject_lines({2: "SFT601"}))
    assert codes(tmp_path) == {"SFT811"}


def test_an_unsealed_run_is_named_as_one(tmp_path: Path) -> None:
    assert codes(tmp_path) == {"SFT807"}
    (tmp_path / ".work").mkdir()
    assert codes(tmp_path) == {"SFT812"}
    assert codes(tmp_path / "nowhere") == {"SFT807"}


def test_every_problem_has_a_rule_and_every_message_a_fix(tmp_path: Path) -> None:
    draft = base()
    draft.files["train"][0] = rows_of([[CHAT], [CHAT]])
    problems = verify(seal(tmp_path, draft)).problems
    assert problems
    for problem in problems:
        assert problem.code in RULES
        assert str(problem.error("out")).endswith(".")


def test_a_great_number_of_records_costs_little_memory(tmp_path: Path) -> None:
    draft = base()
    draft.manifest["inputs"][1]["records"] += 10**8
    draft.manifest["ledger"]["records"]["read"] += 10**8
    draft.manifest["ledger"]["records"]["duplicate"] += 10**8
    assert verify(seal(tmp_path, draft)).sound
