"""Look at records and bins: the same stages as a run, for a few records, with nothing written.

What lives here: getting documents to show, from raw inputs or from a sealed dataset. What must not: printing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sftdata import formats, sources
from sftdata.config import PrepareConfig
from sftdata.errors import ConfigError, InputError, ShardError, describe
from sftdata.pipeline.harvest import is_error
from sftdata.pipeline.plan import read_inputs
from sftdata.pipeline.serving import Serving, settle_serving
from sftdata.records import DocFlag, Finding, RawRecord, Rejection
from sftdata.report.view import ShownDocument
from sftdata.rules import RULES
from sftdata.templates.contract import Contract
from sftdata.tokenizers import Encoder, choose_engine, load_files, load_vocabulary

__all__ = ["Looked", "look_at_bin", "look_at_record"]


class Looked(msgspec.Struct):
    """What there is to see of one record or one bin."""

    documents: list[ShownDocument]
    problems: list[str]
    """Why there is nothing to show, or what was found."""
    raw: Any = None
    """The raw record, for records."""
    serving: Any = None


def look_at_record(config: PrepareConfig, record_id: int, clock: str) -> Looked:
    """Take record `record_id` of the inputs through all stages. Raises InputError where there is no such record."""
    serving = settle_serving(config, clock)
    raw = _record(config, record_id)
    where = f"record {raw.record_id}, {raw.source}:{raw.line}"
    findings: list[Finding] = list(raw.findings)
    if any(map(is_error, findings)):
        return Looked([], _worded(findings), raw.raw, serving)
    options = formats.FormatOptions(config.input_format, config.columns, config.roles)
    conversation = formats.normalise(raw.value, options)
    findings += conversation.findings
    if isinstance(conversation, Rejection):
        return Looked([], _worded(findings), raw.value, serving)
    unrolled = Contract(serving.templates, serving.options).unroll(conversation)
    findings += unrolled.findings
    if isinstance(unrolled, Rejection):
        return Looked([], _worded(findings), raw.value, serving)
    encoded = _encoder(serving, config).encode(unrolled.examples)
    findings += [finding for _, finding in encoded.findings]
    findings += [finding for _, rejection in encoded.rejected for finding in rejection.findings]
    documents, at = [], 0
    for place, length in enumerate(encoded.lengths.tolist()):
        ids = encoded.input_ids[at : at + length].tolist()
        labels = encoded.labels[at : at + length].tolist()
        trained = sum(label != -100 for label in labels)
        title = f"example {place + 1} of {len(encoded.lengths)}: {where}, {length} tokens, {trained} trained"
        notes = (f"longer than --max-length {config.max_length}",) if length > config.max_length else ()
        documents.append(ShownDocument(title, ids, labels, notes))
        at += length
    return Looked(documents, _worded(findings), raw.value, serving)


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


def _record(config: PrepareConfig, record_id: int) -> RawRecord:
    with tempfile.TemporaryDirectory(prefix="sftdata-") as spool:
        inputs, units = read_inputs(config.inputs, Path(spool))
        for unit in units:
            for extent in unit.extents:
                if extent.first_record <= record_id < extent.first_record + extent.records:
                    return _read_one(inputs[extent.input].item, extent, record_id, Path(spool))
        total = sum(one.records for one in inputs)
    raise InputError(describe(f"there is no record {record_id}", expected=f"a record id from 0 to {total - 1}"))


def _read_one(item: sources.Input, extent: Any, record_id: int, spool: Path) -> RawRecord:
    blocks = sources.read(
        item,
        extent.start,
        extent.stop,
        first_record=extent.first_record,
        first_line=extent.first_line,
        spool=spool,
    )
    return next(raw for block in blocks for raw in block if raw.record_id == record_id)


def _worded(findings: list[Finding]) -> list[str]:
    return [
        f"{finding.code} {RULES[finding.code].name}: {finding.message}"
        + (f" at {finding.pointer}" if finding.pointer else "")
        + f". {finding.fix or RULES[finding.code].remedy}"
        for finding in findings
    ]


def look_at_bin(path: str, split: str, number: int, tokenizer: str | None) -> Looked:
    """The documents of bin `number` of a sealed dataset.

    `tokenizer` defaults to the one that the run's report names; either must be the very tokenizer of the manifest.
    Raises ShardError for a damaged dataset or a bin that is not there, ConfigError for another tokenizer.
    """
    from sftdata.shards import open_dataset

    dataset = open_dataset(path)
    vocabulary_of = _own_tokenizer(path, tokenizer, dataset.manifest.tokenizer["sha256"])
    row = _row(dataset, split, number)
    documents, at = [], 0
    names = list(_names(dataset.manifest.inputs))
    lengths = row["seq_lengths"].tolist()
    for place, length in enumerate(lengths):
        ids = row["input_ids"][at : at + length].tolist()
        labels = row["labels"][at : at + length].tolist()
        record, flags = int(row["record_ids"][place]), int(row["doc_flags"][place])
        trained = sum(label != -100 for label in labels)
        title = f"document {place + 1} of {len(lengths)}: {_origin(names, record)}, {length} tokens, {trained} trained"
        documents.append(ShownDocument(title, ids, labels, tuple(_flag_words(flags))))
        at += length
    return Looked(documents, [], None, vocabulary_of)


def _row(dataset: Any, split: str, number: int) -> dict[str, Any]:
    for place, row in enumerate(dataset.iter_rows(split)):
        if place == number:
            found: dict[str, Any] = row
            return found
    raise ShardError(describe(f"there is no bin {number} in {split}", where=str(dataset.path)))


def _own_tokenizer(path: str, tokenizer: str | None, expected: str) -> Any:
    address = tokenizer
    if address is None:
        report = Path(path) / "report.json"
        address = msgspec.json.decode(report.read_bytes()).get("tokenizer") if report.is_file() else None
    if address is None:
        raise ConfigError(describe("the dataset's tokenizer is not known", where=path, fix="Name it: --tokenizer T."))
    files = load_files(address)
    if files.sha256 != expected:
        raise ConfigError(
            describe("not the tokenizer of this dataset", where=address, expected=f"sha256 {expected[:16]}…")
        )
    return load_vocabulary(files)


def _names(inputs: list[dict[str, Any]]) -> Iterator[tuple[str, int, int]]:
    """(name, first record id, records) of every input."""
    first = 0
    for one in inputs:
        yield str(one["address"]), first, int(one["records"])
        first += int(one["records"])


def _origin(names: list[tuple[str, int, int]], record: int) -> str:
    for name, first, records in names:
        if first <= record < first + records:
            return f"record {record} ({name}, number {record - first + 1})"
    return f"record {record}"


def _flag_words(flags: int) -> Iterator[str]:
    words = {
        DocFlag.NO_STOP: "ends without a stop (cut)",
        DocFlag.CONTINUES: "continues a split text",
        DocFlag.TEXT: "text without roles",
        DocFlag.ONE_OF_SEVERAL: "one of several examples of its record",
    }
    return (text for bit, text in words.items() if flags & bit)
