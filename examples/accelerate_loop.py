"""Train packed shards with Accelerate.

accelerate launch examples/accelerate_loop.py OUT
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM

from sftdata_torch.accumulation import accumulate
from sftdata_torch.adapters.accelerate import packed_stream
from sftdata_torch.attention import register_attention
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.isolation import IsolationCheck


def main() -> None:
    """One epoch of a tiny random model; put `AutoModelForCausalLM.from_pretrained` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a sealed folder of `sftdata prepare`")
    parser.add_argument("--out", help="where to save the state after the epoch")
    given = parser.parse_args()
    accelerator = Accelerator()
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
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer = accelerator.prepare(model, optimizer)  # not the data
    stream = packed_stream(accelerator, dataset, global_batch=4, micro_batch=2)
    check = IsolationCheck()
    for step, micro_batches in enumerate(stream.steps()):
        check(model, {**micro_batches[0], "use_cache": False})  # as `accumulate` calls it
        loss = accumulate(model, micro_batches, device=accelerator.device, backward=accelerator.backward)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.print(f"step {step + 1} loss {loss.item():.6f}")
    if given.out:
        accelerator.save_state(given.out)  # with the position in the data


if __name__ == "__main__":
    main()
