"""Where the reply lies: from two renderings of one turn to the text that the model must emit.

    prompt    P = render(m1..mk-1, add_generation_prompt=True)
    rendered  F = render(m1..mk)
    reply     R = what the model must emit after P, through its stop token

What lives here: comparing P and F, finding where the content ends, and finding the stop, as pure functions of texts.
What must not: rendering (the caller hands in what it rendered), tokens, records.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from sftdata.records import Finding

__all__ = [
    "REASONING_TAGS",
    "Block",
    "Seam",
    "StopInfo",
    "closed_block",
    "common_prefix",
    "content_end",
    "filled_block",
    "find_seam",
    "find_stop",
    "open_reasoning",
    "written_block",
]

REASONING_TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""Spellings that open and close a reasoning block. A template's own pair, where it renders one, is asked of the
template (`Contract`); this table serves the templates that open a block in the prompt and never print its end."""


class Seam(msgspec.Struct, frozen=True):
    """Where the reply begins in F."""

    start: int
    """Index into F."""
    inside_reasoning: tuple[str, str] | None = None
    """The tags of the reasoning block that the prompt leaves open and F does not continue: the caller must write it."""


class StopInfo(msgspec.Struct, frozen=True):
    """What follows the content in F."""

    end: int | None
    """One past the first stop, counted from the content's end; None where there is none."""
    foreign: str | None
    """The first special token outside the stop set that stands before the stop; the last one where there is none."""


