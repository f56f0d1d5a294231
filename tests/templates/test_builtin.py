"""The carried templates: complete, documented, and with the wire format that they state."""

# ruff: noqa: E501  a conversation is one line

from __future__ import annotations

import datetime
from importlib import resources
from typing import Any

import pytest

from sftdata.templates.builtin import BUILTIN
from sftdata.templates.environment import Template, TemplateError, compile_template

DAY = datetime.date(2024, 7, 26)
SYSTEM: dict[str, Any] = {"role": "system", "content": "S"}
ASK: dict[str, Any] = {"role": "user", "content": "Q"}
REPLY: dict[str, Any] = {"role": "assistant", "content": "A"}
AGAIN: dict[str, Any] = {"role": "user", "content": "R"}
CALL: dict[str, Any] = {
    "role": "assistant",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": "é"}}}],
}
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "1", "content": "7"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]

REQUIRED = {"alpaca", "vicuna", "chatml", "llama-2", "llama-3", "mistral", "gemma", "phi-3", "zephyr", "qwen2.5", "qwen3", "plain"}  # fmt: skip


def build(name: str) -> Template:
    carried = BUILTIN[name]
    named = {"eos_token": carried.eos_token} | ({"bos_token": carried.bos_token} if carried.bos_token else {})
    return compile_template(carried.source(), name=name, special_tokens=named, clock=DAY)


