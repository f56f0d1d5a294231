"""Broken lines and records: each is written or rejected by name, none ends the run, none is lost."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fuzz import fuzz
from benchmarks.fuzz_files import fuzz_files


def test_every_broken_line_is_accounted_for(tmp_path: Path) -> None:
    outcomes = fuzz(6_000, tmp_path, seed=0, a_file=1_000)
    assert outcomes["records"] > 5_800
    assert 500 < outcomes["written"] < 5_000
    assert len(outcomes) > 25, "many rules are met"


def test_every_damaged_file_ends_in_a_dataset_or_in_words(tmp_path: Path) -> None:
    outcomes = fuzz_files(30, tmp_path, seed=0)
    assert set(outcomes) == {"sealed", "refused", "InputError"}
