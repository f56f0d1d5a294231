"""Body, trained rows and head together are the model's own loss; what is not is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sftdata.errors import ConfigError
from sftdata_torch.collate import PackedCollator
from sftdata_torch.head import LossModel, assert_head_is_whole, head_of
from sftdata_torch.isolation import assert_packing_isolated
from sftdata_torch.modes import decoder_layers
from tests.torch.models import FAMILIES, ZOO, causal, of_family
from tests.torch.packs import VOCAB, row

BATCH = PackedCollator()([row([7, 5, 9], seed=3), row([6], seed=4)])
INPUTS = {name: value for name, value in BATCH.items() if name not in ("labels", "target_idx", "num_target_tokens")}


def reference(model):
    """Summed loss from the model's own logits, float64."""
    logits = model(**INPUTS, use_cache=False).logits[0, :-1].double()
    return cross_entropy(logits, BATCH["labels"][0, 1:], ignore_index=-100, reduction="sum")


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_are_those_of_the_models_own_logits(family):
    model = causal(family).double()
    loss = LossModel(model, chunk_bytes=7 * 97 * 8)(BATCH)
    loss.nll.backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    expected = reference(model)
    expected.backward()
    torch.testing.assert_close(loss.nll, expected, rtol=1e-6, atol=0)  # gemma norms compute in float32
    for name, weight in model.named_parameters():
        torch.testing.assert_close(ours[name], weight.grad, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("name", ZOO)
def test_every_family_has_its_own_loss_and_gradient_in_float64_whatever_the_chunks(name):
    """An oracle that shares nothing with us: the model's own logits, torch's cross entropy, autograd."""
    model = of_family(name).double()
    assert_head_is_whole(model, BATCH)
    assert_packing_isolated(model, BATCH)
    assert len(decoder_layers(model)) == 2
    expected = reference(model)
    expected.backward()
    wanted = {key: weight.grad.clone() for key, weight in model.named_parameters()}
    values = 2 if head_of(model).shape.softcap else 1
    for rows in (1, 7, 1000):
        model.zero_grad()
        loss = LossModel(model, chunk_bytes=rows * VOCAB * 8 * values)(BATCH)
        loss.nll.backward()
        torch.testing.assert_close(loss.nll, expected, rtol=1e-6, atol=0)  # some norms compute in float32
        for key, weight in model.named_parameters():
            torch.testing.assert_close(weight.grad, wanted[key], rtol=1e-4, atol=1e-6, msg=f"{rows} {key}")


def test_the_zoo_holds_what_heads_differ_in():
    models = {name: of_family(name) for name in ZOO}
    heads = {name: head_of(model) for name, model in models.items()}
    tied = {name for name, model in models.items() if head_of(model).weight is model.get_input_embeddings().weight}
    assert {"llama, tied", "qwen3, tied", "gemma", "gpt2"} <= tied
    assert not {"llama", "gemma, untied", "qwen3"} & tied
    assert {name for name, head in heads.items() if head.bias is not None} == {"phi"}
    assert {name for name, head in heads.items() if head.shape.softcap} >= {"gemma2", "gemma3"}


def test_vocabulary_padded_beyond_the_tokenizer_trains_and_is_never_a_target():
    model = of_family("qwen3", vocab_size=VOCAB + 31).double()
    assert_head_is_whole(model, BATCH)
    LossModel(model)(BATCH).nll.backward()
    assert model.lm_head.weight.grad[VOCAB:].abs().max() > 0, "they share in the softmax, as in the model itself"


def test_head_with_a_bias_is_read():
    model = causal("llama").double()
    model.lm_head = nn.Linear(32, 97, bias=True, dtype=torch.float64)
    torch.testing.assert_close(LossModel(model)(BATCH).nll, reference(model))


def test_head_with_a_scale_is_read():
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    model = GraniteForCausalLM(
        GraniteConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, logits_scaling=4.0, use_cache=False)
    )
    assert head_of(model).shape.scale == 0.25
    assert_head_is_whole(model, BATCH)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_the_comparison_with_its_own_logits(family):
    model = causal(family).train()
    assert_head_is_whole(model, BATCH)
    assert model.training


def test_logits_that_are_anything_else_are_refused():
    class Doubled(nn.Linear):
        pass

    model = causal("llama")
    model.lm_head.register_forward_hook(lambda module, given, out: out * 2)
    with pytest.raises(ConfigError, match="its logits are not its head's product"):
        assert_head_is_whole(model, BATCH)
    model.lm_head = Doubled(32, 97)
    with pytest.raises(ConfigError, match=r"expected a plain torch\.nn\.Linear"):
        LossModel(model)


def test_adapted_head_is_refused_and_an_adapted_body_is_not():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    settings = {"r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM"}
    body = peft.get_peft_model(causal("llama"), peft.LoraConfig(target_modules=["q_proj", "down_proj"], **settings))
    assert_head_is_whole(body, BATCH)
    LossModel(body)(BATCH).nll.backward()
    assert all((weight.grad is not None) == weight.requires_grad for weight in body.parameters())
    head = peft.get_peft_model(causal("llama"), peft.LoraConfig(target_modules=["q_proj", "lm_head"], **settings))
    with pytest.raises(ConfigError, match="Leave lm_head out of the adapter's target_modules"):
        LossModel(head)
    saved = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], **settings)
    with pytest.raises(ConfigError, match="Leave lm_head out"):
        LossModel(peft.get_peft_model(causal("llama"), saved))


def test_untrained_batch_reaches_every_weight_with_a_zero():
    model = causal("qwen2")
    blank = PackedCollator()([row([7, 5], trained=0.0)])
    LossModel(model)(blank).nll.backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


def test_router_loss_is_refused_rather_than_left_out():
    model = causal("llama")
    model.config.output_router_logits = True
    with pytest.raises(ConfigError, match="balance loss"):
        LossModel(model)
