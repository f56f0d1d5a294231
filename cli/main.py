"""The entry point `sftdata`."""

from __future__ import annotations

from sftdata_cli.entry import enter

__all__ = ["main"]


def main() -> None:
    """Run `sftdata` on the process's arguments."""
    enter("sftdata_cli.commands")
