"""What a run will need and do, before its first step: memory by part and mode, steps, batch, warm-up.

What lives here: arithmetic from a model's configuration and a manifest. What must not: loading weights, training.

Activations are those that a decoder of the Llama kind keeps for the backward pass, per token and layer, with hidden
size h, intermediate size i, query and key-value widths q and kv, and n heads (tests hold this against what torch
really saves):

    weights in float32, computing in bfloat16     26 h + 4 q + 4 kv + 8 i + 4 n + 8   bytes
    everything in one dtype of s bytes            s (2 h + 2 q + 2 kv + 4 i) + c h + 4 n + 8,
                                                  c = 16 for s = 4, 12 for s = 2

Norms work in float32, hence c; without a varlen kernel another copy of q is kept, and keys and values are as wide as
q. With checkpointing a layer keeps its input only, and one layer's set exists at a time.

A step's peak is one of three moments: logits at the head, with every layer's share kept; the last layer's set behind
it; the first layer's set with the gradients of all others.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch

from sftdata.errors import ConfigError, describe
from sftdata_torch.assemble import Schedule, schedule_of, split_weight
from sftdata_torch.dataset import PackedDataset
from sftdata_torch.modes import MODES, Mode
from sftdata_torch.optim import OPTIMIZERS
from sftdata_torch.settings import TrainSettings

__all__ = ["Memory", "ModelSize", "Plan", "activation_bytes", "make_plan", "model_size", "predict"]

_RESERVE = 0.08
"""Share of memory left for fragments, the context of the device, and what is not counted here."""


class ModelSize(NamedTuple):
    """What decides memory and time."""

    weights: int
    """All parameters; tied embeddings once."""
    matmul_weights: int
    """Those of linear layers, head included: each costs 6 operations a token."""
    layers: int
    hidden: int
    intermediate: int
    heads: int
    query: int
    """Width of all queries."""
    key_value: int
    vocabulary: int


class Memory(NamedTuple):
    """Bytes at the peak of a step."""

    weights: int
    optimizer: int
    gradients: int
    activations: int
    head: int
    """Logits of a chunk, the gradient of the head's weight, and its copy in the dtype of the products."""
    peak: int
    """Not the sum: without accumulation, gradients grow while activations go."""


class Plan(NamedTuple):
    """Everything that `--plan` prints."""

    size: ModelSize
    schedule: Schedule
    examples_per_step: float
    tokens_per_step: float
    targets_per_step: float
    micro_batch_tokens: int
    memory: dict[str, Memory]
    """By mode."""
    chosen: str
    available: int

    @property
    def fits(self) -> dict[str, bool]:
        """By mode: the peak is within the memory that there is, less a reserve."""
        return {mode: each.peak <= self.available * (1 - _RESERVE) for mode, each in self.memory.items()}

    def lines(self) -> list[str]:
        """The plan as text."""
        schedule = self.schedule
        unit, size = ("GiB", 30) if max(each.peak for each in self.memory.values()) >= 1 << 30 else ("MiB", 20)
        out = [
            f"{self.size.weights / 1e6:,.1f} M weights, {self.size.layers} layers, {self.size.vocabulary:,} tokens",
            f"{schedule.steps:,} steps ({schedule.steps_per_epoch:,} an epoch), {schedule.warmup:,} of warm-up",
            f"a step: {schedule.global_batch:,} bins of about {self.examples_per_step:,.0f} examples in all",
            f"a step: about {self.tokens_per_step:,.0f} tokens, {self.targets_per_step:,.0f} of them trained",
            f"a micro-batch: {self.micro_batch_tokens:,} tokens",
            f"{unit:<6}{''.join(f'{name:>12}' for name in Memory._fields)}",
        ]
        for mode, each in self.memory.items():
            mark = "" if self.fits[mode] else f"  does not fit into {self.available / 2**30:.1f} GiB"
            chosen = "  <- chosen" if mode == self.chosen else ""
            out.append(f"{mode:<6}{''.join(f'{value / 2**size:12,.2f}' for value in each)}{mark}{chosen}")
        return out


