"""Check inputs: the stages over all records with nothing written, then what only shows over all of them.

    plan ─► examine every unit ─► duplicates, conflicts, shares ─► findings with places, one verdict

What lives here: the order of these steps, in a temporary folder. What must not: rules, outputs, the verdict's policy
(`verdict`).
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from sftdata import checks, formats
from sftdata.config import PrepareConfig
from sftdata.durable import durable
from sftdata.errors import OutputError, describe
from sftdata.pipeline.engines.worker import deaf_to_ctrl_c, end_with_parent
from sftdata.pipeline.examine import DOCUMENTS, RECORDS, Bench, Examined, Found, Wishes, open_bench
from sftdata.pipeline.identity import Stamp, StampedInput
from sftdata.pipeline.ledger import Ledger, add_counts
from sftdata.pipeline.plan import FORMAT_VERSION, Plan, fingerprint, read_inputs, versions
from sftdata.pipeline.run import Progress, Silent, make_plan
from sftdata.pipeline.serving import Serving, settle_serving
from sftdata.pipeline.stages import blocks_of
from sftdata.pipeline.workshop import open_workshop
from sftdata.quality.keys import keys_of, said
from sftdata.quality.near import Signatures
from sftdata.records import Conversation
from sftdata.report.json import run_report

__all__ = ["Checked", "check"]

_NO_LIMIT = 1 << 24
_ASKED = frozenset({"user"})
_COMPARED = frozenset({"SFT701", "SFT702", "SFT703", "SFT704", "SFT705", "SFT711"})
"""Rules that need the keys of all records."""


class Checked:
    """What a check found. A context manager: its findings lie in a temporary folder until it is closed."""

    def __init__(self) -> None:
        # removed with this object at the latest, should a signal come before anybody holds it
        self._folder = tempfile.TemporaryDirectory(prefix="sftdata-check-", ignore_cleanup_errors=True)
        self.work = Path(self._folder.name)
        self.report: dict[str, Any] = {}
        self.plan: Plan | None = None
        self.serving: Serving | None = None
        self.examined: list[Examined] = []
        self.later: list[Found] = []
        """Findings about the dataset."""
        self.skipped: dict[str, str] = {}
        """Families and rules that were not looked for, and why."""

    def __enter__(self) -> Checked:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def findings(self) -> Iterator[Found]:
        """All findings in the order of the records, those about the whole dataset last. Reads them from disk."""
        later = sorted(
            (one for one in self.later if one.record_id is not None), key=lambda one: (one.record_id, one.code)
        )
        place = 0
        for unit in self.examined:
            with (self.work / f"found-{unit.index:05d}.jsonl").open("rb") as file:
                for line in file:
                    found = msgspec.json.decode(line, type=Found)
                    while place < len(later) and (later[place].record_id or 0) < (found.record_id or 0):
                        yield later[place]
                        place += 1
                    yield found
        yield from later[place:]
        yield from (one for one in self.later if one.record_id is None)

    def write_repaired(self, path: Path) -> tuple[int, int, int]:
        """Write all records to `path`, the readable ones in normal form, and what that changed beside it.

        Returns how many there are, how many changed, and how many stand as they were because they cannot be read.

        Raises OutputError where a file of the name is there already: a repair never overwrites data.
        """
        targets = (path, path.with_name(f"{path.name}.changes.jsonl"))
        for target in targets:
            if target.exists():
                raise OutputError(
                    describe("the file is there already", where=str(target), fix="Name a new one with --fix.")
                )
        counts = []
        with durable(*targets) as names:
            for name, part in zip(names, ("repaired", "changes"), strict=True):
                lines = 0
                with name.open("wb") as out:
                    for unit in self.examined:
                        data = (self.work / f"{part}-{unit.index:05d}.jsonl").read_bytes()
                        lines += data.count(b"\n")
                        out.write(data)
                counts.append(lines)
        return counts[0], counts[1], sum(one.unrepaired for one in self.examined)

    def records(self) -> npt.NDArray[np.void]:
        """One row a readable record (`RECORDS`)."""
        return self._joined("records", RECORDS)

    def documents(self) -> npt.NDArray[np.void]:
        """One row a document (`DOCUMENTS`)."""
        return self._joined("documents", DOCUMENTS)

    def stamp(self) -> Stamp:
        """What was checked: the inputs, the tokens that their documents have before any limit, the tokenizer."""
        assert self.plan is not None
        documents = self.documents()
        ends = np.cumsum([one.records for one in self.plan.inputs])
        owners = np.searchsorted(ends, documents["record_id"], side="right")
        tokens = np.bincount(owners, documents["length"], len(ends)).astype(np.int64).tolist()
        inputs = [
            StampedInput(one.name, one.sha256, one.records, count)
            for one, count in zip(self.plan.inputs, tokens, strict=True)
        ]
        return Stamp(inputs, str(self.plan.tokenizer.get("sha256", "")))

    def _joined(self, name: str, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
        parts = [np.load(self.work / f"{name}-{one.index:05d}.npy") for one in self.examined]
        return np.concatenate(parts) if parts else np.zeros(0, dtype)


def check(
    config: PrepareConfig,
    *,
    sample: int | None = None,
    near_duplicates: bool = False,
    eval_inputs: tuple[str, ...] = (),
    repair: bool = False,
    codes: frozenset[str] | None = None,
    progress: Progress | None = None,
    unit_bytes: int | None = None,
) -> Checked:
    """Take every record of the inputs through all stages and look at what it says.

    `config.tokenizer` may be empty: then the rules about templates, tokens, masks and lengths are skipped, and said to
    be. `codes` are the rules that are wanted, all by default: work that only others need is left out; what is found on
    the way of every record is in the result all the same. Use the result in a `with` statement. Raises ConfigError and
    InputError as `prepare` does, OutputError where a worker dies, and
    OSError where the temporary folder cannot be written.
    """
    told = progress or Silent()
    config = msgspec.structs.replace(config, drop=None, sources={}, stats=None)  # a check looks at every record
    checked = Checked()
    with ExitStack() as stack:
        stack.push(checked)
        clock = config.clock or datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
        serving = settle_serving(config, clock) if config.tokenizer else None
        told.stage("reading inputs", None)
        plan = _plan(config, clock, serving, checked.work, unit_bytes)
        items = _eval_items(eval_inputs, config) if eval_inputs else []
        wishes = Wishes(
            sample=1.0 if sample is None else min(1.0, sample / max(plan.records, 1)),
            near_duplicates=near_duplicates,
            eval_texts=tuple(said(one, _ASKED) or said(one) for one in items),
            eval_keys=tuple(keys_of(one).content for one in items),
            repair=repair,
            texts=codes is None or not checks.CODES.isdisjoint(codes),
            keys=codes is None or not _COMPARED.isdisjoint(codes),
        )
        checked.plan, checked.serving = plan, serving
        told.stage("checking", plan.records)
        checked.examined = _examine_all(plan, wishes, checked.work, told.advance, serving)
        told.stage("comparing records", None)
        _settle(checked, wishes)
        stack.pop_all()
    return checked


def _plan(config: PrepareConfig, clock: str, serving: Serving | None, work: Path, unit_bytes: int | None) -> Plan:
    if serving is not None:
        return make_plan(config, clock, serving, work, unit_bytes=unit_bytes)
    inputs, units = read_inputs(config.inputs, work, size=unit_bytes)
    return Plan(
        format_version=FORMAT_VERSION,
        versions={**versions(), "engine": "none"},
        fingerprint=fingerprint([(one.name, one.sha256) for one in inputs]),
        config=config,
        clock=clock,
        tokenizer={},
        template={},
        inputs=inputs,
        units=units,
        records=sum(one.records for one in inputs),
        engine="reference",
    )


def _eval_items(addresses: tuple[str, ...], config: PrepareConfig) -> list[Conversation]:
    """The readable records of the eval set, in any format."""
    items: list[Conversation] = []
    with tempfile.TemporaryDirectory(prefix="sftdata-") as spool:
        options = msgspec.structs.replace(config, inputs=addresses, input_format="auto", tokenizer="")
        plan = _plan(options, "2000-01-01", None, Path(spool), None)
        for unit in plan.units:
            for block in blocks_of(plan, unit.index, Path(spool)):
                read = (formats.normalise(raw.value) for raw in block if raw.value is not None)
                items += [one for one in read if isinstance(one, Conversation)]
    return items


def _examine_all(
    plan: Plan, wishes: Wishes, work: Path, advance: Callable[[int], None], serving: Serving | None
) -> list[Examined]:
    """Every unit, here or in worker processes; in the order of the units."""
    workers = min(plan.config.workers, len(plan.units))
    if workers <= 1:
        loaded = None if serving is None else (serving.files, serving.vocabulary)
        workshop = None if serving is None else open_workshop(plan, loaded)
        bench = Bench(plan, wishes, work, workshop)
        return [bench.examine(unit.index, advance) for unit in plan.units]
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # one thread a process: processes are the parallelism
    context = multiprocessing.get_context("spawn")
    out: list[Examined] = []
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(plan, wishes, str(work))) as pool:
        with deaf_to_ctrl_c():
            running: set[Future[Examined]] = {pool.submit(_work, unit.index) for unit in plan.units}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    out.append(future.result())
                    advance(plan.units[out[-1].index].records)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()  # a unit takes minutes, and nobody wants its findings any more
            if isinstance(error, BrokenProcessPool):
                raise OutputError(
                    describe(
                        "a worker process died: killed, for want of memory perhaps, or by one of the records",
                        fix="See whether memory suffices for the workers. A record that kills is found by prepare.",
                    )
                ) from error
            raise
    return sorted(out, key=lambda one: one.index)


_bench: Bench | None = None


def _begin(plan: Plan, wishes: Wishes, work: str) -> None:
    end_with_parent()
    global _bench  # noqa: PLW0603 - a pool worker has no other place to keep what it set up once
    _bench = open_bench(plan, wishes, Path(work))


def _unheard(records: int) -> None:
    """A pool worker reports whole units only."""


def _work(index: int) -> Examined:
    assert _bench is not None
    return _bench.examine(index, _unheard)


def _settle(checked: Checked, wishes: Wishes) -> None:
    """What shows over all records, and the report."""
    from sftdata.pipeline.whole import about_dataset, about_records

    plan = checked.plan
    assert plan is not None
    facts: dict[str, Any] = {
        name: {}
        for name in (
            "rules",
            "stats",
            "formats",
            "unrolled",
            "breaks",
            "lengths",
            "bins",
            "measures",
            "sources",
            "stops",
        )
    }
    for unit in checked.examined:
        for name, total in facts.items():
            add_counts(total, getattr(unit, name))
    for one in plan.inputs:
        for line, finding in one.findings:
            # a container's own findings (a file that ends early) belong to no record
            checked.later.append(
                Found(
                    finding["code"],
                    finding["message"],
                    one.name,
                    line,
                    "",
                    finding.get("fix", ""),
                    None,
                    one.sha256[:16],
                )
            )
    ledger = Ledger.total(unit.ledger for unit in checked.examined)
    facts["tokens"] = {"train": sum(unit.tokens for unit in checked.examined)}
    facts["notes"] = checked.serving.notes if checked.serving else []
    near = [Signatures(checked.work, f"near-{one.index:05d}") for one in checked.examined]
    if wishes.keys:
        checked.later += about_records(checked, near if wishes.near_duplicates else None)
    checked.later += about_dataset(checked, facts, ledger)
    for found in checked.later:
        add_counts(facts["rules"], {found.code: 1})
    checked.report = run_report(plan, facts, ledger, status="checked", reason="", out="")
    sampled = sum(unit.skipped for unit in checked.examined)
    checked.report["tokenized"] = bool(plan.tokenizer)
    checked.report["sample"] = {"records": ledger.read, "of": plan.records} if sampled else None
    if wishes.eval_texts:
        touched = len({item for unit in checked.examined for item in unit.touched})
        checked.report["eval_overlap"] = {"items": len(wishes.eval_texts), "touched": touched}
    checked.skipped = _skipped(plan, wishes)


def _skipped(plan: Plan, wishes: Wishes) -> dict[str, str]:
    """Codes, or their first four characters for a family, that were not looked for."""
    out: dict[str, str] = {}
    if not plan.tokenizer:
        why = "no --tokenizer was given"
        out |= {"SFT3": why, "SFT4": why, "SFT5": why, "SFT6": why}
    elif plan.config.max_length >= _NO_LIMIT:
        out["SFT6"] = "no --max-length was given"
    if not wishes.near_duplicates:
        out["SFT702"] = "only with --near-duplicates"
    if not wishes.eval_texts:
        out |= dict.fromkeys(("SFT704", "SFT705"), "no --eval-set was given")
    return out
