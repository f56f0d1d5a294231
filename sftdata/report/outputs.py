"""The findings of a check in every form that people and machines ask for.

    human    grouped by rule, a few places each        json     one document     sarif   2.1.0, for code scanning
    concise  one line a finding                        jsonl    one object a line  junit  one test case a rule
    github   workflow commands

What lives here: the forms. What must not: deciding what counts (`verdict`). Text of the data is cleaned before it is
shown; machines get it as JSON or XML escapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import msgspec

from sftdata.report.terminal import clean, summary_lines
from sftdata.report.verdict import Policy, RuleStatus
from sftdata.rules import RULES
from sftdata.version import VERSION

__all__ = ["FORMATS", "Result", "limits"]

_PLACES, _MESSAGES = 5, 1000
_GITHUB_LIMIT = 10
"""GitHub shows ten annotations of a level and step; more are cut by it without a word."""
_SARIF_LIMIT = 5000
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}


class Result(msgspec.Struct):
    """A check that is decided."""

    findings: Callable[[], Iterable[Any]]
    """Those that count, in order; may be asked for more than once."""
    statuses: list[RuleStatus]
    policy: Policy
    report: dict[str, Any]
    full_address: dict[str, str]
    """Full addresses of inputs by their short names."""

    @property
    def failed(self) -> bool:
        """Whether any rule failed."""
        return any(one.status == "failed" for one in self.statuses)


def _place(found: Any) -> str:
    line = f":{found.line}" if found.line else ""
    pointer = f":{found.pointer}" if found.pointer else ""
    return f"{found.source or 'dataset'}{line}{pointer}"


def _row(result: Result, found: Any) -> dict[str, Any]:
    return {
        "code": found.code,
        "name": RULES[found.code].name,
        "severity": result.policy.severity(found.code),
        "message": found.message,
        "fix": found.fix or RULES[found.code].remedy,
        "file": result.full_address.get(found.source, found.source),
        "line": found.line or None,
        "pointer": found.pointer,
        "record_id": found.record_id,
    }


class _Told:
    """What one rule found, by message: how often, and the first places."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}
        self.places: dict[str, list[Any]] = {}
        self.fixes: set[str] = set()

    def add(self, found: Any) -> None:
        """Count one finding; of very many different messages the first are told apart."""
        if found.message not in self.count and len(self.count) >= _MESSAGES:
            return
        self.count[found.message] = self.count.get(found.message, 0) + 1
        kept = self.places.setdefault(found.message, [])
        if len(kept) < _PLACES:
            kept.append(found)
        if found.fix:
            self.fixes.add(found.fix)

    def lines(self) -> Iterator[tuple[str, int]]:
        """Messages, the most frequent first, each with a few places; and how many findings a line stands for."""
        for message, count in sorted(self.count.items(), key=lambda pair: -pair[1])[:_PLACES]:
            first, *others = self.places[message]
            more = [_beside(first, other) for other in others]
            rest = f" and {count - 1 - len(others):,} more" if count > 1 + len(others) else ""
            listed = f"  (also {clean(', '.join(more))}{rest})" if more else ""
            yield f"{clean(_place(first))}  {clean(message)}{listed}", count


def _beside(first: Any, other: Any) -> str:
    """A further place, less what it shares with the first."""
    if other.source != first.source:
        return f"{other.source or 'dataset'}:{other.line}"
    return f":{other.line}" if other.line != first.line else other.pointer


def _human(result: Result) -> Iterator[str]:
    told: dict[str, _Told] = {}
    for found in result.findings():
        told.setdefault(found.code, _Told()).add(found)
    order = {"error": 0, "warning": 1, "info": 2}
    for one in sorted(result.statuses, key=lambda one: (order[one.severity], -one.count, one.code)):
        if not one.count:
            continue
        mark = "✗" if one.status == "failed" else "·"
        rate = f" ({one.rate:.2%} of records)" if one.of_records else ""
        yield f"{mark} {one.code} {one.name}  {one.severity}, {one.count:,}{rate}"
        shown = 0
        for line, count in told[one.code].lines():
            yield f"    {line}"
            shown += count
        if one.count > shown:
            yield f"    … {one.count - shown:,} more: --format concise --select {one.code}"
        fixes = told[one.code].fixes
        yield f"    fix: {clean(' '.join(sorted(fixes))) if len(fixes) == 1 else RULES[one.code].remedy}"
    yield from _closing(result)


