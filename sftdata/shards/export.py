"""The rows of a sealed set in the files of other projects: Arrow folders and Megatron's indexed datasets.

What lives here: the byte forms of others, each with the public source it was taken from. What must not: the libraries
themselves; pyarrow and numpy write both. Every row goes through the verifying reader, and an export appears under its
name whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sftdata.errors import OutputError, SftdataError, ShardError, describe
from sftdata.records import Int32Array
from sftdata.shards.layout import SCHEMA
from sftdata.shards.read import Dataset, open_dataset
from sftdata.shards.rows import Rows, offsets_of

__all__ = ["export_arrow", "export_megatron"]


def export_arrow(path: str | os.PathLike[str], out: Path, *, split: str = "train", unpack: bool = False) -> int:
    """Write a folder for `datasets.load_from_disk`; returns the number of its rows.

    A row is a bin with the columns of the shards. With `unpack` it is a document with `input_ids`, `attention_mask`
    (all 1) and `labels`: what LLaMA-Factory's `tokenized_path`, axolotl's pre-tokenised type and Together take. The
    folder holds uncompressed Arrow streams and two small JSON files, as `Dataset.save_to_disk` leaves them
    (huggingface/datasets, `src/datasets/arrow_dataset.py`).

    Raises OutputError where `out` is there already or cannot be written, ShardError where the set has no such split
    or is damaged.
    """
    shards = open_dataset(path)
    table_of = _documents if unpack else _bins
    identity = hashlib.sha256(f"{shards.manifest.fingerprint}:{split}:{unpack}".encode()).hexdigest()
    count = 0
    with _made(out) as folder:
        folder.mkdir()
        names = []
        files = shards.manifest.files.get(split, ())
        for place, file in enumerate(files):
            names.append(f"data-{place:05d}-of-{len(files):05d}.arrow")
            groups = (shards.read_row_group(file, at) for at in range(len(file.row_groups)))
            count += _write_stream(folder / names[-1], map(table_of, groups))
        if not count:
            raise _no_rows(shards, split)
        state: dict[str, Any] = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": identity[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        info = {"citation": "", "description": "", "homepage": "", "license": ""}
        for name, content in (("state.json", state), ("dataset_info.json", info)):
            (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return count


def export_megatron(path: str | os.PathLike[str], prefix: Path, *, split: str = "train") -> int:
    """Write `PREFIX_input_ids` and `PREFIX_labels`, each a pair of `.bin` and `.idx`; returns the number of documents.

    One document is one sequence, int32; labels are unshifted, -100 where untrained, and have the same lengths. The
    form is that of `megatron/core/datasets/indexed_dataset.py` (NVIDIA/Megatron-LM), little-endian throughout:

        .bin  the values of all sequences, one after another
        .idx  b"MMIDIDX\\0\\0", version 1 (u64), type code (u8; 4 is int32), S sequences (u64), D + 1 (u64) for D
              documents, int32 [S] lengths, int64 [S] byte offsets in the .bin, int64 [D + 1] first sequences

    Raises OutputError where a file is there already or cannot be written, ShardError where the set has no such split
    or is damaged.
    """
    shards = open_dataset(path)
    columns = ("input_ids", "labels")
    lengths: list[Int32Array] = []
    with ExitStack() as stack:
        made = {
            (column, end): stack.enter_context(_made(prefix.with_name(f"{prefix.name}_{column}.{end}")))
            for column in columns
            for end in ("idx", "bin")  # the last entered is named first: no index without its values
        }
        files = [stack.enter_context(made[column, "bin"].open("wb")) for column in columns]
        for file in shards.manifest.files.get(split, ()):
            for at in range(len(file.row_groups)):
                rows = shards.read_row_group(file, at)
                lengths.append(rows.seq_lengths.copy())
                for column, out in zip(columns, files, strict=True):
                    out.write(np.ascontiguousarray(getattr(rows, column), "<i4").tobytes())
        if not lengths:
            raise _no_rows(shards, split)
        index = _megatron_index(np.concatenate(lengths))
        for column in columns:
            made[column, "idx"].write_bytes(index)
    return sum(map(len, lengths))


def _megatron_index(lengths: Int32Array) -> bytes:
    """The bytes of an `.idx` whose documents are its sequences."""
    count = len(lengths)
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 4, count, count + 1)
    pointers = offsets_of(lengths)[:-1] * 4
    arrays = (lengths.astype("<i4"), pointers.astype("<i8"), np.arange(count + 1, dtype="<i8"))
    return header + b"".join(array.tobytes() for array in arrays)


def _bins(rows: Rows) -> pa.Table:
    """One row a bin, the columns of the shards."""
    tokens = pa.array(rows.token_offsets.astype(np.int32))
    documents = pa.array(rows.bins.astype(np.int32))
    by_token = ("input_ids", "labels")
    columns = [
        pa.ListArray.from_arrays(
            tokens if field.name in by_token else documents, pa.array(getattr(rows, field.name)), type=field.type
        )
        if pa.types.is_list(field.type)
        else pa.array(getattr(rows, field.name))
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


_DOCUMENT = pa.schema(
    [
        pa.field("input_ids", SCHEMA.field("input_ids").type),
        pa.field("attention_mask", pa.list_(pa.int8())),
        pa.field("labels", SCHEMA.field("labels").type),
    ]
)


def _documents(rows: Rows) -> pa.Table:
    """One row a document."""
    offsets = pa.array(offsets_of(rows.seq_lengths).astype(np.int32))
    values = (rows.input_ids, np.ones(len(rows.input_ids), np.int8), rows.labels)
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(value), type=field.type)
        for value, field in zip(values, _DOCUMENT, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=_DOCUMENT)


def _write_stream(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write tables of one schema as an Arrow stream; returns the number of rows."""
    count = 0
    with ExitStack() as stack:
        writer = None
        for table in tables:
            writer = writer or stack.enter_context(pa.ipc.new_stream(str(path), table.schema))
            writer.write_table(table)
            count += table.num_rows
    return count


@contextmanager
def _made(target: Path) -> Iterator[Path]:
    """A hidden name beside `target` to write a file or a folder to; it becomes `target` if all went well."""
    if target.exists():
        raise OutputError(describe("it is there already", where=str(target), fix="Choose another name, or remove it."))
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(target)
    except SftdataError:
        raise
    except OSError as error:
        fix = "Look at the disk's free space and at who may write there."
        raise OutputError(describe(f"it cannot be written: {error}", where=str(target), fix=fix)) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):  # what led here is the one to be seen
                temporary.unlink()


def _no_rows(shards: Dataset, split: str) -> ShardError:
    known = sorted(name for name, files in shards.manifest.files.items() if files)
    return ShardError(describe(f"the set has no split {split!r}", where=shards.path, expected=" or ".join(known)))
