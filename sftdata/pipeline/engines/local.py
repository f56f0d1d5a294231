"""The local engine: units in this process, or in a pool of them.

What lives here: scheduling. What must not: what a unit is.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from sftdata.pipeline.plan import Plan
from sftdata.pipeline.seal import commit
from sftdata.pipeline.unit import run_unit
from sftdata.pipeline.workshop import Workshop, open_workshop
from sftdata.tokenizers import TokenizerFiles, Vocabulary

__all__ = ["run_units"]


def run_units(
    plan: Plan,
    todo: Sequence[int],
    work: Path,
    advance: Callable[[int], None],
    loaded: tuple[TokenizerFiles, Vocabulary] | None = None,
) -> None:
    """Run the units `todo` and commit each; `advance` is called with numbers of finished records.

    `loaded` is the planner's tokenizer, which workers need not load again.
    """
    if plan.config.workers == 1 or len(todo) < 2:
        if todo:
            workshop = open_workshop(plan, loaded)
            for index in todo:
                commit(work, run_unit(plan, index, workshop, work, advance))
        return
    context = multiprocessing.get_context("spawn")
    workers = min(plan.config.workers, len(todo))
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # one thread a process: processes are the parallelism
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(plan, str(work), loaded)) as pool:
        running: dict[Future[int], int] = {}
        queue = list(todo)
        while queue or running:
            while queue and len(running) < 2 * workers:
                index = queue.pop(0)
                running[pool.submit(_work, index)] = index
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                index = running.pop(future)
                advance(future.result() and plan.units[index].records)


_state: tuple[Plan, Workshop, Path] | None = None


def _begin(plan: Plan, work: str, loaded: tuple[TokenizerFiles, Vocabulary] | None) -> None:
    global _state  # noqa: PLW0603 - a pool worker has no other place to keep what it set up once
    _state = (plan, open_workshop(plan, loaded), Path(work))


def _unheard(records: int) -> None:
    """A pool worker reports whole units only."""


def _work(index: int) -> int:
    assert _state is not None
    plan, workshop, work = _state
    commit(work, run_unit(plan, index, workshop, work, _unheard))
    return 1
