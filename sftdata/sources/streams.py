"""What cannot be entered in the middle: compressed files, JSON documents, CSV, standard input, pipes.

Decoded once, in one pass, into the spool, from where units read. What lives here: that pass. What must not: how lines,
documents, rows and tables are told apart and read (each has its module).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from sftdata.durable import durable
from sftdata.errors import InputError, describe
from sftdata.records import Finding
from sftdata.sources import csv_rows, documents, tables
from sftdata.sources.compression import Decoded, magic_compression
from sftdata.sources.container import Container
from sftdata.sources.items import Chunk, Input, Scan
from sftdata.sources.lines import blocks
from sftdata.sources.making import lines_of, too_long
from sftdata.sources.opening import Hashed, peek, windows
from sftdata.sources.sniff import HEAD, delimiter, sniff
from sftdata.sources.spool import Spooled, SpoolWriter, spool_path

__all__ = ["scan"]

_TABLES = frozenset({"parquet", "arrow"})
_NAMED = frozenset({"csv", "tsv", "parquet", "arrow"})
"""Kinds that the name decides; JSON in all its forms is told by its content."""


def scan(item: Input, spool: Path) -> Scan:
    """Decode an input into the spool, hashing its raw bytes on the way.

    Raises InputError where it cannot be opened, is a table that cannot be, or CSV whose header cannot be used.
    """
    hashed = Hashed(windows(item))
    first, raw, _ = peek(hashed, 8)
    compression = magic_compression(first) if item.compression == "none" else item.compression
    decoded = Decoded(raw, compression)
    head, plain, whole = peek(decoded, HEAD)
    form = item.kind if item.kind in _NAMED else sniff(head, whole=whole)
    if form in _TABLES:
        with durable(tables.copy_path(spool, item)) as (path,), path.open("wb") as copy:
            copy.writelines(plain)
        chunks, findings = tables.cut(str(tables.copy_path(spool, item)), item)
        if decoded.fault:
            findings = [(1, Finding("SFT015", decoded.fault))]
    else:
        container = Container(decoded)
        try:
            found = _csv(head) if form == "csv" else _FORMS[form]
            chunks = _spooled(item, spool, found(plain, container))
        except csv_rows.BadHeader as error:
            raise InputError(describe(str(error), where=item.address, fix="Correct the header.")) from error
        findings = container.findings
    records = sum(chunk.records for chunk in chunks)
    return Scan(hashed.size, hashed.sha256, records, tuple(chunks), tuple(findings))


def _spooled(item: Input, spool: Path, found: Iterator[Spooled]) -> list[Chunk]:
    """Write the records to the spool; their chunks."""
    with durable(spool_path(spool, item)) as (path,), contextlib.closing(SpoolWriter(path)) as writer:
        for one in found:
            writer.add(one)
    return writer.chunks


def _csv(head: bytes) -> Callable[[Iterator[bytes], Container], Iterator[Spooled]]:
    """Rows as the header separates its columns: the decimal comma has some programs write semicolons."""
    return functools.partial(csv_rows.rows, delimiter=delimiter(head))


def _lines(windows: Iterator[bytes], container: Container) -> Iterator[Spooled]:
    """JSON Lines, block by block."""
    line = 1
    for block in blocks(windows):
        line = block.first_line
        if block.length:
            yield [line], [block.text], too_long(block.length)
            continue
        numbers, texts = lines_of(block)
        yield numbers, texts, None if block.ended else container.cut_record()
    container.close(line)


_FORMS: dict[str, Callable[[Iterator[bytes], Container], Iterator[Spooled]]] = {
    "lines": _lines,
    "list": documents.list_elements,
    "values": documents.values,
    "tsv": functools.partial(csv_rows.rows, delimiter="\t"),
}
"""How the records of a form are found; those of CSV depend on its header, and the other forms are tables."""
