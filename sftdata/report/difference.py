"""The first difference of two texts, or of two lists of ids, in its context: a few lines for people.

What lives here: finding it and wording it. What must not: where texts and ids come from. Nothing here passes a
control character on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from sftdata.report.terminal import clean

__all__ = ["ids_difference", "quoted", "text_difference"]

_BEFORE, _AFTER, _TOKENS = 48, 64, 6

Decode = Callable[[Sequence[int]], str]


def quoted(text: str, *, limit: int = 200) -> str:
    """`text` in quotes on one line, as JSON writes it, at most `limit` characters of it.

    >>> quoted("a\\nb")
    '"a\\\\nb"'
    """
    shown = json.dumps(text[:limit], ensure_ascii=False)
    return clean(shown, limit=8 * limit) + ("…" if len(text) > limit else "")


def text_difference(one: str, other: str, names: tuple[str, str]) -> list[str]:
    """Where two texts part, what stands before, and how each goes on; nothing where they are equal.

    >>> for line in text_difference("Hi there", "Hi you", ("a", "b")): print(line)
    differ at character 3 of 8 and 6, behind "Hi "
      a  "there"
      b  "you"
    """
    if one == other:
        return []
    at = _shared(one, other)
    head = f"differ at character {at:,} of {len(one):,} and {len(other):,}"
    before = f", behind {_tail(one[:at])}" if at else ", the first"
    return [head + before, *_sides(names, (_onward(one, at), _onward(other, at)))]


def ids_difference(one: Sequence[int], other: Sequence[int], decode: Decode, names: tuple[str, str]) -> list[str]:
    """The same for ids, each shown with what it decodes to; nothing where they are equal."""
    if list(one) == list(other):
        return []
    at = _shared(one, other)
    head = f"differ at id {at:,} of {len(one):,} and {len(other):,}"
    before = f", behind {_tail(decode(one[max(0, at - 4 * _TOKENS) : at]))}" if at else ", the first"
    shown = [_pieces(ids[at : at + _TOKENS], decode, more=len(ids) > at + _TOKENS) for ids in (one, other)]
    return [head + before, *_sides(names, (shown[0], shown[1]))]


def _shared(one: Sequence[object], other: Sequence[object]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _tail(text: str) -> str:
    return ("…" if len(text) > _BEFORE else "") + quoted(text[-_BEFORE:])


def _onward(text: str, at: int) -> str:
    return quoted(text[at:], limit=_AFTER) if at < len(text) else "ends here"


def _pieces(ids: Sequence[int], decode: Decode, *, more: bool) -> str:
    if not ids:
        return "ends here"
    return "  ".join(f"{one} {quoted(decode([one]), limit=40)}" for one in ids) + ("  …" if more else "")


def _sides(names: tuple[str, str], sides: tuple[str, str]) -> list[str]:
    width = max(map(len, names))
    return [f"  {name:<{width}}  {side}" for name, side in zip(names, sides, strict=True)]
