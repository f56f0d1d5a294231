"""Five trainers, one set of shards, one seed: the same first loss and the same gradients; and each resumes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import load_dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, TrainerCallback, TrainingArguments

from sftdata.errors import ConfigError
from sftdata_torch.accumulation import accumulate
from sftdata_torch.adapters.accelerate import packed_stream
from sftdata_torch.adapters.torchtitan import TitanLoader, TitanSource
from sftdata_torch.adapters.trainer import PackedTrainer
from sftdata_torch.adapters.trl import check_trl_trainer
from sftdata_torch.attention import register_attention
from sftdata_torch.collate import PackedCollator
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.isolation import PackingLeakError
from sftdata_torch.sampler import ElasticSampler
from sftdata_torch.stream import PackedStream
from tests.torch.packs import VOCAB, many, row, sealed, tiny

TRL = pytest.importorskip("trl", reason="trl is not installed: it needs Python 3.11")

BINS = [*many(4), row([9], seed=50, trained=0.0), row([3, 14, 2], seed=51)]
ALL, MICRO = len(BINS), 2
PACKED = register_attention()
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return sealed(tmp_path_factory.mktemp("shards") / "set", BINS)


class Recorder(torch.optim.SGD):
    """An optimizer that keeps the gradients of its first step."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.0)
        self.gradients = None

    def step(self, closure=None):
        if closure is not None:
            closure()
        if self.gradients is None:
            every = [parameter for group in self.param_groups for parameter in group["params"]]
            self.gradients = torch.cat([parameter.grad.flatten().clone() for parameter in every])


def reference(model):
    """Every document alone, by the model's own eager attention and nothing of ours."""
    model.set_attn_implementation("eager")
    losses, count = [], 0
    for each in BINS:
        cuts = np.cumsum(each["seq_lengths"])[:-1]
        for ids, labels in zip(np.split(each["input_ids"], cuts), np.split(each["labels"], cuts), strict=True):
            logits = model(input_ids=torch.tensor(ids[None])).logits[0]
            losses.append(cross_entropy(logits[:-1], torch.tensor(labels[1:]).long(), reduction="sum"))
            count += int((labels[1:] != -100).sum())
    loss = torch.stack(losses).sum() / count
    loss.backward()
    recorder = Recorder(model.parameters())
    recorder.step()
    return loss.item(), recorder.gradients


def plain(model, shards, _folder):
    dataset = PackedDataset(shards, seed=0)
    steps = PackedStream(dataset, ElasticSampler(dataset, global_batch=ALL, micro_batch=MICRO)).steps()
    recorder = Recorder(model.parameters())
    loss = accumulate(model, next(steps), device="cpu")
    recorder.step()
    return loss.item(), recorder.gradients


def hf_args(folder, kind=TrainingArguments, **settings):
    return kind(
        output_dir=str(folder),
        per_device_train_batch_size=MICRO,
        use_cpu=True,
        max_grad_norm=0.0,
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
        bf16=False,
        **settings,
    )


def hf_trainer(model, shards, folder):
    args = hf_args(folder, max_steps=1, gradient_accumulation_steps=ALL // MICRO, save_strategy="no")
    recorder = Recorder(model.parameters())
    trainer = PackedTrainer(model, args, train_dataset=PackedDataset(shards, seed=0), optimizers=(recorder, None))
    return trainer.train().training_loss, recorder.gradients


def tokenizer():
    words = {f"w{number}": number for number in range(VOCAB)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), eos_token="w1", pad_token="w2"
    )


def trl_trainer(model, shards, folder, recorder=None, **settings):
    args = hf_args(
        folder,
        TRL.SFTConfig,
        max_steps=1,
        gradient_accumulation_steps=ALL // MICRO,
        save_strategy="no",
        **settings,
    )
    dataset = load_dataset(
        "parquet", data_files=f"{shards}/train-*.parquet", split="train", cache_dir=str(folder / "cache")
    )
    return TRL.SFTTrainer(model, args, train_dataset=dataset, processing_class=tokenizer(), optimizers=(recorder, None))


RECIPES: dict[str, dict[str, Any]] = {
    "trl packing": {"packing": True, "dataset_kwargs": {"skip_prepare_dataset": True}},
    "trl padding-free": {"packing": False, "padding_free": True, "max_length": None},
}


def trl(recipe, model, shards, folder):
    recorder = Recorder(model.parameters())
    trainer = trl_trainer(model, shards, folder, recorder, **RECIPES[recipe])
    check_trl_trainer(trainer)
    return trainer.train().training_loss, recorder.gradients


