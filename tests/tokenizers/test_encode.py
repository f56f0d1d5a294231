"""The fast ways of encoding give what the definition gives, for batches of nasty chats and every kind of tokenizer."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata.records import Rejection, Span, TextExample
from sftdata.tokenizers import Encoder, ReferenceEngine, load_files, load_vocabulary
from sftdata.tokenizers.encode import trained_mask
from sftdata.tokenizers.exact import Exact
from tests.strategies import examples, texts

STOP = "<|im_end|>"
OPEN = "<|im_start|>"
_CHANGED = ("e\u0301 ", "\u212b", "\u2126ngstr\u00f6m", "\u1100\u1161", "fi\ufb01")
"""What NFC or NFKC write otherwise, in fewer bytes or in as many."""


@functools.cache
def both(address: str) -> tuple[Encoder, Exact]:
    """The encoder, and the definition that it must agree with."""
    vocabulary = load_vocabulary(load_files(address))
    engine = ReferenceEngine(vocabulary)
    literals = [one.content for one in vocabulary.added]
    stop = STOP if STOP in literals else vocabulary.special_tokens.get("eos_token", literals[0])
    encoder = Encoder(vocabulary, engine, literals=literals, stop_tokens=(stop,))
    stop_id = vocabulary.id_of(stop)
    assert stop_id is not None
    return encoder, Exact(vocabulary, engine, stop_ids=frozenset({stop_id}), eos_id=None)


def said() -> st.SearchStrategy[str]:
    return st.one_of(texts(), st.sampled_from(_CHANGED), st.sampled_from(("\n", "\n\nHi", " a", "")))


@st.composite
def chats(draw: st.DrawFn, opening: str, stop: str) -> TextExample:
    text, spans = draw(st.sampled_from(("", f"{opening}system\nBe brief.{stop}\n", "no token ahead "))), []
    for turn in range(draw(st.integers(1, 3))):
        text += f"{opening}user\n{draw(said())}{stop}\n{opening}{draw(st.sampled_from(('assistant', 'a')))}\n"
        start = len(text)
        text += draw(said()) + stop
        spans.append(Span(start, len(text), turn))
        text += "\n" if draw(st.booleans()) else ""
    return TextExample(text[: spans[-1].stop], tuple(spans))


TOKENIZERS = ("builtin", "qwen2.5", "gpt2", "phi-3-mini", "mistral-v1", "minimind")


@pytest.mark.parametrize("name", TOKENIZERS)
@examples(20)
@given(data=st.data())
def test_a_batch_is_encoded_as_the_definition_encodes_each(name: str, shared_data: Path, data: st.DataObject) -> None:
    address = name if name == "builtin" else str(shared_data / "tokenizers" / name)
    encoder, exact = both(address)
    added = [one.content for one in encoder.vocabulary.added]
    stop = STOP if STOP in added else encoder.vocabulary.special_tokens.get("eos_token", added[0])
    opening = OPEN if OPEN in added else added[-1]
    batch = data.draw(st.lists(chats(opening, stop), min_size=1, max_size=4))
    encoded = encoder.encode(batch)
    bounds = np.concatenate([[0], np.cumsum(encoded.lengths)]).tolist()
    refused = {index for index, _ in encoded.rejected}
    for index, example in enumerate(batch):
        wanted = exact.encode(example)
        found = [place for place, owner in enumerate(encoded.owners.tolist()) if owner == index]
        if index in refused or isinstance(wanted, Rejection):
            assert not found
            continue
        for place, document in zip(found, wanted, strict=True):
            tokens = slice(bounds[place], bounds[place + 1])
            assert encoded.input_ids[tokens].tolist() == document.ids.tolist()
            assert encoded.labels[tokens].tolist() == document.labels.tolist()


def test_a_normaliser_that_moves_text_by_a_whole_turn_moves_no_mask(shared_data: Path) -> None:
    """NFC takes a byte from every U+212B and adds three to every U+0958: between them stands each byte a turn early."""
    encoder, exact = both(str(shared_data / "tokenizers" / "qwen2.5"))
    turn = f"{OPEN}user\na--{STOP}\n{OPEN}assistant\nbb{STOP}\n"
    assert len(turn) % 3 == 0
    text = f"{OPEN}user\n" + "\u212b" * len(turn) + f"{STOP}\n" + turn * 4
    first = len(text) - 4 * len(turn)
    ends = [first + place * len(turn) - 1 for place in (1, 2)]
    text += f"{OPEN}user\n" + "\u0958" * (len(turn) // 3) + f"{STOP}\n" + turn
    spans = tuple(Span(end - len(f"bb{STOP}"), end, place) for place, end in enumerate([*ends, len(text) - 1]))
    example = TextExample(text[:-1], spans)
    wanted = exact.encode(example)
    assert not isinstance(wanted, Rejection)
    assert encoder.encode([example]).labels.tolist() == wanted[0].labels.tolist()


def test_the_mask_covers_spans_and_nothing_else() -> None:
    assert trained_mask(6, np.array([1, 4]), np.array([3, 5])).tolist() == [False, True, True, False, True, False]
    assert not trained_mask(3, np.zeros(0, np.int64), np.zeros(0, np.int64)).any()
