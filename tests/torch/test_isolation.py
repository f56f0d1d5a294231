"""The canary sings for every known cause, names it, and is silent otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

from sftdata.errors import ConfigError
from sftdata_torch.attention import register_attention
from sftdata_torch.collate import PackedCollator
from sftdata_torch.isolation import IsolationCheck, PackingLeakError, assert_packing_isolated
from tests.torch.packs import VOCAB, row, tiny
from tests.torch.zoo import ZOO, made

PACKED = register_attention()
ROWS = [row([5, 9, 3], seed=1), row([7, 1, 9], seed=2)]
BATCH = PackedCollator()(ROWS)
ONES = torch.ones_like(BATCH["input_ids"])


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in BATCH.items() if name not in names}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", PACKED])
def test_isolated_model_passes_and_is_left_as_it_was(family, attention):
    model = tiny(family, attention)
    model.train()
    model.model.layers[1].eval()
    state, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    assert_packing_isolated(model, BATCH)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


ISOLATED = [
    (name, attention) for name, family in ZOO.items() for attention in (*family.own, *(PACKED,) * family.packed)
]
LEAKING = [(name, "eager") for name, family in ZOO.items() if not family.own and not family.packed]


@pytest.mark.parametrize(("name", "attention"), ISOLATED)
def test_no_public_family_raises_a_false_alarm(name, attention):
    """Where a packed pass gives what the documents give alone, the canary is silent."""
    model = made(name, attention)
    alone = [PackedCollator(targets=False)([document]) for document in documents_of(BATCH)]
    packed = PackedCollator(targets=False)(ROWS)
    torch.testing.assert_close(
        model(**packed).logits[0], torch.cat([model(**one).logits[0] for one in alone]), rtol=0, atol=1e-4
    )
    assert_packing_isolated(model, BATCH)


@pytest.mark.parametrize(("name", "attention"), [*LEAKING, ("gpt-oss", "eager"), ("opt", "sdpa")])
def test_every_public_family_that_leaks_is_caught(name, attention):
    model = made(name, attention)
    with pytest.raises(PackingLeakError, match=r"(one document a row: PackedCollator\(form='padded'\)|register_att)"):
        assert_packing_isolated(model, BATCH)


@pytest.mark.parametrize("name", [name for name, _ in LEAKING])
def test_what_cannot_be_packed_is_isolated_one_document_a_row(name):
    """The remedy that the message names."""
    assert_packing_isolated(made(name, "eager"), PackedCollator(form="padded")(ROWS))


def documents_of(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Each document as a row of its own."""
    parts = batch["input_ids"][0].split(batch["cu_seq_lens_q"].diff().tolist())
    return [{"input_ids": ids.numpy(), "labels": ids.numpy(), "seq_lengths": [len(ids)]} for ids in parts]


class Forgetful(torch.nn.Module):
    """A model around a decoder that keeps documents apart by `seq_idx`, which it does not hand on."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = Recurrence(reads=True)
        self.head = torch.nn.Linear(8, VOCAB)

    def get_decoder(self) -> torch.nn.Module:
        return self.decoder

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int = 0, **_: Any) -> torch.Tensor:
        return self.head(self.decoder(input_ids)[:, -logits_to_keep:])


def test_model_that_does_not_hand_the_bounds_on_is_caught():
    assert_packing_isolated(Forgetful().decoder, BATCH)
    with pytest.raises(PackingLeakError):
        assert_packing_isolated(Forgetful(), BATCH)


@pytest.mark.parametrize("form", ["padded", "dense"])
def test_other_forms_of_an_isolated_batch_pass(form):
    assert_packing_isolated(tiny("llama"), PackedCollator(form=form)([row([5, 9, 3])]))


def test_two_documents_are_enough():
    assert_packing_isolated(tiny("llama"), PackedCollator()([row([5, 9])]))
    with pytest.raises(PackingLeakError):
        assert_packing_isolated(tiny("llama"), {**PackedCollator()([row([5, 9])]), "use_cache": True})


MASK = "an attention_mask with one entry a token"
CACHE = r"the model makes a cache \(use_cache=True\)"
CAUSES = [
    ({**BATCH, "attention_mask": ONES}, [MASK]),
    ({**BATCH, "use_cache": True}, [CACHE]),
    ({**BATCH, "use_cache": True, "attention_mask": ONES}, [MASK, CACHE]),
    (without("position_ids"), ["the batch has no position_ids"]),
    ({"input_ids": BATCH["input_ids"], "cu_seq_lens_q": BATCH["cu_seq_lens_q"]}, ["the batch has no position_ids"]),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("batch", "causes"), CAUSES)
def test_leak_is_found_and_exactly_its_causes_are_named(attention, batch, causes):
    with pytest.raises(PackingLeakError) as caught:
        assert_packing_isolated(tiny("llama", attention), batch)
    caught.match("; ".join(rf"{cause}[^;]*" for cause in causes) + r" \(expected at most")
    assert str(caught.value).count("; ") == len(causes) - 1


def test_default_cache_of_a_plain_loop_is_a_cause():
    model = tiny("llama")
    model.config.use_cache = True
    with pytest.raises(PackingLeakError, match=CACHE):
        assert_packing_isolated(model, BATCH)


class PositionsOfOneRow(torch.nn.Module):
    """Looks at position_ids in a batch of one row only, as flash attention without lengths does."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, 8)

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        states = self.embedding(input_ids)
        if len(input_ids) > 1:
            return states.cumsum(1)
        starts = torch.nonzero(position_ids[0] == 0)[:, 0].tolist()
        parts = states[0].tensor_split(starts[1:])
        return torch.cat([part.cumsum(0) for part in parts])[None]


