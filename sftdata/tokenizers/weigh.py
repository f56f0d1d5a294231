"""The last look at encoded chats before they are written: do they weigh what their text weighs, in bytes?

    example   <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>   67 bytes, 15 of them a reply's
    document  the bytes of all its tokens, and of those with a label                       must be the same

It is held to nothing but the finished arrays and the text, after everything that cuts, joins and reorders them: a
doubled BOS, a mask that begins a token early, a reply that lost its stop, documents that changed places. What must not
live here: how documents are made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sftdata.records import IGNORE_INDEX, Int64Array, TextExample
from sftdata.tokenizers.documents import EncodedExamples
from sftdata.tokenizers.token_bytes import TokenBytes
from sftdata.tokenizers.vocabulary import Vocabulary, native_tokenizer

__all__ = ["Scale"]


class Scale:
    """Weighs documents, for vocabularies whose tokens have a number of bytes and take none of their neighbours'."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        strips = any(one.lstrip or one.rstrip for one in vocabulary.added)
        self._vocabulary = vocabulary
        self._sizes = TokenBytes(vocabulary).sizes
        self.fits = vocabulary.byte_level and vocabulary.position_free and not strips
        """Whether anything can be said by weight."""

    def otherwise(self, examples: Sequence[TextExample], encoded: EncodedExamples) -> list[tuple[int, str]]:
        """Chats whose documents have other bytes than their text, in all or in what is trained, and what is wrong."""
        if not self.fits or not len(encoded.owners):
            return []
        known, count = encoded.owners, len(examples)
        ends = np.cumsum(encoded.lengths, dtype=np.int64)
        sizes = self._sizes[encoded.input_ids]
        trained = np.where(encoded.labels != IGNORE_INDEX, sizes, 0)
        found = np.stack([_by_owner(each, ends, known, count) for each in (sizes, trained)], axis=1)
        wanted = np.array([_weight(one) for one in examples], np.int64).reshape(-1, 2)
        documents = np.bincount(known, minlength=count)
        # an example that a seam cuts in two says its beginning twice: of such a one the replies alone are weighed
        differs = (found[:, 1] != wanted[:, 1]) | ((found[:, 0] != wanted[:, 0]) & (documents == 1))
        chats = np.fromiter((one.kind == "chat" for one in examples), bool, count)
        places = np.flatnonzero(differs & chats & (documents > 0)).tolist()
        return [
            (place, f"{found[place, 0]} bytes, {found[place, 1]} trained, and its text {tuple(wanted[place].tolist())}")
            for place in places
            if not self._changes(examples[place].text)
        ]

    def _changes(self, text: str) -> bool:
        """Whether the normaliser changes the text, so that no byte of it can be counted on."""
        if not self._vocabulary.normalises:
            return False
        changed: str = native_tokenizer(self._vocabulary.native_json).normalizer.normalize_str(text)
        return changed != text


def _by_owner(weights: Int64Array, ends: Int64Array, owners: Int64Array, count: int) -> Int64Array:
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(weights, dtype=np.int64)])
    out = np.zeros(count, np.int64)
    np.add.at(out, owners, np.diff(sums[np.concatenate([np.zeros(1, np.int64), ends])]))
    return out


def _weight(example: TextExample) -> tuple[int, int]:
    """Bytes of the text and of its replies, without the marks around protected spellings."""
    text, spans = example.text, example.spans
    if text.isascii():
        return len(text), sum([span.stop - span.start for span in spans])
    replies = "".join([text[span.start : span.stop] for span in spans])
    size, said = len(text.encode()), len(replies.encode())
    for mark in example.markers:
        size -= 4 * text.count(mark)
        said -= 4 * replies.count(mark)
    return size, said
