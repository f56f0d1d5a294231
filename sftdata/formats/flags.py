"""The record's own word on which turns are trained, under all its names, as one `bool | None`.

What lives here: the names, their polarity, and how contradictions end (SFT115, never a guess). What must not: the
values' range, which the JSON Schemas hold (0, 1, true, false, null).

Polarity. Most names say "count this turn" (`weight` of OpenAI, Together and Mistral; `train` and `training` of
axolotl; `loss` of ms-swift; `trainable`; `loss_mask` of slime and verl). `masked` says the opposite (torchtune's
`Message.masked`, functionary's `metadata.masked`). `mask` is used both ways, and the record itself usually tells:
prompts are never trained, so where they carry a `mask` too, its value there is the one that means "not trained"
(published rows have 0 on the user's turns and 1 on the assistant's). Where only assistant turns carry it, `mask`
means masked out, as in torchtune and in NeMo's record-level `"mask": "User"`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sftdata.formats.faults import Faults
from sftdata.records import Role

__all__ = ["FLAG_KEYS", "RECORD_FLAG_KEYS", "mask_counts", "record_flag", "trained_flag"]

_COUNTS = (
    "weight",
    "train",
    "training",
    "trainable",
    "train_on_turn",
    "loss",
    "loss_weight",
    "loss_scale",
    "loss_mask",
)
FLAG_KEYS = frozenset({*_COUNTS, "mask", "masked"})
RECORD_FLAG_KEYS = frozenset({"weight", "loss_weight", "sample_weight"})

_POLARITY = {**dict.fromkeys(_COUNTS, True), "masked": False}


def mask_counts(flags: Iterable[tuple[Role, Any]]) -> bool | None:
    """What `mask` means in one record: True "count this turn", False "leave it out", None cannot be told.

    `flags` are (role, value) of all turns that carry one.

    >>> mask_counts([("user", 0), ("assistant", 1)])
    True
    >>> mask_counts([("assistant", 1)])
    False
    """
    seen = list(flags)
    prompts = {bool(value) for role, value in seen if role != "assistant"}
    replies = {bool(value) for role, value in seen if role == "assistant"}
    if not prompts:
        return False
    if len(prompts) > 1 or replies == {False} == prompts:
        return None
    return prompts == {False}


def trained_flag(raw: Mapping[str, Any], role: Role, where: str, mask: bool | None, faults: Faults) -> bool | None:
    """The flag of one turn, None where it carries none or where the turn is not the assistant's.

    A turn of another role that asks to be trained is refused: there is no reply in it to train, and dropping the
    wish would be silent.
    """
    found: dict[str, bool] = {}
    for key in FLAG_KEYS.intersection(raw):
        value = raw[key]
        if value is None:
            continue
        polarity = mask if key == "mask" else _POLARITY[key]
        if polarity is None:
            faults.add(
                "SFT115",
                "the record's `mask` flags can be read both ways",
                f"{where}/mask",
                "Rename it to `train` (true: trained) or `masked` (true: not trained).",
            )
            continue
        found[key] = bool(value) is polarity
    metadata = raw.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("masked"), bool):
        found["metadata"] = not metadata["masked"]
    if not found:
        return None
    if len(set(found.values())) > 1:
        faults.add("SFT115", f"training flags contradict each other: {', '.join(sorted(found))}", where)
        return None
    trained = next(iter(found.values()))
    if role == "assistant":
        return trained
    if trained:
        key = next(iter(found))
        faults.add(
            "SFT115",
            f"a turn of role {role} is flagged as trained",
            f"{where}/{key}",
            "Only replies of the assistant are trained: remove the flag.",
        )
    return None


def record_flag(raw: Mapping[str, Any]) -> bool | None:
    """A weight of the whole record: the flag of every assistant turn that has none of its own."""
    values = [raw[key] for key in RECORD_FLAG_KEYS.intersection(raw) if raw[key] is not None]
    return bool(min(values)) if values else None
