"""Output in remote stores: whole files or none, the manifest last, and faults of the store that change no byte."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import random
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sftdata.errors import InputError, OutputError
from sftdata.pipeline.folder import Folder
from sftdata.pipeline.steps import plan_units, run_planned, seal_planned
from sftdata.shards import verify
from tests.pipeline.runs import child, contents, go, parts
from tests.pipeline.test_resume_steps import config


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch folders of remote outputs lie with the test, and tries follow one another at once."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    for module in ("pipeline.store", "sources.opening", "shards.store"):
        monkeypatch.setattr(f"sftdata.{module}._PAUSES", (0.0,) * 6)


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty place in fsspec's memory."""
    system = fsspec.filesystem("memory")
    yield "memory://bucket/set"
    with contextlib.suppress(FileNotFoundError):
        system.rm("/bucket", recursive=True)


def remote_contents(address: str) -> dict[str, bytes]:
    """Every file of a remote dataset but its report."""
    system, path = fsspec.core.url_to_fs(address)
    system.invalidate_cache()
    files = {name[len(path.rstrip("/")) + 1 :]: system.cat_file(name) for name in system.find(path)}
    return {name: data for name, data in sorted(files.items()) if not name.startswith("report.")}


def remote_go(inputs: Any, address: str, **options: Any) -> Any:
    return go(inputs, address, unit_bytes=1, **options)


def test_a_remote_output_holds_the_bytes_of_a_local_one(tmp_path: Path, memory: str) -> None:
    inputs = parts(tmp_path, 3)
    go(inputs, tmp_path / "local", unit_bytes=1)
    assert remote_go(inputs, memory).sealed
    assert remote_contents(memory) == contents(tmp_path / "local")
    assert verify(memory).problems == []
    assert remote_go(inputs, memory).unchanged
    assert not list((tmp_path / "tmp").iterdir()), "nothing stays on this machine"


def test_a_remote_folder_of_somebody_else_is_refused(tmp_path: Path, memory: str) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/set/thesis.txt", b"mine")
    with pytest.raises(OutputError, match="not empty"):
        remote_go(parts(tmp_path, 1), memory)
    assert remote_go(parts(tmp_path, 1), memory, fresh=True).sealed
    assert system.cat_file("/bucket/set/thesis.txt") == b"mine"


