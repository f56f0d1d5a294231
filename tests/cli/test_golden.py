"""`sftdata template golden`: exact vectors, the same everywhere, and what moved since they were written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sftdata.templates.builtin import BUILTIN
from sftdata.templates.shapes import SHAPES
from sftdata.tokenizers import load_files
from sftdata_cli.main import main

PreTrainedTokenizerFast = pytest.importorskip(
    "transformers", reason="transformers is not installed"
).PreTrainedTokenizerFast

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `sftdata template golden`; exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sftdata", "template", "golden", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def folder(path: Path, template: str = "chatml") -> Path:
    """The carried tokenizer as a user's folder, with a template in a file of its own."""
    path.mkdir(parents=True, exist_ok=True)
    carried = Path(str(resources.files("sftdata.tokenizers").joinpath("builtin")))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(carried / name, path / name)
    (path / "chat_template.jinja").write_text(BUILTIN[template].source(), encoding="utf-8")
    return path


def chats(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def said(*texts: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(texts)]
    return {"messages": messages, **more}


@pytest.mark.parametrize("template", ["chatml", "qwen2.5", "qwen3"])
def test_prompts_and_ids_are_those_of_transformers(run: Run, template: str) -> None:
    golden = json.loads(run("--tokenizer", "builtin", "--template", template)[1])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        str(resources.files("sftdata.tokenizers").joinpath("builtin")), chat_template=BUILTIN[template].source()
    )
    tokenizer.chat_template = BUILTIN[template].source()
    assert [case["name"] for case in golden["conversations"]] == list(SHAPES)
    replies = 0
    for case in golden["conversations"]:
        messages, tools = case["record"]["messages"], case["record"].get("tools")
        for turn in case["turns"]:
            upto = turn["message"]
            served = tokenizer.apply_chat_template(
                messages[:upto], tools=tools, add_generation_prompt=True, tokenize=False
            )
            assert turn["prompt"] == served
            assert turn["prompt_ids"] == tokenizer.encode(served, add_special_tokens=False)
            if "reply" not in turn:
                assert upto == len(messages) or turn["refused"]
                continue
            replies += 1
            assert turn["reply"].endswith("<|im_end|>")
            assert tokenizer.decode(turn["reply_ids"]) == turn["reply"]
            if messages[upto].get("content"):
                assert messages[upto]["content"].strip() in turn["reply"]
    assert replies >= 20


