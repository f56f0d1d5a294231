"""The serving contract: every trained reply stands behind exactly the prompt that a server would render.

For every trained assistant turn k the prompt P_k = render(m1..mk-1, add_generation_prompt=True) and the rendered turn
F_k = render(m1..mk) are compared; the reply R_k is what the model must emit after P_k, through its stop token. As
long as P_k+1 begins with P_k R_k the turns share one example; where it does not (the template rewrites history), a
new example starts. No table of model names: the template itself decides, and what cannot be decided is refused.

What lives here: that chain. `reply` compares texts, `kept` looks for what a template loses, `messages` builds what a
template reads. What must not: ids, files, raw records.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sftdata.records import Conversation, Finding, Message, Rejection, Span, TextExample
from sftdata.templates.environment import Template, TemplateError
from sftdata.templates.kept import Kept
from sftdata.templates.messages import (
    VARIANTS,
    Chat,
    ControlPolicy,
    Variant,
    prepare_chat,
    protect_text,
    spells_control,
)
from sftdata.templates.program import Program, build_program, contents_of, shape_of, symbolic
from sftdata.templates.reply import REASONING_TAGS, StopInfo, content_end, find_seam, find_stop, open_reasoning
from sftdata.templates.trace import CLOSE, OPEN, Question, TracedTemplate, Untraceable

__all__ = ["Contract", "ServingOptions", "Unrolled"]

_SENTINEL = "Zq7vXk2sentinelW9"
_TAG_AT_END = re.compile(r"(\S+)\s*$")
_TAG_AT_START = re.compile(r"\s*(\S+)")


class ServingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What decides how conversations become examples; one value for a whole run."""

    stop_tokens: tuple[str, ...]
    """The stop set as text: tokenizer eos, the model's eos list, what the user added; each one id."""
    special_tokens: tuple[str, ...]
    """All tokens that the tokenizer flags special."""
    control: ControlPolicy
    eos_token: str | None = None
    reasoning: str = "reject"
    append_eos: bool = False
    unroll: str = "all"
    train_on: str = "replies"
    allow_dropped: frozenset[str] = frozenset()
    strip_trailing_stop: bool = False


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

    def __init__(
        self, templates: Mapping[str, Template], options: ServingOptions, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """`templates`: by name; `tool_use` serves records with tools where there is one, else `default`."""
        self._templates = dict(templates)
        self._options = options
        self._kwargs = dict(kwargs or {})
        longest = sorted(filter(None, options.special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest)) or "(?!)")
        self._turns: dict[tuple[str, str], TurnReader] = {}
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
            return Rejection((*findings, Finding("SFT107", "no assistant turn of the record is trained")))
        conversation, problem, notes = self._without_trailing_stops(conversation, trained)
        if problem is not None:
            return Rejection((problem,))
        name = "tool_use" if conversation.tools and "tool_use" in self._templates else "default"
        kwargs = self._kwargs
        if conversation.template_kwargs:
            kwargs = {**conversation.template_kwargs, **kwargs}
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
        choices = [
            place
            for place, variant in enumerate(VARIANTS)
            if (lacks_content or not variant.empty_content)
            and (has_calls or not variant.text_arguments)
            and (has_inline or not variant.inline_reasoning)
        ]
        first: Rejection | None = None
        for place in choices:
            outcome = self._with_variant(conversation, trained, findings, name, kwargs, VARIANTS[place])
            if isinstance(outcome, Unrolled):
                return outcome
            first = first or outcome
            if outcome.findings[-1].code not in _RETRIED:
                return outcome
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
            return Rejection((*findings, _template_finding(error)))

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
        reader = TurnReader(template, self._kwargs, self._options, self._special)
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
        """Whether no content spells a control token."""
        policy = self._options.control
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
        text, spans = "", list[Span]()
        for turn in trained:
            prompt, reply = reader.read(conversation, chat, turn)
            if isinstance(reply, Finding):
                return Rejection((*findings, _placed(reply, conversation, turn)))
            if spans and not prompt.startswith(text):
                examples.append((text, spans))
                breaks.append(_difference(text, prompt))
                spans = []
            replies[turn] = reply
            text = prompt + reply
            spans.append(Span(len(prompt), len(text), turn))
        examples.append((text, spans))
        lost = reader.kept.missing(conversation, chat, text, replies, self._options.allow_dropped)
        findings += tuple(lost)
        if any(finding.code in {"SFT308", "SFT319"} for finding in lost):
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


_RETRIED = frozenset({"SFT302", "SFT308", "SFT319"})
"""Refusals that another way of handing the same message to the template may avoid."""


