"""Every other form holds what the canonical batch says, for its own consumer."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from sftdata.errors import ConfigError
from sftdata_torch.collate import FixedShape, PackedCollator
from sftdata_torch.layouts import block_mask, dense
from tests.torch.packs import row, rows


@given(rows())
def test_padded_holds_one_document_a_row(bins):
    flat, padded = PackedCollator()(bins), PackedCollator(form="padded", pad_id=0)(bins)
    lengths = flat["cu_seq_lens_q"].diff().tolist()
    assert padded["attention_mask"].sum(1).tolist() == lengths
    shape = (len(lengths), max(lengths))
    assert {name: tuple(value.shape) for name, value in padded.items()} == dict.fromkeys(
        ("input_ids", "labels", "attention_mask"), shape
    )
    kept = padded["attention_mask"].bool()
    for name, fill in (("input_ids", 0), ("labels", -100)):
        assert torch.equal(padded[name][kept], flat[name][0])
        assert (padded[name][~kept] == fill).all()


@given(rows())
def test_dense_mask_allows_earlier_tokens_of_the_own_document_only(bins):
    batch = PackedCollator(form="dense")(bins)
    mask, document = batch["attention_mask"], batch["seq_idx"][0].tolist()
    assert mask.dtype == torch.bool
    expected = [[q >= k and document[q] == document[k] for k in range(len(document))] for q in range(len(document))]
    assert mask[0, 0].tolist() == expected


def test_dense_mask_of_a_floating_type_adds_nothing_or_its_minimum():
    batch = PackedCollator(form=partial(dense, dtype=torch.float16))([row([2, 1])])
    low = torch.finfo(torch.float16).min
    assert batch["attention_mask"].tolist() == [[[[0, low, low], [0, 0, low], [low, low, 0]]]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.booleans())
def test_block_mask_equals_the_one_torch_builds_from_the_dense_rule(lengths, fix):
    tokens = sum(lengths)
    fixed = FixedShape(tokens + 70, len(lengths) + 3, 300) if fix else None
    batch = PackedCollator(fixed=fixed)([row(lengths)])
    document = batch["seq_idx"][0]
    tokens = len(document)
    theirs = create_block_mask(
        lambda b, h, q, k: (q >= k) & (document[q] == document[k]), None, None, tokens, tokens, device="cpu"
    )
    ours = block_mask(batch)
    assert ours.shape == theirs.shape
    for name in ("kv_num_blocks", "full_kv_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert torch.equal(ours.to_dense(), theirs.to_dense())


def test_thd_is_flat_and_its_labels_are_targets():
    batch = PackedCollator(form="thd")([row([3, 2], trained=1.0)])
    ids = batch["input_ids"].tolist()
    assert batch["labels"].tolist() == [ids[1], ids[2], -100, ids[4], -100]
    assert batch["cu_seqlens_q"].tolist() == batch["cu_seqlens_kv"].tolist() == [0, 3, 5]
    assert (batch["max_seqlen_q"], batch["max_seqlen_kv"], batch["qkv_format"]) == (3, 3, "thd")


def test_torchtitan_form_is_inputs_with_positions_and_shifted_labels():
    inputs, labels = PackedCollator(form="torchtitan")([row([3, 2], trained=1.0)])
    ids = inputs["input"].tolist()
    assert inputs["positions"].tolist() == [0, 1, 2, 0, 1]
    assert labels.tolist() == [ids[1], ids[2], -100, ids[4], -100]


def test_unknown_form_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no batch form 'padde'. did you mean padded\?"):
        PackedCollator(form="padde")
