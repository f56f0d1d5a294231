"""The stages in a row: blocks of records in, documents and findings out.

    read ─► normalise ─► unroll ─► encode ─► fit ─► sink

This is the one place where the stages meet and the one loop that composes them. A record that cannot be used leaves
the loop as a rejection with its findings; nothing is logged and forgotten. What becomes of documents and findings is
the sink's business: `unit` writes shards, `check` writes findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from sftdata import formats, sources
from sftdata.errors import InputError, describe
from sftdata.pipeline.fit import Fitted, fit_documents, shorten, without
from sftdata.pipeline.harvest import first_error, is_error
from sftdata.pipeline.ledger import Ledger, add_counts
from sftdata.pipeline.measures import Measures
from sftdata.pipeline.plan import Plan, PlannedInput, read_extent
from sftdata.pipeline.taking import DUPLICATE, Taking
from sftdata.pipeline.workshop import Workshop
from sftdata.records import Conversation, DocFlag, Finding, Int32Array, Int64Array, RawRecord, Rejection, TextExample
from sftdata.tokenizers import EncodedExamples

__all__ = ["Sink", "Stages", "blocks_of"]

ByExample = dict[int, tuple[Finding, ...]]


class Sink(Protocol):
    """Where a unit's documents and findings go. Every record comes to `keep` (if it has findings) or to `reject`."""

    def look(self, raw: RawRecord, conversation: Conversation) -> tuple[Finding, ...]:
        """A record was read; returns what else there is to say of it, warnings and information only."""
        ...

    def reject(self, raw: RawRecord, findings: tuple[Finding, ...]) -> None:
        """A record is not written."""
        ...

    def keep(self, raw: RawRecord, findings: tuple[Finding, ...], lost: tuple[Finding, ...]) -> None:
        """A record is written, with these findings, and without the examples that `lost` speaks of."""
        ...

    def gather(
        self, fitted: Fitted, records: Int64Array, flags: Int32Array, held_out: npt.NDArray[np.bool_], turn: int
    ) -> None:
        """Documents that are written in pass `turn` of the mixture, with the record, the flags and the side of each."""
        ...

    def end_block(self) -> None:
        """A block is settled."""
        ...


class Pending(msgspec.Struct):
    """A record on its way from its conversation to documents."""

    raw: RawRecord
    conversation: Conversation
    first: int
    """Index of its first example in the block's list."""
    count: int
    """How many examples it has."""
    findings: tuple[Finding, ...]
    """What was found so far and lets it live."""


def blocks_of(plan: Plan, index: int, spool: Path) -> Iterator[list[RawRecord]]:
    """The records of a unit in lists of about 1 MiB; none of them is empty."""
    for extent in plan.units[index].extents:
        planned = plan.inputs[extent.input]
        _must_be_as_planned(planned, spool)
        yield from read_extent(plan.inputs, extent, spool)
        _must_be_as_planned(planned, spool)


def _must_be_as_planned(planned: PlannedInput, spool: Path) -> None:
    """Raises InputError where an input is not what the plan read: its records would be mixed with others."""
    if planned.state and sources.state(planned.item, spool) != planned.state:
        raise InputError(
            describe(
                "it changed since the run was planned",
                where=planned.item.address,
                expected=planned.state,
                fix="Plan again, as prepare does by itself; where the content is another, start over with --fresh.",
            )
        )


