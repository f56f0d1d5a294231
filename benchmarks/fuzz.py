"""Malformed lines and records by the million: `make fuzz` runs them through `prepare` and accounts for every one.

Records of every format are broken as values (keys gone, doubled, renamed, other types, deep nesting, lone surrogates,
huge numbers) and as bytes (cut, flipped, spliced, NUL, CR, marks of byte order). Held to, for every file: the run
ends, no record ends it (SFT018 would say so), the ledger closes, each line that is not blank is written or rejected
and stands in `rejected.jsonl` as it was read, and what was sealed verifies.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["fuzz", "lines", "main"]

_BOM = b"\xef\xbb\xbf"
_TEMPLATES = ("chatml", "llama-3.1", "qwen3", "mistral", "gemma", "llama-2")
_POLICIES = ("reject", "drop-turns", "truncate", "split")
# fmt: off
_STRINGS = (
    "", " ", "\n", "\t", "\r\n", "\x00", "\x07", "Hello", "What is 2 + 2?", "It is 4.", "NaN", "null", "user",
    "assistant", "<|im_start|>", "<|im_end|>", "<|im_end|>\n", "<|endoftext|>", "<eos>", "<s>", "</s>", "[INST]",
    "<tool_call>", "<think>", "</think>", "<think>\nwhy\n</think>\n\nbecause", "{{ x }}", "{% for %}",
    "x" * 300, "word " * 200, "\ud800", "\udfff tail", "a\u2028b", "\ufeffmarked", "\u202edrawkcab", "é", "e\u0301",
    "👩\u200d👩\u200d👧", "日本語のテキスト",
)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, 10**30, -(10**19), "", "text", "\ud800", "[]", "{}",
    [], {}, [[]], [None], [{}], {"a": {"b": {"c": []}}}, {"role": "user"}, {"content": "x"},
    {"from": "human", "value": "x"}, [{"type": "text", "text": "x"}], [{"role": "assistant", "content": None}],
    '{"name": "f", "arguments": {}}',
)
_KEYS = (
    "messages", "conversations", "role", "content", "from", "value", "prompt", "completion", "instruction", "input",
    "output", "text", "tools", "tool_calls", "name", "arguments", "system", "history", "chosen", "type", "", "\ud800",
)
_ROLES = ("system", "user", "assistant", "tool", "developer", "human", "gpt", "function", "", "User", "narrator")
# fmt: on


def main() -> None:
    """A million lines, or as many as are asked for, and a damaged file for every 2,000 of them."""
    from benchmarks.fuzz_files import fuzz_files

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        outcomes = fuzz(count, Path(folder), seed=seed, workers=2, say=print)
        took = time.monotonic() - began
        damaged = fuzz_files(count // 2000, Path(folder), seed=seed)
    total = outcomes["records"]
    print(f"\n{total:,} records (seed {seed}) in {took:.0f} s, {total / took:,.0f} a second.")
    print(f"  {outcomes['written']:>9,} written, the others rejected:")
    for code, number in sorted(outcomes.items()):
        if code.startswith("SFT"):
            print(f"  {number:>9,} {code}")
    print(f"{sum(damaged.values()):,} damaged files: {', '.join(f'{n:,} {what}' for what, n in damaged.most_common())}")


def fuzz(
    count: int,
    folder: Path,
    *,
    seed: int,
    workers: int = 1,
    a_file: int = 20_000,
    say: Callable[[str], None] = lambda _: None,
) -> Counter[str]:
    """Run `count` broken lines through `prepare`, `a_file` of them a file, each file under other options.

    Returns how many records there were, how many were written, and how many were rejected under which code. Raises
    AssertionError where a line is not accounted for, and whatever comes out of `prepare`.
    """
    outcomes: Counter[str] = Counter()
    number = 0
    while outcomes["lines"] < count:
        draw = random.Random(f"{seed}-{number}")
        made = lines(min(a_file, count - outcomes["lines"]), draw)
        outcomes["lines"] += len(made)
        here = folder / f"file-{number}"
        ledger = _account(made, here, draw, workers, f"seed {seed}, file {number}")
        shutil.rmtree(here)
        outcomes["records"] += ledger["records"]["read"]
        outcomes["written"] += ledger["records"]["written"]
        outcomes.update(ledger["rejections"])
        number += 1
        say(f"{outcomes['lines']:,} lines, {outcomes['written']:,} records written")
    return outcomes


def lines(count: int, draw: random.Random) -> list[bytes]:
    """`count` lines without their ends."""
    made = [b'{"text": "a file that begins with [ would be one JSON list"}']
    while len(made) < count:
        value = _record(draw)
        for _ in range(draw.choice((0, 0, 1, 1, 2, 3))):
            value = _broken(value, draw)
        text = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")
        if draw.random() < 0.02:
            text = _doubled_key(text, draw)
        if draw.random() < 0.2:
            text = _garbled(text, made, draw)
        made.append(text.replace(b"\n", b" "))
    return made


def _record(draw: random.Random) -> Any:
    """A record that is right but for its contents."""
    turns = draw.choice((1, 1, 1, 2, 3))
    pairs = [(draw.choice(_STRINGS), draw.choice(_STRINGS)) for _ in range(turns)]
    kind = draw.randrange(6)
    if kind == 0:
        instruction, output = pairs[0]
        return {"instruction": instruction, "input": draw.choice(_STRINGS), "output": output}
    if kind == 1:
        return {"prompt": pairs[0][0], "completion": pairs[0][1]}
    if kind == 2:
        return {"text": draw.choice(_STRINGS) + draw.choice(_STRINGS)}
    if kind == 3:
        said = [
            {"from": who, "value": text} for pair in pairs for who, text in zip(("human", "gpt"), pair, strict=True)
        ]
        return {"conversations": said}
    messages: list[dict[str, Any]] = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    if kind == 5:
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": draw.choice(_STRINGS)}}}
        messages[-1:] = [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": draw.choice(_STRINGS)},
            messages[-1],
        ]
        return {"messages": messages, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    return {"messages": messages}


def _broken(value: Any, draw: random.Random) -> Any:
    """Change one thing somewhere in `value`."""
    place, holders = value, []
    while isinstance(place, (dict, list)) and place:
        key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
        holders.append((place, key))
        place = place[key]
    if not holders:
        return draw.choice(_VALUES)
    holder, key = draw.choice(holders)
    act = draw.randrange(7)
    if act == 0:
        del holder[key]
    elif act == 1 and isinstance(holder, dict):
        holder[draw.choice(_KEYS)] = holder.pop(key)
    elif act == 2 and isinstance(holder, dict):
        holder[draw.choice(_KEYS)] = copy.deepcopy(draw.choice(_VALUES))
    elif act == 3:
        holder[key] = _nested(holder[key], draw.choice((1, 2, 50, 200)))
    elif act == 4:
        holder[key] = draw.choice(_ROLES)
    elif act == 5:
        holder[key] = draw.choice(_STRINGS) * draw.choice((1, 1, 2, 40))
    else:
        holder[key] = copy.deepcopy(draw.choice(_VALUES))
    return value


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _doubled_key(text: bytes, draw: random.Random) -> bytes:
    """The same key twice in the outermost object."""
    if not text.startswith(b'{"'):
        return text
    key = text[1 : text.find(b'"', 2) + 1]
    return b"{" + key + b": " + draw.choice((b"1", b"null", b'"x"', b"[]")) + b", " + text[1:]


def _garbled(text: bytes, before: list[bytes], draw: random.Random) -> bytes:
    """`text` with some bytes changed."""
    place = draw.randrange(len(text) + 1)
    act = draw.randrange(12)
    depth = draw.choice((500, 1_000, 1_100, 100_000))
    some = bytes(draw.randrange(256) for _ in range(draw.choice((1, 1, 2, 7))))
    changed = {
        0: text[:place],
        1: text[place:],
        2: text[:place] + some + text[place + 1 :],
        3: text[:place] + some + text[place:],
        4: text[:place] + b"\x00" + text[place:],
        5: text + b"\r",
        6: _BOM + text,
        7: b" \t" + text + b"  ",
        8: text + (draw.choice(before) if before else b"{}"),
        9: draw.choice((b"", b" ", b"\r", b"null", b"NaN", b'[{"a": Infinity}]', b'"', b"{", b"[" * 5000, b"1" * 500)),
        10: text.replace(b'"', b"'"),
        11: b"[" * depth + text + b"]" * depth,
    }
    return changed[act]


def _account(made: list[bytes], folder: Path, draw: random.Random, workers: int, where: str) -> dict[str, Any]:
    """Prepare the lines and hold the outcome to them; returns the ledger."""
    from sftdata.config import build_config
    from sftdata.pipeline.run import run_prepare
    from sftdata.shards import verify

    folder.mkdir()
    packed = draw.random() < 0.25
    path = folder / ("in.jsonl.gz" if packed else "in.jsonl")
    data = b"\n".join(made) + draw.choice((b"", b"\n"))
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    options: dict[str, Any] = {
        "template": draw.choice(_TEMPLATES),
        "overlong": draw.choice(_POLICIES),
        "control_tokens": draw.choice(("text", "reject")),
        "reasoning": draw.choice(("reject", "empty")),
        "append_eos": draw.random() < 0.5,
        "train_on": draw.choice(("replies", "last", "everything")),
        "eval": draw.choice((None, "0.1")),
        "max_length": draw.choice((16, 64, 512)),
        "engine_sample": 1.0,
        "workers": workers,
    }
    settings = {"inputs": (str(path),), "out": str(folder / "out"), "tokenizer": "builtin", "max_reject_rate": 1.0}
    outcome = run_prepare(build_config({**settings, **options}), unit_bytes=1 << 20)
    ledger: dict[str, Any] = outcome.report["ledger"]
    expected = {place: line for place, line in enumerate(made, 1) if line.removeprefix(_BOM).strip()}
    records = ledger["records"]
    told = f"{where}, {options}: {ledger}"
    assert records["read"] == len(expected), f"{len(expected)} lines that are not blank; {told}"
    assert records["written"] + records["rejected"] == records["read"], told
    rejected = [json.loads(line) for line in (folder / "out" / "rejected.jsonl").read_bytes().splitlines()]
    dead = [line for line in rejected if line["findings"][0]["code"] == "SFT018"]
    assert not dead, f"{len(dead)} records ended their worker, such as {dead[0]}; {told}"
    _compare_rejected(rejected, expected, records["rejected"], told)
    if outcome.sealed:
        assert verify(str(folder / "out")).problems == [], told
        _compare_ids(folder / "out", rejected, records["read"], told)
    return ledger


def _compare_rejected(rejected: list[dict[str, Any]], expected: dict[int, bytes], count: int, told: str) -> None:
    """Each rejected record is there once, as it was read."""
    assert len(rejected) == count == len({line["record_id"] for line in rejected}), told
    numbers = list(expected)
    for line in rejected:
        original = expected[line["line"]]
        assert numbers[line["record_id"]] == line["line"], f"record {line['record_id']}; {told}"
        if "record" in line:
            assert line["record"] == json.loads(original.removeprefix(_BOM)), f"line {line['line']}; {told}"
        else:
            raw = line["raw"].encode() if "raw" in line else base64.b64decode(line["raw_base64"])
            assert raw == original.removesuffix(b"\r"), f"line {line['line']}; {told}"


def _compare_ids(out: Path, rejected: list[dict[str, Any]], count: int, told: str) -> None:
    """Written and rejected records are all records, and none is both."""
    from sftdata.shards import open_dataset

    dataset = open_dataset(str(out))
    written = {int(one) for split in ("train", "eval") for row in dataset.iter_rows(split) for one in row["record_ids"]}
    lost = {line["record_id"] for line in rejected}
    assert written.isdisjoint(lost), told
    assert written | lost == set(range(count)), told


if __name__ == "__main__":
    main()
