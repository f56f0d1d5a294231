"""Unrolling by substitution gives what the contract gives in full, for any contents and any template."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata.records import Conversation, Message, Rejection, Role
from sftdata.templates.builtin import BUILTIN
from sftdata.templates.contract import Contract, ServingOptions, Unrolled
from sftdata.templates.environment import compile_template
from sftdata.templates.messages import ControlPolicy
from tests.strategies import examples, texts

CONTROL = ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "</s>", "<s>", "<end_of_turn>", "<|end|>", "<|endoftext|>")

ASKING = {
    "trims": "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    "asks": "{% for m in messages %}<{{ m.role }}>{% if '<tool' in m.content %}!{% endif %}{{ m.content }}</s>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    "starts": "{% for m in messages %}<{{ m.role }}>{% if m.content.startswith('a') %}A:{% endif %}{{ m.content }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    "macro": "{% macro say(m) %}<{{ m.role }}>{{ m.content }}</s>{% endmacro %}{% for m in messages %}{{ say(m) }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    "set": "{% for m in messages %}{% set x %}<{{ m.role }}>{{ m.content }}</s>{% endset %}{{ x }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    "joins": "{% for m in messages %}{{ '<' ~ m.role ~ '>' ~ m.content ~ '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    "counts": "{% for m in messages %}<{{ m.role }} {{ m.content | length }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant {{ messages | length }}>{% endif %}",
    "upper": "{% for m in messages %}<{{ m.role }}>{{ m.content if m.role == 'assistant' else m.content.upper() }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    "bare prompt": "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}",
    "rewrites": "{% for m in messages %}<{{ m.role }}>{{ m.content if loop.last or m.role == 'user' else 'gone' }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    "splits": "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
}


def contract(source: str) -> Contract:
    template = compile_template(
        source, special_tokens={"bos_token": "<s>", "eos_token": "</s>"}, clock=datetime.date(2026, 1, 1)
    )
    options = ServingOptions(
        stop_tokens=("</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"),
        special_tokens=CONTROL,
        control=ControlPolicy(CONTROL, ("<think>",)),
        eos_token="</s>",
    )
    return Contract({"default": template}, options)


CONTRACTS = {name: contract(one.source()) for name, one in BUILTIN.items()}
CONTRACTS.update({name: contract(source) for name, source in ASKING.items()})


@st.composite
def plain_chats(draw: st.DrawFn) -> list[Conversation]:
    """Several chats of one shape: what a program is learned from, and what it is used on."""
    roles: list[Role] = ["system"] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        roles += ["user", "assistant"]
    thinks = draw(st.booleans())
    chats = []
    for _ in range(3):
        messages = [
            Message(role, draw(texts()), reasoning=draw(texts()) if thinks and role == "assistant" else None)
            for role in roles
        ]
        chats.append(Conversation(messages=tuple(messages)))
    return chats


def said(outcome: Unrolled | Rejection) -> object:
    codes = [finding.code for finding in outcome.findings]
    return codes if isinstance(outcome, Rejection) else (outcome.examples, codes, outcome.untrained)


@pytest.mark.parametrize("name", CONTRACTS)
@examples(40)
@given(chats=plain_chats())
def test_a_program_says_what_the_contract_says(name: str, chats: list[Conversation]) -> None:
    for chat in chats:
        assert said(CONTRACTS[name].unroll(chat)) == said(CONTRACTS[name].unroll_in_full(chat))


@pytest.mark.parametrize("name", ["chatml", "qwen2.5", "llama-3", "mistral", "trims", "asks", "joins", "rewrites"])
def test_ordinary_chats_are_unrolled_by_a_program(name: str) -> None:
    def chat(word: str) -> Conversation:
        return Conversation(messages=(Message("user", f"Say {word}."), Message("assistant", f"{word}, gladly.")))

    one = contract(BUILTIN[name].source() if name in BUILTIN else ASKING[name])
    one.unroll(chat("first"))
    assert one._programs.unroll(chat("second")) is not None


@pytest.mark.parametrize("name", ["set", "macro", "counts", "upper", "splits", "bare prompt"])
def test_what_does_more_than_print_contents_is_never_a_program(name: str) -> None:
    one = contract(ASKING[name])
    chat = Conversation(messages=(Message("user", "Say it."), Message("assistant", "Gladly.")))
    one.unroll(chat)
    assert one._programs.unroll(chat) is None


def test_programs_agree_on_the_templates_of_another_package() -> None:
    folder = Path(str(pytest.importorskip("trl", reason="trl is not installed").__file__)).parent / "chat_templates"
    chats = [
        Conversation(
            messages=(
                Message("user", user),
                Message("assistant", reply),
                Message("user", reply),
                Message("assistant", user),
            )
        )
        for user, reply in (
            ("Hello there", "General"),
            (" a ", "b\n"),
            ("<think>", "x</think>y"),
            ("<tool_response>", "z"),
        )
    ]
    for path in sorted(folder.glob("*.jinja")):
        one = contract(path.read_text(encoding="utf-8"))
        for chat in [*chats, *chats]:
            assert said(one.unroll(chat)) == said(one.unroll_in_full(chat)), path.name
