"""One rank of a distributed run, in a module that a fresh process imports quickly: no transformers."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from sftdata_torch.accumulation import accumulate
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.sampler import ElasticSampler
from sftdata_torch.stream import PackedStream

VOCAB = 97


class RunningMeans(torch.nn.Module):
    """A causal model of one line: predicts from the mean of the document's embeddings so far."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(VOCAB, 16, dtype=torch.float64)
        self.head = torch.nn.Linear(16, VOCAB, dtype=torch.float64)

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, **batch: Any) -> SimpleNamespace:
        lengths = batch["cu_seq_lens_q"].diff().tolist()
        sums = torch.cat([part.cumsum(0) for part in self.embedding(input_ids[0]).split(lengths)])
        return SimpleNamespace(logits=self.head(sums / (position_ids[0] + 1)[:, None])[None])


def run(rank: int, world: int, port: int, path: Path, out: Any) -> None:
    """Put (rank, [(ids, loss, gradient) of every step], state) into `out`; the traceback where it fails."""
    try:
        torch.set_num_threads(1)
        if world > 1:
            store = dist.TCPStore(  # type: ignore[attr-defined]
                "127.0.0.1", port, world, rank == 0
            )
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
        dataset = PackedDataset(path, seed=0)
        stream = PackedStream(dataset, ElasticSampler(dataset, global_batch=4, micro_batch=1), workers=rank)
        model = RunningMeans()
        trained = DistributedDataParallel(model) if world > 1 else model
        seen = []
        for micro_batches in stream.steps():
            model.zero_grad()
            loss = accumulate(trained, micro_batches, device="cpu")
            gradients = [parameter.grad for parameter in model.parameters()]
            gradient = torch.cat([each.flatten() for each in gradients if each is not None])
            ids = [batch["input_ids"][0].tolist() for batch in micro_batches]
            seen.append((ids, loss.item(), gradient.numpy().copy()))
        out.put((rank, seen, stream.state_dict()))
        if world > 1:
            dist.barrier()
            dist.destroy_process_group()
    except BaseException:
        out.put((rank, traceback.format_exc(), None))
        raise
