"""What is served: the tokenizer, the template, and the tokens that end a turn, settled before anything is written.

What lives here: putting tokenizer files, template sources and options together, and refusing what cannot work (no
template, no stop token, a stop that is not one id). What must not: records, files of the output.
"""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import msgspec

from sftdata.config import PrepareConfig
from sftdata.errors import ConfigError, describe
from sftdata.model_folder import fingerprints
from sftdata.templates.builtin import BUILTIN
from sftdata.templates.contract import ServingOptions
from sftdata.templates.environment import Template, TemplateError, compile_template
from sftdata.templates.messages import ControlPolicy
from sftdata.templates.origin import TemplateOrigin, resolve_template
from sftdata.tokenizers import TokenizerFiles, Vocabulary, load_files, load_vocabulary

__all__ = ["Serving", "encoding_of", "settle_serving"]

_PROBE = ("Zq7vFirst", "Zq7vSecond", "Zq7vThird")


class Serving(msgspec.Struct):
    """A tokenizer and its templates, ready for use."""

    files: TokenizerFiles
    vocabulary: Vocabulary
    origin: TemplateOrigin
    templates: dict[str, Template]
    """`default`, and `tool_use` where there is one."""
    special_tokens: dict[str, str]
    """The named tokens as the template sees them: the tokenizer's, then the carried template's, then the flags."""
    stop_tokens: tuple[str, ...]
    options: ServingOptions
    notes: list[str]
    """What the user should know, such as a pad token that equals eos."""

    def stop_ids(self) -> list[int]:
        """Ids of the stop set, sorted."""
        return sorted({one for token in self.stop_tokens if (one := self.vocabulary.id_of(token)) is not None})

    def tokenizer_entry(self) -> dict[str, Any]:
        """The manifest's `tokenizer`, without the largest id used, which only the run knows."""
        ids = {
            name: self.vocabulary.id_of(self.special_tokens[f"{name}_token"])
            if f"{name}_token" in self.special_tokens
            else None
            for name in ("bos", "eos", "pad")
        }
        return {
            "sha256": self.files.sha256,
            "files": fingerprints(self.files.tokenizer_json, self.files.config, self.files.generation_eos),
            "encoding": encoding_of(self.vocabulary),
            "vocab_size": self.vocabulary.size,
            "bos_token": self.special_tokens.get("bos_token"),
            "eos_token": self.special_tokens.get("eos_token"),
            "pad_token": self.special_tokens.get("pad_token"),
            "bos_token_id": ids["bos"],
            "eos_token_id": ids["eos"],
            "pad_token_id": ids["pad"],
            "stop_tokens": list(self.stop_tokens),
            "stop_token_ids": self.stop_ids(),
        }

    def template_entry(self, config: PrepareConfig, clock: str) -> dict[str, Any]:
        """The manifest's `template`: source text, arguments and clock, not only a hash."""
        return {
            "origin": self.origin.kind,
            "name": self.origin.name,
            "sources": {name: template.source for name, template in sorted(self.templates.items())},
            "sha256": {name: template.sha256 for name, template in sorted(self.templates.items())},
            "kwargs": config.template_arg,
            "special_tokens": self.special_tokens,
            "clock": clock,
        }


def encoding_of(vocabulary: Vocabulary) -> str:
    """A hash of what decides ids: the same for files that were only written anew."""
    return hashlib.sha256(vocabulary.native_json.encode()).hexdigest()


def settle_serving(
    config: PrepareConfig, clock: str, loaded: tuple[TokenizerFiles, Vocabulary] | None = None
) -> Serving:
    """Load tokenizer and template and decide the stop set; `loaded` spares the loading where it was done before.

    Raises ConfigError where there is no template, no stop token at all, or a named token that is not one id.
    """
    files = loaded[0] if loaded else load_files(config.tokenizer)
    vocabulary = loaded[1] if loaded else load_vocabulary(files)
    origin = resolve_template(config.template, files.folder, files.config)
    named = dict(vocabulary.special_tokens)
    carried = BUILTIN.get(origin.name) if origin.kind == "builtin" else None
    if carried is not None:
        for key, token in (("bos_token", carried.bos_token), ("eos_token", carried.eos_token)):
            if token is not None and key not in named and vocabulary.id_of(token) is not None:
                named[key] = token
    for key, flag in (("bos_token", config.bos_token), ("eos_token", config.eos_token)):
        if flag is not None:
            _single_id(vocabulary, flag, f"--{key.replace('_', '-')}")
            named[key] = flag
    day = datetime.date.fromisoformat(clock)
    templates = {
        name: compile_template(
            source, name=f"{origin.name}:{name}", special_tokens=named, kwargs=config.template_arg, clock=day
        )
        for name, source in origin.sources.items()
    }
    stops = _stop_tokens(config, files, vocabulary, named, carried.stop_tokens if carried else ())
    control = _control_policy(config, vocabulary, templates["default"], stops)
    options = ServingOptions(
        stop_tokens=stops,
        special_tokens=tuple(one.content for one in vocabulary.special),
        control=control,
        eos_token=named.get("eos_token"),
        reasoning=config.reasoning,
        append_eos=config.append_eos,
        unroll=config.unroll,
        train_on=config.train_on,
        allow_dropped=frozenset(config.allow_dropped),
        strip_trailing_stop=config.strip_trailing_stop,
    )
    notes = _notes(named, vocabulary, templates)
    return Serving(files, vocabulary, origin, templates, named, stops, options, notes)


