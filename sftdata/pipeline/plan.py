"""Plan: from the inputs alone, cut the work into units that any worker can run, in any order, any number of times.

What lives here: the plan's types, reading the inputs once (counting, hashing, cutting), and the fingerprint. What must
not: running a unit, or anything that depends on how many workers there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sftdata.config import PrepareConfig
from sftdata.errors import InputError, describe
from sftdata.pipeline.mixture import Portion
from sftdata.records import RawRecord
from sftdata.sources import Chunk, Input, Scan, read, resolve, scan, state
from sftdata.version import VERSION

__all__ = [
    "Extent",
    "Plan",
    "PlannedInput",
    "Unit",
    "cut",
    "fingerprint",
    "read_extent",
    "read_inputs",
    "short_names",
    "unit_size",
    "versions",
]

FORMAT_VERSION = 1
_MIB = 1 << 20


class PlannedInput(msgspec.Struct, frozen=True):
    """One input, read once."""

    item: Input
    name: str
    """The shortest end of its address that tells it from the others; goes into the dataset, the address does not."""
    size: int
    sha256: str
    records: int
    findings: list[tuple[int, dict[str, str]]] = []
    """(line, finding) of the container as a whole."""
    state: str = ""
    """Size and etag (or time of change) while it was read, where units read it again; "" for what was decoded."""


class Extent(msgspec.Struct, frozen=True):
    """A stretch of one input, aligned to records."""

    input: int
    start: int
    stop: int
    first_line: int
    first_record: int
    records: int


class Unit(msgspec.Struct, frozen=True):
    """The work of one unit: its extents in order."""

    index: int
    first_record: int
    records: int
    size: int
    """Decoded bytes."""
    extents: list[Extent]
    dropped: bytes = b""
    """Which of its records the list of duplicates names, packed (`drop.bits_of`)."""

    @property
    def record_ids(self) -> range:
        """The ids of its records."""
        return range(self.first_record, self.first_record + self.records)


class Plan(msgspec.Struct, frozen=True):
    """Everything a worker needs to know; written to `OUT/.work/plan.json`."""

    format_version: int
    versions: dict[str, str]
    """Of every package whose change may change bytes."""
    fingerprint: str
    config: PrepareConfig
    clock: str
    tokenizer: dict[str, Any]
    template: dict[str, Any]
    inputs: list[PlannedInput]
    units: list[Unit]
    records: int
    poison: dict[int, str] = {}
    """Records that killed a worker, and how it died: rejected without being touched."""
    engine: str = ""
    """The tokenizer engine that the whole run uses."""
    drop: str = ""
    """sha256 of the ids in the list of duplicates; empty where none was given."""
    mixture: list[Portion] = []
    """The sources, where there are any, in the order of their records."""
    fell_back: bool = False
    """Whether the fast engine was found to differ on a text of this run, which was then begun again."""
    duplicates: int = 0
    """Records that the list of duplicates names."""

    @property
    def taken(self) -> int:
        """Records that anything is done with: neither duplicates nor left out of the mixture."""
        return self.records - self.duplicates - sum(one.left_out for one in self.mixture)


def unit_size(total: int) -> int:
    """The most decoded bytes a unit should have: clamp(total / 16, 32 MiB, 64 MiB).

    A unit's tokens wait in memory until it is packed: some 85 MiB of them for 64 MiB of text.
    `unit_size(10 MiB)` is 32 MiB, `unit_size(800 MiB)` 50 MiB, `unit_size(1 TiB)` 64 MiB.
    """
    return min(max(total // 16, 32 * _MIB), 64 * _MIB)


def read_inputs(
    addresses: Sequence[str],
    spool: Path,
    *,
    size: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[list[PlannedInput], list[Unit]]:
    """Count, hash and cut all inputs. `size` overrides `unit_size` (tests use it to get many units of little data);
    `advance` is called with the records of every input that was read.

    Raises InputError where nothing is found or an input cannot be read.
    """
    items = resolve(addresses)
    scans: list[Scan] = []
    states: list[str] = []
    for item in items:
        before = state(item, spool)
        scans.append(scan(item, spool))
        states.append(state(item, spool))
        advance(scans[-1].records)
        if states[-1] not in {"", before}:
            raise InputError(
                describe("it changed while it was read", where=item.address, fix="Run again when it is whole.")
            )
    names = short_names([item.address for item in items])
    planned = [
        PlannedInput(
            item,
            name,
            one.size,
            one.sha256,
            one.records,
            [(line, msgspec.to_builtins(finding)) for line, finding in one.findings],
            held,
        )
        for item, name, one, held in zip(items, names, scans, states, strict=True)
    ]
    if not any(one.records for one in planned):
        raise InputError(
            describe("SFT011: the inputs hold no records", where=", ".join(names[:5]), fix="Check paths and globs.")
        )
    total = sum(chunk.size for one in scans for chunk in one.chunks)
    return planned, cut(scans, size or unit_size(total))


def read_extent(inputs: Sequence[PlannedInput], extent: Extent, spool: Path) -> Iterator[list[RawRecord]]:
    """The records of an extent in lists of about 1 MiB; none of them is empty."""
    blocks = read(
        inputs[extent.input].item,
        extent.start,
        extent.stop,
        first_record=extent.first_record,
        first_line=extent.first_line,
        spool=spool,
    )
    return filter(None, blocks)


def cut(scans: Sequence[Scan], size: int) -> list[Unit]:
    """Group consecutive chunks of all inputs into equal units of about `size` bytes at most.

    There are two units or an even number, so that a pair of workers ends at one time: 162 MiB by 32 MiB are 6 units
    of 27 MiB, and not 5 of 32 and one of 2.
    """
    total = sum(chunk.size for one in scans for chunk in one.chunks)
    shares = -(-total // size)
    shares += shares % 2 if shares > 1 else 0
    units: list[Unit] = []
    extents: list[Extent] = []
    first_record = record = held = taken = 0
    share = 1
    for index, one in enumerate(scans):
        for chunk in one.chunks:
            _extend(extents, index, chunk, record)
            record += chunk.records
            held += chunk.size
            taken += chunk.size
            if taken * shares >= total * share:
                units.append(Unit(len(units), first_record, record - first_record, held, extents))
                extents, first_record, held = [], record, 0
                share = taken * shares // max(total, 1) + 1
    if extents:
        units.append(Unit(len(units), first_record, record - first_record, held, extents))
    return [unit for unit in units if unit.records] or units[:1]


def _extend(extents: list[Extent], index: int, chunk: Chunk, record: int) -> None:
    """Add `chunk` to the last extent if it goes on there, else begin a new one."""
    if extents and extents[-1].input == index and extents[-1].stop == chunk.start:
        last = extents[-1]
        extents[-1] = msgspec.structs.replace(last, stop=chunk.stop, records=last.records + chunk.records)
    else:
        extents.append(Extent(index, chunk.start, chunk.stop, chunk.first_line, record, chunk.records))


def short_names(addresses: Sequence[str]) -> list[str]:
    """The shortest ends of the addresses that are all different, so that no absolute path reaches a dataset.

    `short_names(["/a/x/train.jsonl", "/a/y/train.jsonl", "/a/z.csv"])` is
    `["x/train.jsonl", "y/train.jsonl", "z.csv"]`.
    """
    parts = [address.replace("\\", "/").rstrip("/").split("/") for address in addresses]
    depth = [1] * len(parts)
    while True:
        names = ["/".join(part[-count:]) for part, count in zip(parts, depth, strict=True)]
        clashes = {name for name in names if names.count(name) > 1}
        growable = [i for i, name in enumerate(names) if name in clashes and depth[i] < len(parts[i])]
        if not growable:
            return names
        for i in growable:
            depth[i] += 1


def fingerprint(parts: Any) -> str:
    """sha256 over canonical JSON of `parts`."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def versions() -> dict[str, str]:
    """Versions of everything whose change may change the bytes of a dataset."""
    from importlib.metadata import version

    names = ("pyarrow", "numpy", "jinja2", "tokenizers", "orjson")
    return {"sftdata": VERSION, **{name: version(name) for name in names}}
