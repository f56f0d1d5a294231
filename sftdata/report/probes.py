"""A probe as a table for people, and the findings about a template as lines.

What lives here: the words and their order. What must not: asking templates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sftdata.records import Finding
from sftdata.report.terminal import clean
from sftdata.rules import RULES
from sftdata.templates.lint import place_of
from sftdata.templates.probe import Answer, Probe

__all__ = ["finding_line", "finding_rows", "probe_lines", "worst"]

_HEADINGS = {
    "fields": "What it does with each part of a conversation",
    "roles": "Orders of turns",
    "history": "Earlier turns, once more is said",
    "prompt": "What it writes around them",
    "source": "Its source",
}
_DETAIL = 110


def probe_lines(probe: Probe, *, stand_ins: bool = False) -> list[tuple[str, str]]:
    """(line, outcome) of the table; the outcome, for its colour, is empty in headings."""
    counts = Counter(row.outcome for row in probe.answers if row.group != "source")
    told = ", ".join(f"{counts[word]} {word}" for word in ("kept", "altered", "dropped", "refused") if counts[word])
    lines = [(f"{clean(probe.name)}  sha256 {probe.sha256[:12]}  {told}", "heading")]
    width = max(len(row.question) for row in probe.answers)
    for group, heading in _HEADINGS.items():
        rows = [row for row in probe.answers if row.group == group]
        if rows:
            lines += [("", ""), (heading, "heading")]
            lines += [(_row(row, width), row.outcome) for row in rows]
    notes = _notes(probe)
    if stand_ins:
        notes.append("bos_token and eos_token stand in as <s> and </s>: name --tokenizer to see the real ones.")
    if notes:
        lines += [("", ""), ("What this means", "heading"), *((f"- {note}", "") for note in notes)]
    return lines


def _row(row: Answer, width: int) -> str:
    detail = "nothing" if row.detail == "''" else clean(row.detail.replace("\n", " "), limit=_DETAIL)
    return f"  {row.question:<{width}}  {row.outcome:<8}{f' {detail}' if detail else ''}".rstrip()


_LOSSES = (
    ("system", "system", "a system turn"),
    ("tools", "tools", "tools"),
    ("tool call", "tool_calls", "tool calls"),
    ("tool result", "tool_results", "tool results"),
    ("reasoning of the last reply", "reasoning", "reasoning"),
)


def _notes(probe: Probe) -> list[str]:
    """What `prepare` would do with records, as far as the answers decide it."""
    by_question = {row.question: row for row in probe.answers}
    if by_question["a plain chat"].outcome != "kept":
        return [f"A plain chat is {by_question['a plain chat'].outcome}: no record can be rendered as it is."]
    notes = []
    if by_question["tool call with arguments as text"].outcome == "kept":
        by_question["tool call"] = by_question["tool call with arguments as text"]  # prepare tries both forms
    block = by_question["a reasoning block ends its prompt"].detail
    dropped = [(field, words) for question, field, words in _LOSSES if by_question[question].outcome == "dropped"]
    if block.startswith("opened"):  # the reply begins inside it, whatever the rendered turn has
        dropped = [one for one in dropped if one[0] != "reasoning"]
        notes.append(
            "Its prompt opens a reasoning block: a reply without reasoning is refused (SFT317), unless "
            "--reasoning empty."
        )
    if block.startswith("closed") and ("reasoning", "reasoning") not in dropped:
        dropped.append(("reasoning", "reasoning (its prompt closes the block)"))
    if dropped:
        told = ", ".join(words for _, words in dropped)
        flags = " ".join(f"--allow-dropped {field}" for field, _ in dropped)
        notes.append(f"Lost without a word: {told}. prepare refuses such records (SFT308), unless {flags}.")
    arguments = by_question["takes arguments"].detail
    if arguments and (dropped or block):
        notes.append(f"Its arguments ({arguments}) may change that: --template-arg KEY=VALUE, as serving has it.")
    refused = [words for question, _, words in _LOSSES if by_question[question].outcome == "refused"]
    if refused:
        notes.append(f"Refused by the template: {', '.join(refused)} (SFT302).")
    history = by_question.get("earlier turns stay as they were")
    if history is not None and history.outcome == "no":
        notes.append("History is rewritten: a conversation of several turns becomes one example a turn (SFT307).")
    ending = by_question.get("what ends a reply stays as it was")
    if ending is not None and ending.outcome == "no":
        notes.append("The last reply ends otherwise than earlier ones: a turn's own end has to be a stop (--stop).")
    if by_question["text behind the last reply"].detail == "''":
        notes.append(
            "It writes nothing behind the last reply: what the next turn opens with has to be a stop (--stop), or "
            "--append-eos is needed (SFT413)."
        )
    if by_question["reads the clock"].outcome == "yes":
        notes.append("It prints the date: prepare fixes it with --clock, a server prints today's (SFT310).")
    return notes


# -- lint


def finding_rows(file: str, findings: Iterable[Finding]) -> list[dict[str, object]]:
    """The findings about one template as plain data."""
    rows: list[dict[str, object]] = []
    for finding in findings:
        line, message = place_of(finding)
        rule = RULES[finding.code]
        rows.append(
            {
                "file": file,
                "line": line,
                "severity": rule.severity,
                "code": rule.code,
                "name": rule.name,
                "message": message,
                "fix": finding.fix or rule.remedy,
            }
        )
    return rows


def finding_line(row: dict[str, object]) -> str:
    """`chat.jinja:12: error SFT322 template-syntax: unexpected end. Repair it.`, as compilers and editors have it."""
    place = str(row["file"]) if row["line"] is None else f"{row['file']}:{row['line']}"
    line = f"{place}: {row['severity']} {row['code']} {row['name']}: {row['message']}"
    fix = str(row["fix"])
    end = "" if fix.endswith((".", "?")) else "."
    return clean(line if row["severity"] == "info" else f"{line}. {fix[:1].upper()}{fix[1:]}{end}")


def worst(rows: Sequence[dict[str, object]]) -> str:
    """The gravest severity among `rows`; empty where there are none."""
    return next((one for one in ("error", "warning", "info") if any(row["severity"] == one for row in rows)), "")
