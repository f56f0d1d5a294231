"""The commands as people use them: exit codes, messages that name the fix, output that a pipe can read."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sftdata.formats import FORMAT_NAMES
from sftdata_cli.main import main
from tests.pipeline.runs import HOLD, held, until

DEMO = Path(__file__).resolve().parents[2] / "examples" / "data"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line with arguments; exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sftdata", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def prepared(run: Run, out: Path, *more: object) -> tuple[int, str, str]:
    options = ("--tokenizer", "builtin", "--template", "chatml", "--max-length", 512, "--clock", "2026-01-01", "-q")
    return run("prepare", DEMO / "messages.jsonl", *options, "--out", out, *more)


def test_prepare_verify_and_inspect_go_together(run: Run, tmp_path: Path) -> None:
    code, out, _ = prepared(run, tmp_path / "out")
    assert code == 0
    assert "sealed" in out
    code, out, _ = run("verify", tmp_path / "out")
    assert (code, out.split(":")[0]) == (0, "sound")
    code, out, _ = run("inspect", tmp_path / "out", "--bin", 0)
    assert code == 0
    assert "[[" in out
    assert "messages.jsonl" in out


def test_prepare_prints_the_whole_report_as_json(run: Run, tmp_path: Path) -> None:
    code, out, _ = prepared(run, tmp_path / "out", "--format", "json")
    assert code == 0
    assert json.loads(out)["ledger"] == json.loads((tmp_path / "out" / "report.json").read_bytes())["ledger"]


def test_data_below_the_bar_is_exit_code_1(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": []}\nnot json\n', encoding="utf-8")
    options = ("--tokenizer", "builtin", "--template", "chatml", "--max-length", 64, "--out", tmp_path / "out", "-q")
    code, out, _ = run("prepare", bad, *options)
    assert code == 1
    assert "not sealed" in out
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_summary_names_the_remedy_of_the_record_and_not_of_the_rule(run: Run, tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    end = ("--eos-token", "<|endoftext|>", "--max-reject-rate", 1)
    code, out, _ = prepared(run, tmp_path / "out", "--template", source, *end)
    assert code == 1
    assert "--stop '<|im_end|>', if the model is to stop there." in out
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert report["rules"]["SFT414"]["fixes"] == ["--stop '<|im_end|>', if the model is to stop there."]
    assert prepared(run, tmp_path / "ended", "--template", source, *end, "--stop", "<|im_end|>")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("prepare", "x.jsonl", "--tokenizer", "builtin", "--out", "o"), "--max-length"),
        (("prepare", "x.jsonl", "--max-length", "64", "--out", "o"), "--tokenizer"),
        (("prepare", "nowhere.jsonl", "--tokenizer", "builtin", "--max-length", "64", "--out", "o"), "nowhere.jsonl"),
        (
            ("prepare", "x.jsonl", "--tokenizer", "no/such/thing", "--max-length", "64", "--out", "o"),
            "no such tokenizer",
        ),
        (("prepar",), "did you mean prepare?"),
        (("verify",), "DATASET"),
        (("inspect", "x.jsonl"), "--record"),
        (("template", "show", "chatlm"), "did you mean chatml?"),
    ],
)
def test_a_usage_error_is_exit_code_2_and_names_the_fix(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code == 2
    assert says in err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_of_the_yaml_names_the_nearest(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("tokenizer: builtin\nmax-lenght: 64\n", encoding="utf-8")
    code, _, err = run("prepare", DEMO / "messages.jsonl", "--config", recipe, "--out", tmp_path / "out")
    assert code == 2
    assert "did you mean max_length?" in err


def test_yaml_and_flags_say_the_same_and_flags_win(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "tokenizer: builtin\ntemplate: chatml\nmax-length: 64\nclock: 2026-01-01\nseed: 3\n", encoding="utf-8"
    )
    arguments = ("prepare", DEMO / "messages.jsonl", "--config", recipe, "--max-length", 512, "-q")
    assert run(*arguments, "--out", tmp_path / "a")[0] == 0
    assert prepared(run, tmp_path / "b", "--seed", 3)[0] == 0
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()


def test_verify_of_what_is_no_dataset_is_not_sound(run: Run, tmp_path: Path) -> None:
    code, out, err = run("verify", tmp_path)
    assert code == 1
    assert "SFT807" in out + err


def test_verify_against_another_tokenizer_says_so(run: Run, tmp_path: Path, bare: Path) -> None:
    prepared(run, tmp_path / "out")
    assert run("verify", tmp_path / "out", "--against", "builtin")[0] == 0
    code, out, _ = run("verify", tmp_path / "out", "--against", bare)
    assert code == 1
    assert "SFT803" in out


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The carried tokenizer without its config: other named tokens, so another tokenizer."""
    import sftdata

    carried = Path(sftdata.__file__).parent / "tokenizers" / "builtin" / "tokenizer.json"
    path = tmp_path / "tokenizer.json"
    path.write_bytes(carried.read_bytes())
    return path


