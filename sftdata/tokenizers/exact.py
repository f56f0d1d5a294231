"""The definition of the contract on ids, one example at a time, every prompt encoded from scratch.

This is what `encode` must agree with: slow, short, and used wherever cutting text would need a proof. Also here, as
they never go another way: protected content, texts without roles, and everything-trained conversations.
"""

from __future__ import annotations

import re

import numpy as np

from sftdata.records import IGNORE_INDEX, Finding, Rejection, TextExample
from sftdata.tokenizers.documents import Document
from sftdata.tokenizers.engines import Engine
from sftdata.tokenizers.vocabulary import Vocabulary

__all__ = ["Exact"]


class Exact:
    """Encodes one example at a time by the definition."""

    def __init__(self, vocabulary: Vocabulary, engine: Engine, *, stop_ids: frozenset[int], eos_id: int | None) -> None:
        self._vocabulary = vocabulary
        self._engine = engine
        self._stop_ids = stop_ids
        self._eos_id = eos_id
        self._newline = self._encode("\n")

    def encode(self, example: TextExample) -> list[Document] | Rejection:
        """The documents of `example`, or why there are none."""
        try:
            if example.kind == "chat":
                return self._chat(example)
            if example.kind == "text":
                return [self._text(example)]
            return [self._everything(example)]
        except _Unsafe as problem:
            return Rejection((problem.finding,))

    def _encode(self, text: str) -> list[int]:
        ids, _ = self._engine.encode([text])
        out: list[int] = ids.tolist()
        return out

    def _ids(self, text: str, markers: str) -> list[int]:
        """The ids that a server gives `text`: protected stretches as ordinary characters, all else as it stands.

        The pieces are those of transformers' `sanitize_control_tokens` (utils/chat_template_utils.py,
        encode_marked_chat): text is cut at the markers, every piece but the first is encoded behind a newline
        whose ids are taken off again, so that no dummy prefix appears.
        """
        if not markers or (markers[0] not in text and markers[1] not in text):
            return self._encode(text)
        opening, closing = markers[0], markers[1]
        pieces = re.split(f"{opening}([^{opening}{closing}]*){closing}|[{opening}{closing}]", text)
        ids = self._encode(pieces[0] or "")
        for place, piece in enumerate(pieces[1:], start=1):
            if not piece:
                continue
            if place % 2:
                ids += self._plain(piece)
            else:
                ids += self._behind_newline(piece)
        return ids

    def _behind_newline(self, piece: str) -> list[int]:
        ids = self._encode("\n" + piece)
        cut = len(self._newline)
        return ids[cut:] if ids[:cut] == self._newline else self._encode(piece)

    def _plain(self, piece: str) -> list[int]:
        """Encode the spelling of a control token as ordinary characters, and prove that it became no control id."""
        newline = self._engine.encode_plain("\n")
        ids = self._engine.encode_plain("\n" + piece)
        ids = ids[len(newline) :] if ids[: len(newline)] == newline else self._engine.encode_plain(piece)
        own = self._vocabulary.id_of(piece)
        if own in ids or any(one.id in ids for one in self._vocabulary.special):
            raise _Unsafe(
                Finding(
                    "SFT405",
                    f"the spelling {piece!r} in content cannot be encoded as ordinary characters",
                    fix="Clean the record, or use --control-tokens reject.",
                )
            )
        return ids

    def _chat(self, example: TextExample) -> list[Document] | Rejection:
        documents: list[Document] = []
        current = _Growing()
        for span in example.spans:
            prompt = self._ids(example.text[: span.start], example.markers)
            reply = example.text[span.start : span.stop]
            if not prompt:
                raise _Unsafe(Finding("SFT502", "the prompt before this reply encodes to no token at all"))
            if prompt[: len(current.ids)] != current.ids:
                documents.append(current.close())
                current = _Growing()
            joint = self._ids(example.text[: span.stop], example.markers)
            ids = joint[len(prompt) :] if joint[: len(prompt)] == prompt else []
            # unknown characters side by side are one unknown token, which may hold the reply's first ones
            if not ids or prompt[-1] == self._vocabulary.unk_id:
                apart = self._continue(reply, example.markers)
                current.straddles += apart != ids
                ids = apart
            if ids[-1] not in self._stop_ids:
                return Rejection((_no_stop(reply, example.markers),))
            current.add(prompt, ids, _unmarked(reply, example.markers))
        if current.spans:
            documents.append(current.close())
        return documents

    def _continue(self, reply: str, markers: str) -> list[int]:
        """The ids of `reply` as a continuation: no dummy prefix, no BOS, nothing merged with what stands before.

        A model that was served a prompt can only go on with whole tokens, so `reply` is encoded by itself. Where a
        tokenizer puts a dummy prefix before every text, `reply` is encoded behind one character that does not
        merge with it and whose ids are taken off again.
        """
        if self._vocabulary.position_free:
            return self._ids(reply, markers)
        for lead in ("\n", "a", "0", "."):
            head = self._encode(lead)
            ids = self._ids(lead + reply, markers)
            if ids[: len(head)] == head and len(ids) > len(head):
                return ids[len(head) :]
        raise _Unsafe(Finding("SFT502", "the reply cannot be encoded apart from its prompt with this tokenizer"))

    def _text(self, example: TextExample) -> Document:
        """A text as the tokenizer encodes a document, then eos once."""
        eos = self._eos_id
        if eos is None:
            raise _Unsafe(Finding("SFT420", "no eos token is known to end the text with"))
        if example.markers:
            frame = [one for one in self._engine.encode_document("") if one != eos]
            ids = frame + self._ids(example.text, example.markers)
        else:
            ids = self._engine.encode_document(example.text)
        return _all_trained(ids if ids[-1:] == [eos] else [*ids, eos])

    def _everything(self, example: TextExample) -> Document:
        return _all_trained(self._ids(example.text, example.markers))


class _Unsafe(Exception):
    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.message)


class _Growing:
    """A document while its turns are added."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.spans: list[tuple[int, int]] = []
        self.replies: list[str] = []
        self.straddles = 0

    def add(self, prompt: list[int], reply: list[int], text: str) -> None:
        self.ids = prompt + reply
        self.spans.append((len(prompt), len(self.ids)))
        self.replies.append(text)

    def close(self) -> Document:
        ids = np.array(self.ids, np.int32)
        labels = np.full(len(ids), IGNORE_INDEX, np.int32)
        for start, stop in self.spans:
            labels[start:stop] = ids[start:stop]
        return Document(ids, labels, tuple(self.spans), tuple(self.replies), self.straddles)


def _all_trained(ids: list[int]) -> Document:
    array = np.array(ids, np.int32)
    labels = array.copy()
    labels[:1] = IGNORE_INDEX
    return Document(array, labels, (), ())


def _unmarked(text: str, markers: str) -> str:
    return text.translate(dict.fromkeys(map(ord, markers))) if markers else text


def _no_stop(reply: str, markers: str) -> Finding:
    return Finding(
        "SFT403",
        f"the reply's ids do not end in a stop token (it ends in {_unmarked(reply, markers)[-20:]!r})",
        fix="Name a stop that is one id in this tokenizer with --stop.",
    )