def _single_id(vocabulary: Vocabulary, token: str, flag: str) -> None:
    if vocabulary.id_of(token) is None:
        raise ConfigError(
            describe(
                f"SFT407: {token!r} is not one token of this tokenizer",
                where=flag,
                expected="an added token, which is always one id",
                fix="Add it to the tokenizer (add_special_tokens, then save_pretrained), or name another.",
            )
        )


def _stop_tokens(
    config: PrepareConfig,
    files: TokenizerFiles,
    vocabulary: Vocabulary,
    named: dict[str, str],
    carried: tuple[str, ...],
) -> tuple[str, ...]:
    """The stop set: tokenizer eos, the model's eos list, a carried template's own, what the user added."""
    by_id = {one.id: one.content for one in vocabulary.added}
    stops = [named["eos_token"]] if "eos_token" in named else []
    stops += [by_id[one] for one in files.generation_eos if one in by_id]
    stops += [token for token in carried if vocabulary.id_of(token) is not None]
    for token in config.stop:
        _single_id(vocabulary, token, "--stop")
    stops += config.stop
    stops = [token for token in dict.fromkeys(stops) if vocabulary.id_of(token) is not None]
    if not stops:
        added = ", ".join(repr(one.content) for one in vocabulary.special[:8]) or "none"
        raise ConfigError(
            describe(
                "SFT420: no stop token is known: the tokenizer names no eos that it has as one id",
                where=config.tokenizer,
                fix=f"Name what ends a reply with --eos-token or --stop. Its special tokens: {added}.",
            )
        )
    return tuple(stops)


def _control_policy(
    config: PrepareConfig, vocabulary: Vocabulary, template: Template, stops: tuple[str, ...]
) -> ControlPolicy:
    """Which spellings are control tokens: as transformers' `sanitize_control_tokens` decides it.

    All special tokens, and the other added tokens that the template's literals hold; of the latter, those that open
    or close turns may stand nowhere, the others (`<think>`, `<tool_call>`) may stand in replies.
    """
    literals = "\0".join(template.literals)
    special = [one.content for one in vocabulary.special]
    written = [
        one.content
        for one in vocabulary.added
        if not one.special and one.content in literals and not one.content.isspace()
    ]
    frame = _frame(template)
    turn_tokens = [token for token in written if token in frame]
    free = set(config.allow_control)
    everywhere = [token for token in dict.fromkeys([*special, *stops, *turn_tokens]) if token not in free]
    outside = [token for token in written if token not in free and token not in everywhere]
    return ControlPolicy(tuple(everywhere), tuple(outside), config.control_tokens)


def _frame(template: Template) -> str:
    """What the template writes before a first user turn and between a reply and the next user turn."""
    first, second, third = _PROBE
    chat = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": second},
        {"role": "user", "content": third},
    ]
    try:
        text = template.render(chat, tools=None, add_generation_prompt=False)
    except TemplateError:
        return ""
    before, _, rest = text.partition(first)
    between = rest.partition(second)[2].partition(third)[0]
    return f"{before}\0{between}"


def _notes(named: dict[str, str], vocabulary: Vocabulary, templates: dict[str, Template]) -> list[str]:
    notes = []
    if named.get("pad_token") is not None and named.get("pad_token") == named.get("eos_token"):
        notes.append(
            f"SFT404: pad and eos are the same token ({named['eos_token']!r}): a collator that masks padding by id "
            "would leave the stop untrained. Shards carry labels, so nothing here depends on it."
        )
    if any(template.uses_clock for template in templates.values()):
        notes.append("SFT310: the template reads the date; it sees --clock, which is part of the configuration.")
    if vocabulary.normal_forms:
        forms = ", ".join(vocabulary.normal_forms)
        notes.append(f"SFT416: the tokenizer normalises text ({forms}); replies that it changes are counted.")
    return notes
