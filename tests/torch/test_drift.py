"""A set is held to the model that will be served when it is opened, by its files alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import sftdata
from sftdata.errors import ConfigError, ShardError
from sftdata_torch.dataset import PackedDataset


@pytest.fixture
def made(tmp_path):
    """A model's folder and a dataset that was made with it."""
    carried = Path(str(resources.files("sftdata.tokenizers").joinpath("builtin")))
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(carried / name, model / name)
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    sftdata.prepare(str(tmp_path / "chats.jsonl"), tokenizer=str(model), max_length=64, out=str(out))
    return model, out


def test_a_set_made_for_the_model_opens(made):
    model, out = made
    assert len(PackedDataset(out, against=model)) == 1


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("chat_template.jinja", lambda text: "{{ messages }}", "SFT312 template.default"),
        ("tokenizer.json", lambda text: text.replace('"<|im_start|>"', '"<|im_begin|>"'), "SFT803 tokenizer.json"),
        (
            "tokenizer_config.json",
            lambda text: json.dumps({**json.loads(text), "eos_token": "<|endoftext|>"}),
            "eos_token is '<|endoftext|>' and was '<|im_end|>'",
        ),
        (
            "generation_config.json",
            lambda text: '{"eos_token_id": 7}',
            "the stop ids of generation_config.json are [7], and were none",
        ),
    ],
)
def test_a_set_made_for_another_is_refused_with_what_differs(made, name, change, told):
    model, out = made
    path = model / name
    path.write_text(change(path.read_text(encoding="utf-8") if path.exists() else ""), encoding="utf-8")
    PackedDataset(out)
    with pytest.raises(ShardError) as raised:
        PackedDataset(out, against=model)
    assert str(raised.value).startswith(f"{out}: not made for {model}:\n")
    assert told in str(raised.value)


def test_a_folder_without_a_tokenizer_cannot_be_compared(made, tmp_path):
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        PackedDataset(made[1], against=tmp_path)


def test_no_tokenizer_and_no_template_engine_is_loaded_for_it(made):
    model, out = made
    script = (
        "import sys; from sftdata_torch.dataset import PackedDataset; "
        f"PackedDataset({str(out)!r}, against={str(model)!r}); "
        "assert not {'tokenizers', 'transformers', 'jinja2', 'yaml', 'orjson', 'click'} & {*sys.modules}, sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
