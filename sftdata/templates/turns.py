"""One turn: the prompt that is served for it, and the reply that the model must emit.

What lives here: rendering a turn with and without its reply, with sentinels where a place must be found, and putting
together what `reply` found out by comparing texts. What must not: chains of turns, whole conversations, ids.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from sftdata.records import Conversation, Finding, Message
from sftdata.templates.environment import Template, TemplateError
from sftdata.templates.kept import Kept
from sftdata.templates.lint import read_arguments
from sftdata.templates.messages import Chat, ControlPolicy, as_content, plain_content, prints_parts, renamed
from sftdata.templates.opinion import second_opinion
from sftdata.templates.reply import (
    REASONING_TAGS,
    Block,
    closed_block,
    content_end,
    filled_block,
    find_seam,
    open_reasoning,
    written_block,
)
from sftdata.templates.stops import StopReader

__all__ = ["Reply", "ServingOptions", "TurnReader"]

_SENTINEL = "Zq7vXk2sentinelW9"


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


class Reply(msgspec.Struct, frozen=True):
    """What the model must emit after a prompt."""

    text: str
    note: Finding | None = None
    """What the template's generation marks have against it."""


class TurnReader:
    """Reads prompts and replies off one template with one set of arguments, and remembers its habits."""

    irregular = False
    """Whether any turn took another way than: F begins with P, and a stop follows the content in F."""

    def __init__(
        self, template: Template, kwargs: Mapping[str, Any], options: ServingOptions, special: re.Pattern[str]
    ) -> None:
        self.template = template
        self.kept = Kept(self)
        self._kwargs = dict(kwargs)
        self._options = options
        self._special = special
        policy = options.control
        self._stops = StopReader(
            options.stop_tokens,
            special,
            kept_apart=() if policy.mode == "allow" else policy.everywhere,
            appended=options.eos_token if options.append_eos else None,
        )
        self._tags: tuple[tuple[str, str], ...] | None = None
        self._own: Block | None = None
        self._behind: dict[tuple[object, ...], str] = {}

    @functools.cached_property
    def arguments(self) -> str:
        """The flag that sets arguments, with the names of those that this template reads."""
        names = ", ".join(sorted(read_arguments(self.template)))
        return f"--template-arg; it reads {names}" if names else "--template-arg"

    def render(self, chat: Chat, upto: int, *, generation: bool) -> str:
        """The text of the first `upto` messages."""
        return self.template.render(
            chat.messages[:upto], tools=chat.tools, add_generation_prompt=generation, **self._kwargs
        )

    def read(self, conversation: Conversation, chat: Chat, turn: int) -> tuple[str, Reply | Finding]:
        """The prompt of assistant turn `turn` and its reply; SFT127 where the prompt is empty, so that none is served.

        Raises TemplateError where the template does.
        """
        prompt = self.render(chat, turn, generation=True)
        if not prompt:
            return prompt, Finding("SFT127", "the template prints nothing before this reply: no prompt is served")
        message = conversation.messages[turn]
        reply = self._reply(prompt, chat, turn, message)
        if isinstance(reply, Finding) and reply.code == "SFT316":
            reply = self._behind_plain_turn(prompt, chat, turn, message) or reply
        dropped = isinstance(reply, Finding) and reply.code == "SFT308"
        if dropped and message.content and "tool_calls" in self._options.allow_dropped:
            messages = list(chat.messages)
            messages[turn] = {key: value for key, value in messages[turn].items() if key != "tool_calls"}
            without = msgspec.structs.replace(chat, messages=messages)
            reply = self._reply(prompt, without, turn, msgspec.structs.replace(message, tool_calls=()))
        return prompt, reply

    def _reply(self, prompt: str, chat: Chat, turn: int, message: Message) -> Reply | Finding:
        rendered, marked = self._render_marked(chat, turn + 1)
        end = self._content_end(rendered, chat, turn, message)
        if isinstance(end, Finding):
            return end
        start = self._start(prompt, rendered, end, chat, turn, message)
        if isinstance(start, Finding):
            return start
        stop = self._stops.read(
            rendered, end, lambda: self._followed(chat, turn), chat.markers, calls=bool(message.tool_calls)
        )
        self.irregular |= self._stops.irregular
        if isinstance(stop, Finding):
            return stop
        lead, begin = start
        inside = self._stops.inside(rendered[begin:end], chat.markers)
        if inside is not None:
            return inside
        note = None if marked is None else self._compared(rendered, marked, begin, end, chat, turn)
        return Reply(lead + rendered[begin:end] + stop, note)

    def _render_marked(self, chat: Chat, upto: int) -> tuple[str, list[tuple[int, int]] | None]:
        """The text of the first `upto` messages, and the spans of its generation marks where they can be trusted."""
        if self.template.generation != "plain":
            return self.render(chat, upto, generation=False), None
        return self.template.render_spans(
            chat.messages[:upto], tools=chat.tools, add_generation_prompt=False, **self._kwargs
        )

    def _compared(
        self, rendered: str, marked: list[tuple[int, int]], begin: int, end: int, chat: Chat, turn: int
    ) -> Finding | None:
        message = chat.messages[turn]
        first = message["tool_calls"][0]["function"]["name"] if message.get("tool_calls") else ""
        at = rendered.find(first, begin, end) if first else rendered.rfind(plain_content(message).strip(), begin, end)
        self.irregular |= not marked
        return second_opinion(
            rendered, marked, begin, (max(at, begin), end), lambda: len(self.render(chat, turn, generation=False))
        )

    def _behind_plain_turn(self, prompt: str, chat: Chat, turn: int, message: Message) -> Reply | Finding | None:
        """The reply as the template writes it behind one plain user turn, where F rewrites what the prompt holds.

        Some templates rewrite the turns before a reply once that reply is there (an earlier call's analysis is taken
        out, two turns of the assistant are merged). The served prompt is what it is; if it ends in the same header as
        that of a plain chat, then what the template has the model say behind that header is the reply.
        """
        self.irregular = True
        plain = msgspec.structs.replace(chat, messages=[self._user(chat), chat.messages[turn]])
        try:
            header = self._header(prompt, chat, turn)
            asked = self.render(plain, 1, generation=True)
            if header is None or header != self._header(asked, plain, 1):
                return None
            reply = self._reply(asked, plain, 1, message)
        except TemplateError:
            return None
        return None if isinstance(reply, Finding) and reply.code == "SFT316" else reply

    def _header(self, prompt: str, chat: Chat, turn: int) -> str | None:
        """What asking for a reply adds to the text of the conversation; None where it changes that text.

        Where asking adds nothing (`[INST] Hi[/INST]`), what stands behind the content of the user's last turn.
        """
        base = self.render(chat, turn, generation=False)
        if not prompt.startswith(base):
            return None
        header = prompt[len(base) :]
        if not header.strip() and chat.messages[turn - 1]["role"] == "user":
            header = self._with_content(chat, turn - 1, _SENTINEL).rpartition(_SENTINEL)[2]
        return header if header.strip() else None

    def _user(self, chat: Chat) -> dict[str, Any]:
        return {"role": "user", "content": as_content(_SENTINEL, chat.variant)}

    def _start(
        self, prompt: str, rendered: str, end: int, chat: Chat, turn: int, message: Message
    ) -> tuple[str, int] | Finding:
        """Text that the reply begins with but F does not have, and the index in F from where it goes on."""
        opened = open_reasoning(prompt, self.reasoning_tags())
        thought: str = chat.messages[turn].get("reasoning_content", "")
        if opened is not None and message.reasoning is None and self._options.reasoning == "reject":
            tag = opened[0] if opened in REASONING_TAGS else prompt[-32:].lstrip()
            return Finding(
                "SFT317",
                f"the prompt opens a reasoning block ({tag}) and the record has no reasoning for this turn",
                fix="Add reasoning_content to the turn, or --reasoning empty.",
            )
        if rendered.startswith(prompt) and len(prompt) <= end:
            if opened is None:
                return "", len(prompt)
            self.irregular = True
            if opened[1] in rendered[len(prompt) : end]:
                return filled_block(rendered[:end], len(prompt), opened[1], thought)
            return self._closed(opened, thought, prompt), len(prompt)
        self.irregular = True
        before, calls_alone = self._before(rendered, end, chat, turn)
        tags = self.reasoning_tags()
        wrapping = (self._own.wrapping if self._own is not None else "") or self._bracket(before, rendered[end:])
        seam = find_seam(prompt, rendered, before, tags, thought=thought, wrapping=wrapping, scaffold=calls_alone)
        if isinstance(seam, Finding):
            fix = f"Choose template arguments under which both agree ({self.arguments}), or another template."
            return msgspec.structs.replace(seam, fix=fix)
        if seam.inside_reasoning is None:
            return ("", seam.start) if opened is None else filled_block(rendered[:end], seam.start, opened[1], thought)
        return self._closed(seam.inside_reasoning, thought, prompt), seam.start

    def _bracket(self, before: str, behind: str) -> str:
        """The special token right before the content, where another that is no stop stands right behind it."""
        closing = self._special.match(behind.lstrip())
        if closing is None or closing[0] in self._options.stop_tokens:
            return ""
        bare = before.rstrip()
        opening = [match[0] for match in self._special.finditer(bare) if match.end() == len(bare)]
        return opening[0] if opening else ""

    def _closed(self, tags: tuple[str, str], thought: str, prompt: str) -> str:
        """The rest of the block that the prompt opens, as the template itself writes one if it ever does."""
        own = self._own if self._own is not None and self._own.tags == tags else None
        return closed_block(tags, thought, prompt) if own is None else own.closed(thought, prompt)

    def _before(self, rendered: str, end: int, chat: Chat, turn: int) -> tuple[str, bool]:
        """What F has in front of the content or of the first call's name, whichever comes first, and whether it is
        the latter; found with a sentinel in its place."""
        message = chat.messages[turn]
        heads: list[tuple[str, bool]] = []
        if plain_content(message):
            head, mark, _ = self._with_content(chat, turn, _SENTINEL).rpartition(_SENTINEL)
            heads += [(head, False)] if mark else []
        if message.get("tool_calls"):
            head, mark, _ = self._with_call(chat, turn, 0).partition(_SENTINEL)
            heads += [(head, True)] if mark else []
        return min(heads, key=lambda one: len(one[0]), default=(rendered[:end], False))

    def _with_content(self, chat: Chat, turn: int, content: str) -> str:
        message = {**chat.messages[turn], "content": as_content(content, chat.variant)}
        return self._with_message(chat, turn, message)

    def _with_call(self, chat: Chat, turn: int, place: int) -> str:
        """F with the sentinel for the name of one call."""
        return self._with_message(chat, turn, _calling(chat.messages[turn], place))

    def _with_message(self, chat: Chat, turn: int, message: dict[str, Any]) -> str:
        messages = [*chat.messages[:turn], message]
        return self.template.render(messages, tools=chat.tools, add_generation_prompt=False, **self._kwargs)

    def _content_end(self, rendered: str, chat: Chat, turn: int, message: Message) -> int | Finding:
        """One past the content, or past the last tool call's name, in F."""
        if message.tool_calls:
            return self._calls_end(rendered, chat, turn)
        content = plain_content(chat.messages[turn])
        habit = (bool(message.reasoning), chat.variant)
        known = self._behind.get(habit)
        if known is not None:
            end = content_end(rendered, content, known)
            if end is not None:
                return end
        trial = self._with_content(chat, turn, _SENTINEL)
        at = trial.rfind(_SENTINEL)
        if at == -1 or prints_parts(trial, _SENTINEL):
            return Finding("SFT319", "the template does not print the content of this reply")
        behind = trial[at + len(_SENTINEL) :]
        end = content_end(rendered, content, behind)
        if end is None:
            return Finding("SFT319", "the template prints the content of this reply otherwise than as it stands")
        self._behind[habit] = behind
        return end

    def _calls_end(self, rendered: str, chat: Chat, turn: int) -> int | Finding:
        trial = self._with_call(chat, turn, -1)
        at = trial.rfind(_SENTINEL)
        if at == -1:
            return Finding(
                "SFT308",
                "the template drops the tool calls of this reply",
                fix="Use a template that renders them, or --allow-dropped tool_calls where there is text beside them.",
            )
        behind = trial[at + len(_SENTINEL) :]
        if not rendered.endswith(behind):
            return Finding("SFT319", "the template prints the tool calls of this reply in a way that depends on them")
        return len(rendered) - len(behind)

    def _followed(self, chat: Chat, turn: int) -> str | None:
        """What stands behind the content, or the last call's name, when another turn follows.

        A sentinel stands in its place, as the template may rewrite the turn once it is no longer the last; the turn
        that follows may print it too (the result of a call has its name). None where the template does not go on so.
        """
        message = chat.messages[turn]
        calls = message.get("tool_calls")
        following = chat.messages[turn + 1 : turn + 2]
        if not following:
            following = [{"role": "tool" if calls else "user", "content": as_content(_SENTINEL[::-1], chat.variant)}]
        marked = _calling(message, -1) if calls else {**message, "content": as_content(_SENTINEL, chat.variant)}
        times = self._with_message(chat, turn, marked).count(_SENTINEL)
        try:
            longer = self.template.render(
                [*chat.messages[:turn], marked, *following],
                tools=chat.tools,
                add_generation_prompt=False,
                **self._kwargs,
            )
        except TemplateError:
            return None
        pieces = longer.split(_SENTINEL)
        return _SENTINEL.join(pieces[times:]) if 0 < times < len(pieces) else None

    def reasoning_tags(self) -> tuple[tuple[str, str], ...]:
        """The pair that the template itself writes around reasoning, then the well-known ones."""
        if self._tags is None:
            self._own = self._own_block()
            own = [] if self._own is None else [self._own.tags]
            self._tags = tuple(dict.fromkeys([*own, *REASONING_TAGS]))
        return self._tags

    def _own_block(self) -> Block | None:
        """How the template writes reasoning; None where it does not."""
        thought, said = f"{_SENTINEL}r", f"{_SENTINEL}c"
        turn = {"role": "assistant", "content": said, "reasoning_content": thought, "thinking": thought}
        asking = [{"role": "user", "content": "a"}]
        try:
            text = self.template.render([*asking, turn], tools=None, add_generation_prompt=False, **self._kwargs)
            asked = self.template.render(asking, tools=None, add_generation_prompt=True, **self._kwargs)
        except TemplateError:
            return None
        return written_block(text, thought, said, asked)


def _calling(message: dict[str, Any], place: int) -> dict[str, Any]:
    """The message with the sentinel for the name of one call."""
    calls = list(message["tool_calls"])
    calls[place] = renamed(calls[place], _SENTINEL)
    return {**message, "tool_calls": calls}
