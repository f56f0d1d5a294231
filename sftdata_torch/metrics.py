"""Numbers of a run, by step: always as JSON Lines, and to other services by name.

What lives here: writing what the loop measured. What must not: measuring.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sftdata.errors import ConfigError, OutputError, describe, nearest
from sftdata_torch.folder import METRICS_FILE

__all__ = ["LOGGERS", "Metrics"]

Values = Mapping[str, float]
Sink = Callable[[int, Values], None]


class Metrics:
    """`metrics.jsonl` in `out`, one line a step: `{"step": 3, "train/loss": 1.25, ...}`.

    A resumed run goes on behind the step of its checkpoint: later lines, of steps that are trained again, are cut off.
    Raises ConfigError for an unknown logger or one whose package is missing.
    """

    def __init__(self, out: Path, *, after_step: int, log_to: Sequence[str], settings: Mapping[str, Any]) -> None:
        self._path = out / METRICS_FILE
        self._sinks = [_sink(name, out, settings) for name in log_to]
        kept = [line for line in self._lines() if json.loads(line)["step"] <= after_step]
        part = self._path.with_suffix(".part")
        part.write_text("".join(kept), encoding="utf-8")
        os.replace(part, self._path)

    def log(self, step: int, values: Values) -> None:
        """Write the values of a step, at once: a killed run loses none. What is not finite is null in JSON.

        Raises OutputError where it cannot be written.
        """
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **plain}) + "\n")
        except OSError as error:
            raise OutputError(
                describe(f"it cannot be written: {error}", where=str(self._path), fix="Make room.")
            ) from error
        for sink in self._sinks:
            sink(step, values)

    def _lines(self) -> list[str]:
        """The whole lines of an earlier run; one that was cut by a kill is left out."""
        if not self._path.exists():
            return []
        return [line for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def _sink(name: str, out: Path, settings: Mapping[str, Any]) -> Sink:
    if name not in LOGGERS:
        raise ConfigError(describe(f"no logger {name!r}", where="log_to", fix=nearest(name, LOGGERS)))
    try:
        return LOGGERS[name](out, settings)
    except ImportError as error:
        fix = f"pip install {name}"
        raise ConfigError(describe(f"the logger {name} needs a package: {error}", where="log_to", fix=fix)) from error


def _tensorboard(out: Path, settings: Mapping[str, Any]) -> Sink:  # noqa: ARG001
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(out / "tensorboard")

    def write(step: int, values: Values) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write


def _run_of(package: str) -> Callable[[Path, Mapping[str, Any]], Sink]:
    """W&B and trackio share their face: `init` once, `log` with a step."""

    def start(out: Path, settings: Mapping[str, Any]) -> Sink:
        module = importlib.import_module(package)
        module.init(project=os.environ.get("WANDB_PROJECT", "sftdata"), name=out.name, config=dict(settings))
        return lambda step, values: module.log(dict(values), step=step)

    return start


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any]], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _run_of("wandb"),
    "trackio": _run_of("trackio"),
}
