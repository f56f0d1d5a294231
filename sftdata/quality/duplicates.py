"""Exact duplicates and conflicting answers, from the keys of all records.

What lives here: grouping in polars; 24 bytes a record. What must not: reading records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

__all__ = ["conflicting_answers", "exact_duplicates"]


def exact_duplicates(records: pl.DataFrame) -> pl.DataFrame:
    """All but the first of every group of records that say the same.

    `records`: `record_id` int64, `content` uint64. Returns `record_id`, `kept_id`, `rule` ("SFT701"), by record.
    Records 3, 5, 9 with one content give (5, 3) and (9, 3).
    """
    import polars as pl

    first = pl.col("record_id").min().over("content").alias("kept_id")
    return (
        records.select("record_id", first)
        .filter(pl.col("record_id") != pl.col("kept_id"))
        .with_columns(pl.lit("SFT701").alias("rule"))
        .sort("record_id")
    )


def conflicting_answers(records: pl.DataFrame) -> pl.DataFrame:
    """Records whose prompt has a different answer elsewhere.

    `records`: `record_id`, `prompt`, `answer` (0: none). Returns `record_id`, `first_id` (the first record with the
    prompt), `answers` (how many different ones there are), by record; the first record of each prompt as well.
    """
    import polars as pl

    return (
        records.filter((pl.col("prompt") != 0) & (pl.col("answer") != 0))
        .with_columns(
            pl.col("answer").n_unique().over("prompt").alias("answers"),
            pl.col("record_id").min().over("prompt").alias("first_id"),
        )
        .filter(pl.col("answers") > 1)
        .select("record_id", "first_id", "answers")
        .sort("record_id")
    )
