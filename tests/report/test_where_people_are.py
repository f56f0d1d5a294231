"""Where people already are: the hook, the workflow step, and a dataset card that `datasets` loads."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from sftdata_cli.check import command as check_command
from sftdata_cli.commands import command as cli
from tests.pipeline.runs import chat, go, write_lines

ROOT = Path(__file__).resolve().parents[2]
GOOD, BAD = [chat("Hi", "Hello.")], [chat("Hi", "")]


def test_the_hook_takes_the_files_of_a_commit(tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert [
        name for name in ("a.jsonl", "b.json", "c.csv", "d.parquet", "e.py", "jsonl") if re.search(hook["files"], name)
    ] == [*("a.jsonl", "b.json", "c.csv", "d.parquet")]
    program, name, *flags = shlex.split(hook["entry"])
    assert (program, name) == ("sftdata", "check")
    good, bad = write_lines(tmp_path / "good.jsonl", GOOD), write_lines(tmp_path / "bad.jsonl", BAD)
    for files, code in (([good], 0), ([good, bad], 1)):
        done = CliRunner().invoke(check_command, [*flags, *map(str, files)], standalone_mode=False)
        assert done.return_value == code
    assert done.output.startswith("bad.jsonl:1:/messages/1: SFT108 [error]")


def commands() -> list[list[str]]:
    """Every `sftdata` command line of the page about continuous integration and of the one about checks."""
    found = []
    for name in ("github-action.md", "check.md"):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        found += re.findall(
            r"(?:run: |^|`)(sftdata (?:check|stats|dedup|split|rule|inspect|prepare)[^`#\n]*)", page, re.MULTILINE
        )
    return [shlex.split(line.replace("…", "chats.jsonl")) for line in found]


@pytest.mark.parametrize("line", commands(), ids=" ".join)
def test_the_command_lines_of_the_pages_are_understood(line: list[str]) -> None:
    command: Any = cli.get_command(click.Context(cli), line[1])
    command.make_context(line[1], line[2:])


def test_the_steps_of_the_workflow_are_steps() -> None:
    page = (ROOT / "docs" / "github-action.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    steps = [
        step
        for block in blocks
        for step in (block if isinstance(block, list) else block.get("jobs", {}).get("data", {}).get("steps", []))
    ]
    assert len(steps) >= 5
    assert all("uses" in step or "run" in step for step in steps)


def test_the_card_of_a_dataset_is_what_datasets_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    records = [chat(f"What is {n} plus {n}?", f"It is {2 * n}.") for n in range(300)]
    out = tmp_path / "out"
    go(write_lines(tmp_path / "in.jsonl", records), out, eval="0.1")
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    manifest = json.loads((out / "manifest.json").read_bytes())
    for split, files in manifest["files"].items():
        assert loaded[split].num_rows == sum(one["rows"] for one in files) > 0
        shard = pq.read_table(out / files[0]["name"]).to_pylist()
        assert loaded[split][0] == shard[0]
    features = loaded["train"].features
    assert features["input_ids"].feature.dtype == "int32"
    assert features["record_ids"].feature.dtype == "int64"
    front = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert {one["name"] for one in front["dataset_info"]["splits"]} == set(loaded)
    assert {one["name"] for one in front["dataset_info"]["features"]} == set(features)
