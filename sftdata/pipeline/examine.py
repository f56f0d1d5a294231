"""Examine one unit: the stages of a run with a sink that keeps findings and keys, and writes no shard.

    stages ─► findings (JSON Lines), keys of every record, lengths of every document

What lives here: that sink, and reading without a tokenizer. What must not: what is decided from all units (`check`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from sftdata import checks, packing
from sftdata.formats import FormatOptions
from sftdata.pipeline.fit import Fitted
from sftdata.pipeline.ledger import Ledger
from sftdata.pipeline.plan import Plan
from sftdata.pipeline.repair import as_it_was, as_json, repaired
from sftdata.pipeline.stages import Pending, Stages, blocks_of
from sftdata.pipeline.unit import fewer_collections
from sftdata.pipeline.workshop import Workshop, open_workshop, options_by_input
from sftdata.quality.keys import Keys, key, keys_of, said
from sftdata.quality.leakage import EvalIndex
from sftdata.quality.near import Signatures
from sftdata.records import Conversation, Finding, Int32Array, Int64Array, RawRecord, TextExample

__all__ = ["DOCUMENTS", "RECORDS", "Bench", "Examined", "Found", "Wishes", "open_bench"]

RECORDS = np.dtype(
    [
        *(("record_id", "<i8"), ("line", "<i8"), ("source", "<i4"), ("asked", "<i4")),
        *(("content", "<u8"), ("prompt", "<u8"), ("answer", "<u8"), ("system", "<u8")),
    ]
)
"""One row a readable record; `asked` is the length of its user turns in characters."""
DOCUMENTS = np.dtype([("record_id", "<i8"), ("length", "<i4"), ("trained", "<i4")])
"""One row a document that would be written."""


_NO_KEYS = Keys(0, 0, 0, 0)


class Found(msgspec.Struct, frozen=True):
    """One finding with its place."""

    code: str
    message: str
    source: str
    """The input's short name; empty for the inputs as a whole."""
    line: int
    pointer: str
    fix: str
    record_id: int | None
    identity: str
    """Stays the same while the record does, wherever in its file it stands; what baselines hold."""


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What an examination is to do besides the stages."""

    sample: float = 1.0
    """The share of records to look at."""
    near_duplicates: bool = False
    eval_texts: tuple[str, ...] = ()
    eval_keys: tuple[int, ...] = ()
    repair: bool = False
    """Write readable records anew, in normal form."""
    texts: bool = True
    """Ask the rules about texts."""
    keys: bool = True
    """Make the keys by which records are compared."""


class Examined(msgspec.Struct):
    """What came of one unit; the rest lies in its files."""

    index: int
    ledger: Ledger
    rules: dict[str, int]
    stats: dict[str, int]
    formats: dict[str, int]
    unrolled: dict[str, int]
    breaks: dict[str, int]
    measures: dict[str, int]
    lengths: dict[str, int]
    largest_id: int
    bins: dict[str, int]
    tokens: int
    sources: dict[str, int]
    """Records by `source number/format`."""
    stops: dict[str, int]
    """Trained replies by the id of their last token."""
    touched: list[int]
    """Eval items that some record repeats."""
    skipped: int = 0
    """Records that the sample left out."""
    unrepaired: int = 0
    """Records that a repair leaves as they were."""


class Bench:
    """Everything that examining units needs, set up once a process."""

    def __init__(self, plan: Plan, wishes: Wishes, work: Path, workshop: Workshop | None) -> None:
        self.plan, self.wishes, self.work, self.shop = plan, wishes, work, workshop
        self.evals = EvalIndex(wishes.eval_texts, wishes.eval_keys) if wishes.eval_texts else None

    def examine(self, index: int, progress: Callable[[int], None]) -> Examined:
        """Examine unit `index`; leaves `found-`, `records-`, `documents-` and, where wished, more files in `work`."""
        sink = _Sink(self, index)
        stages = Stages(self.plan, self.shop, sink) if self.shop is not None else _Reading(self.plan, sink)
        with fewer_collections():
            for block in blocks_of(self.plan, index, self.work):
                chosen = [raw for raw in block if self._is_sampled(raw.record_id)]
                sink.skipped += len(block) - len(chosen)
                stages.take(chosen)
                progress(len(block))
        return sink.finish(stages)

    def _is_sampled(self, record_id: int) -> bool:
        if self.wishes.sample >= 1:
            return True
        mixed = (record_id + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        return (mixed ^ mixed >> 32) * 0xBF58476D1CE4E5B9 >> 11 & 0xFFFFFFFF < self.wishes.sample * 0x100000000


def open_bench(plan: Plan, wishes: Wishes, work: Path) -> Bench:
    """Set up in a worker process."""
    return Bench(plan, wishes, work, open_workshop(plan) if plan.tokenizer else None)


class _Options:
    """Stands for the workshop where there is no tokenizer: it knows how to read, and no more."""

    def __init__(self, plan: Plan) -> None:
        self._options = options_by_input(plan, plan.config)

    def format_options(self, address: str) -> FormatOptions:
        return self._options[address]


class _Reading(Stages):
    """The stages up to the conversation: without a tokenizer nothing can be rendered or encoded."""

    def __init__(self, plan: Plan, sink: _Sink) -> None:
        super().__init__(plan, _Options(plan), sink)  # type: ignore[arg-type]

    def _unroll(
        self,
        raw: RawRecord,
        conversation: Conversation,  # noqa: ARG002
        findings: tuple[Finding, ...],
        examples: list[TextExample],  # noqa: ARG002
        pending: list[Pending],  # noqa: ARG002
    ) -> None:
        self.ledger.written += 1
        self._count(findings)
        if findings:
            self.sink.keep(raw, findings, ())


class _Sink:
    """Keeps what a unit's records say and what is wrong with them."""

    def __init__(self, bench: Bench, index: int) -> None:
        self.bench, self.index = bench, index
        self.names = {one.item.address: (number, one.name) for number, one in enumerate(bench.plan.inputs)}
        stem = bench.work / f"{index:05d}"
        self.found = (stem.parent / f"found-{stem.name}.jsonl").open("wb")
        self.repaired = (stem.parent / f"repaired-{stem.name}.jsonl").open("wb") if bench.wishes.repair else None
        self.changes = (stem.parent / f"changes-{stem.name}.jsonl").open("wb") if bench.wishes.repair else None
        self.signatures = Signatures(bench.work, f"near-{stem.name}") if bench.wishes.near_duplicates else None
        self.records: list[tuple[int, ...]] = []
        self.documents: list[npt.NDArray[np.void]] = []
        self.texts: list[tuple[RawRecord, str, int]] = []
        self.sources: dict[str, int] = {}
        self.stops: dict[str, int] = {}
        self.touched: set[int] = set()
        self.extra: dict[str, int] = {}
        self.skipped = self.unrepaired = 0
        self.seen = -1
        self.options = options_by_input(bench.plan, bench.plan.config) if bench.wishes.repair else {}

    def look(self, raw: RawRecord, conversation: Conversation) -> tuple[Finding, ...]:
        """What the rules about texts find; keys and texts are put aside for the rules about the dataset."""
        number, _ = self.names[raw.source]
        keys = keys_of(conversation) if self.bench.wishes.keys else _NO_KEYS
        asked = sum(len(one.content or "") for one in conversation.messages if one.role == "user")
        row = (raw.record_id, raw.line, number, asked, keys.content, keys.prompt, keys.answer, keys.system)
        self.records.append(row)
        name = f"{number}/{conversation.format}"
        self.sources[name] = self.sources.get(name, 0) + 1
        if self.signatures is not None or self.bench.evals is not None:
            self.texts.append((raw, said(conversation), keys.content))
        if self.repaired is not None:
            self.seen = raw.record_id
            record, change = repaired(raw, conversation, self.options[raw.source])
            self.repaired.write(as_json(record) + b"\n")
            if change is not None and self.changes is not None:
                self.changes.write(as_json(change) + b"\n")
        return checks.examine(conversation) if self.bench.wishes.texts else ()

    def reject(self, raw: RawRecord, findings: tuple[Finding, ...]) -> None:
        """Everything that was found in a record that is not written."""
        self._write(raw, findings)
        if self.repaired is not None and raw.record_id > self.seen:  # it did not come as far as `look`
            self.seen = raw.record_id
            self.unrepaired += 1
            self.repaired.write(as_it_was(raw) + b"\n")

    def keep(self, raw: RawRecord, findings: tuple[Finding, ...], lost: tuple[Finding, ...]) -> None:
        """Everything that was found in a record that is written."""
        self._write(raw, (*findings, *lost))

    def gather(
        self,
        fitted: Fitted,
        records: Int64Array,
        flags: Int32Array,  # noqa: ARG002
        held_out: npt.NDArray[np.bool_],  # noqa: ARG002
        turn: int,  # noqa: ARG002
    ) -> None:
        """The lengths of documents, and the tokens that replies end in."""
        if not len(fitted.lengths):
            return
        trained = fitted.labels != -100
        ends = np.cumsum(fitted.lengths, dtype=np.int64)
        last = trained.copy()
        last[:-1] &= ~trained[1:]
        last[ends - 1] = trained[ends - 1]
        ids, counts = np.unique(fitted.input_ids[last], return_counts=True)
        for one, count in zip(ids.tolist(), counts.tolist(), strict=True):
            self.stops[str(one)] = self.stops.get(str(one), 0) + count
        rows = np.empty(len(ends), DOCUMENTS)
        rows["record_id"], rows["length"] = records, fitted.lengths
        rows["trained"] = np.add.reduceat(trained, ends - fitted.lengths, dtype=np.int32)
        self.documents.append(rows)

    def end_block(self) -> None:
        """Look the block's texts up in the eval set, and add their signatures."""
        texts = [text for _, text, _ in self.texts]
        if self.signatures is not None and texts:
            self.signatures.add(np.array([raw.record_id for raw, _, _ in self.texts], np.int64), texts)
        if self.bench.evals is not None:
            self._overlaps(self.bench.evals, texts)
        self.texts.clear()

    def _overlaps(self, evals: EvalIndex, texts: list[str]) -> None:
        same = {place for place, (_, _, content) in enumerate(self.texts) if content in evals.keys}
        for place in sorted(same):
            raw, _, content = self.texts[place]
            item = evals.keys[content]
            self.touched.add(item)
            self._add(raw, Finding("SFT705", f"the same conversation is number {item + 1} of the eval set"))
        told: set[int] = set()
        for one in evals.overlaps(texts):
            self.touched.add(one.item)
            if one.place not in same | told:
                told.add(one.place)
                share = f"{one.share:.0%} of the 8-grams of number {one.item + 1} of the eval set"
                self._add(self.texts[one.place][0], Finding("SFT704", f"holds {share}"))

    def _add(self, raw: RawRecord, finding: Finding) -> None:
        self.extra[finding.code] = self.extra.get(finding.code, 0) + 1
        self._write(raw, (finding,))

    def _write(self, raw: RawRecord, findings: tuple[Finding, ...]) -> None:
        _, name = self.names[raw.source]
        whole = key(raw.value if raw.raw is None else raw.raw)
        for one in findings:
            identity = f"{key((whole, one.code, one.pointer, one.message)):016x}"
            row = Found(one.code, one.message, name, raw.line, one.pointer, one.fix, raw.record_id, identity)
            self.found.write(msgspec.json.encode(row) + b"\n")

    def finish(self, did: Stages) -> Examined:
        """Close the files and say what there is."""
        for file in (self.found, self.repaired, self.changes):
            if file is not None:
                file.close()
        stem = f"{self.index:05d}"
        np.save(self.bench.work / f"records-{stem}.npy", np.array(self.records, RECORDS))
        documents = np.concatenate(self.documents) if self.documents else np.zeros(0, DOCUMENTS)
        np.save(self.bench.work / f"documents-{stem}.npy", documents)
        config = self.bench.plan.config
        bins = 0
        if len(documents):
            seed = (config.seed, self.index)
            packed = packing.pack(documents["length"].copy(), config.max_length, config.packing, seed=seed)
            bins = len(packed.offsets) - 1
        powers, counts = np.unique(np.ceil(np.log2(np.maximum(documents["length"], 1))), return_counts=True)
        rules = dict(did.rules)
        for code, count in self.extra.items():
            rules[code] = rules.get(code, 0) + count
        return Examined(
            index=self.index,
            ledger=did.ledger,
            rules=rules,
            stats=did.stats,
            formats=did.formats,
            unrolled=did.unrolled,
            breaks=did.breaks,
            measures=did.measures.counts(),
            lengths={str(1 << int(power)): int(count) for power, count in zip(powers, counts, strict=True)},
            largest_id=did.largest_id,
            bins={"train": bins},
            tokens=int(documents["length"].sum()),
            sources=self.sources,
            stops=self.stops,
            touched=sorted(self.touched),
            skipped=self.skipped,
            unrepaired=self.unrepaired,
        )
