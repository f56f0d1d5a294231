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
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.corpus import data_folder, write_chats
from benchmarks.prepare import prepare, used
from benchmarks.processes import Ran, run

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


def trl(path: Path, tokenizer: Path, folder: Path) -> Ran:
    """One run of the whole process."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        return run([sys.executable, "-c", _TRL, str(path), str(tokenizer), cache])


def main(arguments: list[str] | None = None) -> None:
    """Print medians, their spread, and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(arguments)
    names = ("trl", "transformers", "datasets", "torch")
    print(f"{used()}; {', '.join(f'{name} {version(name)}' for name in names)}", file=sys.stderr)
    tokenizer = data_folder() / "tokenizers" / "qwen2.5"
    with tempfile.TemporaryDirectory(prefix="sftdata-bench-") as name:
        folder = Path(name)
        path = write_chats(folder / "chats.jsonl", options.records, turns=options.turns)
        theirs, ours = [], []
        for _ in range(options.runs):
            theirs.append(trl(path, tokenizer, folder))
            ours.append(prepare(path, tokenizer, folder / "out", 2).ran)
            print(f"  TRL {theirs[-1].seconds:.1f} s, prepare {ours[-1].seconds:.1f} s", file=sys.stderr, flush=True)
    pairs = list(zip(theirs, ours, strict=True))
    ratios = [peer.seconds / mine.seconds for peer, mine in pairs]
    result = {
        "records": options.records,
        "turns": options.turns,
        "trl_seconds": statistics.median(one.seconds for one in theirs),
        "prepare_seconds": statistics.median(one.seconds for one in ours),
        "ratio_median": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "ratio_of_cpu": statistics.median(peer.cpu_seconds / mine.cpu_seconds for peer, mine in pairs),
        "trl_worker_mib": max(max(one.parent_mib, one.worker_mib) for one in theirs),
        "prepare_worker_mib": max(max(one.parent_mib, one.worker_mib) for one in ours),
    }
    print(json.dumps({key: round(value, 2) for key, value in result.items()}, indent=2))


if __name__ == "__main__":
    main()
