"""The visible loop of a run: plan, run the units that have no commit record, seal.

What lives here: the order of the three steps and what a rerun does (nothing for a sealed, unchanged output; the rest
for an unfinished one; a refusal for anything else). What must not: how a unit works, how a dataset is sealed.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sftdata.config import PrepareConfig, build_config
from sftdata.errors import InputError, OutputError, SftdataError, describe
from sftdata.pipeline.engines import ray
from sftdata.pipeline.engines.local import run_units
from sftdata.pipeline.folder import Folder
from sftdata.pipeline.plan import FORMAT_VERSION, Plan, fingerprint, read_inputs, versions
from sftdata.pipeline.seal import Outcome, left_alone, seal
from sftdata.pipeline.serving import Serving, settle_serving
from sftdata.pipeline.store import RESUME
from sftdata.pipeline.taking import decided
from sftdata.sources import resolve
from sftdata.tokenizers import choose_engine
from sftdata.tokenizers.engines import EngineMismatch

__all__ = ["Opened", "Progress", "kept_for_resume", "make_plan", "opened", "prepare", "run_prepare"]

_MUCH = 1 << 20
"""Bytes of decoded inputs from which on the user is told that they take room on the disk."""


class Progress(Protocol):
    """What a run tells while it works."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins; `total` records are to come, None where that is not known."""
        ...

    def advance(self, records: int) -> None:
        """So many more records are done."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should know now."""
        ...


