"""The serving contract: every trained reply stands behind exactly the prompt that a server would render.

For every trained assistant turn k the prompt P_k = render(m1..mk-1, add_generation_prompt=True) and the rendered turn
F_k = render(m1..mk) are compared; the reply R_k is what the model must emit after P_k, through its stop token. As
long as P_k+1 begins with P_k R_k the turns share one example; where it does not (the template rewrites history), a
new example starts. No table of model names: the template itself decides, and what cannot be decided is refused.

What lives here: that chain. `turns` finds one prompt and its reply, `reply` compares texts, `kept` looks for what a
template loses, `messages` builds what a template reads. What must not: ids, files, raw records.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sftdata.records import Conversation, Finding, Rejection, Span, TextExample
from sftdata.templates.environment import Template, TemplateError
from sftdata.templates.lint import read_arguments
from sftdata.templates.messages import (
    VARIANTS,
    Chat,
    Variant,
    control_pattern,
    prepare_chat,
    prints_escaped,
    prints_null,
    protect_text,
    spells_control,
)
from sftdata.templates.program import Program, build_program, contents_of, shape_of, symbolic
from sftdata.templates.reply import common_prefix
from sftdata.templates.trace import CLOSE, OPEN, Question, TracedTemplate, Untraceable
from sftdata.templates.turns import ServingOptions, TurnReader

__all__ = ["Contract", "ServingOptions", "Unrolled"]

_UNDEFINED = re.compile(r"'(\w+)' is undefined")
_SAID = 160
"""Characters of a template's own words that a remedy quotes."""
_PARTS = re.compile(r"\btext\b")
"""What a template that reads content as a list of parts cannot do without."""


class Unrolled(msgspec.Struct, frozen=True):
    """The examples of one conversation."""

    examples: tuple[TextExample, ...]
    findings: tuple[Finding, ...]
    breaks: tuple[str, ...]
    """For every example but the first: what its prompt changed of the text so far, as a short excerpt."""
    untrained: int = 0
    """Replies that `--unroll last` leaves untrained."""


