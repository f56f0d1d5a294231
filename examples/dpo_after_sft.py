"""Go on from a fine-tuned model to preferences: TRL's DPOTrainer on the checkpoint that sftdata-train left.

    python examples/dpo_after_sft.py --model run/model --pairs pairs.jsonl --out dpo

A line of PAIRS is {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT}. The chat template that trained lies in the
model's folder, so prompts are rendered here as they were there. An adapter's folder is loaded on its base, which is
then the reference model: the same weights with the adapter switched off.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def chats(path: Path) -> Dataset:
    """The pairs in TRL's conversational form, which makes it use the template of the tokenizer."""
    pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": pair["prompt"]}],
                "chosen": [{"role": "assistant", "content": pair["chosen"]}],
                "rejected": [{"role": "assistant", "content": pair["rejected"]}],
            }
            for pair in pairs
        ]
    )


def load(folder: str) -> Any:
    """A whole model, or an adapter on its base that goes on being trained."""
    if Path(folder, "adapter_config.json").is_file():
        from peft import AutoPeftModelForCausalLM

        return AutoPeftModelForCausalLM.from_pretrained(folder, is_trainable=True)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="run/model, or run/checkpoint-N")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--learning-rate", type=float, default=5e-7, help="a fortieth of the rate of fine-tuning")
    given = parser.parse_args()
    cuda = torch.cuda.is_available()
    config = DPOConfig(
        given.out,
        learning_rate=given.learning_rate,
        max_steps=given.max_steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=1,
        bf16=cuda,
        use_cpu=not cuda,
        beta=0.1,
        logging_steps=1,
        report_to=[],
    )
    trainer = DPOTrainer(
        load(given.model),
        args=config,
        train_dataset=chats(given.pairs),
        processing_class=AutoTokenizer.from_pretrained(given.model),
    )
    trainer.train()
    trainer.save_model(given.out)


if __name__ == "__main__":
    main()
