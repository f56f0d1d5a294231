"""Law 12: loss, gradient and update are those of the whole step, however it is cut."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from sftdata.errors import ConfigError
from sftdata_torch import step as step_file
from sftdata_torch.collate import PackedCollator
from sftdata_torch.head import LossModel
from sftdata_torch.modes import SteadyCollator
from sftdata_torch.optim import learning_rate, make_optimizer, set_learning_rate
from sftdata_torch.step import NonFiniteError, train_step
from tests.torch.models import FAMILIES, causal
from tests.torch.packs import row, rows

CPU = torch.device("cpu")
MODELS = {family: LossModel(causal(family).double()) for family in FAMILIES}


def outcome(parts, family="llama", **options):
    """Result of the step, and what an optimizer of rate 1 without state subtracted: the gradient."""
    model = MODELS[family]
    before = [weight.detach().clone() for weight in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = train_step(model, optimizer, [PackedCollator()(part) for part in parts], device=CPU, **options)
    gradient = torch.cat([(old - new.detach()).flatten() for old, new in zip(before, model.parameters(), strict=True)])
    with torch.no_grad():
        for weight, old in zip(model.parameters(), before, strict=True):
            weight.copy_(old)
    return result, gradient


def same(ours, theirs, precision=1e-9):
    (result, gradient), (expected, wanted) = ours, theirs
    assert result.targets == expected.targets
    assert result.loss == pytest.approx(expected.loss, rel=precision)
    assert result.accuracy == pytest.approx(expected.accuracy)
    torch.testing.assert_close(gradient, wanted, rtol=precision, atol=precision * 0.1)


@settings(deadline=None, max_examples=12)
@given(rows(most_rows=6), st.data(), st.sampled_from(FAMILIES))
def test_any_cut_into_micro_batches_is_the_same_step(bins, data, family):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(bins)), max_size=3)) - {len(bins)})
    parts = [bins[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(bins)], strict=True)]
    precision = 1e-4 if "gemma" in family else 1e-9  # its norms compute in float32
    same(outcome(parts, family), outcome([bins], family), precision)


@settings(deadline=None, max_examples=8)
@given(rows(most_rows=3))
def test_packing_changes_nothing_each_document_alone_is_the_same_step(bins):
    alone = [part for each in bins for part in _documents(each)]
    same(outcome([[part] for part in alone]), outcome([bins]))


def _documents(bin_row):
    start = 0
    for length in bin_row["seq_lengths"].tolist():
        part = slice(start, start + length)
        yield {
            "input_ids": bin_row["input_ids"][part],
            "labels": bin_row["labels"][part],
            "seq_lengths": [length],
        }
        start += length


def test_ragged_micro_batches_are_not_a_mean_of_means():
    """transformers#34191 and its kin: 1 target beside many must weigh as 1."""
    few, many = row([4], seed=1), row([30, 20], seed=2, trained=1.0)
    few["labels"][:] = -100
    few["labels"][2] = few["input_ids"][2]
    (result, _), (first, _), (second, _) = outcome([[few], [many]]), outcome([[few]]), outcome([[many]])
    assert (first.targets, second.targets) == (1, 48)
    assert result.loss == pytest.approx((first.loss + 48 * second.loss) / 49)
    assert abs(result.loss - (first.loss + second.loss) / 2) > 1e-3


def _ragged():
    """Micro-batches of 3, 7 and 21 trained tokens in 9, 8 and 22 tokens, as batches."""
    parts = []
    for at, (length, trained) in enumerate(((9, 3), (8, 7), (22, 21))):
        each = row([length], seed=at)
        each["labels"][:] = -100
        each["labels"][-trained:] = each["input_ids"][-trained:]
        parts.append(each)
    return parts


def _sums(parts):
    """Of each part alone: the summed loss, by the model's own logits, and what others divide it by."""
    model, out = MODELS["llama"].model, []
    for each in parts:
        batch = PackedCollator(targets=False)([each])
        labels = batch.pop("labels")[0]
        logits = model(**batch, use_cache=False).logits[0]
        nll = cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum").item()
        out.append((nll, int((labels != -100).sum()), len(labels)))
    return out


def _mean_of_means(sums):
    """transformers before 4.46 (its issue 34191): each micro-batch divides by its own count."""
    return sum(nll / trained for nll, trained, _ in sums) / len(sums)


def _mean_of_ranks(sums):
    """Counting on one's own rank only (transformers 4.46 to 4.48 in data parallelism): a mean over ranks follows."""
    ranks = (sums[:1], sums[1:])
    return sum(sum(nll for nll, *_ in rank) / sum(trained for _, trained, _ in rank) for rank in ranks) / len(ranks)


def _over_all_tokens(sums):
    """Prompts or padding in the denominator."""
    return sum(nll for nll, *_ in sums) / sum(tokens for *_, tokens in sums)


def _divided_twice(sums):
    """The right mean, divided by the number of micro-batches once more, as Accelerate does unless told."""
    return sum(nll for nll, *_ in sums) / sum(trained for _, trained, _ in sums) / len(sums)


def _over_whole_steps(sums):
    """A last step of three micro-batches divided as if it had four."""
    return sum(nll / trained for nll, trained, _ in sums) / 4


BUGS = (_mean_of_means, _mean_of_ranks, _over_all_tokens, _divided_twice, _over_whole_steps)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__[1:])
def test_known_bugs_of_others_would_show_here(bug):
    parts = _ragged()
    sums = _sums(parts)
    right = sum(nll for nll, *_ in sums) / sum(trained for _, trained, _ in sums)
    result, gradient = outcome([[part] for part in parts])
    assert result.loss == pytest.approx(right, rel=1e-9)
    assert abs(bug(sums) - right) > 1e-4, "the data would not tell the bug from what is right"
    whole = outcome([parts])
    torch.testing.assert_close(gradient, whole[1], rtol=1e-9, atol=1e-12)


