"""Units on a Ray cluster of several nodes, which is started here: the bytes of a local run, whatever dies."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ray_nodes import Nodes
from sftdata.errors import ConfigError, OutputError
from sftdata.pipeline.engines import ray as engine
from sftdata.pipeline.folder import Folder
from sftdata.pipeline.steps import plan_units
from sftdata.tokenizers.engines import EngineMismatch
from tests.pipeline.runs import ROOT, chat, child, contents, go, parts, until, write_lines
from tests.pipeline.test_faults import killers
from tests.pipeline.test_resume_steps import config

pytest.importorskip("ray", reason="the extra [ray] is not installed")
__all__ = ["killers"]
pytestmark = pytest.mark.xdist_group("ray")

_SITE = """
import json, os, sys, time
if any("default_worker.py" in part for part in sys.orig_argv):
    import importlib.metadata as metadata
    from sftdata import formats
    normalise, version, folder = formats.normalise, metadata.version, os.environ["SIGNS"]
    def act(value, options):
        if "wait for death" in json.dumps(value) and not os.path.exists(folder + "/node"):
            import ray
            with open(folder + "/.node", "w") as file:
                file.write(ray.get_runtime_context().get_node_id())
            os.replace(folder + "/.node", folder + "/node")
            time.sleep(1000)
        return normalise(value, options)
    def installed(name):
        return "1.2.3" if name == "pyarrow" and os.path.exists(folder + "/other-version") else version(name)
    formats.normalise, metadata.version = act, installed
"""
"""Put where every new interpreter imports it: a record that holds a unit until its node is killed."""


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where units and tests leave signs for each other; a cluster runs meanwhile, and RAY_ADDRESS names it."""
    folder = tmp_path_factory.mktemp("signs")
    (folder / "sitecustomize.py").write_text(_SITE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
        patch.setenv("SIGNS", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield folder


@pytest.fixture(scope="module")
def nodes(signs: Path) -> Iterator[Nodes]:
    before = signal.getsignal(signal.SIGTERM)
    started = Nodes(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", started.address)
        yield started
    started.stop()
    signal.signal(signal.SIGTERM, before)


def on_ray(inputs: list[Path], out: Path) -> subprocess.Popen[str]:
    """The driver, in a process of its own."""
    return child(inputs, out, engine="ray", unit_bytes=1)


def test_a_cluster_that_loses_a_node_in_mid_run_gives_the_bytes_of_a_local_run(
    tmp_path: Path, signs: Path, nodes: Nodes
) -> None:
    inputs = parts(tmp_path, 4)
    write_lines(inputs[1], [chat("Hi", "Hello."), chat("Please wait for death", "Yes.")])
    packed = inputs[3].with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(inputs[3].read_bytes(), mtime=0))
    inputs[3] = packed
    go(inputs, tmp_path / "local", unit_bytes=1)
    driver = on_ray(inputs, tmp_path / "out")
    until(lambda: (signs / "node").exists() or driver.poll() is not None)
    nodes.kill((signs / "node").read_text(encoding="utf-8"))
    _, told = driver.communicate(timeout=600)
    assert driver.returncode == 0, told
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


def test_a_node_with_other_versions_is_refused(tmp_path: Path, signs: Path, nodes: Nodes) -> None:
    (signs / "other-version").touch()
    try:
        driver = on_ray(parts(tmp_path, 2), tmp_path / "out")
        _, told = driver.communicate(timeout=600)
    finally:
        (signs / "other-version").unlink()
    assert driver.returncode == 1
    assert "on node" in told
    assert "pyarrow 1.2.3 is installed here, and the plan was made with" in told


def test_a_task_that_is_run_again_finds_the_record_that_kills(tmp_path: Path, killers: Path) -> None:
    lines = [chat("Hi", "Hello."), chat("Please crash the worker", "Yes."), chat("Why?", "Because.")]
    inputs, out = [write_lines(killers, lines)], str(tmp_path / "out")
    plan = plan_units(config(inputs, out))
    assert engine.run_here(out, plan.fingerprint, 0, True) == ("done", 3)
    assert Folder(out).read_plan().poison == {1: "killed by SIGSEGV"}


def test_a_task_that_does_not_see_the_plan_of_its_driver_does_nothing(tmp_path: Path) -> None:
    kind, error = engine.run_here(str(tmp_path / "elsewhere"), "f" * 64, 0, False)
    assert kind == "error"
    assert isinstance(error, OutputError)
    assert "a folder that all nodes share" in str(error)
    plan = plan_units(config(parts(tmp_path, 1), str(tmp_path / "out")))
    kind, error = engine.run_here(str(tmp_path / "out"), "f" * 64, 0, False)
    assert kind == "error"
    assert engine.run_here(str(tmp_path / "out"), plan.fingerprint, 0, False) == ("done", 50)
    assert engine.run_here(str(tmp_path / "out"), plan.fingerprint, 0, False) == ("done", 50), "it is done already"


def test_workers_are_no_affair_of_ray_and_memory_is_no_place_for_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers is for the local engine"):
        go(parts(tmp_path, 1), tmp_path / "out", engine="ray", workers=2)
    with pytest.raises(ConfigError, match=r"nodes cannot see it.*a shared folder"):
        go(parts(tmp_path, 1), "memory://ray/out", engine="ray")


def test_without_a_cluster_at_the_address_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS=127.0.0.1:9: no connection to Ray.*ray start --head"):
        go(parts(tmp_path, 1), tmp_path / "out", engine="ray")


class Lost(Exception):
    """Stands for Ray's errors of workers and nodes."""


class Crashed(Exception):
    """Stands for Ray's error of a task that could not begin."""

    cause = "no module named sftdata"


class FakeRay:
    """A cluster of two CPUs in which every try at a unit ends as a script says."""

    exceptions = type("exceptions", (), {"RayTaskError": Crashed, "RayError": Lost})

    def __init__(self, script: dict[int, list[Any]]) -> None:
        self.script, self.most = script, 0
        self.tries: list[tuple[int, bool]] = []
        self._open: set[int] = set()

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **options: Any) -> Any:
        assert options == {"num_cpus": 1, "max_retries": 0, "scheduling_strategy": "SPREAD"}

        def begin(address: str, fingerprint: str, index: int, watched: bool) -> int:
            assert all(len(one) < 500 for one in (address, fingerprint)), "nothing big passes through Ray"
            self.tries.append((index, watched))
            self._open.add(len(self.tries) - 1)
            self.most = max(self.most, len(self._open))
            return len(self.tries) - 1

        return lambda function: type("task", (), {"remote": staticmethod(begin)})

    def wait(self, tasks: list[int], **options: Any) -> tuple[list[int], list[int]]:
        return tasks[:1], tasks[1:]

    def get(self, task: int) -> Any:
        self._open.discard(task)
        index = self.tries[task][0]
        result = self.script.get(index, [])[:1] or [("done", 50)]
        self.script[index] = self.script.get(index, [])[1:]
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]

    def cancel(self, task: int, *, force: bool) -> None:
        self._open.discard(task)