def test_several_rows_with_only_positions_are_a_cause():
    model = PositionsOfOneRow()
    flat = {"input_ids": BATCH["input_ids"], "position_ids": BATCH["position_ids"]}
    assert_packing_isolated(model, flat)
    with pytest.raises(PackingLeakError, match="several rows and only position_ids"):
        assert_packing_isolated(model, {name: value.view(2, -1) for name, value in flat.items()})


class Recurrence(torch.nn.Module):
    """A convolution along the row that respects `seq_idx` where it is given."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, 8)
        self.mix = torch.nn.Conv1d(8, 8, 3, padding=2)
        self.reads = reads

    def forward(self, input_ids: torch.Tensor, seq_idx: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        states = self.embedding(input_ids)[0]
        documents = torch.zeros(len(states), dtype=torch.int64) if seq_idx is None else seq_idx[0].long()
        lengths = torch.bincount(documents).tolist() if self.reads else [len(states)]
        parts = [self.mix(part.T)[:, : len(part)].T for part in states.split(lengths)]
        return torch.cat(parts)[None]


def test_recurrent_layer_without_seq_idx_is_a_cause():
    assert_packing_isolated(Recurrence(reads=True), BATCH)
    with pytest.raises(PackingLeakError, match="a recurrent or convolutional layer got no seq_idx"):
        assert_packing_isolated(Recurrence(reads=True), without("seq_idx"))


def test_recurrent_layer_that_cannot_read_seq_idx_is_a_cause():
    with pytest.raises(PackingLeakError, match="carries its state across documents on this device"):
        assert_packing_isolated(Recurrence(reads=False), BATCH)


def test_convolution_of_a_real_hybrid_without_its_kernel_is_a_cause():
    """On positions alone transformers runs LFM2's convolution over the seam; with bounds it refuses by itself."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes["num_hidden_layers"] = 2
    model = Lfm2ForCausalLM(
        Lfm2Config(vocab_size=VOCAB, use_cache=False, layer_types=["conv", "full_attention"], **sizes)
    )
    with pytest.raises(PackingLeakError, match="carries its state across documents on this device"):
        assert_packing_isolated(model, {name: BATCH[name] for name in ("input_ids", "position_ids")})


def test_attention_that_reads_no_bounds_is_named():
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("deaf", sdpa_attention_forward)
    with pytest.raises(PackingLeakError, match=r"nothing in this model reads.*'deaf'.*register_attention"):
        assert_packing_isolated(tiny("llama", "deaf"), BATCH)


def test_rounding_of_half_precision_is_no_leak_and_the_same_move_in_float32_is():
    """Under autocast the hidden states come in float32, whatever their products were made in."""
    model = tiny("llama", PACKED)
    means = []
    model.get_input_embeddings().register_forward_hook(lambda module, given, out: means.append(given[0].float().mean()))
    model.get_decoder().norm.register_forward_hook(lambda module, given, out: out + 1e-3 * means[-1])
    with pytest.raises(PackingLeakError):
        assert_packing_isolated(model, BATCH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_packing_isolated(model, BATCH)
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)  # as accelerate has it
    assert_packing_isolated(model, BATCH)


def test_leak_backwards_is_found():
    class Backwards(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(VOCAB, 8)

        def forward(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
            return self.embedding(input_ids).flip(1).cumsum(1).flip(1)

    two = PackedCollator()([row([5, 9])])  # where nothing but a change of the second one shows it
    for batch in (BATCH, two):
        with pytest.raises(PackingLeakError):
            assert_packing_isolated(Backwards(), batch)


def test_model_that_cannot_show_anything_does_not_pass():
    class Deaf(torch.nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((), value))

        def forward(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
            return self.weight.expand(*input_ids.shape, 1)

    with pytest.raises(PackingLeakError, match="does not move its own"):
        assert_packing_isolated(Deaf(1.0), BATCH)
    with pytest.raises(ConfigError, match="not finite"):
        assert_packing_isolated(Deaf(float("nan")), BATCH)
    with pytest.raises(ConfigError, match="the batch holds one document"):
        assert_packing_isolated(tiny("llama"), PackedCollator()([row([5])]))


def test_check_waits_for_a_packed_batch_and_runs_once():
    check, model = IsolationCheck(), tiny("llama")
    check(model, PackedCollator()([row([5])]))
    assert not check.done
    check(model, BATCH)
    assert check.done
    check(model, {**BATCH, "use_cache": True})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: isolation under varlen has not run")
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_varlen_kernel_isolates_documents_in_half_precision(family):
    model = tiny(family, PACKED, hidden_size=128).to("cuda", torch.bfloat16)
    assert_packing_isolated(model, BATCH)
