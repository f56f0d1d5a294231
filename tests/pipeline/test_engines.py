"""Tokenizer engines during a run: a difference found in the run's own texts sends all of it to the reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sftdata.pipeline.seal import Outcome
from sftdata.tokenizers.engines import Encoded, FastEngine
from tests.pipeline.runs import chat, contents, go, parts, write_lines

pytest.importorskip("fastokens", reason="the extra [fast] is not installed")


def wrong_about(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the fast engine gives another id for the last token of every text that holds `word`."""
    encode = FastEngine.encode

    def act(self: FastEngine, texts: Sequence[str]) -> Encoded:
        ids, offsets = encode(self, texts)
        for text, end in zip(texts, offsets[1:].tolist(), strict=True):
            if word in text:
                ids[end - 1] += 1
        return ids, offsets

    monkeypatch.setattr(FastEngine, "encode", act)


def engine(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "manifest.json").read_bytes())["tokenizer"]["engine"]
    return found


def shards(out: Path) -> dict[str, Any]:
    """The data alone: a footer carries the fingerprint, which tells the engines apart."""
    import pyarrow.parquet as pq

    return {path.name: pq.read_table(path).to_pydict() for path in sorted(out.glob("*.parquet"))}


def test_both_engines_give_the_same_rows(tmp_path: Path) -> None:
    inputs = parts(tmp_path, 2)
    go(inputs, tmp_path / "fast", engine_tokenizer="fast", engine_sample=1.0)
    go(inputs, tmp_path / "reference", engine_tokenizer="reference")
    assert shards(tmp_path / "fast") == shards(tmp_path / "reference")
    assert engine(tmp_path / "fast")["name"] == "fastokens"
    assert engine(tmp_path / "fast")["compared"] == 100
    assert engine(tmp_path / "reference") == {
        **engine(tmp_path / "reference"),
        "name": "tokenizers",
        "compared": 0,
        "sample": 0.0,
        "fell_back": False,
    }


def test_a_difference_sends_the_whole_run_to_the_reference_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = parts(tmp_path, 3)
    go(inputs, tmp_path / "reference", unit_bytes=1, engine_tokenizer="reference")
    wrong_about("2 times 7?", monkeypatch)
    outcome = go(inputs, tmp_path / "out", unit_bytes=1, engine_sample=1.0)
    assert fell_back(outcome, tmp_path / "out")
    assert shards(tmp_path / "out") == shards(tmp_path / "reference")
    assert go(inputs, tmp_path / "out", unit_bytes=1, engine_sample=1.0).unchanged


def fell_back(outcome: Outcome, out: Path) -> bool:
    assert any(note.startswith("SFT421") for note in outcome.report["notes"])
    assert engine(out)["name"] == "tokenizers"
    return bool(engine(out)["fell_back"])


def test_a_run_that_fell_back_and_died_is_resumed_with_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = parts(tmp_path, 3)
    wrong_about("2 times 7?", monkeypatch)
    go(inputs, tmp_path / "whole", unit_bytes=1, engine_sample=1.0)

    class Dead(BaseException):
        pass

    def die(*args: Any) -> None:
        raise Dead

    with monkeypatch.context() as patch:
        patch.setattr("sftdata.pipeline.run.seal", die)
        with pytest.raises(Dead):
            go(inputs, tmp_path / "out", unit_bytes=1, engine_sample=1.0)
    assert fell_back(go(inputs, tmp_path / "out", unit_bytes=1, engine_sample=1.0), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_sample_is_of_records_and_of_no_worker(tmp_path: Path) -> None:
    lines = [chat(f"What is {n}?", f"It is {n}.") for n in range(1000)]
    inputs = write_lines(tmp_path / "in.jsonl", lines)
    counts = []
    for name, unit_bytes in (("one", None), ("many", 20_000)):
        go(inputs, tmp_path / name, unit_bytes=unit_bytes, engine_sample=0.1)
        counts.append(engine(tmp_path / name)["compared"])
    assert counts[0] == counts[1]
    assert 80 < counts[0] < 120
