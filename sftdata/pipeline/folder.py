"""The output folder: what state it is in, its plan, its commit records, and what may be removed.

    empty ─plan─► planned ─units─► planned ─seal─► sealed

What lives here: file names, and what of an earlier run may be trusted. What must not: running a unit, sealing.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from sftdata.errors import OutputError, describe
from sftdata.pipeline.plan import Plan
from sftdata.pipeline.store import WORK, open_store, write_durably
from sftdata.pipeline.unit import SPLITS, UnitResult, unit_stem
from sftdata.shards import FileEntry
from sftdata.sources.spool import spool_path

__all__ = ["CARD", "MANIFEST", "PAGE", "REPORT", "Folder", "Move", "final_names"]

MANIFEST = "manifest.json"
CARD = "README.md"
REPORT = "report.json"
PAGE = "report.html"
_PLAN = f"{WORK}/plan.json"
_OURS = ("manifest.json", "report.json", "report.html", "README.md", "rejected.jsonl", "partial.jsonl")
_SHARDS = tuple(f"{split}-*-of-*.parquet" for split in SPLITS)

_ABANDONED = 3600.0
"""Seconds after which a temporary file belongs to nobody: many times what a unit takes."""

Move = tuple[str, str, str, FileEntry]
"""(name in the work folder, final name, split, entry under its final name)."""


class Folder:
    """One output, on a disk or in a remote store."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self.store = open_store(address)
        self.address = self.store.address

    @property
    def scratch(self) -> Path:
        """Where units write on this machine, and inputs are decoded."""
        return self.store.scratch

    def state(self) -> str:
        """`empty`, `planned` (a run can be resumed), `sealed` or `foreign` (somebody else's files)."""
        names = set(self.store.sizes())
        if MANIFEST in names:
            return "sealed"
        if self.store.read(_PLAN) is not None:
            return "planned"
        # a run that was refused, or killed while it planned, leaves only its report and the work folder
        return "empty" if names <= {WORK, *_OURS} else "foreign"

    def clear(self) -> None:
        """Remove what runs write, and nothing else; the manifest first, so that no half of a dataset looks whole."""
        for name in (*_OURS, WORK):
            self.store.remove(name)
        for name in self.store.sizes():
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in _SHARDS):
                self.store.remove(name)
        self.scratch.mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        """Remove what killed runs left under temporary names; what is younger may be of a unit on another machine."""
        for path in self.scratch.glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()

    @contextlib.contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Hold the folder for this run; a second run is refused, unless both are `shared`: they run units."""
        with self.store.lock(shared=shared):
            yield

    # the plan

    def write_plan(self, plan: Plan) -> None:
        """Make `plan` the plan of this folder."""
        self.store.write(_PLAN, msgspec.json.encode(plan))

    def read_plan(self) -> Plan:
        """The plan, with the records that have killed a worker since; raises OutputError where there is none."""
        data = self.store.read(_PLAN)
        if data is None:
            raise OutputError(describe("there is no plan", where=self.address, fix="Make one: sftdata unit plan."))
        try:
            plan = msgspec.json.decode(data, type=Plan)
        except msgspec.DecodeError as error:
            raise OutputError(
                describe("the plan of the unfinished run cannot be read", where=self.address, fix="Use --fresh.")
            ) from error
        return self.with_poison(plan)

    def with_poison(self, plan: Plan) -> Plan:
        """`plan` with all records that have killed a worker until now."""
        poison: dict[int, str] = {}
        for name in sorted(self.store.sizes(WORK)):
            if fnmatch.fnmatchcase(name, "unit-*-poison.json"):
                poison |= msgspec.json.decode(self.store.read(f"{WORK}/{name}") or b"{}", type=dict[int, str])
        return msgspec.structs.replace(plan, poison=poison)

    def add_poison(self, plan: Plan, index: int, found: dict[int, str]) -> Plan:
        """`plan` with more records of unit `index` that kill a worker, durably.

        A file a unit and not the plan itself, because the units of one plan may run on many machines at once.
        """
        poison = {**plan.poison, **found}
        mine = {one: why for one, why in poison.items() if one in plan.units[index].record_ids}
        self.store.write(f"{WORK}/{unit_stem(index)}-poison.json", msgspec.json.encode(mine))
        return msgspec.structs.replace(plan, poison=poison)

    # units

    @contextlib.contextmanager
    def begun(self, index: int) -> Iterator[None]:
        """A unit runs in this process: where nobody comes to say that it ended, it was the end of the process."""
        self._mark(index).touch()
        try:
            yield
        finally:
            self._mark(index).unlink(missing_ok=True)

    def was_begun(self, index: int) -> bool:
        """Whether a process of this machine ended while it ran this unit."""
        return self._mark(index).exists()

    def _mark(self, index: int) -> Path:
        return self.scratch / f"{unit_stem(index)}.begun"

    def commit(self, result: UnitResult) -> None:
        """Put the files of a unit into the work folder, then, last, its commit record."""
        for name in _unit_files(result):
            self.store.take(self.scratch / name, f"{WORK}/{name}")
        record = msgspec.json.encode(result, order="deterministic")
        self.store.write(f"{WORK}/{unit_stem(result.index)}.json", record)

    def is_committed(self, plan: Plan, index: int) -> bool:
        """Whether one unit is done, as `committed` sees it before anything is sealed."""
        result = self._read_commit(plan, index)
        if result is None:
            return False
        here = {f"{WORK}/{name}": size for name, size in self.store.sizes(WORK).items()}
        return self._has_files(result, here, {})

    def committed(self, plan: Plan) -> dict[int, UnitResult]:
        """The commit records of `plan` whose files are all there, of the right size and content, by unit.

        A run that was killed while it sealed has moved some files to their final names; they count as well.
        """
        results = self.results(plan)
        moves = final_names(results) if len(results) == len(plan.units) else []
        final = {source: target for source, target, _, _ in moves}
        here = {f"{WORK}/{name}": size for name, size in self.store.sizes(WORK).items()} | self.store.sizes()
        return {result.index: result for result in results if self._has_files(result, here, final)}

    def results(self, plan: Plan) -> list[UnitResult]:
        """The commit records of `plan` as they are written, in the order of the units."""
        found = (self._read_commit(plan, unit.index) for unit in plan.units)
        return [result for result in found if result is not None]

    def _read_commit(self, plan: Plan, index: int) -> UnitResult | None:
        data = self.store.read(f"{WORK}/{unit_stem(index)}.json")
        try:
            result = None if data is None else msgspec.json.decode(data, type=UnitResult)
        except msgspec.DecodeError:
            return None
        return result if result is not None and result.fingerprint == plan.fingerprint else None

    def _has_files(self, result: UnitResult, here: dict[str, int], final: dict[str, str]) -> bool:
        for name, (size, sha256) in _unit_files(result).items():
            places = (f"{WORK}/{name}", final.get(name, ""))
            if not any(here.get(place) == size and self.store.sha256(place) in (sha256, None) for place in places):
                return False
        return True

    # inputs that were decoded

    def decoded(self) -> int:
        """Bytes of inputs that were decoded on this machine because they cannot be entered in the middle."""
        return sum(path.stat().st_size for path in self.scratch.glob("input-*"))

    def share_spool(self) -> None:
        """Put decoded inputs where other machines find them; on a disk that machines share they lie there already."""
        for path in sorted(self.scratch.glob("input-*")):
            self.store.take(path, f"{WORK}/{path.name}")

    def fetch_spool(self, plan: Plan, index: int) -> None:
        """Get the decoded inputs that unit `index` needs, where another machine made them."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        for extent in plan.units[index].extents:
            pattern = spool_path(self.scratch, plan.inputs[extent.input].item, "*").name
            if any(self.scratch.glob(pattern)):
                continue
            for name in self.store.sizes(WORK):
                if fnmatch.fnmatchcase(name, pattern):
                    data = self.store.read(f"{WORK}/{name}")
                    if data is not None:
                        write_durably(self.scratch / name, data)


def _unit_files(result: UnitResult) -> dict[str, tuple[int, str]]:
    """Size and sha256 of every file of a unit, by its name in the work folder."""
    shards = {entry.name: (entry.bytes, entry.sha256) for split in SPLITS for entry in result.files[split]}
    stem = unit_stem(result.index)
    sidecars = {f"{stem}-{name}.jsonl": (entry.bytes, entry.sha256) for name, entry in result.sidecars.items()}
    return shards | sidecars


def final_names(results: Sequence[UnitResult]) -> list[Move]:
    """Shards in the order of their units: `train-00000-of-00007.parquet`."""
    moves: list[Move] = []
    for split in SPLITS:
        entries = [entry for result in results for entry in result.files[split]]
        for place, entry in enumerate(entries):
            name = f"{split}-{place:05d}-of-{len(entries):05d}.parquet"
            moves.append((entry.name, name, split, msgspec.structs.replace(entry, name=name)))
    return moves
