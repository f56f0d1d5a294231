"""The canonical batch, against two other projects' collators and against its own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DataCollatorWithFlattening

from sftdata.errors import ConfigError, ShardError
from sftdata_torch.collate import FixedShape, PackedCollator
from tests.torch.packs import row, rows

KEYS = {
    "input_ids": torch.int64,
    "labels": torch.int64,
    "position_ids": torch.int64,
    "cu_seq_lens_q": torch.int32,
    "cu_seq_lens_k": torch.int32,
    "seq_idx": torch.int32,
    "target_idx": torch.int64,
}


def same(ours: dict, theirs: dict) -> None:
    """Key by key: dtype, shape, values."""
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert ours[name].dtype == value.dtype, name
            assert torch.equal(ours[name], value), name
        else:
            assert ours[name] == value, name
            assert type(ours[name]) is type(value), name


def documents(bins: list[dict]) -> list[dict]:
    """The bins' documents one by one, as a collator of single documents wants them."""
    out = []
    for each in bins:
        cuts = np.cumsum(each["seq_lengths"])[:-1]
        parts = zip(np.split(each["input_ids"], cuts), np.split(each["labels"], cuts), strict=True)
        out += [{"input_ids": ids.tolist(), "labels": labels.tolist()} for ids, labels in parts]
    return out


@given(rows())
def test_batch_equals_transformers_flattening_collator_key_by_key(bins):
    theirs = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)(documents(bins))
    ours = PackedCollator(targets=False)(bins)
    same(ours, theirs)
    assert set(ours) == set(theirs)


@given(rows())
def test_batch_equals_trl_padding_free_collator_key_by_key(bins):
    listed = [{name: column.tolist() for name, column in each.items()} for each in bins]
    trl = pytest.importorskip("trl.trainer.sft_trainer", reason="trl is not installed: it needs Python 3.11")
    theirs = trl.DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(listed)
    ours = PackedCollator(targets=False)(bins)
    same(ours, theirs)
    assert set(ours) == set(theirs)


@given(rows())
def test_targets_are_the_positions_whose_next_label_is_trained(bins):
    batch = PackedCollator()(bins)
    assert {name: value.dtype for name, value in batch.items() if isinstance(value, torch.Tensor)} == KEYS
    assert "attention_mask" not in batch
    labels = batch["labels"][0].tolist()
    expected = [t for t in range(len(labels) - 1) if labels[t + 1] != -100]
    assert batch["target_idx"].tolist() == expected
    assert batch["num_target_tokens"] == len(expected)
    assert type(batch["num_target_tokens"]) is int


def test_first_label_of_a_document_is_never_trained_whatever_the_row_says():
    each = row([3, 2])
    each["labels"] = each["input_ids"].copy()
    labels = PackedCollator()([each, each])["labels"][0]
    assert torch.nonzero(labels == -100)[:, 0].tolist() == [0, 3, 5, 8]


@given(rows(), st.integers(0, 30), st.integers(0, 4))
def test_fixed_shape_adds_untrained_documents_and_nothing_else(bins, tail, empty):
    plain = PackedCollator()(bins)
    used, count = plain["input_ids"].shape[1], len(plain["cu_seq_lens_q"]) - 1
    fixed = FixedShape(used + tail, count + -(-tail // 12) + empty, 12)
    batch = PackedCollator(fixed=fixed, pad_id=7)(bins)
    assert batch["input_ids"].shape == (1, fixed.tokens)
    assert len(batch["cu_seq_lens_q"]) == fixed.segments + 1
    assert batch["max_length_q"] == batch["max_length_k"] == 12
    for name in ("input_ids", "labels", "position_ids", "seq_idx"):
        assert torch.equal(batch[name][:, :used], plain[name])
    assert torch.equal(batch["target_idx"], plain["target_idx"])
    assert (batch["input_ids"][0, used:] == 7).all()
    assert (batch["labels"][0, used:] == -100).all()
    assert batch["cu_seq_lens_q"][-1] == fixed.tokens
    assert int(batch["cu_seq_lens_q"].diff().max()) <= 12
    starts = batch["cu_seq_lens_q"][:-1][batch["cu_seq_lens_q"].diff() > 0].tolist()
    assert torch.nonzero(batch["position_ids"][0] == 0)[:, 0].tolist() == starts


@pytest.mark.parametrize("fixed", [FixedShape(9, 9, 9), FixedShape(99, 1, 9), FixedShape(99, 99, 2)])
def test_batch_that_does_not_fit_its_fixed_shape_is_refused(fixed):
    with pytest.raises(ConfigError, match=r"10 tokens in 2 documents, the longest 6, does not fit"):
        PackedCollator(fixed=fixed)([row([6, 4])])


@pytest.mark.parametrize(
    ("column", "value"),
    [("seq_lengths", [3, 1]), ("seq_lengths", [3, 0, 2]), ("seq_lengths", []), ("labels", [-100] * 4)],
)
def test_row_that_disagrees_with_itself_is_refused_by_name(column, value):
    each = {**row([3, 2]), column: np.array(value, dtype=np.int32)}
    with pytest.raises(ShardError, match=r"^row 1 of the batch: 5 input_ids.*Run `sftdata verify`"):
        PackedCollator()([row([4]), each])


def test_no_rows_are_refused():
    with pytest.raises(ShardError, match="a batch of no rows"):
        PackedCollator()([])


def test_batch_does_not_share_memory_with_its_row():
    each = row([3, 2])
    kept = {name: column.copy() for name, column in each.items()}
    batch = PackedCollator()([each])
    for name in ("input_ids", "labels", "position_ids"):
        batch[name].fill_(1)
    assert all(np.array_equal(each[name], kept[name]) for name in kept)


@settings(max_examples=20)
@given(rows())
def test_rows_of_lists_make_the_same_batch_as_rows_of_arrays(bins):
    listed = [{name: column.tolist() for name, column in each.items()} for each in bins]
    same(PackedCollator()(listed), PackedCollator()(bins))
