"""Run one unit: a pure function of the plan and the unit's number.

    read ─► normalise ─► unroll ─► encode ─► fit ─► gather ─► pack ─► write ─► commit record

This is the one place where the stages meet and the one loop that composes them. A record that cannot be used leaves
the loop as a rejection with its findings; nothing is logged and forgotten. Running a unit twice gives the same bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from sftdata import formats, packing, sources
from sftdata.pipeline.fit import Fitted, fit_documents, shorten, without
from sftdata.pipeline.harvest import Harvest, RejectFile, first_error, is_error
from sftdata.pipeline.ledger import Ledger, add_counts
from sftdata.pipeline.plan import Plan, Unit
from sftdata.pipeline.workshop import Workshop
from sftdata.records import Conversation, DocFlag, Finding, Int32Array, Int64Array, RawRecord, Rejection, TextExample
from sftdata.shards import FileEntry, ShardWriter, SidecarEntry
from sftdata.tokenizers import EncodedExamples

__all__ = ["SIDECARS", "SPLITS", "UnitResult", "run_unit", "try_records", "unit_stem"]

SPLITS = ("train", "eval")
SIDECARS = ("rejected", "partial")
_TOKENS_AT_ONCE = 1 << 20


class UnitResult(msgspec.Struct):
    """The commit record of a unit: `OUT/.work/unit-00003.json`."""

    index: int
    fingerprint: str
    ledger: Ledger
    rules: dict[str, int]
    """Findings by code, all severities."""
    files: dict[str, list[FileEntry]]
    """Shard files by split, under their names in `.work`."""
    sidecars: dict[str, SidecarEntry]
    """The unit's `rejected` and `partial` files."""
    stats: dict[str, int]
    """Counters by name: straddles, tokens cut, repeated by unrolling, ..."""
    formats: dict[str, int]
    """Records by the format that read them."""
    unrolled: dict[str, int]
    """Written records by their number of examples."""
    breaks: dict[str, int]
    """What later prompts changed of the text before, by excerpt; the first few that occur."""
    lengths: dict[str, int]
    """Documents by length, in powers of two: `"512"` counts lengths from 257 to 512."""
    largest_id: int
    bins: dict[str, int]
    """Bins by split."""


class Pending(msgspec.Struct):
    """A record on its way from its conversation to documents."""

    raw: RawRecord
    conversation: Conversation
    first: int
    """Index of its first example in the block's list."""
    count: int
    """How many examples it has."""


def unit_stem(index: int) -> str:
    """The beginning of every name that a unit writes: `unit-00003`."""
    return f"unit-{index:05d}"


def run_unit(plan: Plan, index: int, workshop: Workshop, work: Path, progress: Callable[[int], None]) -> UnitResult:
    """Do the work of unit `index` and write its files into `work`; the caller writes the commit record.

    `progress` is called with the number of records of every finished block.
    """
    run = _UnitRun(plan, plan.units[index], workshop, work)
    try:
        for block in _blocks(plan, index, work):
            run.take(block)
            progress(len(block))
        return run.finish()
    except BaseException:
        run.discard()
        raise


def try_records(
    plan: Plan, index: int, workshop: Workshop, work: Path, *, first: int, touch: Callable[[int], None]
) -> dict[int, str]:
    """Take the block that holds record `first` one record at a time, for a unit on which a worker died.

    `touch` is called with the id of every record before anything is done with it. Returns the records that an
    exception came out of, and which; one that ends the process is the last that was touched. Writes nothing.
    """
    failed: dict[int, str] = {}
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        run = _UnitRun(plan, plan.units[index], workshop, Path(scratch))
        for block in _blocks(plan, index, work):
            if block[-1].record_id < first:
                continue
            for raw in block:
                touch(raw.record_id)
                try:
                    run.take([raw])
                except Exception as error:  # noqa: BLE001 - which record does it is the question
                    failed[raw.record_id] = type(error).__name__
            break
        run.discard()
    return failed


def _blocks(plan: Plan, index: int, spool: Path) -> Iterator[list[RawRecord]]:
    """The records of a unit in lists of about 1 MiB; none of them is empty."""
    for extent in plan.units[index].extents:
        item = plan.inputs[extent.input].item
        blocks = sources.read(
            item,
            extent.start,
            extent.stop,
            first_record=extent.first_record,
            first_line=extent.first_line,
            spool=spool,
        )
        yield from filter(None, blocks)


