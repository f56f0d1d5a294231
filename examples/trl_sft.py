"""Train the Parquet files with TRL's `SFTTrainer`, through `datasets`, with nothing in between.

    python examples/trl_sft.py OUT --tokenizer TOKENIZER

The two settings marked below are what keeps bins whole and documents apart; `check_trl_trainer` refuses the others.
"""

from __future__ import annotations

import argparse

import torch
from datasets import load_dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from sftdata_torch.adapters.trl import check_trl_trainer


def main() -> None:
    """One epoch of a tiny random model; put `AutoModelForCausalLM.from_pretrained` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a sealed folder of `sftdata prepare`")
    parser.add_argument("--tokenizer", required=True, help="the tokenizer that the shards were made with")
    parser.add_argument("--out", default="out/trl_sft")
    parser.add_argument("--steps", type=int, default=-1)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
    dataset = load_dataset("parquet", data_files=f"{given.shards}/train-*.parquet", split="train")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    args = SFTConfig(
        output_dir=given.out,
        packing=True,  # with the next line: bins are taken as they are
        dataset_kwargs={"skip_prepare_dataset": True},
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        max_steps=given.steps,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=torch.cuda.is_available(),
    )
    trainer = SFTTrainer(LlamaForCausalLM(config), args, train_dataset=dataset, processing_class=tokenizer)
    check_trl_trainer(trainer)
    trainer.train()


if __name__ == "__main__":
    main()
