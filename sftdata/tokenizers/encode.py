"""From text examples to ids and labels, held to the serving contract.

    joint     one encoding of the whole text, seams found in its tokens     byte-level models, almost every example
    pieces    text cut at added tokens, compared with the joint encoding    other models, and what joint leaves in doubt
    exact     every prompt encoded from scratch                             straddles, protected content, texts

`ids(P)` is the encoding of the whole of the prompt P; `exact` is that definition, and the ways above it give its ids or
hand an example down. How the pieces are cut:

    text      <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>
    cuts     |                               |                          |           before added tokens only
    tail                                      <|im_start|>assistant\\n
    trained                                                        Hello<|im_end|>

Text may be cut before an added token without changing any id (`Vocabulary.anchors`), so that a chain of n turns costs
its own length and not n times that; what the cuts promise is compared with the joint encoding. What must not live here:
templates, records, packing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from sftdata.records import IGNORE_INDEX, Finding, Int32Array, Int64Array, Rejection, TextExample
from sftdata.tokenizers.documents import Batch, Document, EncodedExamples
from sftdata.tokenizers.engines import EncodingError, Engine
from sftdata.tokenizers.exact import Exact
from sftdata.tokenizers.joint import Joint
from sftdata.tokenizers.roundtrip import RoundTrip
from sftdata.tokenizers.vocabulary import Vocabulary
from sftdata.tokenizers.weigh import Scale

__all__ = ["Encoder", "trained_mask"]


class _Plan(msgspec.Struct):
    """The cuts of one example, and for every span its tail and the chunks that hold its reply and its stop."""

    cuts: list[int]
    tails: list[tuple[int, str]]
    """For every span: (index of the chunk that holds its reply, the tail that the chunk begins with)."""
    stops: list[int]
    """For every span: the index of the chunk that begins with its stop token."""


class Encoder:
    """Encodes examples with one tokenizer. Not thread-safe; cheap to keep for a whole run."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        engine: Engine,
        *,
        literals: Iterable[str],
        stop_tokens: Sequence[str],
        eos_token: str | None = None,
        allow_normalised: bool = False,
    ) -> None:
        """`literals`: added tokens worth cutting at, as the template writes them. `stop_tokens`: the stop set.

        `eos_token` ends texts without roles.
        """
        self.vocabulary = vocabulary
        self.engine = engine
        self._anchors = vocabulary.anchors([*stop_tokens, *literals])
        self._stop_ids = {token: vocabulary.id_of(token) for token in stop_tokens}
        self._stop_set = np.array(sorted(one for one in self._stop_ids.values() if one is not None), np.int32)
        self._clean_stops = tuple(token for token in stop_tokens if token in self._anchors)
        eos_id = None if eos_token is None else vocabulary.id_of(eos_token)
        self._exact = Exact(vocabulary, engine, stop_ids=frozenset(self._stop_set.tolist()), eos_id=eos_id)
        self._check = RoundTrip(vocabulary, engine, allow_normalised=allow_normalised)
        self._scale = Scale(vocabulary)
        fit = vocabulary.byte_level and vocabulary.position_free
        self._joint = Joint(vocabulary, engine, anchors=self._anchors, stops=self._clean_stops) if fit else None
        self._tails: dict[str, bytes] = {}
        self._last_tail = ""

    def encode(self, examples: Sequence[TextExample]) -> EncodedExamples:
        """Encode `examples`; every one comes back as documents or as a rejection."""
        try:
            return self._encoded(examples)
        except EncodingError as error:
            if len(examples) == 1:
                return _refused(Finding("SFT419", f"the tokenizer fails on this text: {error}"))
        half = len(examples) // 2
        return _joined(self.encode(examples[:half]), self.encode(examples[half:]), half)

    def _encoded(self, examples: Sequence[TextExample]) -> EncodedExamples:
        if self._joint is None:
            return self._in_pieces(examples)
        chosen = [index for index, one in enumerate(examples) if one.kind == "chat" and one.spans and not one.markers]
        batch, doubtful = self._joint.encode(examples, chosen)
        sure = _assemble(batch, doubtful, {}, [], [], 0)
        rest = sorted({*range(len(examples))}.difference(chosen) | doubtful)
        if not rest:
            return sure
        return _interleaved(sure, self._in_pieces([examples[index] for index in rest]), rest)

    def weighed(self, examples: Sequence[TextExample], encoded: EncodedExamples) -> EncodedExamples:
        """`encoded` as it is, or without the examples whose documents do not weigh what their text weighs (SFT510).

        A look at finished arrays (`weigh`): whatever made them, and whatever was done to them since.
        """
        wrong = self._scale.otherwise(examples, encoded)
        if not wrong:
            return encoded
        keep = ~np.isin(encoded.owners, np.array([place for place, _ in wrong], np.int64))
        tokens = np.repeat(keep, encoded.lengths)
        found = [(place, Rejection((Finding("SFT510", f"the document has {what}"),))) for place, what in wrong]
        return msgspec.structs.replace(
            encoded,
            input_ids=encoded.input_ids[tokens],
            labels=encoded.labels[tokens],
            lengths=encoded.lengths[keep],
            owners=encoded.owners[keep],
            rejected=sorted([*encoded.rejected, *found], key=lambda pair: pair[0]),
        )

    def _in_pieces(self, examples: Sequence[TextExample]) -> EncodedExamples:
        """As `encode`, for what cannot be shown of one joint encoding."""
        plans = [self._plan(example) for example in examples]
        quick = [index for index, plan in enumerate(plans) if plan is not None]
        documents: dict[int, list[Document]] = {}
        rejected: list[tuple[int, Rejection]] = []
        findings: list[tuple[int, Finding]] = []
        batch, doubtful = self._encode_quick(examples, plans, quick)
        slow = sorted(doubtful | {index for index, plan in enumerate(plans) if plan is None})
        straddles = 0
        for index in slow:
            outcome = self._exact.encode(examples[index])
            if isinstance(outcome, Rejection):
                rejected.append((index, outcome))
                continue
            for document in outcome:
                straddles += document.straddles
            problem, notes = self._check.documents(outcome)
            findings += [(index, note) for note in notes]
            if problem is not None:
                rejected.append((index, Rejection((problem,))))
            else:
                documents[index] = outcome
        bad = self._check.batch(examples, batch, doubtful)
        for index, problem, notes in bad:
            findings += [(index, note) for note in notes]
            if problem is not None:
                rejected.append((index, Rejection((problem,))))
        leave_out = doubtful | {index for index, problem, _ in bad if problem is not None}
        rejected.sort(key=lambda pair: pair[0])
        return _assemble(batch, leave_out, documents, rejected, findings, straddles)

    def _plan(self, example: TextExample) -> _Plan | None:
        """Where to cut `example`; None where it must go the exact way."""
        if example.kind != "chat" or example.markers:
            return None
        text = example.text
        cuts = [0]
        tails: list[tuple[int, str]] = []
        stops: list[int] = []
        floor = 0
        for span in example.spans:
            stop = self._stop_at(text, span.stop)
            if stop is None or span.stop - len(stop) < span.start:
                return None
            anchor = self._anchor(text, floor, span.start)
            if anchor > cuts[-1]:
                cuts.append(anchor)
            tails.append((len(cuts) - 1, text[cuts[-1] : span.start]))
            floor = span.stop - len(stop)
            if floor == cuts[-1]:
                return None
            cuts.append(floor)
            stops.append(len(cuts) - 1)
        return _Plan(cuts, tails, stops)

    def _stop_at(self, text: str, end: int) -> str | None:
        for token in self._clean_stops:
            if text.endswith(token, 0, end):
                return token
        return None

    def _anchor(self, text: str, floor: int, start: int) -> int:
        """The last position in `text[floor:start]` before which it may be cut; `floor` where there is none."""
        tail = self._last_tail
        if tail and text.endswith(tail, floor, start):
            return start - len(tail)
        best = max((text.rfind(token, floor, start) for token in self._anchors), default=-1)
        if best < floor:
            return floor
        self._last_tail = text[best:start]
        return best

    def _encode_quick(
        self, examples: Sequence[TextExample], plans: Sequence[_Plan | None], quick: list[int]
    ) -> tuple[Batch, set[int]]:
        """Encode the planned examples in one batch; return it with those that need the exact way after all."""
        texts: list[str] = []
        first_chunk: list[int] = []
        reply_chunk: list[int] = []
        stop_chunk: list[int] = []
        span_tail: list[str] = []
        span_owner: list[int] = []
        for place, index in enumerate(quick):
            plan, text = plans[index], examples[index].text
            assert plan is not None
            base = len(texts)
            first_chunk.append(base)
            ends = [*plan.cuts[1:], len(text)]
            texts += [text[start:stop] for start, stop in zip(plan.cuts, ends, strict=True)]
            for (chunk, tail), stop_index in zip(plan.tails, plan.stops, strict=True):
                reply_chunk.append(base + chunk)
                stop_chunk.append(base + stop_index)
                span_tail.append(tail)
                span_owner.append(place)
        first_chunk.append(len(texts))
        ids, at = self.engine.encode(texts)
        joint, joint_at = self.engine.encode([examples[index].text for index in quick])
        bounds = at[np.array(first_chunk, np.int64)]
        doubtful = _disagreeing(ids, bounds, joint, joint_at)
        tail_lengths = self._match_tails(span_tail, reply_chunk, ids, at, span_owner, doubtful)
        starts = at[np.array(reply_chunk, np.int64)] + tail_lengths
        stops = at[np.array(stop_chunk, np.int64)] + 1
        owners = np.array(span_owner, np.int64)
        bad = ~np.isin(ids[stops - 1], self._stop_set) if len(stops) else np.zeros(0, bool)
        bad |= starts == bounds[owners]
        doubtful |= set(owners[bad].tolist())
        batch = Batch(ids, bounds, np.array(quick, np.int64), starts, stops, owners)
        return batch, {quick[place] for place in doubtful}

    def _match_tails(
        self,
        tails: list[str],
        chunks: list[int],
        ids: Int32Array,
        at: Int64Array,
        owners: list[int],
        doubtful: set[int],
    ) -> Int64Array:
        """How many ids each tail has; spans whose chunk does not begin with them straddle and become doubtful, as do
        those behind an unknown token, which may hold characters of the reply."""
        self._learn_tails(tails)
        known = self._tails
        unknown = b"" if self.vocabulary.unk_id is None else np.int32(self.vocabulary.unk_id).tobytes()
        raw = ids.tobytes()
        starts = (at[np.array(chunks, np.int64)] * 4).tolist() if chunks else []
        lengths = np.zeros(len(tails), np.int64)
        for place, (tail, start) in enumerate(zip(tails, starts, strict=True)):
            expected = known[tail]
            lengths[place] = len(expected) // 4
            if not raw.startswith(expected, start) or expected[-4:] == unknown:
                doubtful.add(owners[place])
        if len(known) > 4096:
            known.clear()
        return lengths

    def _learn_tails(self, tails: list[str]) -> None:
        new = [tail for tail in dict.fromkeys(tails) if tail not in self._tails]
        if new:
            ids, at = self.engine.encode(new)
            for place, tail in enumerate(new):
                self._tails[tail] = ids[at[place] : at[place + 1]].tobytes()