class Contract:
    """Turns conversations into examples under one template. Keeps what it learned about the template; not
    thread-safe."""

    def __init__(self, templates: Mapping[str, Template], options: ServingOptions) -> None:
        """`templates`: by name; `tool_use` serves records with tools where there is one, else `default`."""
        self._templates = dict(templates)
        self._options = options
        longest = sorted(filter(None, options.special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest)) or "(?!)")
        self._turns: dict[tuple[str, str], TurnReader] = {}
        self._control = control_pattern(options.control, "user")
        self._programs = Programs(self)

    def unroll(self, conversation: Conversation) -> Unrolled | Rejection:
        """The examples of `conversation`, or why there are none. Never raises for what the data or template does."""
        if conversation.text is not None:
            return self._text(conversation.text)
        return self._programs.unroll(conversation) or self.unroll_in_full(conversation)

    def unroll_in_full(self, conversation: Conversation) -> Unrolled | Rejection:
        """The contract itself, for a chat: every prompt and every turn rendered."""
        trained, findings = trained_turns(conversation, self._options.train_on)
        if not trained and self._options.train_on != "everything":
            return Rejection((*findings, _UNTRAINED))
        conversation, problem, notes = self._without_trailing_stops(conversation, trained)
        if problem is not None:
            return Rejection((problem,))
        name = "tool_use" if conversation.tools and "tool_use" in self._templates else "default"
        kwargs = conversation.template_kwargs or {}  # they win over --template-arg, which the template brings along
        return self._first_that_renders(conversation, trained, findings + notes, name, kwargs)

    def _first_that_renders(
        self,
        conversation: Conversation,
        trained: Sequence[int],
        findings: tuple[Finding, ...],
        name: str,
        kwargs: Mapping[str, Any],
    ) -> Unrolled | Rejection:
        """Try the variants of `messages.VARIANTS` until the template renders one."""
        has_calls = any(message.tool_calls for message in conversation.messages)
        lacks_content = any(message.content is None for message in conversation.messages)
        has_inline = any(message.inline is not None for message in conversation.messages)
        reads_parts = _PARTS.search(self._templates[name].source) is not None
        choices = [
            place
            for place, variant in enumerate(VARIANTS)
            if (lacks_content or variant.no_content == "absent")
            and (has_calls or not variant.text_arguments)
            and (has_inline or not variant.inline_reasoning)
            and (reads_parts or not variant.parts)
        ]
        first: Rejection | None = None
        for place in choices:
            outcome = self._with_variant(conversation, trained, findings, name, kwargs, VARIANTS[place])
            if isinstance(outcome, Unrolled):
                return outcome
            code = outcome.findings[-1].code
            if code not in _RETRIED:
                return outcome
            if first is None or _tells(outcome) > _tells(first):
                first = outcome
        assert first is not None
        return first

    def _with_variant(
        self,
        conversation: Conversation,
        trained: Sequence[int],
        findings: tuple[Finding, ...],
        name: str,
        kwargs: Mapping[str, Any],
        variant: Variant,
    ) -> Unrolled | Rejection:
        chat = prepare_chat(conversation, self._options.control, variant)
        findings += chat.findings
        if any(finding.code == "SFT405" for finding in chat.findings):
            return Rejection(findings)
        template = self._templates[name]
        reader = self._reader(template, kwargs)
        try:
            if self._options.train_on == "everything":
                return self._everything(reader, chat, findings)
            return self._chain(reader, conversation, chat, trained, findings)
        except TemplateError as error:
            return Rejection((*findings, _template_finding(error, template)))

    def traced(self, conversation: Conversation) -> tuple[Unrolled | Rejection, TurnReader, list[Question]] | None:
        """The contract run on symbols, with what the template asked of the contents; None where nothing is learned.

        Raises Untraceable where the template does more than print contents.
        """
        if self._options.train_on == "everything" or self._options.control.mode == "allow":
            return None
        if not set(self._options.stop_tokens) <= set(self._options.control.everywhere):
            return None
        template = TracedTemplate(self._templates["default"])
        numbered = enumerate(contents_of(conversation))
        questions = template.begin({f"{OPEN}{number}{CLOSE}": text for number, text in numbered})
        reader = TurnReader(template, {}, self._options, self._special)
        chat = prepare_chat(symbolic(conversation), self._options.control, VARIANTS[0])
        trained, findings = trained_turns(conversation, self._options.train_on)
        if not trained:
            return None
        try:
            outcome = self._chain(reader, symbolic(conversation), chat, trained, findings)
        except TemplateError as error:
            raise Untraceable(str(error)) from error
        return outcome, reader, questions

    def is_plain(self, conversation: Conversation) -> bool:
        """Whether no content spells a control token: one look at all of them, and where it finds any, at each."""
        policy = self._options.control
        if not self._control.search("\0".join(contents_of(conversation))):
            return True
        return not any(
            spells_control(text, policy, message.role)
            for message in conversation.messages
            for text in (message.content, message.reasoning)
            if text
        )

    def _reader(self, template: Template, kwargs: Mapping[str, Any]) -> TurnReader:
        key = (template.sha256, repr(sorted(kwargs.items())) if kwargs else "")
        if key not in self._turns:
            if len(self._turns) > 64:
                self._turns.clear()
            self._turns[key] = TurnReader(template, kwargs, self._options, self._special)
        return self._turns[key]

    def _chain(
        self,
        reader: TurnReader,
        conversation: Conversation,
        chat: Chat,
        trained: Sequence[int],
        findings: tuple[Finding, ...],
    ) -> Unrolled | Rejection:
        examples: list[tuple[str, list[Span]]] = []
        breaks: list[str] = []
        replies: dict[int, str] = {}
        notes: dict[str, Finding] = {}
        text, spans = "", list[Span]()
        for turn in trained:
            prompt, reply = reader.read(conversation, chat, turn)
            if isinstance(reply, Finding):
                reply = _placed(reply, conversation, turn)
                if reply.code != "SFT127":
                    return Rejection((*findings, reply))
                notes.setdefault(reply.code, reply)
                continue
            if spans and not prompt.startswith(text):
                examples.append((text, spans))
                breaks.append(_difference(text, prompt))
                spans = []
            if reply.note is not None:
                notes.setdefault(reply.note.code, _placed(reply.note, conversation, turn))
            replies[turn] = reply.text
            text = prompt + reply.text
            spans.append(Span(len(prompt), len(text), turn))
        if not replies:
            return Rejection((*findings, *notes.values(), _UNTRAINED))
        examples.append((text, spans))
        if chat.markers and any(prints_escaped(one, chat.markers) for one, _ in examples):
            return Rejection((*findings, _ESCAPED))
        if prints_null(text, chat):
            return Rejection((*findings, Finding("SFT302", "the template prints None for a turn without content")))
        lost = reader.kept.missing(conversation, chat, text, replies, self._options.allow_dropped)
        findings += (*lost, *notes.values())
        if any(finding.code == "SFT308" for finding in lost):
            return Rejection(findings)
        return self._unrolled(examples, breaks, chat, findings)

    def _unrolled(
        self,
        examples: list[tuple[str, list[Span]]],
        breaks: list[str],
        chat: Chat,
        findings: tuple[Finding, ...],
    ) -> Unrolled | Rejection:
        untrained = 0
        if breaks:
            if self._options.unroll == "refuse":
                refusal = Finding("SFT321", f"a later prompt rewrites what was said before: {breaks[0]}")
                return Rejection((*findings, refusal))
            findings += (Finding("SFT307", f"a later prompt rewrites what was said before: {breaks[0]}"),)
            if self._options.unroll == "last":
                untrained = sum(len(spans) for _, spans in examples[:-1])
                examples = examples[-1:]
        built = tuple(TextExample(text, tuple(spans), markers=chat.markers) for text, spans in examples)
        return Unrolled(built, findings, tuple(breaks), untrained)

    def _everything(self, reader: TurnReader, chat: Chat, findings: tuple[Finding, ...]) -> Unrolled:
        text = reader.render(chat, len(chat.messages), generation=False)
        return Unrolled((TextExample(text, (), "everything", chat.markers),), findings, ())

    def _text(self, text: str) -> Unrolled | Rejection:
        marked, markers = protect_text(text, self._options.control)
        if markers and self._options.control.mode == "reject":
            return Rejection((Finding("SFT405", "the text spells a control token", "/text"),))
        notes = (Finding("SFT423", "the text spells a control token", "/text"),) if markers else ()
        return Unrolled((TextExample(marked, (), "text", markers),), notes, ())

    def _without_trailing_stops(
        self, conversation: Conversation, trained: Sequence[int]
    ) -> tuple[Conversation, Finding | None, tuple[Finding, ...]]:
        """Refuse, or strip as asked, replies whose own text ends in the spelling of a stop."""
        stops = self._options.stop_tokens
        ends = tuple(stops)
        hits = [
            turn for turn in trained if (conversation.messages[turn].content or "").rstrip().endswith(ends) and ends
        ]
        if not hits:
            return conversation, None, ()
        if not self._options.strip_trailing_stop:
            content = (conversation.messages[hits[0]].content or "").rstrip()
            stop = next(one for one in stops if content.endswith(one))
            found = Finding("SFT415", f"the reply's own text ends in {stop!r}, which ends the turn by itself")
            return conversation, _placed(found, conversation, hits[0]), ()
        messages = list(conversation.messages)
        notes = []
        for turn in hits:
            content = messages[turn].content or ""
            while content.rstrip().endswith(ends):
                bare = content.rstrip()
                content = bare.removesuffix(next(one for one in stops if bare.endswith(one)))
            messages[turn] = msgspec.structs.replace(messages[turn], content=content)
            notes.append(
                _placed(Finding("SFT422", "a stop spelled at the reply's end was removed"), conversation, turn)
            )
            if not content.strip() and not messages[turn].tool_calls:
                empty = Finding("SFT108", "nothing is left of the reply without the stop that it spells")
                return conversation, _placed(empty, conversation, turn), ()
        return msgspec.structs.replace(conversation, messages=tuple(messages)), None, tuple(notes)


