"""Plan, run and seal as commands of their own: the bytes of `prepare`, in any order, any number of times."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from sftdata.config import PrepareConfig, build_config
from sftdata.errors import ConfigError, OutputError
from sftdata.pipeline.folder import Folder
from sftdata.pipeline.steps import plan_units, run_planned, seal_planned
from tests.pipeline.runs import ROOT, contents, go, parts


def config(inputs: list[Path], out: str) -> PrepareConfig:
    settings = {"tokenizer": "builtin", "template": "chatml", "max_length": 256, "clock": "2026-01-01"}
    return build_config({"inputs": tuple(map(str, inputs)), "out": out, **settings})


def test_steps_in_any_order_give_the_bytes_of_one_run(tmp_path: Path) -> None:
    inputs = parts(tmp_path, 4)
    packed = inputs[2].with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(inputs[2].read_bytes(), mtime=0))
    inputs[2] = packed
    go(inputs, tmp_path / "whole", unit_bytes=1)
    out = str(tmp_path / "out")
    plan = plan_units(config(inputs, out), unit_bytes=1)
    assert len(plan.units) == 4
    assert run_planned(out, [3, 1]) == [3, 1]
    with pytest.raises(OutputError, match=r"2 of 4 units are not done: 0,2\."):
        seal_planned(out)
    assert plan_units(config(inputs, out), unit_bytes=1).fingerprint == plan.fingerprint
    assert run_planned(out, [0, 1, 2, 3]) == [0, 2]
    assert seal_planned(out).sealed
    assert seal_planned(out).unchanged
    assert run_planned(out, [2]) == [], "a task that a scheduler starts late"
    with pytest.raises(OutputError, match=r"sealed already\. Nothing is left to do"):
        plan_units(config(inputs, out), unit_bytes=1)
    assert not (tmp_path / "out" / ".work").exists()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_prepare_goes_on_where_steps_left_off(tmp_path: Path) -> None:
    inputs = parts(tmp_path, 2)
    go(inputs, tmp_path / "whole", unit_bytes=1)
    plan_units(config(inputs, str(tmp_path / "out")), unit_bytes=1)
    assert go(inputs, tmp_path / "out", unit_bytes=1).sealed
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_versions_than_the_plan_are_refused(tmp_path: Path) -> None:
    inputs, out = parts(tmp_path, 1), str(tmp_path / "out")
    plan = plan_units(config(inputs, out), unit_bytes=1)
    Folder(out).write_plan(msgspec.structs.replace(plan, versions={**plan.versions, "pyarrow": "1.2.3"}))
    for step in (lambda: run_planned(out, [0]), lambda: seal_planned(out)):
        with pytest.raises(ConfigError, match=r"pyarrow .* the plan was made with 1\.2\.3"):
            step()


def test_a_unit_that_is_not_planned_is_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(OutputError, match="no plan"):
        run_planned(out, [0])
    plan_units(config(parts(tmp_path, 1), out), unit_bytes=1)
    with pytest.raises(ConfigError, match="no unit 1"):
        run_planned(out, [1])


def test_the_commands_run_from_another_folder_and_take_their_unit_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = parts(tmp_path, 1)
    go(inputs, tmp_path / "whole")
    command = [sys.executable, "-m", "sftdata_cli", "unit"]
    options = ["--tokenizer", "builtin", "--template", "chatml", "--max-length", "256", "--clock", "2026-01-01"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    planned = subprocess.run(
        [*command, "plan", inputs[0].name, "--out", "out", *options], cwd=tmp_path, check=True, capture_output=True
    )
    assert planned.stdout == b"1\n"
    run = [*command, "run", str(tmp_path / "out"), "--index-env", "SLURM_ARRAY_TASK_ID"]
    subprocess.run(run, cwd="/", check=True, capture_output=True)
    subprocess.run([*command, "seal", str(tmp_path / "out")], cwd="/", check=True, capture_output=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    refused = subprocess.run(run, cwd="/", check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "SLURM_ARRAY_TASK_ID" in refused.stderr


def test_units_may_run_at_once_and_nothing_else_beside_them(tmp_path: Path) -> None:
    inputs, out = parts(tmp_path, 2), str(tmp_path / "out")
    plan_units(config(inputs, out), unit_bytes=1)
    with Folder(out).locked(shared=True):
        assert run_planned(out, [0, 1]) == [0, 1]
        with pytest.raises(OutputError, match="another run is working on this folder"):
            go(inputs, out, unit_bytes=1)
        with pytest.raises(OutputError, match="another run is working on this folder"):
            seal_planned(out)
    assert seal_planned(out).sealed


def test_a_file_system_without_locks_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(handle: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    assert go(parts(tmp_path, 1), tmp_path / "out").sealed


def test_temporary_files_of_other_machines_are_left_to_them(tmp_path: Path) -> None:
    inputs, out = parts(tmp_path, 1), tmp_path / "out"
    plan_units(config(inputs, str(out)))
    live, dead = out / ".work" / ".unit-00000-train-00.parquet.1.tmp", out / ".work" / ".plan.json.2.tmp"
    for path in (live, dead):
        path.touch()
    os.utime(dead, (0, 0))
    plan_units(config(inputs, str(out)))
    assert live.exists()
    assert not dead.exists()
