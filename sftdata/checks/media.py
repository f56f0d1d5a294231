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

_TAGS = ("<image>", "<video>", "<audio>")
_AT_THE_EDGE = re.compile(r"^[ \t]*<(image|video|audio)>|<(image|video|audio)>[ \t]*$", re.MULTILINE)


def placeheld(conversation: Conversation) -> Iterator[Finding]:
    """One finding for a text record, or for each turn not the assistant's, that stands for what is not there."""
    told = [(message.content, message.role) for message in conversation.messages] or [(conversation.text, "user")]
    places = conversation.pointers or ("/text",)
    for (text, role), pointer in zip(told, places, strict=True):
        if not text or role == "assistant" or not any(tag in text for tag in _TAGS):
            continue
        found = _AT_THE_EDGE.search(prose(text))
        if found is not None and f"</{found[1] or found[2]}>" not in text:
            what = f"<{found[1] or found[2]}> stands for something that the record does not hold"
            yield Finding("SFT716", what, pointer)