def _disagreeing(ids: Int32Array, at: Int64Array, joint: Int32Array, joint_at: Int64Array) -> set[int]:
    """Documents whose pieced encoding differs from the joint one; empty in all but the rarest cases."""
    if np.array_equal(ids, joint) and np.array_equal(at, joint_at):
        return set()
    return {
        place
        for place in range(len(at) - 1)
        if not np.array_equal(ids[at[place] : at[place + 1]], joint[joint_at[place] : joint_at[place + 1]])
    }


def trained_mask(size: int, starts: Int64Array, stops: Int64Array) -> npt.NDArray[np.bool_]:
    """bool `[size]`, true inside the spans, which are disjoint and in order.

    `trained_mask(5, [1], [3])` is `[0, 1, 1, 0, 0]`.
    """
    edges = np.zeros(2 * len(starts) + 2, np.int64)
    edges[1:-1:2], edges[2:-1:2], edges[-1] = starts, stops, size
    lengths = np.diff(edges)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def _assemble(
    batch: Batch,
    leave_out: set[int],
    documents: dict[int, list[Document]],
    rejected: list[tuple[int, Rejection]],
    findings: list[tuple[int, Finding]],
    straddles: int,
) -> EncodedExamples:
    starts, stops = batch.starts, batch.stops
    if leave_out:
        spans = ~np.isin(batch.owners[batch.span_documents], np.array(sorted(leave_out), np.int64))
        starts, stops = starts[spans], stops[spans]
    labels = np.where(trained_mask(len(batch.ids), starts, stops), batch.ids, np.int32(IGNORE_INDEX))
    lengths = np.diff(batch.bounds).astype(np.int32)
    ids, owners = batch.ids, batch.owners
    if leave_out:
        keep = ~np.isin(owners, np.array(sorted(leave_out), np.int64))
        tokens = np.repeat(keep, lengths)
        ids, labels, lengths, owners = ids[tokens], labels[tokens], lengths[keep], owners[keep]
    if documents:
        ids, labels, lengths, owners = _merge(ids, labels, lengths, owners, documents)
    return EncodedExamples(ids, labels, lengths, owners, rejected, findings, straddles)


