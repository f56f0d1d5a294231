"""`{% generation %}` blocks: where they stand in a template, and where their text stands in a rendering.

What must not be here: rendering itself. In a syntax tree a generation block is a `Scope`, which nothing else is.
"""

from __future__ import annotations

import re
from typing import Literal

from jinja2 import nodes

__all__ = ["buffered_markers", "find_markers", "set_marks", "take_marks"]

_BUFFERING = (nodes.Macro, nodes.CallBlock, nodes.AssignBlock, nodes.FilterBlock)


def find_markers(tree: nodes.Template) -> Literal["none", "plain", "buffered"]:
    """How a template marks replies; `buffered` if any marker's output is held back before it is written."""
    if tree.find(nodes.Scope) is None:
        return "none"
    return "buffered" if buffered_markers(tree) else "plain"


def buffered_markers(tree: nodes.Template) -> list[int]:
    """Lines of the `{% generation %}` blocks whose output goes into a variable or a macro's result first."""
    blocks = [*tree.find_all(_BUFFERING), *(loop for loop in tree.find_all(nodes.For) if loop.recursive)]
    return sorted({scope.lineno for block in blocks for scope in block.find_all(nodes.Scope)})


def set_marks(text: str) -> tuple[str, str]:
    """Two marks that do not occur in a text: private-use characters, longer until that is so."""
    opening, closing = "\U000f5f00", "\U000f5f01"
    while opening in text or closing in text:
        opening, closing = opening + "\U000f5f02", closing + "\U000f5f02"
    return opening, closing


def take_marks(marked: str, opening: str, closing: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without marks and the spans that they enclosed; a mark without its partner gives no span."""
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    open_at: list[int] = []
    length = 0
    for piece in re.split(f"({opening}|{closing})", marked):
        if piece == opening:
            open_at.append(length)
        elif piece == closing and open_at:
            spans.append((open_at.pop(), length))
        elif piece != closing:
            pieces.append(piece)
            length += len(piece)
    return "".join(pieces), sorted(spans)
