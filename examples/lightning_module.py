"""Train packed shards with Lightning.

python examples/lightning_module.py OUT
"""

from __future__ import annotations

import argparse
from functools import partial

import lightning
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sftdata_torch.adapters.lightning import PackedDataModule, PackedModule
from sftdata_torch.attention import register_attention
from sftdata_torch.dataset import PackedDataset


def main() -> None:
    """One epoch of a tiny random model; put `AutoModelForCausalLM.from_pretrained` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a sealed folder of `sftdata prepare`")
    parser.add_argument("--out", default="out/lightning")
    parser.add_argument("--resume", help="a checkpoint that holds the model, the optimizer and the position")
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
    module = PackedModule(LlamaForCausalLM(config), partial(torch.optim.AdamW, lr=1e-3), clip=1.0)
    data = PackedDataModule(dataset, global_batch=4, micro_batch=2)
    trainer = lightning.Trainer(
        max_epochs=1, default_root_dir=given.out, use_distributed_sampler=False, logger=False, log_every_n_steps=1
    )
    trainer.fit(module, datamodule=data, ckpt_path=given.resume)
    print(f"loss {trainer.callback_metrics['train/loss'].item():.6f} after {trainer.global_step} steps")


if __name__ == "__main__":
    main()
