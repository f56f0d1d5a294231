"""What a tokenizer itself does to a reply is said, and whitespace that it swallows is not trained unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sftdata
from tests.tokenizers.zoo import made

CHATS = {
    "plain": ["q", "an answer"],
    "space first": ["q", " an answer"],
    "newline last": ["q", "an answer \n"],
    "tag inside": ["q", "so <tool_call>{}</tool_call> it is"],
    "combined": ["q", "caf\u00e9"],
    "decomposed": ["q", "cafe\u0301"],
    "unknown": ["q", "日本 😀 answer"],
}


def prepared(tokenizer: str, chat: str, folder: Path, **options: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Rejections, and findings by code, of one record."""
    made(tokenizer).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}), encoding="utf-8")
    messages = [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(CHATS[chat])]
    good = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    lines = [json.dumps({"messages": one}) for one in (messages, good)]
    (folder / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    outcome = sftdata.prepare(
        str(folder / "in.jsonl"),
        tokenizer=str(folder),
        template="chatml",
        max_length=512,
        max_reject_rate=1.0,
        clock="2026-01-01",
        out=str(folder / "out"),
        **options,
    )
    assert outcome.sealed
    report = outcome.report
    return report["ledger"]["rejections"], {code: entry["count"] for code, entry in report["rules"].items()}


@pytest.mark.parametrize(
    ("tokenizer", "chat"),
    [
        ("bytes", "tag inside"),
        ("bytes, NFC, digits", "combined"),
        ("bytes, tokens strip left", "space first"),
        ("bytes, tokens strip right", "newline last"),
        ("pieces, no prefix", "space first"),
    ],
)
def test_a_reply_that_comes_back_as_it_is_has_no_finding(tokenizer: str, chat: str, tmp_path: Path) -> None:
    rejections, findings = prepared(tokenizer, chat, tmp_path)
    assert rejections == {}
    assert "SFT416" not in findings


@pytest.mark.parametrize(
    ("tokenizer", "chat"),
    [
        ("bytes, NFC, digits", "decomposed"),
        ("bytes, prefix space", "tag inside"),
        ("pieces, legacy prefix", "tag inside"),
        ("unigram, byte fallback", "tag inside"),
    ],
)
def test_a_reply_that_the_tokenizer_changes_is_written_and_said(tokenizer: str, chat: str, tmp_path: Path) -> None:
    rejections, findings = prepared(tokenizer, chat, tmp_path)
    assert rejections == {}
    assert findings["SFT416"] >= 1


def test_whitespace_that_a_stop_token_swallows_is_refused_unless_allowed(tmp_path: Path) -> None:
    rejections, _ = prepared("bytes, tokens strip left", "newline last", tmp_path)
    assert rejections == {"SFT417": 1}


def test_whitespace_that_a_stop_token_swallows_may_be_allowed(tmp_path: Path) -> None:
    rejections, findings = prepared("bytes, tokens strip left", "newline last", tmp_path, allow_normalised=True)
    assert rejections == {}
    assert findings["SFT416"] == 1


def test_a_reply_with_unknown_characters_is_refused_by_name_and_kills_no_worker(tmp_path: Path) -> None:
    rejections, _ = prepared("unigram", "unknown", tmp_path)
    assert rejections == {"SFT410": 1}


def test_a_stop_that_is_a_token_only_as_a_word_by_itself_is_refused_by_name(tmp_path: Path) -> None:
    rejections, _ = prepared("bytes, tokens are words", "newline last", tmp_path)
    assert rejections == {"SFT403": 1}