WIRE: dict[str, tuple[list[dict[str, Any]], str]] = {
    "alpaca": (
        [SYSTEM, ASK, REPLY, AGAIN],
        "<s>S\n\n### Instruction:\nQ\n\n### Response:\nA</s>\n\n### Instruction:\nR\n\n### Response:\n",
    ),
    "chatml": (
        [SYSTEM, ASK, REPLY, AGAIN],
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n",
    ),
    "gemma": (
        [SYSTEM, ASK, REPLY, AGAIN],
        "<bos><start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<start_of_turn>user\nR<end_of_turn>\n<start_of_turn>model\n",
    ),
    "llama-2": (
        [SYSTEM, ASK, REPLY, AGAIN],
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A </s><s>[INST] R [/INST]",
    ),
    "llama-3": (
        [SYSTEM, ASK, REPLY, AGAIN],
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nR<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "llama-3.1": (
        [SYSTEM, ASK],
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral": ([SYSTEM, ASK, REPLY, AGAIN], "<s>[INST] S\n\nQ [/INST] A</s>[INST] R [/INST]"),
    "phi-3": (
        [SYSTEM, ASK, REPLY, AGAIN],
        "<|system|>\nS<|end|>\n<|user|>\nQ<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nR<|end|>\n<|assistant|>\n",
    ),
    "plain": ([ASK, REPLY, AGAIN], "QA</s>R"),
    "qwen2.5": (
        [ASK, REPLY, AGAIN],
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n",
    ),
    "qwen3": (
        [ASK, {**REPLY, "reasoning_content": "T"}],
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n<think>\nT\n</think>\n\nA<|im_end|>\n<|im_start|>assistant\n",
    ),
    "vicuna": ([SYSTEM, ASK, REPLY, AGAIN], "<s>S USER: Q ASSISTANT: A</s>USER: R ASSISTANT:"),
    "zephyr": (
        [SYSTEM, ASK, REPLY, AGAIN],
        "<|system|>\nS</s>\n<|user|>\nQ</s>\n<|assistant|>\nA</s>\n<|user|>\nR</s>\n<|assistant|>\n",
    ),
}


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_wire_format_is_as_written_down(name: str) -> None:
    chat, text = WIRE[name]
    assert build(name).render(chat, add_generation_prompt=True) == text


def test_table_and_files_agree() -> None:
    folder = resources.files("sftdata.templates").joinpath("builtin")
    files = {entry.name.removesuffix(".jinja") for entry in folder.iterdir() if entry.name.endswith(".jinja")}
    assert files == set(BUILTIN)
    assert set(BUILTIN) >= REQUIRED


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_file_opens_with_wire_format_bos_and_stop_token(name: str) -> None:
    carried = BUILTIN[name]
    comment = carried.source().partition("#}")[0]
    assert comment.startswith("{#\n  " + name + ": ")
    assert all(heading in comment for heading in ("  Wire format ", "  BOS ", "  Stop token "))
    assert carried.stop_tokens[0] in comment
    assert carried.bos_token is None or carried.bos_token in comment


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_what_is_said_later_never_changes_the_prompt(name: str) -> None:
    template = build(name)
    chat = [ASK, REPLY, AGAIN, REPLY]
    prompts = [template.render(chat[:turn], add_generation_prompt=True) for turn in (1, 3)]
    wholes = [template.render(chat[:turn], add_generation_prompt=False) for turn in (2, 4)]
    assert all(whole.startswith(prompt) for prompt, whole in zip(prompts, wholes, strict=True))
    if name != "qwen3":
        assert prompts[1].startswith(wholes[0])


@pytest.mark.parametrize("name", sorted(set(BUILTIN) - {"plain"}))
def test_each_reply_ends_in_a_stop_token(name: str) -> None:
    text = build(name).render([ASK, REPLY], add_generation_prompt=False)
    assert any(text.rstrip().endswith(stop) for stop in BUILTIN[name].stop_tokens)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_content_is_code_for_nobody(name: str) -> None:
    content = "{{ messages }}{% raise %}{# #}\r\n"
    text = build(name).render([{"role": "user", "content": "x" + content + "x"}], add_generation_prompt=False)
    assert content in text


@pytest.mark.parametrize("name", ["alpaca", "vicuna", "llama-2", "mistral", "gemma", "phi-3", "zephyr"])
def test_role_without_a_place_is_refused_by_name(name: str) -> None:
    with pytest.raises(TemplateError, match=f"{name} has no place for a turn of the role tool|of the role tool"):
        build(name).render([ASK, REPLY, RESULT], add_generation_prompt=True)


@pytest.mark.parametrize("name", ["llama-2", "mistral", "gemma"])
def test_system_turn_without_its_user_turn_is_refused_before_a_reply(name: str) -> None:
    with pytest.raises(TemplateError, match="system turn"):
        build(name).render([SYSTEM, REPLY], add_generation_prompt=False)


def test_chatml_keeps_every_field() -> None:
    chat = [SYSTEM, ASK, {**CALL, "content": "Wait.", "reasoning_content": "T"}, RESULT, RESULT, REPLY]
    text = build("chatml").render(chat, tools=TOOLS, add_generation_prompt=False)
    assert text == (
        "<|im_start|>system\nS\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "f", "parameters": {}}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within "
        '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
        "<args-json-object>}\n</tool_call><|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nT\n</think>\n\nWait.\n<tool_call>\n"
        '{"name": "f", "arguments": {"x": "é"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n7\n</tool_response>\n<tool_response>\n7\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n"
    )


def test_chatml_takes_arguments_as_text_too() -> None:
    call = {"function": {"name": "f", "arguments": '{"x": 1}'}}
    text = build("chatml").render([ASK, {"role": "assistant", "tool_calls": [call]}], add_generation_prompt=False)
    assert text.endswith('<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>\n')


def test_qwen3_closes_the_think_block_on_request() -> None:
    text = build("qwen3").render([ASK], add_generation_prompt=True, enable_thinking=False)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_tokenizer_without_a_bos_is_enough(name: str) -> None:
    carried = BUILTIN[name]
    template = compile_template(carried.source(), special_tokens={"eos_token": carried.eos_token}, clock=DAY)
    with_bos = build(name).render([ASK, REPLY, AGAIN], add_generation_prompt=True)
    bos = carried.bos_token or "never"
    assert template.render([ASK, REPLY, AGAIN], add_generation_prompt=True) == with_bos.replace(bos, "")
