"""The configuration and its JSON Schema, in both directions: both take, and both refuse, the same recipes."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import msgspec
import pytest
import yaml

import sftdata_schemas
from sftdata.config import CHOICES, PrepareConfig, build_config
from sftdata.errors import ConfigError

SCHEMA = sftdata_schemas.load("config")
VALIDATOR = jsonschema_rs.validator_for(SCHEMA)
WHOLE = {"inputs": ["a.jsonl"], "tokenizer": "builtin", "max-length": 64, "out": "shards"}


def takes(recipe: dict[str, Any]) -> bool:
    """Whether `prepare --config` takes it."""
    try:
        build_config({key.replace("-", "_"): value for key, value in recipe.items()})
    except ConfigError:
        return False
    return True


def test_the_schema_knows_every_option_its_words_and_its_default() -> None:
    fields = {one.name.replace("_", "-"): one for one in msgspec.structs.fields(PrepareConfig)}
    assert list(SCHEMA["properties"]) == list(fields)
    for name, field in fields.items():
        said = SCHEMA["properties"][name]
        stated = None if field.default in (msgspec.NODEFAULT, None, (), {}) else field.default
        assert said.get("default") == stated, name
        assert tuple(said.get("enum", ())) == CHOICES.get(field.name, ()), name
        assert said["description"], name


@pytest.mark.parametrize(
    "text",
    [
        "inputs: data/*.jsonl",
        "inputs: [a.jsonl, b.json]\neval: 500\nseed: 3",
        'stop: "<|im_end|>"\ntemplate-arg: {enable_thinking: false}',
        "eval: 0.02\nallow-dropped: [name, system]\nworkers: 2",
        "overlong: drop-turns\npacking: none\ntrain-on: last\nfresh: true",
        "clock: 2026-01-31",
    ],
)
def test_recipes_of_the_guide_are_taken_by_both(text: str) -> None:
    recipe = {**WHOLE, **yaml.safe_load(text)}
    assert takes(recipe)
    assert VALIDATOR.is_valid({key: str(value) if key == "clock" else value for key, value in recipe.items()})


def test_a_mixture_stands_in_place_of_inputs() -> None:
    sources = {"chat": {"inputs": "chat.jsonl", "weight": 0.7}, "code": {"inputs": ["c.jsonl"], "max-records": 5}}
    mixed = {key: value for key, value in WHOLE.items() if key != "inputs"} | {"sources": sources}
    for recipe, fits in ((mixed, True), ({**mixed, "inputs": ["a.jsonl"]}, False)):
        assert takes(recipe) is fits
        assert VALIDATOR.is_valid(recipe) is fits


@pytest.mark.parametrize(
    "wrong",
    [
        {"max-lenght": 64},
        {"max-length": 1},
        {"packing": "tight"},
        {"workers": 0},
        {"max-reject-rate": 1.5},
        {"allow-dropped": ["sytem"]},
        {"sources": {"chat": {"input": "a.jsonl"}}},
        {"columns": ["output"]},
    ],
    ids=str,
)
def test_a_wrong_recipe_is_refused_by_both(wrong: dict[str, Any]) -> None:
    assert not takes({**WHOLE, **wrong})
    assert not VALIDATOR.is_valid({**WHOLE, **wrong})
