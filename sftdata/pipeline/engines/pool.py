"""A pool of worker processes that outlives the death of any of them.

    a worker dies ─► a search takes the block it died in one record at a time ─► the record becomes poison
                                                                            ─► the unit runs again without it

What lives here: starting, feeding, watching and stopping workers; the search for a record that kills. What must not:
what a unit is. A worker has one unit at a time, so nothing waits in memory; the parent holds counts only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from sftdata.errors import OutputError, SftdataError, describe
from sftdata.pipeline.engines.worker import Job, Task, deaf_to_ctrl_c, main
from sftdata.pipeline.folder import Folder
from sftdata.pipeline.plan import Plan
from sftdata.pipeline.store import RESUME
from sftdata.tokenizers import TokenizerFiles, Vocabulary
from sftdata.tokenizers.engines import EngineMismatch

__all__ = ["HANG_SECONDS", "Pool", "blameless"]

HANG_SECONDS = 300.0
"""The last resort: how long a worker may be silent over one block of about 1 MiB, or over one record of a search."""
_TRIES = 3
"""How often a unit may lose its worker without a record that does it: other programs kill too."""
_MAX_POISON = 16
"""Records of one unit that may kill. More of them are no accident of a record."""


def blameless(error: BaseException) -> bool:
    """Whether an error ends the run rather than accuse a record: the disk, the input, the configuration."""
    return isinstance(error, (SftdataError, OSError, EngineMismatch))


class Worker:
    """One child process and what it is at."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # the job is sent when the process is up: one that dies before it reads what it was started with would leave
        # its parent writing for ever
        self._job = job
        self.process = context.Process(target=main, args=(theirs,), daemon=True)
        with _no_main(), deaf_to_ctrl_c():
            self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.ready = False
        self.count = 0
        """Records of the task that are done."""
        self.last: int | None = None
        """The record that a search touched last."""
        self.heard = time.monotonic()

    def give(self, task: Task) -> None:
        """Begin a task, as soon as the process is ready."""
        self.task, self.count, self.last, self.heard = task, 0, None, time.monotonic()
        if self.ready:
            self._send(task)

    def _send(self, what: Job | Task) -> None:
        with contextlib.suppress(OSError):  # it died: its end of the pipe says so
            self.connection.send(what)

    def receive(self) -> tuple[str, Any]:
        """The next message; `("died", how)` where there will be none."""
        try:
            message: tuple[str, Any] = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return "died", _how(self.process.exitcode)
        self.heard = time.monotonic()
        if message[0] == "up":
            self._send(self._job)
        elif message[0] == "ready":
            self.ready = True
            if self.task is not None:
                self._send(self.task)
        return message

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class Pool:
    """Runs units on `workers` processes; every unit that is done is committed by the worker that ran it."""

    def __init__(
        self, plan: Plan, folder: Folder, workers: int, loaded: tuple[TokenizerFiles, Vocabulary] | None = None
    ) -> None:
        self.plan, self._folder, self._size, self._loaded = plan, folder, workers, loaded
        self._workers: list[Worker] = []
        self._losses: dict[int, int] = {}

    def run(self, todo: Sequence[int], advance: Callable[[int], None]) -> None:
        """Run the units `todo`; raises what ends the run. No process is left behind."""
        queue = deque(todo)
        try:
            while queue or self._busy():
                while len(self._workers) < min(self._size, len(queue) + len(self._busy())):
                    self._workers.append(self._start())
                for worker in self._workers:
                    if worker.task is None and queue:
                        worker.give(self._task(queue.popleft()))
                for worker, (kind, value) in _messages(list(self._workers), self._is_silent):
                    self._hear(worker, kind, value, queue, advance)
        finally:
            for worker in self._workers:
                worker.stop()
            self._workers.clear()

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def _task(self, index: int, first: int | None = None) -> Task:
        unit = self.plan.units[index].record_ids
        return Task(index, {one: why for one, why in self.plan.poison.items() if one in unit}, first)

    def _start(self) -> Worker:
        return Worker(Job(self.plan, self._folder.address, self._loaded))

    def _is_silent(self, worker: Worker) -> bool:
        """Whether a worker has been at one block for too long; packing and writing may take as long as they need."""
        if worker.task is None or worker.count >= self.plan.units[worker.task.index].records:
            return False
        return time.monotonic() - worker.heard > HANG_SECONDS

    def _hear(self, worker: Worker, kind: str, value: Any, queue: deque[int], advance: Callable[[int], None]) -> None:
        if kind in {"up", "ready"}:
            return
        if kind == "records":
            worker.count += value
            advance(value)
        elif kind == "done":
            worker.task = None
        elif kind == "error" and blameless(value):
            raise value
        else:
            self._workers.remove(worker)
            worker.stop()
            if worker.task is not None:
                advance(-worker.count)
                queue.appendleft(self._lost(worker, worker.task.index, value))

    def _lost(self, worker: Worker, index: int, value: Any) -> int:
        """Find out why a worker is lost; returns the unit to run again. Raises where that would not help."""
        unit = self.plan.units[index]
        found = {}
        if worker.ready and worker.count < unit.records:
            found = self.search(index, unit.first_record + worker.count)
        if found:
            self.plan = self._folder.add_poison(self.plan, index, found)
            bad = sum(one in unit.record_ids for one in self.plan.poison)
            if bad > _MAX_POISON:
                raise OutputError(
                    describe(
                        f"{bad} records of unit {index} end a worker, the last time: {next(iter(found.values()))}",
                        where=self._folder.address,
                        fix="This is no accident of a record: please report it with one of them.",
                    )
                )
            return index
        self._losses[index] = self._losses.get(index, 0) + 1
        if isinstance(value, Exception):
            raise value
        if self._losses[index] >= _TRIES:
            raise OutputError(
                describe(
                    f"unit {index} lost its worker {_TRIES} times ({value}), and none of its records does it alone",
                    where=self._folder.address,
                    fix=f"See whether memory suffices for {self._size} workers. {RESUME}",
                )
            )
        return index

    def search(self, index: int, first: int) -> dict[int, str]:
        """The records that end a worker, in the block that holds record `first`: id and how; empty where none does.

        A record is accused only if it does so twice: memory that others take kills whoever comes along.
        """
        once = self._search(index, first)
        again = self._search(index, first) if once else {}
        return {record: how for record, how in once.items() if record in again}

    def _search(self, index: int, first: int) -> dict[int, str]:
        worker = self._start()
        worker.give(self._task(index, first))
        try:
            while True:
                for _, (kind, value) in _messages([worker], self._is_silent):
                    if kind == "touched":
                        worker.last = value
                    elif kind == "found":
                        found: dict[int, str] = value
                        return found
                    elif kind == "error" and (blameless(value) or worker.last is None):
                        raise value
                    elif kind in {"died", "error"}:
                        return {} if worker.last is None else {worker.last: str(value)}
        finally:
            worker.stop()


def _messages(
    workers: Sequence[Worker], is_silent: Callable[[Worker], bool]
) -> Iterator[tuple[Worker, tuple[str, Any]]]:
    """What workers say, waiting a second at most; a worker that is silent for too long is said to be dead."""
    by_connection: dict[Any, Worker] = {worker.connection: worker for worker in workers}
    heard = wait(list(by_connection), timeout=1.0)
    for connection in heard:
        worker = by_connection[connection]
        yield worker, worker.receive()
    for worker in workers:
        if worker.connection not in heard and is_silent(worker):
            yield worker, ("died", f"no answer for {HANG_SECONDS:.0f} s")


def _how(code: int | None) -> str:
    """How a process ended, in words: -11 is `killed by SIGSEGV`."""
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Start children that know nothing of the caller's script, so that it needs no `if __name__ == "__main__"`."""
    ours = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = ours
