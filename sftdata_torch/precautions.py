"""What is looked at before the first step of a run, and before the first after a resume.

What lives here: that packed documents do not reach each other, that our head makes the model's own logits, and that a
checkpoint belongs to this run. What must not: the loop, loading.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sftdata.errors import ConfigError, describe
from sftdata_torch.accumulation import on_device
from sftdata_torch.assemble import Data, Learner, Schedule
from sftdata_torch.collate import PackedCollator, Row
from sftdata_torch.head import assert_head_is_whole
from sftdata_torch.isolation import assert_packing_isolated
from sftdata_torch.modes import not_compiled
from sftdata_torch.sampler import Bin
from sftdata_torch.settings import TrainSettings

__all__ = ["assert_same_run", "look_first"]

_LOOKED_AT = 64
"""Tokens with which the head is compared."""
_THE_MODEL = ("lora_rank", "lora_alpha", "lora_dropout", "freeze_layers")
"""Settings that a checkpoint has decided: another value would be ignored, or train something else."""


def look_first(data: Data, learner: Learner) -> None:
    """Look at the first bin that can show something; all ranks look at the same one.

    Raises PackingLeakError, or ConfigError for a model whose loss this head would compute wrongly.
    """
    row = _packed_row(data)
    length = min(int(row["seq_lengths"][0]), _LOOKED_AT)
    document: Row = {**{name: row[name][:length] for name in ("input_ids", "labels")}, "seq_lengths": [length]}
    with (
        torch.autocast(learner.device.type, dtype=learner.autocast, enabled=learner.autocast is not None),
        not_compiled(),
    ):
        if len(row["seq_lengths"]) > 1:
            packed = data.collate([row])
            learner.loss_model.look(lambda model: assert_packing_isolated(model, packed))
        small = on_device(PackedCollator()([document]), learner.device)
        learner.loss_model.look(lambda model: assert_head_is_whole(model, small))


def _packed_row(data: Data) -> Row:
    """The first bin on disk with two documents; the first of all where there is none."""
    files = [file for part in data.parts for file in part.manifest.files[part.split]]
    if sum(file.documents for file in files) > sum(file.rows for file in files):
        for place in range(len(data.dataset)):
            row = data.dataset[Bin(place)]
            if len(row["seq_lengths"]) > 1:
                return row
    return data.dataset[Bin(0)]


def assert_same_run(
    state: Mapping[str, Any], settings: TrainSettings, schedule: Schedule, note: Callable[[str], None]
) -> None:
    """Return if a checkpoint with this `trainer_state.json` goes on under `settings`; other harmless values are noted.

    Raises ConfigError where the steps or the model would be others. Data and optimizer are compared by those who load
    them.
    """
    before = state["settings"]
    now = json.loads(json.dumps(dataclasses.asdict(settings)))
    decided = {name: (now[name], before[name]) for name in _THE_MODEL}
    decided["model"] = (os.path.realpath(now["model"]), os.path.realpath(before["model"]))
    decided["global_batch_size"] = (schedule.global_batch, state["data"]["global_batch"])
    for name, (here, there) in decided.items():
        if here != there:
            raise ConfigError(
                describe(
                    f"the run in this folder has {name} {there}, this command {here}",
                    where=settings.out,
                    fix=f"Go on with {name} {there}, or start a new run in another --out.",
                )
            )
    for name, value in now.items():
        if name not in decided and value != before.get(name):
            note(f"resumed with another {name}: {value}, was {before.get(name)}")
