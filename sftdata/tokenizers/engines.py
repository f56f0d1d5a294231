"""The engines that turn text into ids: `tokenizers` as the reference, `fastokens` where it is proved to agree.

What lives here: one thin class an engine, each with the same two methods, and the self-test that lets the fast one
in. What must not: records, templates, seams.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tokenizers as native_tokenizers
from tokenizers import Tokenizer as NativeTokenizer

from sftdata.errors import ConfigError, describe
from sftdata.records import Int32Array, Int64Array
from sftdata.tokenizers.native import NativeError, held
from sftdata.tokenizers.vocabulary import Vocabulary, native_tokenizer

__all__ = ["EncodingError", "Engine", "EngineMismatch", "FastEngine", "ReferenceEngine", "choose_engine"]

Encoded = tuple[Int32Array, Int64Array]
"""ids int32 `[T]` of all texts and offsets int64 `[N + 1]` into them."""


class EncodingError(Exception):
    """The tokenizer fails on a text: a character it has nothing for, an expression that backtracks without end."""


def _held(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call into an engine; where it fails, an EncodingError says so."""
    try:
        return held(function, *args, **options)
    except NativeError as error:
        raise EncodingError(str(error)) from error


class EngineMismatch(Exception):
    """The fast engine and the reference gave different ids: the run is redone with the reference (SFT421)."""


