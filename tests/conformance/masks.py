"""Our replies beside the assistant mask that transformers computes from TRL's templates patched for training.

What lives here: the comparison, turn by turn, and a category for each kind of difference. TRL patches a template so
that `{% generation %}` marks replies; the patch often changes the text too: what is trained is not what is served.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from sftdata.records import Conversation
from tests.conformance.harness import Bench
from tests.oracle import FORMS, frozen_clock

__all__ = ["CATEGORIES", "Difference", "categories", "compare"]

CATEGORIES = {
    "same": "the same text is trained",
    "header trained": "their mask begins inside the served prompt: it trains what the server writes",
    "whitespace behind the stop": "their mask trains the line break that the template prints behind the stop, which no "
    "model is asked for",
    "text behind the stop": "their mask goes on behind the stop, where a model has long stopped",
    "stop untrained": "their mask ends before the stop: a model trained so never learns to end its turn",
    "scaffold untrained": "their mask begins after text that the served prompt does not hold, so that the model must "
    "emit what it was not trained on",
    "other text": "the patched template renders the reply otherwise than the original that serves",
    "other turns": "their mask marks another number of replies",
    "no mask": "the patched template raises or marks nothing where the original renders",
}
"""What each kind of difference means."""


class Difference(NamedTuple):
    """One turn, or one conversation where turns cannot be told apart."""

    categories: tuple[str, ...]
    ours: str
    theirs: str


def categories(prompt: str, ours: str, theirs: str, stop: str) -> tuple[str, ...]:
    """The kinds of difference between the texts trained for one turn, whose served prompt is `prompt`.

    `categories("<a>", "Hi</s>", "<a>Hi</s>\n", "</s>")` is ("header trained", "whitespace behind the stop").
    """
    kinds = []
    overlap = max(
        n for n in range(len(theirs) + 1) if prompt.endswith(theirs[:n]) or prompt.rstrip().endswith(theirs[:n])
    )
    if overlap:
        kinds.append("header trained")
        theirs = theirs[overlap:]
    body = ours.removesuffix(stop)
    if theirs.startswith(ours):
        rest = theirs[len(ours) :]
        kinds += (["text behind the stop"] if rest.strip() else ["whitespace behind the stop"]) if rest else []
    elif theirs.strip() and body.endswith(theirs):
        kinds += ["stop untrained"] if body == theirs else ["scaffold untrained", "stop untrained"]
    elif stop in theirs and ours.endswith(theirs[: theirs.rindex(stop) + len(stop)].lstrip()):
        kinds.append("scaffold untrained")
        kinds += ["whitespace behind the stop"] if not theirs.endswith(stop) else []
    else:
        kinds.append("other text")
    return tuple(kinds) or ("same",)


def compare(original: str, training: str, base: Any, conversation: Conversation) -> list[Difference] | None:
    """Differences turn by turn; None where the original refuses the conversation."""
    bench = Bench(original, base, also=training)
    flags = next((one.flags for one in reversed(bench.best(conversation)) if one is not None), ())
    product, stops = bench.settle(conversation, flags)
    if product.refusal is not None:
        return None
    judge = bench.judge(stops)
    ours = [
        (judge.decode(ids[:start]), judge.decode(ids[start:stop]))
        for ids, labels in product.documents
        for start, stop in _runs([one >= 0 for one in labels])
    ]
    theirs = _theirs(bench, training, conversation)
    if not theirs:
        return [Difference(("no mask",), repr([reply for _, reply in ours]), "")]
    if len(theirs) != len(ours):
        return [Difference(("other turns",), repr([reply for _, reply in ours]), repr(theirs))]
    return [
        Difference(categories(prompt, reply, other, next(one for one in stops if reply.endswith(one))), reply, other)
        for (prompt, reply), other in zip(ours, theirs, strict=True)
    ]


def _theirs(bench: Bench, training: str, conversation: Conversation) -> list[str]:
    judge = bench.judge(())
    last = conversation.messages[-1].content or ""
    for form in FORMS:
        messages, tools = judge.served(conversation, form)
        try:
            with frozen_clock():
                out = judge.tokenizer.apply_chat_template(
                    messages,
                    tools=tools,
                    chat_template=training,
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                )
        except Exception:  # noqa: BLE001  the next form may do
            continue
        ids = out["input_ids"]
        found = [judge.decode(ids[start:stop]) for start, stop in _runs(list(map(bool, out["assistant_masks"])))]
        if found and (last.strip() in found[-1] or not last):
            return found
    return []


def _runs(mask: list[bool]) -> Iterator[tuple[int, int]]:
    at = 0
    for trained, run in groupby(mask):
        size = len(list(run))
        if trained:
            yield at, at + size
        at += size
