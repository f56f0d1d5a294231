"""The catalogue of rules as data: the one source of codes, names, severities and remedies.

What lives here: the type of a rule, the table (read from `rules.json`, which is what to edit) and look-ups in it. What
must not: any check. A code never changes its meaning; a rule that goes away leaves its number unused. First digit: 0
input, 1 schema and roles, 3 template, 4 tokens, 5 mask and stop, 6 length and packing, 7 dataset, 8 shards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from sftdata.errors import ConfigError, describe, nearest

__all__ = ["RULES", "FoundBy", "Rule", "Severity", "rule"]

Severity = Literal["error", "warning", "info"]
FoundBy = Literal["row", "text", "dataset", "start", "template", "verify", "law", "reserved"]
"""Who finds it.

    row       every record's way to tokens, in `prepare` and `check`
    text      reading what the conversations say, in `check`
    dataset   looking at all records together, in `check` and `dedup`
    start     before the first record: inputs, tokenizer, template, a resumed run
    template  `template lint` and `template probe`
    verify    `verify`, and the reader of shards
    law       cannot happen in what sftdata writes: a property test holds it
    reserved  the number is taken and nothing looks for it
"""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule. `code` is stable for ever, `name` is its kebab-case reading."""

    code: str
    name: str
    severity: Severity
    """`error`: what it was found in is not written. `warning` and `info` are counted and reported."""
    found_by: FoundBy
    detects: str
    why: str
    """What happens to a model, or to its maker, where this goes unnoticed."""
    example: str
    """The fault, and behind an arrow what it should be, in Markdown."""
    remedy: str
    evidence: str = ""
    """Public threads, papers or tools that show why the rule exists."""
    fixable: bool = False
    """A repair exists that cannot change what the record says."""


_TABLE: tuple[Rule, ...] = msgspec.json.decode(Path(__file__).with_suffix(".json").read_bytes(), type=tuple[Rule, ...])

RULES: dict[str, Rule] = {entry.code: entry for entry in _TABLE}


def rule(code_or_name: str) -> Rule:
    """The rule with this code (`SFT403`, in any case) or name (`missing-stop-on-turn`).

    Raises ConfigError, naming the nearest, where there is none.
    """
    wanted = RULES.get(code_or_name.upper())
    if wanted is None:
        wanted = next((entry for entry in _TABLE if entry.name == code_or_name.lower()), None)
    if wanted is None:
        known = [*RULES, *(entry.name for entry in _TABLE)]
        raise ConfigError(describe(f"no rule {code_or_name!r}", fix=nearest(code_or_name, known)))
    return wanted
