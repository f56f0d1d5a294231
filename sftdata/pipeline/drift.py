"""Has what is served changed since the shards were made?

What lives here: comparing a sealed dataset with a tokenizer, its template and its arguments as they are now; whether
files that were written anew still mean the same; how many conversations a changed template renders otherwise. What
must not: looking into shards (`sftdata.shards.verify` does that).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec

from sftdata.model_folder import ModelFolder, own_templates, served_templates
from sftdata.pipeline.cases import cases
from sftdata.pipeline.compare import Side, compare
from sftdata.pipeline.serving import encoding_of
from sftdata.shards import Manifest, Problem, read_manifest, template_drift, tokenizer_drift
from sftdata.templates.builtin import BUILTIN
from sftdata.templates.environment import TemplateSyntaxError, compile_template
from sftdata.templates.origin import resolve_template
from sftdata.tokenizers import TokenizerFiles, load_files, load_vocabulary

__all__ = ["Drift", "drift"]


class Drift(msgspec.Struct):
    """What differs."""

    problems: list[Problem]
    """SFT803 for the tokenizer, SFT312 for template and arguments."""
    notes: list[str]
    """What is no fault, and good to know."""


def drift(
    path: str, against: str, *, template: str | None = None, template_arg: Mapping[str, Any] | None = None
) -> Drift:
    """Compare the dataset at `path` with the tokenizer `against`.

    The template that is served is `template`, else the tokenizer's own where the dataset's came from a tokenizer. A
    carried template is compared with the one carried now. `template_arg`, where given, are the arguments that serving
    passes; otherwise those of the dataset are taken for granted.

    Raises ConfigError where `against` or `template` cannot be loaded, ShardError where there is no dataset.
    """
    manifest = read_manifest(path)
    files = load_files(against)
    found = Drift([], [])
    _tokenizer(manifest, files, found)
    _template(manifest, files, template, found)
    _arguments(manifest, template_arg, found)
    return found


def _tokenizer(manifest: Manifest, files: TokenizerFiles, found: Drift) -> None:
    sealed = manifest.tokenizer
    parts = ModelFolder(files.tokenizer_json, files.config, files.generation_eos)
    problems = tokenizer_drift(sealed, parts, files.address)
    about_ids = [one for one in problems if one.place != "generation_config.json"]
    if about_ids:
        vocabulary = load_vocabulary(files)
        named = {name: vocabulary.special_tokens.get(name) for name in ("bos_token", "eos_token", "pad_token")}
        overridden = {key for key in named if manifest.config.get(key)}
        alike = all(sealed.get(key) == token for key, token in named.items() if key not in overridden)
        if alike and sealed.get("encoding") == encoding_of(vocabulary):
            problems = [one for one in problems if one not in about_ids]
            found.notes.append(f"the files of {files.address} were written anew, and give the same ids")
        elif sealed["vocab_size"] != vocabulary.size:
            told = f"; it has {vocabulary.size:,} ids, the dataset's had {sealed['vocab_size']:,}"
            worded = msgspec.structs.replace(about_ids[0], message=about_ids[0].message + told)
            problems = [worded if one is about_ids[0] else one for one in problems]
    found.problems += problems


def _template(manifest: Manifest, files: TokenizerFiles, template: str | None, found: Drift) -> None:
    sealed = manifest.template
    own = served_templates(own_templates(files.folder, files.config)[1])
    served: dict[str, str] | None = None
    if template is not None:
        served = resolve_template(template, files.folder, files.config).sources
    elif sealed.get("origin") == "tokenizer":
        served = own
    else:
        if sealed.get("origin") == "builtin" and sealed.get("name") in BUILTIN:
            served = {"default": BUILTIN[sealed["name"]].source()}
        if own and own != sealed["sources"]:
            told = f"{files.address} has a template of its own, which is not the dataset's"
            found.notes.append(f"{told}: serve with the one in the manifest, or name what is served with --template")
    if served is None:
        return
    problems = template_drift(sealed["sources"], served)
    if problems:
        effect = _effect(sealed, served)
        last = problems[-1]
        problems[-1] = msgspec.structs.replace(
            last, message=f"{last.message.rstrip()}\n{effect}\n" if effect else last.message
        )
    found.problems += problems
    if "strftime_now" in "".join(sealed["sources"].values()):
        found.notes.append(f"the template prints the date: the dataset's is {sealed['clock']}, a server prints today's")


def _effect(sealed: Mapping[str, Any], served: Mapping[str, str]) -> str:
    """How many of the built-in conversations are rendered otherwise; nothing where a template cannot be compiled."""
    tokens = {key: value for key, value in (sealed.get("special_tokens") or {}).items() if isinstance(value, str)}
    clock = datetime.date.fromisoformat(sealed["clock"])
    sides = []
    try:
        for label, sources in (("sealed", sealed["sources"]), ("served", served)):
            templates = {
                name: compile_template(
                    source, name=label, special_tokens=tokens, kwargs=sealed.get("kwargs") or {}, clock=clock
                )
                for name, source in sources.items()
            }
            sides.append(Side.of(label, templates, None))
    except TemplateSyntaxError as error:
        return f"what is served now is no template: {error.detail}"
    if any("default" not in side.templates for side in sides):
        return ""
    rows = list(compare(sides[0], sides[1], cases()))
    changed = [row for row in rows if row.outcome == "differs"]
    if not changed:
        return f"none of {len(rows)} built-in conversations is rendered otherwise"
    first = changed[0]
    told = f"{len(changed)} of {len(rows)} built-in conversations are rendered otherwise, first {first.name}"
    return "\n".join((f"{told}, {first.place}:", *first.lines))


def _arguments(manifest: Manifest, given: Mapping[str, Any] | None, found: Drift) -> None:
    sealed = manifest.template.get("kwargs") or {}
    if not given or dict(given) == sealed:
        return
    told = [
        f"{key} is {given.get(key, 'not given')!r} and was {sealed.get(key, 'not given')!r}"
        for key in sorted({*sealed, *given})
        if (key in sealed, sealed.get(key)) != (key in given, given.get(key))
    ]
    fix = "Prepare again with these arguments, or serve with those of the dataset."
    message = f"the template's arguments are others than the dataset's: {', '.join(told)}"
    found.problems.append(Problem("SFT312", "manifest.json", "template.kwargs", message, fix))
