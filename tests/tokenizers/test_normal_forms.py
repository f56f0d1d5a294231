"""Of a normaliser, what decoding does not undo is named, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sftdata
from sftdata.tokenizers.origin import load_files
from sftdata.tokenizers.vocabulary import load_vocabulary

UNDOING = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
"""What Llama-2's tokenizer decodes with."""
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREFIX = {"type": "Prepend", "prepend": "▁"}
NFC = {"type": "NFC"}


def with_bytes(normaliser: Any) -> dict[str, Any]:
    """A sentencepiece-like tokenizer of bytes and `▁`."""
    vocab = {"<unk>": 0, "▁": 1, **{f"<0x{byte:02X}>": 2 + byte for byte in range(256)}}
    model = {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": True, "unk_token": "<unk>"}
    return {"version": "1.0", "added_tokens": [], "normalizer": normaliser, "model": model, "decoder": UNDOING}


@pytest.mark.parametrize(
    ("normaliser", "forms"),
    [
        ({"type": "Sequence", "normalizers": [PREFIX, SPACES]}, ()),
        ({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [NFC]}, PREFIX, SPACES]}, ("NFC",)),
    ],
)
def test_spaces_written_otherwise_are_no_normal_form(normaliser: Any, forms: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(with_bytes(normaliser)), encoding="utf-8")
    assert load_vocabulary(load_files(str(tmp_path))).normal_forms == forms


@pytest.mark.parametrize(
    ("normaliser", "forms"),
    [
        (None, ()),
        ({"type": "Sequence", "normalizers": []}, ()),
        (NFC, ("NFC",)),
        ({"type": "Replace", "pattern": {"String": "\t"}, "content": "    "}, ("Replace",)),
    ],
)
def test_what_changes_text_is_named(normaliser: Any, forms: tuple[str, ...], tmp_path: Path) -> None:
    spec = json.loads((Path(sftdata.__file__).parent / "tokenizers/builtin/tokenizer.json").read_text(encoding="utf-8"))
    spec["normalizer"] = normaliser
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    assert load_vocabulary(load_files(str(tmp_path))).normal_forms == forms
