"""What a run measures of its documents on the way, as counts that add up over units.

What lives here: lengths, what each maximum length would keep, shares, turns and roles. What must not: what a report
makes of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sftdata.records import IGNORE_INDEX, Conversation, Int32Array

__all__ = ["LIMITS", "Measures"]

LIMITS = tuple(sorted(size << shift for shift in range(4, 19) for size in (2, 3)))
"""Maximum lengths that the truncation curve is known at: 32, 48, 64, 96, 128, ... 786,432."""
_SHARES = 20


class Measures:
    """Counts under flat names, all of documents before any limit is applied.

    length/512    documents of 385 to 512 tokens (edges are those of `LIMITS`)
    tokens/512    tokens that a maximum length of 512 keeps; trained/512 and replies/512 likewise
    share/7       documents of which 35 to 40 % of the tokens are trained
    turns/4       conversations of 4 turns
    role/user     turns of that role
    """

    def __init__(self) -> None:
        self._limits = np.array(LIMITS, np.int64)
        self._lengths = np.zeros(len(LIMITS) + 1, np.int64)
        self._kept = np.zeros((3, len(LIMITS)), np.int64)
        self._shares = np.zeros(_SHARES + 1, np.int64)
        self._turns: dict[int, int] = {}
        self._roles: dict[str, int] = {}

    def chat(self, conversation: Conversation) -> None:
        """Count the turns of one conversation."""
        turns, roles = len(conversation.messages), self._roles
        self._turns[turns] = self._turns.get(turns, 0) + 1
        for message in conversation.messages:
            role = message.role
            roles[role] = roles.get(role, 0) + 1

    def documents(self, labels: Int32Array, lengths: Int32Array) -> None:
        """Measure D documents of T tokens: labels int32 `[T]`, lengths int32 `[D]`."""
        if not len(lengths):
            return
        ends = np.cumsum(lengths, dtype=np.int64)
        begins = ends - lengths
        trained = labels != IGNORE_INDEX
        last = trained.copy()
        last[:-1] &= ~trained[1:]
        last[ends - 1] = trained[ends - 1]
        self._lengths += np.bincount(np.searchsorted(self._limits, lengths), minlength=len(LIMITS) + 1)
        kept = np.minimum(lengths[:, None], self._limits[None, :])
        self._kept[0] += kept.sum(axis=0)
        for row, flags in ((1, trained), (2, last)):
            total = np.concatenate([np.zeros(1, np.int64), np.cumsum(flags)])
            self._kept[row] += (total[begins[:, None] + kept] - total[begins][:, None]).sum(axis=0)
            if row == 1:
                shares = (total[ends] - total[begins]) * _SHARES // lengths
                self._shares += np.bincount(shares, minlength=_SHARES + 1)

    def counts(self) -> dict[str, int]:
        """All counts that are not zero, and all of the curve, by name."""
        out = {f"turns/{turns}": count for turns, count in self._turns.items()}
        out |= {f"role/{role}": count for role, count in self._roles.items()}
        edges: npt.NDArray[np.int64] = np.append(self._limits, 2 * self._limits[-1])
        out |= {f"length/{edge}": count for edge, count in _pairs(edges, self._lengths) if count}
        for name, row in zip(("tokens", "trained", "replies"), self._kept, strict=True):
            out |= {f"{name}/{limit}": count for limit, count in _pairs(self._limits, row)}
        out |= {f"share/{share}": count for share, count in _pairs(np.arange(_SHARES + 1), self._shares) if count}
        return dict(sorted(out.items()))


def _pairs(names: npt.NDArray[np.int64], values: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    return list(zip(names.tolist(), values.tolist(), strict=True))
