"""Every file of real records: each known quirk comes out as the right rule, and nothing else is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sftdata.formats import dataset_info, normalise, to_messages
from sftdata.records import Conversation, Rejection

EXPECTED: dict[str, tuple[str, int, dict[str, int]]] = {
    # file: the format of what is read (or the rule that refuses all of it), records, other findings
    "alpaca/azureml_prompt_completion.jsonl": ("prompt-completion", 408, {}),
    "alpaca/cleaned_roleplay.json": ("alpaca", 3146, {"SFT123": 3}),
    "alpaca/gpteacher_codegen.json": ("alpaca", 4535, {}),
    "alpaca/litgpt_dolly.json": ("alpaca", 12, {"SFT116": 12}),
    "alpaca/llamafactory_identity.json": ("alpaca", 91, {}),
    "messages/azureml_chat_train.jsonl": ("messages", 128, {}),
    "messages/azureml_train_conversation.jsonl": ("messages", 100, {}),
    "messages/azureml_train_math.jsonl": ("SFT106", 378, {}),
    "messages/openai_toy_chat_fine_tuning.jsonl": ("messages", 5, {}),
    "messages/tinker_conversations.jsonl": ("messages", 128, {}),
    "messages/torchtitan_sft_data.json": ("prompt-completion", 10, {}),
    "messages/xtuner_mllm_sft_text.jsonl": ("messages", 200, {"SFT116": 100}),
    "multilingual/luotuo_developer_instruction.json": ("alpaca", 48, {}),
    "other/llamafactory_kto_en_demo.json": ("SFT124", 300, {}),
    "other/llamafactory_mllm_demo.json": ("SFT122", 6, {}),
    "sharegpt/axolotl_conversation.json": ("sharegpt", 1, {}),
    "sharegpt/axolotl_conversation_missingturns.json": ("SFT108", 1, {}),
    "sharegpt/fastchat_dummy_conversation.json": ("sharegpt", 500, {"SFT116": 500}),
    "sharegpt/torchtune_chat_tiny.json": ("sharegpt", 1, {}),
    "tools/functionary/test_case_v1.json": ("messages", 1, {}),
    "tools/functionary/test_case_v2.json": ("messages", 1, {}),
    "tools/llamafactory_glaive_toolcall_en.json": ("sharegpt", 300, {}),
    "tools/minja_simple.json": ("messages", 1, {"SFT116": 1}),
    "tools/minja_system.json": ("messages", 1, {"SFT116": 1}),
    "tools/minja_tool_use.json": ("messages", 1, {"SFT116": 1}),
    "tools/openai_drone_training.jsonl": ("messages", 103, {"SFT116": 103}),
}


def records(path: Path) -> list[Any]:
    text = path.read_bytes().decode("utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    value = json.loads(text)
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", EXPECTED)
def test_every_quirk_of_real_records_comes_out_as_its_rule(shared_data: Path, name: str) -> None:
    outcome, count, others = EXPECTED[name]
    results = [normalise(record) for record in records(shared_data / "datasets" / name)]
    assert len(results) == count
    seen = Counter(found.code for result in results for found in result.findings)
    if outcome.startswith("SFT"):
        assert all(isinstance(result, Rejection) for result in results)
        assert seen.pop(outcome) == count
    else:
        assert {getattr(result, "format", result) for result in results} == {outcome}
    assert seen == others


@pytest.mark.parametrize("name", [name for name, (outcome, _, _) in EXPECTED.items() if not outcome.startswith("SFT")])
def test_real_records_written_as_messages_read_back_the_same(shared_data: Path, name: str) -> None:
    for record in records(shared_data / "datasets" / name):
        once = normalise(record)
        assert isinstance(once, Conversation)
        twice = normalise(to_messages(once))
        assert isinstance(twice, Conversation)
        assert (twice.messages, twice.tools, twice.text) == (once.messages, once.tools, once.text)


def test_functionary_records_keep_parallel_calls_null_content_and_masks(shared_data: Path) -> None:
    (record,) = records(shared_data / "datasets/tools/functionary/test_case_v2.json")
    result = normalise(record)
    assert isinstance(result, Conversation)
    assert [call.arguments for call in result.messages[3].tool_calls] == [{"car_name": "Song"}, {"car_name": "Tang"}]
    assert result.messages[8].content is None
    assert [index for index, turn in enumerate(result.messages) if turn.trained is False] == [12]


def test_every_entry_of_a_real_registry_is_understood(shared_data: Path) -> None:
    entries = dataset_info(shared_data / "datasets/other/llamafactory_dataset_info.json")
    assert len(entries) == 103  # of 104: one lies on a hub that nothing here reads
    assert entries["glaive_toolcall_en_demo"][0] == "glaive_toolcall_en_demo.json"
    for name, file in (
        ("kto_en_demo", "other/llamafactory_kto_en_demo.json"),
        ("mllm_demo", "other/llamafactory_mllm_demo.json"),
    ):
        results = [normalise(record, entries[name][1]) for record in records(shared_data / "datasets" / file)]
        assert {result.findings[0].code for result in results} == {EXPECTED[file][0]}
    glaive = records(shared_data / "datasets/tools/llamafactory_glaive_toolcall_en.json")
    options = entries["glaive_toolcall_en"][1]
    assert all(normalise(record, options) == normalise(record) for record in glaive)
