"""What a stranger installs: light imports, both ways of installing, help that starts at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
HELP = (
    "from sftdata_cli.commands import command\n"
    "try: command.main([{}'--help'], standalone_mode=False)\n"
    "except SystemExit: pass"
)
HEAVY = ("torch", "transformers", "datasets", "polars", "trl", "pandas")


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import sftdata",
        "import sftdata; sftdata.prepare",
        HELP.format(""),
        HELP.format("'prepare', "),
        "import sftdata.shards",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(code: str) -> None:
    assert modules_after(code).isdisjoint(HEAVY)


def test_the_forbidden_import_test_can_fail() -> None:
    assert not modules_after("import polars").isdisjoint(HEAVY)


def test_the_shard_reader_needs_pyarrow_and_numpy_only() -> None:
    loaded = modules_after("import sftdata.shards")
    assert loaded.isdisjoint({"jinja2", "tokenizers", "orjson", "click", "yaml", "rich", "jsonschema_rs"})


def test_the_command_line_does_not_load_the_library_for_help() -> None:
    loaded = modules_after(HELP.format(""))
    assert loaded.isdisjoint({"pyarrow", "numpy", "tokenizers", "jinja2"})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources as they are: builds in one folder get in each other's way."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "sources"
    for name in ("sftdata", "sftdata_torch", "cli", "schemas"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(copy)]
    subprocess.run(command, check=True, cwd=folder)
    (path,) = folder.glob("sftdata-*.whl")
    return path


@pytest.mark.xdist_group("wheel")
def test_the_wheel_holds_the_packages_under_their_names_and_their_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"sftdata", "sftdata_torch", "sftdata_cli", "sftdata_schemas"}
    for path in (ROOT / "schemas").glob("*.json"):
        assert f"sftdata_schemas/{path.name}" in names
    for path in (ROOT / "sftdata" / "templates" / "builtin").glob("*.jinja"):
        assert f"sftdata/templates/builtin/{path.name}" in names
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert f"sftdata/tokenizers/builtin/{name}" in names
    sources = {
        path.relative_to(ROOT).as_posix() for top in ("sftdata", "sftdata_torch") for path in (ROOT / top).rglob("*.py")
    }
    assert sources <= names, "a package is missing from pyproject.toml"


@pytest.mark.xdist_group("wheel")
def test_the_wheel_works_in_a_folder_of_its_own(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    record = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    (tmp_path / "in.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    script = (
        "import sftdata, sys; assert sys.argv[1] in sftdata.__file__, sftdata.__file__; "
        "o = sftdata.prepare('in.jsonl', tokenizer='builtin', template='chatml', max_length=64, out='out'); "
        "assert o.sealed; assert not sftdata.verify('out').problems; assert len(list(sftdata.read('out'))) == 1"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "site")], check=True, cwd=tmp_path, env=environment)


def test_the_oldest_releases_that_are_tried_are_those_that_are_allowed() -> None:
    """`make lowest` runs with the pins; bounds that nobody runs with are not true for long."""
    allowed = {}
    for text in requires("sftdata") or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": "qa"}):
            [bound] = requirement.specifier
            assert bound.operator == ">="
            allowed[canonicalize_name(requirement.name)] = Version(bound.version)
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert {canonicalize_name(name): Version(version) for name, version in pins} == allowed
