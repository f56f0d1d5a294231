"""The catalogue of rules for people: on a terminal, and as the page `docs/rules.md`.

What lives here: laying out what `sftdata.rules` says. What must not: a word about any rule. The page is written by
`python -m sftdata.report.rules` and held to the catalogue by a test.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from sftdata.rules import RULES, Rule

__all__ = ["explained", "listed", "page"]

FAMILIES = {
    "0": "Input and encoding",
    "1": "Schema and roles",
    "3": "Template",
    "4": "Tokens",
    "5": "Mask and stop",
    "6": "Length and packing",
    "7": "Dataset",
    "8": "Shards",
}
FOUND_BY = {
    "row": "every record, in `prepare` and `check`",
    "text": "every conversation, in `check`",
    "dataset": "the records together, in `check` (duplicates also in `dedup`)",
    "start": "before the first record is read",
    "template": "`template lint` and `template probe`",
    "verify": "`verify`, and the reader of shards",
    "law": "nobody has to: it cannot happen in what sftdata writes, and a property test holds that",
    "reserved": "nobody yet: the number is taken",
}


def explained(one: Rule) -> str:
    """One rule on a terminal, some ten lines."""
    lines = [f"{one.code} {one.name}  [{one.severity}{', fixable' if one.fixable else ''}]", ""]
    parts = {
        "What": one.detects,
        "Why": one.why,
        "Example": one.example,
        "Fix": one.remedy,
        "Found by": FOUND_BY[one.found_by],
        "Evidence": one.evidence,
    }
    for title, text in parts.items():
        if text:
            lines.append(textwrap.fill(f"{title + ':':<10}{text}", 100, subsequent_indent=" " * 10))
    return "\n".join(lines)


def listed(rules: Iterable[Rule]) -> str:
    """One line a rule."""
    return "\n".join(f"{one.code}  {one.severity:<8} {one.name:<32} {one.detects}" for one in rules)


def page() -> str:
    """All rules as Markdown: a table of contents by family, then one entry a rule."""
    parts = [_HEAD]
    for digit, title in FAMILIES.items():
        family = [one for one in RULES.values() if one.code[3] == digit]
        rows = "\n".join(
            f"| [{one.code}](#{one.code.lower()}) | {one.name} | {one.severity} | {_cell(one.detects)} |"
            for one in family
        )
        entries = "\n".join(map(_entry, family))
        parts.append(f"## {title}\n\n| code | name | severity | finds |\n|---|---|---|---|\n{rows}\n\n{entries}")
    return "\n".join(parts)


_HEAD = """# Rules

Written from `sftdata/rules.json` by `python -m sftdata.report.rules`; edit that file, not this page. A code never
changes its meaning. `sftdata rule CODE` prints an entry.

- **error**: what it was found in is not written, and `check` exits with 1.
- **warning**, **info**: counted and reported; `check --fail-on` decides what they mean for the exit code.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _entry(one: Rule) -> str:
    lines = [
        f'### <a id="{one.code.lower()}"></a>{one.code} {one.name}',
        "",
        f"{one.severity}{', fixable' if one.fixable else ''}. Found by {FOUND_BY[one.found_by]}.",
        "",
        f"- **What**: {one.detects}",
        f"- **Why**: {one.why}",
        f"- **Example**: {one.example}",
        f"- **Fix**: {one.remedy}",
    ]
    if one.evidence:
        lines.append(f"- **Evidence**: {one.evidence}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(page(), end="")
