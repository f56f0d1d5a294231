"""Which inputs a table of ours was made from: a stamp in its Parquet metadata, so that it is not used with others.

What lives here: writing and reading the stamp. What must not: what the tables say. Inputs are told by content, not by
address: sha256 and number of records, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa

    from sftdata.pipeline.plan import PlannedInput

__all__ = ["Stamp", "StampedInput", "stamp_of", "stamped"]

_KEY = b"sftdata"


class StampedInput(msgspec.Struct, frozen=True):
    """One input of the run that made the table."""

    name: str
    sha256: str
    records: int
    tokens: int = 0
    """Of its documents before any limit, where the run counted them."""


class Stamp(msgspec.Struct, frozen=True):
    """What a table was made from."""

    inputs: list[StampedInput]
    tokenizer: str = ""
    """sha256; empty where the run had none."""

    def differs(self, inputs: Sequence[PlannedInput]) -> str:
        """How `inputs` differ from those of the table, in a clause; empty where they are the same in the same order."""
        if len(inputs) != len(self.inputs):
            return f"it was made from {len(self.inputs)} inputs, and there are {len(inputs)}"
        for place, (mine, theirs) in enumerate(zip(self.inputs, inputs, strict=True)):
            if (mine.sha256, mine.records) != (theirs.sha256, theirs.records):
                return f"its input {place + 1} was {mine.name} with {mine.records:,} records, and is now other content"
        return ""


def stamped(table: pa.Table, stamp: Stamp) -> pa.Table:
    """`table` with the stamp in its metadata."""
    metadata: dict[Any, Any] = {**(table.schema.metadata or {}), _KEY: msgspec.json.encode(stamp)}
    return table.replace_schema_metadata(metadata)


def stamp_of(schema: pa.Schema) -> Stamp | None:
    """The stamp of a table that was read; None where it has none, or one that cannot be read."""
    data = (schema.metadata or {}).get(_KEY)
    try:
        return None if data is None else msgspec.json.decode(data, type=Stamp)
    except msgspec.DecodeError:
        return None
