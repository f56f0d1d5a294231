"""Which records go to the eval set: by hash, or spread over lengths; copies of each other always on one side.

What lives here: choosing groups of records. What must not: reading or writing records.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["METHODS", "choose"]

METHODS = ("hash", "length")


def choose(
    groups: npt.NDArray[np.int64],
    content: npt.NDArray[np.uint64],
    asked: npt.NDArray[np.int64],
    *,
    share: float,
    by: str,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """True for the records of the eval set, bool `[N]`.

    `groups` int64 `[N]`: the place of the first record of each record's group of copies. `content` uint64 `[N]`: what
    decides by `hash`, so that a record stays on its side when others come and go. `asked` int64 `[N]`: by `length` the
    groups are sorted by it and cut into as many strata as are to be held out, and each gives one. About `share` of the
    groups are chosen.
    """
    firsts = np.flatnonzero(groups == np.arange(len(groups)))
    drawn = _mixed(content[firsts] ^ np.uint64((seed * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF))
    if by == "hash":
        chosen = firsts[drawn < np.uint64(min(share, 1 - 2**-53) * 2**64)]
    else:
        number = min(round(share * len(groups)), len(firsts))
        order = np.lexsort((drawn, asked[firsts]))
        strata = np.array_split(order, number) if number else []
        chosen = firsts[[int(stratum[np.argmin(drawn[stratum])]) for stratum in strata]]
    out = np.zeros(len(groups), bool)
    out[chosen] = True
    return out[groups]


def _mixed(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = keys ^ (keys >> np.uint64(31))
    return mixed
