"""The record's own word on what is trained: every name, both polarities, and no guess."""

from __future__ import annotations

from typing import Any

import pytest

from sftdata.formats import normalise
from sftdata.formats.flags import FLAG_KEYS
from sftdata.records import Conversation, Rejection

USER: dict[str, Any] = {"role": "user", "content": "Q"}
REPLY: dict[str, Any] = {"role": "assistant", "content": "A"}
COUNTING = sorted(FLAG_KEYS - {"mask", "masked"})


def flags(record: Any) -> list[bool | None]:
    """The flags of the replies."""
    result = normalise(record)
    assert isinstance(result, Conversation), result
    assert all(turn.trained is None for turn in result.messages if turn.role != "assistant")
    return [turn.trained for turn in result.messages if turn.role == "assistant"]


def faults(record: Any) -> list[tuple[str, str]]:
    result = normalise(record)
    assert isinstance(result, Rejection), result
    return [(found.code, found.pointer) for found in result.findings]


@pytest.mark.parametrize("key", COUNTING)
@pytest.mark.parametrize(("off", "on"), [(0, 1), (False, True), (0.0, 1.0)])
def test_a_flag_that_counts_a_turn_is_kept_as_it_is_meant(key: str, off: Any, on: Any) -> None:
    turns = [USER, {**REPLY, key: off}, USER, {**REPLY, key: on}, USER, {**REPLY, key: None}, USER, REPLY]
    assert flags(turns) == [False, True, None, None]
    spoken = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A", key: off}, {"from": "gpt", "value": "B"}]
    assert flags({"conversations": spoken}) == [False, None]


@pytest.mark.parametrize("flag", [{"masked": True}, {"metadata": {"masked": True}}, {"mask": 1}, {"mask": True}])
def test_a_flag_that_masks_a_turn_leaves_it_out(flag: dict[str, Any]) -> None:
    assert flags([USER, {**REPLY, **flag}, USER, REPLY]) == [False, None]


def test_where_prompts_carry_mask_their_value_says_what_it_means() -> None:
    counted = [{**USER, "mask": 0}, {**REPLY, "mask": 0}, {**USER, "mask": 0}, {**REPLY, "mask": 1}]
    assert flags(counted) == [False, True]
    left_out = [{**USER, "mask": 1}, {**REPLY, "mask": 1}, {**USER, "mask": 1}, {**REPLY, "mask": 0}]
    assert flags(left_out) == [False, True]


def test_a_mask_that_can_be_read_both_ways_is_refused() -> None:
    every_zero = [{**USER, "mask": 0}, {**REPLY, "mask": 0}]
    assert faults(every_zero) == [("SFT115", "/0/mask"), ("SFT115", "/1/mask")]
    mixed = [{**USER, "mask": 0}, {**USER, "mask": 1}, {**REPLY, "mask": 1}]
    assert ("SFT115", "/2/mask") in faults(mixed)


@pytest.mark.parametrize("key", COUNTING)
@pytest.mark.parametrize("value", [0.5, 2, -1, "1", "true", [], {}])
def test_a_weight_that_is_neither_off_nor_on_is_refused_not_rounded(key: str, value: Any) -> None:
    assert faults([USER, {**REPLY, key: value}]) == [("SFT115", f"/1/{key}")]


def test_flags_that_contradict_each_other_are_refused() -> None:
    assert faults([USER, {**REPLY, "weight": 1, "train": False}]) == [("SFT115", "/1")]
    assert faults([USER, {**REPLY, "weight": 1, "masked": True}]) == [("SFT115", "/1")]
    assert flags([USER, {**REPLY, "weight": 1, "train": True, "masked": False}]) == [True]


def test_a_prompt_that_asks_to_be_trained_is_refused_and_one_that_does_not_is_plain() -> None:
    assert faults([{**USER, "weight": 1}, REPLY]) == [("SFT115", "/0/weight")]
    assert flags([{**USER, "weight": 0}, {**REPLY, "weight": 1}]) == [True]


def test_a_record_of_which_nothing_is_trained_is_refused() -> None:
    assert faults([USER, {**REPLY, "weight": 0}]) == [("SFT107", "")]
    assert faults({"prompt": "Q", "completion": "A", "weight": 0}) == [("SFT107", "")]


def test_a_weight_of_the_record_is_that_of_its_replies_where_they_have_none() -> None:
    assert flags({"messages": [USER, {**REPLY, "weight": 1}, USER, REPLY], "weight": 0}) == [True, False]
    assert flags({"messages": [USER, REPLY], "weight": 1}) == [None]


@pytest.mark.parametrize("key", ["train_detail", "training_detail"])
def test_training_controls_below_the_turn_are_refused(key: str) -> None:
    detail = [{"begin_offset": 0, "end_offset": 1, "train": False}]
    assert faults([USER, {**REPLY, key: detail}]) == [("SFT115", f"/1/{key}")]
    parts = [{"type": "text", "text": "A", "weight": 0}]
    assert faults([USER, {**REPLY, "content": parts}]) == [("SFT115", "/1/content/0/weight")]


def test_a_list_of_masked_roles_is_fine_as_long_as_no_reply_is_among_them() -> None:
    turns = [{"from": "User", "value": "Q"}, {"from": "Assistant", "value": "A"}]
    assert flags({"mask": "User", "system": "", "conversations": turns}) == [None]
    assert faults({"mask": "User,Assistant", "conversations": turns}) == [("SFT115", "/mask")]


def test_replies_inside_a_prompt_are_context() -> None:
    record = {"prompt": [USER, REPLY, USER], "completion": [REPLY]}
    assert flags(record) == [False, None]