def test_the_same_inputs_give_the_same_bytes_on_any_day(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    one = run("--tokenizer", "builtin", "--template", "qwen3")[1]
    run("--tokenizer", "builtin", "--template", "qwen3", "--out", tmp_path / "golden.json")
    assert (tmp_path / "golden.json").read_text(encoding="ascii") == one
    assert json.loads(one)["clock"] is None
    dated = json.loads(run("--tokenizer", "builtin", "--template", "{{ strftime_now('%Y') }}{{ messages }}")[1])
    assert dated["clock"] is not None
    assert json.loads(run("--tokenizer", "builtin", "--clock", "2020-02-02")[1])["clock"] == "2020-02-02"


def test_a_file_records_template_tokenizer_and_arguments(run: Run) -> None:
    given = ("--template", "qwen3", "--template-arg", "enable_thinking=false", "--stop", "<|endoftext|>")
    golden = json.loads(run("--tokenizer", "builtin", *given)[1])
    assert golden["tokenizer"]["sha256"] == load_files("builtin").sha256
    assert golden["tokenizer"]["stop_tokens"] == ["<|im_end|>", "<|endoftext|>"]
    assert golden["template"]["kwargs"] == {"enable_thinking": False}
    assert list(golden["template"]["sha256"]) == ["default"]


def test_what_did_not_move_is_the_same_without_any_flag(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    flags = ("--template", "qwen3", "--template-arg", "enable_thinking=false", "--stop", "<|endoftext|>")
    for more in ((), ("--records", chats(tmp_path / "a.jsonl", said("Hi", "Hello."), "no record", {"text": "x"}))):
        assert run("--tokenizer", "builtin", *flags, *more, "--out", path)[0] == 0
        code, out, err = run("--verify", path)
        assert (code, err) == (0, "")
        assert out.startswith(f"the same: {path} (")


def moved(run: Run, path: Path, *flags: object) -> list[dict[str, Any]]:
    code, out, _ = run("--verify", path, *flags, "--format", "json")
    rows: list[dict[str, Any]] = json.loads(out)["moved"]
    assert code == (1 if rows else 0)
    return rows


def test_a_template_that_changed_is_shown_where_its_prompts_part(run: Run, tmp_path: Path) -> None:
    model = folder(tmp_path / "model")
    run("--tokenizer", model, "--out", tmp_path / "golden.json")
    template = model / "chat_template.jinja"
    template.write_text("{# a remark #}" + template.read_text(encoding="utf-8"), encoding="utf-8")
    assert [row["what"] for row in moved(run, tmp_path / "golden.json")] == ["the template's source"]
    template.write_text(BUILTIN["qwen2.5"].source(), encoding="utf-8")
    code, out, _ = run("--verify", tmp_path / "golden.json")
    assert code == 1
    assert "single turn, message 2: text of the prompt\ndiffer at character 12" in out
    assert '\n  now   "system\\nYou are Qwen' in out
    assert out.splitlines()[-1].startswith("moved: ")


def test_a_tokenizer_that_changed_is_shown_where_its_ids_part(run: Run, tmp_path: Path) -> None:
    model = folder(tmp_path / "model")
    run("--tokenizer", model, "--out", tmp_path / "golden.json")
    spec = json.loads((model / "tokenizer.json").read_bytes())
    spec["model"]["merges"] = spec["model"]["merges"][:100]
    (model / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    rows = moved(run, tmp_path / "golden.json")
    assert rows[0]["what"] == "the tokenizer's files"
    assert rows[1]["what"] == "single turn, message 2: ids of the prompt"
    where, before, now = rows[1]["lines"]
    assert where.startswith("differ at id ")
    assert (before.split()[0], now.split()[0]) == ("file", "now")
    assert before.split()[1] != now.split()[1]


def test_stops_arguments_and_clock_that_changed_are_named(run: Run, tmp_path: Path) -> None:
    model, path = folder(tmp_path / "model", "qwen3"), tmp_path / "golden.json"
    run("--tokenizer", model, "--out", path)
    (model / "generation_config.json").write_text('{"eos_token_id": [4091, 4089]}', encoding="utf-8")
    assert [row["what"] for row in moved(run, path)] == ["the tokenizer's files", "the stop tokens"]
    (model / "generation_config.json").unlink()
    assert not moved(run, path)
    assert moved(run, path, "--template-arg", "enable_thinking=false")[0]["what"] == "the template's arguments"
    assert [row["what"] for row in moved(run, path, "--clock", "2020-02-02")] == ["the clock"]


def test_refusals_are_vectors_too(run: Run, tmp_path: Path) -> None:
    records = chats(
        tmp_path / "chats.jsonl",
        said("Hi", "Ends in <|im_end|>"),
        said("What is <|im_start|>?", "A token."),
        {"messages": [{"role": "user", "content": 7}]},
        said("What is <|im_start|>?", "A token.", "And <|im_end|>?"),
    )
    golden = json.loads(run("--tokenizer", "builtin", "--template", "chatml", "--records", records)[1])
    stopped, spelled, broken, asking = golden["conversations"]
    assert stopped["turns"][0]["refused"] == "SFT415"
    assert stopped["turns"][0]["prompt"].endswith("assistant\n")
    assert spelled["turns"][0]["protected"] is True
    control = 4090
    assert spelled["turns"][0]["prompt_ids"].count(control) == 2
    assert [turn["protected"] for turn in asking["turns"]] == [True, True]
    assert "\U000f0000" not in json.dumps(golden, ensure_ascii=False)
    assert broken["refused"].startswith("SFT1")
    assert "turns" not in broken


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a file of golden vectors"),
        ('{"format": "sftdata golden vectors", "format_version": 2}', "format version 2 (expected 1)"),
        ('{"format": "sftdata golden vectors", "format_version": 1}', "not a file of golden vectors"),
    ],
)
def test_what_is_no_golden_file_is_a_usage_error(run: Run, tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "golden.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    code, _, err = run("--verify", path)
    assert code == 2
    assert says in err


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("tokenizer", {}, "$.tokenizer"),
        ("tokenizer", {"given": 7, "sha256": "", "vocab_size": 1, "stop_tokens": []}, "$.tokenizer.given"),
        ("template", {}, "$.template"),
        ("clock", "soon", "clock"),
        ("options", {"stpo": ["x"]}, "did you mean stop?"),
        ("conversations", [{"name": "a", "record": {}, "turns": [{}]}], "$.conversations[0].turns[0]"),
        (
            "conversations",
            [{"name": "a", "record": {"messages": 7}, "turns": [{"message": 1, "prompt": "", "prompt_ids": []}]}],
            "the record of 'a' is no chat with these turns",
        ),
        ("more", 1, "unknown field"),
    ],
)
def test_a_golden_file_that_was_tampered_with_is_a_usage_error(
    run: Run, tmp_path: Path, key: str, value: Any, says: str
) -> None:
    made = json.loads(run("--tokenizer", "builtin")[1])
    path = tmp_path / "golden.json"
    path.write_text(json.dumps({**made, key: value}), encoding="utf-8")
    code, _, err = run("--verify", path)
    assert code == 2
    assert says in err


def test_what_a_file_says_reaches_the_terminal_without_control_characters(run: Run, tmp_path: Path) -> None:
    made = json.loads(run("--tokenizer", "builtin")[1])
    path = tmp_path / "golden.json"
    path.write_text(
        json.dumps({**made, "tokenizer": {**made["tokenizer"], "given": "\x1b[2Jnowhere"}}), encoding="utf-8"
    )
    code, out, err = run("--verify", path)
    assert code == 2
    assert "\\x1b[2Jnowhere: no such tokenizer" in err
    case = made["conversations"][0]
    case["name"], case["turns"][0]["prompt"] = "\x1b[2J", "\x07 prompt"
    path.write_text(json.dumps(made), encoding="utf-8")
    code, out, err = run("--verify", path)
    assert code == 1
    assert not set(out + err) & {"\x1b", "\x07"}


def test_usage_errors_name_the_fix(run: Run, tmp_path: Path) -> None:
    for arguments, says in (
        ((), "--tokenizer"),
        (("--tokenizer", "builtin", "--template", "qwen33"), "Did you mean qwen3?"),
        (("--tokenizer", "builtin", "--out", tmp_path / "no" / "file.json"), "cannot be written"),
        (("--verify", "x.json", "--out", "y.json"), "--out"),
        (("--tokenizer", "builtin", "--records", tmp_path / "none.jsonl"), "none.jsonl"),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert says in err
