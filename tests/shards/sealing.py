"""Small sealed datasets, sound or forged; a module of its own, so that tests may import it.

`base()` is a sound dataset in which every kind of document stands. Tests change its parts before `seal` writes it
(the hashes are then right and the content is wrong), or change the written bytes afterwards.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from sftdata.records import DocFlag
from sftdata.shards import (
    FINGERPRINT_KEY,
    FORMAT_VERSION,
    FileEntry,
    Manifest,
    RowGroupEntry,
    Rows,
    ShardWriter,
    SidecarEntry,
    dump_manifest,
)

STOP = 2
CAPACITY = 16
FINGERPRINT = hashlib.sha256(b"a run").hexdigest()
FOOTER = {FINGERPRINT_KEY: FINGERPRINT}

Document = tuple[int, list[int], list[int], int]
"""(record id, tokens, 1 for every trained one, flags)"""

CHAT: Document = (0, [5, 6, 7, STOP], [0, 0, 1, 1], 0)
SEVERAL = DocFlag.ONE_OF_SEVERAL
TRAIN: list[list[Document]] = [
    [CHAT, (2, [5, 6, STOP], [0, 1, 1], SEVERAL), (2, [5, 6, STOP, 8, 9, STOP], [0, 0, 0, 0, 1, 1], SEVERAL)],
    [(3, [1, 11, 12, 13, STOP], [0, 1, 1, 1, 1], DocFlag.TEXT)],
    [
        (4, [1, 20, 21, 22], [0, 1, 1, 1], DocFlag.TEXT | DocFlag.NO_STOP | SEVERAL),
        (4, [23, 24, STOP], [0, 1, 1], DocFlag.TEXT | DocFlag.CONTINUES | SEVERAL),
    ],
    [(5, [5, 6, STOP, 9, 30, 31], [0, 1, 1, 0, 1, 1], DocFlag.NO_STOP)],
]
EVAL: list[list[Document]] = [[(6, [5, 40, STOP], [0, 1, 1], 0)]]
REJECTED = {1: "SFT106", 7: "SFT601"}
PARTIAL = {2: "SFT601"}


def rows_of(bins: Sequence[Sequence[Document]]) -> Rows:
    """Bins of documents as flat arrays."""
    documents = [document for one in bins for document in one]
    ids = np.array([token for _, tokens, _, _ in documents for token in tokens], np.int32)
    trained = np.array([mark for _, _, marks, _ in documents for mark in marks], bool)
    return Rows(
        input_ids=ids,
        labels=np.where(trained, ids, np.int32(-100)),
        seq_lengths=np.array([len(tokens) for _, tokens, _, _ in documents], np.int32),
        record_ids=np.array([record for record, _, _, _ in documents], np.int64),
        doc_flags=np.array([flags for _, _, _, flags in documents], np.int32),
        bins=np.cumsum([0, *(len(one) for one in bins)], dtype=np.int64),
    )


def reject_lines(codes: dict[int, str]) -> bytes:
    """A reject file: a warning first, then the error that counts."""
    lines = [
        {
            "record_id": record,
            "findings": [{"code": "SFT003", "severity": "warning"}, {"code": code, "severity": "error"}],
            "record": {"text": "\ud800", "n": 10**30},
        }
        for record, code in codes.items()
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


class Draft(msgspec.Struct):
    """What `seal` writes."""

    files: dict[str, list[Rows]]
    """For each split, the rows of each shard."""
    sidecars: dict[str, bytes]
    manifest: dict[str, Any]
    """Keys of the manifest that are not derived from the files; `/` in a key reaches into it."""
    footer: dict[str, str]


def base() -> Draft:
    """The sound one: 8 records, two rejected, one of eval, two shards and one."""
    bins = [bin_ for part in (TRAIN, EVAL) for bin_ in part]
    documents = [document for bin_ in bins for document in bin_]
    tokens = sum(len(one) for _, one, _, _ in documents)
    return Draft(
        files={"train": [rows_of(TRAIN[:2]), rows_of(TRAIN[2:])], "eval": [rows_of(EVAL)]},
        sidecars={"rejected.jsonl": reject_lines(REJECTED), "partial.jsonl": reject_lines(PARTIAL)},
        footer=dict(FOOTER),
        manifest={
            "format_version": FORMAT_VERSION,
            "fingerprint": FINGERPRINT,
            "inputs": [
                {"address": "a.jsonl", "size": 10, "sha256": "0" * 64, "records": 5},
                {"address": "b.jsonl", "size": 9, "sha256": "1" * 64, "records": 3},
            ],
            "tokenizer": {
                "sha256": "2" * 64,
                "vocab_size": 100,
                "largest_id": 40,
                "stop_token_ids": [STOP],
                "bos_token_id": 1,
                "eos_token_id": STOP,
                "pad_token_id": None,
                "eos_token": "</s>",
            },
            "template": {
                "sources": {"default": "{{ messages }}é"},
                "sha256": {"default": hashlib.sha256("{{ messages }}é".encode()).hexdigest()},
                "kwargs": {"thinking": False, "5": 1.5},
                "clock": "2026-01-01",
                "name": "chatml",
            },
            "config": {"max_length": CAPACITY, "train_on": "replies", "seed": 0},
            "ledger": {
                "records": {"read": 8, "written": 6, "rejected": 2, "duplicate": 0},
                "examples": {"written": len(documents), "rejected": 3},
                "tokens": {
                    "rendered": tokens + 9,
                    "written": tokens,
                    "dropped": 9,
                    "trained": sum(sum(marks) for _, _, marks, _ in documents),
                },
                "rejections": {"SFT106": 1, "SFT601": 1},
            },
        },
    )


def seal(folder: Path, draft: Draft | None = None) -> Path:
    """Write the dataset, one bin or so a row group, with the hashes of what is written."""
    draft = draft or base()
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, tuple[FileEntry, ...]] = {}
    for split, parts in draft.files.items():
        entries: list[FileEntry] = []
        for index, rows in enumerate(parts):
            path = folder / f"{split}-{index:05d}-of-{len(parts):05d}.parquet"
            entries += write_shard(path, rows, draft.footer)
        files[split] = tuple(entries)
    for name, data in draft.sidecars.items():
        (folder / name).write_bytes(data)
    sidecars = {
        name: SidecarEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in draft.sidecars.items()
    }
    manifest = Manifest(files=files, sidecars=sidecars, **draft.manifest)
    (folder / "manifest.json").write_bytes(dump_manifest(manifest))
    return folder


def write_shard(path: Path, rows: Rows, footer: dict[str, str]) -> list[FileEntry]:
    """One shard at `path`; none where there are no rows."""
    writer = ShardWriter(lambda _: path, metadata=footer, max_group_tokens=CAPACITY)
    writer.write(rows)
    return writer.close()


def spell(body: dict[str, Any]) -> bytes:
    """The canonical bytes of any manifest, right or wrong, with its digest: written anew, to compare with."""

    def text(of: dict[str, Any]) -> bytes:
        pairs = [f'"{key}": {json.dumps(of[key], sort_keys=True, separators=(",", ":"))}' for key in sorted(of)]
        return ("{\n" + ",\n".join(pairs) + "\n}\n").encode()

    plain = {key: value for key, value in body.items() if key != "digest"}
    return text({**plain, "digest": hashlib.sha256(text(plain)).hexdigest()})


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest's content and seal it again: its bytes are canonical and its digest right."""
    path = folder / "manifest.json"
    body = json.loads(path.read_bytes())
    change(body)
    path.write_bytes(spell(body))


