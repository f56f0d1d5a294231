"""Train the tokenizer that the package carries, from the corpus that lies beside this file.

    TOKENIZERS_PARALLELISM=false python sftdata/tokenizers/builtin/train.py

What it writes (`tokenizer.json`, `tokenizer_config.json`, `trained.json`) depends on `corpus.txt`, the carried
`chatml` template and the version of `tokenizers` alone; the same three give the same bytes. The corpus was written
for this repository: prose in a dozen languages, code, JSON, tables, the demo records, and a frozen copy of some of
the package's own sources. It is a tokenizer to learn, test and demonstrate with, not one to train a model for.

Layout: ids 0 to 255 are the bytes, then merges, and the seven added tokens are the last of 4,096.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
VOCABULARY = 4096
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Marked special: they structure a conversation and never stand in its text."""
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Single ids, but not special: a model writes them as part of its reply."""


def train(corpus: str) -> Tokenizer:
    """A byte-level BPE over the lines of a corpus; no normaliser, so every text comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL) - len(TAGS),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.splitlines(keepends=True), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TAGS])
    return tokenizer


def files(corpus: str, chat_template: str) -> dict[str, str]:
    """Every file that training writes, by name."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template,
    }
    trained = {
        "tokenizers": tokenizers.__version__,
        "corpus_sha256": hashlib.sha256(corpus.encode()).hexdigest(),
    }
    return {
        "tokenizer.json": train(corpus).to_str(pretty=True) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        "trained.json": json.dumps(trained, indent=2) + "\n",
    }


def main() -> None:
    corpus = (HERE / "corpus.txt").read_text(encoding="utf-8")
    chat_template = (HERE.parents[1] / "templates" / "builtin" / "chatml.jinja").read_text(encoding="utf-8")
    for name, content in files(corpus, chat_template).items():
        (HERE / name).write_text(content, encoding="utf-8")
        sys.stdout.write(f"{name}: {len(content.encode()):,} bytes\n")


if __name__ == "__main__":
    main()
