"""Every prompt of a conversation, in the form of its messages that a template loses least of."""

from __future__ import annotations

import datetime

from sftdata.records import Conversation, Message, ToolCall
from sftdata.templates.environment import Template, TemplateError, compile_template
from sftdata.templates.rendering import Rendered, prompt_turns, render_conversation

LOOP = "{% for m in messages %}<{{ m.role }}>BODY{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def compiled(body: str) -> Template:
    return compile_template(LOOP.replace("BODY", body), clock=datetime.date(2026, 1, 1))


def chat(*messages: Message) -> Conversation:
    return Conversation(messages=messages)


def rendered(template: Template, conversation: Conversation) -> Rendered:
    result = render_conversation(template, conversation)
    assert isinstance(result, Rendered)
    return result


HELLO = chat(Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Bye"))
CALLING = chat(Message("user", "Hi"), Message("assistant", None, tool_calls=(ToolCall("look", {"at": "this"}),)))


def test_there_is_a_prompt_for_every_reply_and_for_the_one_to_come() -> None:
    assert prompt_turns(HELLO) == [1, 3]
    assert prompt_turns(CALLING) == [1]
    assert prompt_turns(chat(Message("assistant", "Hello."), Message("user", "Hi"))) == [2]
    assert prompt_turns(chat()) == []


def test_prompts_and_the_whole_text_are_what_the_template_renders() -> None:
    found = rendered(compiled("{{ m.content }}"), HELLO)
    assert found.prompts == (
        (1, "<user>Hi<assistant>"),
        (3, "<user>Hi<assistant>Hello.<user>Bye<assistant>"),
    )
    assert found.whole == "<user>Hi<assistant>Hello.<user>Bye"


def test_content_goes_in_as_parts_where_the_template_reads_parts() -> None:
    found = rendered(compiled("{% for part in m.content %}{{ part.text }}{% endfor %}"), HELLO)
    assert found.whole == "<user>Hi<assistant>Hello.<user>Bye"


def test_arguments_go_in_as_text_where_an_object_cannot_be_joined() -> None:
    body = "{% if m.tool_calls %}{{ m.tool_calls[0].function.name + m.tool_calls[0].function.arguments }}{% endif %}"
    assert rendered(compiled(body), CALLING).whole == '<user><assistant>look{"at": "this"}'


def test_a_template_that_raises_on_every_form_is_its_own_error() -> None:
    refusal = render_conversation(compiled("{{ raise_exception('never') }}"), HELLO)
    assert isinstance(refusal, TemplateError)
    assert refusal.detail == "never"


def test_arguments_of_the_record_reach_the_template_and_win() -> None:
    day = datetime.date(2026, 1, 1)
    template = compile_template(LOOP.replace("BODY", "{{ style }}"), kwargs={"style": "given"}, clock=day)
    assert rendered(template, chat(*HELLO.messages[:1])).whole == "<user>given"
    styled = Conversation(messages=HELLO.messages[:1], template_kwargs={"style": "own"})
    assert rendered(template, styled).whole == "<user>own"
