"""Every check of the tools that people use before training has a rule here, tried with an example."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sftdata.config import build_config
from sftdata.pipeline.check import check
from sftdata.rules import RULES


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sftdata_superset", Path(__file__).with_name("superset.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


superset = _load()
TRIED = [one for one in superset.CHECKS if one.example]


@pytest.mark.parametrize("one", TRIED, ids=lambda one: f"{one.tool}: {one.what}")
def test_what_another_tool_finds_is_found(one: Any, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(one.example)
    options = {"tokenizer": "builtin", "template": "chatml", "max_length": 4096, **one.options}
    with check(build_config({"inputs": (str(path),), "out": "-", **options})) as checked:
        codes = {found.code for found in checked.findings()}
    assert one.rule in codes, f"found instead: {sorted(codes)}"


def test_every_row_names_a_rule() -> None:
    assert {one.rule for one in superset.CHECKS} <= set(RULES) | {"stats", "report"}


def test_the_page_is_the_table() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "rules-of-others.md"
    assert page.read_text(encoding="utf-8") == superset.table(), (
        "python tests/checks/superset.py > docs/rules-of-others.md"
    )
