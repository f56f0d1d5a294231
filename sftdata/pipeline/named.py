"""The templates that a user names on the command line, with the tokens and arguments that they are to see.

What lives here: from a carried name, a file, literal source, a folder or a tokenizer to template sources, and to
compiled templates. What must not: asking them anything.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from sftdata.errors import ConfigError, describe
from sftdata.model_folder import named_tokens, own_templates
from sftdata.templates.builtin import BUILTIN
from sftdata.templates.environment import Template, compile_template
from sftdata.templates.origin import resolve_template
from sftdata.tokenizers import TokenizerFiles, load_files

__all__ = ["NamedTemplate", "compiled", "named_templates", "served_templates"]

STAND_INS = {"bos_token": "<s>", "eos_token": "</s>"}
"""What a template sees where no tokenizer says."""


class NamedTemplate(msgspec.Struct, frozen=True):
    """One template that was named, not yet compiled."""

    label: str
    """As the user named it; `FOLDER:NAME` for one of several."""
    name: str
    """`default`, `tool_use` and so on for a tokenizer's own; otherwise the label."""
    source: str
    special_tokens: dict[str, str]
    """The named tokens that it sees."""
    stand_ins: bool = False
    """Whether those are `STAND_INS`, for want of a tokenizer."""


def named_templates(named: str | None, tokenizer: str | None) -> list[NamedTemplate]:
    """All templates that `named` means; with None the tokenizer's own.

    `named` is a carried name, a .jinja file, a `tokenizer_config.json`, template source, a tokenizer's folder (all of
    its templates), a folder of .jinja files, or the name of one of the tokenizer's templates.

    Raises ConfigError where it means nothing, holds no template, or a file of it cannot be read.
    """
    files = None if tokenizer is None else load_files(tokenizer)
    if named is None:
        if files is None:
            raise ConfigError(describe("no template is named", fix="Name one, or a tokenizer with --tokenizer."))
        return _own(files.address, files.folder, files.config, named_tokens(files.config))
    path = Path(named).expanduser() if "{" not in named else None
    if path is not None and os.path.isdir(path):
        return _in_folder(named, path, files)
    if path is not None and path.suffix == ".json" and os.path.isfile(path):
        config = _read_config(path)
        return _own(named, None, config, _tokens(files, named_tokens(config)))
    origin = resolve_template(
        named, files.folder if files else None, files.config if files else {}, where=f"TEMPLATE {named}"
    )
    label = "(source)" if origin.kind == "inline" else named
    carried = BUILTIN.get(named) if origin.kind == "builtin" else None
    tokens = _tokens(files, {})
    if carried is not None:
        own = {"bos_token": carried.bos_token, "eos_token": carried.eos_token}
        tokens = {**{key: token for key, token in own.items() if token is not None}, **tokens}
    stand_ins = not tokens and files is None
    return [NamedTemplate(label, label, origin.sources["default"], tokens or dict(STAND_INS), stand_ins)]


def served_templates(named: str | None, tokenizer: str | None) -> dict[str, NamedTemplate]:
    """The templates among those named that serve records: `default`, and `tool_use` where there is one.

    Raises ConfigError where several are named and none is the default.
    """
    found = named_templates(named, tokenizer)
    if len(found) == 1:
        return {"default": found[0]}
    served = {one.name: one for one in found if one.name in ("default", "tool_use")}
    if "default" not in served:
        raise ConfigError(
            describe(
                f"it holds {len(found)} templates and none is the default",
                where=named or str(tokenizer),
                expected="one template",
                fix=f"Name a single one, such as {found[0].label}.",
            )
        )
    return served


def compiled(named: NamedTemplate, kwargs: dict[str, Any], clock: datetime.date) -> Template:
    """The template, ready to be asked. Raises TemplateSyntaxError, or ConfigError for an argument's name."""
    return compile_template(
        named.source, name=named.label, special_tokens=named.special_tokens, kwargs=kwargs, clock=clock
    )


def _tokens(files: TokenizerFiles | None, otherwise: dict[str, str]) -> dict[str, str]:
    return dict(otherwise) if files is None else named_tokens(files.config)


def _in_folder(named: str, folder: Path, files: TokenizerFiles | None) -> list[NamedTemplate]:
    """A tokenizer's folder, or one of loose templates."""
    config = _read_config(folder / "tokenizer_config.json")
    _, sources = own_templates(folder, config)
    if sources:
        return _own(named, folder, config, _tokens(files, named_tokens(config)))
    paths = sorted(folder.glob("*.jinja"))
    if not paths:
        raise ConfigError(
            describe(
                "the folder holds no chat template",
                where=named,
                expected="tokenizer_config.json with a chat_template, chat_template.jinja, or .jinja files",
                fix=f"Name a template: a .jinja file, or one of {', '.join(sorted(BUILTIN))}.",
            )
        )
    tokens = _tokens(files, {})
    shown = [str(Path(named) / path.name) for path in paths]
    return [
        NamedTemplate(label, path.stem, _read(path), tokens or dict(STAND_INS), not tokens)
        for label, path in zip(shown, paths, strict=True)
    ]


def _own(
    address: str, folder: str | Path | None, config: dict[str, Any], tokens: dict[str, str]
) -> list[NamedTemplate]:
    _, sources = own_templates(folder, config)
    if not sources:
        raise ConfigError(
            describe(
                "SFT301: the tokenizer has no chat template",
                where=address,
                fix=f"Name a template: a .jinja file, or one of {', '.join(sorted(BUILTIN))}.",
            )
        )
    several = len(sources) > 1
    return [
        NamedTemplate(f"{address}:{name}" if several else address, name, source, tokens)
        for name, source in sorted(sources.items(), key=lambda pair: (pair[0] != "default", pair[0]))
    ]


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(describe(f"not valid JSON: {error}", where=path.name)) from error
    if not isinstance(value, dict):
        raise ConfigError(describe("not a JSON object", where=path.name, expected="a tokenizer_config.json"))
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(describe(f"the file cannot be read: {error}", where=str(path))) from error
