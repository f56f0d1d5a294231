"""Rules about what conversations say: pure functions from a `Conversation` to findings, cheap enough for every row.

    examine(conversation) ─► findings of SFT003, 005–007, 010, 111, 121, 706–710, 714–716

What lives here: the list of checks and the loop over them. What must not: files, tokens, other records.
"""

from __future__ import annotations

from sftdata.checks.characters import odd_characters
from sftdata.checks.endings import cut_replies
from sftdata.checks.media import placeheld
from sftdata.checks.placeholders import unfilled
from sftdata.checks.refusals import refusals
from sftdata.checks.repetition import loops
from sftdata.checks.scripts import other_script
from sftdata.checks.secrets import secrets
from sftdata.checks.spelled_chats import spelled
from sftdata.checks.structure import structure
from sftdata.records import Conversation, Finding

__all__ = ["CHECKS", "CODES", "examine"]

CHECKS = {
    "characters": odd_characters,
    "structure": structure,
    "secrets": secrets,
    "refusals": refusals,
    "placeholders": unfilled,
    "spelled chats": spelled,
    "media": placeheld,
    "repetition": loops,
    "scripts": other_script,
    "endings": cut_replies,
}
"""Each takes a conversation and yields findings, at most one a rule and message."""

CODES = frozenset(
    [
        *("SFT003", "SFT005", "SFT006", "SFT007", "SFT010", "SFT111", "SFT121"),
        *("SFT706", "SFT707", "SFT708", "SFT709", "SFT710", "SFT714", "SFT715", "SFT716"),
    ]
)
"""The rules that they look for."""


def examine(conversation: Conversation) -> tuple[Finding, ...]:
    """Everything that the rules about texts find in one conversation.

    >>> from sftdata.records import Message
    >>> turns = (Message("user", "Who are you?"), Message("assistant", "I am {{name}}."))
    >>> chat = Conversation(turns, pointers=("/0", "/1"))
    >>> [(one.code, one.pointer) for one in examine(chat)]
    [('SFT714', '/1')]
    """
    return tuple(finding for check in CHECKS.values() for finding in check(conversation))
