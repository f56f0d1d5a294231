"""`sftdata template` as people use it: what it prints, its exit codes, and messages that name the fix."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sftdata.templates.shapes import SHAPES
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


def test_lint_says_how_to_fix_what_it_found(run: Run) -> None:
    out = run("lint", "{{ massages }}{{ style }}")[1]
    assert "reads massages, which nothing defines. Did you mean messages?\n" in out
    assert "reads style, which nothing defines. Pass it with --template-arg, or repair the template.\n" in out
    assert "style" not in run("lint", "{{ massages }}{{ style }}", "--template-arg", "style=1")[1]


# -- diff


def rows(out: str) -> dict[str, str]:
    """The shapes of a diff: name to outcome."""
    told = [line[2:] for line in out.splitlines() if line.startswith("  ")]
    return {
        name: next(line for line in told if line.startswith(name + "  "))[len(name) :].split()[0] for name in SHAPES
    }


def test_diff_of_a_template_with_itself_is_the_same_in_text_and_ids(run: Run) -> None:
    code, out, _ = run("diff", "chatml", "chatml", "--tokenizer", "builtin")
    assert code == 0
    assert set(rows(out).values()) == {"same"}
    assert out.splitlines()[0] == "chatml (first) and chatml (second), compared in text and ids"
    assert out.splitlines()[-1] == f"{len(SHAPES)} the same"


def test_diff_shows_which_shapes_differ_and_the_first_difference_in_context(run: Run, tmp_path: Path) -> None:
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    trimmed = template(tmp_path, source.replace("m.content", "m.content | trim"), "trimmed.jinja")
    code, out, _ = run("diff", template(tmp_path, source), trimmed)
    table = rows(out)
    assert code == 1
    assert (table["single turn"], table["edges of content"], table["five turns"]) == ("same", "differs", "same")
    at = out.splitlines().index("First difference: edges of content, text of the prompt of message 2")
    assert out.splitlines()[at + 1] == 'differ at character 6 of 27 and 21, behind "<user>"'
    assert out.splitlines()[at + 2].endswith('t.jinja        "  \\n padded question \\t"')
    assert out.splitlines()[at + 3].endswith('trimmed.jinja  "padded question"')


def test_diff_tells_raising_from_rendering_and_both_raising(run: Run) -> None:
    refuse = "{% if m.role == 'tool' %}{{ raise_exception('\x1b[31mno tools') }}{% endif %}"
    strict = f"{{% for m in messages %}}{refuse}x{{% endfor %}}"
    code, out, _ = run("diff", strict, "{% for m in messages %}x{% endfor %}")
    assert code == 1
    assert {name for name, outcome in rows(out).items() if outcome == "differs"} == {
        "tool call",
        "parallel tool calls",
        "ends on tool results",
        "text beside a tool call",
    }
    assert "raises: \\x1b[31mno tools" in out
    assert "\x1b" not in out
    code, out, _ = run("diff", strict, strict + " ")
    assert rows(out)["tool call"] == "refused"


def test_diff_as_json_says_what_the_table_says(run: Run) -> None:
    code, out, _ = run("diff", "qwen2.5", "chatml", "--format", "json")
    told = json.loads(out)
    assert (code, told["same"], told["ids"]) == (1, False, False)
    table = rows(run("diff", "qwen2.5", "chatml")[1])
    assert {row["name"]: row["outcome"] for row in told["conversations"]} == table


def test_diff_on_records_lists_only_what_is_not_the_same(run: Run, tmp_path: Path) -> None:
    records = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Hello."}]
    plain = [{**turns[0], "content": "Hi"}, turns[1]]
    lines = [json.dumps({"messages": one}) for one in (plain, turns, plain)]
    records.write_text("\n".join([*lines, "broken", ""]), encoding="utf-8")
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    code, out, _ = run("diff", source, source.replace("m.content", "m.content | trim"), "--records", records)
    assert code == 1
    assert "chats.jsonl:2  differs" in out
    assert "chats.jsonl:4  skipped" in out
    assert "chats.jsonl:1 " not in out
    assert out.splitlines()[-1] == "2 the same, 1 different, 1 skipped"


def test_diff_of_two_models_compares_each_ones_own_ids(run: Run, tmp_path: Path) -> None:
    one, other = model(tmp_path / "one"), model(tmp_path / "other")
    assert run("diff", one, other)[0] == 0
    spec = json.loads((other / "tokenizer.json").read_bytes())
    spec["model"]["merges"] = spec["model"]["merges"][:100]
    (other / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    code, out, _ = run("diff", one, other)
    assert code == 1
    assert "First difference: single turn, ids of the prompt of message 2" in out


def model(folder: Path) -> Path:
    """The carried tokenizer as a user's folder."""
    folder.mkdir()
    carried = Path(__file__).resolve().parents[2] / "sftdata" / "tokenizers" / "builtin"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((carried / name).read_bytes())
    return folder


# -- what a name means


def test_a_folder_of_templates_and_a_config_file_are_templates_too(run: Run, tmp_path: Path) -> None:
    template(tmp_path, FORGETFUL, "a.jinja")
    template(tmp_path, "{% if %}", "b.jinja")
    code, out, _ = run("lint", tmp_path)
    assert code == 1
    assert f"{tmp_path / 'b.jinja'}:1: error SFT322" in out
    config = tmp_path / "tokenizer_config.json"
    config.write_text(
        json.dumps({"chat_template": "{{ messages[-1].content }}{{ eos_token }}", "eos_token": "<end>"}),
        encoding="utf-8",
    )
    assert "'<end>'" in run("probe", config)[1]
    assert run("probe", tmp_path / "nowhere")[0] == 2


def test_a_template_that_is_none_is_a_usage_error_of_probe(run: Run, tmp_path: Path) -> None:
    code, _, err = run("probe", template(tmp_path, "a\n{% if %}"))
    assert code == 2
    assert "t.jinja, line 2: " in err


def test_a_folder_without_a_template_says_what_was_looked_for(run: Run, tmp_path: Path) -> None:
    for command in ("probe", "lint"):
        code, _, err = run(command, tmp_path)
        assert code == 2
        assert "the folder holds no chat template" in err


def test_several_templates_without_a_default_cannot_be_compared(run: Run, tmp_path: Path) -> None:
    template(tmp_path, "a", "a.jinja")
    template(tmp_path, "b", "b.jinja")
    code, _, err = run("diff", tmp_path, "chatml")
    assert code == 2
    assert "holds 2 templates" in err


def test_no_template_at_all_and_a_wrong_date_are_usage_errors(run: Run) -> None:
    for arguments, says in (
        (("probe",), "--tokenizer"),
        (("lint",), "--tokenizer"),
        (("probe", "chatml", "--clock", "soon"), "'soon' is not a date"),
        (("diff", "chatml"), "TEMPLATE"),
        (("prob", "chatml"), "did you mean probe?"),
        (("probe", "chatml", "--formt", "json"), "--format"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert says in err


def test_the_group_lists_its_commands(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("list", "show", "probe", "lint", "diff", "golden", "serve-check"):
        assert f"\n  {command}  " in out


@pytest.mark.parametrize("name", ["chatlm", "nowhere/chat.jinja"])
def test_an_unknown_template_is_a_usage_error(run: Run, name: str) -> None:
    for command in ("probe", "lint"):
        code, _, err = run(command, name)
        assert code == 2
        assert "no such template" in err
