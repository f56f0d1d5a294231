"""Training a part of the weights: low-rank adapters through peft, or the upper layers only.

What lives here: choosing what is trained. What must not: the head, which stays as it is in every case, so that its
memory-efficient loss holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sftdata.errors import ConfigError, describe
from sftdata_torch.modes import decoder_layers
from sftdata_torch.settings import TrainSettings

__all__ = ["adapt", "freeze_layers", "freeze_others"]


def adapt(model: Any, settings: TrainSettings, checkpoint: Path | None = None) -> Any:
    """`model` with an adapter of `lora_rank` on every linear layer of its body, or with that of `checkpoint`.

    The model's own weights are frozen. Raises ConfigError where peft is missing or does not know the model's layers.
    """
    try:
        from peft import LoraConfig, PeftModel, get_peft_model
    except ImportError as error:
        raise ConfigError(describe("adapters need peft", where="lora_rank", fix="pip install peft")) from error
    if checkpoint is not None:
        return PeftModel.from_pretrained(model, str(checkpoint), is_trainable=True)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules="all-linear",  # peft leaves the output head out
        exclude_modules=_routers(model) or None,
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank if settings.lora_alpha is None else settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(
            describe(f"peft has no adapters for this model: {error}", where="lora_rank", fix="Train it whole.")
        ) from error


def _routers(model: nn.Module) -> list[str]:
    """Linear layers that give more than their product, so that nothing can be added to it: the routers of some models
    with experts. Whether one does is tried out."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward:
            with torch.no_grad():
                if not isinstance(module(module.weight.new_zeros(1, module.in_features)), torch.Tensor):
                    found.append(name)
    return found


def freeze_layers(model: Any, count: int) -> None:
    """Keep the input embeddings and the first `count` decoder layers as they are; 0 freezes nothing.

    Tied embeddings are the head, too: it is then frozen with them. Raises ConfigError where there are fewer layers.
    """
    if not count:
        return
    layers = decoder_layers(model)
    if count > len(layers):
        raise ConfigError(describe(f"freeze_layers is {count}", where="train", expected=f"at most {len(layers)}"))
    for module in (model.get_input_embeddings(), *layers[:count]):
        for weight in module.parameters():
            weight.requires_grad_(False)


def freeze_others(model: Any) -> None:
    """Keep as it is what the loss never touches: the towers of a model that also sees or hears.

    Their gradient would never come, and data parallelism waits for it.
    """
    head = model.get_output_embeddings()
    used = {*model.get_decoder().parameters(), *(head.parameters() if head is not None else ())}
    for weight in model.parameters():
        if weight not in used:
            weight.requires_grad_(False)
