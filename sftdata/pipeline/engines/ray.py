"""The Ray engine: units as Ray Core tasks on the nodes of a cluster.

    driver ─(address of the output, fingerprint, unit)─► a task on some node ─► files and commit record in the output
           ◄─────────────(done, records)────────────────

What lives here: which unit runs where and how often, and what a task does. What must not: what a unit is. No text and
no token passes through Ray: a task reads the plan from the output and writes into it, so the output is a folder that
all nodes share, or an address in a remote store. Ray Data is not used: its blocks depend on the cluster, and so would
the bytes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from sftdata.errors import ConfigError, OutputError, SftdataError, describe
from sftdata.pipeline.engines.pool import Pool, blameless
from sftdata.pipeline.engines.worker import one_thread, portable
from sftdata.pipeline.folder import Folder
from sftdata.pipeline.plan import Plan
from sftdata.pipeline.store import RESUME
from sftdata.pipeline.unit import run_unit
from sftdata.pipeline.workshop import Workshop, check_versions, open_workshop
from sftdata.tokenizers import TokenizerFiles, Vocabulary

__all__ = ["run_units"]

_TRIES = 8
"""How often a unit may be lost with its worker or node, or fail to read or write."""
_PER_CPU = 2
"""Units in flight for every CPU: one runs, one waits, so that a cluster that can grow sees what is asked of it."""
_ANSWER = 10.0
"""Seconds in which a cluster must answer."""
_PATIENCE = 1.0
"""Seconds that tasks are given to end when the run does."""


class Attempt(msgspec.Struct):
    """A unit on its way through the cluster."""

    index: int
    losses: int = 0
    """How often it was begun and not finished."""
    watched: bool = False
    """Run it in a process of its own, where a record that kills can be found."""


def run_units(
    plan: Plan,
    todo: Sequence[int],
    folder: Folder,
    advance: Callable[[int], None],
    loaded: tuple[TokenizerFiles, Vocabulary] | None = None,  # noqa: ARG001 - nodes load it, and check what they find
) -> None:
    """Run the units `todo` on a Ray cluster; each is committed by the node that ran it.

    `advance` is called with the records of every finished unit. Raises ConfigError where there is no cluster to be
    had, or a node has other versions, tokenizer or template than the plan; otherwise what ends a local run.
    """
    if not todo:
        return
    if folder.store.one_process:
        raise ConfigError(
            describe("nodes cannot see it", where=folder.address, expected="a shared folder, or a remote store")
        )
    folder.share_spool()
    with _connected() as ray:
        _Driver(ray, plan, folder, advance).run(todo)


class _Driver:
    """Feeds a cluster with units and takes what comes back."""

    def __init__(self, ray: Any, plan: Plan, folder: Folder, advance: Callable[[int], None]) -> None:
        self._ray, self._plan, self._folder, self._advance = ray, plan, folder, advance
        self._run = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(run_here)
        self._queue: deque[Attempt] = deque()
        self._flying: dict[Any, Attempt] = {}

    def run(self, todo: Sequence[int]) -> None:
        """Run the units `todo`; raises what ends the run, and leaves no task behind."""
        self._queue = deque(Attempt(index) for index in todo)
        try:
            while self._queue or self._flying:
                while self._queue and len(self._flying) < self._room():
                    self._begin(self._queue.popleft())
                done, _ = self._ray.wait(list(self._flying), timeout=1.0)
                for task in done:
                    self._end(self._flying.pop(task), task)
        finally:
            for task in self._flying:
                self._ray.cancel(task, force=True)
            if self._flying:
                self._ray.wait(list(self._flying), num_returns=len(self._flying), timeout=_PATIENCE)

    def _room(self) -> int:
        return max(1, int(_PER_CPU * self._ray.cluster_resources().get("CPU", 0)))

    def _begin(self, attempt: Attempt) -> None:
        task = self._run.remote(self._folder.address, self._plan.fingerprint, attempt.index, attempt.watched)
        self._flying[task] = attempt

    def _end(self, attempt: Attempt, task: Any) -> None:
        """Take what a task came to; its unit is begun again where another try may help."""
        try:
            kind, value = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:  # it did not get as far as our own code
            raise ConfigError(
                describe(
                    f"a node cannot run units: {error.cause or error}",
                    expected="sftdata, installed alike on every node",
                )
            ) from error
        except self._ray.exceptions.RayError as error:
            kind, value = "lost", _first_sentence(error)
        if kind == "done":
            self._advance(value)
            return
        if isinstance(value, SftdataError) or (isinstance(value, Exception) and blameless(value) and not _again(value)):
            raise value
        attempt.losses += 1
        if attempt.losses == _TRIES:
            self._give_up(attempt, value)
        # a worker that died, or an exception of unknown cause, may be the work of a record
        attempt.watched = not (isinstance(value, Exception) and _again(value))
        self._queue.appendleft(attempt)

    def _give_up(self, attempt: Attempt, value: Any) -> None:
        if isinstance(value, Exception):
            raise value
        raise OutputError(
            describe(
                f"unit {attempt.index} was lost {_TRIES} times, the last time: {value}",
                where=self._folder.address,
                fix=f"See whether the nodes have memory enough. {RESUME}",
            )
        )


def _again(error: Exception) -> bool:
    """Whether another try, perhaps on another node, may help: a disk or a network that failed."""
    return isinstance(error, OSError) and not isinstance(error, SftdataError)


def _first_sentence(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__


def run_here(address: str, fingerprint: str, index: int, watched: bool) -> tuple[str, Any]:
    """What a task does: run unit `index` of the plan in `address` and commit it.

    Returns `("done", records)` or `("error", exception)`.
    """
    one_thread()
    try:
        folder, plan = Folder(address), _planned(address, fingerprint)
        check_versions(plan)
        if folder.is_committed(plan, index):
            return "done", plan.units[index].records
        folder.scratch.mkdir(parents=True, exist_ok=True)
        if watched:
            Pool(plan, folder, 1).run([index], lambda _: None)
        else:
            folder.fetch_spool(plan, index)
            shop = _workshop(address, fingerprint)
            folder.commit(run_unit(plan, index, shop, folder.scratch, lambda _: None))
    except SftdataError as error:
        return "error", type(error)(f"on node {platform.node()}: {error}")
    except Exception as error:  # noqa: BLE001 - the driver decides what becomes of the unit
        return "error", portable(error)
    return "done", plan.units[index].records


@functools.lru_cache(maxsize=1)
def _workshop(address: str, fingerprint: str) -> Workshop:
    """The stages, set up once a worker process."""
    return open_workshop(_planned(address, fingerprint))


def _planned(address: str, fingerprint: str) -> Plan:
    """The driver's plan, read from the output; raises OutputError where this node sees another, or none."""
    plan = None
    with contextlib.suppress(OutputError):
        plan = Folder(address).read_plan()
    if plan is None or plan.fingerprint != fingerprint:
        raise OutputError(
            describe(
                "the plan of this run is not there",
                where=address,
                expected="a folder that all nodes share, or an address in a remote store",
                fix="Choose such an --out.",
            )
        )
    return plan


