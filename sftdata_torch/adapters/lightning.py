"""Lightning: a data module whose batch is one whole optimizer step, and a module that trains it.

Lightning's automatic optimization divides by the number of micro-batches, which is wrong where they hold different
numbers of trained tokens. So a step comes as the list of its micro-batches and is optimized by hand, and Lightning's
`global_step` counts global batches. Needs `Trainer(use_distributed_sampler=False)`; gradient clipping is `clip`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer

from sftdata_torch.accumulation import accumulate
from sftdata_torch.collate import Batch
from sftdata_torch.isolation import IsolationCheck
from sftdata_torch.sampler import ElasticSampler
from sftdata_torch.stream import PackedStream

__all__ = ["PackedDataModule", "PackedModule", "Steps"]


class PackedDataModule(lightning.LightningDataModule):  # type: ignore[misc]  # lightning is not followed
    """The steps of `dataset`; where they stand is saved with, and restored from, every Lightning checkpoint."""

    def __init__(self, dataset: Any, *, global_batch: int, micro_batch: int = 1, workers: int = 0) -> None:
        super().__init__()
        self._dataset = dataset
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._workers = workers

    def train_dataloader(self) -> Steps:
        """Each item is one step of this rank."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = ElasticSampler(
            self._dataset,
            global_batch=self._global_batch,
            micro_batch=self._micro_batch,
            rank=rank,
            world_size=world,
        )
        return Steps(PackedStream(self._dataset, sampler, workers=self._workers))


class Steps:
    """The stream's steps as a loader that Lightning saves, restores, and does not fetch ahead of: it has a length.

    Iterating goes on where the last iteration was left. Lightning counts batches and epochs by itself, and after a
    restart at the end of an epoch miscounts; the order of the steps must not depend on that.
    """

    def __init__(self, stream: PackedStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[list[Batch]]:
        self.stream.load_state_dict(self.stream.state_dict())
        return self.stream.steps()

    def __len__(self) -> int:
        return self.stream.sampler.steps

    def state_dict(self) -> dict[str, Any]:
        """The position after the steps that were trained."""
        return self.stream.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue there."""
        self.stream.load_state_dict(state_dict)


class PackedModule(lightning.LightningModule):  # type: ignore[misc]  # lightning is not followed
    """A causal model of transformers and the function that makes its optimizer from its parameters.

    Logs `train/loss`, the mean over the step's trained tokens on all ranks. The first packed batch is checked for
    isolation before it is trained.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
        *,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self._make_optimizer = optimizer
        self._clip = clip
        self._isolation = IsolationCheck()

    def training_step(self, batch: list[Batch], batch_idx: int) -> None:  # noqa: ARG002
        """One global batch: all its micro-batches, then the optimizer."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        for micro_batch in batch:
            self._isolation(self.model, {**micro_batch, "use_cache": False})  # as it is trained
        optimizer.zero_grad()
        loss = accumulate(self.model, batch, device=self.device, backward=self.manual_backward)
        if self._clip is not None:
            self.clip_gradients(optimizer.optimizer, gradient_clip_val=self._clip, gradient_clip_algorithm="norm")
        optimizer.step()
        self.log("train/loss", loss, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer over the parameters that are trained."""
        return self._make_optimizer(parameter for parameter in self.model.parameters() if parameter.requires_grad)
