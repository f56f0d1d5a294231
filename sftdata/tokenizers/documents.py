"""Encoded text: what the stages of this room hand to each other and to the pipeline. Types only."""

from __future__ import annotations

import msgspec

from sftdata.records import Finding, Int32Array, Int64Array, Rejection

__all__ = ["Batch", "Document", "EncodedExamples"]


class Document(msgspec.Struct, frozen=True):
    """One encoded example, or the part of one between two seams that serving would encode otherwise."""

    ids: Int32Array
    labels: Int32Array
    spans: tuple[tuple[int, int], ...]
    """Token positions of the replies."""
    replies: tuple[str, ...]
    """What each reply must decode to."""
    straddles: int = 0
    """Replies whose first token would have merged with the end of the prompt."""


class Batch(msgspec.Struct, frozen=True):
    """Documents encoded in one go: document d is example `owners[d]` and has `ids[bounds[d]:bounds[d + 1]]`."""

    ids: Int32Array
    bounds: Int64Array
    owners: Int64Array
    starts: Int64Array
    """int64 `[S]`, where each span's reply begins in `ids`; spans in the order of the documents."""
    stops: Int64Array
    """int64 `[S]`, one past its stop token."""
    span_documents: Int64Array
    """int64 `[S]`, the document each span belongs to."""


class EncodedExamples(msgspec.Struct, frozen=True):
    """What became of a list of examples: D documents, T tokens in all."""

    input_ids: Int32Array
    """int32 `[T]`."""
    labels: Int32Array
    """int32 `[T]`, unshifted, IGNORE_INDEX where untrained."""
    lengths: Int32Array
    """int32 `[D]`."""
    owners: Int64Array
    """int64 `[D]`: the index of the example each document came from, not decreasing. An example that had to be cut
    in two at a seam has several documents, a rejected one has none."""
    rejected: list[tuple[int, Rejection]]
    findings: list[tuple[int, Finding]]
    straddles: int
