"""The plan's arithmetic against what torch really keeps, and what it says about a run."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sftdata.errors import ConfigError
from sftdata_torch.collate import PackedCollator
from sftdata_torch.head import LossModel, hidden_states
from sftdata_torch.modes import MODES, SteadyCollator, apply_mode
from sftdata_torch.optim import make_optimizer, members
from sftdata_torch.plan import activation_bytes, lora_weights, make_plan, model_size, predict, size_of
from sftdata_torch.step import train_step
from tests.torch.live import LiveBytes
from tests.torch.models import causal, of_family
from tests.torch.packs import many, row
from tests.torch.runs import settings

TOKENS = 256
SIZES = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "num_key_value_heads": 2}


def kept(model, batch, autocast):
    """Bytes of everything saved for the backward pass that is not a weight, or a copy of one."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    shapes = {shape for weight in model.parameters() for shape in (tuple(weight.shape), tuple(weight.shape[::-1]))}
    seen = {}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in weights and tuple(tensor.shape) not in shapes:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        states = hidden_states(model, batch)
    assert states.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
@pytest.mark.parametrize("compute", ["autocast", "float32", "bfloat16"])
def test_activations_of_a_layer_are_what_torch_keeps(family, compute):
    models = [causal(family, **{**SIZES, "num_hidden_layers": layers}).train() for layers in (1, 2)]
    itemsize = 2 if compute == "bfloat16" else 4
    if compute == "bfloat16":
        models = [model.bfloat16() for model in models]
    batch = PackedCollator()([row([TOKENS])])
    one, two = (kept(model, batch, compute == "autocast") for model in models)
    size = size_of(models[0], models[0].config)
    predicted = activation_bytes(size, itemsize=itemsize, autocast=compute == "autocast", kernel=False)
    assert (two - one) / TOKENS == pytest.approx(predicted, rel=0.1 if family == "gemma" and itemsize == 2 else 0.03)


STEPS = [("fast", 1), ("fast", 2), ("lean", 1), ("lean", 2), ("min", 1)]


@pytest.mark.parametrize(("mode", "micro_batches"), STEPS)
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_predicted_peak_is_that_of_a_real_step(family, mode, micro_batches):
    """All tensors that live at once in a second step, optimizer and clipping included: within 5 %."""
    widths = {"head_dim": 32} if family == "gemma" else {"num_key_value_heads": 2}
    sizes = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "vocab_size": 2000}
    model, chosen = causal(family, **sizes, **widths).train(), MODES[mode]
    apply_mode(model, chosen)
    optimizer, loss_model = make_optimizer(model, lr=1e-3, release=chosen.release), LossModel(model)
    batches = [PackedCollator()([row([TOKENS], seed=seed, trained=1.0)]) for seed in range(micro_batches)]
    clip = None if chosen.release else 1.0
    train_step(loss_model, optimizer, batches, device=torch.device("cpu"), clip=clip)
    states = [value for each in members(optimizer) for state in each.state.values() for value in state.values()]
    with LiveBytes([*model.parameters(), *model.buffers(), *states]) as live:
        train_step(loss_model, optimizer, batches, device=torch.device("cpu"), clip=clip)
    size = size_of(model, model.config)
    memory = predict(size, chosen, tokens=TOKENS, optimizer="adamw", accumulates=micro_batches > 1, cuda=False)
    assert memory.peak == pytest.approx(live.peak, rel=0.05)


def test_matrices_are_counted_whatever_layer_holds_them():
    """GPT-2 keeps its matrices in a layer of its own; the head is tied to the table of tokens, positions are none."""
    model = of_family("gpt2")
    size = size_of(model, model.config)
    assert size.matmul_weights == 2 * (32 * 96 + 32 * 32 + 2 * 32 * 128) + 97 * 32


