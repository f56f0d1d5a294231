"""Same text as transformers: on public templates, on the published cases, and for the carried templates."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sftdata.templates.builtin import BUILTIN
from sftdata.templates.environment import Template, TemplateError, compile_template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
USER = {"role": "user", "content": " hi\r\n"}
REPLY = {"role": "assistant", "content": "  ok é<b>& "}
SYSTEM = {"role": "system", "content": "be\nkind"}
RESULT = {"role": "tool", "content": '{"t": 1}', "name": "get_weather", "tool_call_id": "a12345678"}


def _call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "a12345678", "type": "function", "function": {"name": name, "arguments": arguments}}


CALL = {"role": "assistant", "content": "", "tool_calls": [_call("get_weather", {"city": "Ünï", "n": [1, None]})]}
CALLS = {**CALL, "content": "wait", "tool_calls": [*CALL["tool_calls"], _call("time", {})]}
PROPERTIES = {"city": {"type": "string", "description": "the <city>"}, "n": {"type": "array", "items": {}}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a place",
            "parameters": {"type": "object", "properties": PROPERTIES, "required": ["city"]},
        },
    }
]
THOUGHT = {**REPLY, "reasoning_content": "hmm\n", "thinking": "hmm\n"}

CHATS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one question": ([USER], None),
    "single turn": ([USER, REPLY], None),
    "five turns": ([USER, REPLY, USER, REPLY, USER], None),
    "system": ([SYSTEM, USER, REPLY], None),
    "system alone": ([SYSTEM], None),
    "system late": ([USER, SYSTEM, REPLY], None),
    "tools": ([SYSTEM, USER, CALL, RESULT, REPLY], TOOLS),
    "parallel calls": ([USER, CALLS, RESULT, RESULT], TOOLS),
    "tools unused": ([USER, REPLY], TOOLS),
    "reasoning": ([USER, THOUGHT, USER, THOUGHT], None),
    "inline reasoning": ([USER, {**REPLY, "content": "<think>x</think>y"}, USER, REPLY], None),
    "empty texts": ([{"role": "user", "content": ""}, {"role": "assistant", "content": ""}], None),
    "text parts": ([{"role": "user", "content": [{"type": "text", "text": "a"}]}, REPLY], None),
    "no content": ([USER, {"role": "assistant"}], None),
    "two users": ([USER, USER, REPLY], None),
    "unknown role": ([USER, {"role": "critic", "content": "x"}], None),
    "nothing": ([], None),
}


def _trl_templates() -> dict[str, str]:
    pytest.importorskip("trl", reason="trl is not installed: it needs Python 3.11")
    folder = resources.files("trl").joinpath("chat_templates")
    return {
        entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name.endswith(".jinja")
    }


def _stored(shared_data: Path) -> dict[str, str]:
    lines = (shared_data / "templates.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["name"]: entry["template"] for entry in map(json.loads, lines)}


def _outcome(render: Any, **variables: Any) -> str | None:
    """The rendered text, or None where the template refuses."""
    try:
        text: str = render(**variables)
    except Exception:  # noqa: BLE001  that it refuses is all that counts
        return None
    return text


def _differences(name: str, source: str) -> Iterator[str]:
    utils = pytest.importorskip("transformers.utils.chat_template_utils", reason="transformers is not installed")
    oracle = utils._compile_jinja_template(source)
    ours = compile_template(source, name=name, special_tokens=TOKENS, clock=datetime.date.today())  # noqa: DTZ011
    for shape, (chat, tools) in CHATS.items():
        for prompt in (False, True):
            variables = {"messages": chat, "tools": tools, "documents": None, "add_generation_prompt": prompt}
            expected = _outcome(oracle.render, **variables, **TOKENS)
            try:
                text: str | None = ours.render(**variables)  # type: ignore[arg-type]
            except TemplateError:
                text = None
            if text != expected:
                yield f"{name}, {shape}, prompt {prompt}: {text!r} is not {expected!r}"


def test_trl_templates_render_as_in_transformers() -> None:
    templates = _trl_templates()
    assert len(templates) >= 70
    assert [line for name, source in templates.items() for line in _differences(name, source)] == []


def test_stored_templates_render_as_in_transformers(shared_data: Path) -> None:
    templates = _stored(shared_data)
    assert len(templates) >= 18
    assert [line for name, source in templates.items() for line in _differences(name, source)] == []


def test_the_comparison_sees_a_difference() -> None:
    source = "{{ messages[0].content }}{{ strftime_now('%f') }}"
    assert len(list(_differences("clock", source))) > 10


def test_published_cases_give_the_published_text(shared_data: Path) -> None:
    cases = json.loads((shared_data / "render_cases.json").read_text(encoding="utf-8"))
    wrong = []
    for case in cases:
        data = {"add_generation_prompt": False, **case["data"]}
        template = compile_template(case["chat_template"], name=case["name"], clock=datetime.date(2024, 7, 26))
        text = template.render(data.pop("messages"), **data)
        if (text == case["expected"]) is ("known_difference_vs_transformers" in case):
            wrong.append(case["name"])
    assert len(cases) >= 29
    assert wrong == []


# -- the carried templates against the originals


def _carried(name: str) -> Template:
    return compile_template(BUILTIN[name].source(), special_tokens=TOKENS, clock=datetime.date(2024, 7, 26))


def _plain(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


ALIKE = {"qwen2.5": "qwen2_5", "qwen3": "qwen3", "llama-3": "llama3", "llama-3.1": "llama3_1", "gemma": "gemma"}
"""Carried templates that agree with an original wherever the original renders, and refuse wherever it refuses."""
NO_CHAT = {"nothing", "unknown role"}
"""What no record can be."""
BEYOND = {"gemma": {"system", "system alone", "system late", "two users", "inline reasoning"}}
"""Chats that only the carried one takes (the original refuses a system turn, or two turns of a role in a row)."""


@pytest.mark.parametrize("name", ALIKE)
def test_carried_template_agrees_with_the_original(name: str) -> None:
    original = compile_template(
        _trl_templates()[f"{ALIKE[name]}.jinja"], special_tokens=TOKENS, clock=datetime.date(2024, 7, 26)
    )
    carried = _carried(name)
    compared = 0
    for shape in CHATS.keys() - NO_CHAT:
        chat, tools = CHATS[shape]
        for prompt in (False, True):
            expected = _outcome(original.render, messages=chat, tools=tools, add_generation_prompt=prompt)
            text = _outcome(carried.render, messages=chat, tools=tools, add_generation_prompt=prompt)
            if text is None or expected is not None or shape not in BEYOND.get(name, ()):
                assert text == expected, (shape, prompt)
            compared += expected is not None
    assert compared >= 8


PLAIN_SHAPES = {
    "single": [_plain("q"), {"role": "assistant", "content": "a"}],
    "several": [_plain("q"), {"role": "assistant", "content": "a"}, _plain("r"), {"role": "assistant", "content": "b"}],
    "system": [{"role": "system", "content": "s"}, _plain("q"), {"role": "assistant", "content": "a"}, _plain("r")],
}
"""Without whitespace at the edges: the stored templates trim, the models' own do not.

