"""The local engine: units in this process, or in a pool of them.

What lives here: which of the two. What must not: what a unit is.

With one worker a unit runs in this very process, which starts in no time and needs no second copy of the tokenizer. If
the process dies of it, the next run finds the unit begun and not committed, and gives it to a pool of one, where the
record that does it can be found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sftdata.pipeline.engines.pool import Pool, blameless
from sftdata.pipeline.folder import Folder
from sftdata.pipeline.plan import Plan
from sftdata.pipeline.unit import run_unit
from sftdata.pipeline.workshop import open_workshop
from sftdata.tokenizers import TokenizerFiles, Vocabulary

__all__ = ["run_units"]


def run_units(
    plan: Plan,
    todo: Sequence[int],
    folder: Folder,
    advance: Callable[[int], None],
    loaded: tuple[TokenizerFiles, Vocabulary] | None = None,
) -> None:
    """Run the units `todo` and commit each; `advance` is called with numbers of finished records.

    `loaded` is the planner's tokenizer, which workers need not load again.
    """
    if not todo:
        return
    if plan.config.workers > 1 and not folder.store.one_process:
        Pool(plan, folder, plan.config.workers, loaded).run(todo, advance)
        return
    watched = [] if folder.store.one_process else [index for index in todo if folder.was_begun(index)]
    watched += _run_here(plan, [index for index in todo if index not in watched], folder, advance, loaded)
    if watched:
        Pool(plan, folder, 1, loaded).run(watched, advance)


def _run_here(
    plan: Plan,
    todo: Sequence[int],
    folder: Folder,
    advance: Callable[[int], None],
    loaded: tuple[TokenizerFiles, Vocabulary] | None,
) -> list[int]:
    """Run units in this process; returns those that an exception came out of, which a pool can look into."""
    failed: list[int] = []
    workshop = open_workshop(plan, loaded) if todo else None
    for index in todo:
        assert workshop is not None
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            advance(count)

        try:
            with folder.begun(index):
                folder.commit(run_unit(plan, index, workshop, folder.scratch, tell))
        except Exception as error:
            if blameless(error) or folder.store.one_process:
                raise
            advance(-done)
            failed.append(index)
    return failed
