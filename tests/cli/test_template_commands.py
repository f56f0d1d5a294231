"""`sftdata template` as people use it: what it prints, its exit codes, and messages that name the fix."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sftdata_cli.main import main

Run = Callable[..., tuple[int, str, str]]

FORGETFUL = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}{{ massages }}"
SPITEFUL = "{% for m in messages %}{{ m.content }}{% endfor %}{{ raise_exception('\x1b[31mno\x07') }}"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line with arguments; exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sftdata", "template", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def template(folder: Path, source: str, name: str = "t.jinja") -> Path:
    path = folder / name
    path.write_text(source, encoding="utf-8")
    return path


def outcomes(out: str) -> dict[str, str]:
    """The lines of a probe's table: question to outcome."""
    rows = [line.strip().split("  ", 1) for line in out.splitlines() if line.startswith("  ")]
    return {question: rest.split()[0] for question, rest in rows}


# -- probe


def test_probe_tells_kept_altered_dropped_and_refused_apart(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("probe", template(tmp_path, FORGETFUL))
    table = outcomes(out)
    assert code == 0
    assert (table["system"], table["edges of a user"], table["tool call"]) == ("kept", "altered", "dropped")
    assert outcomes(run("probe", "llama-3.1")[1])["parallel tool calls"] == "refused"


def test_probe_as_json_says_what_the_table_says(run: Run, tmp_path: Path) -> None:
    path = template(tmp_path, FORGETFUL)
    (told,) = json.loads(run("probe", path, "--format", "json")[1])["templates"]
    assert {row["question"]: row["outcome"] for row in told["answers"]} == outcomes(run("probe", path)[1])


def test_arguments_and_the_tokenizers_own_tokens_reach_the_template(run: Run) -> None:
    opened = run("probe", "qwen3")[1]
    closed = run("probe", "qwen3", "--template-arg", "enable_thinking=false")[1]
    assert r"'<|im_start|>assistant\n'" in opened
    assert r"'<|im_start|>assistant\n<think>\n\n</think>\n\n'" in closed
    assert "'</s>'" in run("probe", "{{ messages[-1].content }}{{ eos_token }}")[1]
    assert "'<|im_end|>'" in run("probe", "{{ messages[-1].content }}{{ eos_token }}", "--tokenizer", "builtin")[1]


def test_a_folder_means_the_tokenizer_and_all_its_templates(run: Run, tmp_path: Path) -> None:
    sources = [{"name": "default", "template": FORGETFUL}, {"name": "tool_use", "template": "{{ tools }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": sources}), encoding="utf-8")
    carried = Path(__file__).resolve().parents[2] / "sftdata" / "tokenizers" / "builtin" / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(carried.read_bytes())
    told = json.loads(run("probe", tmp_path, "--format", "json")[1])["templates"]
    assert [one["name"].rpartition(":")[2] for one in told] == ["default", "tool_use"]


def test_what_a_template_says_never_reaches_the_terminal_as_control(run: Run, tmp_path: Path) -> None:
    path = template(tmp_path, SPITEFUL)
    for arguments in (("probe", path), ("lint", path)):
        _, out, err = run(*arguments)
        assert not set(out + err) & {"\x1b", "\x07"}


# -- lint


def test_lint_names_rule_and_line_and_an_error_is_exit_code_1(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("lint", template(tmp_path, "{# one #}\n{{ massages }}\n"))
    assert code == 0
    assert "t.jinja:2: warning SFT323 undefined-name: reads massages" in out
    code, out, _ = run("lint", template(tmp_path, "fine\n{% if %}\n"))
    assert code == 1
    assert "t.jinja:2: error SFT322" in out


def test_lint_as_json_has_the_line_as_a_number(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("lint", template(tmp_path, "{# one #}\n{{ massages }}\n"), "--format", "json")
    found = {row["code"]: row for row in json.loads(out)["findings"]}
    assert (code, found["SFT323"]["line"], found["SFT304"]["line"]) == (0, 2, None)


@pytest.mark.parametrize("name", ["chatlm", "nowhere/chat.jinja"])
def test_an_unknown_template_is_a_usage_error(run: Run, name: str) -> None:
    for command in ("probe", "lint"):
        code, _, err = run(command, name)
        assert code == 2
        assert "no such template" in err
