"""Commit units, and seal a run: all commit records there, files at their names, the manifest last.

    .work/unit-*.parquet ─rename─► train-00000-of-000NN.parquet ... ─► card, report ─► manifest.json

What lives here: commit records and the steps of sealing, each of which may be repeated after a crash. What must not:
the work of a unit.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from sftdata.errors import OutputError, describe
from sftdata.pipeline.folder import CARD, Folder, sync_folder, write_durably
from sftdata.pipeline.ledger import Ledger, add_counts
from sftdata.pipeline.plan import FORMAT_VERSION, Plan
from sftdata.pipeline.serving import Serving
from sftdata.pipeline.unit import SPLITS, UnitResult, unit_stem
from sftdata.report.card import dataset_card
from sftdata.report.json import run_report
from sftdata.shards import FileEntry, Manifest, SidecarEntry, dump_manifest

__all__ = ["Outcome", "commit", "read_commit", "seal"]


class Outcome(msgspec.Struct):
    """What a run came to."""

    sealed: bool
    out: str
    report: dict[str, Any]
    """The content of `report.json`."""
    unchanged: bool = False
    """The folder already held this very dataset and was left alone."""


def commit(work: Path, result: UnitResult) -> None:
    """Write the commit record of a unit; its files are there and durable."""
    sync_folder(work)
    write_durably(work / f"{unit_stem(result.index)}.json", msgspec.json.encode(result, order="deterministic"))


def read_commit(work: Path, plan: Plan, index: int) -> UnitResult | None:
    """The commit record of unit `index`; None where there is none of this plan, or a file of it is gone."""
    path = work / f"{unit_stem(index)}.json"
    try:
        result = msgspec.json.decode(path.read_bytes(), type=UnitResult)
    except (OSError, msgspec.DecodeError):
        return None
    return result if result.fingerprint == plan.fingerprint else None


def seal(plan: Plan, folder: Folder, serving: Serving) -> Outcome:
    """Make a dataset of the finished units, or say why there is none."""
    results = []
    for unit in plan.units:
        result = read_commit(folder.work, plan, unit.index)
        if result is None:
            raise OutputError(describe(f"unit {unit.index} is not done", where=str(folder.path), fix="Run it again."))
        results.append(result)
    ledger = Ledger.total(result.ledger for result in results)
    if not ledger.closes() or ledger.read != plan.records:
        raise OutputError(
            describe(
                f"SFT014: the ledger does not close: {plan.records} records planned, {ledger.read} read, "
                f"{ledger.written} written, {ledger.rejected} rejected",
                where=str(folder.path),
                fix="This is a defect of sftdata: please report it with the plan and the input.",
            )
        )
    sidecars = {f"{name}.jsonl": _concatenate(results, folder, name) for name in ("rejected", "partial")}
    if not sidecars["partial.jsonl"].bytes:
        (folder.path / "partial.jsonl").unlink()
        del sidecars["partial.jsonl"]
    reason = _refusal(plan, ledger)
    moves = [] if reason else _final_names(results)
    facts = _facts(plan, results, serving, moves)
    report = run_report(plan, facts, ledger, status="refused" if reason else "sealed", reason=reason, out=folder.path)
    if reason:
        write_durably(folder.path / "report.json", _pretty(report))
        return Outcome(False, str(folder.path), report)
    for source, target, _, _ in moves:
        _move(folder.work / source, folder.path / target)
    sync_folder(folder.path)
    manifest = _manifest(plan, ledger, serving, facts, moves, sidecars)
    write_durably(folder.path / CARD, dataset_card(manifest).encode())
    write_durably(folder.path / "report.json", _pretty(report))
    write_durably(folder.manifest, dump_manifest(manifest))
    shutil.rmtree(folder.work, ignore_errors=True)
    return Outcome(True, str(folder.path), report)


def _refusal(plan: Plan, ledger: Ledger) -> str:
    """Why nothing may be sealed; empty where it may."""
    if not ledger.tokens_trained:
        return "no record is left to train"
    share = ledger.rejected / ledger.read
    if share > plan.config.max_reject_rate:
        return (
            f"{ledger.rejected:,} of {ledger.read:,} records ({share:.1%}) are rejected, more than "
            f"--max-reject-rate {plan.config.max_reject_rate:g} allows"
        )
    return ""


Move = tuple[str, str, str, FileEntry]
"""(name in .work, final name, split, entry under its final name)."""


def _final_names(results: Sequence[UnitResult]) -> list[Move]:
    """Shards in the order of their units: `train-00000-of-00007.parquet`."""
    moves: list[Move] = []
    for split in SPLITS:
        entries = [entry for result in results for entry in result.files[split]]
        for place, entry in enumerate(entries):
            name = f"{split}-{place:05d}-of-{len(entries):05d}.parquet"
            moves.append((entry.name, name, split, msgspec.structs.replace(entry, name=name)))
    return moves


def _move(source: Path, target: Path) -> None:
    """Rename, unless an earlier try at sealing has done it."""
    if source.exists():
        source.replace(target)
    elif not target.exists():
        raise OutputError(describe("a finished shard is gone", where=str(source), fix="Start over with --fresh."))


def _concatenate(results: Sequence[UnitResult], folder: Folder, name: str) -> SidecarEntry:
    """Join the units' reject files, checked against their commit records."""
    target = folder.path / f"{name}.jsonl"
    temporary = folder.work / f"{name}.jsonl"
    whole, size = hashlib.sha256(), 0
    with temporary.open("wb") as out:
        for result in results:
            data = (folder.work / f"{unit_stem(result.index)}-{name}.jsonl").read_bytes()
            if hashlib.sha256(data).hexdigest() != result.sha256[name]:
                raise OutputError(
                    describe(
                        f"the {name} records of unit {result.index} changed on disk",
                        where=str(folder.work),
                        fix="Start over with --fresh.",
                    )
                )
            out.write(data)
            whole.update(data)
            size += len(data)
    temporary.replace(target)
    return SidecarEntry(size, whole.hexdigest())


def _facts(plan: Plan, results: Sequence[UnitResult], serving: Serving, moves: Sequence[Move]) -> dict[str, Any]:
    """What the units found, added up."""
    facts: dict[str, Any] = {
        name: {} for name in ("rules", "stats", "formats", "unrolled", "breaks", "lengths", "bins")
    }
    for result in results:
        for name, total in facts.items():
            add_counts(total, getattr(result, name))
    for one in plan.inputs:
        for _, finding in one.findings:
            add_counts(facts["rules"], {finding["code"]: 1})
    facts["largest_id"] = max(result.largest_id for result in results)
    facts["notes"] = serving.notes
    facts["tokens"] = {split: sum(entry.tokens for _, _, one, entry in moves if one == split) for split in SPLITS}
    return facts


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
        tokenizer={**serving.tokenizer_entry(), "largest_id": facts["largest_id"]},
        template=serving.template_entry(plan.config, plan.clock),
        config=plan.config.content(),
        ledger=ledger.as_manifest(),
    )


def _pretty(value: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2) + b"\n"
