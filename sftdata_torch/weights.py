"""A causal language model from its folder or hub name, whole: every weight found, or an error that names the folder.

What lives here: the one place that loads models, and what can be wrong with a folder. What must not: training,
evaluation. transformers and peft are imported when a model is loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from sftdata.errors import ConfigError, describe

__all__ = ["load_causal"]


def load_causal(address: str, *, dtype: torch.dtype, attention: str | None = None) -> Any:
    """The transformers model at `address`, in `dtype`.

    Raises ConfigError where there is no such folder, it cannot be loaded, or weights are missing: transformers makes
    those up at random and says so in a log line.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    _check_folder(address)
    asked = {} if attention is None else {"attn_implementation": attention}
    try:
        model, found = AutoModelForCausalLM.from_pretrained(address, dtype=dtype, output_loading_info=True, **asked)
    except KeyError as error:
        if error.args == (attention,):  # a model that keeps a table of its own
            raise ConfigError(
                describe(
                    f"this model does not know the attention {attention!r}",
                    where=address,
                    fix="Take one of transformers (--attention sdpa); the run then looks whether documents stay apart.",
                )
            ) from error
        raise ConfigError(describe(f"the model cannot be loaded: {error}", where=address)) from error
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ConfigError(describe(f"the model cannot be loaded: {error}", where=address)) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ConfigError(
            describe(
                f"{len(missing)} weights are missing, {missing[0]} among them",
                where=address,
                expected="every weight of the model that config.json describes",
                fix="Download the model again, or name the folder that holds all of it.",
            )
        )
    return model


def _check_folder(address: str) -> None:
    """What is spelled like a path must be a model's folder; the hub would complain about its spelling."""
    path = Path(address)
    if not path.exists():
        if address.startswith((".", "~", os.sep)) or address.count("/") > 1:
            raise ConfigError(
                describe("there is no such folder", where=address, fix="Name a model folder, or a hub name.")
            )
        return
    if not (path / "config.json").is_file():
        adapter = (path / "adapter_config.json").is_file()
        raise ConfigError(
            describe(
                "it is an adapter and no whole model" if adapter else "it holds no config.json",
                where=address,
                expected="a model in the Hugging Face layout",
                fix="Merge the adapter into its base first." if adapter else "Name the model's own folder.",
            )
        )
