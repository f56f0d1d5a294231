"""A second opinion on finished examples: transformers' own templates and tokenizer, and a plain reading of the law.

What lives here: for a conversation and one of its assistant turns, the prompt ids that transformers would serve and
the texts that the reply may be, and from both the faults of finished ids and labels. What must not: anything of the
product but the record types. It is slow on purpose: every prompt is rendered and encoded from scratch.
"""

from __future__ import annotations

import datetime
import inspect
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tokenizers import Tokenizer as NativeTokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from sftdata.records import Conversation, Message

__all__ = ["DAY", "FORMS", "THOUGHTS", "Form", "Judge", "Unservable", "frozen_clock", "leaves", "printed"]

DAY = datetime.date(2026, 1, 1)
SENTINEL = "Xq9oracle7wZ"
IGNORED = -100
MARKS = "\U000f0000\U000f0001"
THOUGHTS = (
    ("<think>", "</think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought", "<channel|>"),
    ("<thought>", "</thought>"),
    ("<think:opensource>", "</think:opensource>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|start_think|>", "<|end_think|>"),
)


_ENCODE: Any = chat_template_utils.encode_marked_chat
_FINDS_MARKS = "markers_re" not in inspect.signature(_ENCODE).parameters
"""transformers of Python 3.10 has to be told what the marks look like."""


class Unservable(Exception):
    """transformers itself cannot render or encode the conversation."""


class Form(NamedTuple):
    """How a server hands a record to a template where servers differ."""

    no_content: str | None = "absent"
    text_arguments: bool = False
    inline_reasoning: bool = False
    parts: bool = False


FORMS = tuple(
    Form(no_content, *reversed(flags))
    for flags in itertools.product((False, True), repeat=3)
    for no_content in ("absent", "", None)
)


@contextmanager
def frozen_clock(day: datetime.date = DAY) -> Iterator[None]:
    """`strftime_now` of transformers sees `day`, at midnight."""

    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Frozen:
            return cls(day.year, day.month, day.day, tzinfo=tz)

    real = chat_template_utils.datetime
    chat_template_utils.datetime = Frozen
    try:
        yield
    finally:
        chat_template_utils.datetime = real


def as_served(message: Message, form: Form) -> dict[str, Any]:
    """One message as an OpenAI client would send it."""
    said = message.inline if form.inline_reasoning and message.inline is not None else message.content
    if said is None and form.no_content == "":
        said = ""
    content: Any = [{"type": "text", "text": said}] if form.parts and said is not None else said
    separate = None if form.inline_reasoning and message.inline is not None else message.reasoning
    calls = [
        {
            "type": "function",
            "function": {"name": call.name, "arguments": _arguments(call.arguments, form)},
            **({} if call.id is None else {"id": call.id}),
        }
        for call in message.tool_calls
    ]
    everything = {
        "role": message.role,
        "content": content,
        "reasoning_content": separate,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id,
        "name": message.name,
    }
    present = {key: value for key, value in everything.items() if value is not None}
    return {"content": None, **present} if form.no_content is None else present


def _arguments(arguments: dict[str, Any] | str, form: Form) -> dict[str, Any] | str:
    if form.text_arguments and not isinstance(arguments, str):
        return json.dumps(arguments, ensure_ascii=False)
    return arguments


