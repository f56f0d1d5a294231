"""Errors become one line and an exit code, for every command that is installed.

What lives here: the mapping. What must not: commands, the library (its errors are imported when one is met).
"""

from __future__ import annotations

import sys

import click

__all__ = ["run"]

_LONGEST = 10_000
"""Characters of a message: a changed template is shown with its lines."""


def run(command: click.Command) -> None:
    """Run `command` on the process's arguments and exit: with what it returns, 1 for damaged shards, 2 for the rest."""
    from sftdata.errors import SftdataError, ShardError
    from sftdata.report.terminal import clean

    try:
        code = command.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except ShardError as error:
        click.echo(f"error: {clean(str(error), limit=_LONGEST)}", err=True)
        sys.exit(1)
    except SftdataError as error:
        click.echo(f"error: {clean(str(error), limit=_LONGEST)}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception:  # noqa: BLE001 - whatever it is, it must not look like findings, which are exit code 1
        import traceback

        traceback.print_exc()
        click.echo("error: this is a defect of sftdata, or of what it runs on; please report it", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)
