"""One fault a rule: the bytes that have it, and the same bytes without it.

`python tests/checks/faults.py` plants every fault, runs the check on it and on the clean bytes, and prints the table
that `docs/rules-tested.md` holds.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sftdata.config import build_config
from sftdata.pipeline.check import check
from sftdata.rules import RULES

CLOCK = "2026-01-01"
ROOT = Path(__file__).resolve().parents[2]


class Case(msgspec.Struct, frozen=True):
    """A fault and its clean twin."""

    code: str
    planted: str
    """The fault in words."""
    faulty: bytes
    clean: bytes
    name: str = "chats.jsonl"
    options: dict[str, Any] = {}
    wishes: dict[str, Any] = {}


def lines(*records: Any) -> bytes:
    """Records as JSON Lines."""
    return b"".join(json.dumps(one, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n" for one in records)


def chat(*turns: Any, roles: str = "ua", **extra: Any) -> dict[str, Any]:
    """A record in messages form; a turn is a text or the rest of the message."""
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    order = roles if len(roles) == len(turns) else roles * len(turns)
    messages = []
    for letter, turn in zip(order, turns, strict=False):
        rest = {"content": turn} if isinstance(turn, str) else turn
        messages.append({"role": names[letter], **rest})
    return {"messages": messages, **extra}


GOOD = chat("What is the capital of France?", "Paris.")
TALK = chat("Hi!", "Hello, what can I do?", "Name a colour.", "Blue.")
LONG = "The river rises in the hills, turns to the south, and meets the sea beyond the old harbour town. "
CALL = {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {"city": "Bonn"}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def calling(
    call: Mapping[str, Any] = CALL, result: Mapping[str, Any] | None = None, tools: Any = (TOOL,)
) -> dict[str, Any]:
    """A chat with one call, its result, and an answer."""
    answer = result or {"content": "12 °C", "tool_call_id": "c1"}
    turns = ("Weather in Bonn?", {"content": None, "tool_calls": [call]}, answer, "It is 12 °C.")
    return chat(*turns, roles="uata", **({"tools": list(tools)} if tools else {}))


def one(code: str, planted: str, faulty: Any, clean: Any = GOOD, **more: Any) -> Case:
    """A case of one record a side."""
    return Case(code, planted, lines(faulty), lines(clean), **more)


def reply(code: str, planted: str, faulty: str, clean: str, **more: Any) -> Case:
    """A case in which only the reply differs."""
    return one(code, planted, chat("Tell me.", faulty), chat("Tell me.", clean), **more)


GOOD_LINE = lines(GOOD)
PLAIN = {"template": "plain"}
QWEN3 = {"template": "qwen3"}

CASES: tuple[Case, ...] = (
    Case("SFT001", "a line cut off in the middle", GOOD_LINE + GOOD_LINE[:30] + b"\n", GOOD_LINE),
    Case("SFT002", "Latin-1 bytes", lines(chat("Coffee?", "cafe")).replace(b"cafe", b"caf\xe9"), GOOD_LINE),
    Case("SFT003", "a byte order mark inside a text", lines(chat("Hi", "He\ufeffllo")), GOOD_LINE),
    Case("SFT004", "half of an emoji", GOOD_LINE.replace(b"Paris", b"\\ud83d Paris"), GOOD_LINE),
    reply("SFT005", "a terminal escape", "\x1b[31mred\x1b[0m", "red\tand\nblue"),
    reply("SFT006", "UTF-8 read as Windows-1252", "Itâ€™s a cafÃ©", "It’s a café à la carte, Ångström, SÃO"),
    reply("SFT007", "a direction override", "pay\u202eload", "👩‍👩‍👧 می‌خواهم"),
    Case("SFT008", "a NaN", GOOD_LINE.replace(b"}\n", b', "score": NaN}\n'), GOOD_LINE),
    Case("SFT009", "a key twice", GOOD_LINE.replace(b'"role": "user"', b'"role": "user", "role": "user"'), GOOD_LINE),
    reply("SFT010", "a reply of 1.1 million characters", LONG * 11_500, LONG),
    Case("SFT012", "two formats in one file", lines(GOOD, {"instruction": "Add.", "output": "2"}), lines(GOOD, TALK)),
    Case("SFT015", "a gzip file cut off", gzip.compress(GOOD_LINE * 500)[:-40], gzip.compress(GOOD_LINE), "c.jsonl.gz"),
    one("SFT016", "a bare text", "hello"),
    Case("SFT019", "a stray quote", b'prompt,completion\nHi,"a" b\n', b"prompt,completion\nHi,Hello\n", "chats.csv"),
    one("SFT101", "no messages", {"messages": []}),
    one("SFT102", "a turn that is a text", {"messages": ["Hi", "Hello"]}),
    one("SFT103", "a turn without content", {"messages": [{"role": "user"}, {"role": "assistant", "content": "Hi"}]}),
    one("SFT104", "an unknown role", {"messages": [{"role": "narrator", "content": "x"}, *GOOD["messages"]]}),
    one("SFT106", "no reply", chat("Hi", roles="u")),
    one("SFT107", "all replies weighted 0", chat("Hi", {"content": "Hello", "weight": 0})),
    one("SFT108", "an empty reply", chat("Hi", "")),
    one("SFT109", "a blank question", chat(" ", "Hello")),
    one("SFT110", "a number as content", chat("Hi", {"content": 5})),
    one("SFT111", "a result without a call before it", chat("Hi", {"content": "12"}, "12", roles="uta"), calling()),
    one("SFT112", "two user turns in a row", chat("Hi", "There?", "Hello", roles="uua")),
    one("SFT113", "the user has the last word", chat("Hi", "Hello", "Bye", roles="uau")),
    one("SFT114", "a system turn in the middle", chat("Hi", "Be brief.", "Hello", roles="usa")),
    one("SFT115", "a weight of 0.5", chat("Hi", {"content": "Hello", "weight": 0.5})),
    one("SFT116", "a key that nothing reads", {**GOOD, "colour": "red"}, GOOD),
    one("SFT117", "a call without a function", calling({"type": "function", "id": "c1"}), calling()),
    one(
        "SFT118",
        "arguments that are not JSON",
        calling({**CALL, "function": {"name": "weather", "arguments": '{"city"'}}),
        calling({**CALL, "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}),
    ),
    one("SFT119", "a result of another call", calling(result={"content": "1", "tool_call_id": "c9"}), calling()),
    one(
        "SFT120",
        "a call of an undeclared tool",
        calling({**CALL, "function": {"name": "sea", "arguments": {}}}),
        calling(),
    ),
    one(
        "SFT121",
        "a number for a text",
        calling({**CALL, "function": {"name": "weather", "arguments": {"city": 5}}}),
        calling(),
    ),
    one(
        "SFT122",
        "a picture",
        chat({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "A cat."),
        chat({"content": [{"type": "text", "text": "Hi"}]}, "Hello"),
    ),
    one(
        "SFT123",
        "<noinput>",
        {"instruction": "Add.", "input": "<noinput>", "output": "2"},
        {"instruction": "Add.", "input": "", "output": "2"},
    ),
    one("SFT124", "chosen and rejected", {"prompt": "Hi", "chosen": "a", "rejected": "b"}),
    one("SFT125", "columns of no format", {"frage": "a", "antwort": "b"}),
    one("SFT126", "two formats fit", {"text": "a", "output": "b"}),
    one("SFT127", "a reply to nothing", chat("Welcome!", "Hi", "Hello", roles="aua")),
    one("SFT128", "a text that is null", {"text": None}, {"text": LONG}),
    one(
        "SFT302", "the template refuses", chat("Hi", "Be brief.", "Hello", roles="usa"), options={"template": "mistral"}
    ),
    one(
        "SFT307",
        "a template that drops reasoning",
        chat("Hi", "<think>a</think>Hello", "More", "<think>b</think>Blue"),
        chat("Hi", "<think>a</think>Hello"),
        options=QWEN3,
    ),
    one("SFT308", "tools under a template without", calling(), options={"template": "vicuna"}),
    reply("SFT423", "a control token in the question", "x<|im_start|>y", "x im_start y"),
    reply("SFT415", "a stop at the end of the reply", "Four<|im_end|>", "Four"),
    reply("SFT422", "the same, to be stripped", "Four<|im_end|>", "Four", options={"strip_trailing_stop": True}),
    reply("SFT601", "a reply beyond the limit", LONG * 20, LONG, options={"max_length": 128}),
    reply("SFT610", "the same, to be cut", LONG * 20, LONG, options={"max_length": 128, "overlong": "truncate"}),
    Case(
        "SFT612",
        "a text beyond the limit, to be split",
        lines({"text": LONG * 20}),
        lines({"text": LONG}),
        options={"max_length": 128, "overlong": "split"},
    ),
    one(
        "SFT611",
        "a chat beyond the limit, to be shortened",
        chat(LONG, "One.", LONG, "Two.", LONG, "Three."),
        TALK,
        options={"max_length": 64, "overlong": "drop-turns"},
    ),
    Case(
        "SFT603",
        "a third of the tokens beyond the limit",
        lines(GOOD, chat("Go on.", LONG * 20)),
        lines(GOOD, TALK),
        options={"max_length": 128},
    ),
    Case("SFT509", "one token in a hundred trained", lines(chat(LONG * 20, "Yes.")), lines(chat(LONG, LONG))),
    Case("SFT713", "one-word answers to long prompts", lines(chat(LONG * 6, "Yes.")), lines(chat(LONG, LONG))),
    one(
        "SFT320",
        "fourteen turns under a template that drops reasoning",
        chat(*(text for n in range(14) for text in ("Go on.", f"<think>{LONG}</think>Step {n}."))),
        chat("Hi", "<think>a</think>Hello"),
        options=QWEN3,
    ),
    one(
        "SFT321",
        "a template that drops reasoning, to be refused",
        chat("Hi", "<think>a</think>Hello", "More", "<think>b</think>Blue"),
        chat("Hi", "<think>a</think>Hello"),
        options={**QWEN3, "unroll": "refuse"},
    ),
    one(
        "SFT325",
        "names under a template without, which is fine",
        chat({"content": "Hi", "name": "Ada"}, "Hello"),
        options={"template": "vicuna", "allow_dropped": ("name",)},
    ),
    one(
        "SFT405",
        "a control token in the question, to be refused",
        chat("x<|im_start|>y", "Hello"),
        chat("x im_start y", "Hello"),
        options={"control_tokens": "reject"},
    ),
    Case(
        "SFT608",
        "documents a little longer than half a bin",
        lines(*(chat(f"{n}. {LONG}", LONG) for n in range(40))),
        lines(*(chat(f"{n}", "Yes.") for n in range(400))),
        options={"max_length": 110},
    ),
    Case("SFT701", "a record twice", lines(GOOD, TALK, GOOD), lines(GOOD, TALK)),
    Case(
        "SFT702",
        "a copy with one word changed",
        lines(chat("Tell.", LONG * 3), chat("Tell.", LONG * 3 + "The end.")),
        lines(chat("Tell.", LONG * 3), TALK),
        wishes={"near_duplicates": True},
    ),
    Case(
        "SFT703",
        "two answers to one prompt",
        lines(chat("2+2?", "4"), chat("2+2?", "5")),
        lines(chat("2+2?", "4"), GOOD),
    ),
    Case(
        "SFT704",
        "an eval question inside a turn",
        lines(chat("Now: " + LONG, "A river.")),
        GOOD_LINE,
        wishes={"eval": True},
    ),
    Case("SFT705", "an eval chat in the data", lines(GOOD, chat(LONG, "Noted.")), GOOD_LINE, wishes={"eval": True}),
    reply("SFT706", "a refusal", "I'm sorry, but I can't help with that.", "Sorry to hear that! Let me help."),
    reply(
        "SFT707",
        "an access key",
        "Use AKIA3QX7Z2M9LP4VWT6B.",
        "Use AKIAIOSFODNN7EXAMPLE, or order 4111 1111 1111 1111.",
    ),
    reply("SFT708", "one word thirty times", "no " * 30, "no, no, and again no"),
    one(
        "SFT709",
        "an English answer to a Russian question",
        chat(
            "Какой город самый большой в Европе по населению?", "The largest city of Europe by population is Istanbul."
        ),
        chat("Какой город самый большой в Европе по населению?", "Самый большой город Европы по населению — Стамбул."),
    ),
    reply(
        "SFT710",
        "an answer that ends on a hanging word",
        LONG + LONG[:82] + "and the",
        LONG + LONG[:82].strip() + " and more.",
    ),
    Case(
        "SFT711",
        "a system prompt in half of the records",
        lines(chat("Be brief.", "Hi", "Yo", roles="sua"), GOOD),
        lines(GOOD, TALK),
    ),
    reply("SFT712", "a think tag without its end", "<think>hm Hello", "<think>hm</think>Hello"),
    reply("SFT714", "an unfilled placeholder", "I am {{name}}.", "Write `{{name}}` in the template."),
    Case(
        "SFT715",
        "a chat written out in a text",
        lines({"text": "### Human: Hi### Assistant: Hello"}),
        lines({"text": "He asked: Human? I am your Assistant: a clerk."}),
    ),
    Case(
        "SFT716",
        "a picture that is not there",
        lines(chat("<image>\nWhat is this?", "A cat.")),
        lines(chat("What does `<image>` mean in a feed?", "A picture.")),
    ),
)
"""Rules that `check` can find in data. Those found before the first record, in templates and shards have suites of
their own."""

ELSEWHERE = frozenset(
    {
        *("SFT011", "SFT017", "SFT018", "SFT020", "SFT105", "SFT406", "SFT129", "SFT301", "SFT310"),
        *("SFT316", "SFT317", "SFT318", "SFT319", "SFT322", "SFT403", "SFT407", "SFT413", "SFT420", "SFT421", "SFT503"),
        "SFT424",
    }
)
"""Rules that other suites name: their faults are not in a record, or need a template or tokenizer of their own."""

UNTRIED = frozenset(
    {
        *("SFT014", "SFT404", "SFT410", "SFT414", "SFT416", "SFT417", "SFT418", "SFT419"),
        *("SFT502", "SFT510"),
    }
)
"""Rules whose fault needs a tokenizer that is not carried here, or cannot be planted in data."""


def found(case: Case, data: bytes, folder: Path) -> dict[str, int]:
    """Findings by code in `data`."""
    path = folder / case.name
    path.write_bytes(data)
    wishes = dict(case.wishes)
    if wishes.pop("eval", False):
        test = folder / "eval.jsonl"
        test.write_bytes(lines(chat(LONG, "Noted.")))
        wishes["eval_inputs"] = (str(test),)
    options = {"tokenizer": "builtin", "template": "chatml", "max_length": 4_000_000, "clock": CLOCK, **case.options}
    config = build_config({"inputs": (str(path),), "out": "-", **options})
    with check(config, **wishes) as checked:
        counts: dict[str, int] = {}
        for one_found in checked.findings():
            counts[one_found.code] = counts.get(one_found.code, 0) + 1
    return counts


def table() -> str:
    """Every case planted and run, as Markdown."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            hit = found(case, case.faulty, Path(folder)).get(case.code, 0)
            miss = found(case, case.clean, Path(folder)).get(case.code, 0)
            rows.append(f"| {case.code} | {RULES[case.code].name} | {case.planted} | {hit} | {miss} |")
    return f"{_HEAD}{chr(10).join(rows)}\n\n{len(rows)} rules.\n"


_HEAD = """# Rules that were tried

Written by `python tests/checks/faults.py`: every fault is planted into records that are checked, and the same records
are checked without it. A test holds that each is found, and that nothing of the kind is found in the clean records.

| rule | name | planted | found | found in the clean records |
|---|---|---|---|---|
"""

if __name__ == "__main__":
    sys.stdout.write(table())
