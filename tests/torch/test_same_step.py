"""One step of this loop, of transformers' Trainer and of TRL: the same weights from the same start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sftdata_torch.adapters.trainer import PackedTrainer
from sftdata_torch.collate import PackedCollator
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.head import LossModel
from sftdata_torch.optim import make_optimizer
from sftdata_torch.sampler import ElasticSampler
from sftdata_torch.step import train_step
from sftdata_torch.stream import PackedStream
from tests.torch.models import causal
from tests.torch.packs import many, sealed

RATE = 1e-2
COMMON = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": 1,
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1.0,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}


def ours(rows):
    """Weights and loss after one step over four bins in two micro-batches."""
    model = causal("llama")
    optimizer = make_optimizer(model, lr=RATE)
    parts = [PackedCollator()(rows[:2]), PackedCollator()(rows[2:])]
    result = train_step(LossModel(model), optimizer, parts, device=torch.device("cpu"))
    return model.state_dict(), result.loss


def agree(weights, theirs):
    """Same weights to float32's precision: a first step of Adam moves each by RATE, in the gradient's direction."""
    for name, value in theirs.items():
        moved = (weights[name] - value).abs()
        assert float(moved.quantile(0.999)) < RATE * 1e-2, name  # a gradient near 0 may round to either side
        assert float(moved.mean()) < RATE * 1e-4, name


def test_a_step_of_trainer_is_a_step_of_ours(tmp_path):
    from transformers import TrainingArguments

    dataset = PackedDataset(sealed(tmp_path / "set", many(4), files=1), seed=0)
    stream = PackedStream(dataset, ElasticSampler(dataset, global_batch=4, micro_batch=2), collate=list)
    rows = [row for part in next(stream.steps()) for row in part]
    model = causal("llama")
    arguments = TrainingArguments(str(tmp_path), remove_unused_columns=False, **COMMON)
    trainer = PackedTrainer(model, arguments, train_dataset=dataset)
    loss = trainer.train().training_loss
    weights, expected = ours(rows)
    assert loss == pytest.approx(expected, rel=1e-5)
    agree(weights, trainer.model.state_dict())


def test_a_step_of_trl_is_a_step_of_ours(tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed: it needs Python 3.11")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    rows = many(4)
    listed = [{name: np.asarray(value).tolist() for name, value in row.items()} for row in rows]
    config = trl.SFTConfig(
        str(tmp_path),
        packing=False,
        padding_free=True,
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        **{**COMMON, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
    )
    trainer = trl.SFTTrainer(
        causal("llama"), config, train_dataset=datasets.Dataset.from_list(listed), processing_class=_Tokenizer.made()
    )
    loss = trainer.train().training_loss
    weights, expected = ours(rows)
    assert loss == pytest.approx(expected, rel=1e-5)
    agree(weights, trainer.model.state_dict())


class _Tokenizer:
    """TRL wants one, and reads no text with it here."""

    @staticmethod
    def made():
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        raw = Tokenizer(models.WordLevel({f"t{at}": at for at in range(97)}, unk_token="t0"))
        return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="t1", pad_token="t0", unk_token="t0")
