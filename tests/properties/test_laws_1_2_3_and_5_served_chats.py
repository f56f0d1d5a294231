"""Laws 1, 2, 3 and 5, for every carried template and nasty chats, against transformers alone.

1. The ids before a trained reply are the prompt that transformers serves, whole; training starts exactly there.
2. The reply's ids decode to exactly what the rendered turn has behind the prompt, through its stop.
3. Nothing else is trained, and what the user said moves no boundary of what is.
5. No byte of content became a control id: as many control ids as the template writes around harmless words.
"""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import sftdata
from sftdata.config import build_config
from sftdata.pipeline.serving import Serving, settle_serving
from sftdata.records import Conversation, Message, Rejection
from sftdata.rules import RULES
from sftdata.templates.builtin import BUILTIN
from sftdata.templates.contract import Contract, Unrolled
from sftdata.tokenizers import Encoder, choose_engine
from tests.strategies import conversations, examples

DAY = "2026-01-01"
TEMPLATES = [name for name in BUILTIN if name != "llama-3.1"]
"""All but the one that reads the date, for which transformers has no clock to stop."""
_CONTROL = re.compile(r"<\|[a-z_]+\|>|<(?:start|end)_of_turn>|</?s>|\[/?INST\]|<</?SYS>>|<bos>")


class Served(NamedTuple):
    contract: Contract
    encoder: Encoder
    serving: Serving
    oracle: Any


@functools.cache
def served(name: str) -> Served:
    """A carried template with a tokenizer that has its tokens, here and in transformers."""
    from transformers import PreTrainedTokenizerFast

    carried, source = BUILTIN[name], BUILTIN[name].source()
    base = Path(sftdata.__file__).parent / "tokenizers" / "builtin" / "tokenizer.json"
    wanted = {
        *_CONTROL.findall(re.sub(r"{#.*?#}", "", source, flags=re.DOTALL)),
        *carried.stop_tokens,
        carried.eos_token,
    }
    oracle = PreTrainedTokenizerFast(tokenizer_file=str(base), eos_token=carried.eos_token, bos_token=carried.bos_token)
    oracle.add_special_tokens({"additional_special_tokens": sorted(wanted)})
    oracle.chat_template = source
    options = {"inputs": ["-"], "out": "-", "template": name, "max_length": 1 << 20, "append_eos": True}
    with tempfile.TemporaryDirectory() as folder:
        oracle.save_pretrained(folder)
        serving = settle_serving(build_config({**options, "tokenizer": folder}), DAY)
    encoder = Encoder(
        serving.vocabulary,
        choose_engine(serving.vocabulary, "auto"),
        literals=[one.content for one in serving.vocabulary.added],
        stop_tokens=serving.stop_tokens,
        eos_token=serving.special_tokens.get("eos_token"),
    )
    return Served(Contract(serving.templates, serving.options), encoder, serving, oracle)


def plain(conversation: Conversation) -> list[dict[str, Any]]:
    """The chat as transformers' users write it."""
    return [{"role": message.role, "content": message.content} for message in conversation.messages]


def prompt_ids(oracle: Any, messages: list[dict[str, Any]]) -> list[int]:
    ids: list[int] = oracle.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True
    )
    return ids


def reply_text(one: Served, messages: list[dict[str, Any]], turn: int) -> str:
    """What the rendered turn has behind the prompt, through the last stop: an own reading of the contract."""
    prompt = one.oracle.apply_chat_template(messages[:turn], add_generation_prompt=True, tokenize=False)
    rendered = one.oracle.apply_chat_template(messages[: turn + 1], tokenize=False)
    assert rendered.startswith(prompt)
    rest: str = rendered[len(prompt) :]
    ends = [rest.rfind(stop) + len(stop) for stop in one.serving.stop_tokens if stop in rest]
    return rest[: max(ends)] if ends else rest.rstrip() + one.serving.special_tokens["eos_token"]


