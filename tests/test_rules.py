"""The catalogue of rules: one source, complete, never renumbered, and the same in code, docs and command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from sftdata.errors import ConfigError
from sftdata.report.rules import FAMILIES, FOUND_BY, page
from sftdata.rules import RULES, Rule, rule
from sftdata_cli.rule import command

ROOT = Path(__file__).resolve().parents[1]
LOCK = Path(__file__).with_name("rules.lock")
NOT_LOOKED_FOR = {"law", "reserved"}


def emitted() -> Iterator[tuple[str, str]]:
    """(code, file) of every code that the library or a schema spells."""
    for folder, pattern in (("sftdata", "*.py"), ("schemas", "*.schema.json")):
        for path in (ROOT / folder).rglob(pattern):
            if path != ROOT / "sftdata" / "rules.py":
                for code in re.findall(r"SFT\d{3}", path.read_text(encoding="utf-8")):
                    yield code, str(path.relative_to(ROOT))


def test_every_code_that_the_library_spells_is_in_the_catalogue() -> None:
    unknown = {(code, path) for code, path in emitted() if code not in RULES}
    assert not unknown


def test_every_rule_that_claims_a_check_has_one() -> None:
    spelled = {code for code, _ in emitted()}
    silent = {code for code, one in RULES.items() if one.found_by not in NOT_LOOKED_FOR and code not in spelled}
    assert not silent, "found_by says that something looks for these; nothing does"


def test_a_code_never_changes_its_name() -> None:
    locked = dict(line.split() for line in LOCK.read_text(encoding="utf-8").splitlines())
    changed = {code: name for code, name in locked.items() if RULES[code].name != name}
    assert not changed
    assert set(RULES) == set(locked), "add new rules to tests/rules.lock; never remove one"


def test_codes_are_in_order_and_names_are_unique() -> None:
    assert list(RULES) == sorted(RULES)
    assert len({one.name for one in RULES.values()}) == len(RULES)


@pytest.mark.parametrize("one", RULES.values(), ids=RULES)
def test_a_rule_says_what_why_and_what_to_do(one: Rule) -> None:
    assert re.fullmatch(r"SFT[0-8]\d\d", one.code)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", one.name)
    assert one.code[3] in FAMILIES
    assert one.found_by in FOUND_BY
    assert min(map(len, (one.detects, one.why, one.example, one.remedy))) > 4
    assert one.why.endswith(".")


def test_the_page_is_the_catalogue() -> None:
    assert (ROOT / "docs" / "rules.md").read_text(encoding="utf-8") == page(), (
        "run: python -m sftdata.report.rules > docs/rules.md"
    )


def test_a_rule_is_found_by_code_in_any_case_and_by_name() -> None:
    assert rule("sft403") is rule("missing-stop-on-turn") is RULES["SFT403"]
    with pytest.raises(ConfigError, match="did you mean SFT403"):
        rule("SFT4033")


def test_the_command_explains_a_rule_and_gives_it_as_json() -> None:
    human = CliRunner().invoke(command, ["SFT707"])
    assert human.exit_code == 0
    assert "secret-or-pii" in human.output
    assert RULES["SFT707"].why in human.output
    machine = json.loads(CliRunner().invoke(command, ["SFT707", "--format", "json"]).output)
    assert machine["name"] == "secret-or-pii"
    assert len(json.loads(CliRunner().invoke(command, ["--format", "json"]).output)) == len(RULES)
