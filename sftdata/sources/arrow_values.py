"""Arrow values become plain JSON values, without the nulls that a table's common schema adds.

Arrow gives all structs of a column the same keys. Where one tool has the parameter `city` and another `unit`, each gets
both, one of them null, and a template that prints tools would print them. So **a null key inside a struct is dropped,
at any depth**; a null column stays, and so do nulls in lists, in maps and in JSON text (extension type `arrow.json`),
where no schema adds any. Drops below the first struct of a column (the keys of a message and the like) are told in a
finding, SFT020: there a null might have been meant.

Numbers, text and booleans are what they are; decimals, dates and times become text, bytes become text where they are
UTF-8 and base64 where not. What lives here: that conversion. What must not: files.
"""

from __future__ import annotations

import base64
import functools
import json
import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from sftdata.records import Finding
from sftdata.sources.parsing import parse

__all__ = ["Row", "RowReader"]

Row = tuple[Any, bytes | None, tuple[Finding, ...]]
"""A value, the raw text where the value does not hold everything, and what was found; as in `RawRecord`."""

_Convert = Callable[[Any], Any]
_PADDED = Finding("SFT020", "null keys inside nested objects were dropped: a table gives them to every row")


class _NotPlain(Exception):
    """A value that is no JSON."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


class RowReader:
    """Turns record batches of one schema into rows of plain JSON data."""

    def __init__(self, schema: pa.Schema) -> None:
        self._dropped = False
        self._target = pa.schema([field.with_type(_readable(field.type)) for field in schema])
        self._recast = self._target.types != schema.types
        pairs = [(field.name, self._converter(field.type, 0)) for field in self._target]
        self._converters = {name: convert for name, convert in pairs if convert is not None}

    def read(self, batch: pa.RecordBatch) -> list[Row]:
        """The rows of a batch, one for one; a row that cannot be read costs only itself."""
        try:
            batch.validate(full=True)
            rows = (batch.cast(self._target, safe=False) if self._recast else batch).to_pylist()
        except (pa.ArrowException, ValueError) as error:
            half = batch.num_rows // 2
            if half:
                return self.read(batch.slice(0, half)) + self.read(batch.slice(half))
            code = "SFT002" if "utf8" in str(error).lower().replace("-", "") else "SFT015"
            return [(None, None, (Finding(code, f"the row cannot be decoded: {error}"),))]
        return [self._plain(row) for row in rows]

    def _plain(self, row: dict[str, Any]) -> Row:
        self._dropped = False
        value = row
        try:
            for name, convert in self._converters.items():
                if row[name] is not None:
                    value = {**value, name: convert(row[name])}
        except _NotPlain as refusal:
            return None, json.dumps(row, default=str).encode(), (refusal.finding,)
        return value, None, (_PADDED,) if self._dropped else ()

    def _converter(self, kind: pa.DataType, level: int) -> _Convert | None:
        """What makes a value of this type plain; None where it is plain already. `level` counts structs around it."""
        if pa.types.is_struct(kind):
            return self._struct(kind, level)
        if _is_list(kind):
            inner = self._converter(kind.value_type, level)
            return None if inner is None else functools.partial(_each, inner)
        if pa.types.is_map(kind):
            convert = self._converter(kind.item_type, level) or _same
            return lambda pairs: {str(key): None if item is None else convert(item) for key, item in pairs}
        if pa.types.is_dictionary(kind):
            return self._converter(kind.value_type, level)
        return next((convert for applies, convert in _LEAVES if applies(kind)), str)

    def _struct(self, kind: pa.StructType, level: int) -> _Convert:
        converters = {field.name: self._converter(field.type, level + 1) for field in kind}

        def convert(struct: dict[str, Any]) -> dict[str, Any]:
            made = {}
            for name, item in struct.items():
                if item is not None:
                    inner = converters[name]
                    made[name] = item if inner is None else inner(item)
            if level and len(made) < len(struct):
                self._dropped = True
            return made

        return convert


def _each(convert: _Convert, items: list[Any]) -> list[Any]:
    return [None if item is None else convert(item) for item in items]


def _same(value: Any) -> Any:
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise _NotPlain(Finding("SFT008", f"{value} is not a JSON number"))
    return value


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _iso(value: Any) -> str:
    text: str = value.isoformat()
    return text


def _json(text: str) -> Any:
    value, findings = parse(text.encode())
    if findings:
        raise _NotPlain(findings[0])
    return value


def _is_json(kind: pa.DataType) -> bool:
    return getattr(kind, "extension_name", "") == "arrow.json"


def _is_list(kind: pa.DataType) -> bool:
    """Whether values are lists, however they are laid out."""
    return any(applies(kind) for applies in _LISTS)


def _is_text(kind: pa.DataType) -> bool:
    return any(applies(kind) for applies in _PLAIN)


_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_PLAIN = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_null,
)
_LEAVES: tuple[tuple[Callable[[pa.DataType], bool], _Convert | None], ...] = (
    (_is_text, None),
    (pa.types.is_floating, _finite),
    (_is_json, _json),
    (pa.types.is_binary, _text),
    (pa.types.is_large_binary, _text),
    (pa.types.is_fixed_size_binary, _text),
    (pa.types.is_binary_view, _text),
    (pa.types.is_timestamp, _iso),
    (pa.types.is_date, _iso),
    (pa.types.is_time, _iso),
)
"""How values without parts become plain; what is not listed becomes its text."""


def _readable(kind: pa.DataType) -> pa.DataType:
    """The same type with nanoseconds made microseconds, which is all that Python's own types hold."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_readable(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_readable(kind.value_type)))
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    return {pa.time64("ns"): pa.time64("us"), pa.duration("ns"): pa.duration("us")}.get(kind, kind)
