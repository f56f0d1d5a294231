"""A signal ends a command, wherever it comes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from sftdata.errors import OutputError
from sftdata_cli.exits import exit_code
from sftdata_cli.interrupts import ending_cleanly, interruptible

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import errno, os, signal, sys, time
from sftdata_cli.interrupts import ending_cleanly, interruptible
me = os.getpid()
class Finalised:
    def __del__(self):
        os.kill(me, signal.SIGINT)
def work():
    with ending_cleanly("go on so"):
        {work}
    return 0
code = interruptible(work)
print("done", flush=True)
{after}
sys.exit(code)
"""


def ended(work: str, after: str = "pass", *, before: str = "") -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process that does `work`."""
    text = before + SCRIPT.replace("{work}", work.replace("\n", "\n        ")).replace("{after}", after)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


FOR_EVER = "while True: time.sleep(0.001)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_exit_code_and_a_line_that_says_how_to_go_on(number: signal.Signals) -> None:
    name = number.name
    told = f"interrupted by {name}: go on so\n"
    assert ended(f"os.kill(me, signal.{name})\n{FOR_EVER}") == (128 + number, "", told)


def test_a_second_signal_does_not_break_off_the_cleaning_up() -> None:
    work = """
try:
    os.kill(me, signal.SIGTERM)
finally:
    os.kill(me, signal.SIGINT)
    print("cleaned", flush=True)
"""
    assert ended(work) == (143, "cleaned\n", "interrupted by SIGTERM: go on so\n")


def test_a_signal_inside_a_finaliser_where_python_drops_it_is_not_lost() -> None:
    assert ended(f"Finalised()\n{FOR_EVER}") == (130, "", "interrupted by SIGINT: go on so\n")


def test_a_signal_that_somebody_swallows_is_not_lost() -> None:
    work = f"""
try:
    os.kill(me, signal.SIGINT)
    time.sleep(1000)
except BaseException:
    pass
{FOR_EVER}
"""
    assert ended(work) == (130, "", "interrupted by SIGINT: go on so\n")


def test_other_errors_of_finalisers_are_told_as_ever() -> None:
    work = """
class Broken:
    def __del__(self):
        raise ValueError("mine")
Broken()
"""
    code, out, err = ended(work)
    assert (code, out) == (0, "done\n")
    assert "ValueError: mine" in err


def test_a_thread_that_goes_on_does_not_hold_the_command_up() -> None:
    work = f"""
from concurrent.futures import ThreadPoolExecutor
beside = ThreadPoolExecutor(1)
beside.submit(time.sleep, 1000)
os.kill(me, signal.SIGINT)
{FOR_EVER}
"""
    assert ended(work) == (130, "", "interrupted by SIGINT: go on so\n")


def test_what_is_to_be_done_at_an_exit_is_done() -> None:
    work = f"import atexit\natexit.register(print, 'left', flush=True)\nos.kill(me, signal.SIGINT)\n{FOR_EVER}"
    assert ended(work) == (130, "left\n", "interrupted by SIGINT: go on so\n")


def test_a_closed_terminal_that_nohup_has_ignored_stays_so() -> None:
    before = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    assert ended("os.kill(me, signal.SIGHUP)", before=before) == (0, "done\n", "")


def test_ctrl_c_ends_what_a_script_started_in_the_background() -> None:
    before = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    assert ended("os.kill(me, signal.SIGINT)\ntime.sleep(1000)", before=before)[0] == 130


def test_a_signal_after_the_end_changes_nothing_of_what_was_done_and_waits_for_nobody() -> None:
    assert ended("pass", after=f"os.kill(me, signal.SIGINT)\n{FOR_EVER}") == (0, "done\n", "")


def test_a_signal_while_the_interpreter_goes_changes_nothing_either() -> None:
    late = """
class Last:
    def __del__(self, kill=os.kill, me=me, number=signal.SIGTERM):
        kill(me, number)
sys.last = Last()  # what this module holds goes late
"""
    assert ended("pass", after=late) == (0, "done\n", "")


def test_a_child_that_was_forked_just_ends() -> None:
    work = f"""
child = os.fork()
if not child:
    os.kill(os.getpid(), signal.SIGTERM)
    {FOR_EVER}
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
    assert ended(work) == (0, "143\ndone\n", "")


class Ended(Exception):
    pass


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes with which this process would have been left at once."""
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr("atexit._run_exitfuncs", lambda: None)
    monkeypatch.setattr(sys, "argv", ["sftdata"])
    return codes


def command(work: Callable[[], None]) -> click.Command:
    return click.Command("sftdata", callback=work)


def test_an_error_of_cleaning_up_does_not_hide_the_signal(left: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with ending_cleanly("go on so"):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                raise OutputError("the disk is full")

    with pytest.raises(Ended):
        interruptible(lambda: exit_code(command(work)))
    assert left == [143]
    assert capsys.readouterr().err == "interrupted by SIGTERM: go on so\n"


def test_the_machines_errors_are_a_line_and_no_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some/file")

    monkeypatch.setattr(sys, "argv", ["sftdata"])
    assert exit_code(command(work)) == 2
    assert capsys.readouterr().err == "error: some/file: No space left on device\n"


def test_an_end_of_file_somewhere_inside_is_no_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise EOFError("no data left")

    monkeypatch.setattr(sys, "argv", ["sftdata"])
    assert exit_code(command(work)) == 2
    assert "no data left" in capsys.readouterr().err


PRINTERS = {
    "click": ("rule",),
    "rich": (
        "inspect",
        "examples/data/messages.jsonl",
        "--line",
        "1",
        "--tokenizer",
        "builtin",
        "--template",
        "chatml",
    ),
}


@pytest.mark.parametrize("arguments", PRINTERS.values(), ids=PRINTERS)
def test_a_reader_that_goes_away_ends_the_command_quietly(arguments: tuple[str, ...]) -> None:
    """Its exit code is that of any other command, and none that means something about the data."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sftdata_cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("arguments", PRINTERS.values(), ids=PRINTERS)
def test_a_closed_output_leads_nowhere(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "sftdata_cli", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=lambda: os.closerange(0, 2),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_that_breaks_elsewhere_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "argv", ["sftdata"])
    monkeypatch.setattr("sftdata_cli.exits._nobody_reads", lambda: False)
    assert exit_code(command(work)) == 2
    assert capsys.readouterr().err == "error: a pipe or connection broke, and it was not standard output\n"


def test_results_that_the_disk_has_no_room_for_are_a_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-m", "sftdata_cli", "rule"]
    with full.open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_want_of_memory_is_no_defect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise MemoryError

    monkeypatch.setattr(sys, "argv", ["sftdata"])
    assert exit_code(command(work)) == 2
    assert capsys.readouterr().err.startswith("error: there is not enough memory.")
