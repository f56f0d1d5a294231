"""What a unit has gathered: tokens of one split, and the lines of rejected records.

What lives here: growing arrays without Python objects per token, and the form of a reject line. What must not: stages.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from sftdata.records import IGNORE_INDEX, Finding, Int32Array, Int64Array, RawRecord
from sftdata.rules import RULES
from sftdata.shards import Rows, SidecarEntry

__all__ = ["Harvest", "RejectFile", "first_error", "is_error"]


class Harvest:
    """The documents of one split of one unit; 5 bytes a token until they are written."""

    def __init__(self, expected: int) -> None:
        """`expected`: more tokens than are likely to come. Room for them is asked for at once and costs nothing until
        it is written to; so tokens lie in one piece, and never twice."""
        self._expected = expected
        self._count = 0
        self._ids: Int32Array = np.empty(0, np.int32)
        self._trained: npt.NDArray[np.bool_] = np.empty(0, bool)
        self._lengths: list[Int32Array] = []
        self._records: list[Int64Array] = []
        self._flags: list[Int32Array] = []

    def add(
        self, ids: Int32Array, labels: Int32Array, lengths: Int32Array, records: Int64Array, flags: Int32Array
    ) -> None:
        """Append D documents of T tokens: int32 `[T]`, int32 `[T]`, int32 `[D]`, int64 `[D]`, int32 `[D]`."""
        here = slice(self._count, self._count + len(ids))
        if here.stop > len(self._ids):
            self._grow(here.stop)
        self._ids[here] = ids
        np.not_equal(labels, IGNORE_INDEX, out=self._trained[here])
        self._count = here.stop
        self._lengths.append(lengths)
        self._records.append(records)
        self._flags.append(flags)

    def _grow(self, least: int) -> None:
        size = max(least, self._expected, 2 * len(self._ids))
        ids, trained = np.empty(size, np.int32), np.empty(size, bool)
        ids[: self._count], trained[: self._count] = self._ids[: self._count], self._trained[: self._count]
        self._ids, self._trained = ids, trained

    @property
    def lengths(self) -> Int32Array:
        """int32 `[D]` of all documents so far."""
        return np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int32)

    def rows(self, order: Int64Array, offsets: Int64Array, *, tokens: int) -> Iterable[Rows]:
        """The documents in bin order, as rows of bins, about `tokens` tokens at a time."""
        if not len(order):
            return
        ids, trained = self._ids, self._trained
        lengths, records, flags = self.lengths, np.concatenate(self._records), np.concatenate(self._flags)
        begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
        bin_tokens = np.add.reduceat(lengths[order], offsets[:-1], dtype=np.int64)
        first = 0
        while first < len(bin_tokens):
            fits = int(np.searchsorted(np.cumsum(bin_tokens[first:]), tokens, side="right"))
            last = min(len(bin_tokens), first + max(fits, 1))
            members = order[offsets[first] : offsets[last]]
            places = _gather(begins[members], lengths[members])
            taken = ids[places]
            yield Rows(
                input_ids=taken,
                labels=np.where(trained[places], taken, np.int32(IGNORE_INDEX)),
                seq_lengths=lengths[members],
                record_ids=records[members],
                doc_flags=flags[members],
                bins=offsets[first : last + 1] - offsets[first],
            )
            first = last


def _gather(begins: Int64Array, lengths: Int32Array) -> Int64Array:
    """Indices of the tokens of several documents: begins `[5, 0]`, lengths `[2, 3]` give `[5, 6, 0, 1, 2]`."""
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    places: Int64Array = np.arange(total, dtype=np.int64) + np.repeat(begins - (ends - lengths), lengths)
    return places


def is_error(finding: Finding) -> bool:
    """Whether the rule of this finding keeps what it was found in from being written."""
    return RULES[finding.code].severity == "error"


def first_error(findings: Iterable[Finding]) -> Finding:
    """The finding that the ledger counts a rejection under."""
    return next(finding for finding in findings if is_error(finding))


class RejectFile:
    """Rejected records, one JSON line each, whole: nothing that was read is lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        self._file = self._temporary.open("wb")
        self._block: list[tuple[int, bytes]] = []
        self._size, self._digest = 0, hashlib.sha256()

    def write(self, raw: RawRecord, source: str, findings: Sequence[Finding]) -> None:
        """Add one line; keys sorted, so that the same records give the same bytes."""
        self._block.append((raw.record_id, reject_line(raw, source, findings) + b"\n"))

    def end_block(self) -> None:
        """Write the block's lines by record id, whichever stage refused them."""
        for _, line in sorted(self._block, key=lambda pair: pair[0]):
            self._file.write(line)
            self._digest.update(line)
            self._size += len(line)
        self._block.clear()

    def close(self) -> SidecarEntry:
        """Flush to disk and give the file its name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._path)
        return SidecarEntry(self._size, self._digest.hexdigest())

    def discard(self) -> None:
        """Close and remove what was not finished."""
        with contextlib.suppress(OSError):  # a full disk fails here too; the error that led here is the one to be seen
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def reject_line(raw: RawRecord, source: str, findings: Sequence[Finding]) -> bytes:
    """One line of `rejected.jsonl`: id, place, every finding with its fix, and the record as it was read."""
    line: dict[str, Any] = {
        "record_id": raw.record_id,
        "source": source,
        "line": raw.line,
        "findings": [
            {
                "code": finding.code,
                "name": RULES[finding.code].name,
                "severity": RULES[finding.code].severity,
                "message": finding.message,
                "pointer": finding.pointer,
                "fix": finding.fix or RULES[finding.code].remedy,
            }
            for finding in findings
        ],
    }
    if raw.raw is not None:
        try:
            line["raw"] = raw.raw.decode()
        except UnicodeDecodeError:
            line["raw_base64"] = base64.b64encode(raw.raw).decode()
    else:
        line["record"] = raw.value
    try:
        return orjson.dumps(line, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # integers beyond 64 bits, lone surrogates in a spare key
        return json.dumps(line, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
