"""Statistics of a dataset as rows of a table: what there is, how long it is, what a maximum length costs.

What lives here: sums and quantiles over arrays of all records and documents. What must not: reading, printing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Row", "describe_documents", "describe_records", "truncation"]

Row = tuple[str, str, float]
"""(group, name, value)."""

_QUANTILES = {"p5": 0.05, "p50": 0.5, "p95": 0.95, "p99": 0.99}


def describe_records(records: npt.NDArray[np.void], measures: Mapping[str, int]) -> Iterator[Row]:
    """Turns, roles and system prompts. `records` has `content` and `system` keys, 0 for none."""
    count = len(records)
    yield "records", "readable", count
    yield "records", "distinct", len(np.unique(records["content"]))
    turns = {int(name.partition("/")[2]): value for name, value in measures.items() if name.startswith("turns/")}
    if turns:
        lengths = np.repeat(list(turns), list(turns.values()))
        yield from _spread("turns", lengths)
    for name, value in sorted(measures.items()):
        if name.startswith("role/"):
            yield "roles", name.partition("/")[2], value
    system = records["system"][records["system"] != 0]
    yield "system prompts", "records with one", len(system)
    if len(system):
        _, uses = np.unique(system, return_counts=True)
        yield "system prompts", "different ones", len(uses)
        yield "system prompts", "share of the most frequent", float(uses.max() / count)


def describe_documents(documents: npt.NDArray[np.void]) -> Iterator[Row]:
    """Lengths and trained share. `documents` has `length` and `trained`, one row a document."""
    if not len(documents):
        return
    lengths, trained = documents["length"].astype(np.int64), documents["trained"].astype(np.int64)
    yield "documents", "count", len(lengths)
    yield "documents", "a record", len(lengths) / len(np.unique(documents["record_id"]))
    yield "tokens", "all", int(lengths.sum())
    yield "tokens", "trained", int(trained.sum())
    yield "tokens", "trained share", float(trained.sum() / lengths.sum())
    yield from _spread("length", lengths)
    yield from _spread("prompt length", lengths - trained)
    yield from _spread("answer length", trained)


def _spread(group: str, values: npt.NDArray[np.int64]) -> Iterator[Row]:
    yield group, "min", int(values.min())
    yield group, "mean", float(values.mean())
    for name, share in _QUANTILES.items():
        yield group, name, float(np.quantile(values, share, method="inverted_cdf"))
    yield group, "max", int(values.max())


def truncation(measures: Mapping[str, int]) -> list[dict[str, Any]]:
    """One row a maximum length: the shares of tokens, trained tokens and whole replies that cutting there loses.

    Ends at the first length that loses nothing.
    """
    by_name = {
        name: {int(key.partition("/")[2]): value for key, value in measures.items() if key.startswith(f"{name}/")}
        for name in ("tokens", "trained", "replies")
    }
    out = []
    for limit in sorted(by_name["tokens"]):
        row: dict[str, Any] = {"max_length": limit}
        for name, kept in by_name.items():
            whole = max(kept.values())
            row[f"{name}_lost"] = round(1 - kept[limit] / whole, 6) if whole else 0.0
        out.append(row)
        if not row["tokens_lost"]:
            break
    return out
