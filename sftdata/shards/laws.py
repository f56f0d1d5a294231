"""What the rows of a sealed dataset must be, given what its manifest says: capacity, ids, stops, records.

What lives here: laws of rows that the verifier holds beyond those of `decode`, which every reader holds. What must
not: files. One row group at a time; all that is remembered between two are four bits a record.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sftdata.records import IGNORE_INDEX, DocFlag, Int32Array, Int64Array
from sftdata.shards.decode import Fault, first_of, row_of
from sftdata.shards.faults import Problem
from sftdata.shards.layout import SPLITS
from sftdata.shards.manifest import Facts, Options, TokenizerEntry
from sftdata.shards.rows import Rows, offsets_of

__all__ = ["Bitmap", "RecordBook", "row_problems"]

_KNOWN_FLAGS = DocFlag.NO_STOP | DocFlag.CONTINUES | DocFlag.TEXT | DocFlag.ONE_OF_SEVERAL


def row_problems(rows: Rows, facts: Facts, fault: Fault) -> Iterator[Problem]:
    """Bins over capacity, ids that are not the tokenizer's, flags that contradict, spans without a stop."""
    sizes = rows.num_tokens
    for row, more in first_of(sizes > facts.config.max_length):
        message = f"it holds {sizes[row]} tokens, and max_length is {facts.config.max_length}{more}"
        yield fault("SFT607", f"row {row}", message)
    ids, tokenizer = rows.input_ids, facts.tokenizer
    limit = min(tokenizer.vocab_size, tokenizer.largest_id + 1)
    for token, more in first_of((ids < 0) | (ids >= limit)):
        message = f"token id {ids[token]} lies outside of [0, {limit}){more}"
        yield fault("SFT803", f"row {row_of(rows.token_offsets, token)}", message)
    flags = rows.doc_flags
    strange = (flags & ~_KNOWN_FLAGS) != 0
    strange |= ((flags & DocFlag.CONTINUES) != 0) & ((flags & DocFlag.TEXT) == 0)
    for document, more in first_of(strange):
        yield _of_document(rows, document, fault, "SFT801", f"its doc_flags are {flags[document]}{more}")
    yield from _stop_problems(rows, tokenizer, facts.config, fault)


def _stop_problems(rows: Rows, tokenizer: TokenizerEntry, config: Options, fault: Fault) -> Iterator[Problem]:
    """Every document trains something, to its last token; whole texts train all; trained spans end in a stop token.

    A span is a run of trained labels. Excused are the end of a document that is flagged as cut, and the documents
    of a dataset that trains everything; a text ends in eos.
    """
    trained = rows.labels != IGNORE_INDEX
    ends = offsets_of(rows.seq_lengths)
    counts = np.add.reduceat(trained.view(np.uint8), ends[:-1], dtype=np.int32)
    for document, more in first_of(counts == 0):
        yield _of_document(rows, document, fault, "SFT503", f"no token of it is trained{more}")
    is_text = (rows.doc_flags & DocFlag.TEXT) != 0
    whole = np.ones(len(counts), bool) if config.train_on == "everything" else is_text
    for document, more in first_of(whole & (counts != rows.seq_lengths - 1)):
        message = f"{counts[document]} of its {rows.seq_lengths[document]} tokens are trained, not all but one{more}"
        yield _of_document(rows, document, fault, "SFT606", message)

    behind = ~trained[ends[1:] - 1] & ((rows.doc_flags & DocFlag.NO_STOP) == 0)
    for document, more in first_of(behind & (counts > 0)):
        yield _of_document(rows, document, fault, "SFT606", f"tokens stand behind its last trained one{more}")

    ending = trained.copy()
    ending[:-1] &= ~trained[1:]
    ending[ends[1:] - 1] = trained[ends[1:] - 1]
    places = np.flatnonzero(ending)
    documents = np.searchsorted(ends, places, "right") - 1
    last_ids = rows.input_ids[places]
    stopped = np.isin(last_ids, np.array(tokenizer.stop_token_ids, np.int64))
    stopped |= is_text[documents] & (last_ids == (-1 if tokenizer.eos_token_id is None else tokenizer.eos_token_id))
    cut = (rows.doc_flags[documents] & DocFlag.NO_STOP) != 0
    excused = cut & (places == ends[documents + 1] - 1)
    if config.train_on == "everything":
        excused |= ~is_text[documents]
    for span, more in first_of(~stopped & ~excused):
        message = f"a trained span ends in token {last_ids[span]}, which is no stop{more}"
        yield _of_document(rows, int(documents[span]), fault, "SFT813", message)


