"""The entry point `sftdata-train`."""

from __future__ import annotations

from sftdata_cli.entry import enter

__all__ = ["main"]


def main() -> None:
    """Run `sftdata-train` on the process's arguments."""
    enter("sftdata_cli.training")


if __name__ == "__main__":
    main()
