"""One configuration for a run, from YAML or flags; every unknown key is an error that names the nearest.

What lives here: the options of `prepare`, their defaults, their checks that need no file, and reading YAML. What must
not: what any option does.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import yaml

from sftdata.errors import ConfigError, describe, nearest

__all__ = ["PrepareConfig", "SourceOptions", "build_config", "read_yaml"]


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One source of a mixture: an entry of `sources:`."""

    inputs: tuple[str, ...]
    weight: float | None = None
    """Its part of the mixture, in any unit; all sources have one, or none."""
    epochs: float = 1.0
    """How often it may be taken at most."""
    max_records: int | None = None
    """How many records may be taken at most, all passes together."""


class PrepareConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that `prepare` can be told. Names are those of the flags, with `_` for `-`."""

    inputs: tuple[str, ...]
    out: str
    tokenizer: str
    max_length: int
    template: str | None = None
    template_arg: dict[str, Any] = {}
    reasoning: str = "reject"
    append_eos: bool = False
    unroll: str = "all"
    clock: str | None = None
    packing: str = "best-fit"
    input_format: str = "auto"
    columns: dict[str, str] = {}
    roles: dict[str, str] = {}
    dataset_info: str | None = None
    train_on: str = "replies"
    overlong: str = "reject"
    stop: tuple[str, ...] = ()
    strip_trailing_stop: bool = False
    bos_token: str | None = None
    eos_token: str | None = None
    control_tokens: str = "text"
    allow_control: tuple[str, ...] = ()
    allow_dropped: tuple[str, ...] = ()
    allow_normalised: bool = False
    engine_tokenizer: str = "auto"
    engine_sample: float = 0.01
    eval: str | None = None
    drop: str | None = None
    sources: dict[str, SourceOptions] = {}
    stats: str | None = None
    seed: int = 0
    max_reject_rate: float = 0.05
    workers: int = 1
    engine: str = "local"
    fresh: bool = False

    def content(self) -> dict[str, Any]:
        """The options that decide the bytes of a dataset: all but where things lie and who does the work."""
        rest = msgspec.to_builtins(self)
        for key in _WHERE_AND_WHO:
            rest.pop(key)
        for source in rest["sources"].values():
            source.pop("inputs")
        if not rest["sources"]:
            rest.pop("sources")  # so that a dataset without a mixture says nothing of one
        ordered: dict[str, Any] = dict(sorted(rest.items()))
        return ordered


_WHERE_AND_WHO = (
    *("inputs", "out", "workers", "engine", "fresh", "max_reject_rate"),
    *("tokenizer", "template", "dataset_info", "drop", "stats", "clock"),
)
"""Options that change no byte, or whose content (not their address) is fingerprinted by itself."""

CHOICES: dict[str, tuple[str, ...]] = {
    "reasoning": ("reject", "empty"),
    "unroll": ("all", "last", "refuse"),
    "packing": ("best-fit", "sequential", "none"),
    "input_format": ("auto", "alpaca", "sharegpt", "messages", "pairs", "prompt-completion", "text"),
    "train_on": ("replies", "last", "everything"),
    "overlong": ("reject", "drop-turns", "truncate", "split"),
    "control_tokens": ("text", "reject", "allow"),
    "engine_tokenizer": ("auto", "fast", "reference"),
    "engine": ("local", "ray"),
}
"""The words that an option takes; the command line shows the same."""

_FIELDS = ("system", "tools", "tool_calls", "tool_results", "reasoning", "content", "user", "name", "tool_call_id")


def read_yaml(path: str) -> dict[str, Any]:
    """The options of a YAML file; flags that are given as well win over them.

    Keys may be written with `-` or `_`. Raises ConfigError for what is not a mapping, or not YAML.
    """
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(describe(f"the file cannot be read: {error.strerror}", where=path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(describe(f"not valid YAML: {error}", where=path)) from error
    if not isinstance(value, dict):
        raise ConfigError(describe("not a mapping", where=path, expected="one option a line, such as max-length: 4096"))
    return {str(key).replace("-", "_"): one for key, one in value.items()}


def build_config(options: dict[str, Any], *, where: str = "configuration") -> PrepareConfig:
    """Check `options` and make the configuration of them.

    Raises ConfigError for an unknown key (naming the nearest), a missing one, a wrong type or a value out of range.
    """
    known = get_type_hints(PrepareConfig)
    for key in options:
        if key not in known:
            raise ConfigError(describe(f"unknown option {key!r}", where=where, fix=nearest(key, known)))
    if options.get("sources"):
        options = _with_sources(options, where)
    for key, why in _REQUIRED.items():
        if options.get(key) in (None, (), []):
            raise ConfigError(describe(f"{key.replace('_', '-')} is missing", where=where, fix=why))
    cleaned = {key: _as_written(key, value, known) for key, value in options.items() if value is not None}
    try:
        config = msgspec.convert(cleaned, PrepareConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(describe(f"wrong value: {error}", where=where)) from error
    for key, words in CHOICES.items():
        if getattr(config, key) not in words:
            raise ConfigError(
                describe(f"{key} is {getattr(config, key)!r}", where=where, expected=f"one of {', '.join(words)}")
            )
    _check_ranges(config, where)
    return config


_REQUIRED = {
    "inputs": "Name at least one file, folder, glob or address.",
    "tokenizer": "Use --tokenizer with builtin, a tokenizer.json, a folder or a hub name.",
    "max_length": "Use --max-length: there is no default, as every default would cut somebody's data.",
    "out": "Use --out DIR.",
}


def _with_sources(options: dict[str, Any], where: str) -> dict[str, Any]:
    """`options` with the inputs of all sources, in their order, as the inputs."""
    if options.get("inputs"):
        raise ConfigError(
            describe("both inputs and sources are given", where=where, fix="Name every input in a source.")
        )
    if not isinstance(options["sources"], dict):
        raise ConfigError(
            describe(
                "sources is no mapping", where=where, expected="names, such as sources: {chat: {inputs: chat.jsonl}}"
            )
        )
    known = get_type_hints(SourceOptions)
    sources: dict[str, dict[str, Any]] = {}
    for name, given in options["sources"].items():
        here = f"{where}: sources: {name}"
        if not isinstance(given, dict):
            raise ConfigError(describe("not a mapping", where=here, expected="inputs, and weight, epochs, max-records"))
        one = {str(key).replace("-", "_"): value for key, value in given.items()}
        for key in one:
            if key not in known:
                raise ConfigError(describe(f"unknown option {key!r}", where=here, fix=nearest(key, known)))
        one["inputs"] = [one["inputs"]] if isinstance(one.get("inputs"), str) else list(one.get("inputs") or [])
        if not one["inputs"]:
            raise ConfigError(describe("inputs is missing", where=here, fix=_REQUIRED["inputs"]))
        sources[str(name)] = one
    return {**options, "sources": sources, "inputs": [path for one in sources.values() for path in one["inputs"]]}


def _as_written(key: str, value: Any, known: dict[str, Any]) -> Any:
    """YAML writes dates, numbers and single words where an option is text or a list."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    takes_list = known[key] == tuple[str, ...]
    if takes_list and isinstance(value, str):
        return [value]
    takes_text = known[key] is str or str in get_args(known[key])
    if takes_text and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return value


