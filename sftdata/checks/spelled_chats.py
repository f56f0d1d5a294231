"""Chats that are written out inside one text (SFT715).

    {"text": "### Human: Hi### Assistant: Hello"}        {"prompt": "[INST] Hi [/INST]", "completion": "Hello"}

What lives here: the marks by which turns are written out. A text record that spells them is trained whole, questions
and marks too; a prompt that ends in the mark of the answer was rendered before, and is rendered a second time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sftdata.records import Conversation, Finding

__all__ = ["spelled"]

_MARKS = (
    ("### Human:", "### Assistant:"),
    ("### Instruction:", "### Response:"),
    ("### User:", "### Assistant:"),
    ("[INST]", "[/INST]"),
    ("<|im_start|>user", "<|im_start|>assistant"),
    ("<|start_header_id|>user", "<|start_header_id|>assistant"),
    ("<start_of_turn>user", "<start_of_turn>model"),
    ("<|user|>", "<|assistant|>"),
    ("<human>:", "<bot>:"),
    ("<s>Human:", "<s>Assistant:"),
    ("[|Human|]", "[|AI|]"),
)
"""How the user's turn and the assistant's begin, in the spellings of templates."""
_ASKING = re.compile(r"^(?:Human|USER|User): ", re.MULTILINE)
_ANSWERING = re.compile(r"^(?:Assistant|ASSISTANT):", re.MULTILINE)
"""The same in plain words, each at the start of its line."""
_ENDS = (
    *(answering for _, answering in _MARKS if answering[0] != "<"),
    *("<|im_start|>assistant", "<|end_header_id|>", "<start_of_turn>model", "<|assistant|>", "<bot>:"),
)
_WORD_ENDS = ("Assistant:", "ASSISTANT:")


def spelled(conversation: Conversation) -> Iterator[Finding]:
    """One finding for a text, or for each turn of the user, that is a written-out chat."""
    text = conversation.text
    if text is not None:
        mark = _mark(text)
        if mark:
            yield Finding("SFT715", f"the text spells the turns of a chat ({mark!r}): all of it is trained", "/text")
        return
    for message, pointer in zip(conversation.messages, conversation.pointers, strict=True):
        content = message.content
        if message.role == "user" and content and _is_rendered(content.rstrip()):
            yield Finding("SFT715", f"the prompt spells the turns of a chat, up to {_end(content)!r}", pointer)


def _mark(text: str) -> str:
    """The mark of the answer, behind that of a question."""
    for asking, answering in _MARKS:
        at = text.find(answering)
        if at >= 0 and asking in text[:at]:
            return answering
    return _in_words(text) if "ssistant:" in text or "SSISTANT:" in text else ""


def _in_words(text: str) -> str:
    asked = _ASKING.search(text)
    answered = _ANSWERING.search(text, asked.end()) if asked else None
    return answered.group() if answered else ""


def _is_rendered(prompt: str) -> bool:
    return prompt.endswith(_ENDS) or (prompt.endswith(_WORD_ENDS) and bool(_in_words(prompt)))


def _end(prompt: str) -> str:
    end = prompt.rstrip()
    return next(mark for mark in (*_ENDS, *_WORD_ENDS) if end.endswith(mark))
