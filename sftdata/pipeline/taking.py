"""How often each record is taken: not at all where it is a duplicate or left out of the mixture.

What lives here: taking the list of duplicates and the sources into a plan, and looking a plan's records up. What must
not: how lists are read and mixtures decided (`drop`, `mixture`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from sftdata.pipeline.drop import bits_of, dropped_of, read_drop_list
from sftdata.pipeline.mixture import Portion, passes_of, portions, tokens_of_inputs
from sftdata.pipeline.plan import Plan
from sftdata.records import Int64Array, RawRecord
from sftdata.sources import resolve

__all__ = ["DUPLICATE", "LEFT_OUT", "Taking", "decided"]

LEFT_OUT, DUPLICATE = 0, -1


def decided(plan: Plan) -> Plan:
    """`plan` with what its configuration says of duplicates and sources. Raises ConfigError as both do."""
    config = plan.config
    ids = np.zeros(0, np.int64)
    if config.drop is not None:
        found = read_drop_list(config.drop, plan.inputs)
        ids = found.ids
        units = [
            msgspec.structs.replace(unit, dropped=bits_of(ids, unit.first_record, unit.records)) for unit in plan.units
        ]
        plan = msgspec.structs.replace(plan, units=units, drop=found.sha256, duplicates=len(ids))
    if config.sources:
        plan = msgspec.structs.replace(plan, mixture=_mixture(plan, ids))
    return plan


def _mixture(plan: Plan, dropped: Int64Array) -> list[Portion]:
    config = plan.config
    counts = [len(resolve(one.inputs)) for one in config.sources.values()]
    ends = np.cumsum(counts).tolist()

    def by_source(values: Sequence[int]) -> list[int]:
        return [sum(values[end - count : end]) for end, count in zip(ends, counts, strict=True)]

    tokens = None
    if config.stats is not None:
        tokens = by_source(tokens_of_inputs(config.stats, plan.inputs, str(plan.tokenizer["sha256"])))
    records = by_source([one.records for one in plan.inputs])
    return portions(config.sources, records, dropped, seed=config.seed, tokens=tokens)


class Taking:
    """The records of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._starts = np.array([unit.first_record for unit in plan.units], np.int64)
        self._firsts = np.array([one.first_record for one in plan.mixture], np.int64)
        self._unit = -1
        self._dropped: npt.NDArray[np.bool_] = np.zeros(0, bool)
        self.all = not plan.drop and not plan.mixture
        """Every record is taken, once."""

    def of(self, block: Sequence[RawRecord]) -> list[int]:
        """For each record of a block, which lies in one unit: `DUPLICATE`, `LEFT_OUT`, or the number of passes."""
        ids = np.fromiter((raw.record_id for raw in block), np.int64, len(block))
        times = np.ones(len(ids), np.int64)
        for place in np.unique(self.sources(ids)).tolist() if self._plan.mixture else ():
            mine = self.sources(ids) == place
            times[mine] = passes_of(self._plan.mixture[place], ids[mine], self._plan.config.seed)
        if self._plan.drop and len(ids):
            unit = int(np.searchsorted(self._starts, ids[0], side="right")) - 1
            if unit != self._unit:
                one = self._plan.units[unit]
                self._unit, self._dropped = unit, dropped_of(one.dropped, one.records)
            times[self._dropped[ids - self._starts[unit]]] = DUPLICATE
        counts: list[int] = times.tolist()
        return counts

    def sources(self, ids: Int64Array) -> Int64Array:
        """The number of the source that each record comes from, int64 `[N]`; only where there is a mixture."""
        found: Int64Array = np.searchsorted(self._firsts, ids, side="right") - 1
        return found
