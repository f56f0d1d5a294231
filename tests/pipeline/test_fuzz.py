"""Broken lines and records: each is written or rejected by name, none ends the run, none is lost."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fuzz import fuzz


def test_every_broken_line_is_accounted_for(tmp_path: Path) -> None:
    outcomes = fuzz(6_000, tmp_path, seed=0, a_file=1_000)
    assert outcomes["records"] > 5_800
    assert 500 < outcomes["written"] < 5_000
    assert len(outcomes) > 25, "many rules are met"
