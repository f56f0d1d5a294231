"""Tokenizers of every kind that chat models have, made here in a moment with the `tokenizers` library.

What lives here: one small vocabulary a kind, trained on a few lines, with the control tokens that `tests` templates
write. What must not: anything of the product.
"""

from __future__ import annotations

import functools
import json
import string
from collections.abc import Callable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers.normalizers import Normalizer

__all__ = ["DUMMY_PREFIX", "LOSSY", "NORMALISING", "STRIPPING", "ZOO", "made"]

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|end|>", "[INST]", "[/INST]")
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
LINES = [
    "The quick brown fox jumps over the lazy dog. It's 12345 o'clock, isn't it?\n\n",
    "user\nassistant\nsystem\n Hello, world! tea two words the fox\n  def f(x):\n    return x\n",
    "Zażółć gęślą jaźń, naïve café, 你好，世界。 こんにちは e\u0301 e\u0301 \ufb01 Å \u212b 👩\u200d👩\u200d👧\r\n",
    '{"name": "lookup", "arguments": {"q": "the weather", "n": 3}}\n### Response:\nHuman: Assistant: ',
] * 8
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _added(tokenizer: Tokenizer, **flags: bool) -> Tokenizer:
    """With control tokens and tags; `flags` are those of the control tokens."""
    tokenizer.add_special_tokens([AddedToken(one, special=True, **{"normalized": False, **flags}) for one in SPECIAL])
    tokenizer.add_tokens([AddedToken(one, special=False, normalized=False) for one in TAGS])
    return tokenizer


def _byte_level(
    *, prefix: bool = False, normalizer: Normalizer | None = None, before: tuple[object, ...] = (), regex: bool = True
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    own = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, own]) if before else own
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def _qwen() -> Tokenizer:
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return _added(_byte_level(normalizer=normalizers.NFC(), before=(split,), regex=False))


def _digits() -> Tokenizer:
    return _added(_byte_level(before=(pre_tokenizers.Digits(individual_digits=True),)))


def _post(tokenizer: Tokenizer) -> Tokenizer:
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", bos)]
    )
    return tokenizer


def _pieces(*, spaces: str) -> Tokenizer:
    """Sentencepiece-like BPE with byte fallback: `▁` for spaces, put there by `spaces`."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    alphabet = [*string.printable, "▁", *"ąćęłńóśźż"]
    trained.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    spec = json.loads(trained.to_str())["model"]
    names = ["<unk>", *BYTES, *spec["vocab"]]
    merges = [tuple(one) if isinstance(one, list) else tuple(one.split(" ")) for one in spec["merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: index for index, name in enumerate(names)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tail: list[object] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if spaces == "legacy":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tail.append(decoders.Strip(" ", 1, 0))
    elif spaces == "replace":
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=spaces, split=False)
        if spaces != "never":
            tail.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(tail)
    return tokenizer


def _unigram(*, fallback: bool, scheme: str = "always") -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=400,
        unk_token="<unk>",
        special_tokens=["<unk>"],
        initial_alphabet=list(string.printable),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    spec = json.loads(tokenizer.to_str())["model"]["vocab"]
    vocabulary = [(name, score) for name, score in spec]
    if fallback:
        known = {name for name, _ in vocabulary}
        vocabulary += [(name, -20.0) for name in BYTES if name not in known]
        grown = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
        grown.pre_tokenizer = tokenizer.pre_tokenizer
        grown.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        return grown
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return tokenizer


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False)
    )
    return _added(tokenizer)


ZOO: dict[str, Callable[[], Tokenizer]] = {
    "bytes": lambda: _added(_byte_level()),
    "bytes, prefix space": lambda: _added(_byte_level(prefix=True)),
    "bytes, NFC, digits": _qwen,
    "bytes, digits apart": _digits,
    "bytes, BOS by post-processor": lambda: _post(_added(_byte_level())),
    "bytes, tokens strip right": lambda: _added(_byte_level(), rstrip=True),
    "bytes, tokens strip left": lambda: _added(_byte_level(), lstrip=True),
    "bytes, tokens are words": lambda: _added(_byte_level(), single_word=True),
    "bytes, tokens normalised": lambda: _added(_byte_level(normalizer=normalizers.NFC()), normalized=True),
    "pieces, legacy prefix": lambda: _post(_added(_pieces(spaces="legacy"))),
    "pieces, prefix first": lambda: _post(_added(_pieces(spaces="first"))),
    "pieces, prefix always": lambda: _added(_pieces(spaces="always")),
    "pieces, no prefix": lambda: _added(_pieces(spaces="never")),
    "pieces, spaces replaced": lambda: _post(_added(_pieces(spaces="replace"))),
    "pieces, tokens strip right": lambda: _added(_pieces(spaces="legacy"), rstrip=True),
    "unigram": lambda: _added(_unigram(fallback=False)),
    "unigram, byte fallback": lambda: _added(_unigram(fallback=True)),
    "unigram, prefix first": lambda: _added(_unigram(fallback=True, scheme="first")),
}
"""Makers by name."""
NORMALISING = {"bytes, NFC, digits", "bytes, tokens normalised"}
"""Those whose normaliser changes some text (NFC)."""
STRIPPING = {"bytes, tokens strip right", "bytes, tokens strip left", "pieces, tokens strip right"}
"""Those whose control tokens take the whitespace beside them."""
DUMMY_PREFIX = {
    *("bytes, prefix space", "pieces, legacy prefix", "pieces, prefix first", "pieces, prefix always"),
    *("pieces, no prefix", "pieces, spaces replaced", "pieces, tokens strip right"),
    *("unigram", "unigram, byte fallback", "unigram, prefix first"),
}
"""Those that put a space before a text or behind a token, or write spaces as `▁`, which a text may spell."""
LOSSY: dict[str, Callable[[], Tokenizer]] = {"wordpiece, lowercase": _wordpiece}
"""Those that no generative model has."""


@functools.cache
def made(name: str) -> Tokenizer:
    """The tokenizer of this name; made once a process, not to be changed."""
    return ZOO[name]()