class Failing:
    """Calls of fsspec's memory store that raise, now and then or from some time on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool], error: Exception) -> None:
        self.calls = 0
        system = type(fsspec.filesystem("memory"))
        for name in ("put_file", "pipe_file", "cat_file", "cp_file", "ls", "size"):
            monkeypatch.setattr(system, name, self._wrapped(getattr(system, name), fails, error))

    def _wrapped(self, original: Any, fails: Callable[[int], bool], error: Exception) -> Any:
        def act(system: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if fails(self.calls):
                raise error
            return original(system, *args, **kwargs)

        return act


def test_a_store_that_fails_now_and_then_changes_nothing(
    tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = parts(tmp_path, 3)
    go(inputs, tmp_path / "local", unit_bytes=1)
    draw = random.Random(0)
    Failing(monkeypatch, lambda _: draw.random() < 0.3, OSError("503 Slow Down"))
    assert remote_go(inputs, memory).sealed
    monkeypatch.undo()
    assert remote_contents(memory) == contents(tmp_path / "local")


def test_a_store_that_goes_away_at_any_call_leaves_a_run_that_can_be_resumed(tmp_path: Path, memory: str) -> None:
    inputs = parts(tmp_path, 2, records=5)
    go(inputs, tmp_path / "local", unit_bytes=1)
    expected = contents(tmp_path / "local")
    with pytest.MonkeyPatch.context() as patch:
        calls = Failing(patch, lambda _: False, OSError())
        remote_go(inputs, memory)
    for last in range(0, calls.calls, 5):
        address = f"{memory}-{last}"
        with pytest.MonkeyPatch.context() as patch:
            for module in ("pipeline.store", "shards.store"):
                patch.setattr(f"sftdata.{module}._PAUSES", ())
            Failing(patch, lambda number, last=last: number > last, OSError("no route to host"))  # type: ignore[misc]
            with contextlib.suppress(OutputError):
                remote_go(inputs, address)
        assert remote_go(inputs, address).sealed
        assert remote_contents(address) == expected


def test_an_object_that_arrived_short_is_put_again(
    tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = type(fsspec.filesystem("memory"))
    put = system.put_file
    times: list[str] = []

    def short(self: Any, path: str, target: str, **kwargs: Any) -> None:
        put(self, path, target, **kwargs)
        if not times:
            self.pipe_file(target, self.cat_file(target)[:-1])
        times.append(target)

    monkeypatch.setattr(system, "put_file", short)
    assert remote_go(parts(tmp_path, 1), memory).sealed
    assert times[0] == times[1]
    assert verify(memory).problems == []


def test_steps_on_other_machines_fetch_what_the_planner_decoded(
    tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = parts(tmp_path, 2)
    packed = inputs[0].with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(inputs[0].read_bytes(), mtime=0))
    inputs[0] = packed
    go(inputs, tmp_path / "local", unit_bytes=1)
    plan = plan_units(config(inputs, memory), unit_bytes=1)
    for machine in ("one", "two"):
        (tmp_path / machine).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "one"))
    folder = Folder(memory)
    folder.fetch_spool(plan, 0)
    assert [path.name for path in folder.scratch.iterdir()] == ["input-00000.arrow"]


# a real S3 protocol server, started here


class Flaky:
    """Between client and server: some requests end in 500 or 503, a cut connection, or an answer cut short."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app
        self.rate = 0.0
        self.faults = 0
        self.draw = random.Random(1)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        gone = self.is_gone(environ)
        if not gone and self.draw.random() >= self.rate:
            return self.app(environ, start_response)
        self.faults += 1
        kind = "cut" if gone else self.draw.choice(("500 Internal Server Error", "503 Slow Down", "cut", "short"))
        if kind == "short":
            return self._short(environ, start_response)
        if kind == "cut":
            if environ["REQUEST_METHOD"] == "PUT":
                environ["wsgi.input"].read(10)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        start_response(kind, [("Content-Type", "application/xml"), ("Content-Length", "0")])
        return [b""]

    def is_gone(self, environ: dict[str, Any]) -> bool:
        """Whether the connection is cut whatever the rate."""
        return False

    def _short(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        """Half of what was announced, and the connection is gone."""
        body = b"".join(self.app(environ, start_response))
        yield body[: len(body) // 2]
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    """A bucket of a local S3 server that can be made flaky."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    serving = pytest.importorskip("werkzeug.serving", reason="werkzeug is not installed: moto brings it")
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    flaky = Flaky(server_module.DomainDispatcherApplication(server_module.create_backend_app))
    server = serving.make_server("127.0.0.1", 0, flaky, threaded=True)
    server.log = lambda *_: None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # the client's own pauses are long; ours come after them
        "no_proxy": "127.0.0.1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.config.conf.pop("s3", None)
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.mkdir("bucket")
    yield flaky
    flaky.rate = 0.0
    system.invalidate_cache()
    system.rm("bucket", recursive=True)
    fsspec.filesystem("s3").clear_instance_cache()
    server.shutdown()
    thread.join()


def test_from_s3_to_s3_with_two_workers_the_bytes_are_the_same(tmp_path: Path, s3: Flaky) -> None:
    inputs = parts(tmp_path, 3)
    go(inputs, tmp_path / "local", unit_bytes=1)
    system = fsspec.filesystem("s3")
    for path in inputs:
        system.put_file(str(path), f"bucket/in/{path.name}")
    assert remote_go("s3://bucket/in", "s3://bucket/out", workers=2).sealed
    assert remote_contents("s3://bucket/out") == contents(tmp_path / "local")
    assert verify("s3://bucket/out").problems == []


def test_faults_of_s3_change_no_byte_from_s3_to_s3(tmp_path: Path, s3: Flaky) -> None:
    inputs = parts(tmp_path, 3)
    packed = inputs[1].with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(inputs[1].read_bytes(), mtime=0))
    inputs[1] = packed
    go(inputs, tmp_path / "local", unit_bytes=1)
    for path in inputs:
        fsspec.filesystem("s3").put_file(str(path), f"bucket/in/{path.name}")
    s3.rate = 0.1
    sealed = False
    for _ in range(9):  # as often as somebody would run the same command again
        with contextlib.suppress(OutputError, InputError):
            sealed = sealed or remote_go([f"s3://bucket/in/{path.name}" for path in inputs], "s3://bucket/out").sealed
    assert sealed
    s3.rate = 0.0
    assert s3.faults > 5
    assert remote_contents("s3://bucket/out") == contents(tmp_path / "local")


def test_an_object_that_changes_after_the_plan_is_not_read_as_another(tmp_path: Path, s3: Flaky) -> None:
    inputs = parts(tmp_path, 1)
    system = fsspec.filesystem("s3")
    system.put_file(str(inputs[0]), "bucket/in/part-0.jsonl")
    addresses: Any = ["s3://bucket/in/part-0.jsonl"]
    plan_units(config(addresses, "s3://bucket/out"))
    system.pipe_file("bucket/in/part-0.jsonl", inputs[0].read_bytes().replace(b"times 7", b"minus 7"))
    with pytest.raises(InputError, match="it changed since the run was planned"):
        run_planned("s3://bucket/out", [0])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_store_that_goes_away_under_the_inputs_accuses_no_record(
    tmp_path: Path, s3: Flaky, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    inputs, out = parts(tmp_path, 3), tmp_path / "out"
    if kind == "parquet":
        table = pa.Table.from_pylist([json.loads(line) for line in inputs[1].read_text(encoding="utf-8").splitlines()])
        inputs[1] = inputs[1].with_suffix(".parquet")
        pq.write_table(table, inputs[1])
    go(inputs, tmp_path / "local", unit_bytes=1)
    for path in inputs:
        fsspec.filesystem("s3").put_file(str(path), f"bucket/in/{path.name}")

    def gone(environ: dict[str, Any]) -> bool:
        return inputs[1].name in environ["PATH_INFO"] and (out / ".work" / "plan.json").exists()

    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    monkeypatch.setattr(s3, "is_gone", gone)
    with pytest.raises(InputError, match=rf"s3://bucket/in/{inputs[1].name}: cannot be read.*it resumes"):
        remote_go([f"s3://bucket/in/{path.name}" for path in inputs], str(out))
    monkeypatch.undo()
    assert remote_go(inputs, str(out)).sealed
    assert contents(out) == contents(tmp_path / "local")


def test_a_process_killed_while_it_writes_to_s3_is_resumed_by_another(tmp_path: Path, s3: Flaky) -> None:
    inputs = parts(tmp_path, 3)
    go(inputs, tmp_path / "local", unit_bytes=1)
    process = child(inputs, "s3://bucket/out", unit_bytes=1)
    system = fsspec.filesystem("s3")
    while process.poll() is None:
        system.invalidate_cache()
        if system.exists("bucket/out/.work/unit-00000.json"):
            process.kill()
            break
    process.communicate()
    assert remote_go(inputs, "s3://bucket/out").sealed
    assert remote_contents("s3://bucket/out") == contents(tmp_path / "local")


def test_steps_on_s3_give_the_same_bytes(tmp_path: Path, s3: Flaky) -> None:
    inputs = parts(tmp_path, 2)
    go(inputs, tmp_path / "local", unit_bytes=1)
    plan_units(config(inputs, "s3://bucket/out"), unit_bytes=1)
    assert run_planned("s3://bucket/out", [1, 0]) == [1, 0]
    assert seal_planned("s3://bucket/out").sealed
    assert remote_contents("s3://bucket/out") == contents(tmp_path / "local")
