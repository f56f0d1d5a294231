"""Encoding in one go, for byte-level tokenizers: a text once and whole, and the seams found in its tokens.

    text      <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>
    anchor                                    |                                          an added token, an id
    seam                                                            |                    a token begins here, or doubt
    tail                                      <|im_start|>assistant\n                    encoded alone: the same ids
    stop                                                                 <|im_end|>      the id of a stop

A token of a byte-level model has a number of bytes, so that a place in the text is a place among the tokens. What is
to be shown of every reply is that `ids(P)`, the encoding of its whole prompt by itself, is what stands before it. Text
may be cut before an anchor without changing any id (`Vocabulary.anchors`), in the prompt as in the whole; so `ids(P)`
is what stands before the anchor, and then the ids of the tail. Those are encoded by themselves, once for every tail
that occurs, and compared at every seam. Tail and reply are decoded and compared with their text. An example of which
any of this cannot be shown is left to others (`encode`). What must not live here: rejecting, exceptions to the rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sftdata.records import Int32Array, Int64Array, TextExample
from sftdata.tokenizers.documents import Batch
from sftdata.tokenizers.engines import Engine
from sftdata.tokenizers.token_bytes import TokenBytes
from sftdata.tokenizers.vocabulary import Vocabulary

__all__ = ["Joint"]

BoolArray = npt.NDArray[np.bool_]
_MOST_TAILS = 4096
_UNICODE_FORMS = frozenset({"NFC", "NFD", "NFKC", "NFKD"})
"""What leaves ASCII alone."""


class Joint:
    """Encodes chats of which nothing is protected, with a byte-level tokenizer."""

    def __init__(self, vocabulary: Vocabulary, engine: Engine, *, anchors: Sequence[str], stops: Sequence[str]) -> None:
        """`anchors`: added tokens before which text may be cut; `stops`: those of them that end a reply."""
        self._engine = engine
        self._bytes = TokenBytes(vocabulary)
        self._normalises = vocabulary.normalises
        self._spares_ascii = bool(vocabulary.normal_forms) and _UNICODE_FORMS.issuperset(vocabulary.normal_forms)
        self._is_anchor = _marked(vocabulary, anchors)
        self._is_stop = _marked(vocabulary, stops)
        self._tails: dict[bytes, bool] = {}
        """Ids of tails, as bytes: whether the tail's text alone is encoded so."""

    def encode(self, examples: Sequence[TextExample], chosen: Sequence[int]) -> tuple[Batch, set[int]]:
        """Encode the examples `chosen`, which have spans; returns them with the indices of those in doubt."""
        texts = [examples[index].text for index in chosen]
        ids, bounds = self._engine.encode(texts)
        ends = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(self._bytes.sizes[ids], out=ends[1:])
        places, counts, sizes = _byte_places([examples[index] for index in chosen])
        documents = np.repeat(np.arange(len(chosen)), counts)
        begins = bounds[documents]
        # a document whose tokens have other bytes than its text shifts nothing behind it: places count from its start
        starts, at_border = _borders(ends, ends[begins] + places[:, 0])
        stops, stop_at_border = _borders(ends, ends[begins] + places[:, 1])
        firsts = self._anchors_before(ids, starts, begins)
        sound = at_border & stop_at_border & (begins <= starts) & (starts < stops) & (stops <= bounds[documents + 1])
        sound &= self._is_stop[ids[np.maximum(stops, 1) - 1]]
        sound &= self._alone(ids, firsts, starts, sound)
        since = np.where(self._must_match_whole(texts)[documents], _ends_before(documents, begins, stops), firsts)
        text_starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        back = text_starts[documents] - ends[begins]
        data = "".join(texts).encode()
        kept = np.flatnonzero(sound)
        edges = zip((ends[since] + back)[kept].tolist(), (ends[stops] + back)[kept].tolist(), strict=True)
        said = [data[begin:end] for begin, end in edges]
        sound[kept[self._bytes.otherwise(ids, since[kept], stops[kept], said)]] = False
        doubtful = {chosen[place] for place in np.unique(documents[~sound]).tolist()}
        return Batch(ids, bounds, np.array(chosen, np.int64), starts, stops, documents), doubtful

    def _must_match_whole(self, texts: Sequence[str]) -> BoolArray:
        """bool `[D]`: the texts that a normaliser may change; all of such a text is compared, not its replies alone,
        so that no place in it can be mistaken for another."""
        if not (self._normalises and self._spares_ascii):
            return np.full(len(texts), self._normalises)
        return ~np.fromiter(map(str.isascii, texts), bool, len(texts))

    def _anchors_before(self, ids: Int32Array, starts: Int64Array, firsts: Int64Array) -> Int64Array:
        """The place of the last anchor before each seam; the document's start where it has none."""
        anchors = np.concatenate([np.full(1, -1, np.int64), np.flatnonzero(self._is_anchor[ids])])
        before: Int64Array = np.maximum(anchors[np.searchsorted(anchors, starts) - 1], firsts)
        return before

    def _alone(self, ids: Int32Array, firsts: Int64Array, starts: Int64Array, sound: BoolArray) -> BoolArray:
        """Of the spans that are sound so far, whether their tails, encoded by themselves, have the same ids."""
        raw = ids.tobytes()
        pairs = zip((firsts * 4).tolist(), (starts * 4).tolist(), sound.tolist(), strict=True)
        tails = [raw[begin:end] if good else b"" for begin, end, good in pairs]
        new = [tail for tail in set(tails) if tail not in self._tails]
        if new:
            self._learn(new)
        known = self._tails
        alike = np.fromiter((known[tail] for tail in tails), bool, len(tails))
        if len(known) > _MOST_TAILS:
            known.clear()
        return alike

    def _learn(self, tails: list[bytes]) -> None:
        expected = [np.frombuffer(tail, np.int32) for tail in tails]
        texts = [self._bytes.of(one).decode(errors="replace") for one in expected]
        ids, at = self._engine.encode(texts)
        for place, (tail, wanted) in enumerate(zip(tails, expected, strict=True)):
            self._tails[tail] = np.array_equal(ids[at[place] : at[place + 1]], wanted)