class Judge:
    """Judges examples of one template and one tokenizer."""

    def __init__(
        self,
        template: str,
        native: NativeTokenizer,
        *,
        named: Mapping[str, str],
        stops: Sequence[str],
        kwargs: Mapping[str, Any] | None = None,
        append_eos: bool = False,
    ) -> None:
        """`named`: bos_token and so on; `stops`: the stop set as text, every one a single id."""
        self.template = template
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=native, **named)
        self.named = dict(named)
        self.stops = tuple(stops)
        self.stop_ids = {self.tokenizer.convert_tokens_to_ids(stop) for stop in stops}
        self._kwargs = dict(kwargs or {})
        self._append_eos = append_eos
        added = self.tokenizer.added_tokens_decoder.values()
        self._special = tuple(token.content for token in added if token.special)
        literals = chat_template_utils._get_template_literal_text(template)
        self._tags = tuple(
            one.content
            for one in added
            if not one.special and one.content in literals and not one.content.isspace() and one.content not in stops
        )

    # -- what transformers does

    def text(self, messages: Sequence[Mapping[str, Any]], tools: Any, *, prompt: bool) -> str:
        """The rendered text; Unservable where transformers raises."""
        try:
            with frozen_clock():
                rendered = self.tokenizer.apply_chat_template(
                    list(messages),
                    tools=tools,
                    chat_template=self.template,
                    add_generation_prompt=prompt,
                    tokenize=False,
                    **self._kwargs,
                )
        except Exception as error:
            raise Unservable(str(error)) from error
        assert isinstance(rendered, str)
        return rendered

    def prompt_ids(self, messages: Sequence[Mapping[str, Any]], tools: Any) -> list[int]:
        """The prompt's ids as a server gives them that lets no content forge a control token."""
        every = [*self._special, *self._tags]
        spelled = any(token in one for one in _texts([messages, tools]) for token in every)
        if not spelled:
            text = self.text(messages, tools, prompt=True)
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        if not any(
            tag in one
            for tag in self._tags
            for message in messages
            if message["role"] == "assistant"
            for one in _texts(message)
        ):
            return self._sanitised(messages, tools)
        return self._sanitised_by_role(messages, tools)

    def _sanitised(self, messages: Sequence[Mapping[str, Any]], tools: Any) -> list[int]:
        try:
            with frozen_clock():
                ids = self.tokenizer.apply_chat_template(
                    list(messages),
                    tools=tools,
                    chat_template=self.template,
                    add_generation_prompt=True,
                    sanitize_control_tokens=True,
                    return_dict=False,
                    **self._kwargs,
                )
        except Exception as error:
            raise Unservable(str(error)) from error
        return list(ids)

    def _sanitised_by_role(self, messages: Sequence[Mapping[str, Any]], tools: Any) -> list[int]:
        """The same, but tags that a model emits (`<think>`, `<tool_call>`) stay tokens in the assistant's turns."""
        hard, _ = chat_template_utils._get_control_token_patterns(self._special)
        soft, marks = chat_template_utils._get_control_token_patterns((*self._special, *self._tags))
        marked = [
            chat_template_utils.mark_control_tokens(one, hard if one["role"] == "assistant" else soft)
            for one in messages
        ]
        text = self.text(marked, chat_template_utils.mark_control_tokens(tools, soft), prompt=True)
        try:
            return list(_ENCODE(self.tokenizer, text, *(() if _FINDS_MARKS else (marks,))))
        except ValueError as error:
            raise Unservable(str(error)) from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    # -- what the law says

    def served(self, conversation: Conversation, form: Form) -> tuple[list[dict[str, Any]], Any]:
        """Messages and tools as transformers gets them."""
        tools = [dict(tool) for tool in conversation.tools] or None
        return [as_served(message, form) for message in conversation.messages], tools

    def replies(
        self, messages: list[dict[str, Any]], tools: Any, turn: int, thought: str | None
    ) -> list[re.Pattern[str]]:
        """Patterns of which the reply of assistant turn `turn` must match one as a whole.

        Where the turn's rendering rewrites what its prompt holds, the reply is what stands behind the same header in
        a plain chat.
        """
        found = self._replies(messages, tools, turn, thought)
        if found or turn < 2:
            return found
        content = messages[turn].get("content")
        user = {
            "role": "user",
            "content": [{"type": "text", "text": SENTINEL}] if isinstance(content, list) else SENTINEL,
        }
        plain = [user, messages[turn]]
        headers = [
            self.text(chat, tools, prompt=True).removeprefix(self.text(chat, tools, prompt=False))
            for chat in (messages[:turn], plain[:1])
        ]
        return self._replies(plain, tools, 1, thought) if headers[0] == headers[1] else []

    def _replies(
        self, messages: list[dict[str, Any]], tools: Any, turn: int, thought: str | None
    ) -> list[re.Pattern[str]]:
        prompt = self.text(messages[:turn], tools, prompt=True)
        full = self.text(messages[: turn + 1], tools, prompt=False)
        before, body_end = self._frame(messages, tools, turn, full)
        if body_end is None:
            return []
        stop = self._ending(messages, tools, turn, full, body_end)
        if stop is None:
            return []
        whole = full[:body_end] + stop
        if any(one in full[len(self._head(messages, tools, turn)) : body_end] for one in self._unspelled(messages)):
            return []  # serving ends there, before the end of the reply
        opened = next((pair for pair in THOUGHTS if prompt.rstrip().endswith(pair[0])), None)
        if whole.startswith(prompt) and (opened is None or opened[1] in whole[len(prompt) :]):
            return [
                _exactly(whole[len(prompt) :]) if opened is None else _thinking(whole, len(prompt), opened, thought)
            ]
        found: list[re.Pattern[str]] = []
        if _dense(prompt) == _dense(before):
            found.append(_exactly(whole[len(before) :]))
        goes_on = _resume(prompt, whole)
        closed = _closed_block(prompt)
        if closed is not None:
            rest = _behind_own_block(whole, len(before), closed, thought)
            found += [] if rest is None else [re.compile(rf"\s*{re.escape(rest)}")]
        if not found and goes_on is not None and goes_on <= body_end:
            rest = whole[goes_on:]
            found.append(_exactly(rest) if opened is None else _thinking(whole, goes_on, opened, thought))
        if opened is not None and (goes_on is None or opened[1] not in whole[goes_on:]):
            head = prompt[: prompt.rindex(opened[0])]
            last = _behind_own_block(whole, len(before), (head, opened), thought)
            rest = whole[len(prompt) :] if whole.startswith(prompt) else last
            inner = re.escape((thought or "").strip())
            pattern = rf"\s*{inner}\s*{re.escape(opened[1])}\s*{re.escape(rest or '')}"
            found = [] if rest is None else [re.compile(pattern, re.DOTALL)]
        return found

    def _unspelled(self, messages: list[dict[str, Any]]) -> list[str]:
        """Stops that no message spells, so that where they stand the template has written them."""
        said = "\0".join(_texts(messages))
        return [stop for stop in self.stops if stop not in said]

    def _frame(self, messages: list[dict[str, Any]], tools: Any, turn: int, full: str) -> tuple[str, int | None]:
        """What stands before the turn's body, and where its body ends in `full` (None where it is not there)."""
        message = messages[turn]
        said = message.get("content")
        plain = said[0]["text"] if isinstance(said, list) else (said or "")
        calls = message.get("tool_calls")
        trial_content = [{"type": "text", "text": SENTINEL}] if isinstance(said, list) else SENTINEL
        if not calls:
            trial = self.text([*messages[:turn], {**message, "content": trial_content}], tools, prompt=False)
            before, mark, after = trial.rpartition(SENTINEL)
            if not mark or not full.endswith(after):
                return "", None
            end = len(full) - len(after)
            forms = (plain, plain.strip(), plain.rstrip(), plain.lstrip(), plain.strip("\n"), plain.lstrip("\n"))
            printed = full[:end].endswith(forms)
            return before, end if printed else None
        function = calls[-1]["function"]
        renamed = {**calls[-1], "function": {**function, "name": SENTINEL}}
        if function["name"] in renamed.get("id", ""):
            renamed["id"] = renamed["id"].replace(function["name"], SENTINEL)
        trial = self.text([*messages[:turn], {**message, "tool_calls": [*calls[:-1], renamed]}], tools, prompt=False)
        _, mark, after = trial.rpartition(SENTINEL)
        if not mark or not full.endswith(after):
            return "", None
        said_before = self.text(messages[:turn], tools, prompt=False)
        begin = len(said_before) if full.startswith(said_before) else len(self._head(messages, tools, turn))
        first = full.find(plain.strip() or calls[0]["function"]["name"], begin)
        return full[: max(first, 0)], len(full) - len(after)

    def _head(self, messages: list[dict[str, Any]], tools: Any, turn: int) -> str:
        """The longest beginning that the turn's rendering shares with that of its prompt."""
        prompt = self.text(messages[:turn], tools, prompt=True)
        full = self.text(messages[: turn + 1], tools, prompt=False)
        at = next(
            (i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), min(len(prompt), len(full))
        )
        return full[:at]

    def _ending(self, messages: list[dict[str, Any]], tools: Any, turn: int, full: str, body_end: int) -> str | None:
        """What follows the body, through the stop."""
        after = full[body_end:]
        quiet = self._without_arguments(messages, tools, turn) or after
        ends = [(quiet.find(stop), -len(stop)) for stop in self.stops if stop in quiet]
        if ends:
            rest = quiet[min(ends)[0] - min(ends)[1] :]
            return after.removesuffix(rest) if after.endswith(rest) else None
        if any(token in after for token in self._special):
            return None
        header = self.next_header(messages, tools, turn, after)
        for stop in sorted(self.stops, key=len, reverse=True):
            if header.lstrip().startswith(stop):
                return after.rstrip() + header[: len(header) - len(header.lstrip())] + stop
        if self._append_eos and "eos_token" in self.named:
            return after.rstrip() + self.named["eos_token"]
        return None

    def _without_arguments(self, messages: list[dict[str, Any]], tools: Any, turn: int) -> str | None:
        """What stands behind the last call's name if it has no arguments, in which a stop may be spelled."""
        calls = messages[turn].get("tool_calls")
        if not calls:
            return None
        nothing = "{}" if isinstance(calls[-1]["function"]["arguments"], str) else {}
        bare = {**calls[-1], "function": {"name": SENTINEL, "arguments": nothing}}
        message = {**messages[turn], "tool_calls": [*calls[:-1], bare]}
        return self.text([*messages[:turn], message], tools, prompt=False).rpartition(SENTINEL)[2]

    def next_header(self, messages: list[dict[str, Any]], tools: Any, turn: int, after: str) -> str:
        """What the next turn puts behind `after`, the rest of a turn; empty where the template does not go on so."""
        message = messages[turn]
        calls = message.get("tool_calls")
        nothing: Any = [{"type": "text", "text": "next"}] if isinstance(message.get("content"), list) else "next"
        following = messages[turn + 1 : turn + 2] or [{"role": "tool" if calls else "user", "content": nothing}]
        if calls:
            renamed = {**calls[-1], "function": {**calls[-1]["function"], "name": SENTINEL}}
            message = {**message, "tool_calls": [*calls[:-1], renamed]}
        else:
            said: Any = [{"type": "text", "text": SENTINEL}] if isinstance(message["content"], list) else SENTINEL
            message = {**message, "content": said}
        try:
            longer = self.text([*messages[:turn], message, *following], tools, prompt=False)
        except Unservable:
            return ""
        # the result of a call may print its name again
        pieces = longer.split(SENTINEL)
        times = self.text([*messages[:turn], message], tools, prompt=False).count(SENTINEL)
        rest = SENTINEL.join(pieces[times:]) if times else ""
        return rest[len(after.rstrip()) :] if rest.startswith(after.rstrip()) else ""

    # -- the verdict

    def faults(
        self,
        conversation: Conversation,
        documents: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        may_lose: frozenset[str] = frozenset(),
    ) -> list[str]:
        """What is wrong with the documents `(ids, labels)` that a conversation became; empty where nothing is.

        They must be right under one of the ways in which servers hand the record over; the faults of the way with
        the fewest are returned.
        """
        best: list[str] = []
        raised = "there is no document"
        tried = set()
        for form in FORMS:
            messages, tools = self.served(conversation, form)
            key = json.dumps([messages, tools], sort_keys=True)
            if key in tried:
                continue
            tried.add(key)
            try:
                found = self._faults(conversation, messages, tools, documents)
                found += self._losses(conversation, messages, tools, documents, may_lose)
            except Unservable as problem:
                raised = f"transformers raises: {problem}"
                continue
            if not found:
                return []
            if not best or len(found) < len(best):
                best = found
        return best or [raised]

    def _faults(
        self,
        conversation: Conversation,
        messages: list[dict[str, Any]],
        tools: Any,
        documents: Sequence[tuple[Sequence[int], Sequence[int]]],
    ) -> list[str]:
        trained = [
            turn
            for turn, message in enumerate(conversation.messages)
            if message.role == "assistant"
            and message.trained is not False
            and turn > 0
            and self.text(messages[:turn], tools, prompt=True)  # nothing is served before it
        ]
        prompts = {tuple(self.prompt_ids(messages[:turn], tools)): turn for turn in trained}
        seen: list[int] = []
        found: list[str] = []
        for ids, labels in documents:
            ids, labels = list(ids), list(labels)
            if len(ids) != len(labels) or any(
                label not in (IGNORED, one) for one, label in zip(ids, labels, strict=False)
            ):
                found.append("labels are not the ids")
                continue
            # a reply ends in a stop: where a prompt ends in the midst of a reply's text, no other begins
            cuts = {
                len(prompt) for prompt in prompts if tuple(ids[: len(prompt)]) == prompt and prompt[-1] in self.stop_ids
            }
            for start, stop in _runs(labels, cuts):
                turn = prompts.get(tuple(ids[:start]))
                if turn is None:
                    found.append(f"training starts at token {start}, behind no served prompt")
                    continue
                seen.append(turn)
                found += self._reply_faults(conversation, messages, tools, turn, ids[:stop], start)
            if labels[-1] == IGNORED:
                found.append("tokens stand behind the last reply")
        if sorted(seen) != trained:
            found.append(f"trained turns {sorted(seen)}, expected {trained}")
        return found

    def _reply_faults(
        self,
        conversation: Conversation,
        messages: list[dict[str, Any]],
        tools: Any,
        turn: int,
        ids: list[int],
        start: int,
    ) -> list[str]:
        if ids[-1] not in self.stop_ids:
            return [f"turn {turn} ends in {self.decode(ids[-1:])!r}, which is no stop"]
        head, whole = self.decode(ids[:start]), self.decode(ids)
        if not whole.startswith(head):
            return [f"turn {turn}: the prompt decodes otherwise with its reply"]
        said = whole[len(head) :]
        allowed = self.replies(messages, tools, turn, conversation.messages[turn].reasoning)
        if not any(pattern.fullmatch(said) for pattern in allowed):
            wanted = [pattern.pattern for pattern in allowed]
            return [f"turn {turn} trains {said!r}, expected {wanted!r}"]
        return []

    def _losses(
        self,
        conversation: Conversation,
        messages: list[dict[str, Any]],
        tools: Any,
        documents: Sequence[tuple[Sequence[int], Sequence[int]]],
        may_lose: frozenset[str],
    ) -> list[str]:
        """Fields of the record that are nowhere in the last document's text."""
        if not documents:
            return []
        text = self.decode(documents[-1][0])
        said = "".join(
            self.decode([one for one, label in zip(ids, labels, strict=True) if label != IGNORED])
            for ids, labels in documents
        )
        last = max(
            i for i, one in enumerate(conversation.messages) if one.role == "assistant" and one.trained is not False
        )
        lost = []
        for turn, message in enumerate(conversation.messages[: last + 1]):
            field = {"tool": "tool_results", "developer": "system"}.get(message.role, message.role)
            if message.role != "assistant" and message.content and not printed(message.content, text):
                lost.append(field)
            if message.role == "assistant" and message.trained is not False and turn > 0:
                if message.reasoning and not printed(message.reasoning, said):
                    lost.append("reasoning")
                if message.tool_calls and message.content and not printed(message.content, said):
                    lost.append("content")
                for call in message.tool_calls:
                    values = [call.name, *(leaves(call.arguments))]
                    if not all(printed(value, said) for value in values):
                        lost.append("tool_calls")
        for tool in conversation.tools:
            function = tool.get("function") or tool
            if not printed(function.get("description") or function["name"], text):
                lost.append("tools")
        return [f"{field} is lost" for field in dict.fromkeys(lost) if field not in may_lose]


