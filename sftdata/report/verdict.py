"""What findings mean: which rules count, how severe they are, how often they may occur, and so the exit code.

    finding ─ select, baseline ─► counted under its rule ─ max_rate, fail_on ─► passed | failed | skipped | sampled

What lives here: that policy and its two files (the `rules` of a configuration, the baseline). What must not: finding
anything, printing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from sftdata.durable import durable
from sftdata.errors import ConfigError, describe, nearest
from sftdata.rules import RULES, Severity

__all__ = ["PROFILES", "Policy", "RuleStatus", "Tally", "build_policy", "read_baseline", "write_baseline"]

Status = Literal["passed", "failed", "skipped", "sampled"]
_RANK = {"info": 0, "warning": 1, "error": 2}


class Located(Protocol):
    """What the policy must know of a finding."""

    @property
    def code(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def record_id(self) -> int | None: ...


One = TypeVar("One", bound=Located)


class RuleOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `rules:` in a configuration."""

    severity: Severity | None = None
    max_rate: float | None = None
    """The share of records that may have the finding before the rule fails."""


class Profile(msgspec.Struct, frozen=True):
    """Defaults for everything that was not said."""

    fail_on: str
    max_rate: float
    skipped_fails: bool


PROFILES = {
    "strict": Profile("warning", 0.0, True),
    "default": Profile("error", 0.0, False),
    "lenient": Profile("error", 0.05, False),
}
"""strict: warnings fail, and so does what could not be looked for. lenient: up to 5 % of the records may be lost."""
_NO_SHARE = frozenset({"SFT015"})
"""A profile tolerates none of these: how many records a file that ends early has lost, nobody knows."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A resolved policy."""

    codes: frozenset[str]
    severities: dict[str, Severity]
    max_rates: dict[str, float]
    fail_on: str
    skipped_fails: bool
    baseline: frozenset[str] = frozenset()

    def severity(self, code: str) -> Severity:
        """The severity of a rule under this policy."""
        return self.severities.get(code, RULES[code].severity)

    def fails(self, code: str) -> bool:
        """Whether findings of this rule can fail the check."""
        return _RANK[self.severity(code)] >= _RANK[self.fail_on]

    def chosen(self, findings: Iterable[One]) -> Iterator[One]:
        """The findings that count: of a selected rule, and not in the baseline."""
        for found in findings:
            if found.code in self.codes and f"{found.code}:{found.identity}" not in self.baseline:
                yield found


class RuleStatus(msgspec.Struct, frozen=True):
    """What became of one rule."""

    code: str
    name: str
    severity: Severity
    status: Status
    count: int
    rate: float
    """Records with a finding, of those that were looked at; 1 where the finding is about the inputs as a whole."""
    reason: str = ""
    of_records: bool = False
    """Whether all its findings are in records."""


class Tally:
    """Counts findings by rule, and then gives the verdict."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.counts: dict[str, int] = {}
        self._records: dict[str, int] = {}
        self._last: dict[str, int | None] = {}

    def add(self, found: Located) -> None:
        """Count one finding; those of a rule come in the order of their records."""
        code = found.code
        self.counts[code] = self.counts.get(code, 0) + 1
        if found.record_id is None or self._last.get(code, -1) != found.record_id:
            self._records[code] = self._records.get(code, 0) + 1
        if self._last.get(code, -1) is not None:
            self._last[code] = found.record_id  # None stays: the rule has a finding about the inputs as a whole

    def _rate(self, code: str, records: int) -> float:
        """The share of records with a finding of this rule."""
        if self._last.get(code, -1) is None:
            return 1.0
        return self._records.get(code, 0) / records if records else 0.0

    def statuses(self, records: int, skipped: Mapping[str, str], *, sampled: bool) -> list[RuleStatus]:
        """Every selected rule with its status; `skipped` maps codes, or beginnings of codes, to why."""
        out = []
        for code in sorted(self.policy.codes):
            one = RULES[code]
            count = self.counts.get(code, 0)
            rate = self._rate(code, records)
            reason = next((why for begin, why in skipped.items() if code.startswith(begin)), "")
            status: Status = "sampled" if sampled else "passed"
            if count and self.policy.fails(code) and rate > self.policy.max_rates.get(code, 0.0):
                status, reason = "failed", ""
            elif count:
                reason = ""
            elif reason:
                status = "failed" if self.policy.skipped_fails and one.severity != "info" else "skipped"
            of_records = bool(count) and self._last.get(code, -1) is not None
            severity = self.policy.severity(code)
            out.append(RuleStatus(code, one.name, severity, status, count, round(rate, 6), reason, of_records))
        return out


def build_policy(
    *,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    extend_select: Iterable[str] = (),
    rules: Mapping[str, Any] | None = None,
    profile: str = "default",
    fail_on: str | None = None,
    baseline: str | None = None,
) -> Policy:
    """The policy that flags and configuration ask for.

    `select`, `ignore` and `extend_select` take codes, names and beginnings of codes (`SFT7`). Rules that nobody looks
    for are never in a policy. Raises ConfigError for a name that is no rule, a profile or an option that is none.
    """
    if profile not in PROFILES:
        raise ConfigError(describe(f"no profile {profile!r}", fix=nearest(profile, PROFILES)))
    defaults = PROFILES[profile]
    looked_for = frozenset(code for code, one in RULES.items() if one.found_by in {"row", "text", "dataset", "start"})
    codes = _matching(select) if select else looked_for
    codes = ((codes | _matching(extend_select)) - _matching(ignore)) & looked_for
    severities: dict[str, Severity] = {}
    max_rates = {code: 0.0 if code in _NO_SHARE else defaults.max_rate for code in codes}
    for name, value in (rules or {}).items():
        try:
            options = msgspec.convert(value, RuleOptions)
        except msgspec.ValidationError as error:
            raise ConfigError(describe(f"wrong options for rule {name!r}: {error}", where="rules")) from error
        for code in _matching([name]):
            if options.severity is not None:
                severities[code] = options.severity
            if options.max_rate is not None:
                max_rates[code] = options.max_rate
    return Policy(
        codes=codes,
        severities=severities,
        max_rates=max_rates,
        fail_on=fail_on or defaults.fail_on,
        skipped_fails=defaults.skipped_fails,
        baseline=read_baseline(baseline) if baseline else frozenset(),
    )


def _matching(names: Iterable[str]) -> frozenset[str]:
    """The codes that a list of codes, names and beginnings means."""
    out: set[str] = set()
    for name in names:
        found = {code for code, one in RULES.items() if code.startswith(name.upper()) or one.name == name.lower()}
        if not found or not name:
            known = [*RULES, *(one.name for one in RULES.values())]
            raise ConfigError(describe(f"no rule {name!r}", fix=nearest(name, known)))
        out |= found
    return frozenset(out)


def read_baseline(path: str) -> frozenset[str]:
    """The findings that a baseline forgives, as `code:identity`. Raises ConfigError where it is none."""
    try:
        value = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, list[str]])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            describe(f"not a baseline: {error}", where=path, fix="Write one: --write-baseline.")
        ) from error
    return frozenset(f"{code}:{identity}" for code, identities in value.items() for identity in identities)


def write_baseline(path: str, findings: Iterable[Located]) -> int:
    """Write a baseline that forgives `findings`; returns how many. It holds hashes, nothing of the data."""
    by_code: dict[str, set[str]] = {}
    for found in findings:
        by_code.setdefault(found.code, set()).add(found.identity)
    rows = {code: sorted(identities) for code, identities in sorted(by_code.items())}
    with durable(Path(path)) as (name,):
        name.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
    return sum(map(len, rows.values()))
