"""Replies that stop in the middle (SFT710).

What lives here: endings that no finished text has. An ending without a full stop is not one of them: titles, lists and
short answers have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sftdata.checks.texts import replies
from sftdata.records import Conversation, Finding

__all__ = ["cut_replies"]

_LEAST = 80
_HANGING = re.compile(
    r"(?<=\w\s)(?:the|a|an|of|and|or|nor|to|in|with|for|that|by|as|from|which|because|but|if|their|its|is|are|was|were|"
    r"der|die|das|und|oder|mit|le|la|les|des|et|ou|el|los|las|y|que)\Z"
    r"|[,，、]\Z"
    r"|[a-z]-\Z"
)
_SENTENCE = re.compile(r"[.!?。！？][\"'”’)]* ")


def cut_replies(conversation: Conversation) -> Iterator[Finding]:
    """One finding a reply that ends on a hanging word or comma, or inside a code fence."""
    for text, pointer, index in replies(conversation):
        ending = text.rstrip()
        if text.count("```") % 2 and not conversation.messages[index].tool_calls:
            yield Finding("SFT710", "the reply ends inside a code fence", pointer)
            continue
        if len(ending) < _LEAST or "`" in ending[-_LEAST:]:
            continue
        last = ending[ending.rfind("\n") + 1 :]
        hanging = _HANGING.search(ending, max(0, len(ending) - 24))
        if hanging and len(last) >= _LEAST // 2 and _SENTENCE.search(ending):
            yield Finding("SFT710", f"the reply ends on {ending[-16:]!r}", pointer)
