"""Stand-ins for pictures, sound and film in records that bring none (SFT716).

What lives here: `<image>`, `<video>` and `<audio>` where data for multimodal models has them: at the start or the end
of a line, outside of code. A record with such columns is refused before (SFT122). What must not: parts and columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sftdata.checks.texts import prose
from sftdata.records import Conversation, Finding

__all__ = ["placeheld"]

_AT_THE_EDGE = re.compile(r"^[ \t]*<(image|video|audio)>|<(image|video|audio)>[ \t]*$", re.MULTILINE)


def placeheld(conversation: Conversation) -> Iterator[Finding]:
    """One finding for a text record, or for each turn not the assistant's, that stands for what is not there."""
    if conversation.text is not None:
        yield from _found(conversation.text, "/text")
    for message, pointer in zip(conversation.messages, conversation.pointers, strict=True):
        text = message.content
        if text and "<" in text and message.role != "assistant":
            yield from _found(text, pointer)


def _found(text: str, pointer: str) -> Iterator[Finding]:
    if "<image>" not in text and "<video>" not in text and "<audio>" not in text:
        return
    found = _AT_THE_EDGE.search(prose(text))
    name = (found[1] or found[2]) if found else ""
    if name and f"</{name}>" not in text:
        yield Finding("SFT716", f"<{name}> stands for something that the record does not hold", pointer)
