"""Addresses become inputs: globs, folders, standard input, remote stores, in an order that depends on names alone.

What lives here: finding files and telling kinds by name. What must not: reading records.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence

from sftdata.errors import InputError, describe
from sftdata.sources.items import Input
from sftdata.sources.opening import STDIN, filesystem, is_remote, real_path

__all__ = ["COMPRESSIONS", "KINDS", "resolve"]

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz"}
_NOT_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})


def resolve(inputs: Sequence[str]) -> list[Input]:
    """What the addresses name, in a fixed order: as given, and sorted by name within a folder or a glob.

    `resolve(["data/", "more/*.jsonl.gz", "-", "s3://bucket/a.parquet"])`. Raises InputError where an address names
    nothing (SFT011) or two name the same file.
    """
    found: list[Input] = []
    seen: dict[str, str] = {}
    for given in inputs:
        before = len(found)
        for address in _expand(given):
            location = address if is_remote(address) or address == STDIN else real_path(address)
            if location in seen:
                raise InputError(
                    describe("the same input is named twice", where=address, fix=f"It is in {seen[location]} already.")
                )
            seen[location] = given
            kind, compression = kind_of(address)
            found.append(Input(len(found), address, kind, compression, location))
        if len(found) == before:
            raise _nothing(given)
    if not found:
        raise _nothing("")
    return found


def _nothing(given: str) -> InputError:
    return InputError(
        describe(
            "SFT011: no input found",
            where=given,
            expected=f"a file, or a folder or glob with {', '.join(KINDS)} files in it",
            fix="Correct the path or glob.",
        )
    )


def kind_of(address: str) -> tuple[str, str]:
    """Kind and compression by name: `a.jsonl.gz` gives `("jsonl", "gzip")`, an unknown name `("stream", "none")`."""
    stem, suffix = os.path.splitext(address.lower())
    compression = COMPRESSIONS.get(suffix, "none")
    if compression != "none":
        suffix = os.path.splitext(stem)[1]
    return KINDS.get(suffix, "stream"), compression


def _expand(given: str) -> Iterator[str]:
    """The addresses that one given address stands for."""
    if given == STDIN:
        yield given
    elif is_remote(given):
        yield from _expand_remote(given)
    elif os.path.isdir(given):
        yield from _files_below(given)
    elif os.path.exists(given) or not glob.has_magic(given):
        if os.path.exists(given):
            yield given
    else:
        for path in sorted(glob.glob(given, recursive=True)):
            if os.path.isfile(path):
                yield path


def _files_below(folder: str) -> Iterator[str]:
    """Files of known kinds below a folder, sorted; nothing hidden."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_dir():
            yield from _files_below(entry.path)
        elif _is_data(entry.name):
            yield entry.path


def _is_data(name: str) -> bool:
    return name not in _NOT_DATA and kind_of(name)[0] != "stream"


def _expand_remote(given: str) -> Iterator[str]:
    system, path = filesystem(given)
    if glob.has_magic(path):
        names = [name for name in system.glob(path) if not system.isdir(name)]
    elif system.isdir(path):
        names = [name for name in system.find(path) if _is_data(name.rpartition("/")[2])]
    else:
        names = [path] if system.exists(path) else []
    yield from (system.unstrip_protocol(name) for name in sorted(names))
