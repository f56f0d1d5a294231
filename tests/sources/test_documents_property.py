"""Documents, CSV and tables: whatever is written comes back, and nothing broken passes in silence."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from hypothesis import assume, given
from hypothesis import strategies as st

from sftdata.sources import csv_rows, documents
from sftdata.sources.arrow_values import rows_of
from sftdata.sources.compression import Decoded
from sftdata.sources.container import Container
from sftdata.sources.parsing import parse
from sftdata.sources.spool import Spooled
from tests.strategies import examples, json_values, texts

_LAW = examples(60)
_Read = Callable[[Iterator[bytes], Container], Iterator[Spooled]]


def _windows(content: bytes, seed: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    at = 0
    while at < len(content):
        size = chance.choice((1, 3, 20, 100))
        yield content[at : at + size]
        at += size


def _read(read: _Read, content: bytes, seed: int) -> tuple[list[Any], list[int], list[str]]:
    """Values, lines, and the codes of all findings."""
    container = Container(Decoded((), "none"))
    values: list[Any] = []
    lines: list[int] = []
    found: list[str] = []
    for numbers, texts_, finding in read(_windows(content, seed), container):
        for text in texts_:
            value, findings = parse(text) if finding is None else (None, (finding,))
            values.append(value)
            found += [one.code for one in findings]
        lines += numbers
    return values, lines, found + [one.code for _, one in container.findings]


_LAYOUTS = st.fixed_dictionaries(
    {
        "indent": st.sampled_from([None, 0, 2, "\t"]),
        "ensure_ascii": st.booleans(),
        "separators": st.sampled_from([None, (",", ":"), (" ,\r\n", " :\n")]),
    }
)


@_LAW
@given(values=st.lists(json_values(), max_size=6), layout=_LAYOUTS, seed=st.integers(0, 1000))
def test_a_list_written_in_any_layout_is_read_element_by_element(
    values: list[Any], layout: dict[str, Any], seed: int
) -> None:
    text = json.dumps(values, **layout)
    read, lines, found = _read(documents.list_elements, text.encode(), seed)
    assert (read, found) == (values, [])
    assert lines == sorted(lines)


@_LAW
@given(values=st.lists(st.dictionaries(texts(), json_values(), max_size=3), max_size=5), layout=_LAYOUTS)
def test_values_one_after_another_are_read_one_by_one(values: list[Any], layout: dict[str, Any]) -> None:
    text = "\n".join(json.dumps(value, **layout) for value in values)
    assert _read(documents.values, text.encode(), 1)[::2] == (values, [])


@_LAW
@given(
    values=st.lists(st.fixed_dictionaries({"a": json_values()}), min_size=1, max_size=4),
    layout=_LAYOUTS,
    at=st.integers(1, 400),
    inserted=st.sampled_from(["", '"', "{", "}", "[", "]", ",", ":", "\\", "\n", "x", "1", " ", "\x00", "é"]),
    removed=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_no_broken_list_passes_in_silence(
    values: list[Any], layout: dict[str, Any], at: int, inserted: str, removed: int, seed: int
) -> None:
    text = json.dumps(values, **layout)
    at = min(at, len(text))
    text = text[:at] + inserted + text[at + removed :]
    assume(text.startswith("["))
    read, _, found = _read(documents.list_elements, text.encode(), seed)
    try:
        expected = json.loads(text)
    except ValueError:
        assert found
    else:
        assert found or read == expected
    assert _read(documents.list_elements, text.encode(), seed + 1)[::2] == (read, found)


_CELLS = st.one_of(texts(), st.text("\"',\n\r ;é", max_size=6)).map(lambda text: text.replace("\x00", ""))


@_LAW
@given(
    rows=st.lists(st.tuples(_CELLS, _CELLS, _CELLS), max_size=6),
    style=st.sampled_from([(csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_MINIMAL, "\r\n")]),
    seed=st.integers(0, 1000),
)
def test_rows_that_a_csv_library_wrote_are_read_back(
    rows: list[tuple[str, str, str]], style: tuple[Any, str], seed: int
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=style[0], lineterminator=style[1])
    writer.writerow(("a", "b", "c"))
    writer.writerows(rows)
    read, lines, found = _read(csv_rows.rows, text.getvalue().encode(), seed)
    assert (read, found) == ([dict(zip("abc", row, strict=True)) for row in rows], [])
    assert lines == sorted(set(lines))


_INNER = pa.struct([("c", pa.int64()), ("d", pa.list_(pa.string())), ("m", pa.map_(pa.string(), pa.int8()))])
_OUTER = pa.struct([("a", pa.string()), ("b", _INNER), ("e", pa.float64())])
_TYPES = {"x": pa.list_(_OUTER), "y": _OUTER, "z": pa.list_(pa.list_(pa.bool_()), 2)}


def _maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


def _pairs(made: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(made.items())


_INNERS = st.fixed_dictionaries(
    {
        "c": _maybe(st.integers(-5, 5)),
        "d": _maybe(st.lists(_maybe(texts()), max_size=3)),
        "m": _maybe(st.dictionaries(st.sampled_from("pqr"), _maybe(st.integers(0, 9)), max_size=2).map(_pairs)),
    }
)
_OUTERS = st.fixed_dictionaries({"a": _maybe(texts()), "b": _maybe(_INNERS), "e": _maybe(st.floats(-1, 1))})
_ROWS = st.fixed_dictionaries(
    {
        "x": _maybe(st.lists(_maybe(_OUTERS), max_size=3)),
        "y": _maybe(_OUTERS),
        "z": _maybe(st.lists(_maybe(st.lists(_maybe(st.booleans()), max_size=2)), min_size=2, max_size=2)),
    }
)


def _without_padding(value: Any) -> Any:
    """The plain definition: no key of a struct is null; maps (lists of pairs here) are objects as they are."""
    if isinstance(value, dict):
        return {
            key: dict(item) if key == "m" else _without_padding(item) for key, item in value.items() if item is not None
        }
    return [_without_padding(item) for item in value] if isinstance(value, list) else value


@_LAW
@given(rows=st.lists(_ROWS, max_size=8), begin=st.integers(0, 8), count=st.integers(0, 8))
def test_any_slice_of_a_table_gives_its_rows_without_padding(
    rows: list[dict[str, Any]], begin: int, count: int
) -> None:
    whole = pa.RecordBatch.from_pylist(rows, schema=pa.schema(_TYPES.items()))
    wanted = rows[begin : begin + count]
    read = rows_of(whole.slice(begin, count))
    assert [value for value, _, _ in read] == [
        {key: value if value is None else _without_padding(value) for key, value in row.items()} for row in wanted
    ]
    told = [bool(findings) for _, _, findings in read]
    inner = [[one["b"] for one in (*(row["x"] or []), row["y"]) if one and one["b"] is not None] for row in wanted]
    assert told == [any(None in one.values() for one in ones) for ones in inner]
