"""Held-out scores are sums over sums; prompts are what was served; replies end where the model stops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sftdata.errors import ConfigError
from sftdata_torch.collate import PackedCollator
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.evaluate import ALL, Sources, evaluate_loss
from sftdata_torch.generate import Prompt, Reply, Sampling, generate_replies, held_out_prompts
from sftdata_torch.head import LossModel
from sftdata_torch.scores import bootstrap_difference, rouge, score_texts, words
from tests.torch.models import causal
from tests.torch.packs import many, row, sealed
from tests.torch.runs import replies

CPU = torch.device("cpu")


class Letters:
    """Token k is written with one letter of two bytes; the first thirty are special."""

    all_special_ids = tuple(range(30))

    def decode(self, ids, **options):
        return "é" * len(ids)


@pytest.fixture(scope="module")
def bins(tmp_path_factory):
    folder = sealed(tmp_path_factory.mktemp("eval") / "set", many(6), files=1, eval=many(5, seed=7))
    return PackedDataset(folder, seed=None, split="eval")


def test_scores_do_not_depend_on_the_batches_and_are_those_of_the_step(bins):
    model = LossModel(causal("llama").double())
    scores = [evaluate_loss(model, bins, device=CPU, micro_batch=size)[ALL] for size in (1, 3)]
    assert scores[0] == pytest.approx(scores[1])
    whole = PackedCollator()([bins[at] for at in range(len(bins))])
    nll, correct = model(whole)
    assert scores[0].loss == pytest.approx(nll.item() / whole["num_target_tokens"])
    assert scores[0].accuracy == pytest.approx(correct.item() / whole["num_target_tokens"])
    assert scores[0].perplexity == pytest.approx(math.exp(scores[0].loss))
    assert scores[0].targets == whole["num_target_tokens"]
    assert scores[0].bits_per_byte is None
    assert model.training


def test_bits_per_byte_leave_special_tokens_out_and_count_bytes(bins):
    model = LossModel(causal("llama").double())
    score = evaluate_loss(model, bins, device=CPU, tokenizer=Letters())[ALL]
    nll = count = 0.0
    for at in range(len(bins)):
        batch = PackedCollator()([bins[at]])
        losses, _ = model.token_losses(batch)
        text = batch["labels"][0][batch["target_idx"] + 1] >= 30
        nll, count = nll + losses[text].sum().item(), count + int(text.sum())
    assert score.bits_per_byte == pytest.approx(nll / math.log(2) / (2 * count))


def test_scores_by_source_add_up_to_the_whole(bins, monkeypatch):
    inputs = [
        {"address": "a.jsonl", "size": 1, "sha256": "0" * 64, "records": 4},
        {"address": "b.jsonl", "size": 1, "sha256": "0" * 64, "records": 1000},
    ]
    sources = Sources(type("Manifest", (), {"inputs": inputs}))
    assert [sources.of(record) for record in (0, 3, 4, 9)] == ["a.jsonl", "a.jsonl", "b.jsonl", "b.jsonl"]
    monkeypatch.setattr("sftdata_torch.evaluate.Sources", lambda manifest: sources)
    scores = evaluate_loss(LossModel(causal("llama").double()), bins, device=CPU)
    assert set(scores) == {ALL, "a.jsonl", "b.jsonl"}
    parts = [scores["a.jsonl"], scores["b.jsonl"]]
    assert sum(part.targets for part in parts) == scores[ALL].targets
    assert sum(part.loss * part.targets for part in parts) == pytest.approx(scores[ALL].loss * scores[ALL].targets)


def test_prompts_are_the_ids_before_a_trained_span_and_references_the_span(tmp_path):
    chat = row([10], trained=0.0)
    chat["labels"][[3, 4, 8, 9]] = chat["input_ids"][[3, 4, 8, 9]]
    bins = PackedDataset(sealed(tmp_path / "set", [chat, row([5], trained=0.0)], files=1), seed=None)
    first, second = held_out_prompts(bins)
    ids = chat["input_ids"]
    assert (first.ids.tolist(), first.reference.tolist()) == (ids[:3].tolist(), ids[3:5].tolist())
    assert (second.ids.tolist(), second.reference.tolist()) == (ids[:8].tolist(), ids[8:].tolist())
    assert len(held_out_prompts(bins, limit=1)) == 1


def test_no_prompt_is_made_of_a_text_or_a_cut_document():
    from sftdata.records import DocFlag
    from sftdata_torch.generate import _prompts

    bins = row([5, 6, 7, 8], trained=1.0)
    flags = [0, DocFlag.TEXT, DocFlag.NO_STOP, DocFlag.CONTINUES]
    found = list(_prompts({**bins, "record_ids": np.arange(4), "doc_flags": np.array(flags)}))
    assert [prompt.record_id for prompt in found] == [0]


def test_overfitted_model_gives_its_replies_back_and_stops():
    """64 chats to a loss under 0.05; then greedy generation, batched and padded, is the data."""
    from sftdata_torch.optim import make_optimizer
    from sftdata_torch.step import train_step

    data = replies(64)
    model = causal("qwen2", hidden_size=64, intermediate_size=128)
    optimizer, loss_model = make_optimizer(model, lr=5e-3), LossModel(model)
    batch = [PackedCollator()(data)]
    for _ in range(150):
        result = train_step(loss_model, optimizer, batch, device=CPU)
        if result.loss < 0.02:
            break
    assert result.loss < 0.05
    prompts = [Prompt(at, each["input_ids"][:6], each["input_ids"][6:]) for at, each in enumerate(data)]
    said = generate_replies(model, prompts, [1], Sampling(max_new_tokens=8, temperature=0), batch_size=7)
    right = sum(
        reply == Reply(prompt.reference[:-1].tolist(), True) for prompt, reply in zip(prompts, said, strict=True)
    )
    assert right == 64
    assert model.config._attn_implementation == "packed_varlen"


def test_the_same_seed_draws_the_same_replies_in_the_order_of_the_prompts():
    model = causal("llama")
    prompts = [Prompt(at, np.arange(2, 4 + at, dtype=np.int32), np.array([1])) for at in (5, 0, 3)]
    state = torch.get_rng_state()
    draws = [generate_replies(model, prompts, [1], Sampling(6, seed=seed), batch_size=2) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(state, torch.get_rng_state())
    greedy = Sampling(6, temperature=0)
    alone = [generate_replies(model, [prompt], [1], greedy)[0] for prompt in prompts]
    assert alone == generate_replies(model, prompts, [1], greedy), "padding must not change a reply"


@pytest.mark.parametrize("adapted", [False, True])
def test_what_a_model_prefers_when_it_generates_does_not_change_how_it_is_compared(adapted):
    """Instruction models carry a temperature and a repetition penalty; transformers would mix them in."""
    from transformers import GenerationConfig

    model = causal("llama")
    if adapted:
        peft = pytest.importorskip("peft", reason="peft is not installed")
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    prompts, greedy = [Prompt(0, np.array([5, 6, 7]), np.array([1]))], Sampling(12, temperature=0)
    expected = generate_replies(model, prompts, [1], greedy)
    own = GenerationConfig(do_sample=True, temperature=0.6, repetition_penalty=3.0, eos_token_id=expected[0].ids[3])
    model.generation_config = own
    assert generate_replies(model, prompts, [1], greedy) == expected
    assert model.generation_config is own


def test_replies_that_run_to_the_limit_are_said_to():
    model = causal("llama")
    reply = generate_replies(model, [Prompt(0, np.array([5, 6]), np.array([1]))], [96], Sampling(3, temperature=0))[0]
    assert reply.stopped == (len(reply.ids) < 3)


SCRIPTS = ["the cat sat on the mat", "Москва слезам не верит", "दिल्ली भारत की राजधानी है", "你好世界", "東京は首都です"]


@pytest.mark.parametrize("text", SCRIPTS)
def test_equal_texts_of_any_script_score_full_and_strange_ones_nothing(text):
    assert set(rouge(text, text).values()) == {100.0}
    assert set(rouge("zzz qqq", text).values()) == {0.0}
    assert score_texts([text] * 2, [text] * 2).corpus["chrf"] == pytest.approx(100)
    half = rouge(text[: len(text) // 2], text)
    assert 0 < half["rouge-l"] < 100


def test_words_keep_marks_and_split_chinese():
    assert words("Das 世界, 2nd!") == ["das", "世", "界", "2nd"]
    assert words("दिल्ली की") == ["दिल्ली", "की"]
    assert words("") == []


def test_rouge_agrees_with_rouge_score_on_plain_english():
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    pairs = [
        ("the cat sat on the mat", "the cat lay on a mat"),
        ("a b c d", "d c b a"),
        ("x", "x y"),
        ("a a a b", "a b b"),
    ]
    for text, reference in pairs:
        theirs = scorer.score(reference, text)
        for ours, name in (("rouge-1", "rouge1"), ("rouge-2", "rouge2"), ("rouge-l", "rougeL")):
            assert rouge(text, reference)[ours] == pytest.approx(100 * theirs[name].fmeasure)


def test_bleu_carries_its_signature_and_takes_characters_for_chinese():
    assert "tok:13a" in score_texts(["the cat"], ["the cat"]).signatures["bleu"]
    assert "tok:zh" in score_texts(["你好世界"], ["你好世界"]).signatures["bleu"]
    assert score_texts(["今天天气很好"], ["今天天气很好"]).corpus["bleu"] == pytest.approx(100)


def test_compat_mode_repeats_the_other_projects_definitions():
    for package in ("jieba", "nltk", "rouge_chinese"):
        pytest.importorskip(package)
    scores = score_texts(["你好", ""], ["你好吗", "好"], compat="llamafactory")
    assert set(scores.corpus) == {"rouge-1", "rouge-2", "rouge-l", "bleu-4"}
    assert scores.rouge_l == [66.6667, 0.0]
    with pytest.raises(ConfigError, match="did you mean llamafactory"):
        score_texts(["a"], ["a"], compat="llama-factory")


def test_interval_of_a_difference_holds_it_and_is_empty_for_a_constant():
    gain, low, high = bootstrap_difference([3.0, 5.0, 4.0, 9.0], [1.0, 5.0, 2.0, 4.0])
    assert low <= gain == 2.25 <= high
    assert bootstrap_difference([2.0, 3.0], [1.0, 2.0]) == (1.0, 1.0, 1.0)
