"""Seal a run: all commit records there, files at their names, the manifest last.

    .work/unit-*.parquet ─rename─► train-00000-of-000NN.parquet ... ─► card, report ─► manifest.json

What lives here: the steps of sealing, each of which may be repeated after a crash. What must not: the work of a unit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import msgspec

from sftdata.errors import OutputError, describe
from sftdata.pipeline.folder import CARD, MANIFEST, PAGE, REPORT, Folder, Move, final_names
from sftdata.pipeline.ledger import Ledger, add_counts
from sftdata.pipeline.plan import FORMAT_VERSION, Plan
from sftdata.pipeline.serving import Serving
from sftdata.pipeline.shown import Rejects, run_page
from sftdata.pipeline.store import RESUME, WORK
from sftdata.pipeline.unit import SIDECARS, SPLITS, UnitResult, unit_stem
from sftdata.report.card import dataset_card
from sftdata.report.json import run_report
from sftdata.shards import Manifest, SidecarEntry, dump_manifest

__all__ = ["Outcome", "left_alone", "seal"]


class Outcome(msgspec.Struct):
    """What a run came to."""

    sealed: bool
    out: str
    report: dict[str, Any]
    """The content of `report.json`."""
    unchanged: bool = False
    """The folder already held this very dataset and was left alone."""


def seal(plan: Plan, folder: Folder, serving: Serving, results: Sequence[UnitResult]) -> Outcome:
    """Make a dataset of the units' verified results, in their order, or say why there is none.

    Raises OutputError where a unit is missing or the ledger does not close.
    """
    missing = [unit.index for unit in plan.units if unit.index not in {result.index for result in results}]
    if missing:
        raise OutputError(
            describe(
                f"{len(missing)} of {len(plan.units)} units are not done: {_ranges(missing)}",
                where=folder.address,
                fix=f"Run them: sftdata unit run {folder.address} --index {missing[0]}, or the same prepare command.",
            )
        )
    ledger = Ledger.total(result.ledger for result in results)
    if not ledger.closes() or ledger.read != plan.records:
        raise OutputError(
            describe(
                f"SFT014: the ledger does not close: {plan.records} records planned, {ledger.read} read, "
                f"{ledger.written} written, {ledger.rejected} rejected, {ledger.duplicate} duplicates, "
                f"{ledger.unsampled} unsampled",
                where=folder.address,
                fix="This is a defect of sftdata: please report it with the plan and the input.",
            )
        )
    rejects = Rejects()
    sidecars = {f"{name}.jsonl": _concatenate(results, folder, name, rejects) for name in SIDECARS}
    if not sidecars["partial.jsonl"].bytes:
        folder.store.remove("partial.jsonl")
        del sidecars["partial.jsonl"]
    reason = _refusal(plan, ledger)
    moves = [] if reason else final_names(results)
    facts = _facts(plan, results, serving, moves)
    facts["fixes"] = rejects.fixes()
    report = run_report(
        plan, facts, ledger, status="refused" if reason else "sealed", reason=reason, out=folder.address
    )
    if reason:
        folder.store.write(REPORT, _pretty(report))
        folder.store.write(PAGE, run_page(report, rejects, None, serving, folder.address))
        return Outcome(False, folder.address, report)
    _move(moves, folder)
    manifest = _manifest(plan, ledger, serving, facts, moves, sidecars)
    folder.store.write(CARD, dataset_card(manifest).encode())
    folder.store.write(REPORT, _pretty(report))
    folder.store.write(PAGE, run_page(report, rejects, manifest, serving, folder.address))
    folder.store.write(MANIFEST, dump_manifest(manifest))
    folder.store.remove(WORK)
    return Outcome(True, folder.address, report)


def left_alone(folder: Folder) -> Outcome:
    """The outcome where the folder holds the finished dataset already; what a killed run left beside it goes."""
    folder.store.remove(WORK)
    try:
        report = msgspec.json.decode(folder.store.read(REPORT) or b"{}", type=dict[str, Any])
    except msgspec.DecodeError:  # somebody wrote into it; the dataset is none the worse
        report = {}
    return Outcome(True, folder.address, report, unchanged=True)


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as a Slurm array takes them: `_ranges([0, 2, 3, 4])` is `"0,2-4"`."""
    all_of_them = set(numbers)
    begins = [one for one in numbers if one - 1 not in all_of_them]
    ends = [one for one in numbers if one + 1 not in all_of_them]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(begins, ends, strict=True))