def _refused(finding: Finding) -> EncodedExamples:
    """One example, of which there is no document."""
    ids, places = np.zeros(0, np.int32), np.zeros(0, np.int64)
    return EncodedExamples(ids, ids, ids, places, [(0, Rejection((finding,)))], [], 0)


def _joined(one: EncodedExamples, other: EncodedExamples, count: int) -> EncodedExamples:
    """The first `count` examples, and those behind them."""
    return EncodedExamples(
        np.concatenate([one.input_ids, other.input_ids]),
        np.concatenate([one.labels, other.labels]),
        np.concatenate([one.lengths, other.lengths]),
        np.concatenate([one.owners, other.owners + count]),
        [*one.rejected, *((index + count, rejection) for index, rejection in other.rejected)],
        [*one.findings, *((index + count, finding) for index, finding in other.findings)],
        one.straddles + other.straddles,
    )


def _interleaved(sure: EncodedExamples, rest: EncodedExamples, places: list[int]) -> EncodedExamples:
    """Both in the order of examples; `places` are those of the examples of `rest`."""
    owners = np.concatenate([sure.owners, np.array(places, np.int64)[rest.owners]])
    order = np.argsort(owners, kind="stable")
    lengths = np.concatenate([sure.lengths, rest.lengths])
    tokens = _tokens(np.cumsum(lengths, dtype=np.int64)[order] - lengths[order], lengths[order])
    return EncodedExamples(
        np.concatenate([sure.input_ids, rest.input_ids])[tokens],
        np.concatenate([sure.labels, rest.labels])[tokens],
        lengths[order],
        owners[order],
        [(places[index], rejection) for index, rejection in rest.rejected],
        [(places[index], finding) for index, finding in rest.findings],
        rest.straddles,
    )


