"""The shipped schemas of manifest and report, in both directions: what is written fits, and what does not fit is
refused by schema and reader alike."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import sftdata_schemas
from sftdata.rules import RULES
from sftdata.shards import DamageError, dump_manifest, load_manifest, read_manifest
from tests.shards.sealing import base, seal, spell


def validator(name: str) -> Any:
    return jsonschema_rs.validator_for(sftdata_schemas.load(name))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = seal(tmp_path_factory.mktemp("sealed"))
    body: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return body


WRONG: tuple[Any, ...] = ("x", -1, None, [], {}, 1.5, True, ...)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value but the top."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """`body` with the place set to `value`, or gone where that is `...`."""
    body = copy.deepcopy(body)
    holder: Any = body
    for key in path[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return body


def refused_by_reader(body: dict[str, Any]) -> str:
    """The reader's words about a manifest whose digest is right; empty where it takes it."""
    try:
        load_manifest(spell(body), "out")
    except DamageError as error:
        return error.problem.message
    return ""


def test_what_is_written_fits_the_schema(manifest: dict[str, Any], tmp_path: Path) -> None:
    validator("manifest").validate(manifest)
    draft = base()
    draft.files, draft.sidecars = {"train": []}, {}
    validator("manifest").validate(json.loads((seal(tmp_path, draft) / "manifest.json").read_bytes()))


def test_the_schema_and_the_reader_refuse_the_same(manifest: dict[str, Any]) -> None:
    """At every place: another type, a negative number, null, nothing. Whatever one of them refuses by its form, the
    other refuses too; sums and tilings are the reader's alone."""
    schema = validator("manifest")
    seen = {True: 0, False: 0}
    for path in places(manifest):
        if path == ("digest",):
            continue
        for value in WRONG:
            body = changed(manifest, path, value)
            words = refused_by_reader(body)
            of_form = words.startswith(("Expected", "Object", "Invalid", "not a manifest", "format version"))
            if of_form or not words:
                assert schema.is_valid(body) == (not words), (path, value, words)
            seen[bool(words)] += 1
    assert seen[True] > 800
    assert seen[False] > 50


@pytest.mark.parametrize(
    "path", [(), ("files",), ("files", "train", 0), ("files", "train", 0, "row_groups", 0), ("sidecars",), ("ledger",)]
)
def test_an_unknown_key_is_refused_where_the_form_is_closed(manifest: dict[str, Any], path: tuple[Any, ...]) -> None:
    body = changed(manifest, (*path, "spare"), [])
    assert refused_by_reader(body)
    assert not validator("manifest").is_valid(body)


@pytest.mark.parametrize("path", [("inputs", 0), ("tokenizer",), ("template",), ("config",)])
def test_more_keys_may_stand_beside_the_known_ones(manifest: dict[str, Any], path: tuple[Any, ...]) -> None:
    body = changed(manifest, (*path, "spare"), {"any": [1.5, None]})
    assert not refused_by_reader(body)
    validator("manifest").validate(body)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("files", "train", 0, "name"), "../train-00000-of-00002.parquet", "is called"),
        (("files", "train", 0, "name"), "train-00001-of-00002.parquet", "is called"),
        (("files", "train", 0, "rows"), 3, "the rows of the row groups"),
        (("files", "train", 0, "tokens"), 3, "the tokens of the row groups"),
        (("files", "train", 0, "row_groups", 1, "offset"), 5, "do not follow one another"),
        (("files", "train", 0, "bytes"), 5, "not the whole file"),
        (("files", "test"), [], "unknown split 'test'"),
        (("sidecars", "../x"), {"bytes": 0, "sha256": "0" * 64}, "unknown sidecar"),
    ],
)
def test_what_no_schema_can_say_is_refused_by_the_reader(
    manifest: dict[str, Any], path: tuple[Any, ...], value: Any, words: str
) -> None:
    assert words in refused_by_reader(changed(manifest, path, value))


def test_a_manifest_comes_back_as_it_was_and_its_bytes_are_canonical(tmp_path: Path) -> None:
    data = (seal(tmp_path) / "manifest.json").read_bytes()
    manifest = read_manifest(tmp_path)
    assert dump_manifest(manifest) == data == spell(json.loads(data))
    assert manifest.template["kwargs"] == {"thinking": False, "5": 1.5}
    for other in (data.replace(b",", b", "), data + b"\n", data.replace(b"\n", b"\r\n"), json.dumps({}).encode()):
        with pytest.raises(DamageError, match="SFT807"):
            load_manifest(other, "out")


REPORT: dict[str, Any] = {
    "format_version": 1,
    "version": "0.1.0",
    "status": "sealed",
    "reason": "",
    "fingerprint": "0" * 64,
    "made": "2026-01-01T00:00:00+00:00",
    "inputs": [{"address": "/data/a.jsonl", "name": "a.jsonl", "size": 3, "records": 1, "sha256": "0" * 64}],
    "ledger": base().manifest["ledger"],
    "rules": {"SFT106": {"name": RULES["SFT106"].name, "severity": "error", "count": 1, "remedy": "..."}},
    "packing": {"train": {"bins": 2, "capacity": 16, "tokens": 30, "fill": 0.9375}},
    "unroll": {"examples_a_record": {"1": 5, "2": 1}, "tokens_repeated": 7, "rewrites": {}},
    "lengths": {"4": 3, "8": 2},
    "formats": {"messages": 6},
    "stats": {"straddles": 2},
    "notes": [],
}


def test_a_report_fits_its_schema_and_changes_do_not() -> None:
    schema = validator("report")
    schema.validate(REPORT)
    schema.validate({**REPORT, "status": "refused", "reason": "no record is left to train", "more": 1})
    assert not schema.is_valid({**REPORT, "status": "refused"})
    assert not schema.is_valid({**REPORT, "reason": "why"})
    known = sftdata_schemas.load("report")["required"]
    for path in places({key: value for key, value in REPORT.items() if key in known}):
        if len(path) == 1:
            assert not schema.is_valid(changed(REPORT, path, ...)), path
            assert not schema.is_valid(changed(REPORT, path, None)), path


def test_the_report_of_a_run_fits_its_schema(tmp_path: Path) -> None:
    """A run that seals and one that does not."""
    from sftdata.config import build_config
    from sftdata.pipeline.run import run_prepare

    good = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    runs: dict[str, list[Any]] = {"sealed": [good, good], "refused": [{"messages": []}]}
    for name, records in runs.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        out = tmp_path / name
        options = {"inputs": [str(path)], "out": str(out), "tokenizer": "builtin", "template": "chatml"}
        run_prepare(build_config({**options, "max_length": 64, "clock": "2026-01-01"}))
        report = json.loads((out / "report.json").read_bytes())
        validator("report").validate(report)
        assert report["status"] == name
    validator("manifest").validate(json.loads((tmp_path / "sealed" / "manifest.json").read_bytes()))