def driven(tmp_path: Path, script: dict[int, list[Any]], units: int = 3) -> tuple[FakeRay, int]:
    """A run of `units` units on a fake cluster; returns it, and the records that it was told of."""
    out = str(tmp_path / "out")
    plan = plan_units(config(parts(tmp_path, units), out), unit_bytes=1)
    told: list[int] = []
    fake = FakeRay(script)
    engine._Driver(fake, plan, Folder(out), told.append).run(range(units))
    assert not fake._open
    return fake, sum(told)


def test_units_in_flight_are_bounded(tmp_path: Path) -> None:
    fake, records = driven(tmp_path, {}, units=9)
    assert (fake.most, records) == (4, 450)


def test_a_unit_that_is_lost_is_run_again_where_a_record_that_kills_can_be_found(tmp_path: Path) -> None:
    fake, records = driven(tmp_path, {1: [Lost("The worker died. More."), ("error", KeyError("a defect"))]})
    assert [one for one in fake.tries if one[0] == 1] == [(1, False), (1, True), (1, True)]
    assert records == 150


def test_a_disk_or_network_that_fails_is_tried_again_and_accuses_no_record(tmp_path: Path) -> None:
    fake, records = driven(tmp_path, {0: [("error", OSError(5, "Input/output error"))] * 7})
    assert [one for one in fake.tries if one[0] == 0] == [(0, False)] * 8
    assert records == 150


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (("error", ConfigError("on node b: pyarrow 1.2.3 is installed here")), ConfigError, "on node b"),
        (("error", EngineMismatch("a text")), EngineMismatch, "a text"),
        (Crashed(), ConfigError, "a node cannot run units: no module named sftdata"),
        (Lost("The node died. More."), OutputError, r"lost 8 times, the last time: The node died\..*resumes"),
        (("error", OSError(28, "No space left on device")), OSError, "No space left"),
    ],
    ids=["refused", "mismatch", "not-installed", "lost", "full"],
)
def test_what_no_other_try_mends_ends_the_run(tmp_path: Path, result: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        driven(tmp_path, {1: [result] * 8})