def _runs(labels: Sequence[int], cuts: set[int]) -> Iterator[tuple[int, int]]:
    """Stretches of trained tokens, cut where another prompt ends inside one."""
    start: int | None = None
    for at, label in enumerate([*labels, IGNORED]):
        if start is not None and (label == IGNORED or at in cuts):
            yield start, at
            start = None
        if start is None and label != IGNORED:
            start = at


def _exactly(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text))


def _dense(text: str) -> str:
    return "".join(text.split())


def _resume(prompt: str, whole: str) -> int | None:
    """Where `whole` goes on behind `prompt` if both are the same but for whitespace."""
    pattern = r"\s*".join(re.escape(char) for char in _dense(prompt))
    match = re.match(rf"\s*{pattern}\s*", whole)
    return match.end() if match else None


def _thinking(whole: str, start: int, block: tuple[str, str], thought: str | None) -> re.Pattern[str]:
    """What the model says behind a prompt that opens a block: the turn from `start`, the thought in the block where
    the turn leaves it empty."""
    inner, closing, behind = whole[start:].partition(block[1])
    if not closing or inner.strip() or not (thought or "").strip():
        return _exactly(whole[start:])
    return re.compile(rf"\s*{re.escape((thought or '').strip())}\s*{re.escape(closing + behind)}", re.DOTALL)


