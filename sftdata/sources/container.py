"""What a stream of records tells about itself beside its records.

What lives here: collecting what is wrong with a container as a whole, each fault once. What must not: finding records.
"""

from __future__ import annotations

from sftdata.records import Finding
from sftdata.sources.compression import Decoded

__all__ = ["Container"]


class Container:
    """The faults of one input, beside those of its records."""

    def __init__(self, decoded: Decoded) -> None:
        self.findings: list[tuple[int, Finding]] = []
        self._decoded = decoded
        self._told = False

    def add(self, line: int, code: str, message: str) -> None:
        """Something is wrong at `line` that no record holds."""
        self.findings.append((line, Finding(code, message)))

    @property
    def broken(self) -> bool:
        """Whether the bytes ended before they should have; known when they have ended."""
        return bool(self._decoded.fault)

    def cut_record(self) -> Finding | None:
        """The finding on a record in whose middle the container broke off; None where the container is whole."""
        if not self.broken:
            return None
        self._told = True
        return Finding("SFT015", self._decoded.fault)

    def close(self, line: int) -> None:
        """All records are read: a break that no record showed is noted at `line`."""
        if self.broken and not self._told:
            self.add(line, "SFT015", self._decoded.fault)