class Engine(Protocol):
    """Encodes batches of text with nothing added: no BOS, no EOS, no truncation, no padding."""

    name: str
    version: str

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode every text as a whole, added tokens recognised. `["ab", ""]` → ids of "ab", offsets [0, n, n]."""
        ...

    def encode_plain(self, text: str) -> list[int]:
        """Encode `text` as ordinary characters: no added token is recognised in it."""
        ...

    def encode_document(self, text: str) -> list[int]:
        """Encode `text` as the tokenizer encodes a document: with what its post-processor adds."""
        ...

    def decode(self, batches: Sequence[Sequence[int]]) -> list[str]:
        """Decode every id list to text, special tokens included."""
        ...

    def compare(self, texts: Sequence[str]) -> None:
        """Hold this engine to the reference on `texts`; raises EngineMismatch where it differs."""
        ...


class ReferenceEngine:
    """The `tokenizers` library, single-threaded: work is spread over processes."""

    name = "tokenizers"
    version = native_tokenizers.__version__

    def __init__(self, vocabulary: Vocabulary) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._vocabulary = vocabulary

    # loading takes seconds for a large vocabulary, and beside the fast engine most runs need neither

    @property
    def _native(self) -> NativeTokenizer:
        return native_tokenizer(self._vocabulary.native_json)

    @functools.cached_property
    def _plain(self) -> NativeTokenizer:
        return NativeTokenizer.from_str(self._vocabulary.plain_json)

    def encode(self, texts: Sequence[str]) -> Encoded:
        rows = _held(self._native.encode_batch_fast, list(texts), add_special_tokens=False)
        offsets = np.zeros(len(rows) + 1, np.int64)
        ids = [row.ids for row in rows]
        np.cumsum([len(row) for row in ids], out=offsets[1:])
        flat = np.empty(int(offsets[-1]), np.int32)
        for row, start, stop in zip(ids, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            flat[start:stop] = row
        return flat, offsets

    def encode_plain(self, text: str) -> list[int]:
        ids: list[int] = _held(self._plain.encode, text, add_special_tokens=False).ids
        return ids

    def encode_document(self, text: str) -> list[int]:
        ids: list[int] = _held(self._native.encode, text, add_special_tokens=True).ids
        return ids

    def decode(self, batches: Sequence[Sequence[int]]) -> list[str]:
        decoded: list[str] = _held(self._native.decode_batch, [list(ids) for ids in batches], skip_special_tokens=False)
        return decoded

    def compare(self, texts: Sequence[str]) -> None:
        """It is the reference."""


class FastEngine:
    """`fastokens`, for what it can encode; everything else is asked of the reference."""

    name = "fastokens"

    def __init__(self, vocabulary: Vocabulary, reference: ReferenceEngine) -> None:
        from importlib.metadata import version

        self._native = _fast_tokenizer(vocabulary.native_json)
        self.version = version("fastokens")
        self._reference = reference

    def encode(self, texts: Sequence[str]) -> Encoded:
        ids, offsets = _held(self._native.encode_batch_flat, list(texts), add_special_tokens=False)
        return np.frombuffer(ids, np.uint32).astype(np.int32), np.frombuffer(offsets, np.uint64).astype(np.int64)

    def encode_plain(self, text: str) -> list[int]:
        return self._reference.encode_plain(text)

    def encode_document(self, text: str) -> list[int]:
        return self._reference.encode_document(text)

    def decode(self, batches: Sequence[Sequence[int]]) -> list[str]:
        return self._reference.decode(batches)

    def compare(self, texts: Sequence[str]) -> None:
        _compare(self, self._reference, texts)


@functools.lru_cache(maxsize=1)
def _fast_tokenizer(native_json: str) -> Any:
    """Loaded once a process: it takes longer than anything else before the first record."""
    import fastokens

    return held(fastokens.Tokenizer.from_json_str, native_json)


_SELF_TEST = (
    "",
    " ",
    "\n\n \t x",
    "Hello, world! It's 12345.67 o'clock.",
    "naïve café e\u0301 ﬁ Å ｶﾞ",
    "你好，世界。 こんにちは 안녕하세요 مرحبا שלום नमस्ते",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \u200d\u200b\ufeff",
    "def f(x):\n    return {'a': [1, 2], \"b\": None}\r\n\r\n",
    "a" * 300 + " " * 70 + "\u0000\u0001\x7f\ud7ff\ue000\uffff\U0010ffff",
)


def choose_engine(vocabulary: Vocabulary, choice: str, *, tested: bool = False) -> Engine:
    """The engine for `choice` (`auto`, `fast` or `reference`); `tested` skips a self-test that was passed before.

    The fast engine is taken only if it encodes a self-test, the added tokens among it, exactly as the reference.
    Raises ConfigError where `fast` was asked for and cannot be had.
    """
    reference = ReferenceEngine(vocabulary)
    if choice == "reference":
        return reference
    why = ""
    try:
        fast = FastEngine(vocabulary, reference)
        if not tested:
            _compare(fast, reference, self_test(vocabulary))
    except ImportError:
        why = "the package fastokens is not installed"
    except EngineMismatch as error:
        why = str(error)
    except MemoryError:  # the machine's, which has nothing to do with the tokenizer; a later run may have enough
        raise
    except Exception as error:  # noqa: BLE001 - whatever a foreign engine raises, the reference can do the work
        why = f"it cannot load this tokenizer ({str(error)[:120]})"
    else:
        return fast
    if choice == "fast":
        raise ConfigError(
            describe(f"the fast tokenizer engine cannot be used: {why}", fix="Use --engine-tokenizer reference.")
        )
    return reference


def self_test(vocabulary: Vocabulary) -> list[str]:
    """Texts that show every added token at a start, in the middle and at an end, and much else."""
    added = [one.content for one in vocabulary.added[:512]]
    return [*_SELF_TEST, *(f"{one} a{one}\n{one}b {one}" for one in added), "".join(added)]


def _compare(fast: Engine, reference: Engine, texts: Sequence[str]) -> None:
    try:
        theirs, theirs_at = reference.encode(texts)
    except EncodingError:
        return  # there is nothing to compare with; which of the texts it is, the encoder finds out
    ours, ours_at = fast.encode(texts)
    if not (np.array_equal(ours, theirs) and np.array_equal(ours_at, theirs_at)):
        raise EngineMismatch("it encodes some text differently from the reference")
