"""Replies that refuse, or speak about being a model (SFT706).

What lives here: openings and phrases in a few languages. They are searched where refusals stand: a refusal at the
beginning of a reply, a remark about oneself anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sftdata.checks.texts import replies
from sftdata.records import Conversation, Finding

__all__ = ["refusals"]

_OPENING = 240
_NOT = r"(?:can(?:'|’)?t|cannot|can not|(?:am|'m|’m) (?:unable|not able)|won(?:'|’)t|will not|am not programmed)"
_REFUSED = re.compile(
    rf"\W*(?:(?:I(?:'m|’m| am)|We are)? ?(?:very |so |really )?(?:sorry|afraid)|(?:I|My|We) (?:do )?apologi[sz]e\w*|"
    rf"Sorry|Unfortunately)\b[^.!?\n]{{0,60}}\b(?:I|we) ?{_NOT}\b"
    rf"|\W*I {_NOT}(?: be able)?(?: to)? (?:assist|help|provide|comply|fulfil|create|generate|write|answer|do|"
    r"access|browse|offer|engage|support|discuss)\b"
    r"|\W*(?:很抱歉|抱歉|对不起)[，,]?[^。！？\n您你]{0,20}(?:无法|不能|没有办法)"
    r"|\W*(?:Lo siento|Désolé|Je suis désolé|Es tut mir leid|Desculpe)\b[^.!?\n]{0,60}\b"
    r"(?:no puedo|ne peux pas|kann ich|ich kann|não posso)\b",
    re.IGNORECASE,
)
_SELF = re.compile(
    r"\b(?:as|I am|I'm|I’m|being|just|only|merely) an? (?:AI|artificial intelligence|large language|language|"
    r"text-based|machine learning)(?: language| text)?(?:[- ]based)?(?: model| assistant| chatbot| system| program)?\b"
    r"|\b(?:comme|en tant qu)[e'’ ]*(?:modèle de langage|intelligence artificielle|IA)\b"
    r"|\bals (?:KI|Sprachmodell|künstliche Intelligenz)\b"
    r"|\bcomo (?:modelo de lengua\w+|una? IA|inteligencia artificial)"
    r"|作为(?:一个|一名|一款)?(?:AI|人工智能|语言模型|大型语言模型)",
    re.IGNORECASE,
)
_HINTS = ("AI", "language model", "rtificial", "ntelligence", "KI", "Sprachmodell", "作为", "langage", "IA", "machine")


def refusals(conversation: Conversation) -> Iterator[Finding]:
    """One finding a reply that refuses, or that speaks of itself as a model."""
    for text, pointer, _ in replies(conversation):
        refused = _REFUSED.match(text, 0, _OPENING)
        if refused:
            yield Finding("SFT706", f"the reply refuses: {_quoted(refused.group())}", pointer)
        elif any(hint in text for hint in _HINTS):
            self_spoken = _SELF.search(text)
            if self_spoken:
                yield Finding(
                    "SFT706", f"the reply speaks of itself as a model: {_quoted(self_spoken.group())}", pointer
                )


def _quoted(text: str) -> str:
    return repr(" ".join(text.split())[:60])
