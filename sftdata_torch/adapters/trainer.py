"""transformers' `Trainer` over packed bins: its own loop, our order, batch and canary.

`per_device_train_batch_size` is the number of bins in a micro-batch, flattened into one row; together with
`gradient_accumulation_steps` and the number of ranks it makes the global batch. Trainer counts the targets of a step
over all ranks by itself. It resumes by position: the batches before the checkpoint are skipped as numbers, unread.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from sftdata.errors import ConfigError, describe
from sftdata_torch.collate import Batch, PackedCollator
from sftdata_torch.isolation import IsolationCheck
from sftdata_torch.sampler import ElasticSampler

__all__ = ["PackedTrainer"]


class PackedTrainer(Trainer):  # type: ignore[misc]  # transformers is not followed by the type checker
    """`Trainer(model, args, train_dataset=PackedDataset(...))`, with nothing else to set.

    The first packed batch is checked for isolation, on every rank, before it is trained. Give `prediction_loss_only`
    where there is an `eval_dataset` (open it with `seed=None`); its loss is the mean over bins, as in any `Trainer`.
    """

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        if self.args.n_gpu > 1:
            raise ConfigError(
                describe(
                    f"{self.args.n_gpu} GPUs in one process make a DataParallel, which would cut cu_seq_lens apart",
                    where="PackedTrainer",
                    fix="Start one process a GPU with torchrun, or show one GPU in CUDA_VISIBLE_DEVICES.",
                )
            )
        self._isolation = IsolationCheck()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Micro-batches of this rank in the elastic order; accelerate must not cut them a second time."""
        args = self.args
        return self._loader(
            self.train_dataset,
            micro_batch=args.per_device_train_batch_size,
            accumulated=args.gradient_accumulation_steps,
            drop_last=args.dataloader_drop_last,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """The bins of the eval set (one of several, by its name) in its own order, shared between the ranks."""
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(chosen, str):
            chosen = cast("dict[str, Any]", self.eval_dataset)[chosen]
        return self._loader(chosen, micro_batch=self.args.per_device_eval_batch_size)

    def _loader(
        self, dataset: Any, *, micro_batch: int, accumulated: int = 1, drop_last: bool = False
    ) -> DataLoader[Any]:
        args = self.args
        sampler = ElasticSampler(
            dataset,
            global_batch=micro_batch * accumulated * args.world_size,
            micro_batch=micro_batch,
            rank=args.process_index,
            world_size=args.world_size,
            drop_last=drop_last,
        )
        loader = _EpochLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=PackedCollator(targets=False),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        loader.elastic = sampler
        return loader

    def training_step(self, model: torch.nn.Module, inputs: Batch, *given: Any, **settings: Any) -> torch.Tensor:
        """`Trainer.training_step`, after the first packed batch was checked."""
        self._isolation(model, inputs)
        loss: torch.Tensor = super().training_step(model, inputs, *given, **settings)
        return loss


class _EpochLoader(DataLoader[Any]):
    """A DataLoader that hands the epoch on to its sampler, as Trainer asks."""

    elastic: ElasticSampler

    def set_epoch(self, epoch: int) -> None:
        self.elastic.set_epoch(epoch)
