"""Replies in another script than the question (SFT709).

What lives here: telling scripts apart by their letters; no model, no dictionary. A question that speaks of languages or
of translating is left alone, and so are short texts and code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sftdata.checks.texts import prose, replies
from sftdata.records import Conversation, Finding

__all__ = ["other_script", "script_of"]

_SCRIPTS = {
    "Latin": re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+"),
    "Cyrillic": re.compile("[\u0400-\u052f]+"),
    "Greek": re.compile("[\u0370-\u03ff]+"),
    "Arabic": re.compile("[\u0600-\u06ff\u0750-\u077f]+"),
    "Hebrew": re.compile("[\u0590-\u05ff]+"),
    "Devanagari": re.compile("[\u0900-\u097f]+"),
    "Thai": re.compile("[\u0e00-\u0e7f]+"),
    "Hangul": re.compile("[\uac00-\ud7af\u1100-\u11ff]+"),
    "Han or Kana": re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"),
}
_LEAST, _SHARE = 24, 0.9
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())
_LANGUAGES = re.compile(
    r"transl|language|english|chinese|russian|arabic|japanese|korean|hebrew|hindi|greek|thai|french|german|spanish|"
    r"latin|pinyin|romani[sz]|code|python|java|sql|html|"
    r"翻译|翻譯|译|英文|英语|英語|中文|语言|語言|代码|代碼|程序|函数|编程|关键词|перев|язык|англ|рус|код|번역|영어|코드|ترجم|अनुवाद",
    re.IGNORECASE,
)


def script_of(text: str) -> str | None:
    """The script of nine tenths of the letters; None for mixed texts and those of fewer than 24 letters.

    >>> script_of("Welche Stadt ist die größte Europas?"), script_of("Какой город самый большой в Европе?")
    ('Latin', 'Cyrillic')
    """
    plain = text.encode("ascii", "ignore")
    latin, other = len(plain.translate(None, _NO_LETTERS)), len(text) - len(plain)
    if not other:
        return "Latin" if latin >= _LEAST else None
    if latin >= _LEAST and latin * (1 - _SHARE) >= other * _SHARE:  # whatever the other characters are
        return "Latin"
    counts = {name: sum(map(len, letters.findall(text))) for name, letters in _SCRIPTS.items()}
    name, most = max(counts.items(), key=lambda pair: pair[1])
    total = sum(counts.values())
    least = _LEAST // 3 if name == "Han or Kana" else _LEAST
    return name if most >= least and most >= _SHARE * total else None


def other_script(conversation: Conversation) -> Iterator[Finding]:
    """One finding a reply whose script is another than that of the user's turn before it."""
    for text, pointer, index in replies(conversation):
        asked = next((one for one in reversed(conversation.messages[:index]) if one.role == "user"), None)
        if asked is None or not asked.content or (text.isascii() and asked.content.isascii()):
            continue
        before, after = script_of(asked.content[:2000]), script_of(prose(text[:4000]))
        if before is None or after is None or before == after:
            continue
        if any(_LANGUAGES.search(one.content or "") for one in conversation.messages[:index]):
            continue
        yield Finding("SFT709", f"asked in {before}, answered in {after}", pointer)
