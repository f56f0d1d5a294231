"""Look at records: the same stages as a run, for a few records, with nothing written.

    raw value ─► conversation ─► rendered text ─► ids and labels, each of them to be seen

What lives here: finding records of raw inputs and taking them through the stages. What must not: printing, shards
(`look_shards`).
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sftdata import formats
from sftdata.config import PrepareConfig
from sftdata.errors import InputError, describe
from sftdata.pipeline.harvest import is_error
from sftdata.pipeline.plan import Extent, PlannedInput, Unit, read_extent, read_inputs
from sftdata.pipeline.serving import Serving, settle_serving
from sftdata.records import Finding, RawRecord, Rejection, TextExample
from sftdata.report.view import ShownDocument
from sftdata.rules import RULES, rule
from sftdata.templates.contract import Contract
from sftdata.tokenizers import Encoder, choose_engine

__all__ = ["Looked", "Wanted", "look_at_records"]


class Looked(msgspec.Struct):
    """What there is to see of one record or one bin."""

    documents: list[ShownDocument]
    problems: list[str]
    """Why there is nothing to show, or what was found."""
    raw: Any = None
    """The raw record: its value, or its bytes where they could not be parsed."""
    serving: Any = None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which records to look at: one of these is set."""

    record: int | None = None
    line: int | None = None
    """The record that begins on this line of the first input."""
    rule: str | None = None
    """Records in which this rule found something; `number` of them."""
    random: bool = False
    """`number` records at random."""
    number: int = 3
    seed: int = 0


def look_at_records(config: PrepareConfig, wanted: Wanted, clock: str) -> Iterator[Looked]:
    """Take the wanted records of the inputs through all stages, one after another.

    Raises InputError where there is no such record, or the rule found nothing.
    """
    serving = settle_serving(config, clock)
    stages = Contract(serving.templates, serving.options), _encoder(serving, config)
    with tempfile.TemporaryDirectory(prefix="sftdata-") as spool:
        inputs, units = read_inputs(config.inputs, Path(spool))
        by_rule = _found_by(config, wanted) if wanted.rule is not None else {}
        for record_id in _ids(wanted, inputs, units, by_rule, Path(spool)):
            raw = _read_one(inputs, units, record_id, Path(spool))
            looked = _looked(raw, config, serving, stages)
            told = [one for one in by_rule.get(record_id, []) if one not in looked.problems]
            looked.problems = [*looked.problems, *told]
            yield looked


def _ids(
    wanted: Wanted, inputs: Sequence[PlannedInput], units: Sequence[Unit], by_rule: dict[int, list[str]], spool: Path
) -> list[int]:
    total = sum(one.records for one in inputs)
    if wanted.record is not None:
        if not 0 <= wanted.record < total:
            told = f"there is no record {wanted.record}"
            raise InputError(describe(told, expected=f"a record id from 0 to {total - 1}"))
        return [wanted.record]
    if wanted.line is not None:
        return [_at_line(wanted.line, inputs, units, spool)]
    if wanted.rule is not None:
        if not by_rule:
            code = rule(wanted.rule).code
            raise InputError(describe(f"{code} finds nothing in these records", where=", ".join(_named(inputs))))
        return sorted(by_rule)[: wanted.number]
    return sorted(random.Random(wanted.seed).sample(range(total), min(wanted.number, total)))  # noqa: S311 - to look at


def _named(inputs: Sequence[PlannedInput]) -> list[str]:
    return [one.name for one in inputs[:3]] + (["…"] if len(inputs) > 3 else [])


def _at_line(line: int, inputs: Sequence[PlannedInput], units: Sequence[Unit], spool: Path) -> int:
    """The record of the first input that begins on a line."""
    last = None
    for unit in units:
        for extent in unit.extents:
            if extent.input == 0:
                for raw in _read(inputs, extent, spool):
                    if raw.line == line:
                        return raw.record_id
                    last = raw.line
    told = f"no record begins on line {line}"
    raise InputError(describe(told, where=inputs[0].name, expected=f"lines that hold a record; the last is {last}"))


