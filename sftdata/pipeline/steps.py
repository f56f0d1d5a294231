"""Plan, run and seal as steps of their own, for schedulers that start processes: Slurm arrays, Kubernetes jobs, make.

    plan_units ─► plan.json ─► run_planned(0), run_planned(1) ... on any machines ─► seal_planned

What lives here: the three steps, each of which may be repeated. What must not: how a unit works. The machines share the
output folder, or the output lies in a remote store; they run the same versions, which is checked.
"""

from __future__ import annotations

from collections.abc import Sequence

from sftdata.config import PrepareConfig
from sftdata.errors import ConfigError, OutputError, describe
from sftdata.pipeline.engines.pool import Pool
from sftdata.pipeline.folder import Folder
from sftdata.pipeline.plan import Plan
from sftdata.pipeline.run import Progress, Silent, kept_for_resume, opened
from sftdata.pipeline.seal import Outcome, left_alone, seal
from sftdata.pipeline.serving import settle_serving
from sftdata.pipeline.workshop import check_versions
from sftdata.tokenizers.engines import EngineMismatch

__all__ = ["plan_units", "run_planned", "seal_planned"]


def plan_units(config: PrepareConfig, progress: Progress | None = None, *, unit_bytes: int | None = None) -> Plan:
    """Read the inputs once and write the plan; repeated, it finds the same plan there and leaves what is done.

    Raises OutputError where the folder holds something else, or is sealed already.
    """
    with opened(config, progress or Silent(), unit_bytes=unit_bytes) as job:
        if job.sealed:
            left_alone(job.folder)
            raise OutputError(
                describe("the dataset is sealed already", where=job.folder.address, fix="Nothing is left to do.")
            )
        job.folder.write_plan(job.plan)
        job.folder.share_spool()
        return job.plan


def run_planned(out: str, indices: Sequence[int], progress: Progress | None = None) -> list[int]:
    """Run the units `indices` of the plan in `out`, in processes of their own; returns those that had to be run.

    Any number of processes and machines may do so at once. A unit that is done is left alone, and so are all once the
    dataset is sealed. Raises ConfigError where
    this machine has other versions, another tokenizer or template than the plan, and for a unit that is not in it.
    """
    told = progress or Silent()
    folder = Folder(out)
    if folder.state() == "sealed":
        return []
    plan = folder.read_plan()
    check_versions(plan)
    for index in indices:
        if not 0 <= index < len(plan.units):
            raise ConfigError(describe(f"there is no unit {index}", where=out, expected=f"0 to {len(plan.units) - 1}"))
    todo = [index for index in dict.fromkeys(indices) if not folder.is_committed(plan, index)]
    if todo:
        told.stage("preparing", sum(plan.units[index].records for index in todo))
        folder.scratch.mkdir(parents=True, exist_ok=True)
        try:
            with folder.locked(shared=True), kept_for_resume(folder):
                Pool(plan, folder, min(plan.config.workers, len(todo))).run(todo, told.advance)
        except EngineMismatch as error:
            raise ConfigError(
                describe(
                    f"SFT421: {error}",
                    where=f"{out}, unit {todo[0]}",
                    fix="Plan again with --engine-tokenizer reference --fresh.",
                )
            ) from error
    return todo


def seal_planned(out: str, progress: Progress | None = None) -> Outcome:
    """Check that every unit of the plan in `out` is done and whole, and seal.

    Raises OutputError naming a unit that is missing.
    """
    folder = Folder(out)
    with folder.locked(), kept_for_resume(folder):
        if folder.state() == "sealed":
            return left_alone(folder)
        plan = folder.read_plan()
        check_versions(plan)
        (progress or Silent()).stage("sealing", None)
        results = folder.committed(plan)
        serving = settle_serving(plan.config, plan.clock)
        return seal(plan, folder, serving, [results[unit.index] for unit in plan.units if unit.index in results])
