"""Files of golden vectors: writing and reading them, and saying what moved since one was written.

What lives here: the text of such a file, and its comparison with vectors derived again. What must not: deriving them
(`golden`), printing.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sftdata.errors import ConfigError, describe
from sftdata.pipeline.cases import case_of
from sftdata.pipeline.golden import FORMAT, FORMAT_VERSION, Golden, GoldenCase, GoldenTurn, decoder, derive
from sftdata.report.difference import ids_difference, text_difference

__all__ = ["Moved", "derive_again", "dump", "moved", "options_of", "read"]

Decode = Callable[[Sequence[int]], str]


def dump(golden: Golden) -> str:
    """The file's text: JSON in ASCII, a turn on a line, so that a version control system shows what moved."""
    head = msgspec.to_builtins(golden)
    cases = head.pop("conversations")
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    return "\n".join(["{", *lines, ' "conversations": [', ",\n".join(map(_dump_case, cases)), " ]", "}", ""])


def _dump_case(case: dict[str, Any]) -> str:
    turns = case.pop("turns", [])
    head = ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in case.items())
    if not turns:
        return f"  {{{head}}}"
    listed = ",\n".join(f"    {json.dumps(turn)}" for turn in turns)
    return f'  {{{head}, "turns": [\n{listed}\n  ]}}'


def read(path: str) -> Golden:
    """A golden file. Raises ConfigError where it is none."""
    fix = "Write it with sftdata template golden --out FILE."
    try:
        value = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(describe(f"the file cannot be read: {error.strerror}", where=path)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(describe(f"not valid JSON: {error}", where=path, fix=fix)) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ConfigError(describe("not a file of golden vectors", where=path, fix=fix))
    if value.get("format_version") != FORMAT_VERSION:
        found = value.get("format_version")
        raise ConfigError(describe(f"format version {found!r}", where=path, expected=str(FORMAT_VERSION), fix=fix))
    try:
        golden = msgspec.convert(value, Golden)
    except msgspec.ValidationError as error:
        raise ConfigError(describe(f"not a file of golden vectors: {error}", where=path, fix=fix)) from error
    for case in golden.conversations:
        if case.turns and not _is_chat(case):
            raise ConfigError(describe(f"the record of {case.name!r} is no chat with these turns", where=path, fix=fix))
    return golden


def _is_chat(case: GoldenCase) -> bool:
    """Whether the record has the messages that the turns are about."""
    conversation = case_of(case.name, case.record).conversation
    return conversation is not None and all(0 < turn.message <= len(conversation.messages) for turn in case.turns)


def options_of(golden: Golden) -> dict[str, Any]:
    """The options that it was made with."""
    given = {"tokenizer": golden.tokenizer.given, "template": golden.template.given, "clock": golden.clock}
    return {**golden.options, **{key: value for key, value in given.items() if value is not None}}


class Moved(msgspec.Struct, frozen=True):
    """One thing that is not what the file says."""

    what: str
    lines: tuple[str, ...] = ()
    """The first difference in its context."""


def derive_again(golden: Golden, options: dict[str, Any]) -> Golden:
    """The vectors of the same records with today's tokenizer and template; `options` win over the file's."""
    again = [case_of(one.name, one.record) for one in golden.conversations if one.record]
    made = derive({**options_of(golden), **options}, again)
    renewed = iter(made.conversations)
    cases = [next(renewed) if one.record else one for one in golden.conversations]
    return msgspec.structs.replace(made, conversations=cases)


def moved(before: Golden, after: Golden) -> list[Moved]:
    """Everything that differs between a file and what was derived from its records; nothing where all is the same."""

    @functools.cache
    def loaded() -> Decode:
        return decoder(after)  # this takes seconds for a large vocabulary, and mostly nothing moved

    def decode(ids: Sequence[int]) -> str:
        return loaded()(ids)

    out = list(_headers(before, after))
    for old, new in zip(before.conversations, after.conversations, strict=True):
        if old.refused != new.refused:
            told = (f"  file  {old.refused or 'rendered'}", f"  now   {new.refused or 'rendered'}")
            out.append(Moved(f"{old.name}: rendered or refused", told))
            continue
        news = {turn.message: turn for turn in new.turns}
        for turn in old.turns:
            if turn.message not in news:
                out.append(Moved(f"{old.name}: there is no prompt of message {turn.message + 1} now"))
                continue
            out += _moved_turn(f"{old.name}, message {turn.message + 1}", turn, news[turn.message], decode)
    return out


def _headers(before: Golden, after: Golden) -> Iterator[Moved]:
    pairs = (
        ("the tokenizer's files", before.tokenizer.sha256, after.tokenizer.sha256),
        ("the template's source", before.template.sha256, after.template.sha256),
        ("the template's arguments", before.template.kwargs, after.template.kwargs),
        ("the stop tokens", before.tokenizer.stop_tokens, after.tokenizer.stop_tokens),
        ("the clock", before.clock, after.clock),
    )
    for what, old, new in pairs:
        if old != new:
            yield Moved(what, (f"  file  {json.dumps(old)}", f"  now   {json.dumps(new)}"))


def _moved_turn(where: str, old: GoldenTurn, new: GoldenTurn, decode: Decode) -> Iterator[Moved]:
    """The first thing of a turn that moved; what follows from it is not told again."""
    names = ("file", "now")
    for what, a, b in (("prompt", old.prompt, new.prompt), ("reply", old.reply, new.reply)):
        if a != b:
            lines = text_difference(a or "", b or "", names)
            yield Moved(f"{where}: text of the {what}", tuple(lines))
            return
    for what, one, other in (
        ("prompt", old.prompt_ids, new.prompt_ids),
        ("reply", old.reply_ids or [], new.reply_ids or []),
    ):
        if one != other:
            yield Moved(f"{where}: ids of the {what}", tuple(ids_difference(one, other, decode, names)))
            return
    if (old.refused, old.protected) != (new.refused, new.protected):
        told = (f"  file  {old.refused or 'trained'}", f"  now   {new.refused or 'trained'}")
        yield Moved(f"{where}: trained or refused", told)
