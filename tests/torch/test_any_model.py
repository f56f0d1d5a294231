"""A stranger's model: what it has beside a text decoder is left alone, and what cannot be done is said by name."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

from sftdata.errors import ConfigError
from sftdata_torch.assemble import load_data, load_learner
from sftdata_torch.collate import PackedCollator
from sftdata_torch.loop import train
from tests.torch.packs import VOCAB, row
from tests.torch.runs import losses, settings
from tests.torch.zoo import made

CPU = torch.device("cpu")


@pytest.fixture
def seeing(tmp_path):
    """The folder of a tiny model that also reads images."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    text = Gemma3TextConfig(
        vocab_size=VOCAB,
        num_hidden_layers=2,
        num_key_value_heads=2,
        head_dim=8,
        eos_token_id=1,
        bos_token_id=1,
        **sizes,
    )
    vision = SiglipVisionConfig(num_hidden_layers=1, image_size=28, patch_size=14, **sizes)
    tokens = {"image_token_index": 90, "boi_token_index": 91, "eoi_token_index": 92, "mm_tokens_per_image": 4}
    config = Gemma3Config(text_config=text, vision_config=vision, **tokens)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "seeing")
    return tmp_path / "seeing"


@pytest.mark.parametrize("options", [{}, {"lora_rank": 2}], ids=["whole", "adapters"])
def test_every_weight_that_is_trained_gets_a_gradient(seeing, tmp_path, options):
    """Data parallelism would wait for those that never come: the image tower is not touched by a loss on text."""
    chosen = settings(tmp_path, model=str(seeing), **options)
    learner = load_learner(chosen, load_data(chosen, CPU).manifest, CPU)
    learner.trained(PackedCollator()([row([7, 5])])).nll.backward()
    trained = [weight for weight in learner.base.parameters() if weight.requires_grad]
    assert trained
    assert all(weight.grad is not None for weight in trained)
    if not options:
        text = sum(weight.numel() for weight in learner.base.get_decoder().parameters())
        assert sum(weight.numel() for weight in trained) == text, "the head is the embeddings"


def test_a_model_that_also_sees_trains_on_text(seeing, tmp_path):
    assert train(settings(tmp_path, model=str(seeing), max_steps=2)).finished
    assert len(losses(tmp_path / "out")) == 2


def test_a_model_without_a_choice_of_attention_is_named_with_what_to_do(tmp_path):
    made("falcon", "eager").save_pretrained(tmp_path / "falcon")
    words = r"falcon: this model does not know the attention 'packed_varlen'\. Take one of transformers \(--attention"
    with pytest.raises(ConfigError, match=words):
        train(settings(tmp_path, model=str(tmp_path / "falcon")))


def test_adapters_that_peft_does_not_have_are_refused(tmp_path):
    made("mamba", "eager").save_pretrained(tmp_path / "mamba")
    with pytest.raises(ConfigError, match=r"lora_rank: peft has no adapters for this model: .*Train it whole\."):
        train(settings(tmp_path, model=str(tmp_path / "mamba"), lora_rank=2))


def test_adapters_leave_routers_alone_that_give_more_than_a_product(tmp_path):
    made("phimoe", "eager").save_pretrained(tmp_path / "phimoe")
    chosen = settings(tmp_path, model=str(tmp_path / "phimoe"), attention="sdpa", lora_rank=2, max_steps=1)
    assert train(chosen).finished


def test_a_model_whose_decoder_is_not_found_is_refused_by_name(tmp_path):
    """Llama 4 answers for its own decoder, and gives logits."""
    made("llama4", "eager").save_pretrained(tmp_path / "llama4")
    with pytest.raises(ConfigError, match=r"Llama4ForCausalLM: its decoder gives 97 numbers a token, and its head"):
        train(settings(tmp_path, model=str(tmp_path / "llama4"), attention="sdpa"))
