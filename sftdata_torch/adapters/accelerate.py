"""Accelerate: our stream with the process's rank, and no `prepare` for the data.

`Accelerator.prepare` would dispatch an iterable from rank 0 and concatenate its tensors, or cut a sampler's batches a
second time; both break packed batches. So prepare the model and the optimizer, and take the data from here.
"""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator

from sftdata.errors import ConfigError, describe
from sftdata_torch.sampler import ElasticSampler
from sftdata_torch.stream import PackedStream

__all__ = ["packed_stream"]


def packed_stream(
    accelerator: Accelerator, dataset: Any, *, global_batch: int, micro_batch: int = 1, workers: int = 0
) -> PackedStream:
    """The stream of this process, registered with `accelerator.save_state` and `load_state`.

    Use `stream.steps()` with `accumulate(..., backward=accelerator.backward)`. Raises ConfigError where the
    accelerator would divide losses by its own number of accumulation steps.
    """
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigError(
            describe(
                f"gradient_accumulation_steps is {accelerator.gradient_accumulation_steps}",
                where="Accelerator",
                expected="1, since micro-batches of a step hold different numbers of trained tokens",
                fix="Leave it out; `PackedStream.steps()` groups the micro-batches of a step.",
            )
        )
    sampler = ElasticSampler(
        dataset,
        global_batch=global_batch,
        micro_batch=micro_batch,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    stream = PackedStream(dataset, sampler, workers=workers)
    accelerator.register_for_checkpointing(stream)
    return stream