def _of_document(rows: Rows, document: int, fault: Fault, code: str, message: str) -> Problem:
    row = row_of(rows.bins, document)
    return fault(code, f"row {row}, record {rows.record_ids[document]}", message)


class Bitmap:
    """A set of integers in `[0, size)`, one bit each."""

    def __init__(self, size: int) -> None:
        self._bits = np.zeros((size + 7) // 8, np.uint8)

    def add(self, members: Int64Array) -> None:
        """Put them in; repeated ones do no harm."""
        np.bitwise_or.at(self._bits, members >> 3, _bit(members))

    def holds(self, members: Int64Array) -> npt.NDArray[np.bool_]:
        """For each, whether it is in."""
        found: npt.NDArray[np.bool_] = (self._bits[members >> 3] & _bit(members)) != 0
        return found

    def __len__(self) -> int:
        return _count(self._bits)


def _bit(members: Int64Array) -> npt.NDArray[np.uint8]:
    bits: npt.NDArray[np.uint8] = np.left_shift(np.uint8(1), (members & 7).astype(np.uint8))
    return bits


def _count(bits: npt.NDArray[np.uint8]) -> int:
    return int(_ONES[bits].sum(dtype=np.int64))


_ONES = np.unpackbits(np.arange(256, dtype=np.uint8).reshape(-1, 1), axis=1).sum(axis=1, dtype=np.uint8)


class RecordBook:
    """Which records were rejected, and which are in the rows of each split."""

    def __init__(self, records: int) -> None:
        self.records = records
        self.rejected = Bitmap(records)
        self._written = {split: Bitmap(records) for split in SPLITS}
        self._alone = Bitmap(records)  # written by a document that is not one of several

    @property
    def num_written(self) -> int:
        """Distinct records in rows."""
        return sum(map(len, self._written.values()))

    def is_written(self, record_ids: Int64Array) -> npt.NDArray[np.bool_]:
        """For each, whether a row holds a document of it."""
        found: npt.NDArray[np.bool_] = np.any([one.holds(record_ids) for one in self._written.values()], axis=0)
        return found

    def known(self, record_ids: Int64Array) -> npt.NDArray[np.bool_]:
        """For each, whether the inputs have such a record."""
        return (record_ids >= 0) & (record_ids < self.records)

    def enter(self, split: str, record_ids: Int64Array, doc_flags: Int32Array, fault: Fault) -> Iterator[Problem]:
        """Note the documents of a row group; SFT808 and SFT705 for those that cannot be."""
        known = self.known(record_ids)
        for place, more in first_of(~known):
            message = f"the inputs have {self.records} records{more}"
            yield fault("SFT808", f"record {record_ids[place]}", message)
        ids, several = record_ids[known], (doc_flags[known] & DocFlag.ONE_OF_SEVERAL) != 0
        for place, more in first_of(self.rejected.holds(ids)):
            yield fault("SFT808", f"record {ids[place]}", f"it is written, and it is among the rejected{more}")
        for other, written in self._written.items():
            for place, more in first_of(written.holds(ids)) if other != split else ():
                yield fault("SFT705", f"record {ids[place]}", f"it is in {other} too{more}")
        _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
        again = ((counts[inverse] > 1) | self.is_written(ids)) & ~several
        for place, more in first_of(again | self._alone.holds(ids)):
            yield fault("SFT808", f"record {ids[place]}", f"it is written twice, and not as one of several{more}")
        self._written[split].add(ids)
        self._alone.add(ids[~several])
