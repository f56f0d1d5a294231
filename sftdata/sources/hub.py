"""Datasets of the `datasets` library: a name on the hub, or a folder that `save_to_disk` wrote.

What lives here: opening them through that library (extra `[hub]`) and spooling their rows. What must not: other files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sftdata.durable import durable
from sftdata.errors import ConfigError, InputError, describe
from sftdata.records import Finding
from sftdata.sources.arrow_values import rows_of
from sftdata.sources.items import Input, Scan
from sftdata.sources.spool import SpoolWriter, spool_path

__all__ = ["PREFIX", "is_saved", "require", "scan"]

PREFIX = "hf:"
_BATCH = 256


def require(address: str) -> None:
    """Raise ConfigError where the `datasets` library is not installed."""
    _library(address)


def _library(address: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            describe("needs the datasets library", where=address, fix="Install it: pip install 'sftdata[hub]'.")
        ) from error
    return datasets


def is_saved(folder: str) -> bool:
    """Whether a folder was written by `save_to_disk` (one dataset, or several splits)."""
    present = [os.path.exists(os.path.join(folder, name)) for name in ("dataset_dict.json", "state.json")]
    return present[0] or (present[1] and os.path.exists(os.path.join(folder, "dataset_info.json")))


def scan(item: Input, spool: Path) -> Scan:
    """Spool the rows of a dataset. Size and hash are those of its decoded records, one JSON text a line."""
    dataset = _one_split(_load(item), item)
    digest = hashlib.sha256()
    size = 0
    with durable(spool_path(spool, item)) as (path,):
        writer = SpoolWriter(path)
        for line, raw, finding in _rows(dataset):
            digest.update(raw + b"\n")
            size += len(raw) + 1
            writer.add(([line], [raw], finding))
        writer.close()
    return Scan(size, digest.hexdigest(), sum(chunk.records for chunk in writer.chunks), tuple(writer.chunks))


def _load(item: Input) -> Any:
    """A dataset, or a dict of splits. Raises InputError with what the library says where it cannot be loaded."""
    library = _library(item.address)
    try:
        if item.kind == "saved":
            return library.load_from_disk(item.location)
        name, _, split = item.location.removeprefix(PREFIX).partition(":")
        return library.load_dataset(name, split=split or None)
    except Exception as error:  # the library raises whatever its many backends raise
        raise InputError(
            describe(
                f"cannot be loaded: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                where=item.address,
                fix="Check the name, the split, and whether the dataset needs a login.",
            )
        ) from error


def _one_split(loaded: Any, item: Input) -> Any:
    """The dataset itself, `train` where there are splits, or the only one."""
    if not isinstance(loaded, dict):
        return loaded
    if len(loaded) == 1 or "train" in loaded:
        return loaded["train"] if "train" in loaded else next(iter(loaded.values()))
    example = min(loaded)
    named = f"{item.address}/{example}" if item.kind == "saved" else f"{item.address}:{example}"
    raise InputError(
        describe(
            f"has the splits {', '.join(sorted(loaded))} and none of them is `train`",
            where=item.address,
            fix=f"Name one, as in {named}.",
        )
    )


def _rows(dataset: Any) -> Iterator[tuple[int, bytes, Finding | None]]:
    """Row number, JSON text and finding of every row."""
    line = 0
    for table in dataset.with_format("arrow").iter(batch_size=_BATCH):
        for batch in table.combine_chunks().to_batches():
            for value, raw, findings in rows_of(batch):
                line += 1
                text = raw or b"" if value is None else msgspec.json.encode(value)
                yield line, text, findings[0] if findings else None
