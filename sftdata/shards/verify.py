"""Is a sealed dataset sound? Every invariant derived anew, from its files alone.

What lives here: walking the files and the ledger. What must not: anything of the writer's. Memory is one row group
and some bits a record. A check that could not be made is a problem of its own: nothing passes unseen.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sftdata.shards.decode import (
    Fault,
    as_rows,
    decode_group,
    footer_problems,
    label_problems,
    parse_footer,
    shape_problems,
)
from sftdata.shards.faults import DamageError, Problem
from sftdata.shards.laws import RecordBook, row_problems
from sftdata.shards.layout import HEADER, MANIFEST, PARTIAL, REJECTED
from sftdata.shards.manifest import FileEntry, Ledger, Manifest, SidecarEntry, manifest_of
from sftdata.shards.rows import Rows
from sftdata.shards.store import Store, open_store

__all__ = ["Verification", "verify"]

_CHUNK = 1 << 20


class Verification(msgspec.Struct, frozen=True):
    """What was found."""

    problems: list[Problem]
    """Everything that is wrong, in the order of the files; at most one of a kind for each row group."""
    checked: dict[str, int]
    """How much was looked at: `files`, `rows`, `documents`, `tokens`, `records`, ..."""

    @property
    def sound(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


def verify(path: str | os.PathLike[str]) -> Verification:
    """Check the sealed dataset at `path`, a folder or an fsspec address, from its files alone.

    Manifest, hashes and sizes of all files, every row, and that the ledger closes and is the ledger of these rows.
    Damage of any kind is a problem in the result and never an exception. About 20 M tokens a second.
    """
    store = open_store(path)
    try:
        manifest = manifest_of(store)
    except DamageError as error:
        return Verification([error.problem], {})
    except OSError as error:
        return Verification([Problem("SFT807", MANIFEST, "", f"it cannot be read: {error}")], {})
    audit = _Audit(store, manifest)
    return Verification(list(audit.problems()), dict(audit.checked))


class _Audit:
    """One pass over a dataset; what it has counted is compared with the ledger at the end."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store = store
        self._manifest = manifest
        self._facts = manifest.facts
        self._book = RecordBook(sum(one.records for one in self._facts.inputs))
        self._complete = True  # every row was decoded, so that totals mean something
        self._largest_id = -1
        self.checked: Counter[str] = Counter()

    def problems(self) -> Iterator[Problem]:
        """Everything that is wrong."""
        yield from self._template()
        yield from self._foreign_files()
        yield from self._rejects(REJECTED)
        for split, files in self._manifest.files.items():
            for file in files:
                yield from self._file(split, file)
        yield from self._rejects(PARTIAL)
        yield from self._ledger(self._facts.ledger)
        if not self.checked["rows"]:
            yield Problem("SFT810", MANIFEST, "", "the dataset holds no row that could be read")

    def _template(self) -> Iterator[Problem]:
        template = self._facts.template
        hashes = {
            name: hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
            for name, source in template.sources.items()
        }
        if hashes != template.sha256:
            yield Problem("SFT803", MANIFEST, "template", "the sha256 of its sources are not those that it names")

    def _foreign_files(self) -> Iterator[Problem]:
        """Shards that the manifest does not name: a glob would train on them."""
        own = {file.name for files in self._manifest.files.values() for file in files} | set(self._manifest.sidecars)
        for name in self._store.names():
            looks_ours = name.endswith(".parquet") and not name.startswith(".")
            if (looks_ours or name in (REJECTED, PARTIAL)) and name not in own:
                yield Problem("SFT811", name, "", "the manifest does not name it")

    def _file(self, split: str, file: FileEntry) -> Iterator[Problem]:
        """One shard, read once from its first byte to its last."""

        def fault(code: str, place: str, message: str) -> Problem:
            return Problem(code, file.name, place, message)

        before = self.checked["rows"]
        try:
            yield from self._file_bytes(split, file, fault)
        except OSError as error:
            yield fault("SFT806", "", f"it cannot be read: {error}")
        self._complete &= self.checked["rows"] - before == file.rows
        self.checked["files"] += 1

    def _file_bytes(self, split: str, file: FileEntry, fault: Fault) -> Iterator[Problem]:
        size = self._store.size(file.name)
        if size is None:
            yield fault("SFT806", "", "the file is missing")
            return
        if size != file.bytes:
            yield fault("SFT802", "", f"it has {size} bytes, and {file.bytes} were sealed")
            return
        tail = self._store.read(file.name, file.bytes - file.footer_bytes, file.bytes)
        footer, wrong = self._footer(file, tail, fault)
        yield from wrong
        damaged = bool(wrong)
        whole = hashlib.sha256(self._store.read(file.name, 0, len(HEADER)))
        for index, group in enumerate(file.row_groups):
            data = self._store.read(file.name, group.offset, group.offset + group.bytes)
            whole.update(data)
            if len(data) != group.bytes or zlib.crc32(data) != group.crc32:
                damaged = True
                yield fault("SFT802", f"row group {index}", "its bytes are not those that were sealed")
            elif footer is not None:
                yield from self._group(split, file, index, footer, data)
        whole.update(tail)
        if whole.hexdigest() != file.sha256 and not damaged:
            yield fault("SFT802", "", "its sha256 is not the one that was sealed")

    def _footer(self, file: FileEntry, tail: bytes, fault: Fault) -> tuple[pq.FileMetaData | None, list[Problem]]:
        """The footer where row groups can be decoded by it, and what is wrong with it."""
        if hashlib.sha256(tail).hexdigest() != file.footer_sha256:
            return None, [fault("SFT802", "footer", "its bytes are not those that were sealed")]
        try:
            footer = parse_footer(tail)
        except MemoryError:  # no damage
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            return None, [fault("SFT801", "footer", f"it cannot be decoded: {error}")]
        wrong = list(footer_problems(footer, file, self._manifest.fingerprint, fault))
        usable = not any(one.code in ("SFT801", "SFT803") for one in wrong)
        return footer if usable else None, wrong

    def _group(
        self, split: str, file: FileEntry, index: int, footer: pq.FileMetaData, data: bytes
    ) -> Iterator[Problem]:
        """One row group whose bytes are right: are its rows?"""

        def fault(code: str, place: str, message: str) -> Problem:
            here = f"row group {index}"
            return Problem(code, file.name, f"{here}, {place}" if place else here, message)

        group = file.row_groups[index]
        try:
            columns = decode_group(footer, index, group, data)
        except MemoryError:  # no damage
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            yield fault("SFT801", "", f"it cannot be decoded: {error}")
            return
        wrong = next(shape_problems(columns, group, fault), None)
        if wrong is not None:
            yield wrong
            return
        rows = as_rows(columns)
        yield from label_problems(rows, columns.values["num_loss_tokens"], group, fault)
        yield from row_problems(rows, self._facts, fault)
        yield from self._book.enter(split, rows.record_ids, rows.doc_flags, fault)
        self._count(rows)

    def _count(self, rows: Rows) -> None:
        self.checked["rows"] += len(rows)
        self.checked["documents"] += len(rows.seq_lengths)
        self.checked["tokens"] += len(rows.input_ids)
        self.checked["trained tokens"] += int(rows.num_loss_tokens.sum())
        self._largest_id = max(self._largest_id, int(rows.input_ids.max()))

    def _rejects(self, name: str) -> Iterator[Problem]:
        """A reject file: its hash, and line by line whom it names. `rejected` before the rows, `partial` after."""
        entry = self._manifest.sidecars.get(name)
        if entry is None:
            if name == REJECTED and self._facts.ledger.records.rejected:
                yield Problem("SFT807", MANIFEST, "sidecars", f"records were rejected, and it does not name {name}")
            return
        size = self._store.size(name)
        if size is None:
            yield Problem("SFT806", name, "", "the file is missing")
            return
        lines = _Lines(self._store, name, size)
        codes: Counter[str] = Counter()
        try:
            for number, line in enumerate(lines, 1):
                wrong = self._reject_line(name, line, codes)
                if wrong:
                    yield Problem("SFT808", name, f"line {number}", wrong)
        except OSError as error:
            yield Problem("SFT806", name, "", f"it cannot be read: {error}")
            return
        if SidecarEntry(bytes=size, sha256=lines.digest.hexdigest()) != entry:
            yield Problem("SFT802", name, "", "its bytes are not those that were sealed")
        if name == REJECTED and dict(codes) != self._facts.ledger.rejections:
            message = f"by first error its lines are {dict(codes)}, and in the ledger {self._facts.ledger.rejections}"
            yield Problem("SFT808", name, "", message)
        self.checked[f"{name.removesuffix('.jsonl')} records"] += codes.total()

    def _reject_line(self, name: str, line: bytes, codes: Counter[str]) -> str:
        """What is wrong with a line of a reject file, and enter it; empty where nothing is."""
        try:
            # Not msgspec's decoder: records may hold lone surrogates, which it refuses even where it skips them.
            reject = msgspec.convert(json.loads(line), _Reject)
        except (ValueError, RecursionError, msgspec.ValidationError) as error:
            return f"not a reject: {error}"
        code = next((finding.code for finding in reject.findings if finding.severity == "error"), None)
        if code is None:
            return "none of its findings is an error"
        codes[code] += 1
        record = np.array([reject.record_id], np.int64)
        if not self._book.known(record)[0]:
            return f"record {reject.record_id} is not one of the inputs"
        if name == PARTIAL:
            lost = self._complete and not self._book.is_written(record)[0]
            return f"record {reject.record_id} is not written at all" if lost else ""
        if self._book.rejected.holds(record)[0]:
            return f"record {reject.record_id} is rejected twice"
        self._book.rejected.add(record)
        return ""

    def _ledger(self, ledger: Ledger) -> Iterator[Problem]:
        """It closes, and, where all rows could be read, it is the ledger of these rows."""
        records, tokens = ledger.records, ledger.tokens
        sums = [
            ("records read", records.read, "written, rejected, duplicate and unsampled", _sum(records)),
            ("records read", records.read, "records of the inputs", self._book.records),
            ("tokens rendered", tokens.rendered, "written and dropped", tokens.written + tokens.dropped),
            ("records rejected", records.rejected, "rejections by code", sum(ledger.rejections.values())),
        ]
        if self._complete:
            sums += [
                ("records written", records.written, "records in rows", self._book.num_written),
                ("examples written", ledger.examples.written, "documents in rows", self.checked["documents"]),
                ("tokens written", tokens.written, "tokens in rows", self.checked["tokens"]),
                ("tokens trained", tokens.trained, "trained labels in rows", self.checked["trained tokens"]),
                ("largest id", self._facts.tokenizer.largest_id, "largest id in rows", self._largest_id),
            ]
        for name, stated, other, found in sums:
            if stated != found:
                yield Problem("SFT808", MANIFEST, "ledger", f"{name}: {stated}, and {other}: {found}")
        self.checked["records"] = records.read


def _sum(records: msgspec.Struct) -> int:
    """What the parts of `read` add up to."""
    return sum(getattr(records, name) for name in ("written", "rejected", "duplicate", "unsampled"))


class _Finding(msgspec.Struct):
    code: str
    severity: str


class _Reject(msgspec.Struct):
    """What the verifier reads of a line of a reject file."""

    record_id: int
    findings: list[_Finding]


class _Lines:
    """The lines of a file of `size` bytes, hashed as they are read."""

    def __init__(self, store: Store, name: str, size: int) -> None:
        self._store = store
        self._name = name
        self._size = size
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        rest: list[bytes] = []
        for start in range(0, self._size, _CHUNK):
            chunk = self._store.read(self._name, start, min(start + _CHUNK, self._size))
            self.digest.update(chunk)
            *lines, tail = chunk.split(b"\n")
            for line in lines:
                yield b"".join([*rest, line])
                rest = []
            rest.append(tail)
        if any(rest):
            yield b"".join(rest)
