"""Addresses become inputs: globs, folders, standard input, remote stores, in an order that depends on names alone.

What lives here: finding files and telling kinds by name. What must not: reading records.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence

import msgspec

from sftdata.errors import InputError, describe
from sftdata.sources import hub
from sftdata.sources.compression import magic_compression
from sftdata.sources.foreign import refuse_foreign
from sftdata.sources.items import Input
from sftdata.sources.opening import STDIN, filesystem, is_remote, peek, real_path, steadily, windows
from sftdata.sources.sniff import HEAD, sniff

__all__ = ["COMPRESSIONS", "KINDS", "resolve"]

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd", ".xz": "xz"}
_DOUBTFUL = frozenset({"jsonl", "json", "stream"})
_FORMS = {"lines": "jsonl", "list": "json", "values": "json"} | {
    name: name for name in ("csv", "tsv", "parquet", "arrow")
}
_START = 64
"""So many bytes of a file show whether it is what its name says."""
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
            item = _told_apart(_named(len(found), address))
            if item.location in seen:
                raise InputError(
                    describe(
                        "the same input is named twice",
                        where=address,
                        fix=f"{seen[item.location]} names it already: leave one out.",
                    )
                )
            seen[item.location] = given
            found.append(item)
        if len(found) == before:
            raise _nothing(given)
    if not found:
        raise _nothing("")
    return found


def _named(index: int, address: str) -> Input:
    """An input by its name alone."""
    if is_hub(address):
        hub.require(address)
        return Input(index, address, "hub", "none", address)
    if address == STDIN:
        return Input(index, address, "stream", "none", STDIN)
    kind, compression = kind_of(address)
    if is_remote(address):
        return Input(index, address, kind, compression, address)
    location = real_path(address)
    if os.path.isdir(location):
        hub.require(address)
        return Input(index, address, "saved", "none", location)
    if not os.path.isfile(location):  # a pipe has no path of its own, and can be read once only
        return Input(index, address, "stream", "none", address)
    return Input(index, address, kind, compression, location)


def _told_apart(item: Input) -> Input:
    """The input with its kind by content, where a first look does no harm and the name leaves room for doubt."""
    local = os.path.isfile(item.location)
    if item.compression != "none" or not (local or is_remote(item.location)):
        return item
    if item.kind not in _DOUBTFUL:
        if local:
            refuse_foreign(item.address, peek(windows(item, size=_START), _START)[0])
        return item
    head, _, whole = peek(windows(item, size=HEAD), HEAD)
    compression = magic_compression(head)
    if compression != "none":
        return msgspec.structs.replace(item, compression=compression)
    refuse_foreign(item.address, head)
    return msgspec.structs.replace(item, kind=_FORMS[sniff(head, whole=whole)])


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


def is_hub(address: str) -> bool:
    """Whether an address names a dataset on the hub: `hf:name[:split]`; `hf://` is a store of files."""
    return address.startswith(hub.PREFIX) and not is_remote(address)


def _expand(given: str) -> Iterator[str]:
    """The addresses that one given address stands for."""
    path = given.removeprefix("file://")
    if given == STDIN or is_hub(given):
        yield given
    elif is_remote(given):
        yield from _expand_remote(given)
    elif os.path.isdir(path):
        yield from _below(path)
    elif os.path.exists(path):
        yield path
    elif glob.has_magic(path):
        for match in sorted(glob.glob(path, recursive=True)):
            if not os.path.isdir(match):
                yield match


def _below(folder: str) -> Iterator[str]:
    """Files of known kinds below a folder, and saved datasets, sorted; nothing hidden."""
    if hub.is_saved(folder):
        yield folder
        return
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith((".", "_")):
            continue
        if os.path.isdir(path):
            yield from _below(path)
        elif _is_data(name):
            yield path


def _is_data(name: str) -> bool:
    return name not in _NOT_DATA and kind_of(name)[0] != "stream"


def _expand_remote(given: str) -> Iterator[str]:
    system, path = filesystem(given)

    def found() -> list[str]:
        if glob.has_magic(path):
            return [name for name in system.glob(path) if not system.isdir(name)]
        if system.isdir(path):
            return [name for name in system.find(path) if _is_data(name.rpartition("/")[2])]
        return [path] if system.exists(path) else []

    try:
        names = steadily(found)
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        raise InputError(
            describe(f"cannot be listed: {why}", where=given, fix="Check the address and access.")
        ) from error
    yield from (system.unstrip_protocol(name) for name in sorted(names))