def documents(one: Served, unrolled: Unrolled) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of every document, in order."""
    encoded = one.encoder.encode(unrolled.examples)
    assert not encoded.rejected
    out, at = [], 0
    for length in encoded.lengths.tolist():
        out.append((encoded.input_ids[at : at + length].tolist(), encoded.labels[at : at + length].tolist()))
        at += length
    return out


_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def comparable(chat: Conversation) -> bool:
    """Where the oracle means the same as we do.

    transformers deletes its own two marker characters from what people say, and sanitises tags in replies as well,
    which a model must be able to emit: we keep both.
    """
    return not any(
        any(mark in (one.content or "") for mark in "\U000f0000\U000f0001")
        or (one.role == "assistant" and any(tag in (one.content or "") for tag in _TAGS))
        for one in chat.messages
    )


def chats() -> st.SearchStrategy[Conversation]:
    return conversations(max_rounds=2).filter(comparable)


@pytest.mark.parametrize("name", TEMPLATES)
@examples(20)
@given(chat=chats())
def test_training_starts_where_the_served_prompt_ends_and_covers_the_reply_alone(name: str, chat: Conversation) -> None:
    one, messages = served(name), plain(chat)
    unrolled = one.contract.unroll(chat)
    if isinstance(unrolled, Rejection):
        assert RULES[unrolled.findings[-1].code].severity == "error"
        assert unrolled.findings[-1].code != "SFT510"
        return
    try:
        prompts = {
            span.message: prompt_ids(one.oracle, messages[: span.message])
            for example in unrolled.examples
            for span in example.spans
        }
        replies = {turn: reply_text(one, messages, turn) for turn in prompts}
    except ValueError as error:
        assume("sanitize" not in str(error))
        raise
    special = {added.id for added in one.serving.vocabulary.special}
    stops = one.serving.stop_ids()
    turns = iter(sorted(prompts))
    for ids, labels in documents(one, unrolled):
        trained = [label for label in labels if label != -100]
        said = ""
        while one.oracle.decode(trained) != said:
            turn = next(turns)
            start = len(prompts[turn])
            assert ids[:start] == prompts[turn], "law 1: the served prompt is the prefix"
            assert labels[start] == ids[start], "law 1: training starts exactly there"
            said += replies[turn]
            assert one.oracle.decode(trained).startswith(said), "law 2: the decoded reply is the reply"
        assert all(label in (-100, token) for label, token in zip(labels, ids, strict=True))
        assert labels[0] == -100
        assert trained[-1] in stops
        assert all(token in stops for token in trained if token in special), "law 5: stops alone are special"
    assert next(turns, None) is None, "every trained turn is in some document"


def by_turn(one: Served, unrolled: Unrolled) -> dict[int, tuple[list[int], str]]:
    """For every trained turn: the control ids of its prompt and reply, and what its reply's ids decode to."""
    special = {added.id for added in one.serving.vocabulary.special}
    turns = {}
    for example_ in unrolled.examples:
        for span in example_.spans:
            alone = msgspec.structs.replace(example_, text=example_.text[: span.stop], spans=(span,))
            [(ids, labels)] = documents(one, Unrolled((alone,), (), ()))
            said = one.oracle.decode([label for label in labels if label != -100])
            turns[span.message] = ([token for token in ids if token in special], said)
    return turns


def talk(*said: str) -> Conversation:
    """User and assistant in turn."""
    return Conversation(
        messages=tuple(Message("assistant" if at % 2 else "user", text) for at, text in enumerate(said))
    )


@pytest.mark.parametrize("name", TEMPLATES)
@examples(15)
@given(chat=chats(), harmless=st.sampled_from(("tea", "two words")))
@example(chat=talk("", "g", "", "\ufeff"), harmless="tea")  # "tea" + "g" is one token: serving cuts between them
def test_content_adds_no_control_id_and_moves_no_reply(name: str, chat: Conversation, harmless: str) -> None:
    one = served(name)
    tame = Conversation(
        messages=tuple(
            message if message.role == "assistant" else Message(message.role, harmless) for message in chat.messages
        )
    )
    wild, calm = one.contract.unroll(chat), one.contract.unroll(tame)
    assume(isinstance(wild, Unrolled) and isinstance(calm, Unrolled))
    assert isinstance(wild, Unrolled)
    assert isinstance(calm, Unrolled)
    here, there = by_turn(one, wild), by_turn(one, calm)
    messages = plain(chat)
    for turn, alone in there.items():
        if turn not in here:
            prompt = one.oracle.apply_chat_template(messages[:turn], add_generation_prompt=True, tokenize=False)
            assert prompt == "", "only a reply to which no prompt is served is left untrained"
            assert "SFT127" in {finding.code for finding in wild.findings}
        else:
            assert here[turn][0] == alone[0], "law 5: as many control ids as the template writes"
            assert here[turn][1] == alone[1], "law 3: a prompt moves no mask"
    assert here.keys() <= there.keys()


def test_a_reply_to_which_no_prompt_is_served_is_context() -> None:
    one = served("plain")
    unrolled = one.contract.unroll(talk("", "g", "", "h"))
    assert isinstance(unrolled, Unrolled)
    assert [finding.code for finding in unrolled.findings] == ["SFT127"]
    [(ids, labels)] = documents(one, unrolled)
    assert one.oracle.decode(ids) == "g</s>h</s>"
    assert labels == [-100, -100, *ids[2:]]


def test_a_record_whose_only_reply_has_no_served_prompt_trains_nothing() -> None:
    outcome = served("plain").contract.unroll(talk("", "g"))
    assert isinstance(outcome, Rejection)
    assert [finding.code for finding in outcome.findings] == ["SFT127", "SFT107"]
