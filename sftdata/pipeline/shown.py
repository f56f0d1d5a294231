"""The rows that a check's report shows: the first of every rule, and some at random; taken through the stages again.

What lives here: choosing and preparing those rows, and writing the file. What must not: the page (`report.html`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftdata import formats
from sftdata.pipeline.stages import blocks_of
from sftdata.pipeline.workshop import Workshop, open_workshop
from sftdata.records import RawRecord, Rejection
from sftdata.report.html import ShownRow, render, shown_row
from sftdata.report.view import ShownDocument
from sftdata.tokenizers import ReferenceEngine

if TYPE_CHECKING:
    from sftdata.pipeline.check import Checked

__all__ = ["write_report"]

_A_RULE, _AT_RANDOM, _PLACES = 2, 12, 20


def write_report(checked: Checked, result: Any, path: Path) -> None:
    """Write the page of a check that is decided."""
    places: dict[str, list[Any]] = {}
    rules: dict[int, set[str]] = {}
    for found in result.findings():
        kept = places.setdefault(found.code, [])
        if len(kept) < _PLACES:
            kept.append(found)
        wanted = sum(found.code in codes for codes in rules.values()) < _A_RULE
        if found.record_id is not None and (wanted or found.record_id in rules):
            rules.setdefault(found.record_id, set()).add(found.code)
    rows: list[ShownRow] = []
    if checked.serving is not None:
        known = checked.records()["record_id"].tolist()
        for record in random.Random(0).sample(known, min(_AT_RANDOM, len(known))):  # noqa: S311 - a sample to look at
            rules.setdefault(record, set())
        rows = list(_rows(checked, rules))
    counted = {one.code: one for one in result.statuses if one.count}
    reasons: dict[str, list[str]] = {}
    for one in result.statuses:
        if one.status == "skipped":
            reasons.setdefault(one.reason, []).append(one.code)
    report = {
        **checked.report,
        "rules": {
            code: {**checked.report["rules"][code], "severity": one.severity, "count": one.count}
            for code, one in counted.items()
        },
        "failed": [one.code for one in result.statuses if one.status == "failed"],
        "skipped": [(", ".join(codes), why) for why, codes in reasons.items()],
    }
    path.write_text(render(report, rows, places), encoding="utf-8")


def _rows(checked: Checked, rules: dict[int, set[str]]) -> Iterator[ShownRow]:
    plan, serving = checked.plan, checked.serving
    assert plan is not None
    assert serving is not None
    shop = open_workshop(plan, (serving.files, serving.vocabulary))
    engine = ReferenceEngine(serving.vocabulary)
    special = frozenset(one.id for one in serving.vocabulary.added)
    for unit in plan.units:
        wanted = {one for one in rules if unit.first_record <= one < unit.first_record + unit.records}
        for block in blocks_of(plan, unit.index, checked.work) if wanted else ():
            for raw in block:
                if raw.record_id in wanted:
                    for document in _documents(raw, shop):
                        yield shown_row(
                            document, lambda ids: engine.decode([ids])[0], special, sorted(rules[raw.record_id])
                        )
            wanted -= {raw.record_id for raw in block}
            if not wanted:
                break


def _documents(raw: RawRecord, shop: Workshop) -> Iterator[ShownDocument]:
    """The documents of one record; none where it is rejected."""
    if raw.value is None:
        return
    conversation = formats.normalise(raw.value, shop.format_options(raw.source))
    if isinstance(conversation, Rejection):
        return
    unrolled = shop.contract.unroll(conversation)
    if isinstance(unrolled, Rejection):
        return
    encoded = shop.encoder.encode(unrolled.examples)
    at = 0
    for place, length in enumerate(encoded.lengths.tolist()):
        labels = encoded.labels[at : at + length].tolist()
        trained = sum(label != -100 for label in labels)
        example = f", example {place + 1} of {len(encoded.lengths)}" if len(encoded.lengths) > 1 else ""
        where = f"record {raw.record_id} ({shop.names.get(raw.source, raw.source)}:{raw.line}){example}"
        ids = encoded.input_ids[at : at + length].tolist()
        yield ShownDocument(f"{where}: {length:,} tokens, {trained:,} trained", ids, labels)
        at += length
