"""Has what is served changed since the shards were made?

What lives here: comparing a sealed dataset's tokenizer and template with those of a folder or name. What must not:
looking into shards (`sftdata.shards.verify` does that).
"""

from __future__ import annotations

import difflib
from typing import Any

from sftdata.errors import ConfigError
from sftdata.shards import Problem, read_manifest
from sftdata.templates.origin import resolve_template
from sftdata.tokenizers import load_files, load_vocabulary

__all__ = ["drift"]

_SHOWN = 12


def drift(path: str, against: str) -> list[Problem]:
    """What differs between the dataset at `path` and the tokenizer `against`: SFT803 for ids, SFT312 for templates.

    The template is compared where it came from the tokenizer; a carried one or a file of the user's is not part of
    the tokenizer, and nothing can be said of it. Raises ConfigError where `against` cannot be loaded.
    """
    manifest = read_manifest(path)
    files = load_files(against)
    problems = _tokenizer(manifest.tokenizer, load_vocabulary(files), files.sha256, against)
    if manifest.template.get("origin") == "tokenizer":
        problems += _template(manifest.template, files.folder, files.config)
    return problems


def _tokenizer(sealed: dict[str, Any], vocabulary: Any, sha256: str, against: str) -> list[Problem]:
    if sealed["sha256"] == sha256:
        return []
    told = (
        f"{against} is not the tokenizer of this dataset (sha256 {sha256[:16]}…, sealed with {sealed['sha256'][:16]}…)"
    )
    if sealed["vocab_size"] != vocabulary.size:
        told += f"; it has {vocabulary.size} ids, the dataset's had {sealed['vocab_size']}"
    return [
        Problem("SFT803", "manifest.json", "tokenizer", told, "Prepare again, or serve the tokenizer it was made with.")
    ]


def _template(sealed: dict[str, Any], folder: str | None, config: dict[str, Any]) -> list[Problem]:
    try:
        now = resolve_template(None, folder, config).sources
    except ConfigError as error:
        return [Problem("SFT312", "manifest.json", "template", f"no template to compare with: {error}")]
    problems = []
    for name in sorted({*sealed["sources"], *now}):
        before, after = sealed["sources"].get(name, ""), now.get(name, "")
        if before != after:
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "sealed", "served", lineterm="", n=0)
            shown = "\n".join(list(lines)[:_SHOWN])
            told = f"the template {name!r} changed since the dataset was sealed:\n{shown}\n"
            fix = "Prepare again, or serve the template of the manifest."
            problems.append(Problem("SFT312", "manifest.json", f"template.{name}", told, fix))
    return problems