def _check_ranges(config: PrepareConfig, where: str) -> None:
    if config.max_length < 2:
        raise ConfigError(describe(f"max-length is {config.max_length}", where=where, expected="at least 2 tokens"))
    if not 0 <= config.max_reject_rate <= 1:
        raise ConfigError(
            describe(f"max-reject-rate is {config.max_reject_rate}", where=where, expected="a share from 0 to 1")
        )
    if not 0 <= config.engine_sample <= 1:
        raise ConfigError(
            describe(f"engine-sample is {config.engine_sample}", where=where, expected="a share of records, 0 to 1")
        )
    if config.workers < 1:
        raise ConfigError(describe(f"workers is {config.workers}", where=where, expected="at least 1"))
    if config.workers > 1 and config.engine == "ray":
        raise ConfigError(
            describe("workers is for the local engine", where=where, fix="Leave it out: Ray uses the cluster's CPUs.")
        )
    if config.clock is not None:
        try:
            datetime.date.fromisoformat(config.clock)
        except ValueError as error:
            raise ConfigError(
                describe(f"clock is {config.clock!r}", where=where, expected="a date such as 2026-01-31")
            ) from error
    for field in config.allow_dropped:
        if field not in _FIELDS:
            raise ConfigError(describe(f"allow-dropped names {field!r}", where=where, fix=nearest(field, _FIELDS)))
    for name, one in config.sources.items():
        for key, value in (("weight", one.weight), ("epochs", one.epochs), ("max-records", one.max_records)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(describe(f"{key} of {name} is {value}", where=where, expected="a number above 0"))
    if config.stats is not None and not config.sources:
        raise ConfigError(describe("stats is given without sources", where=where, expected="a mixture to weigh"))
    if config.eval is not None:
        eval_share(config.eval, records=1_000_000, where=where)


def eval_share(text: str, *, records: int, where: str = "configuration") -> float:
    """The share of records that `--eval` sets aside: `"0.02"` is 0.02; `"500"` of 10,000 records is 0.05.

    Raises ConfigError for anything that is neither a fraction below 1 nor a whole number of records.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value <= 0 or (value >= 1 and value != int(value)):
        raise ConfigError(
            describe(f"eval is {text!r}", where=where, expected="a fraction such as 0.02, or a number of records")
        )
    return value if value < 1 else min(1.0, value / max(records, 1))
