"""A part of `make conformance`: hard templates against the oracle, and the oracle against examples that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.harness import SHAPES, Bench, base_tokenizer, carried, from_lines, trl_templates
from tests.conformance.masks import categories
from tests.conformance.table import Row, row

pytest.importorskip("trl", reason="trl is not installed: it needs Python 3.11")

BASE = base_tokenizer()
HARD = {
    "qwen3": {"two turns": "unrolled", "reasoning": "unrolled", "parallel calls": "unrolled"},
    "qwen3_5_nothink": {"two turns": "unrolled", "reasoning": "SFT308", "parallel calls": "exact"},
    "nemotron_3_nano": {"two turns": "unrolled", "reasoning": "unrolled", "ends on result": "exact"},
    "deepseekv3": {"two turns": "unrolled", "reasoning": "unrolled", "tool call": "SFT308"},
    "glm4moe": {"two turns": "exact", "tool call": "exact", "text beside call": "exact", "control": "exact"},
    "gptoss": {"two turns": "unrolled", "tool call": "exact", "text beside call": "exact", "parallel calls": "SFT308"},
    "gemma4_v5": {"two turns": "exact", "parallel calls": "exact", "text beside call": "SFT316"},
    "gemma": {"single": "exact", "system": "SFT302", "tool call": "SFT308"},
    "phi3": {"two turns": "exact", "reasoning": "SFT308", "edges": "exact"},
    "llama3_1": {"system": "exact", "tool call": "exact", "parallel calls": "SFT302"},
    "smolvlm": {"two turns": "exact", "empty": "exact", "control": "exact"},
    "llava_next": {"two turns": "exact", "system": "exact"},
    "muse_glimmer": {"two turns": "exact", "reasoning": "exact"},
}
"""Templates that rewrite history, put something before the reply, close a turn with the next header, or want parts."""


def outcomes(judged: Row) -> dict[str, str]:
    last = {shape: second or first for shape, (first, second) in judged.verdicts.items()}
    return {shape: verdict.code or verdict.outcome for shape, verdict in last.items()}


def faults(judged: Row) -> list[str]:
    return [fault for pair in judged.verdicts.values() for one in pair if one is not None for fault in one.faults]


@pytest.mark.parametrize("name", HARD)
def test_hard_template_is_exact_or_refused_for_a_reason_that_the_oracle_sees(name: str) -> None:
    judged = row((name, trl_templates()[name]), shapes=tuple(HARD[name]))
    assert faults(judged) == []
    assert outcomes(judged) == HARD[name]


@pytest.mark.parametrize("name", carried())
def test_carried_template_is_exact_by_itself(name: str) -> None:
    judged = row((name, carried()[name]), shapes=("two turns", "system", "control"))
    assert faults(judged) == []
    assert all(first.outcome != "refused" for first, _ in judged.verdicts.values())


def test_template_without_an_end_of_turn_needs_an_eos_and_is_exact_with_it(
    shared_data: Path,
) -> None:
    source = from_lines(shared_data / "templates.jsonl")["falcon-instruct"]
    first, second = Bench(source, BASE).best(SHAPES["single"])
    assert first.code == "SFT413"
    assert second is not None
    assert (second.outcome, second.flags, second.faults) == ("exact", ("--append-eos",), ())


@pytest.mark.parametrize(
    ("theirs", "kinds"),
    [
        ("Hi</s>", ("same",)),
        ("Hi</s>\n", ("whitespace behind the stop",)),
        ("Hi</s>\n<eos>", ("text behind the stop",)),
        ("Hi", ("stop untrained",)),
        ("assistant\nHi</s>", ("header trained",)),
        ("assistant\nHi</s>\n", ("header trained", "whitespace behind the stop")),
        ("Ho</s>", ("other text",)),
    ],
)
def test_difference_of_two_masks_has_a_name(theirs: str, kinds: tuple[str, ...]) -> None:
    assert categories("<user>q<assistant\n", "Hi</s>", theirs, "</s>") == kinds


def test_text_that_the_prompt_lacks_and_the_mask_leaves_out_is_scaffold() -> None:
    assert categories("<a>", "<t></t>Hi</s>", "Hi</s>", "</s>") == ("scaffold untrained",)