def limits(result: Result) -> list[str]:
    """What was not looked at, a line each: every form of output says it, or the command does beside it."""
    reasons: dict[str, list[str]] = {}
    for one in result.statuses:
        if one.status != "passed" and one.reason:
            reasons.setdefault(one.reason, []).append(one.code)
    lines = []
    for why, codes in reasons.items():
        listed = ", ".join(codes[:3]) + (f" and {len(codes) - 3} more" if len(codes) > 3 else "")
        lines.append(f"skipped {listed}: {why}")
    sample = result.report.get("sample")
    if sample:
        lines.append(f"sampled {sample['records']:,} of {sample['of']:,} records; the rest was not looked at")
    return lines


def _closing(result: Result) -> Iterator[str]:
    report = result.report
    if report.get("tokenized"):
        yield from summary_lines(report)
    else:
        records = report["ledger"]["records"]
        yield f"  records   {records['read']:>12,} read, {records['rejected']:,} cannot be used"
    for line in limits(result):
        name, _, rest = line.partition(" ")
        yield f"  {name:<9} {rest}"
    if report.get("eval_overlap"):
        overlap = report["eval_overlap"]
        yield f"  eval set  {overlap['touched']:,} of {overlap['items']:,} items are touched by the data"
    for note in report.get("notes", []):
        yield f"  note      {clean(note)}"
    failed = [one for one in result.statuses if one.status == "failed"]
    passed = sum(one.status in {"passed", "sampled"} and not one.count for one in result.statuses)
    found = sum(bool(one.count) for one in result.statuses) - sum(bool(one.count) for one in failed)
    verdict = f"FAILED: {', '.join(one.code for one in failed)}" if failed else "passed"
    skipped = sum(one.status == "skipped" for one in result.statuses)
    yield f"{verdict} ({passed} rules found nothing, {found} found something below the bar, {skipped} skipped)"


def _concise(result: Result) -> Iterator[str]:
    for found in result.findings():
        severity = result.policy.severity(found.code)
        yield f"{clean(_place(found))}: {found.code} [{severity}] {clean(found.message)}"


def _json(result: Result) -> Iterator[str]:
    document = {
        "version": VERSION,
        "passed": not result.failed,
        "rules": [msgspec.to_builtins(one) for one in result.statuses],
        "findings": [_row(result, found) for found in result.findings()],
        "report": result.report,
    }
    yield json.dumps(document, indent=2, ensure_ascii=True)


def _jsonl(result: Result) -> Iterator[str]:
    for found in result.findings():
        yield json.dumps(_row(result, found), ensure_ascii=True)


def _github(result: Result) -> Iterator[str]:
    counts: dict[str, int] = {}
    for found in result.findings():
        level = {"error": "error", "warning": "warning", "info": "notice"}[result.policy.severity(found.code)]
        counts[level] = counts.get(level, 0) + 1
        if counts[level] <= _GITHUB_LIMIT:
            row = _row(result, found)
            where = f"file={_property(str(row['file']))},line={found.line or 1}," if found.source else ""
            title = _property(f"{found.code} {row['name']}")
            at = f" at {found.pointer}" if found.pointer else ""
            told = _data(f"{found.message}{at}. {row['fix']}")
            yield f"::{level} {where}title={title}::{told}"
    for line in limits(result):
        yield f"::notice title=sftdata::{_data(line)}"
    for level, count in counts.items():
        if count > _GITHUB_LIMIT:
            yield f"::notice title=sftdata::{count - _GITHUB_LIMIT} more findings of level {level} are not annotated"