@contextlib.contextmanager
def _connected() -> Iterator[Any]:
    """Ray, connected to the cluster that the caller or RAY_ADDRESS names, else to one of this machine's own.

    Ray prints warnings on standard output, which belongs to the command's result: they go to standard error.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            describe("--engine ray needs another package", fix="Install it: pip install 'sftdata[ray]'.")
        ) from error
    if ray.is_initialized():
        yield ray
        return
    _must_answer(os.environ.get("RAY_ADDRESS", ""))
    with contextlib.redirect_stdout(sys.stderr):
        try:
            with _own_handler():
                ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _no_connection(error) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _must_answer(address: str) -> None:
    """Raises ConfigError where nobody listens at `host:port`; Ray would try for minutes before it says so."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except OSError as error:
        raise _no_connection(error) from error


def _no_connection(error: Exception) -> ConfigError:
    return ConfigError(
        describe(
            f"no connection to Ray: {' '.join(str(error).split())}",
            where=f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}",
            expected="a cluster that runs the same versions of Ray and Python",
            fix="Start one (ray start --head), or leave RAY_ADDRESS empty to use this machine alone.",
        )
    )


@contextlib.contextmanager
def _own_handler() -> Iterator[None]:
    """Keep the command's handler of SIGTERM, in whose place Ray puts its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
