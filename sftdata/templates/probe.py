"""What a template does with each part of a conversation, found by rendering chats whose parts are recognisable.

What lives here: `probe_template` and the table of its questions. What must not: real records (the contract looks at
those), token ids, printing. A question is one small chat in which every part is a word that occurs nowhere else; its
answer is one `Answer`, so that the whole is a table and, through `msgspec.to_builtins`, JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from sftdata.templates.environment import Template, TemplateError
from sftdata.templates.lint import read_arguments
from sftdata.templates.messages import Variant, as_content, prints_parts
from sftdata.templates.reply import REASONING_TAGS, open_reasoning, written_block

__all__ = ["Answer", "Probe", "probe_template"]

Outcome = Literal["kept", "altered", "dropped", "refused", "yes", "no"]


class Answer(msgspec.Struct, frozen=True):
    """One row of a probe."""

    group: Literal["fields", "roles", "history", "prompt", "source"]
    question: str
    outcome: Outcome
    """`kept` as it stood, `altered` (trimmed, or only a part of it), `dropped` silently, `refused` by an error."""
    detail: str = ""
    """The template's message, what was altered, or the text in question."""


class Probe(msgspec.Struct, frozen=True):
    """Everything that a probe found out about one template."""

    name: str
    sha256: str
    answers: tuple[Answer, ...]

    def answer(self, question: str) -> Answer:
        """The row of that question."""
        return next(row for row in self.answers if row.question == question)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Group, question, outcome and detail, for a table."""
        return [(row.group, row.question, row.outcome, row.detail) for row in self.answers]


# -- the parts: words that no template holds

SYSTEM, ASK, AGAIN = "Qzsystem", "Qzask", "Qzagain"
REPLY, LAST = "Qzreply", "Qzlast"
CALLED, KEY, VALUE, SECOND = "qzcalled", "qzkey", "Qzvalue", "qzsecond"
RESULT, THOUGHT, PERSON, CALL_ID = "Qzresult", "Qzthought", "Qzperson", "Qzid00001"
DESCRIPTION, PARAMETER = "Qzdescription", "qzparameter"

Chat = list[dict[str, Any]]


def _user(text: str = ASK, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def _reply(text: str = REPLY, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def _system(role: str = "system") -> dict[str, Any]:
    return {"role": role, "content": SYSTEM}


def _result(**more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": RESULT, "name": CALLED, "tool_call_id": CALL_ID, **more}


def _calling(*names: str, text: str | None = None, as_text: bool | None = None) -> list[dict[str, Any]]:
    """The same turn in the forms that servers hand to a template: content absent, null and, fullest, empty; and unless
    `as_text` says which, arguments as an object and as JSON text."""
    arguments: list[Any] = [{KEY: VALUE}, f'{{"{KEY}": "{VALUE}"}}']
    turns = []
    for form in arguments if as_text is None else [arguments[as_text]]:
        calls = [{"id": CALL_ID, "type": "function", "function": {"name": name, "arguments": form}} for name in names]
        turn = {"role": "assistant", "tool_calls": calls}
        contents = (None, "") if text is None else (text,)
        turns += [turn] * (text is None) + [{**turn, "content": content} for content in contents]
    return turns


def _thinking(text: str = REPLY) -> dict[str, Any]:
    return _reply(text, reasoning_content=THOUGHT, thinking=THOUGHT)


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": CALLED,
            "description": DESCRIPTION,
            "parameters": {"type": "object", "properties": {PARAMETER: {"type": "string"}}, "required": []},
        },
    }
]


class Field(msgspec.Struct, frozen=True):
    """A question about a part: chats that all say the same, and the words to look for in the first that renders."""

    question: str
    chats: Sequence[Chat]
    words: tuple[str, ...]
    tools: bool = False
    group: Literal["fields", "roles", "history"] = "fields"


def _with_calls(
    *names: str, rest: Sequence[dict[str, Any]] = (), text: str | None = None, as_text: bool | None = None
) -> list[Chat]:
    return [[_user(), turn, *rest] for turn in _calling(*names, text=text, as_text=as_text)]


EARLIER_THOUGHT = [[_user(), _thinking(), _user(AGAIN), _reply(LAST)]]
THOUGHT_AND_CALL = [
    [_user(), {**_thinking(), **turn}, _result(name="f"), _reply(LAST)] for turn in _calling("f", text="")
]

FIELDS = (
    Field("system", [[_system(), _user(), _reply()]], (SYSTEM,)),
    Field("system, later", [[_user(), _reply(), _system(), _user(AGAIN), _reply(LAST)]], (SYSTEM,)),
    Field("developer", [[_system("developer"), _user(), _reply()]], (SYSTEM,)),
    Field("name", [[_user(name=PERSON), _reply()]], (PERSON,)),
    Field("tools", [[_user(), _reply()]], (CALLED, DESCRIPTION, PARAMETER), tools=True),
    Field("tools beside a system turn", [[_system(), _user(), _reply()]], (SYSTEM, CALLED), tools=True),
    Field("tool call", _with_calls(CALLED, as_text=False), (CALLED, KEY, VALUE)),
    Field("tool call with arguments as text", _with_calls(CALLED, as_text=True), (CALLED, KEY, VALUE)),
    Field("parallel tool calls", _with_calls(CALLED, SECOND), (CALLED, SECOND)),
    Field("text beside a tool call", _with_calls(CALLED, text=REPLY), (REPLY, CALLED)),
    Field("tool result", _with_calls("f", rest=[_result(name="f"), _reply(LAST)]), (RESULT,)),
    Field("tool result, name", _with_calls("f", rest=[_result(), _reply(LAST)]), (CALLED,)),
    Field("tool call id", _with_calls("f", rest=[_result(name="f"), _reply(LAST)]), (CALL_ID,)),
    Field("reasoning of the last reply", [[_user(), _thinking()]], (THOUGHT,)),
    Field("reasoning of earlier replies", EARLIER_THOUGHT, (THOUGHT,), group="history"),
    Field("reasoning before a tool call", THOUGHT_AND_CALL, (THOUGHT,), group="history"),
    Field("two user turns in a row", [[_user(), _user(AGAIN), _reply()]], (ASK, AGAIN), group="roles"),
    Field("two replies in a row", [[_user(), _reply(), _reply(LAST)]], (REPLY, LAST), group="roles"),
    Field("a reply first", [[_reply(), _user(), _reply(LAST)]], (REPLY,), group="roles"),
    Field("a system turn alone", [[_system()]], (SYSTEM,), group="roles"),
)  # fmt: skip


def probe_template(template: Template, **kwargs: Any) -> Probe:
    """Ask a template all questions; `kwargs` are arguments for every rendering.

    >>> import datetime
    >>> from sftdata.templates.environment import compile_template
    >>> source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
    >>> probe = probe_template(compile_template(source, clock=datetime.date(2025, 1, 1)))
    >>> probe.answer("system").outcome, probe.answer("tool call").outcome, probe.answer("edges of a reply").outcome
    ('kept', 'dropped', 'altered')
    """
    asked = _Asked(template, kwargs)
    rows = [
        *(_field(asked, field) for field in FIELDS),
        *(_edges(asked, role) for role in ("user", "reply", "system")),
        *_prompts(asked),
        *_source(template, kwargs),
    ]
    order = ("fields", "roles", "history", "prompt", "source")
    return Probe(template.name, template.sha256, tuple(sorted(rows, key=lambda row: order.index(row.group))))


class _Asked:
    """A template with the arguments of the probe, and the form of content that it reads."""

    def __init__(self, template: Template, kwargs: dict[str, Any]) -> None:
        self._template = template
        self._kwargs = kwargs
        self.in_parts = False
        plain = [_user(), _reply()]
        if not _holds(self.text(plain), ASK, REPLY):
            self.in_parts = True
            text = self.text(plain)
            self.in_parts = _holds(text, ASK, REPLY) and not any(prints_parts(str(text), said) for said in (ASK, REPLY))

    def text(self, chat: Chat, *, tools: bool = False, prompt: bool = False) -> str | TemplateError:
        """The rendered chat, or the error that refused it."""
        given = TOOLS if tools else None
        if self.in_parts:
            chat = [
                {**one, "content": as_content(one["content"], Variant(parts=True))}
                if one.get("content") is not None
                else one
                for one in chat
            ]
        try:
            return self._template.render(chat, tools=given, add_generation_prompt=prompt, **self._kwargs)
        except TemplateError as error:
            return error


def _holds(text: str | TemplateError, *words: str) -> bool:
    return isinstance(text, str) and all(word in text for word in words)


def _refused(group: Any, question: str, error: TemplateError) -> Answer:
    place = "" if error.lineno is None else f" (line {error.lineno})"
    return Answer(group, question, "refused", error.detail + place)


def _field(asked: _Asked, field: Field) -> Answer:
    texts = [asked.text(chat, tools=field.tools) for chat in field.chats]
    rendered = [text for text in texts if isinstance(text, str)]
    if not rendered:
        fullest = texts[-1]
        assert isinstance(fullest, TemplateError)
        return _refused(field.group, field.question, fullest)
    missing = min(([word for word in field.words if word not in text] for text in rendered), key=len)
    if not missing:
        return Answer(field.group, field.question, "kept")
    if len(missing) == len(field.words):
        return Answer(field.group, field.question, "dropped")
    parts = ", ".join(_PARTS.get(word, word) for word in missing)
    return Answer(field.group, field.question, "altered", f"without {parts}")


_PARTS = {
    SYSTEM: "the system text",
    CALLED: "the name",
    DESCRIPTION: "the description",
    PARAMETER: "the parameters",
    KEY: "the argument's name",
    VALUE: "the argument's value",
    SECOND: "the second call",
    REPLY: "the reply",
    LAST: "the last reply",
    ASK: "the first question",
    AGAIN: "the second question",
}


def _edges(asked: _Asked, part: str) -> Answer:
    """Whether whitespace at the edges of a content comes through."""
    question = f"edges of a {part}"
    padded = {
        "user": ([_user(f" \n{ASK}\t "), _reply()], ASK),
        "reply": ([_user(), _reply(f" \n{REPLY}\t ")], REPLY),
        "system": ([{**_system(), "content": f" \n{SYSTEM}\t "}, _user(), _reply()], SYSTEM),
    }
    chat, word = padded[part]
    text = asked.text(chat)
    if isinstance(text, TemplateError):
        return _refused("fields", question, text)
    if word not in text:
        return Answer("fields", question, "dropped")
    whole = f" \n{word}\t " in text
    return Answer("fields", question, "kept" if whole else "altered", "" if whole else "trimmed")


def _prompts(asked: _Asked) -> Iterator[Answer]:
    """What is served: the text that asks for a reply, what follows one, what nobody wrote, and what stays."""
    asking, silent = asked.text([_user()], prompt=True), asked.text([_user()])
    whole = asked.text([_user(), _reply()])
    for text in (asking, silent, whole):
        if isinstance(text, TemplateError):
            yield _refused("prompt", "a plain chat", text)
            return
    assert isinstance(asking, str)
    assert isinstance(silent, str)
    assert isinstance(whole, str)
    form = "with content as a list of parts" if asked.in_parts else ""
    yield Answer("prompt", "a plain chat", "kept" if REPLY in whole else "dropped", form)
    yield Answer("prompt", "text that asks for a reply", "yes", repr(asking[_shared(asking, silent) :]))
    same = whole.startswith(asking)
    yield Answer(
        "prompt",
        "a rendered reply begins with its prompt",
        "yes" if same else "no",
        repr(whole[len(asking) :].partition(REPLY)[0]) if same else repr(asking[_shared(whole, asking) :]),
    )
    yield Answer("prompt", "text behind the last reply", "yes", repr(whole.rpartition(REPLY)[2]))
    yield _reasoning(asked, asking)
    yield from _later(asked, asking, whole)


def _reasoning(asked: _Asked, asking: str) -> Answer:
    """Whether the prompt ends in a reasoning block, so that a reply must begin inside it or behind it."""
    thinking = asked.text([_user(), _thinking()])
    own = written_block(thinking, THOUGHT, REPLY, asking) if isinstance(thinking, str) else None
    tags = (*([] if own is None else [own.tags]), *REASONING_TAGS)
    opened = open_reasoning(asking, tags)
    closed = next((pair[1] for pair in tags if asking.rstrip().endswith(pair[1])), None)
    told = f"opened by {opened[0]!r}" if opened else "" if closed is None else f"closed by {closed!r}"
    return Answer("prompt", "a reasoning block ends its prompt", "yes" if told else "no", told)


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _later(asked: _Asked, asking: str, whole: str) -> Iterator[Answer]:
    next_prompt = asked.text([_user(), _reply(), _user(AGAIN)], prompt=True)
    if isinstance(next_prompt, TemplateError):
        yield _refused("history", "earlier turns stay as they were", next_prompt)
        return
    said = whole[: whole.rfind(REPLY) + len(REPLY)]
    stays = next_prompt.startswith(said) and next_prompt.startswith(asking)
    yield Answer("history", "earlier turns stay as they were", "yes" if stays else "no")
    ending, later = whole.rpartition(REPLY)[2], next_prompt.partition(REPLY)[2]
    stays = later.startswith(ending.rstrip())
    told = "" if stays else f"{ending!r} becomes {later.partition(AGAIN)[0]!r}"
    yield Answer("history", "what ends a reply stays as it was", "yes" if stays else "no", told)
    header = next_prompt.partition(REPLY)[2].partition(AGAIN)[0]
    before = asking.partition(ASK)[0]
    added = before[: len(before) - _shared(before[::-1], header[::-1])]
    words = re.findall(r"\w+", re.sub(r"<[^<>\s]*>|\[/?[A-Z_]+\]", " ", added))
    yield Answer(
        "prompt", "adds text of its own", "yes" if len(words) > 2 else "no", repr(added) if len(words) > 2 else ""
    )


def _source(template: Template, kwargs: dict[str, Any]) -> Iterator[Answer]:
    marked = template.generation != "none"
    yield Answer(
        "source",
        "marks replies with {% generation %}",
        "yes" if marked else "no",
        template.generation if marked else "",
    )
    yield Answer("source", "reads the clock", "yes" if template.uses_clock else "no")
    names = sorted(read_arguments(template) - kwargs.keys())
    yield Answer("source", "takes arguments", "yes" if names else "no", ", ".join(names))
