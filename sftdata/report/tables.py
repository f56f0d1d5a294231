"""The table of `sftdata stats`.

What lives here: which statistics in which order, and the preview of packing. What must not: computing them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sftdata import packing as packers
from sftdata.quality.stats import Row, describe_documents, describe_records, truncation

__all__ = ["stats_rows"]


def stats_rows(
    records: npt.NDArray[np.void],
    documents: npt.NDArray[np.void],
    report: Mapping[str, Any],
    *,
    limit: int | None,
    batch: int | None,
    packing: str,
) -> tuple[list[Row], list[dict[str, Any]]]:
    """All rows, and the truncation curve; `report` is that of the check the arrays come from."""
    rows: list[Row] = [("records", "read", report["ledger"]["records"]["read"])]
    rows += describe_records(records, report["measures"])
    rows += describe_documents(documents)
    if not len(documents):
        return rows, []
    repeated = report["unroll"]["tokens_repeated"]
    rows.append(("unrolling", "tokens repeated", repeated))
    rows.append(("unrolling", "share of all tokens", repeated / int(documents["length"].sum())))
    if limit is not None:
        rows += _preview(documents["length"], limit, batch, packing)
    return rows, truncation(report["measures"])


def _preview(lengths: npt.NDArray[np.int32], limit: int, batch: int | None, packing: str) -> list[Row]:
    fits = lengths[lengths <= limit].copy()
    rows: list[Row] = [("packing", "capacity", limit), ("packing", "documents too long", len(lengths) - len(fits))]
    if not len(fits):
        return rows
    bins = len(packers.pack(fits, limit, packing, seed=(0, 0)).offsets) - 1
    rows += [("packing", "bins", bins), ("packing", "fill", float(fits.sum() / (bins * limit)))]
    if batch is not None:
        rows.append(("packing", f"steps an epoch at {batch} bins", -(-bins // batch)))
    return rows
