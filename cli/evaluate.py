"""The entry point `sftdata-eval`."""

from __future__ import annotations

from sftdata_cli.entry import enter

__all__ = ["main"]


def main() -> None:
    """Run `sftdata-eval` on the process's arguments."""
    enter("sftdata_cli.evaluation")


if __name__ == "__main__":
    main()
