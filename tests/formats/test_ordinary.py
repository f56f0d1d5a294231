"""The short way of ordinary records says what the formats say, and takes none of which a rule has something to say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sftdata.formats import messages, normalise, ordinary
from sftdata.formats.detection import detect, preference
from sftdata.records import Conversation
from tests.strategies import json_values, texts


def _turns() -> st.SearchStrategy[Any]:
    roles = st.sampled_from(
        ("system", "user", "assistant", "tool", "developer", "human", "gpt", "USER", "", 3, None, [1])
    )
    said = st.one_of(
        texts(), st.sampled_from(("", " \n", "Hi", "<think>x</think>y", "a</think>")), st.none(), st.integers()
    )
    keys = st.sampled_from(("content", "content", "content", "value", "weight"))
    plain = st.fixed_dictionaries({"role": st.sampled_from(("user", "assistant")), "content": texts()})
    odd = st.tuples(roles, keys, said).map(lambda one: {"role": one[0], one[1]: one[2]})
    return st.one_of(plain, plain, plain, odd, st.just("text"))


def _records() -> st.SearchStrategy[Any]:
    lists = st.lists(_turns(), max_size=5)
    alternating = st.lists(texts(), min_size=2, max_size=6).map(
        lambda said: [{"role": ("user", "assistant")[at % 2], "content": one} for at, one in enumerate(said)]
    )
    chats = st.one_of(lists, alternating, alternating).map(lambda turns: {"messages": turns})
    extra = st.tuples(chats, json_values()).map(lambda pair: {**pair[0], "system": pair[1]})
    return st.one_of(chats, chats, extra, json_values())


def _chat(*said: str, roles: tuple[str, ...] = ("user", "assistant")) -> dict[str, Any]:
    return {"messages": [{"role": roles[at % 2], "content": one} for at, one in enumerate(said)]}


@given(_records())
@example(_chat("\n", "b"))
@example(_chat("a", " "))
@example(_chat("", "b"))
@example(_chat("a", "<think>x</think>y"))
@example(_chat("a", "b", "c"))
@example(_chat("a", "b", roles=("user", "user")))
@example(_chat("a", "b", roles=("assistant", "system")))
@example({"messages": []})
def test_what_the_short_way_reads_the_format_reads_alike_and_without_a_finding(value: Any) -> None:
    found = ordinary.read(value)
    if found is None:
        return
    assert detect(value) == "messages"
    assert preference(value) is None
    assert messages.read(value) == found
    assert found.findings == ()


@given(st.lists(st.text("ab c", min_size=1).filter(str.strip), min_size=2, max_size=8))
def test_an_ordinary_chat_takes_the_short_way(said: list[str]) -> None:
    said = said[: len(said) // 2 * 2]
    turns = [{"role": ("user", "assistant")[at % 2], "content": one} for at, one in enumerate(said)]
    found = ordinary.read({"messages": turns})
    assert isinstance(found, Conversation)
    assert normalise({"messages": turns}) == found
    assert [one.content for one in found.messages] == said


@pytest.mark.parametrize("extra", [{"system": "x"}, {"weight": 0}, {"id": 7}])
def test_a_record_of_more_columns_does_not(extra: dict[str, Any]) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert ordinary.read({"messages": turns, **extra}) is None