def accelerate(model, shards, _folder):
    accelerator = Accelerator(cpu=True)
    recorder = Recorder(model.parameters())
    model, optimizer = accelerator.prepare(model, recorder)
    stream = packed_stream(accelerator, PackedDataset(shards, seed=0), global_batch=ALL, micro_batch=MICRO)
    loss = accumulate(model, next(stream.steps()), device=accelerator.device, backward=accelerator.backward)
    optimizer.step()
    return loss.item(), recorder.gradients


def lightning(model, shards, folder):
    pytest.importorskip("lightning", reason="lightning is not installed")
    import lightning

    from sftdata_torch.adapters.lightning import PackedDataModule, PackedModule

    recorders = []

    def optimizer(parameters):
        recorders.append(Recorder(parameters))
        return recorders[0]

    data = PackedDataModule(PackedDataset(shards, seed=0), global_batch=ALL, micro_batch=MICRO)
    trainer = lightning_trainer(lightning, folder, max_steps=1, enable_checkpointing=False)
    trainer.fit(PackedModule(model, optimizer), datamodule=data)
    return trainer.callback_metrics["train/loss"].item(), recorders[0].gradients


def lightning_trainer(lightning, folder, **settings):
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


TRAINERS = {
    "plain": plain,
    "trainer": hf_trainer,
    **{recipe: partial(trl, recipe) for recipe in RECIPES},
    "accelerate": accelerate,
    "lightning": lightning,
}


@pytest.mark.parametrize(("family", "attention"), [("llama", "sdpa"), ("qwen2", PACKED)])
@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_has_the_same_first_loss_and_gradients(name, family, attention, shards, tmp_path):
    expected_loss, expected = reference(tiny(family))
    model = tiny(family, attention, use_cache=True)  # what a configuration says where nobody set it
    loss, gradients = TRAINERS[name](model, shards, tmp_path)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert (gradients - expected).norm() <= 1e-4 * expected.norm()
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)


class Losses(TrainerCallback):
    """The loss of every step, as Trainer logs it."""

    def __init__(self):
        self.seen = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.seen[state.global_step] = logs["loss"]


def test_trainer_resumes_inside_an_epoch_with_the_same_losses(tmp_path, resumable):
    def train(folder, steps, resume=None):
        losses = Losses()
        args = hf_args(folder, max_steps=5, gradient_accumulation_steps=2, save_steps=1, learning_rate=1e-2)
        stop = StopAt(steps)
        dataset = PackedDataset(resumable, seed=0)
        trainer = PackedTrainer(tiny("llama", PACKED), args, train_dataset=dataset, callbacks=[losses, stop])
        trainer.train(resume_from_checkpoint=resume)
        return losses.seen

    whole = train(tmp_path / "whole", 5)
    assert list(whole) == [1, 2, 3, 4, 5]  # of 3 steps an epoch
    parts = train(tmp_path / "parts", 2)
    for done in (2, 4):
        parts |= train(tmp_path / "parts", done + 2, str(tmp_path / f"parts/checkpoint-{done}"))
    assert parts == whole


class StopAt(TrainerCallback):
    """Ends a run early, as a time limit would: its plan of steps stays the same."""

    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.steps


@pytest.fixture(scope="module")
def resumable(tmp_path_factory):
    """Eleven bins: at four a step, three steps an epoch, the last of three bins."""
    return sealed(tmp_path_factory.mktemp("resumable") / "set", many(11, seed=3))


def test_trainer_checks_isolation_before_the_first_step(resumable, tmp_path):
    args = hf_args(tmp_path, max_steps=1, save_strategy="no", use_cache=True)
    trainer = PackedTrainer(tiny("llama"), args, train_dataset=PackedDataset(resumable, seed=0))
    with pytest.raises(PackingLeakError, match="use_cache=True"):
        trainer.train()


def test_trainer_evaluates_every_bin_once(resumable, tmp_path):
    args = hf_args(tmp_path, per_device_eval_batch_size=2, prediction_loss_only=True)
    dataset = PackedDataset(resumable, seed=None)
    trainer = PackedTrainer(tiny("llama", PACKED), args, train_dataset=dataset, eval_dataset={"held": dataset})
    assert sum(batch["input_ids"].shape[1] for batch in trainer.get_eval_dataloader("held")) == sum(
        len(row["input_ids"]) for row in dataset.__getitems__(range(11))
    )
    assert np.isfinite(trainer.evaluate()["eval_held_loss"])


def test_accelerate_saves_and_restores_the_position(resumable, tmp_path):
    def stream():
        accelerator = Accelerator(cpu=True)
        return accelerator, packed_stream(accelerator, PackedDataset(resumable, seed=0), global_batch=4, micro_batch=2)

    accelerator, first = stream()
    steps = first.steps()
    next(steps)
    accelerator.save_state(str(tmp_path / "state"))
    rest = [[batch["input_ids"].tolist() for batch in step] for step in steps]
    accelerator, second = stream()
    accelerator.load_state(str(tmp_path / "state"))
    assert [[batch["input_ids"].tolist() for batch in step] for step in second.steps()] == rest
    assert len(rest) == 2


