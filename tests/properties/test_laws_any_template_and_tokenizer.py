"""Laws 1, 2, 3 and 5, for hard templates with tokenizers of every kind, against transformers alone.

What is served is what `apply_chat_template` and `PreTrainedTokenizerFast` give (`tests/oracle.py`, which knows nothing
of the product); both engines give those ids. What is refused is refused under a rule that says why.
"""

from __future__ import annotations

import functools
import json
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata.errors import ConfigError
from sftdata.records import Conversation, Message
from sftdata.rules import RULES
from sftdata.tokenizers import Engine, choose_engine, load_files, load_vocabulary
from tests.conformance.harness import Bench, carried, from_folder
from tests.oracle import THOUGHTS
from tests.strategies import conversations, examples, texts
from tests.tokenizers.zoo import DUMMY_PREFIX, LOSSY, NORMALISING, STRIPPING, ZOO, made

FLAGS = ("--append-eos", "--reasoning empty")
SPOKEN = (
    *("chatml", "gemma", "llama-2", "llama-3", "llama-3.1", "mistral", "phi-3", "plain", "qwen3", "vicuna"),
    *("mistral-v3-last-user", "bielik-trimmed", "command-xml", "hunyuan", "tulu-eos-last", "baichuan2", "yi", "xgen"),
    *("chatglm3", "zamba-cot", "youtu-assistant-merge", "ernie-thinking", "dbrx", "reka", "aya"),
)
"""Templates for plain chats."""
RICH = ("chatml", "qwen3", "minimax", "step3", "apertus", "jamba", "llama4", "kimi-k2", "olmo3", "exaone4", "glm4")
"""Templates that know tools, reasoning, or both."""
SOURCES = {**from_folder(Path(__file__).parents[1] / "conformance" / "families"), **carried()}

REFUSED = frozenset(
    {
        *("SFT302", "SFT308", "SFT319"),  # the template raises, or loses a field
        *("SFT405", "SFT415"),  # content spells a control token that cannot be kept apart
        "SFT410",  # a character that the vocabulary does not have
    }
)
"""What any tokenizer may refuse of what is drawn here; the kinds below have their own."""


@functools.cache
def bench(template: str, tokenizer: str) -> Bench:
    """One pair, made once."""
    return Bench(SOURCES[template], made(tokenizer))


def tolerated(chat: Conversation) -> bool:
    """Whether the oracle means the same as we do: transformers deletes its own two marker characters from content."""
    calls = [call.arguments for one in chat.messages for call in one.tool_calls]
    said = [json.dumps(calls, ensure_ascii=False), *(one.content or "" for one in chat.messages)]
    said += [one.reasoning or "" for one in chat.messages]
    return not any(mark in text for text in said for mark in "\U000f0000\U000f0001")


def spells_reasoning(chat: Conversation) -> bool:
    """Whether a turn of the assistant spells a tag of reasoning, which may stand for a block that has no end."""
    tags = [tag for pair in THOUGHTS for tag in pair]
    turns = [one for one in chat.messages if one.role == "assistant"]
    return any(tag in (one.content or "") + (one.reasoning or "") for one in turns for tag in tags)


def allowed(tokenizer: str, chat: Conversation) -> frozenset[str]:
    """Rules under which a conversation may be refused with this tokenizer."""
    more = {"SFT417"} if tokenizer in STRIPPING else set()
    more |= {"SFT403"} if tokenizer == "bytes, tokens are words" else set()
    more |= {"SFT316"} if spells_reasoning(chat) else set()
    return REFUSED | more


def faults(template: str, tokenizer: str, chat: Conversation) -> list[str]:
    """What the oracle has against what the product makes of `chat`, or against its refusal."""
    one = bench(template, tokenizer)
    product, stops = one.settle(chat, FLAGS)
    if product.refusal is not None:
        assert RULES[product.refusal.code].severity == "error"
        return [] if product.refusal.code in allowed(tokenizer, chat) else [str(product.refusal)]
    changed = "SFT416" in {finding.code for finding in product.findings}
    assert not changed or tokenizer in NORMALISING | STRIPPING | DUMMY_PREFIX
    rewrites = tokenizer in NORMALISING | STRIPPING | DUMMY_PREFIX
    may_lose = frozenset({"user", "system", "tool_results", "tools"} if rewrites else ())
    found = one.judge(stops, FLAGS).faults(chat, product.documents, may_lose=may_lose)
    # a reply that the tokenizer itself changes decodes to something else, which is a finding; ids are held all the same
    return [fault for fault in found if not (changed and (" trains " in fault or fault.endswith("is lost")))]


@pytest.mark.parametrize("tokenizer", ZOO)
@examples(12)
@given(template=st.sampled_from(SPOKEN), chat=conversations(max_rounds=2).filter(tolerated))
def test_a_chat_is_trained_as_it_is_served(tokenizer: str, template: str, chat: Conversation) -> None:
    assert faults(template, tokenizer, chat) == []


def test_an_unknown_character_behind_one_in_the_prompt_is_the_replys_own() -> None:
    chat = Conversation((Message("system", "\ufeff"), Message("user", ""), Message("assistant", "İ")))
    product, _ = bench("plain", "unigram").settle(chat, FLAGS)
    assert product.refusal is not None
    assert product.refusal.code == "SFT410"


@pytest.mark.parametrize("tokenizer", ZOO)
@examples(8)
@given(template=st.sampled_from(RICH), chat=conversations(rich=True, max_rounds=2).filter(tolerated))
def test_tools_and_reasoning_are_trained_as_they_are_served(tokenizer: str, template: str, chat: Conversation) -> None:
    assert faults(template, tokenizer, chat) == []


@pytest.mark.parametrize("tokenizer", ZOO)
@examples(10)
@given(spoken=st.lists(texts(), max_size=6))
def test_every_engine_gives_the_ids_of_the_tokenizers_library(tokenizer: str, spoken: list[str]) -> None:
    native = made(tokenizer)
    expected = [native.encode(text, add_special_tokens=False).ids for text in spoken]
    for engine in engines(tokenizer):
        ids, at = engine.encode(spoken)
        assert [ids[start:stop].tolist() for start, stop in pairwise(at.tolist())] == expected


@functools.cache
def engines(tokenizer: str) -> list[Engine]:
    """The reference, and what is chosen where nothing else is asked for."""
    with tempfile.TemporaryDirectory() as folder:
        made(tokenizer).save(str(Path(folder, "tokenizer.json")))
        vocabulary = load_vocabulary(load_files(folder))
    return [choose_engine(vocabulary, choice) for choice in ("reference", "auto")]


@pytest.mark.parametrize("tokenizer", LOSSY)
def test_a_tokenizer_that_loses_text_is_refused_by_name(tokenizer: str, tmp_path: Path) -> None:
    LOSSY[tokenizer]().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="SFT418: the tokenizer lowercases text"):
        load_vocabulary(load_files(str(tmp_path)))
