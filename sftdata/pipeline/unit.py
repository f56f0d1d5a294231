"""Run one unit: a pure function of the plan and the unit's number.

    stages ─► gather ─► pack ─► write ─► commit record

What lives here: the sink of the stages that writes shards and reject files. What must not: the stages (`stages`), which
unit runs when (`engines`). Running a unit twice gives the same bytes.
"""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from sftdata import packing
from sftdata.pipeline.fit import Fitted
from sftdata.pipeline.harvest import Harvest, RejectFile
from sftdata.pipeline.ledger import Ledger, add_counts
from sftdata.pipeline.plan import Plan, Unit
from sftdata.pipeline.stages import Stages, blocks_of
from sftdata.pipeline.workshop import Workshop
from sftdata.records import Conversation, Finding, Int32Array, Int64Array, RawRecord
from sftdata.shards import FileEntry, ShardWriter, SidecarEntry

__all__ = ["SIDECARS", "SPLITS", "UnitResult", "fewer_collections", "run_unit", "try_records", "unit_stem"]

SPLITS = ("train", "eval")
SIDECARS = ("rejected", "partial")
_TOKENS_AT_ONCE = 1 << 19


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
    measures: dict[str, int]
    """See `sftdata.pipeline.measures`."""
    mixed: dict[str, int] = {}
    """What is written of every source of a mixture: `0/records`, `0/examples`, `0/tokens`, `0/trained`."""


def unit_stem(index: int) -> str:
    """The beginning of every name that a unit writes: `unit-00003`."""
    return f"unit-{index:05d}"


def run_unit(plan: Plan, index: int, workshop: Workshop, work: Path, progress: Callable[[int], None]) -> UnitResult:
    """Do the work of unit `index` and write its files into `work`; the caller writes the commit record.

    `progress` is called with the number of records of every finished block.
    """
    run = _Writing(plan, plan.units[index], workshop, work)
    try:
        with fewer_collections():
            for block in blocks_of(plan, index, work):
                run.stages.take(block)
                progress(len(block))
        return run.finish()
    except BaseException:
        run.discard()
        raise


@contextlib.contextmanager
def fewer_collections() -> Iterator[None]:
    """Let the garbage collector look less often: a block makes hundreds of thousands of objects and no cycles."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def try_records(
    plan: Plan, index: int, workshop: Workshop, work: Path, *, first: int, touch: Callable[[int], None]
) -> dict[int, str]:
    """Take the block that holds record `first` one record at a time, for a unit on which a worker died.

    `touch` is called with the id of every record before anything is done with it. Returns the records that an
    exception came out of, and which; one that ends the process is the last that was touched. Writes nothing.
    """
    failed: dict[int, str] = {}
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        run = _Writing(plan, plan.units[index], workshop, Path(scratch))
        for block in blocks_of(plan, index, work):
            if block[-1].record_id < first:
                continue
            for raw in block:
                touch(raw.record_id)
                try:
                    run.stages.take([raw])
                except Exception as error:  # noqa: BLE001 - which record does it is the question
                    failed[raw.record_id] = type(error).__name__
            break
        run.discard()
    return failed


class _Writing:
    """One run of one unit: the stages with a sink that packs and writes."""

    def __init__(self, plan: Plan, unit: Unit, workshop: Workshop, work: Path) -> None:
        self.plan, self.unit, self.shop, self.work = plan, unit, workshop, work
        self.stages = Stages(plan, workshop, self)
        self.harvests: dict[str, list[Harvest]] = {split: [Harvest(unit.size)] for split in SPLITS}
        """By split and pass of the mixture: no bin holds a record twice."""
        stem = unit_stem(unit.index)
        self.rejected = RejectFile(work / f"{stem}-rejected.jsonl")
        self.partial = RejectFile(work / f"{stem}-partial.jsonl")

    def look(self, raw: RawRecord, conversation: Conversation) -> tuple[Finding, ...]:  # noqa: ARG002
        """Nothing more than the stages say."""
        return ()

    def reject(self, raw: RawRecord, findings: tuple[Finding, ...]) -> None:
        """One line of `rejected.jsonl`."""
        self.rejected.write(raw, self._source(raw), findings)

    def keep(self, raw: RawRecord, findings: tuple[Finding, ...], lost: tuple[Finding, ...]) -> None:  # noqa: ARG002
        """One line of `partial.jsonl` where examples are lost."""
        if lost:
            self.partial.write(raw, self._source(raw), lost)

    def end_block(self) -> None:
        """Write the block's lines."""
        self.rejected.end_block()
        self.partial.end_block()

    def gather(
        self, fitted: Fitted, records: Int64Array, flags: Int32Array, held_out: npt.NDArray[np.bool_], turn: int
    ) -> None:
        """Keep documents, by split and pass, until the unit is packed."""
        if turn == len(self.harvests["train"]):
            self.harvests["train"].append(Harvest(self.unit.size))
        if not held_out.any():
            self.harvests["train"][turn].add(fitted.input_ids, fitted.labels, fitted.lengths, records, flags)
            return
        for split, chosen in (("train", ~held_out), ("eval", held_out)):
            tokens = np.repeat(chosen, fitted.lengths)
            self.harvests[split][turn].add(
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
            # taken out, so that the tokens go with this call: stages and sink refer to each other, and a worker that
            # waits for the garbage collector to find out keeps those of many units
            harvests = self.harvests.pop(split)
            files[split], bins[split] = self._write(split, harvests)
            lengths = np.concatenate([harvest.lengths for harvest in harvests])
            powers, counts = np.unique(np.ceil(np.log2(np.maximum(lengths, 1))), return_counts=True)
            add_counts(histogram, {str(1 << int(p)): int(c) for p, c in zip(powers, counts, strict=True)})
        did = self.stages
        return UnitResult(
            index=self.unit.index,
            fingerprint=self.plan.fingerprint,
            ledger=did.ledger,
            rules=dict(sorted(did.rules.items())),
            files=files,
            sidecars=sidecars,
            stats=dict(sorted(did.stats.items())),
            formats=dict(sorted(did.formats.items())),
            unrolled=dict(sorted(did.unrolled.items())),
            breaks=did.breaks,
            lengths=histogram,
            largest_id=did.largest_id,
            bins=bins,
            measures=did.measures.counts(),
            mixed=did.mixed,
        )

    def _write(self, split: str, harvests: list[Harvest]) -> tuple[list[FileEntry], int]:
        config, number = self.plan.config, 0
        if not any(len(harvest.lengths) for harvest in harvests):
            return [], 0
        stem = f"{unit_stem(self.unit.index)}-{split}"
        metadata = {"fingerprint": self.plan.fingerprint, "split": split, "unit": str(self.unit.index)}
        with ShardWriter(lambda part: self.work / f"{stem}-{part:02d}.parquet", metadata=metadata) as writer:
            for harvest in harvests:
                bins = packing.pack(
                    harvest.lengths, config.max_length, config.packing, seed=(config.seed, self.unit.index)
                )
                number += len(bins.offsets) - 1
                for rows in harvest.rows(bins.order, bins.offsets, tokens=_TOKENS_AT_ONCE):
                    writer.write(rows)
        return writer.entries, number

    def _source(self, raw: RawRecord) -> str:
        return self.shop.names.get(raw.source, raw.source)