def _marked(vocabulary: Vocabulary, tokens: Sequence[str]) -> BoolArray:
    """bool `[size]`, true at the ids of `tokens`."""
    table = np.zeros(vocabulary.size, bool)
    table[[one.id for one in vocabulary.added if one.content in tokens]] = True
    return table


def _ends_before(documents: Int64Array, begins: Int64Array, stops: Int64Array) -> Int64Array:
    """Where the reply before each ends; where its document begins, for the first one of a document."""
    before: Int64Array = begins.copy()
    again = np.flatnonzero(documents[1:] == documents[:-1]) + 1
    before[again] = stops[again - 1]
    return before


def _borders(ends: Int64Array, places: Int64Array) -> tuple[Int64Array, BoolArray]:
    """How many tokens end at or before each place in bytes, and whether one ends there exactly."""
    found = np.minimum(np.searchsorted(ends, places), len(ends) - 1)
    exact: BoolArray = ends[found] == places
    return found, exact


def _byte_places(examples: Sequence[TextExample]) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Of all spans start and stop in bytes of their text, `[S, 2]`; of every text its spans and its bytes."""
    places: list[int] = []
    sizes: list[int] = []
    for example in examples:
        text = example.text
        edges = [edge for span in example.spans for edge in (span.start, span.stop)]
        if text.isascii():
            places += edges
            sizes.append(len(text))
            continue
        at = size = 0
        for edge in edges:
            size += len(text[at:edge].encode())
            places.append(size)
            at = edge
        sizes.append(size + len(text[at:].encode()))
    counts = [len(example.spans) for example in examples]
    return np.array(places, np.int64).reshape(-1, 2), np.array(counts, np.int64), np.array(sizes, np.int64)
