"""The spool: what cannot be entered in the middle, decoded once into a file that can.

An Arrow file `input-00003.arrow` of batches of about 1 MiB: `line` (int64), `raw` (the record's JSON text, or the bytes
that could not be read), `code` and `message` (a finding of the source, null for almost every record). What lives here:
writing and reading it. What must not: how records were found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from sftdata.errors import InputError, describe
from sftdata.records import Finding, RawRecord
from sftdata.sources.items import BLOCK, MAX_CHUNKS, Chunk, Input, halved
from sftdata.sources.making import to_records

__all__ = ["SpoolWriter", "Spooled", "read", "spool_path"]

Spooled = tuple[Sequence[int], list[bytes], Finding | None]
"""Records on their way into the spool: their lines, their JSON texts (or bytes), and what the source found in each."""

_SCHEMA = pa.schema([("line", pa.int64()), ("raw", pa.large_binary()), ("code", pa.string()), ("message", pa.string())])


def spool_path(folder: Path, item: Input, suffix: str = "arrow") -> Path:
    """Where an input's spool lies: `spool_path(work, third)` is `work/input-00003.arrow`."""
    return folder / f"input-{item.index:05d}.{suffix}"


class SpoolWriter:
    """Batches records into a spool file and remembers where they can be cut."""

    def __init__(self, path: Path) -> None:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_file(str(path), _SCHEMA, options=options)
        self.chunks: list[Chunk] = []
        self._batches = 0
        self._lines: list[int] = []
        self._raw: list[bytes] = []
        self._findings: dict[int, Finding] = {}
        self._held = 0

    def add(self, spooled: Spooled) -> None:
        """Add records, all with the same finding or none."""
        lines, raw, finding = spooled
        if finding is not None:
            self._findings.update(dict.fromkeys(range(len(self._raw), len(self._raw) + len(raw)), finding))
        self._lines += lines
        self._raw += raw
        self._held += sum(map(len, raw)) + len(raw)
        if self._held >= BLOCK:
            self._flush()

    def _flush(self) -> None:
        count = len(self._raw)
        codes = pa.nulls(count, pa.string())
        messages = codes
        if self._findings:
            found = [self._findings.get(index) for index in range(count)]
            codes = pa.array([one and one.code for one in found], pa.string())
            messages = pa.array([one and one.message for one in found], pa.string())
        raw = pa.array(self._raw, pa.large_binary())
        self._writer.write_batch(
            pa.record_batch([pa.array(self._lines, pa.int64()), raw, codes, messages], schema=_SCHEMA)
        )
        position, self._batches = self._batches, self._batches + 1
        self.chunks.append(Chunk(position, position + 1, self._lines[0], count, self._held))
        self._lines, self._raw, self._findings, self._held = [], [], {}, 0
        if len(self.chunks) == MAX_CHUNKS:
            self.chunks = halved(self.chunks)

    def close(self) -> None:
        """Write what is held and the file's footer."""
        if self._raw:
            self._flush()
        self._writer.close()


def read(item: Input, start: int, stop: int, *, first_record: int, spool: Path) -> Iterator[list[RawRecord]]:
    """The records of the batches `[start, stop)`, one list a batch."""
    path = spool_path(spool, item)
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            for position in range(start, stop):
                batch = reader.get_batch(position)
                yield to_records(item.address, first_record, batch["line"].to_pylist(), *_texts(batch))
                first_record += batch.num_rows
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            describe(
                f"its decoded copy cannot be read: {error}",
                where=item.address,
                fix="The run's work folder was touched: start over with --fresh.",
            )
        ) from error


def _texts(batch: pa.RecordBatch) -> tuple[list[bytes], dict[int, Finding]]:
    """The texts of a batch, and the findings by index."""
    codes = batch["code"]
    findings: dict[int, Finding] = {}
    if codes.null_count < len(codes):
        pairs = zip(codes.to_pylist(), batch["message"].to_pylist(), strict=True)
        findings = {index: Finding(code, message) for index, (code, message) in enumerate(pairs) if code is not None}
    return batch["raw"].to_pylist(), findings