def test_accelerate_with_its_own_accumulation_is_refused(resumable):
    with pytest.raises(ConfigError, match="gradient_accumulation_steps is 2"):
        packed_stream(Accelerator(cpu=True, gradient_accumulation_steps=2), PackedDataset(resumable), global_batch=4)


def test_lightning_resumes_inside_an_epoch_with_the_same_losses(resumable, tmp_path):
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    from sftdata_torch.adapters.lightning import PackedDataModule, PackedModule

    class Losses(lightning.Callback):
        def __init__(self):
            self.seen = {}

        def on_train_batch_end(self, trainer, *given):
            self.seen[trainer.global_step] = trainer.callback_metrics["train/loss"].item()

    def train(steps, resume=None):
        losses = Losses()
        trainer = lightning_trainer(
            lightning, tmp_path, max_steps=steps, max_epochs=9, enable_checkpointing=False, callbacks=[losses]
        )
        data = PackedDataModule(PackedDataset(resumable, seed=0), global_batch=4, micro_batch=2)
        module = PackedModule(tiny("llama", PACKED), partial(torch.optim.Adam, lr=1e-2), clip=1.0)
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=False)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return losses.seen

    whole = train(7)
    parts = train(2)
    for steps in (3, 5, 7):
        parts |= train(steps, tmp_path / f"{list(parts)[-1]}.ckpt")
    assert parts == whole
    assert len(set(whole.values())) == 7


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({}, "without packing or padding_free"),
        ({"packing": True}, "merges the documents inside them"),
    ],
)
def test_trl_trainer_with_ruinous_settings_is_refused(settings, error, shards, tmp_path):
    with pytest.raises(ConfigError, match=error):
        check_trl_trainer(trl_trainer(tiny("llama"), shards, tmp_path, **settings))


@pytest.mark.parametrize(
    "settings",
    [*RECIPES.values(), {**RECIPES["trl packing"], "max_length": 7, "packing_strategy": "bfd_split"}],
    ids=[*RECIPES, "bins longer than max_length"],
)
def test_trl_batches_of_the_parquet_files_are_ours(settings, shards, tmp_path):
    """The golden test: load_dataset, SFTTrainer, a safe recipe, and what its own loader gives the model."""
    theirs = trl_trainer(tiny("llama"), shards, tmp_path, **settings)
    check_trl_trainer(theirs)
    found = list(theirs.get_train_dataloader())
    assert len(found) == ALL // MICRO
    by_ids = {each["input_ids"].tobytes(): each for each in BINS}
    for batch in found:
        cuts = [stop for stop in batch["cu_seq_lens_q"].tolist() if stop]
        ids = batch["input_ids"][0].numpy().astype(np.int32)
        pair = next([ids[:stop], ids[stop:]] for stop in cuts if ids[:stop].tobytes() in by_ids)
        expected = PackedCollator(targets=False)([by_ids[part.tobytes()] for part in pair])
        assert set(batch) == set(expected)
        for name, value in expected.items():
            assert torch.equal(batch[name], value) if isinstance(value, torch.Tensor) else batch[name] == value


def test_titan_loader_is_endless_and_resumes_in_another_world(resumable):
    def micro_batches(world, steps, state=None):
        """The inputs of `steps` steps of all ranks, and the state after them."""
        loaders = [
            TitanLoader(PackedDataset(resumable, seed=0), dp_rank=rank, dp_world_size=world, global_batch=4)
            for rank in range(world)
        ]
        for loader in loaders:
            loader.load_state_dict(state or {})
        iterators = [iter(loader) for loader in loaders]
        seen = [
            inputs["input"].tolist()
            for _ in range(steps * loaders[0].micro_batches)
            for inputs, _ in map(next, iterators)
        ]
        return seen, loaders[0].state_dict()

    whole, _ = micro_batches(1, 5)  # of two steps an epoch
    first, state = micro_batches(2, 3)
    second, _ = micro_batches(4, 2, state)
    assert first + second == whole


def test_titan_source_gives_token_aligned_rows(resumable):
    dataset = PackedDataset(resumable, seed=None)
    source = TitanSource(dataset)
    assert len(source) == 11
    assert source.fingerprint() == dataset.fingerprint
    row = source[4]
    assert np.array_equal(row.input_ids, dataset[4]["input_ids"])
    assert np.array_equal(row.labels, dataset[4]["labels"])
    starts = np.cumsum([0, *dataset[4]["seq_lengths"][:-1]])
    assert np.flatnonzero(row.positions == 0).tolist() == starts.tolist()