class _UnitRun:
    """The state of one run of one unit."""

    def __init__(self, plan: Plan, unit: Unit, workshop: Workshop, work: Path) -> None:
        self.plan, self.unit, self.shop, self.work = plan, unit, workshop, work
        self.ledger = Ledger()
        self.rules: dict[str, int] = {}
        self.stats: dict[str, int] = {}
        self.formats: dict[str, int] = {}
        self.unrolled: dict[str, int] = {}
        self.breaks: dict[str, int] = {}
        self.largest_id = -1
        self.harvests = {split: Harvest() for split in SPLITS}
        stem = unit_stem(unit.index)
        self.rejected = RejectFile(work / f"{stem}-rejected.jsonl")
        self.partial = RejectFile(work / f"{stem}-partial.jsonl")
        self.poison = plan.poison

    def take(self, block: list[RawRecord]) -> None:
        """Take one block of records all the way to documents."""
        examples: list[TextExample] = []
        pending: list[Pending] = []
        for raw in block:
            self.ledger.read += 1
            conversation = self._normalised(raw)
            if conversation is not None:
                self._unroll(raw, conversation, examples, pending)
        self._encode(examples, pending, self.plan.config.overlong)
        self.rejected.end_block()
        self.partial.end_block()

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
        self._count(raw.findings)
        self._count(outcome.findings)
        self.formats[outcome.format] = self.formats.get(outcome.format, 0) + 1
        return outcome

    def _unroll(
        self, raw: RawRecord, conversation: Conversation, examples: list[TextExample], pending: list[Pending]
    ) -> None:
        unrolled = self.shop.contract.unroll(conversation)
        if isinstance(unrolled, Rejection):
            self._reject(raw, (*raw.findings, *conversation.findings, *unrolled.findings))
            return
        self._count(unrolled.findings)
        self._bump("replies_untrained", unrolled.untrained)
        for excerpt in unrolled.breaks[:1]:
            if excerpt in self.breaks or len(self.breaks) < 16:
                self.breaks[excerpt] = self.breaks.get(excerpt, 0) + 1
        pending.append(Pending(raw, conversation, len(examples), len(unrolled.examples)))
        examples += unrolled.examples

    def _encode(self, examples: list[TextExample], pending: list[Pending], policy: str) -> None:
        """Encode examples, hold them to the maximum length, settle every record, and gather what is left."""
        if not pending:
            return
        sampled = [one for one in pending if self.shop.is_sampled(one.raw.record_id)]
        if sampled:
            self.shop.compare([examples[one.first + n].text for one in sampled for n in range(one.count)])
            self._bump("engine_compared", len(sampled))
        encoded = self.shop.encoder.encode(examples)
        again: list[TextExample] = []
        shortened: list[Pending] = []
        if policy == "drop-turns":
            encoded, pending = self._shorten(encoded, pending, again, shortened)
        self._bump("straddles", encoded.straddles)
        self._count(finding for _, finding in encoded.findings)
        fitted = fit_documents(encoded, examples, self.plan.config.max_length, policy)
        self._count(finding for _, finding in fitted.findings)
        self.ledger.tokens_rendered += fitted.rendered
        self.ledger.tokens_dropped += fitted.rendered - len(fitted.input_ids)
        lost: dict[int, tuple[Finding, ...]] = {index: rejection.findings for index, rejection in encoded.rejected}
        for index, finding in fitted.lost:
            lost[index] = (*lost.get(index, ()), finding)
        self._settle(pending, fitted, lost)
        self._encode(again, shortened, "reject")

    def _settle(self, pending: list[Pending], fitted: Fitted, lost: dict[int, tuple[Finding, ...]]) -> None:
        """Every record is written or rejected, here and once; then its documents are gathered by split."""
        begins = np.searchsorted(fitted.owners, [one.first for one in pending]).tolist()
        ends = np.searchsorted(fitted.owners, [one.first + one.count for one in pending]).tolist()
        flags = fitted.flags.copy()
        records = np.zeros(len(fitted.owners), np.int64)
        held_out = np.zeros(len(fitted.owners), bool)
        for one, begin, end in zip(pending, begins, ends, strict=True):
            gone = [finding for i in range(one.first, one.first + one.count) if i in lost for finding in lost[i]]
            if begin == end:
                self.ledger.examples_rejected += one.count
                self._reject(one.raw, (*one.raw.findings, *one.conversation.findings, *gone))
                continue
            if gone:
                self.ledger.examples_rejected += sum(i in lost for i in range(one.first, one.first + one.count))
                self._count(gone)
                self.partial.write(one.raw, self._source(one.raw), gone)
            self._written(end - begin, fitted.lengths[begin:end])
            records[begin:end] = one.raw.record_id
            if end - begin > 1:
                flags[begin:end] |= DocFlag.ONE_OF_SEVERAL
            held_out[begin:end] = self.shop.is_held_out(one.conversation)
        self._gather(fitted, records, flags, held_out)

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
            self._count((Finding("SFT611", "the oldest turns were removed so that the conversation fits"),))
            self._unroll(one.raw, shorter, again, shortened)
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

    def _gather(self, fitted: Fitted, records: Int64Array, flags: Int32Array, held_out: npt.NDArray[np.bool_]) -> None:
        self.ledger.examples_written += len(fitted.lengths)
        self.ledger.tokens_written += len(fitted.input_ids)
        self.ledger.tokens_trained += int((fitted.labels != -100).sum())
        if len(fitted.input_ids):
            self.largest_id = max(self.largest_id, int(fitted.input_ids.max()))
        if not held_out.any():
            self.harvests["train"].add(fitted.input_ids, fitted.labels, fitted.lengths, records, flags)
            return
        for split, chosen in (("train", ~held_out), ("eval", held_out)):
            tokens = np.repeat(chosen, fitted.lengths)
            self.harvests[split].add(
                fitted.input_ids[tokens],
                fitted.labels[tokens],
                fitted.lengths[chosen],
                records[chosen],
                flags[chosen],
            )

    def discard(self) -> None:
        """Remove what is under way."""
        self.rejected.discard()
        self.partial.discard()

    def finish(self) -> UnitResult:
        """Pack and write what was gathered, close the files, and say what there is."""
        sidecars = {"rejected": self.rejected.close(), "partial": self.partial.close()}
        files, bins = {}, {}
        histogram: dict[str, int] = {}
        for split in SPLITS:
            harvest = self.harvests[split]
            files[split], bins[split] = self._write(split, harvest)
            powers, counts = np.unique(np.ceil(np.log2(np.maximum(harvest.lengths, 1))), return_counts=True)
            add_counts(histogram, {str(1 << int(p)): int(c) for p, c in zip(powers, counts, strict=True)})
        return UnitResult(
            index=self.unit.index,
            fingerprint=self.plan.fingerprint,
            ledger=self.ledger,
            rules=dict(sorted(self.rules.items())),
            files=files,
            sidecars=sidecars,
            stats=dict(sorted(self.stats.items())),
            formats=dict(sorted(self.formats.items())),
            unrolled=dict(sorted(self.unrolled.items())),
            breaks=self.breaks,
            lengths=histogram,
            largest_id=self.largest_id,
            bins=bins,
        )

    def _write(self, split: str, harvest: Harvest) -> tuple[list[FileEntry], int]:
        config = self.plan.config
        lengths = harvest.lengths
        if not len(lengths):
            return [], 0
        bins = packing.pack(lengths, config.max_length, config.packing, seed=(config.seed, self.unit.index))
        stem = f"{unit_stem(self.unit.index)}-{split}"
        metadata = {"fingerprint": self.plan.fingerprint, "split": split, "unit": str(self.unit.index)}
        with ShardWriter(lambda part: self.work / f"{stem}-{part:02d}.parquet", metadata=metadata) as writer:
            for rows in harvest.rows(bins.order, bins.offsets, tokens=_TOKENS_AT_ONCE):
                writer.write(rows)
        return writer.entries, len(bins.offsets) - 1

    def _reject(self, raw: RawRecord, findings: tuple[Finding, ...]) -> None:
        code = first_error(findings).code
        self.ledger.rejected += 1
        self.ledger.rejections[code] = self.ledger.rejections.get(code, 0) + 1
        self._count(findings)
        self.rejected.write(raw, self._source(raw), findings)

    def _written(self, documents: int, lengths: Int32Array) -> None:
        self.ledger.written += 1
        key = str(documents)
        self.unrolled[key] = self.unrolled.get(key, 0) + 1
        if documents > 1:
            total, longest = int(lengths.sum()), int(lengths.max())
            self._bump("tokens_repeated", total - longest)
            if total > 4 * longest:
                cost = f"its {documents} examples cost {total / longest:.1f} times the tokens of the longest"
                self._count((Finding("SFT320", cost),))

    def _source(self, raw: RawRecord) -> str:
        return self.shop.names.get(raw.source, raw.source)

    def _count(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.rules[finding.code] = self.rules.get(finding.code, 0) + 1

    def _bump(self, name: str, by: int) -> None:
        if by:
            self.stats[name] = self.stats.get(name, 0) + by


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