The stored templates are laid out for reading; their publisher takes indentation and line breaks out before use."""
STORED = {
    "alpaca": ("alpaca", {"system"}),
    "gemma": ("gemma-it", {"single", "several", "system"}),
    "llama-2": ("llama-2-chat", {"single", "several", "system"}),
    "llama-3": ("llama-3-instruct", {"single", "several", "system"}),
    "mistral": ("mistral-instruct", {"single", "several"}),
    "phi-3": ("phi-3", {"single", "several", "system"}),
    "zephyr": ("zephyr", {"single", "several", "system"}),
}
"""The stored template, and the shapes on which both agree.

The stored alpaca has no preamble of its own, the stored mistral prints the system turn in front of `[INST]`, and the
stored vicuna breaks lines where the model's authors put spaces; the stored chatml adds a BOS."""
NO_BOS_IN_STORED = {"gemma"}


@pytest.mark.parametrize("name", STORED)
def test_carried_template_agrees_with_the_stored_one(name: str, shared_data: Path) -> None:
    stored, shapes = STORED[name]
    source = _stored(shared_data)[stored].replace("    ", "").replace("\n", "")
    original = compile_template(source, special_tokens=TOKENS, clock=datetime.date(2024, 7, 26))
    for shape in shapes:
        for prompt in (False, True):
            expected = original.render(PLAIN_SHAPES[shape], add_generation_prompt=prompt)
            text = _carried(name).render(PLAIN_SHAPES[shape], add_generation_prompt=prompt)
            assert text.removeprefix("<s>" if name in NO_BOS_IN_STORED else "") == expected, (shape, prompt)
