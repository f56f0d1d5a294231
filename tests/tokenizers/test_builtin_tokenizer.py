"""The carried tokenizer: reproducible, lossless, and with the tokens that it promises."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[2] / "sftdata" / "tokenizers" / "builtin"
TOKENIZER = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def training() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_builtin_tokenizer", FOLDER / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_again_gives_the_same_bytes(training: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = json.loads((FOLDER / "trained.json").read_text(encoding="utf-8"))
    if tokenizers.__version__ != recorded["tokenizers"]:
        pytest.skip(f"trained with tokenizers {recorded['tokenizers']}, installed is {tokenizers.__version__}")
    monkeypatch.setitem(os.environ, "TOKENIZERS_PARALLELISM", "false")
    corpus = (FOLDER / "corpus.txt").read_text(encoding="utf-8")
    template = (FOLDER.parents[1] / "templates" / "builtin" / "chatml.jinja").read_text(encoding="utf-8")
    for name, content in training.files(corpus, template).items():
        assert (FOLDER / name).read_text(encoding="utf-8") == content, name


def test_another_corpus_gives_another_tokenizer(training: ModuleType) -> None:
    assert training.train("a b a b").to_str() != TOKENIZER.to_str()


def test_vocabulary_is_bytes_merges_and_the_seven_added_tokens(training: ModuleType) -> None:
    assert TOKENIZER.get_vocab_size() == 4096
    assert [TOKENIZER.token_to_id(token) for token in (*training.CONTROL, *training.TAGS)] == list(range(4089, 4096))
    added = json.loads(TOKENIZER.to_str())["added_tokens"]
    assert {token["content"] for token in added if token["special"]} == set(training.CONTROL)


def test_config_names_eos_and_the_carried_chatml() -> None:
    config = json.loads((FOLDER / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (config["eos_token"], config["bos_token"], config["pad_token"]) == ("<|im_end|>", None, "<|endoftext|>")


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text", ["<|im_start|>user\nhi<|im_end|>\n", "<think>\nx\n</think>\n\n", "é\r\n\t👩‍👩‍👧 ﬁ\x00"]
)
def test_awkward_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_transformers_loads_the_folder_with_the_same_ids() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    loaded = transformers.AutoTokenizer.from_pretrained(str(FOLDER))
    chat = [{"role": "user", "content": "Hello there, 你好."}]
    text = loaded.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHello there, 你好.<|im_end|>\n<|im_start|>assistant\n"
    assert loaded(text, add_special_tokens=False)["input_ids"] == TOKENIZER.encode(text).ids
