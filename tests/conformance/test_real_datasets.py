"""Every real file becomes shards or named rejections, whatever the tokenizer: nothing crashes, the ledger closes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sftdata.config import build_config
from sftdata.pipeline.run import run_prepare
from sftdata.pipeline.seal import Outcome
from sftdata.rules import RULES
from sftdata.shards import verify

SETUPS: dict[str, dict[str, Any]] = {
    "minimind": {},
    "qwen2.5": {"template": "qwen2.5"},
    "phi-3-mini": {"template": "phi-3", "stop": ("<|end|>",)},
    "mistral-v1": {"template": "mistral", "bos_token": "<s>", "eos_token": "</s>"},
}


def files(data: Path) -> list[Path]:
    return sorted(path for path in (data / "datasets").rglob("*.json*"))


def go(inputs: list[Path], out: Path, tokenizer: Path, **options: Any) -> Outcome:
    settings = {"max_length": 4096, "clock": "2026-01-01", "max_reject_rate": 1.0, **options}
    names = tuple(map(str, inputs))
    return run_prepare(build_config({"inputs": names, "out": str(out), "tokenizer": str(tokenizer), **settings}))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith("report.")}


@pytest.mark.parametrize("name", SETUPS)
def test_all_real_files_become_a_sound_dataset_with_a_closed_ledger(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    tokenizer = shared_data / "tokenizers" / name
    outcome = go(files(shared_data), tmp_path / "out", tokenizer, **SETUPS[name])
    assert outcome.sealed
    assert verify(str(tmp_path / "out")).problems == []
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_bytes().splitlines()]
    assert len(lines) == outcome.report["ledger"]["records"]["rejected"]
    assert all(RULES[line["findings"][0]["code"]] and line["findings"][0]["fix"] for line in lines)
    go(files(shared_data), tmp_path / "again", tokenizer, **SETUPS[name])
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


EXPECTED_REJECTIONS = {
    "alpaca/azureml_prompt_completion.jsonl": {},
    "messages/azureml_train_math.jsonl": {"SFT106": 378},
    "other/llamafactory_kto_en_demo.json": {"SFT124": 300},
    "other/llamafactory_mllm_demo.json": {"SFT122": 6},
    "sharegpt/axolotl_conversation_missingturns.json": {"SFT108": 1},
    "other/llamafactory_dataset_info.json": {"SFT125": 1},
}
"""What the README beside the data says is special about each, as the rule that names it."""


def test_each_real_file_alone_ends_under_the_rule_that_names_its_quirk(shared_data: Path, tmp_path: Path) -> None:
    for place, path in enumerate(files(shared_data)):
        out = tmp_path / str(place)
        outcome = go([path], out, shared_data / "tokenizers" / "minimind", max_length=40_000)
        ledger = outcome.report["ledger"]
        name = path.relative_to(shared_data / "datasets").as_posix()
        assert ledger["rejections"] == EXPECTED_REJECTIONS.get(name, {}), name
        assert outcome.sealed == (ledger["records"]["written"] > 0), name


def test_a_stop_spelled_in_every_reply_is_refused_by_name_or_stripped(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "datasets" / "alpaca" / "azureml_prompt_completion.jsonl"
    options = {"template": "chatml", "stop": ("<|endoftext|>",)}
    tokenizer = shared_data / "tokenizers" / "qwen2.5"
    refused = go([path], tmp_path / "refused", tokenizer, **options)
    assert refused.report["ledger"]["rejections"] == {"SFT415": 408}
    stripped = go([path], tmp_path / "stripped", tokenizer, strip_trailing_stop=True, **options)
    assert stripped.sealed
    assert stripped.report["rules"]["SFT422"]["count"] == 408
