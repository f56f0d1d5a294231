"""Train packed shards in a loop of your own, resumable at every step; also under torchrun.

python examples/plain_torch.py OUT
torchrun --nproc-per-node 2 examples/plain_torch.py OUT
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from sftdata_torch.accumulation import accumulate
from sftdata_torch.attention import register_attention
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.isolation import IsolationCheck
from sftdata_torch.sampler import ElasticSampler
from sftdata_torch.stream import PackedStream


def tiny_model(vocab_size: int) -> torch.nn.Module:
    """A random model of a few thousand parameters; put `AutoModelForCausalLM.from_pretrained` here."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        vocab_size=vocab_size, use_cache=False, attn_implementation=register_attention(), **sizes, **heads
    )
    model: torch.nn.Module = LlamaForCausalLM(config)
    return model


def own_device() -> torch.device:
    """This rank's GPU where there are any."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def train(shards: str, *, global_batch: int, micro_batch: int, steps: int, checkpoint: Path | None) -> None:
    """`steps` optimizer steps, from `checkpoint` where it exists and into it after every step."""
    device = own_device()
    dataset = PackedDataset(shards, seed=0)
    stream = PackedStream(dataset, ElasticSampler(dataset, global_batch=global_batch, micro_batch=micro_batch))
    model = tiny_model(dataset.vocab_size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    done = 0
    if checkpoint is not None and checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        stream.load_state_dict(saved["data"])
        done = saved["step"]
    trained = DistributedDataParallel(model) if dist.is_initialized() else model
    check = IsolationCheck()
    while done < steps:
        for micro_batches in stream.steps():
            check(trained, {**micro_batches[0], "use_cache": False})  # as `accumulate` calls it
            loss = accumulate(trained, micro_batches, device=device)
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            if stream.sampler.rank == 0:
                print(f"step {done} loss {loss.item():.9f}", flush=True)
                if checkpoint is not None:
                    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                    torch.save({**state, "data": stream.state_dict(), "step": done}, checkpoint.with_suffix(".part"))
                    checkpoint.with_suffix(".part").replace(checkpoint)
            if done == steps:
                break


def main() -> None:
    """Read the command line; join the process group where torchrun made one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a sealed folder of `sftdata prepare`")
    parser.add_argument("--global-batch", type=int, default=4, help="bins in an optimizer step, on all ranks together")
    parser.add_argument("--micro-batch", type=int, default=2, help="bins in one forward pass of one rank")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--checkpoint", type=Path)
    given = parser.parse_args()
    if dist.is_torchelastic_launched():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    train(
        given.shards,
        global_batch=given.global_batch,
        micro_batch=given.micro_batch,
        steps=given.steps,
        checkpoint=given.checkpoint,
    )
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