class Silent:
    """Tells nobody."""

    def stage(self, name: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, records: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def prepare(inputs: str | Sequence[str], **options: Any) -> Outcome:
    """Turn raw records into a sealed dataset; the flags of `sftdata prepare` as keyword arguments.

    `prepare("chats.jsonl", tokenizer="builtin", template="chatml", max_length=4096, out="shards")`

    Returns an `Outcome`; `outcome.sealed` is False where too much was rejected or nothing is left to train.
    Raises ConfigError, InputError or OutputError where the run cannot begin.
    """
    paths = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    return run_prepare(build_config({"inputs": paths, **options}, where="prepare"))


def run_prepare(config: PrepareConfig, progress: Progress | None = None, *, unit_bytes: int | None = None) -> Outcome:
    """`prepare` with a finished configuration. `unit_bytes` overrides the size of a unit (for tests)."""
    told = progress or Silent()
    with opened(config, told, unit_bytes=unit_bytes) as job:
        if job.sealed:
            return left_alone(job.folder)
        try:
            return _run(job.plan, job.folder, job.serving, told)
        except EngineMismatch as error:
            told.stage(f"starting over with the reference tokenizer engine: {error}", None)
            return _run(with_reference(job.plan, job.serving), job.folder, job.serving, told)


class Opened(msgspec.Struct, frozen=True):
    """An output folder that this process holds, and the plan for it."""

    folder: Folder
    plan: Plan
    serving: Serving
    sealed: bool
    """Whether the folder holds the finished dataset of this plan."""


@contextlib.contextmanager
def opened(config: PrepareConfig, told: Progress, *, unit_bytes: int | None = None) -> Iterator[Opened]:
    """Read the inputs, and hold the output folder for a plan that is new, or the very one that lies there.

    Raises OutputError where the folder holds anything else, ConfigError and InputError before anything is written.
    """
    folder = Folder(config.out)
    before = folder.state()
    if before == "foreign" and not config.fresh:
        raise OutputError(
            describe("the output folder is not empty", where=config.out, fix="Choose another --out, or --fresh.")
        )
    clock = config.clock or _planned_clock(folder, before, config) or _today()
    # nothing is written before tokenizer, template, stops and the names of the inputs are settled
    serving = settle_serving(config, clock)
    resolve(config.inputs)
    with folder.locked():
        folder.sweep()
        if config.fresh:
            folder.clear()
        told.stage("reading inputs", None)
        plan = make_plan(config, clock, serving, folder.scratch, unit_bytes=unit_bytes, advance=told.advance)
        state = folder.state()  # a run may have ended since
        if state == "planned":
            plan = _resumed(folder, plan, serving)
        elif state == "sealed":
            _refuse_other_dataset(folder, plan, serving)
        decoded = folder.decoded()
        if decoded >= _MUCH and state != "sealed":
            told.note(f"{decoded / (1 << 20):,.1f} MiB of decoded inputs lie in {folder.scratch} until all is sealed")
        with kept_for_resume(folder):
            yield Opened(folder, plan, serving, state == "sealed")


def _run(plan: Plan, folder: Folder, serving: Serving, told: Progress) -> Outcome:
    """Run the units that are not done, and seal."""
    folder.write_plan(plan)
    done = folder.committed(plan)
    todo = [unit.index for unit in plan.units if unit.index not in done]
    if done:
        told.note(f"{len(done)} of {len(plan.units)} units are done already")
    told.stage("preparing", sum(plan.units[index].records for index in todo))
    run = ray.run_units if plan.config.engine == "ray" else run_units
    run(plan, todo, folder, told.advance, (serving.files, serving.vocabulary))
    told.stage("sealing", None)
    return seal(folder.with_poison(plan), folder, serving, folder.results(plan))


@contextlib.contextmanager
def kept_for_resume(folder: Folder) -> Iterator[None]:
    """Errors of a run under way say that what is done is kept. Raises them as OutputError or InputError."""
    try:
        yield
    except SftdataError as error:
        if not isinstance(error, InputError) or "--fresh" in str(error):
            raise
        raise InputError(f"{error} {RESUME}") from error
    except OSError as error:
        why = error.strerror or str(error)
        where = error.filename or folder.address
        raise OutputError(describe(why, where=str(where), fix=f"See to it. {RESUME}")) from error


def make_plan(
    config: PrepareConfig,
    clock: str,
    serving: Serving,
    spool: Path,
    *,
    unit_bytes: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Plan:
    """Read the inputs once and write down everything that decides the bytes of the dataset.

    `advance` is called with the records of every input that was read.
    """
    beside = ThreadPoolExecutor(1)  # a second or so of loading, most of it without the interpreter's lock
    try:
        chosen = beside.submit(choose_engine, serving.vocabulary, config.engine_tokenizer)
        inputs, units = read_inputs(config.inputs, spool, size=unit_bytes, advance=advance)
        engine = chosen.result()
    finally:
        beside.shutdown(wait=False)  # a signal does not wait for it
    plan = decided(
        Plan(
            format_version=FORMAT_VERSION,
            versions={**versions(), "engine": f"{engine.name} {engine.version}"},
            fingerprint="",
            config=anchored(config),
            clock=clock,
            tokenizer=serving.tokenizer_entry(),
            template=serving.template_entry(config, clock),
            inputs=inputs,
            units=units,
            records=sum(one.records for one in inputs),
            engine="fast" if engine.name != "tokenizers" else "reference",
        )
    )
    return _fingerprinted(plan)


def with_reference(plan: Plan, serving: Serving) -> Plan:
    """The same work, all of it with the reference engine, because the fast one was found to differ."""
    engine = choose_engine(serving.vocabulary, "reference")
    used = {**plan.versions, "engine": f"{engine.name} {engine.version}"}
    return _fingerprinted(msgspec.structs.replace(plan, versions=used, engine="reference", fell_back=True))


def _fingerprinted(plan: Plan) -> Plan:
    content = {
        "format_version": plan.format_version,
        "versions": plan.versions,
        "config": plan.config.content(),
        "tokenizer": plan.tokenizer,
        "template": plan.template,
        "inputs": [(one.name, one.size, one.sha256, one.records) for one in plan.inputs],
        "units": [(unit.first_record, unit.records) for unit in plan.units],
    }
    if plan.drop:
        content["drop"] = plan.drop
    if plan.mixture:
        content["mixture"] = plan.mixture
    return msgspec.structs.replace(plan, fingerprint=fingerprint(content))


def anchored(config: PrepareConfig) -> PrepareConfig:
    """`config` with the addresses of local files made absolute: a unit may run in another working directory."""
    found = {name: getattr(config, name) for name in ("template", "dataset_info", "drop", "stats")}
    paths = {name: os.path.abspath(path) for name, path in found.items() if path is not None and os.path.isfile(path)}
    if config.tokenizer != "builtin" and os.path.exists(config.tokenizer):
        paths["tokenizer"] = os.path.abspath(config.tokenizer)
    return msgspec.structs.replace(config, **paths)


def _today() -> str:
    return datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()


def _planned_clock(folder: Folder, state: str, config: PrepareConfig) -> str | None:
    """The clock of the run that the folder holds, so that a resume on the next day is the same run."""
    if config.fresh:
        return None
    if state == "planned":
        return folder.read_plan().clock
    if state == "sealed":
        from sftdata.shards import read_manifest

        return str(read_manifest(folder.address).template["clock"])
    return None


def _resumed(folder: Folder, plan: Plan, serving: Serving) -> Plan:
    """The plan to go on with; raises OutputError, saying what changed, where it is not the one in the folder."""
    old = folder.read_plan()
    if old.fell_back:
        plan = with_reference(plan, serving)
    if old.fingerprint != plan.fingerprint:
        raise OutputError(
            describe(
                f"the folder holds an unfinished run of something else: {_changes(old, plan)} changed",
                where=folder.address,
                fix="Run the same command as before to resume it, choose another --out, or --fresh.",
            )
        )
    return msgspec.structs.replace(plan, poison=old.poison)


def _changes(old: Plan, new: Plan) -> str:
    """What differs between two plans, in words."""
    changed = [
        f"version of {name}" for name in sorted(new.versions) if old.versions.get(name) != new.versions.get(name)
    ]
    before, after = old.config.content(), new.config.content()
    changed += [key.replace("_", "-") for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    changed += [
        what
        for what in ("clock", "tokenizer", "template", "drop", "mixture")
        if getattr(old, what) != getattr(new, what)
    ]
    if [one.sha256 for one in old.inputs] != [one.sha256 for one in new.inputs]:
        changed.append("inputs")
    return ", ".join(dict.fromkeys(changed)) or "the division of work"


def _refuse_other_dataset(folder: Folder, plan: Plan, serving: Serving) -> None:
    """Raises OutputError where the folder's dataset is not the one that `plan` makes."""
    from sftdata.shards import read_manifest

    manifest = read_manifest(folder.address)
    if manifest.tokenizer.get("engine", {}).get("fell_back"):
        plan = with_reference(plan, serving)
    if manifest.fingerprint != plan.fingerprint:
        raise OutputError(
            describe(
                "the folder holds a dataset made from other inputs, options, tokenizer, template or version",
                where=folder.address,
                fix="Choose another --out, or --fresh to replace it.",
            )
        )
