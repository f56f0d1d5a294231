"""The second opinion on ids: every reply, decoded, is the reply.

What lives here: comparing decoded replies with their text, all at once for byte-level models (a gather over the
token byte table) and through the engine's decoder for the others, and naming the differences that a tokenizer's own
normaliser or whitespace-stripping tokens make. What must not: encoding.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

from tokenizers.normalizers import Normalizer

from sftdata.records import Finding, Int32Array, Int64Array, TextExample
from sftdata.tokenizers.documents import Batch, Document
from sftdata.tokenizers.engines import Engine
from sftdata.tokenizers.token_bytes import TokenBytes
from sftdata.tokenizers.vocabulary import Vocabulary, native_tokenizer

__all__ = ["RoundTrip"]

Verdict = tuple[Finding | None, list[Finding]]


class RoundTrip:
    """Compares replies with what their ids decode to."""

    def __init__(self, vocabulary: Vocabulary, engine: Engine, *, allow_normalised: bool) -> None:
        self._vocabulary = vocabulary
        self._engine = engine
        self._allow = allow_normalised
        self._bytes = TokenBytes(vocabulary)
        self._by_id = {one.id: one for one in vocabulary.added}
        longest = sorted((one.content for one in vocabulary.added), key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(map(re.escape, longest)) or '(?!)'})")

    @functools.cached_property
    def _normalizer(self) -> Normalizer | None:
        found: Normalizer | None = native_tokenizer(self._vocabulary.native_json).normalizer
        return found

    def batch(
        self, examples: Sequence[TextExample], batch: Batch, skip: set[int]
    ) -> list[tuple[int, Finding | None, list[Finding]]]:
        """Check all spans of a batch ; return a verdict for every example that is not exact."""
        ids, starts, stops, bounds = batch.ids, batch.starts, batch.stops, batch.bounds
        owners, documents = batch.owners, batch.span_documents
        quick = (examples[index] for index in owners.tolist())
        texts = [example.text[span.start : span.stop] for example in quick for span in example.spans]
        if self._vocabulary.byte_level:
            suspicious = self._bytes.otherwise(ids, starts, stops, [text.encode() for text in texts])
            prefixed = set[int]()
        else:
            suspicious, prefixed = self._decoded_otherwise(ids, starts, stops, bounds[documents], texts)
        verdicts: dict[int, Verdict] = {}
        for place in suspicious:
            index = int(owners[documents[place]])
            if index in skip:
                continue
            if place in prefixed:
                problem, notes = None, [Finding("SFT416", _HARMLESS["prefixed"])]
            else:
                prompt = ids[bounds[documents[place]] : starts[place]].tolist()
                problem, notes = self._explain(prompt, ids[starts[place] : stops[place]].tolist(), texts[place])
            known, earlier = verdicts.get(index, (None, []))
            verdicts[index] = (known or problem, earlier + notes)
        return [(index, problem, notes) for index, (problem, notes) in sorted(verdicts.items())]

    def documents(self, documents: Sequence[Document]) -> Verdict:
        """Check the replies of exactly encoded documents."""
        problem: Finding | None = None
        notes: list[Finding] = []
        for document in documents:
            ids = document.ids.tolist()
            for (start, stop), text in zip(document.spans, document.replies, strict=True):
                if self._decode_behind(ids[:start], ids[start:stop]) == text:
                    continue
                found, more = self._explain(ids[:start], ids[start:stop], text)
                problem = problem or found
                notes += more
        return problem, notes

    def _decoded_otherwise(
        self, ids: Int32Array, starts: Int64Array, stops: Int64Array, begins: Int64Array, texts: Sequence[str]
    ) -> tuple[list[int], set[int]]:
        """Spans whose decoding, less what stands before, is not their text, and those of them that are it behind a
        dummy space; a few tokens of context are enough."""
        before: list[tuple[int, ...]] = []
        whole: list[list[int]] = []
        for start, stop, begin in zip(starts.tolist(), stops.tolist(), begins.tolist(), strict=True):
            context = max(begin, start - 8)
            before.append(tuple(ids[context:start].tolist()))
            whole.append(ids[context:stop].tolist())
        # most replies stand behind the same few tokens
        contexts = list(dict.fromkeys(before))
        heads = dict(zip(contexts, self._engine.decode(contexts), strict=True))
        suspicious: list[int] = []
        prefixed = set[int]()
        for place, (context, decoded, text) in enumerate(zip(before, self._engine.decode(whole), texts, strict=True)):
            head = heads[context]
            if decoded == head + text:
                continue
            suspicious.append(place)
            if decoded == f"{head} {text}" and not self._vocabulary.position_free:
                prefixed.add(place)
        return suspicious, prefixed

    def _decode_behind(self, prompt: Sequence[int], reply: Sequence[int]) -> str | None:
        """What `reply` decodes to behind `prompt`; None where the decoder rewrites the prompt itself."""
        head, whole = self._engine.decode([list(prompt), [*prompt, *reply]])
        return whole[len(head) :] if whole.startswith(head) else None

    def _explain(self, prompt: list[int], reply: list[int], text: str) -> Verdict:
        decoded = self._decode_behind(prompt, reply)
        if decoded == text:
            return None, []
        kind = "otherwise" if decoded is None else self._changes(decoded, text, prompt[-1] if prompt else -1)
        if kind in _HARMLESS:
            return None, [Finding("SFT416", _HARMLESS[kind])]
        if kind in _LOSSES:
            lost = Finding(*_LOSSES[kind])
            return (None, [Finding("SFT416", lost.message)]) if self._allow else (lost, [])
        unk = self._vocabulary.unk_id
        if unk is not None and unk in reply:
            return Finding("SFT410", "the reply has characters that the tokenizer does not know"), []
        return (
            Finding("SFT510", f"the reply decodes to something else: {_first_difference(decoded or '', text)}"),
            [],
        )

    def _changes(self, decoded: str, text: str, before: int) -> str:
        """What the tokenizer did to a reply between its added tokens: the gravest of `_GRAVITY`.

        `before` is the last id of the prompt: an added token there may strip the reply's first whitespace.
        """
        ours, theirs = self._added.split(decoded), self._added.split(text)
        if ours[1::2] != theirs[1::2]:
            return "otherwise"
        named = {one.content: one for one in self._vocabulary.added}
        tokens = [self._by_id.get(before), *(named[token] for token in theirs[1::2]), None]
        kinds = {
            self._change(mine, said, bool(left and left.rstrip), bool(right and right.lstrip))
            for mine, said, left, right in zip(ours[::2], theirs[::2], tokens[:-1], tokens[1:], strict=True)
        }
        return max(kinds, key=_GRAVITY.index)

    def _change(self, decoded: str, text: str, left: bool, right: bool) -> str:
        """What became of a stretch of text between two added tokens; `left` and `right`: they strip it there."""
        if decoded == text:
            return "same"
        bare = decoded.removeprefix(" ") if not self._vocabulary.position_free else decoded
        if bare == text:
            return "prefixed"
        if _same_edges(decoded, text) and self._normalised(decoded) == self._normalised(text):
            return "normalised" if _alike(decoded) == _alike(text) else "rewritten"
        kept = text.lstrip() if left else text
        kept = kept.rstrip() if right else kept
        if kept != text and any(
            one == kept or self._normalised(one) == self._normalised(kept) for one in (decoded, bare)
        ):
            return "stripped"
        return "otherwise"

    def _normalised(self, text: str) -> str:
        if self._normalizer is None:
            return text
        out: str = self._normalizer.normalize_str(text)
        return out


_GRAVITY = ("same", "prefixed", "normalised", "stripped", "rewritten", "otherwise")
_HARMLESS = {
    "prefixed": "the tokenizer puts a dummy space before the reply, or behind an added token in it",
    "normalised": "the tokenizer's normaliser changes the reply (such as NFC)",
}


_LOSSES = {
    "stripped": ("SFT417", "a token that strips the whitespace beside it takes some of the reply's"),
    "rewritten": ("SFT510", "the tokenizer's normaliser drops or rewrites characters of the reply"),
}
"""What is refused unless `--allow-normalised`."""


def _alike(text: str) -> str:
    """Texts that Unicode holds to be forms of each other are alike, and so are spaces and how they are written."""
    return unicodedata.normalize("NFKC", text.replace("▁", " "))


def _same_edges(decoded: str, text: str) -> bool:
    return decoded[:1].isspace() == text[:1].isspace()


def _first_difference(decoded: str, text: str) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(decoded, text, strict=False)) if a != b),
        min(len(decoded), len(text)),
    )
    return f"at character {at}, {decoded[at : at + 12]!r} and not {text[at : at + 12]!r}"
