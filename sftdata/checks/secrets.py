"""Credentials and personal data, by shape and check digit (SFT707). What was found is never quoted.

What lives here: patterns precise enough to act on. Values that are plainly made up (`xxxx`, `EXAMPLE`, counting digits)
and documentation domains are left alone. Names and street addresses have no shape and are not looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from sftdata.checks.texts import prose, texts
from sftdata.records import Conversation, Finding

__all__ = ["secrets"]

_MADE_UP = re.compile(r"(.)\1{5}|x{4}|X{4}|EXAMPLE|example|1234567|abcdef|ABCDEF|your|YOUR|placeholder|\.\.\.|<|\*{3}")


def _looks_random(value: str) -> bool:
    """Whether a key could be real: no word of a manual in it, and many different characters."""
    return not _MADE_UP.search(value) and len(set(value)) >= min(12, len(value) // 2)


def _luhn(value: str) -> bool:
    digits = [int(char) for char in value if char.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) < 4:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 and "".join(map(str, digits)) not in _TEST_CARDS


_TEST_CARDS = {"4111111111111111", "4242424242424242", "5555555555554444", "378282246310005", "4012888888881881"}


def _iban(value: str) -> bool:
    text = value.replace(" ", "")
    if not 15 <= len(text) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def _social_security(value: str) -> bool:
    area, group, serial = value.split("-")
    invalid = area in {"000", "666"} or area[0] == "9" or group == "00" or serial == "0000"
    return not invalid and value not in {"123-45-6789", "078-05-1120", "219-09-9999"} and len(set(value)) > 4


def _anything(value: str) -> bool:  # noqa: ARG001
    return True


_BY_PREFIX: tuple[tuple[str, str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("a private key", "PRIVATE KEY", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}"), _anything),
    ("an AWS access key", "AKIA", re.compile(r"\bAKIA[0-9A-Z]{16}\b"), _looks_random),
    ("an AWS access key", "ASIA", re.compile(r"\bASIA[0-9A-Z]{16}\b"), _looks_random),
    ("a GitHub token", "ghp_", re.compile(r"\bghp_[A-Za-z0-9]{36,}\b"), _looks_random),
    ("a GitHub token", "gho_", re.compile(r"\bgho_[A-Za-z0-9]{36,}\b"), _looks_random),
    ("a GitHub token", "ghs_", re.compile(r"\bghs_[A-Za-z0-9]{36,}\b"), _looks_random),
    ("a GitHub token", "github_pat_", re.compile(r"\bgithub_pat_[A-Za-z0-9_]{40,}\b"), _looks_random),
    ("a GitLab token", "glpat-", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}"), _looks_random),
    ("an API key", "sk-", re.compile(r"\bsk-(?:[a-z0-9]+-){0,3}[A-Za-z0-9_-]{32,}"), _looks_random),
    ("a Stripe key", "k_live_", re.compile(r"\b[sr]k_live_[0-9A-Za-z]{20,}\b"), _looks_random),
    ("a Slack token", "xox", re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{20,}"), _looks_random),
    ("a Google API key", "AIza", re.compile(r"\bAIza[0-9A-Za-z_-]{35}"), _looks_random),
    ("a Hugging Face token", "hf_", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"), _looks_random),
    ("a web token", "eyJ", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}"), _anything),
    ("a password in an address", "://", re.compile(r"://[^\s/:@]{2,}:([^\s/:@]{6,})@[\w.-]+\.\w{2,}"), _looks_random),
)
"""(what it is, a substring that every case holds, the pattern, a last test of the match)."""

_HINTS = tuple(hint for _, hint, _, _ in _BY_PREFIX)

_IN_DIGITS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("a payment card number", re.compile(r"(?<![\w.-])[3-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{1,7}(?![\w.-]?\d)"), _luhn),
    ("an IBAN", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), _iban),
    ("a social security number", re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), _social_security),
)
_SHAPES = (b"00000000", b"0000 0000", b"0000-0000", b"000-00-0000", b"AA00")
"""What every one of them holds, with 0 for a digit and A for a capital: looked for as substrings, which is fast."""
_TO_SHAPE = bytes(
    ord("0") if chr(code).isdigit() else ord("A") if chr(code).isupper() else code if code < 128 else 0
    for code in range(256)
)

_MAIL = re.compile(r"(?<![\w.+'\"=-])[\w.+-]{2,64}@(?:[\w-]+\.)+[A-Za-z]{2,24}\b")
_NO_PERSON = re.compile(
    r"@(?:[\w-]+\.)*(?:example\w*|test|email|domain|company|yourcompany|mycompany|website|abc|xyz|foo|bar|acme|sample|"
    r"\w*xyz|abc\w*)\.|"
    r"\A(?:info|support|contact|sales|help|admin|noreply|no-reply|hello|team|service|office|press|jobs|hr|example|name|"
    r"your\w*|user\w*|email|test\w*|someone|me|john\W?doe|jane\W?doe|johndoe\d*|janedoe\d*|\w*smith\d*|abc\w*|xyz\w*)@",
    re.IGNORECASE,
)


def secrets(conversation: Conversation) -> Iterator[Finding]:
    """One finding a text that holds something of the kind, naming the kind and nothing of the value."""
    if not _may_hold("\n".join([text for text, _ in texts(conversation)])):
        return
    for text, pointer in texts(conversation):
        found = sorted(set(_kinds(text)))
        if found:
            yield Finding("SFT707", f"what looks like {', '.join(found)}", pointer)


def _may_hold(whole: str) -> bool:
    """Whether any pattern could match: one look at a whole conversation, which most do not pass."""
    return "@" in whole or _has_shape(whole) or any(hint in whole for hint in _HINTS)


def _has_shape(text: str) -> bool:
    shape = text.encode("ascii", "replace").translate(_TO_SHAPE)
    return any(one in shape for one in _SHAPES)


def _kinds(text: str) -> Iterator[str]:
    for what, hint, pattern, real in _BY_PREFIX:
        if hint in text and any(real(match.group(match.re.groups)) for match in pattern.finditer(text)):
            yield what
    if _has_shape(text):
        for what, pattern, real in _IN_DIGITS:
            if any(real(match.group()) for match in pattern.finditer(text)):
                yield what
    if "@" in text and any(map(_personal, _MAIL.finditer(prose(text)))):
        yield "an e-mail address"


def _personal(match: re.Match[str]) -> bool:
    """Whether an address could be somebody's: two parts or a number, and not one of those that manuals use."""
    local = match.group().partition("@")[0]
    return bool(re.search(r"[._\d]", local)) and not _NO_PERSON.search(match.group())
