"""Hold documents to the maximum length by an explicit policy; what is cut or dropped is counted and marked.

    reject      the document is lost (SFT601)
    truncate    its first max_length tokens stay, marked as without stop (SFT610)
    split       a text is cut into pieces of at most max_length (SFT612); a chat is lost
    drop-turns  the conversation is shortened before rendering (`shorten`), else lost

What lives here: arrays in, arrays out, and the search for the shortest loss of turns. What must not: files, the ledger.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from sftdata.records import IGNORE_INDEX, Conversation, DocFlag, Finding, Int32Array, Int64Array, TextExample
from sftdata.tokenizers import EncodedExamples

__all__ = ["Fitted", "fit_documents", "shorten"]


class Fitted(msgspec.Struct, frozen=True):
    """Documents that fit: D documents, T tokens; fields as in `EncodedExamples`."""

    input_ids: Int32Array
    labels: Int32Array
    lengths: Int32Array
    owners: Int64Array
    flags: Int32Array
    lost: list[tuple[int, Finding]]
    """Examples (by owner) of which a document is lost."""
    findings: list[tuple[int, Finding]]
    rendered: int
    """Tokens that came in; `rendered - len(input_ids)` were dropped."""


def fit_documents(encoded: EncodedExamples, examples: Sequence[TextExample], max_length: int, policy: str) -> Fitted:
    """Apply `policy` to every document of more than `max_length` tokens."""
    lengths, owners = encoded.lengths, encoded.owners
    kinds = np.array([_KIND_FLAGS[example.kind] for example in examples], np.int32)
    flags = kinds[owners] if len(owners) else np.zeros(0, np.int32)
    rendered = int(lengths.sum())
    ends = np.cumsum(lengths, dtype=np.int64)
    trained = np.concatenate([np.zeros(1, np.int64), np.cumsum(encoded.labels != IGNORE_INDEX)])
    empty = trained[ends] == trained[ends - lengths]
    if not (empty.any() or (lengths > max_length).any()):
        return Fitted(encoded.input_ids, encoded.labels, lengths, owners, flags, [], [], rendered)
    pieces: list[tuple[int, int, int, int]] = []
    lost: list[tuple[int, Finding]] = []
    findings: list[tuple[int, Finding]] = []
    for place, (end, length, owner) in enumerate(zip(ends.tolist(), lengths.tolist(), owners.tolist(), strict=True)):
        flag, begin = int(flags[place]), end - length
        if empty[place]:
            lost.append((owner, Finding("SFT503", "no token of the example would be trained")))
        elif length <= max_length:
            pieces.append((begin, end, flag, owner))
        elif policy == "truncate" and trained[begin + max_length] > trained[begin]:
            pieces.append((begin, begin + max_length, flag | DocFlag.NO_STOP, owner))
            findings.append((owner, Finding("SFT610", f"{length - max_length} of {length} tokens were cut")))
        elif policy == "truncate":
            lost.append((owner, Finding("SFT503", f"no trained token is among the first {max_length} of {length}")))
        elif policy == "split" and flag & DocFlag.TEXT:
            pieces += _split(begin, end, flag, owner, max_length)
            findings.append((owner, Finding("SFT612", f"a text of {length} tokens was cut into pieces")))
        else:
            lost.append((owner, Finding("SFT601", f"{length} tokens, more than the maximum length of {max_length}")))
    return _cut(encoded, pieces, lost, findings, rendered)


_KIND_FLAGS = {"chat": 0, "text": DocFlag.TEXT, "everything": 0}


def _split(begin: int, end: int, flag: int, owner: int, size: int) -> list[tuple[int, int, int, int]]:
    """Pieces of at most `size` tokens; a last piece of one token would train nothing and joins no one, so the piece
    before gives it a token: 9 tokens by 4 become 4, 3, 2."""
    cuts = [*range(begin, end, size), end]
    if cuts[-1] - cuts[-2] == 1:
        cuts[-2] -= 1
    out = []
    for start, stop in itertools.pairwise(cuts):
        first, last = start == begin, stop == end
        marks = flag | (0 if first else DocFlag.CONTINUES) | (0 if last else DocFlag.NO_STOP)
        out.append((start, stop, marks, owner))
    return out


def _cut(
    encoded: EncodedExamples,
    pieces: list[tuple[int, int, int, int]],
    lost: list[tuple[int, Finding]],
    findings: list[tuple[int, Finding]],
    rendered: int,
) -> Fitted:
    table = np.array(pieces, np.int64).reshape(-1, 4)
    lengths = (table[:, 1] - table[:, 0]).astype(np.int32)
    ids = [encoded.input_ids[start:stop] for start, stop, _, _ in pieces]
    labels = [encoded.labels[start:stop] for start, stop, _, _ in pieces]
    input_ids = np.concatenate(ids) if ids else np.zeros(0, np.int32)
    targets = np.concatenate(labels) if labels else np.zeros(0, np.int32)
    # the first token of every document has nothing to be predicted from
    targets[np.cumsum(lengths, dtype=np.int64) - lengths] = IGNORE_INDEX
    return Fitted(input_ids, targets, lengths, table[:, 3], table[:, 2].astype(np.int32), lost, findings, rendered)


def shorten(conversation: Conversation, longest: Callable[[Conversation], int | None], max_length: int) -> int | None:
    """How many messages to drop so that all examples fit: the fewest whole blocks from the oldest on.

    A block runs from one user message to the next; system messages before the first stay. `longest` gives the length
    of a conversation's longest example, None where it cannot be rendered. None where even the last block is too long.
    Takes about log2(blocks) calls.
    """
    roles = [message.role for message in conversation.messages]
    head = next((i for i, role in enumerate(roles) if role not in {"system", "developer"}), len(roles))
    starts = [i for i, role in enumerate(roles) if role == "user" and i > head]
    # a shortened conversation must keep something to learn from
    starts = [i for i in starts if any(message.role == "assistant" for message in conversation.messages[i:])]

    def fits(start: int) -> bool:
        length = longest(without(conversation, head, start))
        return length is not None and length <= max_length

    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        if fits(starts[middle]):
            high = middle
        else:
            low = middle + 1
    return None if low == len(starts) else starts[low] - head


def without(conversation: Conversation, head: int, start: int) -> Conversation:
    """`conversation` without the messages from `head` up to `start`."""
    return msgspec.structs.replace(
        conversation,
        messages=conversation.messages[:head] + conversation.messages[start:],
        pointers=conversation.pointers[:head] + conversation.pointers[start:],
    )
