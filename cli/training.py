"""`sftdata-train`: options into settings, a progress bar, and how the run ended."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import click

from sftdata_cli.packages import need

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata-train --model ./qwen2.5-0.5b --shards shards --out run --plan
  sftdata-train --model ./qwen2.5-0.5b --shards shards --eval-shards shards --out run --epochs 2
  sftdata-train --config train.yaml --mode lean --compile
  torchrun --nproc-per-node 8 -m sftdata_cli.train --config train.yaml

A run that was stopped goes on when the same command is given again.

Exit codes: 0 done, 1 damaged shards or checkpoint, 2 usage, configuration or a loss that is not finite, 143 stopped by
SIGTERM, 129 by a closed terminal, 130 by Ctrl-C, all after a checkpoint (a second Ctrl-C ends it at once, without one).
"""
_OPTIONS: dict[str, tuple[Any, str]] = {
    "model": (str, "Model folder in the Hugging Face layout, or a hub name."),
    "shards": ((str,), "Folder of sftdata prepare. Given several times, as PATH=WEIGHT, it mixes them."),
    "out": (str, "Folder for checkpoints, metrics and the model."),
    "eval_shards": (str, "Folder whose eval split is looked at while training."),
    "tokenizer": (str, "Saved with the model. Default: that of --model."),
    "epochs": (float, "Passes over the data. Default 3."),
    "max_steps": (int, "Number of steps in all, whatever --epochs says."),
    "learning_rate": (float, "Default 2e-5."),
    "warmup_ratio": (float, "Share of the steps. Default 0.03."),
    "weight_decay": (float, "Default 0."),
    "max_grad_norm": (float, "Default 1; 0 does not clip."),
    "optimizer": (str, "adamw (default), flashadamw, adamw8bit."),
    "global_batch_size": (int, "Bins a step on all processes. Default: those of about 128 examples."),
    "micro_batch_size": (int, "Bins in one forward pass. Default 1."),
    "mode": (str, "fast (default), lean: gradient checkpointing, min: gradients released too."),
    "parallel": (str, "Under torchrun: ddp (default), or fsdp: weights in shards on all processes."),
    "compile": (bool, "Compile the decoder layers."),
    "precision": (str, "auto (default), bf16: on float32 weights, fp32."),
    "attention": (str, "packed_varlen (default), packed_blocks, or one of transformers."),
    "lora_rank": (int, "Train adapters of this rank. Default 0: the weights themselves."),
    "lora_alpha": (float, "Default: twice the rank."),
    "lora_dropout": (float, "Default 0."),
    "freeze_layers": (int, "Leave the embeddings and the first so many layers as they are. Default 0."),
    "seed": (int, "Of the order of the data, dropout and new adapters. Default 0."),
    "workers": (int, "Processes that read ahead. Default 1."),
    "eval_every": (int, "Steps between evaluations. Default: at the end."),
    "save_every": (int, "Steps between checkpoints. Default: at the end."),
    "keep_checkpoints": (int, "Default 2."),
    "log_to": ((str,), "tensorboard, wandb or trackio, also several; metrics.jsonl is always written."),
    "save_dtype": (str, "Of the final model: auto (default), fp32, bf16."),
}
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _options(function: _Command) -> _Command:
    """One flag a setting; what is not given is left to the settings' own defaults."""
    for name, (kind, text) in reversed(_OPTIONS.items()):
        flag = f"--{name.replace('_', '-')}"
        if kind is bool:
            function = click.option(flag, name, is_flag=True, default=None, help=text)(function)
        else:
            many = isinstance(kind, tuple)
            function = click.option(flag, name, type=kind[0] if many else kind, multiple=many, help=text)(function)
    return function


@click.command("sftdata-train", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@_options
@click.option("--config", metavar="FILE", help="YAML with the same names; flags win.")
@click.option("--plan", "plan_only", is_flag=True, help="Print steps, batch and predicted memory; train nothing.")
@click.option(
    "--format", "output", type=click.Choice(["human", "json"]), default="human", help="What to print at the end."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.version_option(package_name="sftdata")
def command(config: str | None, plan_only: bool, output: str, quiet: bool, **flags: Any) -> int:
    """Fine-tune a causal language model on packed shards, the loss on replies only."""
    from sftdata.config import read_yaml

    need("train", "torch", "transformers", "safetensors")
    from sftdata_torch.settings import build_settings

    options = read_yaml(config) if config else {}
    options.update({name: value for name, value in flags.items() if value not in (None, ())})
    settings = build_settings(options, where=config or "sftdata-train")
    if plan_only:
        from sftdata_torch.plan import make_plan

        plan = make_plan(settings)
        click.echo("\n".join(plan.lines()))
        return 0 if plan.fits[settings.mode] else 1
    from transformers.utils.logging import disable_progress_bar

    from sftdata_torch.loop import train

    disable_progress_bar()
    with _Bar(quiet=quiet) as bar:
        outcome = train(settings, watch=bar)
    if output == "json":
        click.echo(json.dumps({name: _plain(value) for name, value in outcome._asdict().items()}))
    elif outcome.finished:
        click.echo(f"{outcome.steps} steps; the model is in {outcome.model}")
    else:
        click.echo(f"stopped after step {outcome.steps}, saved in {outcome.checkpoint}: give the same command to go on")
    return 0 if outcome.finished else 128 + outcome.signal


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float)) or value is None else str(value)


class _Bar:
    """Loss, speed, memory and time left: a bar on a terminal, a line now and then elsewhere, on standard error."""

    _EVERY_SECONDS = 10.0

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._told = 0.0

    def __enter__(self) -> _Bar:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
        return self

    def step(self, done: int, total: int, values: dict[str, float]) -> None:
        """Show a step."""
        text = f"loss {values['train/loss']:.4f}  {values['tokens_per_second']:,.0f} tokens/s"
        if "peak_mem_gib" in values:
            text += f"  {values['peak_mem_gib']:.1f} GiB"
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(text, total=total, completed=done)
            self._bar.update(self._task, description=text, completed=done)
        elif not self._quiet and (done == total or time.monotonic() - self._told > self._EVERY_SECONDS):
            self._told = time.monotonic()
            click.echo(f"step {done} of {total}  {text}", err=True)

    def note(self, text: str) -> None:
        """Show what the user should know, even where quiet."""
        if self._bar is not None:
            self._bar.console.print(f"note: {text}", markup=False)
        else:
            click.echo(f"note: {text}", err=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
