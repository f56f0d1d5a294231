"""Duplicates, conflicting answers and leakage: against brute force, and on corners."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sftdata.quality.duplicates import conflicting_answers, exact_duplicates
from sftdata.quality.keys import keys_of
from sftdata.quality.leakage import EvalIndex
from sftdata.quality.near import Signatures, near_duplicates
from sftdata.quality.shingles import shingles
from sftdata.records import Conversation, Message

WORDS = [a + b for a in "bcdfghklm" for b in ("a", "e", "i", "o", "u", "al", "en", "ir", "os", "un")]


def chat(*turns: str) -> Conversation:
    roles = itertools.cycle(("user", "assistant"))
    return Conversation(tuple(Message(role, text) for role, text in zip(roles, turns, strict=False)))  # type: ignore[arg-type]


def sentence(random: random.Random, words: int) -> list[str]:
    return random.choices(WORDS, k=words)


def jaccard(left: set[int], right: set[int]) -> float:
    return len(left & right) / len(left | right)


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """Texts of all similarities: originals, and copies with 0 to 40 % of the words changed."""
    rng = random.Random(5)
    texts = []
    for _ in range(150):
        original = sentence(rng, rng.randint(8, 120))
        texts.append(" ".join(original))
        for share in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
            copy = [rng.choice(WORDS) if rng.random() < share else word for word in original]
            texts.append(" ".join(copy))
    rng.shuffle(texts)
    return texts


def groups_by_brute_force(texts: list[str], threshold: float) -> list[int]:
    hashes, offsets = shingles(texts, 3)
    sets = [set(hashes[a:b].tolist()) for a, b in itertools.pairwise(offsets)]
    label = list(range(len(texts)))
    for one, two in itertools.combinations(range(len(texts)), 2):
        if label[one] != label[two] and jaccard(sets[one], sets[two]) >= threshold:
            low, high = sorted((label[one], label[two]))
            label = [low if value == high else value for value in label]
    return label


def test_near_duplicates_are_those_of_brute_force(tmp_path: Path, corpus: list[str]) -> None:
    signatures = Signatures(tmp_path)
    for start in range(0, len(corpus), 200):
        block = corpus[start : start + 200]
        signatures.add(np.arange(start, start + len(block)), block)
    found = dict(near_duplicates([signatures], 0.8).select("record_id", "kept_id").iter_rows())
    # the estimate is good to 0.04: what is clearly above must be found, what is clearly below must not
    surely, maybe = groups_by_brute_force(corpus, 0.9), groups_by_brute_force(corpus, 0.68)
    missed = [i for i, first in enumerate(surely) if first != i and i not in found]
    wrong = [i for i, kept in found.items() if maybe[i] != maybe[kept]]
    assert not wrong
    assert len(missed) <= 0.01 * sum(first != i for i, first in enumerate(surely))
    assert len(found) > 300


def test_near_duplicates_do_not_depend_on_how_records_are_cut_into_units(tmp_path: Path, corpus: list[str]) -> None:
    whole, parts = Signatures(tmp_path, "whole"), [Signatures(tmp_path, f"part{i}") for i in range(3)]
    whole.add(np.arange(len(corpus)), corpus)
    cut = len(corpus) // 3 + 1
    for index, part in enumerate(parts):
        part.add(np.arange(len(corpus))[index * cut : (index + 1) * cut], corpus[index * cut : (index + 1) * cut])
    assert near_duplicates([whole]).equals(near_duplicates(parts))


def test_texts_without_a_word_are_nobodys_duplicates(tmp_path: Path) -> None:
    signatures = Signatures(tmp_path)
    signatures.add(np.arange(4), ["", "!!!", "", "…"])
    assert near_duplicates([signatures]).is_empty()
    assert near_duplicates([]).is_empty()


def test_exact_duplicates_keep_the_first() -> None:
    records = pl.DataFrame({"record_id": [9, 3, 5, 4], "content": pl.Series([7, 7, 7, 8], dtype=pl.UInt64)})
    assert exact_duplicates(records).rows() == [(5, 3, "SFT701"), (9, 3, "SFT701")]


def test_one_prompt_with_two_answers_conflicts_and_with_one_does_not() -> None:
    chats = [chat("2+2?", "4"), chat("2+2?", "5"), chat("3+3?", "6"), chat("3+3?", "6"), chat("2 + 2?", "4")]
    keys = [keys_of(one) for one in chats]
    records = pl.DataFrame(
        {
            "record_id": range(5),
            "prompt": pl.Series([one.prompt for one in keys], dtype=pl.UInt64),
            "answer": pl.Series([one.answer for one in keys], dtype=pl.UInt64),
        }
    )
    assert conflicting_answers(records).rows() == [(0, 0, 2), (1, 0, 2)]


def test_letter_case_space_and_flags_make_no_difference_but_tools_and_roles_do() -> None:
    plain = Conversation((Message("user", "Hi  there"), Message("assistant", "Hello")))
    loud = Conversation((Message("user", "HI there\n"), Message("assistant", "Hello", trained=True)))
    tools = Conversation(plain.messages, tools=({"name": "f"},))
    other = Conversation((Message("system", "Hi  there"), Message("assistant", "Hello")))
    assert keys_of(plain).content == keys_of(loud).content
    assert len({keys_of(one).content for one in (plain, tools, other)}) == 3


def test_an_eval_question_inside_a_turn_is_found_and_a_neighbour_is_not() -> None:
    question = "A train leaves the station at nine in the morning and travels at sixty miles an hour to the coast"
    index = EvalIndex([question, "What is the capital of the country that lies north of Spain and west of Italy?"])
    inside = f"Please solve this for me. {question}. Show your steps."
    apart = "A train leaves the city at noon and goes to the coast at sixty miles an hour, with nine stops on its way."
    found = index.overlaps([apart, inside, "", inside.upper()])
    assert [(one.place, one.item) for one in found] == [(1, 0), (3, 0)]
    assert found[0].share > 0.9


def test_windows_never_cross_texts() -> None:
    hashes, offsets = shingles(["a b c d", "", "a b", "c d"], 3)
    assert offsets.tolist() == [0, 2, 2, 3, 4]
    assert len(set(hashes.tolist())) == 4
    again, _ = shingles(["x", "a b c d"], 3)
    assert again[1:].tolist() == hashes[:2].tolist()


def test_scripts_without_spaces_are_cut_by_character() -> None:
    _, offsets = shingles(["今日は良い天気です", "สวัสดี"], 3)
    assert offsets[1] == 7
    assert offsets[2] > offsets[1] + 1