def test_shards_divide_what_they_hold(tmp_path):
    model = causal("llama")
    size = size_of(model, model.config)
    given = {"tokens": 8, "optimizer": "adamw", "accumulates": True, "cuda": True}
    one, four = (predict(size, MODES["fast"], **given, shards=shards) for shards in (1, 4))
    assert four[:3] == tuple(value // 4 for value in one[:3])
    assert four.activations == one.activations


def test_checkpointing_keeps_one_input_a_layer():
    models = [causal("llama", **{**SIZES, "num_hidden_layers": layers}).train() for layers in (1, 2)]
    for model in models:
        apply_mode(model, MODES["lean"])
    batch = PackedCollator()([row([TOKENS])])
    one, two = (kept(model, batch, autocast=False) for model in models)
    assert two - one == TOKENS * SIZES["hidden_size"] * 4


def test_checkpointing_leaves_loss_and_gradient_as_they_are():
    batch, results = PackedCollator()([row([7, 5], seed=3)]), []
    for mode in ("fast", "lean"):
        model = causal("qwen2").double().train()
        apply_mode(model, MODES[mode])
        loss = LossModel(model)(batch).nll
        loss.backward()
        results.append((loss.detach(), [weight.grad for weight in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=0)


def test_weights_are_counted_from_the_configuration_alone(tmp_path):
    model = causal("qwen2")
    model.config.save_pretrained(tmp_path)
    size = model_size(str(tmp_path))
    assert size.weights == sum(weight.numel() for weight in model.parameters())
    with pytest.raises(ConfigError, match="configuration cannot be read"):
        model_size(str(tmp_path / "none"))


def test_known_model_needs_what_is_known_of_it():
    """Llama-3.2-1B: 1.236 B weights, 16 bytes each for weights, gradients and AdamW: 18.4 GiB."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        size = size_of(LlamaForCausalLM(config), config)
    memory = predict(size, MODES["lean"], tokens=4096, optimizer="adamw", accumulates=True, cuda=True)
    assert (memory.weights + memory.optimizer + memory.gradients) / 2**30 == pytest.approx(18.4, abs=0.1)
    fast = predict(size, MODES["fast"], tokens=4096, optimizer="adamw", accumulates=True, cuda=True)
    released = predict(size, MODES["min"], tokens=4096, optimizer="adamw", accumulates=False, cuda=True)
    assert released.peak < memory.peak < fast.peak


def test_adapters_are_counted_as_peft_makes_them():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = causal("llama", num_key_value_heads=2)
    size = size_of(model, model.config)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert lora_weights(size, 3) == sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)


def test_plan_says_steps_batch_and_what_does_not_fit(tmp_path):
    plan = make_plan(settings(tmp_path, epochs=3))
    assert (plan.schedule.steps, plan.schedule.steps_per_epoch, plan.schedule.warmup) == (9, 3, 1)
    assert all(plan.fits.values())
    text = "\n".join(plan._replace(available=1).lines())
    assert "9 steps (3 an epoch), 1 of warm-up" in text
    assert text.count("does not fit into 0.0 GiB") == 3
    assert "<- chosen" in next(line for line in plan.lines() if line.startswith("fast"))


def test_a_step_holds_about_128_examples_unless_said_otherwise(tmp_path):
    plan = make_plan(settings(tmp_path, global_batch_size=None))
    documents = sum(len(each["seq_lengths"]) for each in many(10))
    assert plan.schedule.global_batch == min(10, round(128 * 10 / documents))


def test_steady_batches_hardly_change_shape_and_train_the_same():
    model = LossModel(causal("llama").double())
    steady, shapes = SteadyCollator(micro_batch=2, capacity=48), set()
    for each in many(6):
        batch = steady([each])
        plain = PackedCollator()([each])
        shapes.add((batch["input_ids"].shape, batch["cu_seq_lens_q"].shape, batch["max_length_q"]))
        torch.testing.assert_close(model(batch).nll, model(plain).nll)
        assert batch["num_target_tokens"] == plain["num_target_tokens"]
    assert len(shapes) <= 2
    assert {shape[0] for shape in shapes} == {torch.Size([1, 96])}
