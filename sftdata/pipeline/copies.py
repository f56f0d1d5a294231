"""Duplicates as a list for `prepare --drop`, and splits that keep copies on one side.

    check without a tokenizer ─► keys and signatures ─► DROP.parquet, or train.jsonl and eval.jsonl

What lives here: these two commands' work. What must not: telling copies (`quality`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sftdata.config import PrepareConfig, eval_share
from sftdata.durable import durable
from sftdata.errors import OutputError, describe
from sftdata.pipeline.check import Checked, check
from sftdata.pipeline.identity import stamped
from sftdata.pipeline.repair import as_json
from sftdata.pipeline.run import Progress
from sftdata.pipeline.stages import blocks_of
from sftdata.quality.duplicates import exact_duplicates
from sftdata.quality.near import Signatures, near_duplicates
from sftdata.quality.split import choose

if TYPE_CHECKING:
    import polars as pl

__all__ = ["dedup", "split"]


def dedup(
    config: PrepareConfig, out: Path, *, near: bool, threshold: float = 0.8, progress: Progress | None = None
) -> dict[str, int]:
    """Write the records to drop to `out`: `record_id`, `kept_id` (int64), `rule`. Returns counts, by rule and of all.

    A record that is dropped for one that is itself dropped names the one that is kept in the end.
    """
    with check(config, near_duplicates=near, progress=progress) as checked:
        import pyarrow.parquet as pq

        table = _copies(checked, near, threshold)
        with durable(out) as (name,):
            pq.write_table(stamped(table.to_arrow(), checked.stamp()), name)
        counts: dict[str, int] = dict(table["rule"].value_counts().iter_rows())
        return {"records": len(checked.records()), "SFT701": 0, "SFT702": 0} | counts


def _copies(checked: Checked, near: bool, threshold: float) -> pl.DataFrame:
    import polars as pl

    rows = checked.records()
    frame = pl.DataFrame({name: rows[name] for name in ("record_id", "content")})
    exact = exact_duplicates(frame)
    if not near:
        return exact
    parts = [Signatures(checked.work, f"near-{one.index:05d}") for one in checked.examined]
    similar = near_duplicates(parts, threshold).drop("similarity")
    both = pl.concat([exact, similar]).unique("record_id", keep="first", maintain_order=True)
    kept = dict(both.select("record_id", "kept_id").iter_rows())

    def last(record: int) -> int:
        while record in kept:
            record = kept[record]
        return record

    return both.with_columns(pl.Series("kept_id", [last(one) for one in both["kept_id"]], dtype=pl.Int64)).sort(
        "record_id"
    )


def split(
    config: PrepareConfig, out: Path, *, share: str, by: str, near: bool, seed: int, progress: Progress | None = None
) -> dict[str, int]:
    """Write `train.jsonl` and `eval.jsonl` into `out`; every readable record goes to one of them as it is.

    Returns counts. Raises OutputError where a file of the name is there already, ConfigError for a wrong share.
    """
    targets = {name: out / f"{name}.jsonl" for name in ("train", "eval")}
    for target in targets.values():
        if target.exists():
            raise OutputError(describe("the file is there already", where=str(target), fix="Name another folder."))
    with check(config, near_duplicates=near, progress=progress) as checked:
        rows = checked.records()
        groups = _groups(rows["record_id"], _copies(checked, near, 0.8))
        part = eval_share(share, records=len(rows), where="--eval")
        held = choose(groups, rows["content"].copy(), rows["asked"].astype(np.int64), share=part, by=by, seed=seed)
        out.mkdir(parents=True, exist_ok=True)
        return _write(checked, dict(zip(rows["record_id"].tolist(), held.tolist(), strict=True)), targets)


def _groups(ids: npt.NDArray[np.int64], copies: pl.DataFrame) -> npt.NDArray[np.int64]:
    """The place of the first record of each record's group."""
    groups = np.arange(len(ids))
    mine = np.searchsorted(ids, copies["record_id"].to_numpy())
    groups[mine] = np.searchsorted(ids, copies["kept_id"].to_numpy())
    return groups


def _write(checked: Checked, held: dict[int, bool], targets: dict[str, Path]) -> dict[str, int]:
    plan = checked.plan
    assert plan is not None
    counts: dict[str, Any] = {"train": 0, "eval": 0, "unreadable": 0}
    with durable(targets["train"], targets["eval"]) as names, names[0].open("wb") as train, names[1].open("wb") as test:
        for unit in plan.units:
            for block in blocks_of(plan, unit.index, checked.work):
                for raw in block:
                    side = held.get(raw.record_id)
                    if side is None:
                        counts["unreadable"] += 1
                        continue
                    (test if side else train).write(as_json(raw.value) + b"\n")
                    counts["eval" if side else "train"] += 1
    return counts
