"""The types of the arrows: one frozen value for every boundary between two stages.

    files ─► RawRecord ─► Conversation ─► TextExample ─► TokenBlock ─► Bins ─► Parquet shard
            sources      formats        templates      tokenizers    packing  shards

What lives here: these types and nothing that works on them. Raw dicts end in `formats`, text ends in
`tokenizers`; from there on there are arrays. `msgspec.Struct` is used because it is frozen, typed and several
times cheaper to build than a dataclass, and one of each is built for every record.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = [
    "IGNORE_INDEX",
    "Bins",
    "Conversation",
    "DocFlag",
    "Finding",
    "Int32Array",
    "Int64Array",
    "Message",
    "RawRecord",
    "Rejection",
    "Role",
    "Span",
    "TextExample",
    "TokenBlock",
    "ToolCall",
]

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Role = Literal["system", "developer", "user", "assistant", "tool"]

IGNORE_INDEX = -100
"""The label of a token that is not trained, as in torch's cross entropy."""


class DocFlag:
    """Bits of the shard column `doc_flags`."""

    NO_STOP = 1
    """The document ends without a stop token (truncated, or a piece of a split text)."""
    CONTINUES = 2
    """The document continues a text that an earlier document began."""
    TEXT = 4
    """The document is a text record, without roles."""
    ONE_OF_SEVERAL = 8
    """The document is one of several of its record: examples of one conversation, or passes of a mixture."""


class Finding(msgspec.Struct, frozen=True):
    """What a rule found in one record. Severity, name and the general fix stand in `sftdata.rules`."""

    code: str
    """`SFT101` and so on; a key of `sftdata.rules.RULES`."""
    message: str
    """What is wrong here, in one clause, without the place; never a whole sample."""
    pointer: str = ""
    """RFC 6901 JSON pointer into the raw record, such as `/messages/2/content`; empty for the record."""
    fix: str = ""
    """What to do about this very case; empty where the rule's own text says it all."""


class RawRecord(msgspec.Struct, frozen=True):
    """One record as a source gave it: a non-blank line, an element of a JSON list, or a row."""

    record_id: int
    """Position among the records of all inputs in order, from 0, rejected ones included."""
    source: str
    """The input's address as the user would recognise it."""
    line: int
    """Line (text), element's first line (JSON list) or row (tables), from 1."""
    value: Any
    """Plain JSON data (dict, list, str, int, float, bool, None); None where it could not be parsed."""
    raw: bytes | None = None
    """The bytes as they stood, kept only where `value` does not hold everything (it could not be parsed)."""
    findings: tuple[Finding, ...] = ()
    """Reading problems; one of severity error means that `value` must not be used."""


class Rejection(msgspec.Struct, frozen=True):
    """A record, or one of its examples, that is not written, and why. Never a log line: it is counted and kept."""

    findings: tuple[Finding, ...]
    """At least one of severity error; the first such is the one the ledger counts."""


class ToolCall(msgspec.Struct, frozen=True):
    """One call of an assistant turn, in normal form."""

    name: str
    arguments: dict[str, Any] | str
    """An object wherever the data held one or its JSON text; text only where it was not a JSON object."""
    id: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn, in normal form."""

    role: Role
    content: str | None = None
    """Text as it stood in the data, never trimmed; None only where there is none (a pure tool call)."""
    reasoning: str | None = None
    """What the model thought before the content, from any of its field names or an inline think tag."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    trained: bool | None = None
    """The record's own training flag (`weight`, `train`, `loss`, ...); None where it says nothing."""
    inline: str | None = None
    """The content as it stood, think block included, where `reasoning` was taken out of it: what a template that has
    no place for reasoning is given."""


class Conversation(msgspec.Struct, frozen=True):
    """A record in normal form: either a chat (`messages`) or a text without roles (`text`), never both."""

    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    """Tool definitions as the data gave them, JSON objects."""
    template_kwargs: dict[str, Any] | None = None
    """The record's own template arguments (`chat_template_kwargs`)."""
    pointers: tuple[str, ...] = ()
    """For every message, the JSON pointer of the raw value it came from; empty for a text."""
    format: str = ""
    """The format that read it: a key of `sftdata.formats.FORMATS`."""
    findings: tuple[Finding, ...] = ()
    """Warnings and information; a Conversation never carries an error."""


class Span(msgspec.Struct, frozen=True):
    """A reply inside a `TextExample`: `text[:start]` is its prompt as served, `text[start:stop]` the reply."""

    start: int
    stop: int
    message: int
    """Index of the assistant turn in `Conversation.messages`."""


class TextExample(msgspec.Struct, frozen=True):
    """A chain of prompts and replies as text.

    For every span, `text[:span.start]` is the prompt that a server renders, and `text[span.start:span.stop]` is
    what the model must emit after it, through its stop token. What stands behind the last span is not part of
    `text`. `<U+F0000>...<U+F0001>` (see `markers`) enclose content that spells a control token and must be
    encoded as ordinary characters.
    """

    text: str
    spans: tuple[Span, ...]
    kind: Literal["chat", "text", "everything"] = "chat"
    """`text`: a document without roles, everything but the first token trained; `everything`: a rendered
    conversation of which all tokens but the first are trained."""
    markers: str = ""
    """Two private characters that open and close protected content in `text`; empty where nothing is protected."""
    findings: tuple[Finding, ...] = ()


class TokenBlock(msgspec.Struct, frozen=True):
    """Encoded examples as flat arrays: E examples, T tokens in all."""

    input_ids: Int32Array
    """int32 `[T]`, the examples one after another."""
    labels: Int32Array
    """int32 `[T]`, unshifted targets; IGNORE_INDEX where untrained and at every example's first token."""
    lengths: Int32Array
    """int32 `[E]`, tokens an example; they sum to T and are all positive."""
    record_ids: Int64Array
    """int64 `[E]`, the record each example came from."""
    flags: Int32Array
    """int32 `[E]`, bits of `DocFlag`."""


class Bins(msgspec.Struct, frozen=True):
    """Which example goes into which bin: bin b holds the examples `order[offsets[b]:offsets[b + 1]]`."""

    order: Int64Array
    """int64 `[E]`, a permutation of the examples."""
    offsets: Int64Array
    """int64 `[B + 1]`, from 0 to E, strictly increasing."""
