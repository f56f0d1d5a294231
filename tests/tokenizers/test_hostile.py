"""A malformed or malicious tokenizer ends in a clear error, or costs the records that it fails on; never in a panic."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sftdata
from sftdata.errors import ConfigError, SftdataError
from sftdata.tokenizers import choose_engine, load_files, load_vocabulary
from tests.tokenizers.zoo import made

KINDS = ("bytes, NFC, digits", "pieces, legacy prefix", "unigram, byte fallback", "bytes, BOS by post-processor")
HOSTILE: tuple[Any, ...] = (
    *(None, 0, -1, 2**31, 2**32, 2**63, 2**70, 1.5, True, "", "x", "\x00", "<|im_end|>", [], {}, [[]], [1]),
    *({"type": "Nope"}, {"type": "Sequence"}, {"Regex": "(a+)+$"}, {"Regex": "((((("}, {"String": 7}, 10**9),
)


def spec(name: str) -> dict[str, Any]:
    out: dict[str, Any] = json.loads(made(name).to_str())
    return out


def load(folder: Path, text: str) -> None:
    """Everything that a run does before its first record."""
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}', encoding="utf-8")
    engine = choose_engine(load_vocabulary(load_files(str(folder))), "auto")
    engine.encode(["Hello <|im_end|> x"])


def damaged(text: dict[str, Any], chance: random.Random) -> Any:
    """One to three values somewhere in the file replaced, or taken out."""
    out = copy.deepcopy(text)
    for _ in range(chance.randint(1, 3)):
        at: Any = out
        key: Any = chance.choice(list(out))
        while isinstance(at[key], (dict, list)) and at[key] and chance.random() < 0.7:
            at = at[key]
            key = chance.choice(list(at)) if isinstance(at, dict) else chance.randrange(min(len(at), 6))
        if chance.random() < 0.3:
            at.pop(key)
        else:
            at[key] = chance.choice(HOSTILE)
        if not out:
            break
    return out


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_loads_or_is_refused_in_words(name: str, tmp_path: Path) -> None:
    chance = random.Random(name)
    whole = made(name).to_str()
    texts = [json.dumps(damaged(spec(name), chance)) for _ in range(60)]
    texts += [whole[: chance.randrange(len(whole))] for _ in range(10)]
    told = []
    for text in texts:
        try:
            load(tmp_path, text)
        except SftdataError as error:
            told.append(str(error))
    assert len(told) > 20
    assert all(0 < len(one) < 600 for one in told)


def _no_model(file: dict[str, Any]) -> None:
    del file["model"]


def _hole(file: dict[str, Any]) -> None:
    merge = file["model"]["merges"][-1]
    file["model"]["vocab"].pop("".join(merge))


def _far(file: dict[str, Any]) -> None:
    file["model"]["vocab"]["far away"] = 10**9


def _conflict(file: dict[str, Any]) -> None:
    file["added_tokens"].append({**file["added_tokens"][0], "id": -7})


@pytest.mark.parametrize("change", [_no_model, _hole, _far, _conflict], ids=lambda one: one.__name__)
def test_a_file_that_cannot_be_used_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    file = spec("bytes")
    change(file)
    with pytest.raises(ConfigError, match="SFT419"):
        load(tmp_path, json.dumps(file))


def prepared(file: dict[str, Any], texts: list[str], folder: Path) -> dict[str, int]:
    """Rejections of one record a text."""
    (folder / "tokenizer.json").write_text(json.dumps(file), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}', encoding="utf-8")
    lines = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]} for text in texts]
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    outcome = sftdata.prepare(
        str(folder / "in.jsonl"),
        tokenizer=str(folder),
        template="chatml",
        max_length=20_000,
        max_reject_rate=1.0,
        clock="2026-01-01",
        out=str(folder / "out"),
    )
    found: dict[str, int] = outcome.report["ledger"]["rejections"]
    return found


def test_an_expression_that_backtracks_without_end_costs_the_records_that_it_fails_on(tmp_path: Path) -> None:
    file = spec("bytes")
    split = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False}
    file["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [split, {**file["pre_tokenizer"], "use_regex": False}],
    }
    rejections = prepared(file, ["fine", "a" * 5000 + "c", "fine as well"], tmp_path)
    assert rejections == {"SFT419": 1}


def test_a_vocabulary_without_an_unknown_token_costs_the_records_that_need_one(tmp_path: Path) -> None:
    file = spec("unigram")
    file["model"]["unk_id"] = None
    assert prepared(file, ["fine", "日本", "fine as well"], tmp_path) == {"SFT419": 1}
