"""TRL's whole preparation beside `prepare`, on the same records, in the same run.

    python -m benchmarks.peers [--records N] [--turns T] [--runs R]

TRL: one process that loads the JSON Lines with `datasets` and builds an SFTTrainer (`assistant_only_loss`, `packing`,
`dataset_num_proc=2`, a random Qwen2 of a few thousand weights) whose dataset is then ready to train from, as its
users do. Ours: `prepare` with 2 workers. Both are whole processes, start-up included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.corpus import data_folder, write_chats
from benchmarks.prepare import prepare

__all__ = ["main", "trl"]

_TRL = """
import os, sys
os.environ["HF_DATASETS_CACHE"] = sys.argv[3]
os.environ["HF_HUB_OFFLINE"] = "1"
from datasets import load_dataset
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer
from importlib import resources
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
template = resources.files("trl").joinpath("chat_templates", "qwen2_5_training.jinja")
tokenizer.chat_template = template.read_text(encoding="utf-8")
tokenizer.eos_token = "<|im_end|>"
tokenizer.pad_token = "<|endoftext|>"
model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer) + 300, hidden_size=8, intermediate_size=8,
                                     num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1))
config = SFTConfig(output_dir=sys.argv[3], packing=True, max_length=2048, assistant_only_loss=True,
                   dataset_num_proc=2, report_to="none", use_cpu=True, bf16=False)
trainer = SFTTrainer(model=model, args=config, processing_class=tokenizer,
                     train_dataset=load_dataset("json", data_files=sys.argv[1], split="train"))
print(len(trainer.train_dataset))
"""


def trl(path: Path, tokenizer: Path, folder: Path) -> float:
    """Seconds of the whole process."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        began = time.perf_counter()
        command = [sys.executable, "-c", _TRL, str(path), str(tokenizer), cache]
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - began


def main(arguments: list[str] | None = None) -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(arguments)
    tokenizer = data_folder() / "tokenizers" / "qwen2.5"
    with tempfile.TemporaryDirectory(prefix="sftdata-bench-") as name:
        folder = Path(name)
        path = write_chats(folder / "chats.jsonl", options.records, turns=options.turns)
        theirs, ours = [], []
        for _ in range(options.runs):
            theirs.append(trl(path, tokenizer, folder))
            ours.append(prepare(path, tokenizer, folder / "out", 2)["seconds"])
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    result = {
        "records": options.records,
        "turns": options.turns,
        "trl_seconds": statistics.median(theirs),
        "prepare_seconds": statistics.median(ours),
        "ratio_median": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