def test_inspect_shows_a_record_its_tokens_and_its_raw_form(run: Run) -> None:
    options = ("--tokenizer", "builtin", "--template", "chatml")
    code, out, _ = run("inspect", DEMO / "messages.jsonl", "--record", 0, *options, "--tokens", "--raw")
    assert code == 0
    assert '"messages"' in out
    assert "trained" in out
    code, _, err = run("inspect", DEMO / "messages.jsonl", "--record", 10_000, *options)
    assert code == 2
    assert "there is no record" in err


def test_a_refused_record_is_inspected_with_its_reasons(run: Run) -> None:
    code, out, _ = run(
        "inspect", DEMO / "broken.jsonl", "--record", 0, "--tokenizer", "builtin", "--template", "chatml"
    )
    assert code == 1
    assert "SFT" in out


def test_control_characters_of_the_data_never_reach_the_terminal(run: Run, tmp_path: Path) -> None:
    record = {
        "messages": [{"role": "user", "content": "\x1b[31mred\u202e"}, {"role": "assistant", "content": "\x07ok"}]
    }
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    options = ("--tokenizer", "builtin", "--template", "chatml")
    for more in ((), ("--tokens",), ("--raw",), ("--steps",)):
        _, out, _ = run("inspect", path, "--record", 0, *options, *more)
        assert not set(out) & {"\x1b", "\x07", "\u202e"}


BUILTIN = ("--tokenizer", "builtin", "--template", "chatml")


def test_a_token_of_a_shard_leads_back_to_its_record(run: Run, tmp_path: Path) -> None:
    prepared(run, tmp_path / "out")
    lines = (DEMO / "messages.jsonl").read_text(encoding="utf-8").splitlines()
    code, out, _ = run("inspect", tmp_path / "out", "--record", 7, "--raw")
    assert code == 0
    assert "record 7 (messages.jsonl, number 8)" in out
    shown = json.loads(out[: out.rindex("\n}") + 2])
    assert shown == {"7": json.loads(lines[7])}
    code, _, err = run("inspect", tmp_path / "out", "--record", 10_000)
    assert code == 1
    assert "no row holds record 10000" in err


