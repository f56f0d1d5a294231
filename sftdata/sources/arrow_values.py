"""Arrow columns become plain JSON rows, without the nulls that a table's common schema adds.

Arrow gives all structs of a column the same keys. Where one tool has the parameter `city` and another `unit`, each gets
both, one of them null, and a template that prints tools would print them. So **a null key inside a struct is dropped,
at any depth**; a null column stays, and so do nulls in lists, in maps and in JSON text (extension type `arrow.json`),
where no schema adds any. Rows that lose nulls below the first struct of a column (the keys of a message and the like)
carry a finding, SFT020: there a null might have been meant.

Numbers, text and booleans are what they are; decimals, dates and times become text, bytes become text where they are
UTF-8 and base64 where not. Columns are converted whole, from the leaves up: half again as fast as row by row.

What lives here: that conversion. What must not: files.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sftdata.records import Finding, Int64Array
from sftdata.sources.parsing import parse

__all__ = ["Row", "rows_of"]

Row = tuple[Any, bytes | None, tuple[Finding, ...]]
"""A value, the raw text where the value does not hold everything, and what was found; as in `RawRecord`."""

_PADDED = Finding("SFT020", "null keys inside nested objects were dropped: a table gives them to every row")


class _NotPlain(ValueError):
    """A value that is no JSON."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    """The rows of a batch, one for one; a row that cannot be read costs only itself.

    `rows_of(pa.record_batch({"a": [1, None]}))` is `[({"a": 1}, None, ()), ({"a": None}, None, ())]`.
    """
    reader = _Reader()
    rows = np.arange(batch.num_rows, dtype=np.int64)
    try:
        batch.validate(full=True)
        columns = [reader.values(column, rows, 0) for column in batch.columns]
    except MemoryError:  # no fault of a row
        raise
    except (pa.ArrowException, ValueError) as error:
        half = batch.num_rows // 2
        return rows_of(batch.slice(0, half)) + rows_of(batch.slice(half)) if half else [_refused(batch, error)]
    names = batch.schema.names
    made = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)] or [{} for _ in rows]
    padded = reader.padded
    return [(value, None, (_PADDED,) if index in padded else ()) for index, value in enumerate(made)]


def _refused(batch: pa.RecordBatch, error: Exception) -> Row:
    """What is wrong with the only row of a batch."""
    if isinstance(error, _NotPlain):
        return None, json.dumps(batch.to_pylist()[0], default=str).encode(), (error.finding,)
    code = "SFT002" if "utf8" in str(error).lower().replace("-", "") else "SFT015"
    return None, None, (Finding(code, f"the row cannot be decoded: {error}"),)


class _Reader:
    """Turns arrays into lists of plain values, and remembers which rows lost nulls deep inside."""

    def __init__(self) -> None:
        self.padded: set[int] = set()

    def values(self, array: pa.Array, rows: Int64Array, level: int) -> list[Any]:
        """The values of an array; `rows` says which row each belongs to, `level` how many structs are around it."""
        kind = array.type
        if isinstance(array, pa.ExtensionArray):
            texts = self.values(array.storage, rows, level)
            return [_json(text) for text in texts] if kind.extension_name == "arrow.json" else texts
        for applies, method in _NESTED:
            if applies(kind):
                return method(self, array, rows, level)
        return next((convert for applies, convert in _LEAVES if applies(kind)), _spelled)(array)

    def structs(self, array: pa.StructArray, rows: Int64Array, level: int) -> list[Any]:
        """Objects, without the keys that are null."""
        fields = array.flatten()
        columns = [self.values(field, rows, level + 1) for field in fields]
        names = [field.name for field in array.type]
        made: list[Any]
        if not columns:
            made = [{} for _ in range(len(array))]
        elif not any(field.null_count for field in fields):
            return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        else:
            made = [
                {name: value for name, value in zip(names, row, strict=True) if value is not None}
                for row in zip(*columns, strict=True)
            ]
        present = array.is_valid().to_numpy(zero_copy_only=False)
        if level:
            for field in fields:
                if field.null_count:
                    self.padded.update(rows[present & field.is_null().to_numpy(zero_copy_only=False)].tolist())
        return made if present.all() else [item if there else None for item, there in zip(made, present, strict=True)]

    def lists(self, array: pa.Array, rows: Int64Array, level: int) -> list[Any]:
        """Lists of any layout."""
        lengths = pc.list_value_length(array)
        counts = lengths.fill_null(0).to_numpy(zero_copy_only=False)
        return _grouped(self.values(array.flatten(), np.repeat(rows, counts), level), lengths.to_pylist())

    def maps(self, array: pa.MapArray, rows: Int64Array, level: int) -> list[Any]:
        """Objects with keys of their own, whose nulls are meant."""
        array = array.take(np.arange(len(array)))  # a slice would show the keys of all rows
        counts = np.diff(array.offsets.to_numpy())
        items = self.values(array.items, np.repeat(rows, counts), level)
        pairs = list(zip(map(str, self.values(array.keys, rows, level)), items, strict=True))
        lengths = [
            count if there else None for count, there in zip(counts.tolist(), array.is_valid().to_pylist(), strict=True)
        ]
        return [None if group is None else dict(group) for group in _grouped(pairs, lengths)]

    def decoded(self, array: pa.DictionaryArray, rows: Int64Array, level: int) -> list[Any]:
        """Values that were stored once each."""
        return self.values(array.dictionary_decode(), rows, level)


def _grouped(items: list[Any], lengths: list[int | None]) -> list[Any]:
    """Items cut into lists of these lengths; None where a length is."""
    made: list[Any] = []
    at = 0
    for length in lengths:
        made.append(None if length is None else items[at : at + length])
        at += length or 0
    return made


def _json(text: str | None) -> Any:
    if text is None:
        return None
    value, findings = parse(text.encode())
    if findings:
        raise _NotPlain(findings[0])
    return value


def _texts(array: pa.Array) -> list[Any]:
    made: list[Any] = array.cast(pa.large_string()).to_numpy(zero_copy_only=False).tolist()
    return made


def _listed(array: pa.Array) -> list[Any]:
    made: list[Any] = array.to_pylist()
    return made


def _floats(array: pa.Array) -> list[Any]:
    array = array.cast(pa.float64())
    finite = np.isfinite(array.drop_null().to_numpy(zero_copy_only=False))
    if not finite.all():
        number = array.drop_null()[int(np.argmin(finite))].as_py()
        raise _NotPlain(Finding("SFT008", f"{number} is not a JSON number"))
    return _listed(array)


def _decoded_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _bytes(array: pa.Array) -> list[Any]:
    return [None if value is None else _decoded_bytes(value) for value in array.to_pylist()]


def _times(array: pa.Array) -> list[Any]:
    """ISO 8601, in microseconds at the finest, as Python has it."""
    if getattr(array.type, "unit", "") == "ns":
        finer = pa.types.is_timestamp(array.type)
        array = array.cast(pa.timestamp("us", array.type.tz) if finer else pa.time64("us"), safe=False)
    return [None if value is None else value.isoformat() for value in array.to_pylist()]


def _spelled(array: pa.Array) -> list[Any]:
    """Everything else as its text: decimals, durations."""
    if pa.types.is_duration(array.type):
        array = array.cast(pa.duration("us"), safe=False)
    return [None if value is None else str(value) for value in array.to_pylist()]


_Applies = Callable[[pa.DataType], bool]
_NESTED: tuple[tuple[_Applies, Callable[[_Reader, Any, Int64Array, int], list[Any]]], ...] = (
    (pa.types.is_struct, _Reader.structs),
    (pa.types.is_list, _Reader.lists),
    (pa.types.is_large_list, _Reader.lists),
    (pa.types.is_fixed_size_list, _Reader.lists),
    (pa.types.is_list_view, _Reader.lists),
    (pa.types.is_large_list_view, _Reader.lists),
    (pa.types.is_map, _Reader.maps),
    (pa.types.is_dictionary, _Reader.decoded),
)
_LEAVES: tuple[tuple[_Applies, Callable[[pa.Array], list[Any]]], ...] = (
    (pa.types.is_string, _texts),
    (pa.types.is_large_string, _texts),
    (pa.types.is_string_view, _texts),
    (pa.types.is_boolean, _listed),
    (pa.types.is_integer, _listed),
    (pa.types.is_null, _listed),
    (pa.types.is_floating, _floats),
    (pa.types.is_binary, _bytes),
    (pa.types.is_large_binary, _bytes),
    (pa.types.is_fixed_size_binary, _bytes),
    (pa.types.is_binary_view, _bytes),
    (pa.types.is_timestamp, _times),
    (pa.types.is_date, _times),
    (pa.types.is_time, _times),
)
"""How values without parts become plain; what is not listed becomes its text."""
