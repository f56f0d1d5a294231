"""The rows that the page of a check or a run shows, and the page itself.

    check   the first records of every rule and some at random, taken through the stages again
    run     documents at random, and those that were cut, read back from the shards; rejected records from their file

What lives here: choosing and preparing those rows. What must not: the page (`report.html`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sftdata import formats
from sftdata.durable import durable
from sftdata.pipeline.stages import blocks_of
from sftdata.pipeline.workshop import Workshop, open_workshop
from sftdata.records import DocFlag, RawRecord, Rejection
from sftdata.report.html import ShownRow, raw_row, render, shown_row
from sftdata.report.view import ShownDocument
from sftdata.rules import RULES
from sftdata.shards import DamageError, Dataset, Manifest
from sftdata.shards.store import open_store
from sftdata.tokenizers import ReferenceEngine

if TYPE_CHECKING:
    from sftdata.pipeline.check import Checked
    from sftdata.pipeline.serving import Serving

__all__ = ["Rejects", "run_page", "write_report"]

_A_RULE, _AT_RANDOM, _PLACES, _FIXES = 2, 12, 20, 2


def write_report(checked: Checked, result: Any, path: Path) -> None:
    """Write the page of a check that is decided."""
    places: dict[str, list[Any]] = {}
    found_in: dict[int, list[Any]] = {}
    for found in result.findings():
        kept = places.setdefault(found.code, [])
        if len(kept) < _PLACES:
            kept.append(found)
        wanted = sum(any(one.code == found.code for one in those) for those in found_in.values()) < _A_RULE
        if found.record_id is not None and (wanted or found.record_id in found_in):
            found_in.setdefault(found.record_id, []).append(found)
    rows: list[ShownRow] = []
    if checked.serving is not None:
        known = checked.records()["record_id"].tolist()
        for record in random.Random(0).sample(known, min(_AT_RANDOM, len(known))):  # noqa: S311 - a sample to look at
            found_in.setdefault(record, [])
        rows = list(_rows(checked, found_in))
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
    with durable(path) as (name,):
        name.write_text(render(report, rows, places), encoding="utf-8")


def _rows(checked: Checked, found_in: Mapping[int, Sequence[Any]]) -> Iterator[ShownRow]:
    plan, serving = checked.plan, checked.serving
    assert plan is not None
    assert serving is not None
    shop = open_workshop(plan, (serving.files, serving.vocabulary))
    decode, special = _decoder(serving)
    for unit in plan.units:
        wanted = {one for one in found_in if one in unit.record_ids}
        for block in blocks_of(plan, unit.index, checked.work) if wanted else ():
            for raw in block:
                if raw.record_id not in wanted:
                    continue
                codes, notes = _told(found_in[raw.record_id])
                documents = list(_documents(raw, shop))
                for document in documents:
                    shown = msgspec.structs.replace(document, notes=(*document.notes, *notes))
                    yield shown_row(shown, decode, special, codes)
                if not documents:
                    title = f"record {raw.record_id} ({shop.names.get(raw.source, raw.source)}:{raw.line})"
                    value = raw.value if raw.raw is None else raw.raw.decode("utf-8", "replace")
                    yield raw_row(title, value, codes, notes)
            wanted -= {raw.record_id for raw in block}
            if not wanted:
                break


def _told(findings: Sequence[Any]) -> tuple[list[str], tuple[str, ...]]:
    """The codes of some findings, and each in words."""
    codes = sorted({one.code for one in findings})
    words = (
        f"{one.code} {RULES[one.code].name}: {one.message}{f' at {one.pointer}' if one.pointer else ''}"
        for one in findings[:_PLACES]
    )
    return codes, tuple(words)


def _decoder(serving: Serving) -> tuple[Callable[[Sequence[int]], str], frozenset[int]]:
    """How ids are read, and which of them are control tokens."""
    engine = ReferenceEngine(serving.vocabulary)
    return lambda ids: engine.decode([ids])[0], frozenset(one.id for one in serving.vocabulary.added)


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


class Place(msgspec.Struct, frozen=True):
    """Where a rule found something in a record that is not written."""

    source: str
    line: int
    pointer: str
    message: str


class Rejects:
    """The first rejected records of every rule, picked from the lines of `rejected.jsonl`."""

    _LOOKED_AT = 5_000

    def __init__(self) -> None:
        self.places: dict[str, list[Place]] = {}
        self.rows: list[ShownRow] = []
        self._fixes: dict[str, Counter[str]] = {}
        self._seen = 0
        self._shown: dict[str, int] = {}

    def look(self, lines: bytes) -> None:
        """Take in the lines of one unit; after some thousand of a run nothing new is looked for."""
        start = 0
        while start < len(lines) and self._seen < self._LOOKED_AT:
            end = lines.index(b"\n", start)
            self._seen += 1
            self._take(lines[start:end])
            start = end + 1

    def fixes(self) -> dict[str, list[str]]:
        """What the records that were looked at may be helped by, a rule: the commonest first."""
        return {code: [fix for fix, _ in seen.most_common(_FIXES)] for code, seen in self._fixes.items()}

    def _take(self, line: bytes) -> None:
        import json  # records may hold lone surrogates, which faster parsers refuse

        reject = json.loads(line)
        findings = reject["findings"]
        for one in findings:
            self._fixes.setdefault(one["code"], Counter())[one["fix"]] += 1
            kept = self.places.setdefault(one["code"], [])
            if len(kept) < _PLACES:
                kept.append(Place(reject["source"], reject["line"], one["pointer"], one["message"]))
        codes = sorted({one["code"] for one in findings})
        if all(self._shown.get(code, 0) >= _A_RULE for code in codes):
            return
        for code in codes:
            self._shown[code] = self._shown.get(code, 0) + 1
        told = [f"{one['code']} {one['name']}: {one['message']}" for one in findings[:_PLACES]]
        value = reject.get("record", reject.get("raw", reject.get("raw_base64")))
        title = f"record {reject['record_id']} ({reject['source']}:{reject['line']})"
        self.rows.append(raw_row(title, value, codes, told))


def run_page(
    report: Mapping[str, Any], rejects: Rejects, manifest: Manifest | None, serving: Serving, address: str
) -> bytes:
    """The page of a run. `manifest`: of the shards that lie in their places at `address`; None where nothing is sealed.

    Reads a dozen row groups of them back, each verified; a store that cannot be read just now costs the rows, not the
    run. Raises DamageError where they are not what was written.
    """
    rows: list[ShownRow] = []
    if manifest is not None:
        decode, special = _decoder(serving)
        try:
            for document, codes in _sampled(Dataset(open_store(address), manifest)):
                rows.append(shown_row(document, decode, special, codes))
        except (OSError, DamageError) as error:
            if isinstance(error, DamageError) and error.problem.code != "SFT806":
                raise
            report = {**report, "notes": [*report["notes"], f"The rows could not be read back for this page: {error}"]}
    return render(report, [*rows, *rejects.rows], rejects.places).encode()


_CUT = {DocFlag.NO_STOP: "SFT610", DocFlag.CONTINUES: "SFT612"}


def _sampled(dataset: Dataset) -> Iterator[tuple[ShownDocument, list[str]]]:
    """Documents of random row groups: one at random of each, and the first that were cut."""
    from sftdata.pipeline.look_shards import names_of, shown_document

    rng = random.Random(0)  # noqa: S311 - a sample to look at
    groups = [(file, index) for file in dataset.files for index in range(len(file.row_groups))]
    names = names_of(dataset.manifest.inputs)
    shown: dict[str, int] = {}
    chosen = rng.sample(groups, min(_AT_RANDOM, len(groups)))
    share = -(-_AT_RANDOM // max(len(chosen), 1))
    for file, index in chosen:
        rows = dataset.read_row_group(file, index)
        count = len(rows.seq_lengths)
        at_random = set(rng.sample(range(count), min(share, count)))
        cut = [place for place in range(count) if int(rows.doc_flags[place]) & (DocFlag.NO_STOP | DocFlag.CONTINUES)]
        for place in sorted(at_random | set(cut[: 2 * _A_RULE])):
            flags = int(rows.doc_flags[place])
            codes = [code for bit, code in _CUT.items() if flags & bit]
            if place not in at_random and all(shown.get(code, 0) >= _A_RULE for code in codes):
                continue
            for code in codes:
                shown[code] = shown.get(code, 0) + 1
            yield shown_document(rows, place, names), codes