def test_the_raw_record_of_a_shard_is_not_made_up(run: Run, tmp_path: Path) -> None:
    """Where the input is another now, what was trained is shown, and that the record cannot be."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    run("prepare", path, *BUILTIN, "--max-length", 64, "--out", tmp_path / "out", "-q")
    path.write_text('{"prompt": "c", "completion": "d"}\n', encoding="utf-8")
    code, out, _ = run("inspect", tmp_path / "out", "--bin", 0, "--raw")
    assert code == 0
    assert '"c"' not in out
    assert "not those that the dataset was made from" in out


def test_random_records_and_bins_are_those_of_the_seed(run: Run, tmp_path: Path) -> None:
    prepared(run, tmp_path / "out", "--packing", "none")
    for source, more in ((DEMO / "messages.jsonl", BUILTIN), (tmp_path / "out", ())):
        code, first, _ = run("inspect", source, "--random", 3, *more)
        assert code == 0
        assert first == run("inspect", source, "--random", 3, "--seed", 0, *more)[1]
        assert first != run("inspect", source, "--random", 3, "--seed", 1, *more)[1]


def test_inspect_finds_records_by_rule_and_by_line(run: Run) -> None:
    code, out, _ = run("inspect", DEMO / "broken.jsonl", "--rule", "empty-assistant", *BUILTIN)
    assert code == 1, "none of them is trained"
    assert "SFT108 empty-assistant" in out
    assert "SFT106" not in out
    code, _, err = run("inspect", DEMO / "messages.jsonl", "--rule", "SFT108", *BUILTIN)
    assert code == 2
    assert "SFT108 finds nothing" in err
    assert run("inspect", DEMO / "messages.jsonl", "--line", 3, *BUILTIN)[1].startswith("example 1 of 1: record 2,")
    assert "no record begins on line 900" in run("inspect", DEMO / "messages.jsonl", "--line", 900, *BUILTIN)[2]


def test_a_finding_about_the_dataset_leads_to_its_records(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 2, encoding="utf-8")
    code, out, _ = run("inspect", path, "--rule", "SFT701", *BUILTIN)
    assert code == 0
    assert "record 1," in out
    assert "SFT701 exact-duplicate: says the same as record 0" in out


def test_the_steps_of_a_record_are_shown_with_its_labels(run: Run) -> None:
    code, out, _ = run("inspect", DEMO / "messages.jsonl", "--record", 0, *BUILTIN, "--steps")
    assert code == 0
    raw, rendered, tokens = out.index('"messages"'), out.index("<|im_start|>"), out.index("position")
    assert raw < rendered < tokens
    rows = [line.split() for line in out[tokens:].splitlines()[1:] if line.strip()]
    assert all(row[2] in ("-100", row[1]) for row in rows)
    assert any(row[-1] == "trained" for row in rows)


def test_texts_stand_side_by_side_where_there_is_room() -> None:
    from rich.console import Console

    from sftdata.report.view import beside

    console = Console(width=120, record=True, file=io.StringIO())
    for line in beside("raw text", "rendered \x1b[31mtext", width=120):
        console.print(line)
    assert any("raw text" in line and "rendered \\x1b[31mtext" in line for line in console.export_text().splitlines())
    assert [line for line in beside("raw text", "rendered", width=80) if line == "raw text"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_check_that_is_interrupted_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    signs, scratch = held(tmp_path, monkeypatch), tmp_path / "scratch"
    scratch.mkdir()
    data = tmp_path / "chats.jsonl"
    blank = (" " * 1023 + "\n") * (33 << 10)  # 33 MiB of no record, so that there are two units
    data.write_text(f"{json.dumps(HOLD)}\n{blank}{json.dumps(HOLD)}\n", encoding="utf-8")
    command = [sys.executable, "-m", "sftdata_cli", "check", str(data), *BUILTIN, "--workers", str(workers)]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: (signs / "held").exists() or process.poll() is not None)
    assert list(scratch.glob("sftdata-check-*/found-*"))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted by SIGINT: nothing is left behind"
    assert "Traceback" not in err
    assert not list(scratch.glob("sftdata-*"))


def test_a_defect_is_exit_code_2_and_never_looks_like_findings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sftdata.pipeline.check.check", broken)
    code, out, err = run("check", DEMO / "messages.jsonl")
    assert (code, out) == (2, "")
    assert "ZeroDivisionError" in err


@pytest.mark.parametrize("ways", [(), ("--record", 1, "--random", 2)])
def test_inspect_wants_one_way_to_choose(run: Run, ways: tuple[object, ...]) -> None:
    code, _, err = run("inspect", DEMO / "messages.jsonl", *ways)
    assert code == 2
    assert "give one of --bin, --record, --line, --rule and --random" in err


def test_lists_are_machine_readable(run: Run) -> None:
    code, out, _ = run("template", "list", "--format", "json")
    assert code == 0
    assert {"chatml", "plain", "qwen3"} <= {one["name"] for one in json.loads(out)}
    code, out, _ = run("formats", "--format", "json")
    assert {one["name"] for one in json.loads(out)} == set(FORMAT_NAMES)
    assert "im_start" in run("template", "show", "chatml")[1]
