"""The lesson, the commands and the checkpoint's next use, from raw records on."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sftdata_cli.evaluation import command as evaluate
from sftdata_cli.training import command as train

ROOT = Path(__file__).resolve().parents[2]
ALPACA = ROOT / "examples" / "data" / "alpaca.jsonl"


def example(name, monkeypatch, *arguments):
    """Run `examples/NAME.py` as its command line would; returns its module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    module.main()
    return module


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """The folder of a whole lesson over the carried records: 12 epochs of a tiny model, so that it learns to stop."""
    out = tmp_path_factory.mktemp("lesson")
    with pytest.MonkeyPatch.context() as patch:
        example("lesson", patch, ALPACA, "--hold-out", 4, "--epochs", 12, "--out", out, "--max-new-tokens", 24)
    return out


def test_lesson_ends_in_a_model_that_learned_and_a_page_with_both(lesson):
    lines = (lesson / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    values = [json.loads(line) for line in lines]
    assert values[-1]["train/loss"] < 0.7 * values[0]["train/loss"]
    assert "eval/bits_per_byte" in values[-1]
    rows = (lesson / "report" / "side-by-side.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4
    prompt = json.loads(rows[0])["prompt"]
    assert prompt.endswith("<|im_start|>assistant\n")
    assert "side-by-side.html" in [path.name for path in (lesson / "report").iterdir()]


def test_the_saved_model_renders_the_very_prompts_that_were_trained(lesson):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(lesson / "run" / "model")
    row = json.loads((lesson / "report" / "side-by-side.jsonl").read_text(encoding="utf-8").splitlines()[0])
    records = [json.loads(line) for line in (lesson / "held-out.jsonl").read_text(encoding="utf-8").splitlines()]
    record = records[row["id"]]
    content = "\n\n".join(part for part in (record["instruction"], record["input"]) if part)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert content.split()[0] in row["prompt"]
    assert row["prompt"].startswith(rendered[:20])
    assert rendered.endswith(row["prompt"][-22:])


def test_sample_keeps_every_kind_and_does_not_depend_on_the_order(monkeypatch):
    spec = importlib.util.spec_from_file_location("lesson", ROOT / "examples" / "lesson.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = [json.dumps({"a": str(at), "b": "x" if at % 10 == 0 else ""}) for at in range(400)]
    sample = module.stratified(lines, 40)
    assert sample
    assert set(module.stratified(lines[::-1], 40)) == set(sample)
    assert len(sample) == pytest.approx(40, abs=4)
    assert sum(bool(json.loads(line)["b"]) for line in sample) == pytest.approx(4, abs=2)


def test_plan_prints_and_trains_nothing(lesson, tmp_path):
    given = ["--model", str(lesson / "tiny"), "--shards", str(lesson / "shards"), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(train, [*given, "--plan"], standalone_mode=False)
    assert done.return_value == 0
    assert "of warm-up" in done.output
    assert not (tmp_path / "run").exists()


def test_train_command_takes_yaml_and_flags_win(lesson, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {lesson / 'tiny'}\nshards: {lesson / 'shards'}\nmax-steps: 9\nworkers: 0\n")
    flags = ["--config", str(recipe), "--out", str(tmp_path / "run"), "--max-steps", "2", "--format", "json"]
    done = CliRunner().invoke(train, flags, standalone_mode=False)
    assert done.return_value == 0, done.exception
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["steps"], result["finished"]) == (2, True)
    assert "step 2 of 2  loss" in done.stderr


@pytest.mark.parametrize("command", [["--model", "m", "--shards", "s", "--out", "o"], None])
def test_missing_packages_are_named_with_the_extra_that_brings_them(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    given = command or ["loss", "--model", "m", "--shards", "s"]
    done = CliRunner().invoke(train if command else evaluate, given, standalone_mode=False)
    assert str(done.exception) == "safetensors is not installed. pip install 'sftdata[train]'"


def test_every_setting_has_a_flag_of_its_name():
    from sftdata_torch.settings import TrainSettings

    flags = {parameter.name for parameter in train.params}
    assert set(TrainSettings.__dataclass_fields__) <= flags


def test_eval_commands_score_a_model_and_put_two_side_by_side(lesson, tmp_path):
    common = ["--model", str(lesson / "run" / "model"), "--shards", str(lesson / "held-out"), "--format", "json"]
    runner = CliRunner()
    scores = json.loads(runner.invoke(evaluate, ["loss", *common], standalone_mode=False).stdout.splitlines()[-1])
    assert scores["all"]["targets"] > 0
    said = runner.invoke(evaluate, ["loss", *common], standalone_mode=False).stderr
    assert "the shards have no eval split; this is their train split" in said
    assert scores["all"]["bits_per_byte"] > 0
    drawn = ["--max-new-tokens", "8", "--limit", "2"]
    said = runner.invoke(evaluate, ["generate", *common, *drawn], standalone_mode=False)
    assert {"bleu", "chrf", "rouge-l", "stopped"} <= set(json.loads(said.stdout.splitlines()[-1]))
    out = ["--base", str(lesson / "tiny"), "--out", str(tmp_path / "report")]
    both = runner.invoke(evaluate, ["side-by-side", *common, *drawn, *out], standalone_mode=False)
    assert set(json.loads(both.stdout.splitlines()[-1])) == {"base", "tuned", "rouge_l_gain"}
    assert (tmp_path / "report" / "side-by-side.html").exists()
    alone = runner.invoke(evaluate, ["side-by-side", *common, "--out", str(tmp_path)], standalone_mode=False)
    assert "only an adapter knows its own base" in str(alone.exception)


def test_the_checkpoint_goes_on_to_preferences(lesson, tmp_path, monkeypatch):
    pytest.importorskip("trl", reason="trl is not installed: it needs Python 3.11")
    pairs = [{"prompt": f"Name {what}.", "chosen": "Blue.", "rejected": "Seven."} for what in ("a", "b", "c", "d")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    given = ["--model", lesson / "run" / "model", "--pairs", tmp_path / "pairs.jsonl", "--out", tmp_path / "dpo"]
    example("dpo_after_sft", monkeypatch, *given, "--max-steps", 1)
    assert (tmp_path / "dpo" / "model.safetensors").exists()
    kept = (tmp_path / "dpo" / "chat_template.jinja").read_text(encoding="utf-8")
    assert kept == (lesson / "run" / "model" / "chat_template.jinja").read_text(encoding="utf-8")


def test_gpu_benchmark_runs_to_its_table_on_the_cpu(monkeypatch, capsys):
    pytest.importorskip("trl", reason="trl is not installed: it needs Python 3.11")
    from benchmarks import gpu

    monkeypatch.setattr(sys, "argv", ["gpu", "--smoke"])
    gpu.main()
    out = capsys.readouterr().out
    assert "losses over each other" in out
    assert "Error" not in out