def open_reasoning(prompt: str, tags: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The pair whose opening tag ends `prompt`, whitespace aside.

    `open_reasoning("<|Assistant|><think>\\n", [("<think>", "</think>")])` is `("<think>", "</think>")`.
    """
    bare = prompt.rstrip()
    return next((pair for pair in tags if pair[0] and bare.endswith(pair[0])), None)


def find_seam(
    prompt: str,
    rendered: str,
    before: str,
    tags: Sequence[tuple[str, str]],
    *,
    thought: str = "",
    wrapping: str = "",
    scaffold: bool = False,
) -> Seam | Finding:
    """Where the reply begins in `rendered`, which does not begin with `prompt`.

    `before` is what F has in front of the content; with `scaffold` (a turn of calls alone) its end may be written by
    the model too, and so may `wrapping`, which the template writes between reasoning and content. `thought` is the
    reasoning that F may hold. Three differences between `before` and the prompt are understood: whitespace, a closed
    reasoning block at the prompt's end, and an open one. Anything else is SFT316.
    """
    stands = rendered.startswith(before)  # a template may cut reasoning out of the content that a sentinel stood for
    if stands and _squeezed(prompt) == _squeezed(before):
        return Seam(len(before))
    opened = open_reasoning(prompt, tags)
    after = _aligned(prompt, rendered)
    if after is not None and (after <= len(before) or (opened is not None and opened[1] in rendered[after:])):
        # F goes on where the prompt ends, but for whitespace: it continues the block, or writes more scaffold
        return Seam(after)
    found = _last_block(prompt, opened, tags) if stands else None
    if found is not None:
        head, block = found
        start = _behind_block(head, rendered, before, block, thought)
        between = "" if start is None else rendered[start : len(before)].strip()
        if start is not None and (scaffold or between in ("", wrapping)):
            return Seam(start if scaffold or between else len(before), inside_reasoning=opened)
    return _no_seam(prompt, before if stands else rendered)


def _last_block(
    prompt: str, opened: tuple[str, str] | None, tags: Sequence[tuple[str, str]]
) -> tuple[str, tuple[str, str]] | None:
    """What the prompt has before the reasoning block that ends it, and the tags of that block.

    The block may be open, closed, or no more than its closing tag: some templates write `</think>` alone to say that
    nothing is thought.
    """
    bare = prompt.rstrip()
    if opened is not None:
        return bare.removesuffix(opened[0]), opened
    closed = next((pair for pair in tags if pair[1] and bare.endswith(pair[1])), None)
    if closed is None:
        return None
    inner = bare.removesuffix(closed[1])
    at = inner.rfind(closed[0])
    # an opening tag before another closing one belongs to an earlier turn
    return (inner if at == -1 or closed[1] in inner[at:] else inner[:at]), closed


def _behind_block(head: str, rendered: str, before: str, block: tuple[str, str], thought: str) -> int | None:
    """Where F goes on after `head`, what the prompt has before its block, and after F's own block if it has one.

    F's own block may lack its opening tag: `</think>` alone where nothing is thought, or the thought and its end where
    only prompts say what opens it.
    """
    at = _aligned(head, rendered)
    if at is None or at > len(before):
        return len(before) if at is not None and _squeezed(head) == _squeezed(before) else None
    closing = rendered.find(block[1], at, len(before))
    if rendered.startswith(block[0], at):
        return None if closing == -1 else closing + len(block[1])
    if closing != -1 and rendered[at:closing].strip() in ("", thought.strip()):
        return closing + len(block[1])
    return len(head) if rendered.startswith(head) else at


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _aligned(prompt: str, rendered: str) -> int | None:
    """The index in `rendered` behind which it goes on after `prompt`, whitespace aside; None where they differ.

    `_aligned("a\\n<t>\\n", "a <t> x")` is 6, the index of `x`.
    """
    at = 0
    for word in prompt.split():
        for char in word:
            while at < len(rendered) and rendered[at].isspace():
                at += 1
            if at >= len(rendered) or rendered[at] != char:
                return None
            at += 1
    while at < len(rendered) and rendered[at].isspace():
        at += 1
    return at


def closed_block(tags: tuple[str, str], reasoning: str, prompt: str) -> str:
    """The rest of a reasoning block that the prompt opened: the reasoning, its closing tag, a blank line.

    `closed_block(("<think>", "</think>"), "So.", "<think>")` is `"\\nSo.\\n</think>\\n\\n"`.
    """
    inner = reasoning.strip("\n")
    lead = "" if prompt[-1:].isspace() else "\n"
    return f"{lead}{inner}\n{tags[1]}\n\n" if inner else f"{lead}\n{tags[1]}\n\n"


def filled_block(rendered: str, start: int, closing: str, thought: str) -> tuple[str, int]:
    """The thought in a block that a prompt opens and F, from `start`, closes with nothing in it; and where F goes on.

    Some templates write the reasoning of the last turn as that of an earlier one, empty, although their prompt asks
    for it. `filled_block("<think></think>A", 7, "</think>", "T")` is `("T", 7)`; where F has reasoning itself, or there
    is none, it is `("", start)`.
    """
    at = rendered.find(closing, start)
    gap = rendered[start:at]
    if at == -1 or gap.strip() or not thought.strip():
        return "", start
    half = len(gap) // 2
    return gap[:half] + thought.strip("\n") + gap[half:], at


class Block(msgspec.Struct, frozen=True):
    """How a template writes a reasoning block."""

    tags: tuple[str, str]
    lead: str
    """Whitespace behind the opening tag."""
    end: str
    """From the end of the reasoning through the closing tag and the whitespace behind it."""
    wrapping: str = ""
    """What the template writes between the block and the content, as `<|START_TEXT|>`."""

    def closed(self, reasoning: str, prompt: str) -> str:
        """What is missing of the block behind a prompt that opens it."""
        written = prompt[len(prompt.rstrip()) :]
        lead = self.lead.removeprefix(written) if self.lead.startswith(written) else ""
        inner = reasoning.strip("\n")
        return f"{lead}{inner}{self.end}"


_TAG = r"<[^<>\s]+>|\[[^\[\]\s]+\]|[^<>\[\]\s]+"
_TAG_AT_END = re.compile(rf"({_TAG})(\s*)$")
_TAG_AT_START = re.compile(rf"\s*({_TAG})\s*")


def written_block(text: str, thought: str, said: str, asked: str = "") -> Block | None:
    """The block around `thought` in a turn that a template rendered; None where it is not before what is `said`.

    `asked` is the prompt of that turn: where it says more than stands before the thought, it is what opens the block.

    `written_block("<a><think>\\nT\\n</think>\\nS", "T", "S")` has the tags `("<think>", "</think>")`, the lead `"\\n"`
    and the end `"\\n</think>\\n"`.
    """
    first, second = text.find(thought), text.find(said)
    if first == -1 or second < first:
        return None
    before, behind = text[:first], text[first + len(thought) : second]
    for opening, closing in REASONING_TAGS:
        if before.rstrip().endswith(opening) and behind.lstrip().startswith(closing):
            return _block(opening, closing, before, behind)
    opening, closing = asked[len(before) :], behind.strip()
    if asked.startswith(before) and opening.strip() and closing and closing not in opening:
        return Block((opening.strip(), closing), opening[len(opening.rstrip()) :], behind)
    first_tag, last_tag = _TAG_AT_END.search(before), _TAG_AT_START.match(behind)
    return _block(first_tag[1], last_tag[1], before, behind) if first_tag and last_tag else None


def _block(opening: str, closing: str, before: str, behind: str) -> Block:
    at = behind.index(closing) + len(closing)
    at += len(behind[at:]) - len(behind[at:].lstrip())
    return Block((opening, closing), before[len(before.rstrip()) :], behind[:at], behind[at:].strip())


def common_prefix(one: str, other: str) -> str:
    """`common_prefix("abc", "abd")` is `"ab"`."""
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:at]


def _no_seam(prompt: str, before: str) -> Finding:
    at = len(common_prefix(prompt, before))
    start = max(0, at - 24)
    return Finding(
        "SFT316",
        "the served prompt and the rendered turn differ before the reply: served "
        f"{prompt[start : at + 24]!r}, rendered {before[start : at + 24]!r}",
        fix="Choose template arguments under which both agree (--template-arg), or another template.",
    )


def content_end(rendered: str, content: str, behind: str) -> int | None:
    """One past `content` in `rendered`, if it stands there as it is, or trimmed, right before `behind`.

    `content_end("<a>Hi</a>\\n", " Hi ", "</a>\\n")` is 5.
    """
    if not rendered.endswith(behind):
        return None
    end = len(rendered) - len(behind)
    forms = (content, content.strip(), content.rstrip(), content.lstrip(), content.strip("\n"), content.lstrip("\n"))
    return end if any(rendered.endswith(form, 0, end) for form in forms) else None


def find_stop(behind: str, stops: Sequence[str], special: re.Pattern[str], markers: str) -> StopInfo:
    """The first stop in `behind`, what follows the content, and whether another special token stands before it.

    `find_stop("<|end|>\\n<eos>", ["<eos>"], ...)` has `end` 13 and `foreign` "<|end|>".
    """
    end: int | None = None
    best = len(behind) + 1
    for stop in stops:
        at = _find_unmarked(behind, stop, markers)
        if at != -1 and (at < best or (at == best and end is not None and at + len(stop) > end)):
            best, end = at, at + len(stop)
    foreign: str | None = None
    for match in special.finditer(behind):
        if match.start() >= best:
            break
        if match[0] not in stops and not (markers and behind[: match.start()].endswith(markers[0])):
            foreign = match[0]
            if end is not None:
                break
    return StopInfo(end, foreign)


def _find_unmarked(text: str, token: str, markers: str) -> int:
    at = text.find(token)
    while at > 0 and markers and text[at - 1] == markers[0]:
        at = text.find(token, at + 1)
    return at
