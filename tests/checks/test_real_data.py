"""Real public data: every known quirk under its rule, and next to nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sftdata.config import build_config
from sftdata.pipeline.check import check

QWEN = "tokenizers/qwen2.5"

QUIRKS: dict[str, dict[str, int]] = {
    "alpaca/azureml_prompt_completion.jsonl": {"SFT423": 408},
    "alpaca/llamafactory_identity.json": {"SFT714": 85},
    "messages/azureml_train_math.jsonl": {"SFT106": 378},
    "messages/openai_toy_chat_fine_tuning.jsonl": {"SFT708": 1, "SFT111": 1},
    "sharegpt/axolotl_conversation_missingturns.json": {"SFT108": 1},
    "tools/llamafactory_glaive_toolcall_en.json": {"SFT701": 35},
    "tools/openai_drone_training.jsonl": {},
    "other/llamafactory_kto_en_demo.json": {"SFT124": 300},
    "other/llamafactory_mllm_demo.json": {"SFT122": 6},
    "multilingual/luotuo_developer_instruction.json": {},
    "messages/tinker_conversations.jsonl": {},
}
QUIET = ("SFT005", "SFT007", "SFT010", "SFT111", "SFT707", "SFT708", "SFT709", "SFT710", "SFT712", "SFT714")
"""Rules that must say nothing about these files but what is listed."""


def counts(path: Path, **options: Any) -> Counter[str]:
    config = build_config({"inputs": (str(path),), "out": "-", "tokenizer": "", "max_length": 1 << 20, **options})
    with check(config) as checked:
        return Counter(found.code for found in checked.findings())


@pytest.mark.parametrize("name", QUIRKS)
def test_known_quirks_are_found_and_quiet_rules_stay_quiet(shared_data: Path, name: str) -> None:
    served = {"tokenizer": str(shared_data / QWEN)} if {"SFT423"} & set(QUIRKS[name]) else {}
    found = counts(shared_data / "datasets" / name, **served)
    for code, count in QUIRKS[name].items():
        assert found[code] == count, f"{code}: {dict(found)}"
    loud = {code: found[code] for code in QUIET if found[code] and code not in QUIRKS[name]}
    if name.startswith("tools/llamafactory_glaive"):
        assert loud == {"SFT710": 1}  # one reply of its 957 does end inside a code fence
    else:
        assert not loud


def test_wrongly_decoded_text_in_public_data_is_found(shared_data: Path) -> None:
    assert counts(shared_data / "datasets" / "alpaca" / "gpteacher_codegen.json")["SFT006"] == 2
