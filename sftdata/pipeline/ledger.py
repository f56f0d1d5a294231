"""The ledger of a unit and of a run: nothing is lost, and the sums say so.

What lives here: counting, adding up, and the check that the ledger closes. What must not: files, stages.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

__all__ = ["Ledger", "add_counts"]


class Ledger(msgspec.Struct):
    """Counts of one unit, or of several added up; the keys of the manifest's ledger stand in `as_manifest`."""

    read: int = 0
    written: int = 0
    rejected: int = 0
    duplicate: int = 0
    """Named by the list of records to drop; nothing else is known of them."""
    unsampled: int = 0
    """In no pass of the mixture of sources. A record that is in several is written once, and so counted."""
    examples_written: int = 0
    examples_rejected: int = 0
    tokens_rendered: int = 0
    tokens_written: int = 0
    tokens_dropped: int = 0
    tokens_trained: int = 0
    turns_dropped: int = 0
    """Turns that `--overlong drop-turns` removed before rendering; not part of any sum of tokens."""
    replies_untrained: int = 0
    """Assistant turns that would have been trained and are not: removed turns, `--unroll last`."""
    rejections: dict[str, int] = {}
    """Rejected records by the code of their first error."""

    def closes(self) -> bool:
        """Records read, tokens rendered and rejections are each the sum of their parts."""
        return (
            self.read == self.written + self.rejected + self.duplicate + self.unsampled
            and self.tokens_rendered == self.tokens_written + self.tokens_dropped
            and sum(self.rejections.values()) == self.rejected
        )

    @property
    def taken(self) -> int:
        """Records that anything was done with."""
        return self.read - self.duplicate - self.unsampled

    def as_manifest(self) -> dict[str, dict[str, int]]:
        """The form of design §4."""
        return {
            "records": {
                "read": self.read,
                "written": self.written,
                "rejected": self.rejected,
                "duplicate": self.duplicate,
                **({"unsampled": self.unsampled} if self.unsampled else {}),
            },
            "examples": {"written": self.examples_written, "rejected": self.examples_rejected},
            "tokens": {
                "rendered": self.tokens_rendered,
                "written": self.tokens_written,
                "dropped": self.tokens_dropped,
                "trained": self.tokens_trained,
            },
            "rejections": dict(sorted(self.rejections.items())),
        }

    @classmethod
    def total(cls, parts: Iterable[Ledger]) -> Ledger:
        """The sum of several ledgers."""
        out = cls()
        for part in parts:
            for name in cls.__struct_fields__:
                value = getattr(part, name)
                if name == "rejections":
                    add_counts(out.rejections, value)
                else:
                    setattr(out, name, getattr(out, name) + value)
        return out


def add_counts(into: dict[str, int], more: dict[str, int]) -> None:
    """Add `more` to `into`, key by key."""
    for key, count in more.items():
        into[key] = into.get(key, 0) + count
