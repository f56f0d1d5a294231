"""Lists of duplicates and mixtures of sources: the plan decides what is taken; it is counted, and always the same."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

import sftdata_schemas
from sftdata.config import SourceOptions, build_config
from sftdata.errors import ConfigError
from sftdata.pipeline.copies import dedup
from sftdata.pipeline.drop import bits_of, dropped_of
from sftdata.pipeline.mixture import passes_of, portions
from sftdata.shards import open_dataset, verify
from sftdata_cli.stats import command as stats_command
from tests.pipeline.runs import chat, contents, go, parts, write_lines


def listed(paths: list[Path], out: Path) -> Path:
    config = {"inputs": tuple(map(str, paths)), "tokenizer": "", "max_length": 2, "out": "-"}
    dedup(build_config(config), out, near=False)
    return out


def copies(folder: Path) -> list[Path]:
    """Three files of 60 chats, of which every third says what the first file said."""
    made = []
    for part in range(3):
        records = [chat(f"What is {n if n % 3 == 0 else (part, n)}?", "A number.") for n in range(60)]
        made.append(write_lines(folder / f"copies-{part}.jsonl", records))
    return made


def rows(folder: Path, split: str = "train") -> list[Any]:
    return list(open_dataset(str(folder)).iter_rows(split))


def taken(folder: Path, split: str = "train") -> Counter[int]:
    """How often each record is in the shards."""
    return Counter(record for row in rows(folder, split) for record in row["record_ids"].tolist())


def test_listed_duplicates_are_counted_and_not_written(tmp_path: Path) -> None:
    paths = copies(tmp_path)
    drop = listed(paths, tmp_path / "drop.parquet")
    outcome = go(paths, tmp_path / "out", drop=str(drop), unit_bytes=1)
    assert outcome.report["ledger"]["records"] == {"read": 180, "written": 140, "rejected": 0, "duplicate": 40}
    ids = set(pq.read_table(drop)["record_id"].to_pylist())
    assert set(taken(tmp_path / "out")) == set(range(180)) - ids
    assert verify(str(tmp_path / "out")).problems == []


def test_the_list_is_part_of_the_fingerprint_and_its_place_is_not(tmp_path: Path) -> None:
    paths = copies(tmp_path)
    drop = listed(paths, tmp_path / "drop.parquet")
    go(paths, tmp_path / "one", drop=str(drop), unit_bytes=1)
    go(paths, tmp_path / "two", drop=str(drop.rename(tmp_path / "moved.parquet")), unit_bytes=1, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    whole = go(paths, tmp_path / "whole")
    assert (
        whole.report["fingerprint"]
        != go(paths, tmp_path / "one", drop=str(tmp_path / "moved.parquet"), fresh=True).report["fingerprint"]
    )


def test_a_list_of_other_inputs_is_refused(tmp_path: Path) -> None:
    paths = copies(tmp_path)
    drop = listed(paths, tmp_path / "drop.parquet")
    for others, says in ((paths[::-1], "its input 1 was copies-0.jsonl"), (paths[:2], "made from 3 inputs")):
        with pytest.raises(ConfigError, match=says):
            go(others, tmp_path / "out", drop=str(drop))
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ({"record_id": [3, 180]}, "holds record_id 180"),
        ({"record_id": [-1]}, "holds record_id -1"),
        ({"record_id": [None, 4]}, "holds record_id null"),
        ({"id": [4]}, "column record_id"),
        ({"record_id": ["four"]}, "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_is_refused(tmp_path: Path, column: dict[str, list[Any]], says: str) -> None:
    pl.DataFrame(column).write_parquet(tmp_path / "drop.parquet")
    with pytest.raises(ConfigError, match=says):
        go(copies(tmp_path), tmp_path / "out", drop=str(tmp_path / "drop.parquet"))


def test_a_list_of_ones_own_is_taken(tmp_path: Path) -> None:
    pl.DataFrame({"record_id": [5, 5, 0]}).write_parquet(tmp_path / "drop.parquet")
    outcome = go(copies(tmp_path), tmp_path / "out", drop=str(tmp_path / "drop.parquet"))
    assert outcome.report["ledger"]["records"]["duplicate"] == 2


@given(st.sets(st.integers(0, 999)), st.integers(0, 500), st.integers(0, 500))
def test_bits_hold_the_ids_of_their_stretch(ids: set[int], first: int, records: int) -> None:
    packed = bits_of(np.array(sorted(ids), np.int64), first, records)
    assert np.flatnonzero(dropped_of(packed, records)).tolist() == sorted(
        i - first for i in ids if first <= i < first + records
    )


def mixed(folder: Path, out: str, *, unit_bytes: int | None = 1, workers: int = 1, **sources: Any) -> dict[str, Any]:
    """A run over parts of 50 chats each as sources."""
    from sftdata.pipeline.run import run_prepare

    options: dict[str, Any] = {"tokenizer": "builtin", "template": "chatml", "max_length": 256, "clock": "2026-01-01"}
    more: dict[str, Any] = {key: sources.pop(key) for key in ("drop", "stats", "seed", "eval") if key in sources}
    config = build_config({"sources": sources, "out": str(folder / out), "workers": workers, **options, **more})
    outcome = run_prepare(config, unit_bytes=unit_bytes)
    assert verify(str(folder / out)).problems == []
    return outcome.report


def test_weights_are_shares_of_records_and_the_scarcest_source_decides(tmp_path: Path) -> None:
    one, two, three = map(str, parts(tmp_path, 3))
    report = mixed(tmp_path, "out", a={"inputs": [one, two], "weight": 1}, b={"inputs": three, "weight": 2})
    sources = report["mixture"]["sources"]
    assert (sources["a"]["taken"], sources["b"]["taken"]) == (25, 50)
    assert report["ledger"]["records"] == {"read": 150, "written": 75, "rejected": 0, "duplicate": 0, "unsampled": 75}
    counts = taken(tmp_path / "out")
    assert sum(record < 100 for record in counts) == 25
    assert set(counts.values()) == {1}


def test_passes_write_a_record_as_often_in_different_bins(tmp_path: Path) -> None:
    one, two = map(str, parts(tmp_path, 2))
    report = mixed(tmp_path, "out", a={"inputs": one, "epochs": 2.5}, b={"inputs": two, "max-records": 10})
    counts = taken(tmp_path / "out")
    assert Counter(counts[record] for record in range(50)) == {2: 25, 3: 25}
    assert sum(record >= 50 for record in counts) == 10
    ledger = report["ledger"]
    assert ledger["records"] == {"read": 100, "written": 60, "rejected": 0, "duplicate": 0, "unsampled": 40}
    assert ledger["examples"]["written"] == counts.total() == 135
    written = [one["written"] for one in report["mixture"]["sources"].values()]
    assert [one["records"] for one in written] == [50, 10]
    assert sum(one["tokens"] for one in written) == ledger["tokens"]["written"]
    assert sum(one["trained"] for one in written) == ledger["tokens"]["trained"]
    for row in rows(tmp_path / "out"):
        assert len(set(row["record_ids"].tolist())) == len(row["record_ids"])


def test_the_choice_is_that_of_the_plan_whoever_does_the_work(tmp_path: Path) -> None:
    one, two = map(str, parts(tmp_path, 2))
    sources: dict[str, Any] = {"a": {"inputs": one, "weight": 2, "epochs": 1.7}, "b": {"inputs": two, "weight": 1}}
    mixed(tmp_path, "one", **sources)
    mixed(tmp_path, "two", workers=2, **sources)
    mixed(tmp_path, "big", unit_bytes=None, **sources)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert taken(tmp_path / "one") == taken(tmp_path / "big")
    mixed(tmp_path, "other", seed=1, **sources)
    assert taken(tmp_path / "one") != taken(tmp_path / "other")


def test_manifest_and_report_of_a_mixture_are_what_their_schemas_say(tmp_path: Path) -> None:
    one, two = map(str, parts(tmp_path, 2))
    mixed(tmp_path, "out", a={"inputs": one, "weight": 1}, b={"inputs": two, "weight": 3, "epochs": 1.5})
    for name in ("manifest", "report"):
        document = json.loads((tmp_path / "out" / f"{name}.json").read_bytes())
        jsonschema_rs.validator_for(sftdata_schemas.load(name)).validate(document)
    document["mixture"]["sources"]["a"]["taken"] = -1
    assert not jsonschema_rs.validator_for(sftdata_schemas.load("report")).is_valid(document)
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")


def test_held_out_records_are_held_out_once(tmp_path: Path) -> None:
    one, two = map(str, parts(tmp_path, 2))
    mixed(tmp_path, "out", eval="0.2", a={"inputs": one, "epochs": 3}, b={"inputs": two})
    held = taken(tmp_path / "out", "eval")
    assert set(held.values()) == {1}
    assert held.keys().isdisjoint(taken(tmp_path / "out"))


def test_duplicates_are_in_no_pass(tmp_path: Path) -> None:
    paths = copies(tmp_path)
    drop = listed(paths, tmp_path / "drop.parquet")
    sources: dict[str, Any] = {path.stem: {"inputs": str(path), "epochs": 2} for path in paths}
    report = mixed(tmp_path, "out", drop=str(drop), **sources)
    assert report["ledger"]["records"] == {"read": 180, "written": 140, "rejected": 0, "duplicate": 40}
    assert set(taken(tmp_path / "out").values()) == {2}


def test_weights_count_the_tokens_of_a_named_stats_run(tmp_path: Path) -> None:
    short = write_lines(tmp_path / "short.jsonl", [chat(f"{n}?", "No.") for n in range(400)])
    long = write_lines(tmp_path / "long.jsonl", [chat(f"{n}?", "It is so. " * 20) for n in range(400)])
    arguments = [short, long, "--tokenizer", "builtin", "--template", "chatml", "--output", tmp_path / "stats.parquet"]
    CliRunner().invoke(stats_command, [*map(str, arguments), "-q"], catch_exceptions=False, standalone_mode=False)
    sources: dict[str, Any] = {
        name: {"inputs": str(path), "weight": 1} for name, path in (("short", short), ("long", long))
    }
    report = mixed(tmp_path, "out", stats=str(tmp_path / "stats.parquet"), **sources)["mixture"]
    assert report["weights_count"] == "tokens"
    assert report["sources"]["short"]["taken"] == 400
    assert abs(report["sources"]["short"]["share_of_tokens"] - 0.5) < 0.01
    (tmp_path / "short.jsonl").write_text(json.dumps(chat("a", "b")) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"did not count short\.jsonl"):
        mixed(tmp_path, "again", stats=str(tmp_path / "stats.parquet"), **sources)


def _stretches(records: list[int]) -> list[tuple[int, int]]:
    """(first id, records) of every source."""
    return [(sum(records[:place]), count) for place, count in enumerate(records)]


OPTIONS = st.builds(
    SourceOptions,
    inputs=st.just(("x",)),
    weight=st.floats(0.5, 10),
    epochs=st.floats(0.5, 4),
    max_records=st.none() | st.integers(100, 300),
)


@given(
    st.lists(st.tuples(OPTIONS, st.integers(20, 400)), min_size=1, max_size=4),
    st.integers(),
    st.sets(st.integers(0, 500), max_size=15),
)
def test_exactly_as_many_are_taken_as_planned_and_none_beyond_its_limits(
    given_sources: list[tuple[SourceOptions, int]], seed: int, gone: set[int]
) -> None:
    sources = {str(place): one for place, (one, _) in enumerate(given_sources)}
    records = [count for _, count in given_sources]
    dropped = np.array(sorted(one for one in gone if one < sum(records)), np.int64)
    smallest = min(count - sum(first <= one < first + count for one in gone) for first, count in _stretches(records))
    assume(smallest > 0)
    mixture = portions(sources, records, dropped, seed=seed)
    scale = {one.taken / one.weight for one in mixture}
    for one in mixture:
        ids = np.setdiff1d(np.arange(one.first_record, one.first_record + one.records), dropped)
        times = passes_of(one, ids, seed)
        assert times.sum() == one.taken
        assert times.max() - times.min() <= 1
        assert (times == 0).sum() == one.left_out
        assert one.taken <= sources[one.name].epochs * len(ids)
        assert one.taken <= (sources[one.name].max_records or one.taken)
        assert all(
            abs(one.taken - weight * one.weight) <= 1 + one.weight / min(o.weight for o in mixture) for weight in scale
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sources": {"a": {"inputs": "x", "wieght": 1}}}, "did you mean weight?"),
        ({"sources": {"a": {"weight": 1}}}, "inputs is missing"),
        ({"sources": {"a": {"inputs": "x"}}, "inputs": ("y",)}, "both inputs and sources"),
        ({"sources": ["a"]}, "no mapping"),
        ({"sources": {"a": {"inputs": "x", "weight": 0}}}, "weight of a is 0"),
        ({"sources": {"a": {"inputs": "x", "epochs": -1}}}, "epochs of a is -1"),
        ({"inputs": ("x",), "stats": "s.parquet"}, "without sources"),
    ],
)
def test_wrong_sources_are_refused_by_name(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_config({"tokenizer": "builtin", "max_length": 64, "out": "o", **options})


def test_weights_are_given_to_all_sources_or_to_none(tmp_path: Path) -> None:
    one, two = map(str, parts(tmp_path, 2))
    with pytest.raises(ConfigError, match="b has no weight"):
        mixed(tmp_path, "out", a={"inputs": one, "weight": 1}, b={"inputs": two})
