"""What a worker process does: take tasks from its pipe, run them, tell how far it is.

    parent ─► Job, Task, Task ...       worker ─► (up, None) (ready, None) (records, n) (done, index)
                                                  (touched, record id) (found, {record id: why}) (error, exception)

What lives here: the child's side. What must not: deciding what is done next, or about records that kill.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

if TYPE_CHECKING:
    from sftdata.pipeline.plan import Plan
    from sftdata.pipeline.workshop import Workshop
    from sftdata.tokenizers import TokenizerFiles, Vocabulary

__all__ = ["Job", "Task", "main", "one_thread", "portable"]


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides, and kills
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        connection.send(("up", None))
        job: Job = connection.recv()
        from sftdata.pipeline.workshop import open_workshop

        workshop = open_workshop(job.plan, job.loaded)
        connection.send(("ready", None))
        while True:
            task: Task = connection.recv()
            _do(task, job, workshop, connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        connection.send(("error", portable(error)))


def one_thread() -> None:
    """Encode on one thread: processes are the parallelism. Read when the first text is encoded."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _do(task: Task, job: Job, workshop: Workshop, connection: Connection) -> None:
    from sftdata.pipeline.folder import Folder
    from sftdata.pipeline.unit import run_unit, try_records

    folder = Folder(job.address)
    plan = msgspec.structs.replace(job.plan, poison=task.poison)
    folder.fetch_spool(plan, task.index)

    def tell(kind: str, value: Any) -> None:
        connection.send((kind, value))

    if task.first is not None:
        found = try_records(
            plan,
            task.index,
            workshop,
            folder.scratch,
            first=task.first,
            touch=lambda record: tell("touched", record),
        )
        tell("found", found)
        return
    folder.commit(run_unit(plan, task.index, workshop, folder.scratch, lambda count: tell("records", count)))
    tell("done", task.index)


def _end_with_parent() -> NoReturn:
    """A killed parent cannot stop its workers; they must not go on under a run that resumes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def portable(error: Exception) -> Exception:
    """`error`, or where it does not survive a pipe, one that says the same."""
    try:
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - foreign exceptions fail to pickle in many ways
        again = None
    told = "".join(traceback.format_exception(error))
    if type(again) is not type(error):
        return RuntimeError(told)
    error.__cause__ = RuntimeError(told)
    return error
