"""Train packed shards with transformers' `Trainer`.

python examples/hf_trainer.py OUT
torchrun --nproc-per-node 2 examples/hf_trainer.py OUT
"""

from __future__ import annotations

import argparse

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from sftdata_torch.adapters.trainer import PackedTrainer
from sftdata_torch.attention import register_attention
from sftdata_torch.dataset import PackedDataset


def main() -> None:
    """One epoch of a tiny random model; put `AutoModelForCausalLM.from_pretrained` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a sealed folder of `sftdata prepare`")
    parser.add_argument("--out", default="out/hf_trainer")
    parser.add_argument("--steps", type=int, default=-1)
    given = parser.parse_args()
    dataset = PackedDataset(given.shards, seed=0)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=dataset.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=register_attention(),
    )
    args = TrainingArguments(
        output_dir=given.out,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        max_steps=given.steps,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    PackedTrainer(LlamaForCausalLM(config), args, train_dataset=dataset).train()


if __name__ == "__main__":
    main()
