"""TRL reads our Parquet files as they are, under two settings; under most others it ruins packed rows in silence.

What lives here: the refusal of those others, and the canary for a trainer that is built. Verified against TRL 1.16.
Either of

    A   SFTConfig(packing=True, dataset_kwargs={"skip_prepare_dataset": True})
    B   SFTConfig(packing=False, padding_free=True, max_length=None)

keeps every bin as it is, with boundaries from `seq_lengths`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sftdata.errors import ConfigError, describe
from sftdata_torch.isolation import assert_packing_isolated

__all__ = ["check_trl_config", "check_trl_trainer"]

_SAFE = (
    'Use packing=True with dataset_kwargs={"skip_prepare_dataset": True}, or packing=False with padding_free=True '
    "and max_length=None."
)


class _Ruin(NamedTuple):
    holds: Callable[[Any], bool]
    happens: str


def check_trl_config(config: Any) -> None:
    """Return if an `SFTConfig` trains packed rows as they stand; raise ConfigError, saying what it would do, if not."""
    for ruin in _RUINS:
        if ruin.holds(config):
            raise ConfigError(describe(ruin.happens, where="SFTConfig", fix=_SAFE))


def check_trl_trainer(trainer: Any) -> None:
    """`check_trl_config`, the columns, and the isolation of the first batch that an `SFTTrainer` will see.

    Call it after construction and before `train()`; the random state is the same afterwards.
    Raises ConfigError, or PackingLeakError with the cause.
    """
    check_trl_config(trainer.args)
    missing = {"input_ids", "labels", "seq_lengths"} - set(trainer.train_dataset.column_names)
    if missing:
        raise ConfigError(
            describe(
                f"the dataset has no column {', '.join(sorted(missing))}",
                where="SFTTrainer",
                fix='Load the shards with load_dataset("parquet", data_files="OUT/train-*.parquet").',
            )
        )
    with torch.random.fork_rng():
        batch = next(iter(trainer.get_train_dataloader()))
    assert_packing_isolated(trainer.model, {**batch, "use_cache": bool(trainer.args.use_cache)})


def _skips(config: Any) -> bool:
    return bool((config.dataset_kwargs or {}).get("skip_prepare_dataset", False))


_RUINS = (
    _Ruin(
        lambda config: config.packing and not _skips(config),
        "packing=True without skip_prepare_dataset packs the bins again and merges the documents inside them",
    ),
    _Ruin(
        lambda config: config.packing and config.packing_strategy not in ("bfd", "bfd_split"),
        "this packing_strategy makes padded batches with an attention mask: documents attend to each other",
    ),
    _Ruin(
        lambda config: bool(config.eval_packing) and not _skips(config),
        "eval_packing=True packs the bins of the eval set again and merges the documents inside them",
    ),
    _Ruin(
        lambda config: not config.packing and not config.padding_free,
        "without packing or padding_free, bins get an attention mask of ones and lose their boundaries: documents "
        "attend to each other",
    ),
    _Ruin(
        lambda config: not config.packing and config.max_length is not None and not _skips(config),
        "max_length cuts the bins",
    ),
    _Ruin(
        lambda config: not config.packing and config.max_length is not None,
        "padding_free with a max_length is refused by the trainer",
    ),
    _Ruin(
        lambda config: bool(config.use_cache),
        "use_cache=True makes a cache, with which the documents' boundaries are no longer looked at",
    ),
)