class Stages:
    """The loop and what it counts, for one unit."""

    def __init__(self, plan: Plan, workshop: Workshop, sink: Sink) -> None:
        self.plan, self.shop, self.sink = plan, workshop, sink
        self.ledger = Ledger()
        self.measures = Measures()
        self.rules: dict[str, int] = {}
        self.stats: dict[str, int] = {}
        self.formats: dict[str, int] = {}
        self.unrolled: dict[str, int] = {}
        self.breaks: dict[str, int] = {}
        self.largest_id = -1
        self.poison = plan.poison
        self.taking = Taking(plan)
        self.mixed: dict[str, int] = {}
        self._passes: dict[int, int] = {}

    def take(self, block: list[RawRecord]) -> None:
        """Take one block of records all the way to documents."""
        examples: list[TextExample] = []
        pending: list[Pending] = []
        for raw in block if self.taking.all else self._taken(block):
            self.ledger.read += 1
            conversation = self._normalised(raw)
            if conversation is not None:
                self._unroll(raw, conversation, (*raw.findings, *conversation.findings), examples, pending)
        self._encode(examples, pending, self.plan.config.overlong, first=True)
        self.sink.end_block()

    def _taken(self, block: list[RawRecord]) -> Iterator[RawRecord]:
        """The records of a block that are taken at all."""
        times = self.taking.of(block)
        self._passes = {raw.record_id: count for raw, count in zip(block, times, strict=True) if count > 1}
        for raw, count in zip(block, times, strict=True):
            if count > 0:
                yield raw
                continue
            self.ledger.read += 1
            if count == DUPLICATE:
                self.ledger.duplicate += 1
            else:
                self.ledger.unsampled += 1

    def _normalised(self, raw: RawRecord) -> Conversation | None:
        if raw.record_id in self.poison:
            told = f"a worker died while it worked on this record ({self.poison[raw.record_id]})"
            self._reject(raw, (*raw.findings, Finding("SFT018", told)))
            return None
        if raw.findings and any(map(is_error, raw.findings)):
            self._reject(raw, raw.findings)
            return None
        outcome = formats.normalise(raw.value, self.shop.format_options(raw.source))
        if isinstance(outcome, Rejection):
            self._reject(raw, (*raw.findings, *outcome.findings))
            return None
        more = self.sink.look(raw, outcome)
        if more:
            outcome = msgspec.structs.replace(outcome, findings=(*outcome.findings, *more))
        self.measures.chat(outcome)
        self.formats[outcome.format] = self.formats.get(outcome.format, 0) + 1
        return outcome

    def _unroll(
        self,
        raw: RawRecord,
        conversation: Conversation,
        findings: tuple[Finding, ...],
        examples: list[TextExample],
        pending: list[Pending],
    ) -> None:
        unrolled = self.shop.contract.unroll(conversation)
        if isinstance(unrolled, Rejection):
            self._reject(raw, (*findings, *unrolled.findings))
            return
        self._bump("replies_untrained", unrolled.untrained)
        for excerpt in unrolled.breaks[:1]:
            if excerpt in self.breaks or len(self.breaks) < 16:
                self.breaks[excerpt] = self.breaks.get(excerpt, 0) + 1
        found = (*findings, *unrolled.findings)
        pending.append(Pending(raw, conversation, len(examples), len(unrolled.examples), found))
        examples += unrolled.examples

    def _encode(self, examples: list[TextExample], pending: list[Pending], policy: str, *, first: bool = False) -> None:
        """Encode examples, hold them to the maximum length, settle every record, and gather what is left."""
        if not pending:
            return
        ids = np.fromiter((one.raw.record_id for one in pending), np.int64, len(pending))
        sampled = [pending[place] for place in np.flatnonzero(self.shop.sampled(ids)).tolist()]
        if sampled:
            self.shop.compare([examples[one.first + n].text for one in sampled for n in range(one.count)])
            self._bump("engine_compared", len(sampled))
        encoded = self.shop.encoder.weighed(examples, self.shop.encoder.encode(examples))
        if first:
            self.measures.documents(encoded.labels, encoded.lengths)
        again: list[TextExample] = []
        shortened: list[Pending] = []
        if policy == "drop-turns":
            encoded, pending = self._shorten(encoded, pending, again, shortened)
        self._bump("straddles", encoded.straddles)
        fitted = fit_documents(encoded, examples, self.plan.config.max_length, policy)
        noted: dict[int, tuple[Finding, ...]] = {}
        for index, finding in (*encoded.findings, *fitted.findings):
            noted[index] = (*noted.get(index, ()), finding)
        self.ledger.tokens_rendered += fitted.rendered
        self.ledger.tokens_dropped += fitted.rendered - len(fitted.input_ids)
        lost: dict[int, tuple[Finding, ...]] = {index: rejection.findings for index, rejection in encoded.rejected}
        for index, finding in fitted.lost:
            lost[index] = (*lost.get(index, ()), finding)
        self._settle(pending, fitted, lost, noted)
        self._encode(again, shortened, "reject")

    def _settle(self, pending: list[Pending], fitted: Fitted, lost: ByExample, noted: ByExample) -> None:
        """Every record is written or rejected, here and once; then its documents are gathered by split."""
        firsts = np.fromiter((one.first for one in pending), np.int64, len(pending))
        counts = np.fromiter((one.count for one in pending), np.int64, len(pending))
        ids = np.fromiter((one.raw.record_id for one in pending), np.int64, len(pending))
        begins = np.searchsorted(fitted.owners, firsts)
        documents = np.searchsorted(fitted.owners, firsts + counts) - begins
        told = (documents != 1) | np.fromiter((bool(one.findings) for one in pending), bool, len(pending))
        if lost or noted:
            touched = np.fromiter(lost.keys() | noted.keys(), np.int64)
            told[np.searchsorted(firsts, touched, side="right") - 1] = True
        quiet = int(np.count_nonzero(~told))
        self._written(1, quiet)
        for place in np.flatnonzero(told).tolist():
            begin, many = int(begins[place]), int(documents[place])
            self._tell(pending[place], fitted.lengths[begin : begin + many], lost, noted)
        held_out = np.zeros(len(pending), bool)
        if self.shop.holds_out:
            held_out[:] = [self.shop.is_held_out(one.conversation) for one in pending]
        passes = np.ones(len(pending), np.int64)
        if self._passes:
            passes[:] = [self._passes.get(one.raw.record_id, 1) for one in pending]
            passes[held_out] = 1
        flags = fitted.flags.copy()
        flags[np.repeat((documents > 1) | (passes > 1), documents)] |= DocFlag.ONE_OF_SEVERAL
        each = [np.repeat(values, documents) for values in (ids, held_out, passes)]
        self._gather(fitted, each[0], flags, each[1], each[2])

    def _tell(self, one: Pending, lengths: Int32Array, lost: ByExample, noted: ByExample) -> None:
        """Settle a record of which there is something to say: findings, no document, or several of them."""
        mine = range(one.first, one.first + one.count)
        gone = tuple(finding for i in mine if i in lost for finding in lost[i])
        found = (*one.findings, *(finding for i in mine if i in noted for finding in noted[i]))
        if not len(lengths):
            self.ledger.examples_rejected += one.count
            self._reject(one.raw, (*found, *gone))
            return
        self._written(len(lengths), 1)
        found += self._repeated(lengths)
        self._count((*found, *gone))
        if gone:
            self.ledger.examples_rejected += sum(i in lost for i in mine)
        if found or gone:
            self.sink.keep(one.raw, found, gone)

    def _shorten(
        self,
        encoded: EncodedExamples,
        pending: list[Pending],
        again: list[TextExample],
        shortened: list[Pending],
    ) -> tuple[EncodedExamples, list[Pending]]:
        """Take over-long conversations out of `encoded` and put shorter ones of theirs into `again`."""
        over = set(encoded.owners[encoded.lengths > self.plan.config.max_length].tolist())
        stay: list[Pending] = []
        leave: set[int] = set()
        for one in pending:
            mine = range(one.first, one.first + one.count)
            shorter = self._shorter(one.conversation) if not over.isdisjoint(mine) else None
            if shorter is None:
                stay.append(one)
                continue
            leave.update(mine)
            count = len(shortened)
            told = Finding("SFT611", "the oldest turns were removed so that the conversation fits")
            self._unroll(one.raw, shorter, (*one.raw.findings, *one.conversation.findings, told), again, shortened)
            assert len(shortened) == count + 1, "a conversation that was measured can be rendered"
        return _select(encoded, leave), stay

    def _shorter(self, conversation: Conversation) -> Conversation | None:
        drop = shorten(conversation, self._longest, self.plan.config.max_length)
        if drop is None:
            return None
        roles = [message.role for message in conversation.messages]
        head = next(i for i, role in enumerate(roles) if role not in {"system", "developer"})
        gone = conversation.messages[head : head + drop]
        self.ledger.turns_dropped += drop
        trained = sum(message.role == "assistant" and message.trained is not False for message in gone)
        self._bump("replies_untrained", trained)
        return without(conversation, head, head + drop)

    def _longest(self, conversation: Conversation) -> int | None:
        unrolled = self.shop.contract.unroll(conversation)
        if isinstance(unrolled, Rejection):
            return None
        encoded = self.shop.encoder.encode(unrolled.examples)
        return None if encoded.rejected else int(encoded.lengths.max())

    def _gather(
        self,
        fitted: Fitted,
        records: Int64Array,
        flags: Int32Array,
        held_out: npt.NDArray[np.bool_],
        passes: Int64Array,
    ) -> None:
        """Count what is written and give it to the sink, once a pass; a further pass renders what it writes."""
        if len(fitted.input_ids):
            self.largest_id = max(self.largest_id, int(fitted.input_ids.max()))
        self.ledger.tokens_rendered += int((fitted.lengths * (passes - 1)).sum())
        for turn in range(int(passes.max(initial=1))):
            if turn:
                chosen = passes > turn
                fitted = _chosen(fitted, chosen)
                records, flags, held_out, passes = records[chosen], flags[chosen], held_out[chosen], passes[chosen]
            trained = fitted.labels != -100
            self.ledger.examples_written += len(fitted.lengths)
            self.ledger.tokens_written += len(fitted.input_ids)
            self.ledger.tokens_trained += int(trained.sum())
            if self.plan.mixture:
                self._mix(fitted, records, trained, first=turn == 0)
            self.sink.gather(fitted, records, flags, held_out, turn)

    def _mix(self, fitted: Fitted, records: Int64Array, trained: npt.NDArray[np.bool_], *, first: bool) -> None:
        """Count what is written by source."""
        sources = self.taking.sources(records)
        ends = np.cumsum(fitted.lengths, dtype=np.int64)
        sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(trained)])
        each = sums[ends] - sums[ends - fitted.lengths]
        for source in np.unique(sources).tolist():
            mine = sources == source
            found = {
                "records": len(np.unique(records[mine])) if first else 0,
                "examples": int(mine.sum()),
                "tokens": int(fitted.lengths[mine].sum()),
                "trained": int(each[mine].sum()),
            }
            add_counts(self.mixed, {f"{source}/{name}": count for name, count in found.items()})

    def _reject(self, raw: RawRecord, findings: tuple[Finding, ...]) -> None:
        code = first_error(findings).code
        self.ledger.rejected += 1
        self.ledger.rejections[code] = self.ledger.rejections.get(code, 0) + 1
        self._count(findings)
        self.sink.reject(raw, findings)

    def _written(self, documents: int, records: int) -> None:
        """Count `records` records that were written with so many documents each."""
        if records:
            self.ledger.written += records
            key = str(documents)
            self.unrolled[key] = self.unrolled.get(key, 0) + records

    def _repeated(self, lengths: Int32Array) -> tuple[Finding, ...]:
        """Count what the documents of one record repeat, and say so where it is much."""
        documents = len(lengths)
        if documents > 1:
            total, longest = int(lengths.sum()), int(lengths.max())
            self._bump("tokens_repeated", total - longest)
            if total > 4 * longest:
                cost = f"its {documents} examples cost {total / longest:.1f} times the tokens of the longest"
                return (Finding("SFT320", cost),)
        return ()

    def _count(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.rules[finding.code] = self.rules.get(finding.code, 0) + 1

    def _bump(self, name: str, by: int) -> None:
        if by:
            self.stats[name] = self.stats.get(name, 0) + by


def _chosen(fitted: Fitted, chosen: npt.NDArray[np.bool_]) -> Fitted:
    """The chosen documents of `fitted`, without what was lost and found."""
    tokens = np.repeat(chosen, fitted.lengths)
    return Fitted(
        fitted.input_ids[tokens],
        fitted.labels[tokens],
        fitted.lengths[chosen],
        fitted.owners[chosen],
        fitted.flags[chosen],
        [],
        [],
        0,
    )


def _select(encoded: EncodedExamples, leave: set[int]) -> EncodedExamples:
    """`encoded` without the documents of the examples in `leave`."""
    if not leave:
        return encoded
    keep = ~np.isin(encoded.owners, np.array(sorted(leave), np.int64))
    tokens = np.repeat(keep, encoded.lengths)
    return EncodedExamples(
        encoded.input_ids[tokens],
        encoded.labels[tokens],
        encoded.lengths[keep],
        encoded.owners[keep],
        [pair for pair in encoded.rejected if pair[0] not in leave],
        [pair for pair in encoded.findings if pair[0] not in leave],
        encoded.straddles,
    )
