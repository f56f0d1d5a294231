"""Where a chat template comes from: what the user named, else the tokenizer's own files, in transformers' order.

What lives here: finding and reading template sources. What must not: compiling or rendering them, and special
tokens (`sftdata.tokenizers`).

Of a tokenizer's several templates (`sftdata.model_folder` reads them) the one named `tool_use` serves records with
tools, and `default` all others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from sftdata.errors import ConfigError, describe, nearest
from sftdata.model_folder import own_templates, read_template, served_templates
from sftdata.templates.builtin import BUILTIN

__all__ = ["TemplateOrigin", "resolve_template"]


class TemplateOrigin(msgspec.Struct, frozen=True):
    """Which template was chosen, and its source."""

    kind: Literal["builtin", "file", "inline", "tokenizer"]
    """Carried by the package, a file of the user's, source given in place, or one of the tokenizer's own."""
    name: str
    """The carried template's name, the file's name, or the tokenizer's file that held it; never a whole path."""
    sources: dict[str, str]
    """`default`, and `tool_use` where records with tools have a template of their own."""
    available: tuple[str, ...] = ()
    """All names among which the tokenizer has a choice."""


def resolve_template(
    named: str | None, folder: str | Path | None, config: Mapping[str, Any], *, where: str = ""
) -> TemplateOrigin:
    """The template that `named` means, or the tokenizer's own where it is None.

    `named` is a file, the name of one of the tokenizer's templates, the name of a carried one, or template source;
    `folder` is the tokenizer's and `config` its `tokenizer_config.json`. `where` is how an error names the place.

    Raises ConfigError where there is none, the name means nothing, or a file of it cannot be read.
    """
    if named is None:
        return _own(folder, config)
    if "{{" in named or "{%" in named:
        return TemplateOrigin("inline", "inline", {"default": named})
    path = Path(named).expanduser()
    if os.path.isfile(path):  # source given in place may be too long for a name, which Path.is_file raises for
        return TemplateOrigin("file", path.name, {"default": read_template(path)})
    place, sources = own_templates(folder, config)
    if named in sources:
        return TemplateOrigin("tokenizer", place, {"default": sources[named]}, tuple(sorted(sources)))
    if named in BUILTIN:
        return TemplateOrigin("builtin", named, {"default": BUILTIN[named].source()})
    hint = nearest(named, [*BUILTIN, *sources])
    raise ConfigError(
        describe(
            "no such template",
            where=(where or f"--template {named}")[:200],
            expected="a file, one of the tokenizer's templates, or a carried one",
            fix=f"{hint[0].upper()}{hint[1:]}",
        )
    )


def _own(folder: str | Path | None, config: Mapping[str, Any]) -> TemplateOrigin:
    place, sources = own_templates(folder, config)
    served = served_templates(sources)
    if "default" in served:
        return TemplateOrigin("tokenizer", place, served, tuple(sorted(sources)))
    if sources:
        raise ConfigError(
            describe(
                f"several chat templates and none is the default: {', '.join(sorted(sources))}",
                where=place,
                fix=f"Name one, for example --template {min(sources)}.",
            )
        )
    raise ConfigError(
        describe(
            "SFT301: the tokenizer has no chat template",
            where=str(folder) if folder else "tokenizer",
            fix=f"Pass one with --template: a .jinja file, or one of {', '.join(sorted(BUILTIN))}.",
        )
    )
