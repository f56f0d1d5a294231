"""Errors become one line and an exit code, for every command that is installed.

What lives here: the mapping. What must not: commands, the library (its errors are imported when one is met).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback

import click

from sftdata_cli.interrupts import Interrupted, behind

__all__ = ["exit_code"]

_LONGEST = 10_000
"""Characters of a message: a changed template is shown with its lines."""
_NOBODY_READS = 141
"""128 + SIGPIPE, as of any other command whose reader went away."""


def exit_code(command: click.Command) -> int:
    """Run `command` on the process's arguments; returns what it does, 1 for damaged shards, 2 for all other errors.

    A reader of its output that goes away makes it 141. Raises Interrupted, whatever hides it.
    """
    nowhere = _leads_nowhere()
    try:
        code = command.main(standalone_mode=False)
        sys.stdout.flush()
    except Interrupted:
        raise
    except BaseException as error:  # noqa: BLE001 - an exit is told like any other end
        hidden = behind(error)
        if hidden is not None:
            raise hidden from None
        try:
            return _failed(error, nowhere=nowhere)
        except OSError:  # nobody is there to be told
            return 2
    return code if isinstance(code, int) else 0


def _failed(error: BaseException, *, nowhere: bool) -> int:
    """Say what ended a command whose output led `nowhere` from the start, or not; returns its exit code."""
    from sftdata.errors import SftdataError, ShardError
    from sftdata.report.terminal import clean

    # click makes an exit of every pipe that breaks, and keeps to itself which one it was; so does rich, which only
    # knows of standard output, and has put the null device in its place by now
    if isinstance(error, (SystemExit, BrokenPipeError)):
        if _nobody_reads() or (_leads_nowhere() and not nowhere):
            return _NOBODY_READS
        click.echo("error: a pipe or connection broke, and it was not standard output", err=True)
        return 2
    if isinstance(error, click.exceptions.Abort) and not isinstance(error.__cause__, EOFError):
        click.echo("interrupted", err=True)
        return 128 + signal.SIGINT
    if isinstance(error, click.ClickException):
        error.show()
    elif isinstance(error, SftdataError):
        click.echo(f"error: {clean(str(error), limit=_LONGEST)}", err=True)
        return 1 if isinstance(error, ShardError) else 2
    elif isinstance(error, OSError) and error.errno:  # the machine's word, not a defect: no such folder, disk full
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        click.echo(f"error: {clean(where)}{error.strerror or error}", err=True)
    elif isinstance(error, MemoryError):
        click.echo("error: there is not enough memory. Use fewer workers, or a machine that has more.", err=True)
    else:  # whatever it is, it must not look like findings, which are exit code 1
        traceback.print_exception(error)
        click.echo("error: this is a defect of sftdata, or of what it runs on; please report it", err=True)
    return 2


def _leads_nowhere() -> bool:
    try:
        return os.fstat(1).st_rdev == os.stat(os.devnull).st_rdev
    except OSError:
        return False


def _nobody_reads() -> bool:
    """Whether standard output or standard error is a pipe without a reader; what is left to write goes nowhere."""
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    for handle in (1, 2):
        poll.register(handle, 0)
    gone = [handle for handle, event in poll.poll(0) if event & select.POLLERR]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for handle in gone:
        os.dup2(nowhere, handle)
    os.close(nowhere)
    return bool(gone)
