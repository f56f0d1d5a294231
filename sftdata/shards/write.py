"""Bins to Parquet shards: deterministic bytes, and a file is there whole or not at all.

What lives here: the writer and the entry that describes what it wrote. What must not: how bins came about, and
where a dataset's files lie in the end.

The same bins give the same bytes, however they were cut into calls of `write`. What pyarrow itself puts into a
file (its version in the footer, its zstd) is outside this promise: it holds for one version of pyarrow.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sftdata.records import IGNORE_INDEX
from sftdata.shards.layout import (
    FINGERPRINT_KEY,
    FOOTER_PREFIX,
    FORMAT_VERSION,
    FORMAT_VERSION_KEY,
    GROUP_TOKENS,
    HEADER,
    MAX_FILE_BYTES,
    SCHEMA,
    TRAILER_BYTES,
)
from sftdata.shards.manifest import FileEntry, RowGroupEntry
from sftdata.shards.rows import Rows, join, split

__all__ = ["ShardWriter"]


class ShardWriter:
    """Writes bins to one shard, or to several where one would exceed `max_file_bytes`.

    `names(part)` is the path of part 0, 1, …; all parts lie in existing folders. Use it as a context manager:

    >>> with ShardWriter(lambda part: folder / f"unit-00042-{part}.parquet", metadata=footer) as writer:
    ...     writer.write(rows)                                                              # doctest: +SKIP
    >>> writer.entries[0].tokens                                                              # doctest: +SKIP

    Files appear under their names only in `close()`, flushed to the disk; until then, and for ever
    if the block is left by an exception, there are only temporary files (dot, name, unique part, `.tmp`), which
    are removed. No bins, no file. `metadata` goes into the footer, its keys after FOOTER_PREFIX, and
    must hold FINGERPRINT_KEY.
    """

    def __init__(
        self,
        names: Callable[[int], Path],
        *,
        metadata: Mapping[str, str],
        max_group_tokens: int = GROUP_TOKENS,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        if FINGERPRINT_KEY not in metadata:
            raise ValueError(f"the footer metadata lacks {FINGERPRINT_KEY!r}")
        self.entries: list[FileEntry] = []
        """What was written, after `close()`."""
        self._names = names
        named = {**metadata, FORMAT_VERSION_KEY: str(FORMAT_VERSION)}
        self._metadata = {FOOTER_PREFIX + key: named[key] for key in sorted(named)}
        self._max_group_tokens = max_group_tokens
        self._max_file_bytes = max_file_bytes
        self._pending: list[Rows] = []
        self._pending_tokens = 0
        self._parts: list[_Part] = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, rows: Rows) -> None:
        """Append bins. They are held back until a row group is full, whatever the sizes of the calls."""
        if not len(rows):
            return
        self._pending_tokens += len(rows.input_ids)
        if self._pending_tokens <= self._max_group_tokens:
            self._pending.append(rows.copy())
            return
        *full, last = split(join([*self._pending, rows]), self._max_group_tokens)
        self._write_groups(full)
        self._pending = [last.copy()]
        self._pending_tokens = len(last.input_ids)

    def close(self) -> list[FileEntry]:
        """Finish all files, give them their names and return their entries, in order."""
        try:
            if self._pending:
                self._write_groups(split(join(self._pending), self._max_group_tokens))
            self.entries = [part.finish() for part in self._parts]
            for part in self._parts:
                part.publish()
        except BaseException:
            self.discard()
            raise
        self._parts = []
        self._pending = []
        return self.entries

    def discard(self) -> None:
        """Remove what was written and has no name yet."""
        for part in self._parts:
            part.discard()
        self._parts = []
        self._pending = []

    def _write_groups(self, groups: Iterable[Rows]) -> None:
        """Write each as a row group of the last part, or of a new one if that is full."""
        for rows in groups:
            if not self._parts or self._parts[-1].written_bytes >= self._max_file_bytes:
                self._parts.append(_Part(self._names(len(self._parts)), self._metadata))
            self._parts[-1].write(rows)


class _Part:
    """One file under way, under its temporary name."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        self._sums: list[tuple[int, int, int, int]] = []
        self._file = self._temporary.open("wb")
        self._writer = pq.ParquetWriter(
            self._file,
            SCHEMA,
            compression="zstd",
            compression_level=3,
            use_dictionary=False,
            column_encoding="PLAIN",
            write_statistics=["num_tokens", "num_loss_tokens"],
            write_page_checksum=True,
            data_page_size=1 << 30,  # one page a column and row group
            store_schema=False,  # the Parquet schema says it all; a second copy could disagree
        )
        self._writer.add_key_value_metadata(dict(metadata))

    @property
    def written_bytes(self) -> int:
        return self._file.tell()

    def write(self, rows: Rows) -> None:
        """Write one row group."""
        table = _table(rows)
        self._writer.write_table(table, row_group_size=table.num_rows)
        loss_tokens = int(np.count_nonzero(rows.labels != IGNORE_INDEX))
        self._sums.append((len(rows), len(rows.input_ids), loss_tokens, len(rows.seq_lengths)))

    def finish(self) -> FileEntry:
        """Write the footer, flush to the disk and describe the file."""
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._entry()

    def publish(self) -> None:
        """Give the finished file its name."""
        self._temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Close and remove the temporary file, if it is still there."""
        # A full disk fails here too; the error that led here is the one to be seen.
        with contextlib.suppress(OSError, ValueError):
            self._writer.close()
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _entry(self) -> FileEntry:
        """Hash the file in one pass, row group by row group."""
        footer = pq.read_metadata(self._temporary)
        whole = hashlib.sha256()
        groups: list[RowGroupEntry] = []
        with self._temporary.open("rb") as file:
            whole.update(file.read(len(HEADER)))
            for index, sums in enumerate(self._sums):
                rows, tokens, loss_tokens, documents = sums
                offset = file.tell()
                data = file.read(group_bytes(footer, index))
                whole.update(data)
                groups.append(
                    RowGroupEntry(
                        offset=offset,
                        bytes=len(data),
                        crc32=zlib.crc32(data),
                        rows=rows,
                        tokens=tokens,
                        loss_tokens=loss_tokens,
                        documents=documents,
                    )
                )
            tail = file.read()
        whole.update(tail)
        assert len(tail) == footer.serialized_size + TRAILER_BYTES, "row groups do not tile the file"
        rows, tokens, loss_tokens, documents = map(sum, zip(*self._sums, strict=True))
        return FileEntry(
            name=self._path.name,
            bytes=groups[-1].offset + groups[-1].bytes + len(tail),
            sha256=whole.hexdigest(),
            footer_bytes=len(tail),
            footer_sha256=hashlib.sha256(tail).hexdigest(),
            rows=rows,
            tokens=tokens,
            loss_tokens=loss_tokens,
            documents=documents,
            row_groups=tuple(groups),
        )


def group_bytes(footer: pq.FileMetaData, index: int) -> int:
    """Size of a row group on disk, page headers included."""
    group = footer.row_group(index)
    return sum(group.column(column).total_compressed_size for column in range(group.num_columns))


def _table(rows: Rows) -> pa.Table:
    """The Arrow form of some bins; list values are views of the arrays."""
    tokens = rows.token_offsets
    lists: list[tuple[npt.NDArray[Any], npt.NDArray[np.int64]]] = [
        (rows.input_ids, tokens),
        (rows.labels, tokens),
        (rows.seq_lengths, rows.bins),
        (rows.record_ids, rows.bins),
        (rows.doc_flags, rows.bins),
    ]
    columns = [
        pa.ListArray.from_arrays(_array(offsets.astype(np.int32)), _array(values), type=field.type)
        for (values, offsets), field in zip(lists, SCHEMA, strict=False)
    ]
    return pa.Table.from_arrays([*columns, _array(rows.num_tokens), _array(rows.num_loss_tokens)], schema=SCHEMA)


def _array(values: npt.NDArray[Any]) -> pa.Array:
    """A view of a contiguous array; `pa.array` would import pandas, where it is installed, for 40 MiB of memory."""
    kind = pa.int64() if values.dtype == np.int64 else pa.int32()
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])