def _refusal(plan: Plan, ledger: Ledger) -> str:
    """Why nothing may be sealed; empty where it may."""
    if not ledger.tokens_trained:
        return "no record is left to train"
    share = ledger.rejected / ledger.taken
    if share > plan.config.max_reject_rate:
        return (
            f"{ledger.rejected:,} of {ledger.taken:,} records ({share:.1%}) are rejected, more than "
            f"--max-reject-rate {plan.config.max_reject_rate:g} allows"
        )
    return ""


def _move(moves: Sequence[Move], folder: Folder) -> None:
    """Give shards their final names, unless an earlier try at sealing has done it."""
    here, there = folder.store.sizes(WORK), folder.store.sizes()
    for source, target, _, entry in moves:
        if source in here:
            folder.store.move(f"{WORK}/{source}", target)
        elif there.get(target) != entry.bytes:
            raise OutputError(
                describe("a finished shard is gone", where=f"{folder.address}/{WORK}/{source}", fix=RESUME)
            )


def _concatenate(results: Sequence[UnitResult], folder: Folder, name: str, rejects: Rejects) -> SidecarEntry:
    """Join the units' reject files, checked against their commit records; `rejects` sees the rejected records."""
    whole, size = hashlib.sha256(), 0
    temporary = folder.scratch / f".{name}.jsonl.tmp"
    with temporary.open("wb") as out:
        for result in results:
            part = f"{WORK}/{unit_stem(result.index)}-{name}.jsonl"
            data = folder.store.read(part)
            if data is None or hashlib.sha256(data).hexdigest() != result.sidecars[name].sha256:
                raise OutputError(describe("a unit's file changed", where=f"{folder.address}/{part}", fix=RESUME))
            if name == "rejected":
                rejects.look(data)
            out.write(data)
            whole.update(data)
            size += len(data)
        out.flush()
        os.fsync(out.fileno())
    folder.store.take(temporary, f"{name}.jsonl")
    return SidecarEntry(size, whole.hexdigest())


def _facts(plan: Plan, results: Sequence[UnitResult], serving: Serving, moves: Sequence[Move]) -> dict[str, Any]:
    """What the units found, added up."""
    facts: dict[str, Any] = {
        name: {} for name in ("rules", "stats", "formats", "unrolled", "breaks", "lengths", "bins", "measures", "mixed")
    }
    for result in results:
        for name, total in facts.items():
            add_counts(total, getattr(result, name))
    for one in plan.inputs:
        for _, finding in one.findings:
            add_counts(facts["rules"], {finding["code"]: 1})
    facts["largest_id"] = max(result.largest_id for result in results)
    facts["notes"] = [*serving.notes, *_engine_notes(plan)]
    facts["tokens"] = {split: sum(entry.tokens for _, _, one, entry in moves if one == split) for split in SPLITS}
    return facts


def _engine_notes(plan: Plan) -> list[str]:
    if not plan.fell_back:
        return []
    return [
        "SFT421: the fast tokenizer engine gave other ids for a text of this run; the reference did all of it again."
    ]


def _engine(plan: Plan, stats: dict[str, int]) -> dict[str, Any]:
    """What encoded, and how far it was held to the reference."""
    name, version = plan.versions["engine"].rsplit(" ", 1)
    sample = plan.config.engine_sample if plan.engine == "fast" else 0.0
    compared = stats.get("engine_compared", 0)
    return {"name": name, "version": version, "sample": sample, "compared": compared, "fell_back": plan.fell_back}


def _manifest(
    plan: Plan,
    ledger: Ledger,
    serving: Serving,
    facts: dict[str, Any],
    moves: Sequence[Move],
    sidecars: dict[str, SidecarEntry],
) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        fingerprint=plan.fingerprint,
        files={split: tuple(entry for _, _, one, entry in moves if one == split) for split in SPLITS},
        sidecars=sidecars,
        inputs=[
            {"address": one.name, "size": one.size, "sha256": one.sha256, "records": one.records} for one in plan.inputs
        ],
        tokenizer={
            **serving.tokenizer_entry(),
            "largest_id": facts["largest_id"],
            "engine": _engine(plan, facts["stats"]),
        },
        template=serving.template_entry(plan.config, plan.clock),
        config={**plan.config.content(), **({"poison": sorted(plan.poison)} if plan.poison else {})},
        ledger=ledger.as_manifest(),
    )


def _pretty(value: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2) + b"\n"
