"""Golden vectors: prompts and replies with their exact ids, as prepare would train and a server should serve them.

    conversations ─► prompts and replies under the contract ─► ids

What lives here: the types, and deriving them. What must not: files of them (`golden_files`), servers (`serve_check`).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sftdata import formats
from sftdata.config import PrepareConfig, build_config
from sftdata.pipeline.cases import Case
from sftdata.pipeline.serving import Serving, settle_serving
from sftdata.records import Conversation, Rejection, Span, TextExample
from sftdata.rules import RULES
from sftdata.templates.contract import Contract, Unrolled
from sftdata.templates.environment import TemplateError
from sftdata.templates.rendering import prompt_turns, render_conversation
from sftdata.tokenizers import ReferenceEngine, load_files, load_vocabulary
from sftdata.tokenizers.exact import Exact

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "OPTIONS",
    "Golden",
    "GoldenCase",
    "GoldenTemplate",
    "GoldenTokenizer",
    "GoldenTurn",
    "decoder",
    "derive",
]

OPTIONS = (
    *("template_arg", "stop", "bos_token", "eos_token", "append_eos", "reasoning", "strip_trailing_stop"),
    *("control_tokens", "allow_control", "allow_dropped"),
)
"""Options of prepare that decide prompts, replies or ids; a golden file records those that were given."""


class GoldenTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One prompt of a conversation, and the reply that is trained behind it."""

    message: int
    """The index of the reply among the messages: that many messages are sent."""
    prompt: str
    prompt_ids: list[int]
    reply: str | None = None
    """What the model must emit, through its stop token; None where the conversation has none, or none is trained."""
    reply_ids: list[int] | None = None
    refused: str = ""
    """The rule for which prepare would reject the reply."""
    protected: bool = False
    """Whether content spells a control token, which these ids hold as ordinary characters."""


class GoldenCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One conversation."""

    name: str
    record: dict[str, Any]
    """In the format `messages`; empty where the input could not be read."""
    turns: list[GoldenTurn] = []
    refused: str = ""
    """The rule for which there is no prompt at all."""


class GoldenTokenizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tokenizer that vectors are of."""

    given: str
    """As the user wrote it."""
    sha256: str
    """Over its files, as in a manifest."""
    vocab_size: int
    stop_tokens: list[str]


class GoldenTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The template that vectors are of."""

    given: str | None
    """As the user wrote it; None: the tokenizer's own."""
    name: str
    sha256: dict[str, str]
    """Of each source, by name."""
    kwargs: dict[str, Any]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a golden file holds."""

    format: str
    format_version: int
    tokenizer: GoldenTokenizer
    template: GoldenTemplate
    clock: str | None
    """The day that the template saw; None where it does not ask for it."""
    options: dict[str, Any]
    conversations: list[GoldenCase]


FORMAT, FORMAT_VERSION = "sftdata golden vectors", 1


def _settle(options: dict[str, Any]) -> tuple[PrepareConfig, Serving, str | None]:
    """The configuration, the loaded tokenizer and template, and the clock (None where no template reads it).

    `options` are those of prepare. Raises ConfigError as prepare does.
    """
    config = build_config({**options, "inputs": ["-"], "out": "-", "max_length": 1 << 24}, where="golden")
    day = config.clock or datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    serving = settle_serving(config, day)
    reads = any(template.uses_clock for template in serving.templates.values())
    return config, serving, config.clock or (day if reads else None)


def derive(options: dict[str, Any], cases: Iterable[Case]) -> Golden:
    """The golden vectors of `cases`. The same options and cases give the same vectors on any machine and day.

    Raises ConfigError where tokenizer or template cannot be used.
    """
    config, serving, clock = _settle(options)
    entry = serving.template_entry(config, clock or "")
    tokenizer = serving.tokenizer_entry()
    maker = _Maker(serving)
    return Golden(
        FORMAT,
        FORMAT_VERSION,
        GoldenTokenizer(config.tokenizer, tokenizer["sha256"], tokenizer["vocab_size"], tokenizer["stop_tokens"]),
        GoldenTemplate(config.template, entry["name"], entry["sha256"], entry["kwargs"]),
        clock,
        {key: options[key] for key in OPTIONS if options.get(key) not in (None, (), [], {}, False)},
        [maker.case(one) for one in cases],
    )


def decoder(golden: Golden, tokenizer: str | None = None) -> Callable[[Sequence[int]], str]:
    """What turns ids into text, by the tokenizer that the vectors are of, or by one that is named instead.

    Raises ConfigError where it cannot be loaded.
    """
    engine = ReferenceEngine(load_vocabulary(load_files(tokenizer or golden.tokenizer.given)))
    return lambda ids: engine.decode([ids])[0]


class _Maker:
    """Makes vectors under one tokenizer and template."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._contract = Contract(serving.templates, serving.options)
        eos = serving.special_tokens.get("eos_token")
        self._exact = Exact(
            serving.vocabulary,
            ReferenceEngine(serving.vocabulary),
            stop_ids=frozenset(serving.stop_ids()),
            eos_id=None if eos is None else serving.vocabulary.id_of(eos),
        )

    def case(self, case: Case) -> GoldenCase:
        conversation = case.conversation
        if conversation is None:
            return GoldenCase(case.name, {}, refused=case.problem)
        record = formats.to_messages(conversation)
        unrolled = self._contract.unroll_in_full(conversation)
        turns = dict(self._replies(unrolled)) if isinstance(unrolled, Unrolled) else {}
        left = [turn for turn in prompt_turns(conversation) if turn not in turns]
        if left:
            prompts = self._prompts(conversation, left, _code(unrolled))
            if isinstance(prompts, TemplateError):
                return GoldenCase(case.name, record, refused=prompts.code)
            turns |= prompts
        return GoldenCase(case.name, record, [turns[turn] for turn in sorted(turns)])

    def _replies(self, unrolled: Unrolled) -> Iterator[tuple[int, GoldenTurn]]:
        for example in unrolled.examples:
            for span in example.spans:
                yield span.message, self._reply(example, span)

    def _reply(self, example: TextExample, span: Span) -> GoldenTurn:
        text, markers = example.text, example.markers
        encoded = self._exact.encode(TextExample(text[: span.stop], (span,), markers=markers))
        prompt, reply = text[: span.start], text[span.start : span.stop]
        if isinstance(encoded, Rejection):
            return self._prompt(span.message, prompt, markers, encoded.findings[0].code)
        ids = encoded[0].ids.tolist()
        start, stop = encoded[0].spans[0]
        shown = _bare(prompt, markers), _bare(reply, markers)
        return GoldenTurn(
            span.message,
            shown[0],
            ids[:start],
            shown[1],
            ids[start:stop],
            protected=shown[0] != prompt or shown[1] != reply,
        )

    def _prompts(
        self, conversation: Conversation, turns: list[int], refused: str
    ) -> dict[int, GoldenTurn] | TemplateError:
        """Vectors without a reply: it is not trained, refused, or still to come."""
        name = "tool_use" if conversation.tools and "tool_use" in self._serving.templates else "default"
        policy = self._serving.options.control
        rendered = render_conversation(self._serving.templates[name], conversation, policy=policy)
        if isinstance(rendered, TemplateError):
            return rendered
        replied = len(conversation.messages)
        return {
            turn: self._prompt(turn, prompt, rendered.markers, refused if turn < replied else "")
            for turn, prompt in rendered.prompts
            if turn in turns
        }

    def _prompt(self, turn: int, prompt: str, markers: str, refused: str) -> GoldenTurn:
        encoded = self._exact.encode(TextExample(prompt, (), "everything", markers))
        shown = _bare(prompt, markers)
        if isinstance(encoded, Rejection):
            return GoldenTurn(turn, shown, [], refused=encoded.findings[0].code, protected=True)
        return GoldenTurn(turn, shown, encoded[0].ids.tolist(), refused=refused, protected=shown != prompt)


def _code(unrolled: Unrolled | Rejection) -> str:
    """The rule of a rejection that decided it."""
    if isinstance(unrolled, Unrolled):
        return ""
    return next(one.code for one in unrolled.findings if RULES[one.code].severity == "error")


def _bare(text: str, markers: str) -> str:
    return text.translate(dict.fromkeys(map(ord, markers))) if markers else text
