"""The visible loop of a run: plan, run the units that have no commit record, seal.

What lives here: the order of the three steps and what a rerun does (nothing for a sealed, unchanged output; the rest
for an unfinished one; a refusal for anything else). What must not: how a unit works, how a dataset is sealed.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sftdata.config import PrepareConfig, build_config
from sftdata.errors import OutputError, describe
from sftdata.pipeline.engines.local import run_units
from sftdata.pipeline.folder import Folder, write_durably
from sftdata.pipeline.plan import FORMAT_VERSION, Plan, fingerprint, read_inputs, versions
from sftdata.pipeline.seal import Outcome, read_commit, seal
from sftdata.pipeline.serving import Serving, settle_serving
from sftdata.tokenizers import choose_engine

__all__ = ["Progress", "make_plan", "prepare", "run_prepare"]


class Progress(Protocol):
    """What a run tells while it works."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins; `total` records are to come, None where that is not known."""
        ...

    def advance(self, records: int) -> None:
        """So many more records are done."""
        ...


class Silent:
    """Tells nobody."""

    def stage(self, name: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, records: int) -> None:
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
    folder = Folder(config.out)
    before = folder.state()
    if before == "foreign" and not config.fresh:
        raise OutputError(
            describe("the output folder is not empty", where=config.out, fix="Choose another --out, or --fresh.")
        )
    clock = config.clock or _planned_clock(folder, before, config) or _today()
    serving = settle_serving(config, clock)  # nothing is written before tokenizer, template and stops are settled
    with folder.locked():
        if config.fresh:
            folder.clear()
            before = "empty"
            folder.work.mkdir(parents=True)
        told.stage("reading inputs", None)
        plan = make_plan(config, clock, serving, folder.work, unit_bytes=unit_bytes)
        if before == "sealed":
            return _already_sealed(folder, plan)
        if before == "planned":
            plan = _resumed(folder, plan)
        write_durably(folder.plan, msgspec.json.encode(plan, order="deterministic"))
        todo = [unit.index for unit in plan.units if read_commit(folder.work, plan, unit.index) is None]
        told.stage("preparing", sum(plan.units[index].records for index in todo))
        run_units(plan, todo, folder.work, told.advance, (serving.files, serving.vocabulary))
        told.stage("sealing", None)
        return seal(plan, folder, serving)


def make_plan(
    config: PrepareConfig, clock: str, serving: Serving, spool: Path, *, unit_bytes: int | None = None
) -> Plan:
    """Read the inputs once and write down everything that decides the bytes of the dataset."""
    inputs, units = read_inputs(config.inputs, spool, size=unit_bytes)
    engine = choose_engine(serving.vocabulary, config.engine_tokenizer)
    used = {**versions(), "engine": f"{engine.name} {engine.version}"}
    tokenizer, template = serving.tokenizer_entry(), serving.template_entry(config, clock)
    records = sum(one.records for one in inputs)
    content = {
        "format_version": FORMAT_VERSION,
        "versions": used,
        "config": config.content(),
        "tokenizer": tokenizer,
        "template": template,
        "inputs": [(one.name, one.size, one.sha256, one.records) for one in inputs],
        "units": [(unit.first_record, unit.records) for unit in units],
    }
    return Plan(
        format_version=FORMAT_VERSION,
        versions=used,
        fingerprint=fingerprint(content),
        config=config,
        clock=clock,
        tokenizer=tokenizer,
        template=template,
        inputs=inputs,
        units=units,
        records=records,
        engine="fast" if engine.name != "tokenizers" else "reference",
    )


def _today() -> str:
    return datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()


def _planned_clock(folder: Folder, state: str, config: PrepareConfig) -> str | None:
    """The clock of the run that the folder holds, so that a resume on the next day is the same run."""
    if config.fresh:
        return None
    if state == "planned":
        return _read_plan(folder).clock
    if state == "sealed":
        from sftdata.shards import read_manifest

        return str(read_manifest(folder.path).template["clock"])
    return None


def _read_plan(folder: Folder) -> Plan:
    try:
        return msgspec.json.decode(folder.plan.read_bytes(), type=Plan)
    except (OSError, msgspec.DecodeError) as error:
        raise OutputError(
            describe("the plan of the unfinished run cannot be read", where=str(folder.plan), fix="Use --fresh.")
        ) from error


def _resumed(folder: Folder, plan: Plan) -> Plan:
    """The plan to go on with; raises OutputError, saying what changed, where it is not the one in the folder."""
    old = _read_plan(folder)
    if old.fingerprint != plan.fingerprint:
        raise OutputError(
            describe(
                f"the folder holds an unfinished run of something else: {_changes(old, plan)} changed",
                where=str(folder.path),
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
    changed += [key.replace("_", "-") for key in after if before.get(key) != after[key]]
    changed += [what for what in ("clock", "tokenizer", "template") if getattr(old, what) != getattr(new, what)]
    if [one.sha256 for one in old.inputs] != [one.sha256 for one in new.inputs]:
        changed.append("inputs")
    return ", ".join(dict.fromkeys(changed)) or "the division of work"


def _already_sealed(folder: Folder, plan: Plan) -> Outcome:
    from sftdata.shards import read_manifest

    manifest = read_manifest(folder.path)
    if manifest.fingerprint != plan.fingerprint:
        raise OutputError(
            describe(
                "the folder holds a dataset made from other inputs, options, tokenizer, template or version",
                where=str(folder.path),
                fix="Choose another --out, or --fresh to replace it.",
            )
        )
    shutil.rmtree(folder.work, ignore_errors=True)
    return Outcome(True, str(folder.path), _sealed_report(folder), unchanged=True)


def _sealed_report(folder: Folder) -> dict[str, Any]:
    """The report that stands beside the manifest; empty where somebody removed it."""
    try:
        report: dict[str, Any] = msgspec.json.decode((folder.path / "report.json").read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return report