def test_padding_is_no_token():
    """The same bins, padded to a fixed shape: same loss, same gradient, same count."""
    bins = [row([7, 5], seed=3), row([4], seed=4)]
    padded = SteadyCollator(micro_batch=2, capacity=40)(bins)
    assert padded["input_ids"].shape[1] == 80
    model = MODELS["llama"]
    results = []
    for batch in (padded, PackedCollator()(bins)):
        model.zero_grad()
        loss = model(batch).nll / batch["num_target_tokens"]
        loss.backward()
        results.append((loss.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])))
    model.zero_grad()
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


def test_denominator_counts_shifted_targets_once():
    """A document's first token is no target (counted by some), its last token is one (dropped by others)."""
    bins = row([5, 4], trained=1.0)
    assert outcome([[bins]])[0].targets == 4 + 3


def test_untrained_micro_batch_changes_nothing_and_untrained_step_is_zero():
    bins, blank = row([7, 5], seed=3), row([6], trained=0.0)
    same(outcome([[bins], [blank]]), outcome([[bins]]))
    result, gradient = outcome([[blank], [blank]])
    assert (result.loss, result.targets, result.grad_norm) == (0.0, 0, 0.0)
    assert not gradient.any()


def test_loss_is_the_mean_that_transformers_computes():
    batch = PackedCollator(targets=False)([row([7, 5], seed=3)])
    theirs = MODELS["qwen2"].model(**batch).loss
    assert outcome([[row([7, 5], seed=3)]], "qwen2")[0].loss == pytest.approx(theirs.item(), rel=1e-5)


def test_gradient_is_clipped_to_the_norm_and_reported_before_it():
    bins = [row([7, 5], seed=3)]
    free, whole = outcome([bins], clip=None)
    clipped, gradient = outcome([bins], clip=0.01)
    assert free.grad_norm == pytest.approx(whole.norm().item())
    assert clipped.grad_norm == pytest.approx(free.grad_norm)
    torch.testing.assert_close(gradient, whole * (0.01 / free.grad_norm), rtol=1e-4, atol=0)


def test_nothing_that_is_not_finite_reaches_the_weights():
    model = LossModel(causal("llama"))
    parts = [PackedCollator()([row([7, 5], seed=seed)]) for seed in range(3)]
    first, second, third = (set(part["input_ids"][0].tolist()) for part in parts)
    poison = (second - first - third).pop()
    with torch.no_grad():
        model.model.get_input_embeddings().weight[poison] = math.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for release in (False, True):
        optimizer = make_optimizer(model, lr=1.0, release=release)
        with pytest.raises(NonFiniteError, match=r"the loss of micro-batch [01] is not finite") as caught:
            train_step(model, optimizer, parts[1:2] if release else parts, device=CPU)
        assert caught.value.micro_batches == ((0,) if release else (1,))
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
        model.zero_grad()


def test_released_gradients_make_the_same_update_and_are_gone():
    bins, results = [PackedCollator()([row([7, 5], seed=3)])], []
    for release in (False, True):
        model = LossModel(causal("gemma"))
        optimizer = make_optimizer(model, lr=1e-3, weight_decay=0.1, release=release)
        for _ in range(2):
            train_step(model, optimizer, bins, device=CPU, clip=None)
            assert all(weight.grad is None for weight in model.parameters())
        results.append(model.state_dict())
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


def test_rate_warms_up_linearly_falls_as_a_cosine_and_is_never_zero():
    rates = [learning_rate(step, peak=2.0, warmup=2, total=4) for step in range(4)]
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1.0])
    long = [learning_rate(step, peak=1.0, warmup=30, total=1000) for step in range(1000)]
    assert max(long) == long[29] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(long[30:]))
    assert 0 < long[-1] < 1e-5


def test_weights_in_half_precision_are_refused_for_plain_adamw():
    with pytest.raises(ConfigError, match="loses most updates of a low learning rate"):
        make_optimizer(causal("llama").bfloat16(), lr=2e-5)
    with pytest.raises(ConfigError, match="did you mean adamw"):
        make_optimizer(causal("llama"), "adanw", lr=2e-5)


def test_norms_and_biases_do_not_decay():
    optimizer = make_optimizer(causal("qwen2"), lr=1e-3, weight_decay=0.1)
    for group in optimizer.param_groups:
        assert all((weight.ndim >= 2) == (group["weight_decay"] > 0) for weight in group["params"])
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_loss_over_documents_run_alone_is_the_steps_loss():
    """An oracle that shares nothing with the head: one forward pass a document, torch's own cross entropy."""
    model, bins = MODELS["llama"].model, row([7, 5, 9], seed=3)
    total = torch.zeros((), dtype=torch.float64)
    for each in _documents(bins):
        ids, labels = torch.tensor(each["input_ids"])[None].long(), torch.tensor(each["labels"]).long()
        model.set_attn_implementation("eager")
        logits = model(ids, use_cache=False).logits[0]
        total += cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum").detach()
    model.set_attn_implementation("packed_varlen")
    result, _ = outcome([[bins]])
    assert result.loss == pytest.approx(total.item() / result.targets, rel=1e-7)


def test_the_step_reads_in_one_sitting():
    assert len(inspect.getsource(step_file).splitlines()) < 150
