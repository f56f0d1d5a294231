"""Is a model's folder still what a dataset was made with? From files and the manifest alone, without any tokenizer.

What lives here: comparing the manifest's fingerprints and template with those of a folder, part by part. What must
not: loading tokenizers, rendering (`sftdata.pipeline.drift` asks more with both).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sftdata.errors import ShardError, describe
from sftdata.model_folder import (
    ModelFolder,
    fingerprint,
    fingerprints,
    named_tokens,
    own_templates,
    read_model_folder,
    served_templates,
)
from sftdata.shards.faults import Problem
from sftdata.shards.layout import MANIFEST
from sftdata.shards.manifest import Manifest

__all__ = ["folder_drift", "refuse_drift", "template_drift", "tokenizer_drift"]

_LINES, _WIDTH, _AROUND = 12, 160, 40


def refuse_drift(path: str, manifest: Manifest, folder: str | os.PathLike[str]) -> None:
    """Raise ShardError where the model in `folder` would be served otherwise than the dataset at `path` was made."""
    problems = folder_drift(manifest, folder)
    if problems:
        told = "".join(f"\n{one.code} {one.place}: {one.message.strip()}" for one in problems)
        raise ShardError(describe(f"not made for {os.fspath(folder)}:{told}", where=path, fix=f"\n{problems[0].fix}"))


def folder_drift(manifest: Manifest, folder: str | os.PathLike[str]) -> list[Problem]:
    """What differs between a dataset and the files of a model's folder: SFT803 for ids and stops, SFT312 for templates.

    The folder's templates are compared where the dataset's own came from a tokenizer. Raises ConfigError where the
    folder has no tokenizer, or a malformed file.
    """
    files = read_model_folder(Path(folder))
    problems = tokenizer_drift(manifest.tokenizer, files, os.fspath(folder))
    if manifest.template.get("origin") == "tokenizer":
        _, sources = own_templates(Path(folder), files.config)
        problems += template_drift(manifest.template["sources"], served_templates(sources))
    return problems


def tokenizer_drift(sealed: Mapping[str, Any], files: ModelFolder, address: str) -> list[Problem]:
    """The parts of a tokenizer that are not those of the manifest's entry `sealed`."""
    whole = fingerprint(files.tokenizer_json, files.config, files.generation_eos)
    if sealed["sha256"] == whole:
        return []
    before = sealed.get("files")
    if not isinstance(before, dict):
        told = f"{address} is another tokenizer (sha256 {whole[:16]}…, the dataset's {sealed['sha256'][:16]}…)"
        return [_tokenizer("tokenizer", told)]
    now = fingerprints(*files)
    problems = []
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if before.get(name) != now[name]:
            hashes = f"sha256 {now[name][:16]}…, sealed {str(before.get(name))[:16]}…"
            told = f"{name} of {address} is not the dataset's ({hashes})"
            problems.append(_tokenizer(name, told + (_tokens(sealed, files) if name != "tokenizer.json" else "")))
    if before.get("generation_config.json") != now["generation_config.json"]:
        then, ids = (one.get("generation_config.json") or "none" for one in (before, now))
        told = f"the stop ids of generation_config.json are {ids}, and were {then} when the dataset was made"
        trained = f"; its replies end in {list(sealed['stop_token_ids'])}"
        problems.append(_tokenizer("generation_config.json", told + trained))
    return problems


def _tokenizer(place: str, told: str) -> Problem:
    return Problem("SFT803", MANIFEST, place, told, "Prepare again, or serve the tokenizer it was made with.")


def _tokens(sealed: Mapping[str, Any], files: ModelFolder) -> str:
    """Which of the named tokens are others."""
    now = named_tokens(files.config)
    names = [name for name in ("bos_token", "eos_token", "pad_token") if sealed.get(name) != now.get(name)]
    return "".join(f", {name} is {now.get(name)!r} and was {sealed.get(name)!r}" for name in names)


def template_drift(sealed: Mapping[str, str], served: Mapping[str, str]) -> list[Problem]:
    """The templates that are not those of the dataset, each with the lines that differ."""
    problems = []
    for name in sorted({*sealed, *served}):
        if name not in served:
            told = f"the dataset was made with the template {name!r}, and there is none now"
        elif name not in sealed:
            told = f"there is a template {name!r} now, which the dataset was not made with"
        elif sealed[name] != served[name]:
            shown = _difference(sealed[name], served[name])
            told = f"the template {name!r} changed since the dataset was made:\n{shown}\n"
        else:
            continue
        fix = "Prepare again, or serve the template that stands in the manifest."
        problems.append(Problem("SFT312", MANIFEST, f"template.{name}", told, fix))
    return problems


def _difference(sealed: str, served: str) -> str:
    """The changed lines; of very long ones the first difference with what stands around it."""
    found = difflib.unified_diff(sealed.splitlines(), served.splitlines(), "sealed", "served", lineterm="", n=0)
    lines = list(found)
    if lines and all(len(line) <= _WIDTH for line in lines):
        left = len(lines) - _LINES
        more = [f"… and {left:,} more lines"] if left > 0 else []
        return "\n".join([*map(_printable, lines[:_LINES]), *more])
    pairs = enumerate(zip(sealed, served, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(sealed), len(served)))
    around = slice(max(0, at - _AROUND), at + _AROUND)
    head = f"@@ character {at:,}, line {sealed.count(chr(10), 0, at) + 1:,} @@"
    return "\n".join((head, f"-{sealed[around]!r}", f"+{served[around]!r}"))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