def _data(text: str) -> str:
    return clean(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _sarif(result: Result) -> Iterator[str]:
    used = [one.code for one in result.statuses]
    places = {code: place for place, code in enumerate(used)}
    results: list[dict[str, Any]] = []
    left = 0
    for found in result.findings():
        if len(results) >= _SARIF_LIMIT:
            left += 1
            continue
        row = _row(result, found)
        at = f" at {found.pointer}" if found.pointer else ""
        one: dict[str, Any] = {
            "ruleId": found.code,
            "ruleIndex": places[found.code],
            "level": _LEVELS[row["severity"]],
            "message": {"text": f"{clean(found.message)}{at}. {row['fix']}"},
            "partialFingerprints": {"sftdata/v1": found.identity},
            "properties": {"record_id": found.record_id, "pointer": found.pointer},
        }
        if found.source:
            location: dict[str, Any] = {"artifactLocation": {"uri": _uri(str(row["file"]))}}
            if found.line:
                location["region"] = {"startLine": found.line}
            one["locations"] = [{"physicalLocation": location}]
        results.append(one)
    told = [*([f"{left} more findings were left out"] if left else []), *limits(result)]
    notes = [{"level": "warning", "message": {"text": line}} for line in told]
    run = {
        "tool": {
            "driver": {
                "name": "sftdata",
                "version": VERSION,
                "rules": [_sarif_rule(one) for one in result.statuses],
            }
        },
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    yield json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=True)


def _sarif_rule(one: RuleStatus) -> dict[str, Any]:
    rule = RULES[one.code]
    return {
        "id": one.code,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.detects},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.remedy}. Example: {rule.example}"},
        "defaultConfiguration": {"level": _LEVELS[one.severity]},
    }


def _uri(address: str) -> str:
    from pathlib import Path
    from urllib.parse import quote

    if "://" in address:
        return address
    path = Path(address)
    try:
        path = path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path.resolve().as_uri() if path.is_absolute() else quote(address)
    return quote(path.as_posix())


def _junit(result: Result) -> Iterator[str]:
    messages: dict[str, list[str]] = {}
    for found in result.findings():
        kept = messages.setdefault(found.code, [])
        if len(kept) < 100:
            kept.append(f"{clean(_place(found))}: {clean(found.message)}")
    failures = sum(one.status == "failed" for one in result.statuses)
    skipped = sum(one.status == "skipped" for one in result.statuses)
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    head = f'tests="{len(result.statuses)}" failures="{failures}" errors="0" skipped="{skipped}"'
    yield f'<testsuites {head}>\n<testsuite name="sftdata" {head} time="0">'
    if limits(result):
        listed = "".join(f'<property name="limit" value={quoteattr(line)}/>' for line in limits(result))
        yield f"<properties>{listed}</properties>"
    for one in result.statuses:
        case = f'<testcase classname="sftdata.{one.code[:4]}xx" name={quoteattr(f"{one.code} {one.name}")} time="0"'
        if one.status == "failed":
            told = quoteattr(f"{one.count} findings" if one.count else one.reason)
            body = escape("\n".join(messages.get(one.code, [])))
            yield f"{case}><failure message={told}>{body}</failure></testcase>"
        elif one.status == "skipped":
            yield f"{case}><skipped message={quoteattr(one.reason)}/></testcase>"
        elif one.count:
            yield f"{case}><system-out>{escape(chr(10).join(messages[one.code]))}</system-out></testcase>"
        else:
            yield f"{case}/>"
    yield "</testsuite>\n</testsuites>"


FORMATS: dict[str, Callable[[Result], Iterator[str]]] = {
    "human": _human,
    "concise": _concise,
    "json": _json,
    "jsonl": _jsonl,
    "github": _github,
    "sarif": _sarif,
    "junit": _junit,
}
"""Name of the form: the lines of it."""