def _found_by(config: PrepareConfig, wanted: Wanted) -> dict[int, list[str]]:
    """The first records in which the rule found something, and what."""
    from sftdata.pipeline.check import check

    code = rule(str(wanted.rule)).code
    out: dict[int, list[str]] = {}
    with check(config, near_duplicates=code == "SFT702") as checked:
        for found in checked.findings():
            if found.code == code and found.record_id is not None:
                if len(out) == wanted.number and found.record_id not in out:
                    break
                out.setdefault(found.record_id, []).append(
                    *_worded([Finding(found.code, found.message, found.pointer, found.fix)])
                )
    return out


def _read_one(inputs: Sequence[PlannedInput], units: Sequence[Unit], record_id: int, spool: Path) -> RawRecord:
    extent = next(
        extent
        for unit in units
        for extent in unit.extents
        if extent.first_record <= record_id < extent.first_record + extent.records
    )
    return next(raw for raw in _read(inputs, extent, spool) if raw.record_id == record_id)


def _read(inputs: Sequence[PlannedInput], extent: Extent, spool: Path) -> Iterator[RawRecord]:
    return (raw for block in read_extent(inputs, extent, spool) for raw in block)


def _looked(raw: RawRecord, config: PrepareConfig, serving: Serving, stages: tuple[Contract, Encoder]) -> Looked:
    contract, encoder = stages
    findings: list[Finding] = list(raw.findings)
    value = raw.value if raw.raw is None else raw.raw
    if any(map(is_error, findings)):
        return Looked([], _refused(raw, findings), value, serving)
    options = formats.FormatOptions(config.input_format, config.columns, config.roles)
    conversation = formats.normalise(raw.value, options)
    findings += conversation.findings
    if isinstance(conversation, Rejection):
        return Looked([], _refused(raw, findings), value, serving)
    unrolled = contract.unroll(conversation)
    findings += unrolled.findings
    if isinstance(unrolled, Rejection):
        return Looked([], _refused(raw, findings), value, serving)
    encoded = encoder.encode(unrolled.examples)
    findings += [finding for _, finding in encoded.findings]
    findings += [finding for _, rejection in encoded.rejected for finding in rejection.findings]
    documents, at = [], 0
    for place, (length, owner) in enumerate(zip(encoded.lengths.tolist(), encoded.owners.tolist(), strict=True)):
        ids = encoded.input_ids[at : at + length].tolist()
        labels = encoded.labels[at : at + length].tolist()
        trained = sum(label != -100 for label in labels)
        title = f"example {place + 1} of {len(encoded.lengths)}: {_where(raw)}, {length} tokens, {trained} trained"
        notes = (f"longer than --max-length {config.max_length}",) if length > config.max_length else ()
        documents.append(ShownDocument(title, ids, labels, notes, _rendered(unrolled.examples[owner])))
        at += length
    return Looked(documents, _worded(findings), value, serving)


def _where(raw: RawRecord) -> str:
    return f"record {raw.record_id}, {raw.source}:{raw.line}"


def _refused(raw: RawRecord, findings: list[Finding]) -> list[str]:
    return [f"{_where(raw)}: not trained", *_worded(findings)]


def _rendered(example: TextExample) -> str:
    """The text that was encoded, without the marks around protected content."""
    return example.text.translate({ord(mark): None for mark in example.markers})


def _encoder(serving: Serving, config: PrepareConfig) -> Encoder:
    literals = "\0".join(text for template in serving.templates.values() for text in template.literals)
    return Encoder(
        serving.vocabulary,
        choose_engine(serving.vocabulary, config.engine_tokenizer),
        literals=[one.content for one in serving.vocabulary.added if one.content in literals],
        stop_tokens=serving.stop_tokens,
        eos_token=serving.special_tokens.get("eos_token"),
        allow_normalised=config.allow_normalised,
    )


def _worded(findings: list[Finding]) -> list[str]:
    return [
        f"{finding.code} {RULES[finding.code].name}: {finding.message}"
        + (f" at {finding.pointer}" if finding.pointer else "")
        + f". {finding.fix or RULES[finding.code].remedy}"
        for finding in findings
    ]
