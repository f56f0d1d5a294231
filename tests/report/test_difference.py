"""The first difference of two texts or id lists, as people see it."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from sftdata.report.difference import ids_difference, quoted, text_difference
from tests.strategies import texts

NAMES = ("a", "other")


def spelled(ids: Sequence[int]) -> str:
    return "".join(chr(97 + one) for one in ids)


@given(texts(), texts())
def test_equal_texts_have_none_and_others_part_where_it_says(one: str, other: str) -> None:
    lines = text_difference(one, other, NAMES)
    assert bool(lines) == (one != other)
    if lines:
        at = int(lines[0].split()[3].replace(",", ""))
        assert one[:at] == other[:at]
        assert one[at : at + 1] != other[at : at + 1]
        assert all(line.isprintable() for line in lines)


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_the_same_for_ids(one: list[int], other: list[int]) -> None:
    lines = ids_difference(one, other, spelled, NAMES)
    assert bool(lines) == (one != other)
    if lines:
        at = int(lines[0].split()[3].replace(",", ""))
        assert one[:at] == other[:at]
        assert one[at : at + 1] != other[at : at + 1]


def test_a_text_that_ends_early_says_so_and_names_line_up() -> None:
    assert text_difference("ab", "abc", NAMES) == [
        'differ at character 2 of 2 and 3, behind "ab"',
        "  a      ends here",
        '  other  "c"',
    ]
    assert ids_difference([], [0], spelled, NAMES) == [
        "differ at id 0 of 0 and 1, the first",
        "  a      ends here",
        '  other  0 "a"',
    ]


def test_long_texts_are_cut_on_both_sides() -> None:
    lines = text_difference("x" * 500 + "a" * 500, "x" * 500 + "b" * 500, NAMES)
    assert all(len(line) < 120 for line in lines)
    assert lines[0].endswith('behind …"' + "x" * 48 + '"')


@given(texts())
def test_quoted_is_one_printable_line(text: str) -> None:
    assert quoted(text).isprintable()
