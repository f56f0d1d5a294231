"""The benchmark for a GPU loses nothing that it has measured, and names what it has not."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_cases import Case, Run, timed


def went(seconds):
    return lambda bench: Run(seconds, [1.0], 0, 0)


def fails(error):
    def go(bench):
        raise error

    return go


CASES = (
    Case("measured", (), went([0.5, 0.5])),
    Case("too large", (), fails(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n9.28 GiB"))),
    Case("moved", (), fails(AttributeError("module 'trl' has no attribute 'SFTTrainer'"))),
    Case("without words", (), fails(AssertionError())),
    Case("not there", ("no_such_package",), went([1.0])),
    Case("stopped", (), went([])),
    Case("measured after all", (), went([0.25, 0.25])),
)


def lines(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(gpu, "CASES", CASES)
    monkeypatch.setattr(sys, "argv", ["gpu", "--smoke", *map(str, arguments)])
    gpu.main()
    out = capsys.readouterr().out
    return {case.name: next(each for each in out.splitlines() if each.startswith(f"{case.name}  ")) for case in CASES}


def test_a_case_that_fails_is_a_line_and_the_others_are_measured(tmp_path, monkeypatch, capsys):
    found = lines(monkeypatch, capsys, "--out", tmp_path / "gpu.json")
    assert "1,024 " in found["measured"]
    assert "2,048 " in found["measured after all"]
    assert "OutOfMemoryError: CUDA out of memory. Tried to allocate" in found["too large"]
    assert "AttributeError: module 'trl' has no attribute" in found["moved"]
    assert found["without words"].endswith("AssertionError: ")
    assert "no_such_package is not installed" in found["not there"]
    assert "no time left" in found["stopped"]
    kept = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["cases"]
    assert [each["case"] for each in kept] == [case.name for case in CASES]


def test_what_was_measured_is_on_disk_when_a_later_case_is_killed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "CASES", (CASES[0], Case("killed", (), fails(KeyboardInterrupt()))))
    monkeypatch.setattr(sys, "argv", ["gpu", "--smoke", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(KeyboardInterrupt):
        gpu.main()
    assert [each["case"] for each in json.loads((tmp_path / "gpu.json").read_text("utf-8"))["cases"]] == ["measured"]
    assert "1,024 " in capsys.readouterr().out


def test_no_case_and_no_step_begins_after_the_time(monkeypatch, capsys):
    found = lines(monkeypatch, capsys, "--minutes", 0)
    assert all("no time left" in line for name, line in found.items() if name != "not there")
    bench = gpu.Bench("tiny", 512, None, None, torch.device("cpu"), 2, 1, 50, 1, 256, time.perf_counter() + 0.05)
    run = timed(bench, lambda at: time.sleep(0.02) or 0.0)
    assert 1 <= len(run.seconds) < 10
