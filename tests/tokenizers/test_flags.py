"""Added tokens have the flags with which transformers loads them, whatever files say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sftdata.tokenizers import ReferenceEngine, load_files, load_vocabulary
from tests.tokenizers.zoo import STRIPPING, made

AutoTokenizer = pytest.importorskip("transformers", reason="transformers is not installed").AutoTokenizer

TEXT = "a </s> b\n<s> c <|im_end|> d <think> x [INST]y"
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
PLAIN = {"content": "</s>", **dict.fromkeys(FLAGS, False), "special": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "names": {"eos_token": "</s>", "bos_token": "<s>"},
    "named with flags": {"eos_token": {**PLAIN, "__type": "AddedToken"}},
    "extra tokens": {"eos_token": "</s>", "extra_special_tokens": ["<s>", "<think>", "<|new|>"]},
    "additional tokens": {"eos_token": "</s>", "additional_special_tokens": ["<s>", "<think>", "<|new|>"]},
    "decoder": {"eos_token": "</s>", "added_tokens_decoder": {"480": {**PLAIN, "lstrip": True, "rstrip": True}}},
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("tokenizer", [*sorted(STRIPPING), "bytes, tokens are words", "bytes, tokens normalised"])
def test_flags_are_those_with_which_transformers_loads_the_tokenizer(
    tokenizer: str, config: str, tmp_path: Path
) -> None:
    made(tokenizer).save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **CONFIGS[config]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    vocabulary = load_vocabulary(load_files(str(tmp_path)))
    expected = {
        token.content: [getattr(token, flag) for flag in FLAGS] for token in theirs.added_tokens_decoder.values()
    }
    assert {one.content: [getattr(one, flag) for flag in FLAGS] for one in vocabulary.added} == expected
    ids, _ = ReferenceEngine(vocabulary).encode([TEXT])
    assert ids.tolist() == theirs.encode(TEXT, add_special_tokens=False)
