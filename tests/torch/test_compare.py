"""Base and tuned model side by side: one row a prompt, one page, one model in memory where there is an adapter."""

from __future__ import annotations

import json

import pytest
import torch

from sftdata.errors import ConfigError, ShardError
from sftdata_torch.compare import compare, judge, load_model, load_task, write_comparison
from sftdata_torch.generate import Sampling
from tests.torch.models import causal
from tests.torch.packs import VOCAB, row, sealed
from tests.torch.runs import replies

CPU = torch.device("cpu")
GREEDY = Sampling(max_new_tokens=6, temperature=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Words w0 to w96; w1 is the stop."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({f"<w{at}>": at for at in range(VOCAB)}, unk_token="<w0>"))
    raw.decoder = decoders.Fuse()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<w1>", unk_token="<w0>").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def task(tmp_path_factory, tokenizer):
    shards = sealed(tmp_path_factory.mktemp("set") / "set", replies(3), files=1, eval=replies(5))
    return load_task(str(shards), tokenizer, limit=4)


def test_task_shows_prompts_as_served_and_references_without_their_stop(task):
    assert len(task.prompts) == len(task.texts) == 4
    assert task.texts[0] == "".join(f"<w{token}>" for token in task.prompts[0].ids)
    assert task.references[0] == "".join(f"<w{token}>" for token in task.prompts[0].reference[:-1])
    assert task.stops == (1,)
    assert task.sources == ["chats.jsonl"] * 4


def test_shards_without_a_held_out_reply_are_refused(tmp_path, tokenizer, monkeypatch):
    with pytest.raises(ShardError, match="no token of its train split is trained"):
        load_task(str(sealed(tmp_path / "none", [row([5], trained=0.0)], files=1)), tokenizer)
    texts = sealed(tmp_path / "texts", replies(2), files=1)
    monkeypatch.setattr("sftdata_torch.compare.held_out_prompts", lambda bins, limit: [])
    with pytest.raises(ConfigError, match="no trained reply is held out here"):
        load_task(str(texts), tokenizer)


def test_rows_and_page_hold_every_prompt_with_both_replies(task, tmp_path):
    comparison = compare(causal("llama"), causal("llama", seed=1), task, GREEDY)
    lines, page = write_comparison(comparison, tmp_path)
    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [row["reference"] for row in rows] == task.references
    assert [row["base"] for row in rows] == comparison.base.replies != comparison.tuned.replies
    assert {"stopped", "rouge-1", "rouge-2", "rouge-l"} == set(rows[0]["metrics"]["tuned"])
    text = page.read_text(encoding="utf-8")
    assert text.count("<section>") == 4
    assert "replies of at most 6 tokens, always the likeliest token, seed 0." in text
    assert "bleu: nrefs:1|" in text
    assert "&lt;w" in text
    assert "<w" not in text
    assert "http" not in text
    low, high = comparison.difference[1:]
    assert low <= comparison.difference[0] <= high


def test_an_adapter_is_compared_with_its_own_base_in_one_model(task, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    causal("llama").save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(
        load_model(str(tmp_path / "base"), CPU),
        peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    tuned = load_model(str(tmp_path / "adapter"), CPU)
    comparison = compare(None, tuned, task, GREEDY)
    assert comparison.base.replies == judge(causal("llama"), task, GREEDY).replies
    assert comparison.tuned.replies == judge(tuned, task, GREEDY).replies


def test_replies_that_never_stop_are_noted_with_the_reason(task):
    verdict = judge(causal("llama"), task._replace(stops=(96,)), Sampling(max_new_tokens=2, temperature=0))
    assert verdict.summary["stopped"] < 100
    assert "of the replies ran to the limit of 2 tokens without a stop" in verdict.notes[0]


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path, tokenizer):
    from transformers import AutoTokenizer

    larger = AutoTokenizer.from_pretrained(tokenizer)
    larger.add_tokens(["<more>"])
    larger.save_pretrained(tmp_path / "larger")
    shards = sealed(tmp_path / "set", replies(3), files=1)
    with pytest.raises(
        ConfigError, match=r"larger: this tokenizer has 98 ids, that of the shards 97\. Use the tokenizer"
    ):
        load_task(str(shards), str(tmp_path / "larger"))


def test_ids_beyond_the_tokenizer_are_no_text(task):
    """A vocabulary padded for speed: the model may say ids that nothing is written for."""
    padded = causal("llama", vocab_size=VOCAB + 31)
    with torch.no_grad():
        padded.lm_head.weight[:VOCAB] *= 1e-3
    verdict = judge(padded, task, GREEDY)
    assert len(verdict.replies) == 4


def test_a_model_that_is_not_there_is_an_error_with_its_address(tmp_path):
    with pytest.raises(ConfigError, match="none: there is no such folder"):
        load_model(str(tmp_path / "none"), CPU)
