"""Sealed datasets, read row group by row group; nothing unchecked leaves this file.

What lives here: opening a dataset and reading verified rows. What must not: the order of training, torch, any state
that a fork or a pickle could break: there are no open handles between two calls.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sftdata.shards.decode import (
    as_rows,
    decode_group,
    footer_problems,
    label_problems,
    parse_footer,
    shape_problems,
)
from sftdata.shards.faults import Problem
from sftdata.shards.layout import HEADER, MANIFEST, SPLITS
from sftdata.shards.manifest import FileEntry, Manifest, manifest_of
from sftdata.shards.pages import decode_pages
from sftdata.shards.rows import Rows
from sftdata.shards.store import Store, open_store

__all__ = ["Dataset", "open_dataset"]


class Dataset:
    """A sealed dataset. Cheap to open (the manifest alone is read), to pickle and to carry over a fork."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.manifest = manifest
        self.files: tuple[FileEntry, ...] = tuple(file for split in SPLITS for file in manifest.files.get(split, ()))
        """All shards: those of train, then those of eval."""
        self._store = store
        self._footers: dict[str, pq.FileMetaData] = {}

    @property
    def path(self) -> str:
        """The folder or address that was opened."""
        return self._store.address

    def read_row_group(self, file: FileEntry, group_index: int) -> Rows:
        """Row group `group_index` of a file of this dataset, as read-only views of what was decoded.

        Checked before it is returned: size and footer when the file is first read, the crc32 of the bytes before
        they are decoded, then that lengths, counts and labels agree. Raises DamageError where they do not.
        """
        group = file.row_groups[group_index]

        def fault(code: str, place: str, message: str) -> Problem:
            here = f"row group {group_index}"
            return Problem(code, file.name, f"{here}, {place}" if place else here, message)

        footer = self._footer(file)
        data = self._bytes(file, group.offset, group.offset + group.bytes)
        if len(data) != group.bytes or zlib.crc32(data) != group.crc32:
            raise fault("SFT802", "", "its bytes are not those that were sealed").error(self.path)
        try:
            columns = decode_pages(footer, group_index, group, data) or decode_group(footer, group_index, group, data)
        except MemoryError:  # no damage
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise fault("SFT801", "", f"it cannot be decoded: {error}").error(self.path) from error
        self._raise_first(shape_problems(columns, group, fault))
        rows = as_rows(columns)
        self._raise_first(label_problems(rows, columns.values["num_loss_tokens"], group, fault))
        return rows

    def iter_rows(self, split: str = "train") -> Iterator[dict[str, npt.NDArray[Any]]]:
        """The bins of a split in the order of the files, each a dict of read-only arrays.

        `input_ids` and `labels` int32 `[T]`, `seq_lengths` and `doc_flags` int32 `[D]`, `record_ids` int64 `[D]`.
        Raises DamageError as `read_row_group` does.
        """
        for file in self.manifest.files.get(split, ()):
            for group_index in range(len(file.row_groups)):
                yield from _bins(self.read_row_group(file, group_index))

    def _footer(self, file: FileEntry) -> pq.FileMetaData:
        """The metadata of a file, which is checked when it is first asked for."""
        if file.name in self._footers:
            return self._footers[file.name]

        def fault(code: str, place: str, message: str) -> Problem:
            return Problem(code, file.name, place, message)

        size = self._store.size(file.name)
        if size is None:
            raise fault("SFT806", "", "the file is missing").error(self.path)
        if size != file.bytes:
            raise fault("SFT802", "", f"the file has {size} bytes, and {file.bytes} were sealed").error(self.path)
        tail = self._bytes(file, file.bytes - file.footer_bytes, file.bytes)
        if hashlib.sha256(tail).hexdigest() != file.footer_sha256:
            raise fault("SFT802", "footer", "its bytes are not those that were sealed").error(self.path)
        if self._bytes(file, 0, len(HEADER)) != HEADER:  # the four bytes that no other hash covers
            raise fault("SFT802", "header", "its bytes are not those that were sealed").error(self.path)
        try:
            footer = parse_footer(tail)
        except MemoryError:  # no damage
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise fault("SFT801", "footer", f"it cannot be decoded: {error}").error(self.path) from error
        self._raise_first(footer_problems(footer, file, self.manifest.fingerprint, fault))
        self._footers[file.name] = footer
        return footer

    def _bytes(self, file: FileEntry, start: int, stop: int) -> bytes:
        try:
            return self._store.read(file.name, start, stop)
        except OSError as error:
            raise Problem("SFT806", file.name, "", f"the file cannot be read: {error}").error(self.path) from error

    def _raise_first(self, problems: Iterator[Problem]) -> None:
        for problem in problems:
            raise problem.error(self.path)


def open_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Open the sealed dataset at `path`: a folder, or an fsspec address such as `s3://bucket/set`.

    Reads and checks the manifest alone. Raises DamageError where there is none, it is damaged, of another format
    version, or the folder holds an unfinished run; ConfigError for an address that fsspec cannot open.
    """
    store = open_store(path)
    try:
        return Dataset(store, manifest_of(store))
    except OSError as error:
        raise Problem("SFT807", MANIFEST, "", f"it cannot be read: {error}").error(store.address) from error


def _bins(rows: Rows) -> Iterator[dict[str, npt.NDArray[Any]]]:
    tokens, documents = rows.token_offsets.tolist(), rows.bins.tolist()
    for row in range(len(rows)):
        inside = slice(tokens[row], tokens[row + 1])
        mine = slice(documents[row], documents[row + 1])
        yield {
            "input_ids": rows.input_ids[inside],
            "labels": rows.labels[inside],
            "seq_lengths": rows.seq_lengths[mine],
            "record_ids": rows.record_ids[mine],
            "doc_flags": rows.doc_flags[mine],
        }