class TurnReader:
    """Reads prompts and replies off one template with one set of arguments, and remembers its habits."""

    irregular = False
    """Whether any turn took another way than: F begins with P, and a stop follows the content in F."""

    def __init__(
        self, template: Template, kwargs: Mapping[str, Any], options: ServingOptions, special: re.Pattern[str]
    ) -> None:
        self.template = template
        self.kept = Kept(template, kwargs)
        self._kwargs = dict(kwargs)
        self._options = options
        self._special = special
        self._tags: tuple[tuple[str, str], ...] | None = None
        self._behind: dict[bool, str] = {}
        self._stops: dict[tuple[str, str], StopInfo] = {}

    def render(self, chat: Chat, upto: int, *, generation: bool) -> str:
        return self.template.render(
            chat.messages[:upto], tools=chat.tools, add_generation_prompt=generation, **self._kwargs
        )

    def read(self, conversation: Conversation, chat: Chat, turn: int) -> tuple[str, str | Finding]:
        """The prompt of assistant turn `turn` and its reply."""
        prompt = self.render(chat, turn, generation=True)
        rendered = self.render(chat, turn + 1, generation=False)
        message = conversation.messages[turn]
        end = self._content_end(rendered, chat, turn, message)
        if isinstance(end, Finding):
            return prompt, end
        start = self._start(prompt, rendered, end, chat, turn, message)
        if isinstance(start, Finding):
            return prompt, start
        stop = self._stop(rendered, end, chat, turn, message)
        if isinstance(stop, Finding):
            return prompt, stop
        lead, begin = start
        return prompt, lead + rendered[begin:end] + stop

    def _start(
        self, prompt: str, rendered: str, end: int, chat: Chat, turn: int, message: Message
    ) -> tuple[str, int] | Finding:
        """Text that the reply begins with but F does not have, and the index in F from where it goes on."""
        opened = open_reasoning(prompt, self.reasoning_tags())
        if opened is not None and message.reasoning is None and self._options.reasoning == "reject":
            return Finding(
                "SFT317",
                f"the prompt opens a reasoning block ({opened[0]}) and the record has no reasoning for this turn",
                fix="Add reasoning_content to the turn, or --reasoning empty.",
            )
        if rendered.startswith(prompt) and len(prompt) <= end:
            inside = opened is not None and not _closes(rendered[len(prompt) : end], opened)
            if not inside:
                self.irregular |= opened is not None
                return "", len(prompt)
            assert opened is not None
            self.irregular = True
            return _closed_block(opened, message.reasoning or "", prompt), len(prompt)
        self.irregular = True
        before = self._before(rendered, end, chat, turn, message)
        seam = find_seam(prompt, rendered, before, self.reasoning_tags())
        if isinstance(seam, Finding):
            return seam
        if seam.inside_reasoning is not None:
            return _closed_block(seam.inside_reasoning, message.reasoning or "", prompt), seam.start
        return "", seam.start

    def _before(self, rendered: str, end: int, chat: Chat, turn: int, message: Message) -> str:
        """What F has in front of the content; found with a sentinel in the content's place."""
        if not message.content:
            first = message.tool_calls[0].name if message.tool_calls else ""
            at = rendered.rfind(first, 0, end) if first else end
            return rendered[: max(at, 0)]
        trial = self._with_content(chat, turn, _SENTINEL)
        at = trial.rfind(_SENTINEL)
        return trial[:at] if at != -1 else rendered[:end]

    def _with_content(self, chat: Chat, turn: int, content: str) -> str:
        messages = [*chat.messages[:turn], {**chat.messages[turn], "content": content}]
        return self.template.render(messages, tools=chat.tools, add_generation_prompt=False, **self._kwargs)

    def _content_end(self, rendered: str, chat: Chat, turn: int, message: Message) -> int | Finding:
        """One past the content, or past the last tool call's name, in F."""
        if message.tool_calls:
            return self._calls_end(rendered, chat, turn)
        content = chat.messages[turn].get("content", "")
        known = self._behind.get(bool(message.reasoning))
        if known is not None:
            end = content_end(rendered, content, known)
            if end is not None:
                return end
        trial = self._with_content(chat, turn, _SENTINEL)
        at = trial.rfind(_SENTINEL)
        if at == -1:
            return Finding("SFT319", "the template does not print the content of this reply")
        behind = trial[at + len(_SENTINEL) :]
        end = content_end(rendered, content, behind)
        if end is None:
            return Finding("SFT319", "the template prints the content of this reply otherwise than as it stands")
        self._behind[bool(message.reasoning)] = behind
        return end

    def _calls_end(self, rendered: str, chat: Chat, turn: int) -> int | Finding:
        calls = chat.messages[turn]["tool_calls"]
        function = {**calls[-1]["function"], "name": _SENTINEL}
        last = {**calls[-1], "function": function}
        messages = [*chat.messages[:turn], {**chat.messages[turn], "tool_calls": [*calls[:-1], last]}]
        trial = self.template.render(messages, tools=chat.tools, add_generation_prompt=False, **self._kwargs)
        at = trial.rfind(_SENTINEL)
        if at == -1:
            return Finding(
                "SFT308",
                "the template drops the tool calls of this reply",
                fix="Use a template that renders them.",
            )
        behind = trial[at + len(_SENTINEL) :]
        if not rendered.endswith(behind):
            return Finding("SFT319", "the template prints the tool calls of this reply in a way that depends on them")
        return len(rendered) - len(behind)

    def _stop(self, rendered: str, end: int, chat: Chat, turn: int, message: Message) -> str | Finding:
        """The text from the content's end through the stop.

        A special token between the content and the first stop is the turn's real end, missing from the stop set,
        unless the template writes the same before every next turn: `<|end|>\n<|endoftext|>` after the last reply
        and `<|end|>\n<|user|>` before the next is refused, `<|END_RESPONSE|><|END_OF_TURN|>` in both is the reply's.
        """
        behind = rendered[end:]
        info = self._stop_info(behind, chat.markers)
        if info.end is not None:
            through = behind[: info.end]
            if info.foreign is None or message.tool_calls:
                return through
            self.irregular = True
            if (self._followed(rendered, end, chat, turn, message) or "").startswith(through):
                return through
            return _not_a_stop(info.foreign)
        self.irregular = True
        following = self._followed(rendered, end, chat, turn, message)
        if following is not None:
            bare = following.lstrip()
            stop = next((one for one in self._options.stop_tokens if bare.startswith(one)), None)
            if stop is not None:
                return following[: len(following) - len(bare)] + stop
        if self._options.append_eos and self._options.eos_token:
            return behind.rstrip() + self._options.eos_token
        if info.foreign is not None:
            return _not_a_stop(info.foreign)
        return Finding("SFT413", "the template prints nothing after the reply that ends the turn")

    def _stop_info(self, behind: str, markers: str) -> StopInfo:
        key = (behind, markers)
        info = self._stops.get(key)
        if info is None:
            info = find_stop(behind, self._options.stop_tokens, self._special, markers)
            if len(self._stops) > 1024 or len(behind) > 4096:
                self._stops.clear()
            self._stops[key] = info
        return info

    def _followed(self, rendered: str, end: int, chat: Chat, turn: int, message: Message) -> str | None:
        """What stands behind the content when another turn follows; None where the template does not go on so."""
        following = chat.messages[turn + 1 : turn + 2]
        if not following:
            role = "tool" if message.tool_calls else "user"
            following = [{"role": role, "content": _SENTINEL}]
        try:
            longer = self.template.render(
                [*chat.messages[: turn + 1], *following],
                tools=chat.tools,
                add_generation_prompt=False,
                **self._kwargs,
            )
        except TemplateError:
            return None
        return longer[end:] if longer.startswith(rendered[:end]) else None

    def reasoning_tags(self) -> tuple[tuple[str, str], ...]:
        """The pair that the template itself writes around reasoning, then the well-known ones."""
        if self._tags is None:
            own = self._own_tags()
            self._tags = tuple(dict.fromkeys([*([own] if own else []), *REASONING_TAGS]))
        return self._tags

    def _own_tags(self) -> tuple[str, str] | None:
        thought, said = f"{_SENTINEL}r", f"{_SENTINEL}c"
        turn = {"role": "assistant", "content": said, "reasoning_content": thought, "thinking": thought}
        try:
            text = self.template.render(
                [{"role": "user", "content": "a"}, turn], tools=None, add_generation_prompt=False, **self._kwargs
            )
        except TemplateError:
            return None
        first, second = text.find(thought), text.find(said)
        if first == -1 or second < first:
            return None
        opening = _TAG_AT_END.search(text[:first])
        closing = _TAG_AT_START.match(text[first + len(thought) : second])
        return (opening[1], closing[1]) if opening and closing else None


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


def _closes(text: str, tags: tuple[str, str]) -> bool:
    return tags[1] in text


def _closed_block(tags: tuple[str, str], reasoning: str, prompt: str) -> str:
    """The rest of a reasoning block that the prompt opened: the reasoning, its closing tag, a blank line."""
    inner = reasoning.strip("\n")
    lead = "" if prompt[-1:].isspace() else "\n"
    return f"{lead}{inner}\n{tags[1]}\n\n" if inner else f"{lead}\n{tags[1]}\n\n"


def _not_a_stop(token: str) -> Finding:
    return Finding(
        "SFT414",
        f"the template closes the turn with {token!r}, which is not in the stop set",
        fix=f"--stop '{token}', if the model is to stop there.",
    )


def _template_finding(error: TemplateError) -> Finding:
    return Finding(error.code, str(error))


def _placed(finding: Finding, conversation: Conversation, turn: int) -> Finding:
    if finding.pointer or turn >= len(conversation.pointers):
        return finding
    return msgspec.structs.replace(finding, pointer=conversation.pointers[turn])


def _difference(text: str, prompt: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b), min(len(text), len(prompt)))
    start = max(0, at - 16)
    return f"{text[start : at + 24]!r} becomes {prompt[start : at + 24]!r}"
