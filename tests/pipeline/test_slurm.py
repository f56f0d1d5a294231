"""The example script for Slurm, with a scheduler that runs what it is given at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.pipeline.runs import ROOT, contents, go, parts

_SBATCH = """#!{python}
import os, subprocess, sys
options = dict(one.partition("=")[::2] for one in sys.argv[1:])
last = options["--array"].partition("%")[0].partition("-")[2] if "--array" in options else None
if last is None:
    assert options["--dependency"] == "afterok:17"
for task in range(int(last) + 1) if last else [None]:
    variables = {{}} if task is None else {{"SLURM_ARRAY_TASK_ID": str(task)}}
    done = subprocess.run(["sh", "-c", options["--wrap"]], env={{**os.environ, **variables}}, capture_output=True)
    sys.stderr.buffer.write(done.stderr)
    assert done.returncode == 0
print(17)
"""
"""Runs the tasks of an array one after another and calls the job 17."""


def test_the_example_script_gives_the_bytes_of_prepare(tmp_path: Path) -> None:
    inputs = parts(tmp_path, 2)
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "sbatch").write_text(_SBATCH.format(python=sys.executable), encoding="utf-8")
    (commands / "sftdata").write_text(f'#!/bin/sh\nexec {sys.executable} -m sftdata_cli "$@"\n', encoding="utf-8")
    for command in commands.iterdir():
        command.chmod(0o755)
    options = {"tokenizer": "builtin", "template": "chatml", "max-length": 256, "clock": "2026-01-01"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"inputs": [str(path) for path in inputs], **options}), encoding="utf-8")
    environment = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    script = ROOT / "examples" / "slurm" / "prepare.sh"
    done = subprocess.run(
        [str(script), str(recipe), str(tmp_path / "out")],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    go(inputs, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