_UNTRAINED = Finding("SFT107", "no assistant turn of the record is trained")

_ESCAPED = Finding(
    "SFT405",
    "content spells a control token and the template prints it escaped, so that it cannot be kept apart",
    fix="Clean the record, or use --control-tokens reject.",
)

_RETRIED = frozenset({"SFT302", "SFT308", "SFT316", "SFT319", "SFT405"})
"""Refusals that another way of handing the same message to the template may avoid."""


def _tells(refusal: Rejection) -> tuple[int, bool]:
    """How much the refusal of one variant says beside another's: what is lost says more than that the content is not
    printed in this form, and that more than that the template raises when it is handed something else; tools are missed
    only where every reply was found."""
    last = refusal.findings[-1]
    return {"SFT302": 0, "SFT319": 1}.get(last.code, 2), last.pointer.startswith("/tools")


class Programs:
    """The programs of one contract, by the shape of conversations."""

    _MOST = 4096
    _TRIES = 4
    """Programs, or failures to make one, that a shape may have."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._by_shape: dict[tuple[object, ...], list[Program | None]] = {}

    def unroll(self, conversation: Conversation) -> Unrolled | None:
        """What the contract says of `conversation`, by substitution; None where it must be asked in full."""
        shape = shape_of(conversation)
        if shape is None or not self._contract.is_plain(conversation):
            return None
        programs = self._by_shape.setdefault(shape, [])
        contents = contents_of(conversation)
        for program in programs:
            if program is not None and program.fits(contents):
                return Unrolled(program.run(contents), program.findings, program.breaks, program.untrained)
        if len(programs) < self._TRIES:
            programs.append(self._learn(conversation))
            if len(self._by_shape) > self._MOST:
                self._by_shape.clear()
        return None

    def _learn(self, conversation: Conversation) -> Program | None:
        try:
            traced = self._contract.traced(conversation)
        except Untraceable:
            return None
        if traced is None or isinstance(traced[0], Rejection) or traced[1].irregular:
            return None
        unrolled, reader, questions = traced
        assert isinstance(unrolled, Unrolled)
        return build_program(
            unrolled.examples, questions, unrolled.findings, unrolled.untrained, reader.reasoning_tags()
        )


def trained_turns(conversation: Conversation, train_on: str) -> tuple[list[int], tuple[Finding, ...]]:
    """Indices of the assistant turns that are trained, and notes on those that cannot be.

    A turn with nothing before it has no served prompt: it stays as context (SFT127).
    """
    turns = [
        index
        for index, message in enumerate(conversation.messages)
        if message.role == "assistant" and message.trained is not False
    ]
    notes: tuple[Finding, ...] = ()
    if turns and turns[0] == 0:
        notes = (_placed(Finding("SFT127", "the first turn has no prompt before it"), conversation, 0),)
        turns = turns[1:]
    if train_on == "last":
        last = max(
            (index for index, message in enumerate(conversation.messages) if message.role == "assistant"), default=-1
        )
        turns = [turn for turn in turns if turn == last]
    return turns, notes


def _template_finding(error: TemplateError, template: Template) -> Finding:
    """The finding for what a template raised: its words are the remedy, or the argument that it misses."""
    missed = _UNDEFINED.match(error.detail)
    if missed is not None and missed[1] in read_arguments(template):
        return Finding(error.code, str(error), fix=f"Pass what the template reads: --template-arg {missed[1]}=VALUE.")
    if error.code != "SFT302":
        return Finding(error.code, str(error))
    said = error.detail if len(error.detail) <= _SAID else f"{error.detail[:_SAID]}…"
    fix = f"The template says: {said} Repair the record, or use a template that takes it."
    return Finding(error.code, str(error), fix=fix)


def _placed(finding: Finding, conversation: Conversation, turn: int) -> Finding:
    if finding.pointer or turn >= len(conversation.pointers):
        return finding
    return msgspec.structs.replace(finding, pointer=conversation.pointers[turn])


def _difference(text: str, prompt: str) -> str:
    at = len(common_prefix(text, prompt))
    start = max(0, at - 16)
    return f"{text[start : at + 24]!r} becomes {prompt[start : at + 24]!r}"