def _closed_block(prompt: str) -> tuple[str, tuple[str, str]] | None:
    """What stands before the reasoning block that is closed at the prompt's end, and its tags; the opening one may be
    missing."""
    bare = prompt.rstrip()
    for pair in THOUGHTS:
        if bare.endswith(pair[1]):
            inside = bare.removesuffix(pair[1])
            head, _, thought = inside.rpartition(pair[0])
            return (inside if pair[1] in thought or pair[0] not in inside else head), pair
    return None


def _behind_own_block(whole: str, body: int, block: tuple[str, tuple[str, str]], thought: str | None) -> str | None:
    """What a turn says behind `head` and behind the reasoning block that it has itself, with or without an opening
    tag; whitespace before the body, at `body`, left out. None where it does not go on behind `head`."""
    head, (opening, closing) = block
    at = _resume(head, whole)
    if at is None:
        return whole[body:] if _dense(head) == _dense(whole[:body]) else None
    if at > body:
        return whole[body:]
    inner = re.escape((thought or "").strip())
    own = re.compile(rf"\s*(?:{re.escape(opening)})?\s*(?:{inner})?\s*{re.escape(closing)}").match(whole, at)
    at = own.end() if own and own.end() <= body else at
    while at < body and whole[at].isspace():
        at += 1
    return whole[at:]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)


def leaves(value: Any) -> list[str]:
    """All texts in plain JSON data, keys too."""
    if isinstance(value, dict):
        return [*map(str, value), *(leaf for one in value.values() for leaf in leaves(one))]
    if isinstance(value, list):
        return [leaf for one in value for leaf in leaves(one)]
    return [value] if isinstance(value, str) else []


def printed(value: str, text: str) -> bool:
    """Whether a value stands in a text as it is, trimmed, or as JSON writes it."""
    return any(
        one.strip() in text
        for one in (
            value,
            json.dumps(value, ensure_ascii=False)[1:-1],
            json.dumps(value)[1:-1],
            json.dumps(json.dumps(value))[2:-2],
        )
    )
