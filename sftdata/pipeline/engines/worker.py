"""What a worker process does: take tasks from its pipe, run them, tell how far it is.

    parent ─► Job, Task, Task ...       worker ─► (up, None) (ready, None) (records, n) (done, index)
                                                  (touched, record id) (found, {record id: why}) (error, exception)

What lives here: the child's side. What must not: deciding what is done next, or about records that kill.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

if TYPE_CHECKING:
    from sftdata.pipeline.plan import Plan
    from sftdata.pipeline.workshop import Workshop
    from sftdata.tokenizers import TokenizerFiles, Vocabulary

__all__ = ["Job", "Task", "deaf_to_ctrl_c", "end_with_parent", "main", "one_thread", "portable"]


class Job(msgspec.Struct, frozen=True):
    """What a worker is started with."""

    plan: Plan
    address: str
    """Of the output."""
    loaded: tuple[TokenizerFiles, Vocabulary] | None
    """The planner's tokenizer, which need not be loaded again."""


class Task(msgspec.Struct, frozen=True):
    """One unit to run, or to search for the record that kills."""

    index: int
    poison: dict[int, str]
    """Records of this unit that killed a worker before, also since this one was started."""
    first: int | None = None
    """Search the block that holds this record, one record at a time."""


def main(connection: Connection) -> None:
    """Run tasks until the pipe is closed or the parent is gone."""
    one_thread()
    end_with_parent()
    parent = _Parent(connection)
    try:
        parent.tell("up", None)
        job: Job = parent.listen()
        from sftdata.pipeline.workshop import open_workshop

        workshop = open_workshop(job.plan, job.loaded)
        parent.tell("ready", None)
        while True:
            _do(parent.listen(), job, workshop, parent)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        parent.tell("error", portable(error))


class _Parent:
    """The other end of the pipe. Where it is gone, nobody is to hear anything, and this process ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, kind: str, value: Any) -> None:
        try:
            self._connection.send((kind, value))
        except OSError:
            raise SystemExit(1) from None

    def listen(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            raise SystemExit(0) from None


def one_thread() -> None:
    """Encode on one thread: processes are the parallelism. Read when the first text is encoded."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _do(task: Task, job: Job, workshop: Workshop, parent: _Parent) -> None:
    from sftdata.pipeline.folder import Folder
    from sftdata.pipeline.unit import run_unit, try_records

    folder = Folder(job.address)
    plan = msgspec.structs.replace(job.plan, poison=task.poison)
    folder.fetch_spool(plan, task.index)

    if task.first is not None:
        found = try_records(
            plan,
            task.index,
            workshop,
            folder.scratch,
            first=task.first,
            touch=lambda record: parent.tell("touched", record),
        )
        parent.tell("found", found)
        return
    folder.commit(run_unit(plan, task.index, workshop, folder.scratch, lambda count: parent.tell("records", count)))
    parent.tell("done", task.index)


@contextlib.contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that are started in the block never hear SIGINT, from their first instruction on.

    Ctrl-C reaches the whole group; the parent decides, and kills. A process that ignores it in its own code hears it
    while it still imports that code, and says so in a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # at its start it lets the parent, and so its children, hear SIGINT again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process when its parent is gone: killed, it cannot stop its workers.

    They must not go on under a run that resumes, nor wait for ever.
    """
    threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> NoReturn:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def portable(error: Exception) -> Exception | _Told:
    """What arrives at the other end of a pipe as `error`, with the traceback of this process as its cause.

    Where `error` does not survive a pipe, what arrives says the same.
    """
    try:
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - foreign exceptions fail to pickle in many ways
        again = None
    told = "".join(traceback.format_exception(error))
    return _Told(error, told) if type(again) is type(error) else RuntimeError(told)


class _Told:
    """An exception on its way: pickling it alone would lose where it was raised."""

    def __init__(self, error: Exception, told: str) -> None:
        self._error, self._told = error, told

    def __reduce__(self) -> tuple[Any, ...]:
        return _caused, (self._error, self._told)


def _caused(error: Exception, told: str) -> Exception:
    error.__cause__ = RuntimeError(told)
    return error