def model_size(address: str) -> ModelSize:
    """Of the model at `address`, from its configuration alone. Raises ConfigError where that cannot be read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(address)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(describe(f"the model's configuration cannot be read: {error}", where=address)) from error
    return size_of(model, config.get_text_config())


def size_of(model: torch.nn.Module, text: Any) -> ModelSize:
    """Of a model, on whatever device, and the configuration of its decoder."""
    tables = {module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    head = model.get_output_embeddings()  # type: ignore[operator]  # of transformers
    linear = {weight for weight in model.parameters() if weight.ndim == 2} - tables | {head.weight}
    heads = int(text.num_attention_heads)
    width = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    return ModelSize(
        weights=sum(weight.numel() for weight in model.parameters()),
        matmul_weights=sum(weight.numel() for weight in linear),
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        intermediate=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        heads=heads,
        query=heads * width,
        key_value=int(getattr(text, "num_key_value_heads", None) or heads) * width,
        vocabulary=int(text.vocab_size),
    )


def activation_bytes(size: ModelSize, *, itemsize: int, autocast: bool, kernel: bool) -> int:
    """What one layer keeps of one token; see the head of this file. `kernel`: attention is a varlen kernel."""
    query, key_value = size.query, size.key_value if kernel else size.query
    if autocast:
        copy = 0 if kernel else 2 * query
        return 26 * size.hidden + 4 * query + 4 * key_value + 8 * size.intermediate + 4 * size.heads + 8 + copy
    norms = 16 if itemsize == 4 else 12
    copy = 0 if kernel else itemsize * query
    kept = itemsize * (2 * size.hidden + 2 * query + 2 * key_value + 4 * size.intermediate)
    return kept + norms * size.hidden + 4 * size.heads + 8 + copy


def predict(
    size: ModelSize,
    mode: Mode,
    *,
    tokens: int,
    optimizer: str,
    accumulates: bool,
    cuda: bool,
    trained: int | None = None,
    shards: int = 1,
) -> Memory:
    """Peak of a step with micro-batches of `tokens` tokens; `trained` weights of all (None: all of them).

    Over `shards` ranks weights, gradients and states are divided; a layer, or what is no layer, is whole for a time.

    On a GPU weights are in float32 and products in bfloat16, or weights in bfloat16 for an optimizer that holds the
    missing bits; elsewhere all is float32.
    """
    master = OPTIMIZERS[optimizer].keeps_master and cuda
    itemsize, autocast = (2 if master else 4), cuda and not master
    trained = size.weights if trained is None else trained
    per_layer = tokens * activation_bytes(size, itemsize=itemsize, autocast=autocast, kernel=cuda)
    product = 2 if cuda else 4
    copies = product * size.matmul_weights if autocast and not mode.checkpointing else 0
    inputs = size.layers * tokens * size.hidden * itemsize
    ends = 2 * 4 * tokens * size.hidden  # what the body gives, and its gradient
    table = size.vocabulary * size.hidden
    table_gradient = 4 * table if trained == size.weights else 0
    head = (
        min(mode.chunk_bytes, tokens * size.vocabulary * (4 + (2 if cuda else 0)))
        + table_gradient
        + (product * table if autocast else 0)
    )
    gradients = itemsize * (table if mode.release else trained) // shards
    weights = itemsize * size.weights // shards
    states = round(OPTIMIZERS[optimizer].bytes_per_weight * trained) // shards
    whole = itemsize * max(table, (size.weights - table) // size.layers) if shards > 1 else 0
    if mode.checkpointing:
        activations = inputs + per_layer + ends
        moments = [inputs + ends + head, activations + table_gradient, per_layer + ends + gradients]
    else:
        activations = size.layers * per_layer + copies + ends
        moments = [activations + head, gradients]
    working = max(moments[:-1]) + gradients if accumulates else max(moments)
    return Memory(weights, states, gradients, activations, head, weights + states + whole + working)


def make_plan(settings: TrainSettings) -> Plan:
    """The plan of a run, from manifest and configuration. Raises ConfigError and ShardError as the run would."""
    parts = [PackedDataset(split_weight(each)[0], seed=settings.seed) for each in settings.shards]
    files = [file for part in parts for file in part.manifest.files[part.split]]
    bins = sum(file.rows for file in files)
    schedule = schedule_of(settings, parts)
    size = model_size(settings.model)
    cuda = torch.cuda.is_available()
    tokens = settings.micro_batch_size * max(int(part.manifest.config["max_length"]) for part in parts)
    trained = lora_weights(size, settings.lora_rank) if settings.lora_rank else None
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    memory = {
        name: predict(
            size,
            mode,
            tokens=tokens,
            optimizer=settings.optimizer,
            accumulates=schedule.global_batch > settings.micro_batch_size * processes,
            cuda=cuda,
            trained=trained,
            shards=processes if settings.parallel == "fsdp" else 1,
        )
        for name, mode in MODES.items()
    }
    share = schedule.global_batch / bins
    return Plan(
        size,
        schedule,
        share * sum(file.documents for file in files),
        share * sum(file.tokens for file in files),
        share * sum(file.loss_tokens for file in files),
        tokens,
        memory,
        settings.mode,
        _available(cuda),
    )


def lora_weights(size: ModelSize, rank: int) -> int:
    """Of adapters on every linear layer of a Llama-like body: `rank` times what goes in and out."""
    attention = (size.hidden + size.query) * 2 + (size.hidden + size.key_value) * 2
    return size.layers * rank * (attention + 3 * (size.hidden + size.intermediate))


def _available(cuda: bool) -> int:
    """Memory of this process's device, or of the machine."""
    if cuda:
        return int(torch.cuda.mem_get_info()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
