"""What can be wrong with a sealed dataset, as values: the reader raises the first, the verifier collects all.

What lives here: `Problem` and the exception around it. What must not: the checks.
"""

from __future__ import annotations

import msgspec

from sftdata.errors import ShardError, describe

__all__ = ["DamageError", "Problem"]


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong. Name and general remedy of `code` stand in `sftdata.rules`."""

    code: str
    """`SFT802` and so on."""
    file: str
    """Name within the dataset."""
    place: str
    """Row group, row or line, such as `row group 3, row 17`; empty for the file as a whole."""
    message: str
    """What is wrong and what was expected, in one clause."""
    fix: str = ""
    """What to do about this very case; empty where the rule's own text says it all."""

    def error(self, folder: str) -> DamageError:
        """The exception for it, worded with the address of the dataset."""
        where = f"{folder}/{self.file}" + (f", {self.place}" if self.place else "")
        return DamageError(describe(f"{self.code}: {self.message}", where=where, fix=self.fix or _FIX), self)


class DamageError(ShardError):
    """A sealed dataset is damaged, foreign or incomplete.

    Made by `Problem.error`; the text alone is enough, as torch makes a worker's exception anew from it.
    """

    def __init__(self, text: str, problem: Problem | None = None) -> None:
        super().__init__(text)
        self.problem = problem or Problem("SFT802", "", "", text)
        """What showed it."""


_FIX = "Copy the dataset again from a sound copy, or run prepare again; `sftdata verify` lists all that is wrong."
