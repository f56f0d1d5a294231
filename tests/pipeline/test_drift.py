"""What is served changed since the shards were made: every way in which it can, and the ways that are none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

import sftdata
from sftdata.errors import ConfigError, ShardError
from sftdata.pipeline.drift import drift
from sftdata.shards import dump_manifest, folder_drift, read_manifest, refuse_drift, verify
from sftdata.templates.builtin import BUILTIN
from sftdata_cli.main import main

AutoTokenizer = pytest.importorskip("transformers", reason="transformers is not installed").AutoTokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model's folder, and a dataset that was made with it."""
    base = tmp_path_factory.mktemp("made")
    model, out = base / "model", base / "out"
    model.mkdir()
    carried = Path(str(resources.files("sftdata.tokenizers").joinpath("builtin")))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(carried / name, model / name)
    (model / "chat_template.jinja").write_text(BUILTIN["qwen3"].source(), encoding="utf-8")
    (model / "generation_config.json").write_text('{"eos_token_id": [4091, 4089]}', encoding="utf-8")
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    (base / "chats.jsonl").write_text(json.dumps({"messages": chat}) + "\n", encoding="utf-8")
    options = {"template_arg": {"enable_thinking": False}, "clock": "2026-01-01", "max_length": 256}
    assert sftdata.prepare(str(base / "chats.jsonl"), tokenizer=str(model), out=str(out), **options).sealed
    return model, out


