"""Chats to measure with: real text, recombined, so that no cache sees the same record twice.

Reads the instruction files of `../shared/data` (or SFTDATA_TEST_DATA) and writes JSON Lines of `messages`. Sentences
of real instructions and answers are drawn with a fixed seed; lengths follow those of the usual instruction sets
(about 90 tokens a chat in one turn).
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["data_folder", "write_chats"]

_FILES = ("alpaca/gpteacher_codegen.json", "alpaca/cleaned_roleplay.json")


def data_folder() -> Path:
    """The folder of real inputs; exits with the reason where it is missing."""
    named = os.environ.get("SFTDATA_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        raise SystemExit("the benchmarks need real text: set SFTDATA_TEST_DATA to a folder like ../shared/data")
    return folder


def _pools() -> tuple[list[str], list[str]]:
    asked: list[str] = []
    said: list[str] = []
    for name in _FILES:
        for record in json.loads((data_folder() / "datasets" / name).read_text(encoding="utf-8")):
            asked.append(record["instruction"])
            answer = record.get("output") or record.get("response") or ""
            said += [piece for piece in re.split(r"(?<=[.!?\n])\s+", answer) if piece.strip()]
    return asked, said


def chats(count: int, turns: int, seed: int) -> Iterator[dict[str, object]]:
    """`count` chats of `turns` rounds."""
    asked, said = _pools()
    draw = random.Random(seed)
    for _ in range(count):
        messages = []
        for _ in range(turns):
            answer = " ".join(draw.choices(said, k=draw.choice((1, 1, 2, 2, 3, 4))))
            messages.append({"role": "user", "content": draw.choice(asked)})
            messages.append({"role": "assistant", "content": answer})
        yield {"messages": messages}


def write_chats(path: Path, count: int, *, turns: int = 1, seed: int = 0) -> Path:
    """Write `count` chats to `path`, unless it is there already."""
    if not path.exists():
        with path.open("w", encoding="utf-8") as file:
            for chat in chats(count, turns, seed):
                file.write(json.dumps(chat, ensure_ascii=False) + "\n")
    return path