def describe(path: Path, table: pa.Table) -> FileEntry:
    """The entry of a shard, derived from its bytes in another way than the writer's."""
    data = path.read_bytes()
    footer_bytes = int.from_bytes(data[-8:-4], "little") + 8
    footer = pq.read_metadata(path)
    groups, first = [], 0
    for index in range(footer.num_row_groups):
        group = footer.row_group(index)
        columns = [group.column(column) for column in range(group.num_columns)]
        offset = min(column.data_page_offset for column in columns)
        size = sum(column.total_compressed_size for column in columns)
        part = table.slice(first, group.num_rows)
        first += group.num_rows
        groups.append(
            RowGroupEntry(
                offset=offset,
                bytes=size,
                crc32=zlib.crc32(data[offset : offset + size]),
                rows=group.num_rows,
                tokens=sum(map(len, part["input_ids"].to_pylist())),
                loss_tokens=sum(label != -100 for labels in part["labels"].to_pylist() for label in labels),
                documents=sum(map(len, part["seq_lengths"].to_pylist())),
            )
        )
    return FileEntry(
        name=path.name,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        footer_bytes=footer_bytes,
        footer_sha256=hashlib.sha256(data[-footer_bytes:]).hexdigest(),
        rows=table.num_rows,
        tokens=sum(group.tokens for group in groups),
        loss_tokens=sum(group.loss_tokens for group in groups),
        documents=sum(group.documents for group in groups),
        row_groups=tuple(groups),
    )


def forge(folder: Path, change: Callable[[list[dict[str, Any]]], Any], schema: pa.Schema | None = None) -> None:
    """Change the rows of the first shard as plain lists and seal it again: all hashes are right."""
    path = folder / "train-00000-of-00002.parquet"
    old = pq.ParquetFile(path)
    content = old.read().to_pylist()
    change(content)
    table = pa.Table.from_pylist(content, schema=schema or old.schema_arrow)
    with pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False, store_schema=False) as writer:
        writer.add_key_value_metadata(old.metadata.metadata)
        writer.write_table(table)
    entry = msgspec.to_builtins(describe(path, table))
    change_manifest(folder, lambda body: body["files"]["train"].__setitem__(0, entry))


@st.composite
def any_rows(draw: st.DrawFn, max_bins: int = 6) -> Rows:
    """Any bins that the format can hold, empty included: ids and flags are arbitrary."""
    lengths = st.lists(st.integers(1, 9), min_size=1, max_size=4)
    shape = draw(st.lists(lengths, max_size=max_bins))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = np.array([length for one in shape for length in one], np.int32)
    ids = random.integers(0, 2**31 - 1, int(sizes.sum()), dtype=np.int32)
    labels = np.where(random.random(len(ids)) < draw(st.sampled_from((0.0, 0.4, 1.0))), ids, np.int32(-100))
    labels[np.cumsum(sizes) - sizes] = -100
    return Rows(
        input_ids=ids,
        labels=labels,
        seq_lengths=sizes,
        record_ids=random.integers(-(2**63), 2**63 - 1, len(sizes), dtype=np.int64),
        doc_flags=random.integers(-(2**31), 2**31 - 1, len(sizes), dtype=np.int32),
        bins=np.cumsum([0, *map(len, shape)], dtype=np.int64),
    )
