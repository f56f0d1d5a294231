"""Damaged files of every kind: a part of `make fuzz`, which puts each through `prepare`.

A sound file (JSON Lines, a list, CSV, Parquet, Arrow, Feather, compressed or not) with some bits flipped, bytes cut
out, put in or overwritten, or its end gone. Held to: the run ends in a dataset that verifies, in a refusal, or in an
error with words; no record ends its worker, and the ledger closes.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["fuzz_files"]


def fuzz_files(count: int, folder: Path, *, seed: int) -> Counter[str]:
    """Prepare `count` damaged files; returns how often a dataset was sealed, refused, or which error there was.

    Raises AssertionError where a record ended its worker or a dataset does not verify, and whatever else comes out.
    """
    from sftdata.config import build_config
    from sftdata.errors import SftdataError
    from sftdata.pipeline.run import run_prepare
    from sftdata.shards import verify

    outcomes: Counter[str] = Counter()
    for number in range(count):
        draw = random.Random(f"{seed}-{number}")
        kind = draw.choice(list(_WRITERS))
        here = folder / f"damaged-{number}"
        here.mkdir(parents=True)
        path, out = here / f"in.{kind}", str(here / "out")
        path.write_bytes(_damaged(_WRITERS[kind](_records(draw)), draw))
        settings = {"inputs": (str(path),), "out": out, "tokenizer": "builtin", "template": "chatml", "max_length": 64}
        try:
            outcome = run_prepare(build_config({**settings, "max_reject_rate": 1.0}))
        except SftdataError as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["sealed" if outcome.sealed else "refused"] += 1
            where = f"seed {seed}, damaged file {number}, {kind}"
            assert "SFT018" not in outcome.report["ledger"]["rejections"], where
            assert not outcome.sealed or verify(out).problems == [], where
        shutil.rmtree(here)
    return outcomes


def _records(draw: random.Random) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"é {n}?"}, {"role": "assistant", "content": "a " * (1 + n % 30)}]}
        for n in range(draw.choice((1, 3, 40)))
    ]


def _damaged(data: bytes, draw: random.Random) -> bytes:
    held = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        place = draw.randrange(len(held) + 1)
        act = draw.randrange(5)
        if act == 0 and place < len(held):
            held[place] ^= 1 << draw.randrange(8)
        elif act == 1:
            del held[place:]
        elif act == 2:
            del held[place : place + draw.randrange(1, 20)]
        elif act == 3:
            held[place:place] = draw.randbytes(draw.randrange(1, 10))
        else:
            held[place : place + 4] = draw.choice((b"\x00" * 4, b"\xff" * 4, b'"[{,', b"\n\n\n\n"))
    return bytes(held)


def _lines(records: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, records)).encode()


def _zstd(records: list[dict[str, Any]]) -> bytes:
    import zstandard

    return zstandard.compress(_lines(records))


def _csv(records: list[dict[str, Any]]) -> bytes:
    pairs = ([turn["content"] for turn in one["messages"]] for one in records)
    return "\n".join(["instruction,output", *(f'"{asked}","{said}"' for asked, said in pairs)]).encode()


def _table(records: list[dict[str, Any]], kind: str) -> bytes:
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    table, file = pa.Table.from_pylist(records), io.BytesIO()
    if kind == "parquet":
        pyarrow.parquet.write_table(table, file, row_group_size=10)
    elif kind == "feather":
        pyarrow.feather.write_feather(table, file)
    else:
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    return file.getvalue()


_WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "jsonl": _lines,
    "json": lambda records: json.dumps(records, indent=1).encode(),
    "jsonl.gz": lambda records: gzip.compress(_lines(records)),
    "jsonl.xz": lambda records: lzma.compress(_lines(records)),
    "jsonl.zst": _zstd,
    "csv": _csv,
    "parquet": lambda records: _table(records, "parquet"),
    "feather": lambda records: _table(records, "feather"),
    "arrow": lambda records: _table(records, "arrow"),
}
