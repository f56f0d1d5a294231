"""Fault injection: every fault is found under its rule, and its clean twin has none of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sftdata.rules import RULES


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sftdata_faults", Path(__file__).with_name("faults.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


faults = _load()
CASES = faults.CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_a_planted_fault_is_found_and_clean_records_have_none(case: object, tmp_path: Path) -> None:
    hit = faults.found(case, case.faulty, tmp_path)  # type: ignore[attr-defined]
    miss = faults.found(case, case.clean, tmp_path)  # type: ignore[attr-defined]
    assert hit.get(case.code), f"found instead: {hit}"  # type: ignore[attr-defined]
    assert not miss.get(case.code)  # type: ignore[attr-defined]


def test_every_rule_that_a_check_looks_for_is_tried_or_said_not_to_be() -> None:
    looked_for = {code for code, one in RULES.items() if one.found_by in {"row", "text", "dataset", "start"}}
    cases = {case.code for case in CASES}
    assert looked_for == cases | faults.ELSEWHERE | faults.UNTRIED
    assert not cases & (faults.ELSEWHERE | faults.UNTRIED)
    assert not faults.ELSEWHERE & faults.UNTRIED


def test_rules_tried_elsewhere_are_named_there() -> None:
    here = Path(__file__).parent
    tests = [path for path in here.parent.rglob("*.py") if here not in path.parents]
    spelled = "".join(path.read_text(encoding="utf-8") for path in tests)
    assert not {code for code in faults.ELSEWHERE if code not in spelled}


def test_the_page_lists_every_case() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "rules-tested.md").read_text(encoding="utf-8")
    listed = [line.split(" | ")[:3] for line in page.splitlines() if line.startswith("| SFT")]
    wanted = [[f"| {case.code}", RULES[case.code].name, case.planted] for case in CASES]
    assert listed == wanted, "run: python tests/checks/faults.py > docs/rules-tested.md"
