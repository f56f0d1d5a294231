"""Findings that need all records of a check: duplicates, conflicts, formats, shares, stops, lengths.

What lives here: turning what `quality` and the counts say into findings with places. What must not: grouping records
(`quality`), reading them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sftdata.pipeline.examine import Found
from sftdata.pipeline.ledger import Ledger
from sftdata.quality.duplicates import conflicting_answers, exact_duplicates
from sftdata.quality.near import Signatures, near_duplicates

if TYPE_CHECKING:
    from sftdata.pipeline.check import Checked

__all__ = ["about_dataset", "about_records"]

_LOST, _FILL, _SMALL, _LARGE, _SHORT = 0.01, 0.9, 0.02, 0.95, 0.05


def about_records(checked: Checked, near: Sequence[Signatures] | None) -> Iterator[Found]:
    """Duplicates and conflicting answers, one finding a record."""
    import polars as pl

    rows = checked.records()
    frame = pl.DataFrame({name: rows[name] for name in ("record_id", "content", "prompt", "answer")})
    place = _Places(checked, rows)
    exact = exact_duplicates(frame)
    for record, kept, _ in exact.iter_rows():
        yield place.found("SFT701", record, f"says the same as {place.of(kept)}")
    for record, first, answers in conflicting_answers(frame).iter_rows():
        other = f"as {place.of(first)}" if first != record else "as later records"
        yield place.found("SFT703", record, f"the same prompt {other}, {answers} different answers in all")
    if near is None:
        return
    copies = set(exact["record_id"].to_list())
    for record, kept, similarity, _ in near_duplicates(near).iter_rows():
        if record not in copies:
            yield place.found("SFT702", record, f"is {similarity:.0%} like others of the group of {place.of(kept)}")


class _Places:
    """Where records stand, by id."""

    def __init__(self, checked: Checked, rows: npt.NDArray[np.void]) -> None:
        assert checked.plan is not None
        self._names = [one.name for one in checked.plan.inputs]
        self._rows = rows  # in the order of their ids

    def _row(self, record: int) -> Any:
        return self._rows[np.searchsorted(self._rows["record_id"], record)]

    def of(self, record: int) -> str:
        row = self._row(record)
        return f"record {record} ({self._names[row['source']]}:{row['line']})"

    def found(self, code: str, record: int, message: str) -> Found:
        row = self._row(record)
        identity = f"{int(row['content']):016x}"
        return Found(code, message, self._names[row["source"]], int(row["line"]), "", "", record, identity)


def about_dataset(checked: Checked, facts: dict[str, Any], ledger: Ledger) -> Iterator[Found]:
    """Findings about the inputs as a whole, without a place."""
    plan = checked.plan
    assert plan is not None
    by_source: dict[int, dict[str, int]] = {}
    for name, count in facts["sources"].items():
        number, _, format_name = name.partition("/")
        by_source.setdefault(int(number), {})[format_name] = count
    for number, formats in sorted(by_source.items()):
        if len(formats) > 1:
            listed = ", ".join(f"{count:,} {name}" for name, count in sorted(formats.items()))
            yield _whole("SFT012", f"the file mixes formats: {listed}", plan.inputs[number].name)
    yield from _system_prompts(checked.records()["system"])
    if plan.tokenizer:
        yield from _tokens(checked, facts, ledger)


def _whole(code: str, message: str, source: str = "") -> Found:
    return Found(code, message, source, 0, "", "", None, f"{code}:{source}")


def _system_prompts(system: npt.NDArray[np.uint64]) -> Iterator[Found]:
    share = float((system != 0).mean()) if len(system) else 0.0
    if 0 < share < 1:
        distinct = len(np.unique(system[system != 0]))
        kinds = f"{distinct:,} different ones" if distinct > 1 else "always the same"
        yield _whole("SFT711", f"{share:.1%} of the records have a system prompt, {kinds}")


def _tokens(checked: Checked, facts: dict[str, Any], ledger: Ledger) -> Iterator[Found]:
    plan, serving = checked.plan, checked.serving
    assert plan is not None
    assert serving is not None
    if ledger.tokens_rendered and ledger.tokens_dropped > _LOST * ledger.tokens_rendered:
        lost = ledger.tokens_dropped / ledger.tokens_rendered
        yield _whole("SFT603", f"{lost:.1%} of all tokens are lost at --max-length {plan.config.max_length:,}")
    if ledger.tokens_written:
        trained = ledger.tokens_trained / ledger.tokens_written
        if trained < _SMALL or trained > _LARGE:
            yield _whole("SFT509", f"{trained:.1%} of the tokens are trained")
        documents = checked.documents()
        prompts = documents["length"] - documents["trained"]
        if len(documents) and np.median(documents["trained"] / np.maximum(prompts, 1)) < _SHORT:
            yield _whole("SFT713", "half of the answers are shorter than a twentieth of their prompts")
    bins, capacity = sum(facts["bins"].values()), plan.config.max_length
    if bins > 8 and capacity < 1 << 24 and facts["tokens"]["train"] < _FILL * bins * capacity:
        fill = facts["tokens"]["train"] / (bins * capacity)
        yield _whole("SFT608", f"bins of {capacity:,} tokens would be {fill:.1%} full")
    known = serving.files.generation_eos
    for one, count in sorted(facts["stops"].items()) if known else ():
        if int(one) not in known and int(one) in serving.stop_ids():
            told = f"{count:,} replies end in token {one}, which generation_config does not stop at"
            yield _whole("SFT406", told)
