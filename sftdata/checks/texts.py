"""The texts of a conversation with their places, as every check wants them.

What lives here: walking a conversation, and setting code aside. What must not: any rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sftdata.records import Conversation

__all__ = ["prose", "replies", "texts"]


def texts(conversation: Conversation) -> Iterator[tuple[str, str]]:
    """(text, pointer) of every content and reasoning, and of a text record."""
    if conversation.text is not None:
        yield conversation.text, "/text"
    for message, pointer in zip(conversation.messages, conversation.pointers, strict=True):
        if message.content:
            yield message.content, pointer
        if message.reasoning:
            yield message.reasoning, pointer


def replies(conversation: Conversation) -> Iterator[tuple[str, str, int]]:
    """(content, pointer, index) of every assistant turn that has a text."""
    for index, message in enumerate(conversation.messages):
        if message.role == "assistant" and message.content:
            yield message.content, conversation.pointers[index], index


_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)


def prose(text: str) -> str:
    """`text` without what stands in code fences and backticks.

    >>> prose("Use `{{ x }}` so: ```jinja\\n{{ y }}\\n``` and done")
    'Use   so:   and done'
    """
    return _CODE.sub(" ", text) if "`" in text else text