def _tokens(begins: Int64Array, lengths: Int32Array) -> Int64Array:
    """The places of the tokens of documents: begins `[5, 0]`, lengths `[2, 3]` give `[5, 6, 0, 1, 2]`."""
    ends = np.cumsum(lengths, dtype=np.int64)
    places: Int64Array = np.repeat(begins - (ends - lengths), lengths)
    places += np.arange(len(places))
    return places


def _merge(
    ids: Int32Array,
    labels: Int32Array,
    lengths: Int32Array,
    owners: Int64Array,
    documents: dict[int, list[Document]],
) -> tuple[Int32Array, Int32Array, Int32Array, Int64Array]:
    """Put the exactly encoded documents in their places among the others, by owner."""
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    id_parts: list[Int32Array] = []
    label_parts: list[Int32Array] = []
    length_parts: list[Int32Array] = []
    owner_parts: list[Int64Array] = []
    done = 0
    for index in sorted(documents):
        upto = int(np.searchsorted(owners, index))
        run = slice(bounds[done], bounds[upto])
        id_parts.append(ids[run])
        label_parts.append(labels[run])
        length_parts.append(lengths[done:upto])
        owner_parts.append(owners[done:upto])
        for document in documents[index]:
            id_parts.append(document.ids)
            label_parts.append(document.labels)
            length_parts.append(np.array([len(document.ids)], np.int32))
            owner_parts.append(np.array([index], np.int64))
        done = upto
    id_parts.append(ids[bounds[done] :])
    label_parts.append(labels[bounds[done] :])
    length_parts.append(lengths[done:])
    owner_parts.append(owners[done:])
    return (
        np.concatenate(id_parts),
        np.concatenate(label_parts),
        np.concatenate(length_parts),
        np.concatenate(owner_parts),
    )