@pytest.fixture
def model(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the model's folder, to be changed."""
    shutil.copytree(made[0], tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def out(made: tuple[Path, Path]) -> Path:
    return made[1]


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps(change(value) or value), encoding="utf-8")


def places(out: Path, model: Path) -> list[tuple[str, str]]:
    """Code and place of every problem: the same whether tokenizers are at hand or not."""
    found = [(one.code, one.place) for one in drift(str(out), str(model)).problems]
    assert found == [(one.code, one.place) for one in folder_drift(read_manifest(out), model)]
    return found


def test_what_did_not_change_is_no_drift(out: Path, model: Path) -> None:
    assert places(out, model) == []
    refuse_drift(str(out), read_manifest(out), model)
    assert drift(str(out), str(model), template_arg={"enable_thinking": False}).problems == []
    assert not verify(str(out)).problems


def test_a_changed_template_is_told_with_its_lines_and_its_effect(out: Path, model: Path) -> None:
    path = model / "chat_template.jinja"
    source = path.read_text(encoding="utf-8")
    path.write_text(source.replace("<|im_start|>", "<|im_begin|>"), encoding="utf-8")
    assert places(out, model) == [("SFT312", "template.default")]
    told = drift(str(out), str(model)).problems[0].message
    assert "\n--- sealed\n+++ served\n@@" in told
    assert any(line.startswith("+") and "<|im_begin|>" in line for line in told.splitlines())
    assert "14 of 14 built-in conversations are rendered otherwise, first single turn" in told
    assert 'behind "<|im_"' in told
    path.write_text(source + "{# a remark #}", encoding="utf-8")
    told = drift(str(out), str(model)).problems[0].message
    assert "none of 14 built-in conversations is rendered otherwise" in told
    path.write_text("{% if %}", encoding="utf-8")
    assert "what is served now is no template" in drift(str(out), str(model)).problems[0].message


def test_a_template_of_one_long_line_is_shown_where_it_parts(out: Path, model: Path) -> None:
    (model / "chat_template.jinja").write_text("x" * 5000 + "\x1b[31m", encoding="utf-8")
    told = folder_drift(read_manifest(out), model)[0].message
    assert "@@ character " in told
    assert len(told) < 500
    assert "\x1b" not in told


def test_a_template_that_came_or_went_is_told(out: Path, model: Path) -> None:
    more = model / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("{{ tools }}", encoding="utf-8")
    (more / "rag.jinja").write_text("{{ documents }}", encoding="utf-8")
    assert places(out, model) == [("SFT312", "template.tool_use")]
    shutil.rmtree(more)
    (model / "chat_template.jinja").unlink()
    edit(model / "tokenizer_config.json", lambda config: config.pop("chat_template") and None)
    assert places(out, model) == [("SFT312", "template.default")]


def test_a_template_in_the_config_counts_like_one_in_a_file(out: Path, model: Path) -> None:
    source = (model / "chat_template.jinja").read_text(encoding="utf-8")
    (model / "chat_template.jinja").unlink()
    edit(model / "tokenizer_config.json", lambda config: {**config, "chat_template": source})
    assert places(out, model) == []
    edit(model / "tokenizer_config.json", lambda config: {**config, "chat_template": source + "!"})
    assert places(out, model) == [("SFT312", "template.default")]


def test_changed_merges_are_another_tokenizer(out: Path, model: Path) -> None:
    edit(model / "tokenizer.json", lambda spec: spec["model"].update(merges=spec["model"]["merges"][:-1]))
    assert places(out, model) == [("SFT803", "tokenizer.json")]


def test_an_added_token_is_another_tokenizer_and_its_size_is_told(out: Path, model: Path) -> None:
    def add(spec: dict[str, Any]) -> None:
        spec["added_tokens"].append({**spec["added_tokens"][-1], "id": 4096, "content": "<|new|>"})

    edit(model / "tokenizer.json", add)
    assert places(out, model) == [("SFT803", "tokenizer.json")]
    assert "it has 4,097 ids, the dataset's had 4,096" in drift(str(out), str(model)).problems[0].message


def test_another_named_token_is_told_by_name(out: Path, model: Path) -> None:
    edit(model / "tokenizer_config.json", lambda config: config.update(eos_token="<|endoftext|>"))
    assert places(out, model) == [("SFT803", "tokenizer_config.json")]
    told = drift(str(out), str(model)).problems[0].message
    assert "eos_token is '<|endoftext|>' and was '<|im_end|>'" in told


@pytest.mark.parametrize(
    ("now", "shown"), [([4091], "[4091]"), (4091, "[4091]"), ([], "none"), ([4089, 4091], "[4089")]
)
def test_other_stop_ids_of_generation_are_told_beside_those_trained(
    out: Path, model: Path, now: Any, shown: str
) -> None:
    edit(model / "generation_config.json", lambda config: config.update(eos_token_id=now))
    expected = [] if now == [4089, 4091] else [("SFT803", "generation_config.json")]
    assert places(out, model) == expected
    for problem in drift(str(out), str(model)).problems:
        assert f"generation_config.json are {shown}, and were [4089, 4091]" in problem.message
        assert "its replies end in [4089, 4091]" in problem.message


def test_settings_that_change_no_id_are_no_drift(out: Path, model: Path) -> None:
    edit(model / "tokenizer_config.json", lambda config: config.update(model_max_length=10**30, padding_side="left"))
    edit(model / "generation_config.json", lambda config: config.update(temperature=0.7))
    assert places(out, model) == []


def test_files_that_transformers_wrote_anew_are_the_same_tokenizer(out: Path, model: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "again")
    shutil.copyfile(model / "generation_config.json", tmp_path / "again" / "generation_config.json")
    found = drift(str(out), str(tmp_path / "again"))
    assert found.problems == []


def test_other_arguments_are_told_one_by_one(out: Path, model: Path) -> None:
    (problem,) = drift(str(out), str(model), template_arg={"enable_thinking": True, "style": 1}).problems
    assert (problem.code, problem.place) == ("SFT312", "template.kwargs")
    assert "enable_thinking is True and was False" in problem.message
    assert "style is 1 and was 'not given'" in problem.message


def test_the_template_that_is_served_can_be_named(out: Path, model: Path) -> None:
    assert drift(str(out), str(model), template="qwen3").problems == []
    assert [one.place for one in drift(str(out), str(model), template="chatml").problems] == ["template.default"]


def test_a_dataset_of_a_named_template_is_compared_with_that_and_told_of_another(
    made: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    chats, own = made[1].parent / "chats.jsonl", tmp_path / "own.jinja"
    own.write_text(BUILTIN["chatml"].source() + "{# own #}", encoding="utf-8")
    for template in ("chatml", str(own)):
        out = tmp_path / f"out-{Path(template).name}"
        sftdata.prepare(str(chats), tokenizer=str(model), template=template, max_length=256, out=str(out))
        found = drift(str(out), str(model))
        assert found.problems == []
        assert "has a template of its own" in found.notes[0]
        assert drift(str(out), str(model), template=template).problems == []
        assert drift(str(out), str(model), template="qwen3").problems != []


def test_a_manifest_without_parts_still_tells_another_tokenizer(out: Path, model: Path, tmp_path: Path) -> None:
    manifest = read_manifest(out)
    rest = {key: value for key, value in manifest.tokenizer.items() if key not in ("files", "encoding")}
    old = msgspec.structs.replace(manifest, tokenizer=rest)
    assert folder_drift(old, model) == []
    edit(model / "tokenizer.json", lambda spec: spec["model"].update(merges=spec["model"]["merges"][:-1]))
    assert [(one.code, one.place) for one in folder_drift(old, model)] == [("SFT803", "tokenizer")]
    assert dump_manifest(old)


def test_refusing_drift_names_the_dataset_the_folder_and_every_problem(out: Path, model: Path) -> None:
    edit(model / "generation_config.json", lambda config: config.update(eos_token_id=4091))
    (model / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    with pytest.raises(ShardError) as raised:
        refuse_drift(str(out), read_manifest(out), model)
    told = str(raised.value)
    assert told.startswith(f"{out}: not made for {model}:\nSFT803 generation_config.json: ")
    assert "\nSFT312 template.default: " in told
    assert "\n+'{{ messages }}'" in told


def test_a_folder_without_a_tokenizer_is_a_configuration_error(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        folder_drift(read_manifest(out), tmp_path)


# -- the command


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call `sftdata verify`."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["sftdata", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        told, err = capsys.readouterr()
        return int(ended.value.code or 0), told, err

    return call


def test_verify_shows_the_diff_and_no_control_character(run: Any, out: Path, model: Path) -> None:
    assert run(out, "--against", model)[0] == 0
    path = model / "chat_template.jinja"
    path.write_text("\x1b[31m" + path.read_text(encoding="utf-8"), encoding="utf-8")
    code, told, _ = run(out, "--against", model)
    assert code == 1
    assert "SFT312 manifest.json, template.default: the template 'default' changed" in told
    assert "\n+\\x1b[31m" in told
    assert "\x1b" not in told
    assert "\x1b" not in folder_drift(read_manifest(out), model)[0].message
    assert told.splitlines()[-1] == f"not sound: 1 problems in {out}"


def test_verify_takes_what_is_served_and_only_beside_a_tokenizer(run: Any, out: Path, model: Path) -> None:
    code, told, _ = run(out, "--against", model, "--template-arg", "enable_thinking=true", "--format", "json")
    problem = json.loads(told)["problems"][0]
    assert (code, problem["code"], problem["place"]) == (1, "SFT312", "template.kwargs")
    assert run(out, "--against", model, "--template", "chatml")[0] == 1
    assert run(out, "--against", model, "--template", "qwen3")[0] == 0
    code, _, err = run(out, "--template", "qwen3")
    assert code == 2
    assert "--against" in err
