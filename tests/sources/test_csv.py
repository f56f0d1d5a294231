"""CSV: quoting, marks, short and long rows, and rows that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from sftdata.errors import InputError
from sftdata.sources import csv_rows, making
from tests.sources.reading import ReadWhole, codes


def _read(content: bytes, tmp_path: Path, read_whole: ReadWhole) -> tuple[list[object], list[tuple[int, str]]]:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    scan, records = read_whole(path)
    return (
        [record.value for record in records],
        codes(records) + [(line, finding.code) for line, finding in scan.findings],
    )


CASES: dict[str, tuple[bytes, list[object], list[tuple[int, str]]]] = {
    "line ends and commas inside quotes": (b'a,b\r\n"x,\n""y""",2\r\n', [{"a": 'x,\n"y"', "b": "2"}], []),
    "every value is text": (b"a,b\n1,true\n", [{"a": "1", "b": "true"}], []),
    "an empty field is empty text": (b'a,b\n,""\n', [{"a": "", "b": ""}], []),
    "a field that is missing is null": (b"a,b,c\n1\n", [{"a": "1", "b": None, "c": None}], []),
    "blank lines are no rows": (b"\na,b\n\n1,2\n  \n3,4\n\n", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}], []),
    "a mark is taken off": (b"\xef\xbb\xbfa,b\n1,2\n", [{"a": "1", "b": "2"}], [(1, "SFT003")]),
    "a mark before a quoted name": (b'\xef\xbb\xbf"a",b\n1,2\n', [{"a": "1", "b": "2"}], [(1, "SFT003")]),
    "no line end at the end": (b"a,b\n1,2", [{"a": "1", "b": "2"}], []),
    "columns without a name": (b"a,,\n1,2,\n", [{"a": "1", "column_2": "2", "column_3": ""}], []),
    "empty fields too many": (b"a,b\n1,2,,\n", [{"a": "1", "b": "2"}], []),
    "a field too many": (b"a,b\n1,2,3\n4,5\n", [None, {"a": "4", "b": "5"}], [(2, "SFT019")]),
    "a quote inside quotes": (b'a,b\n"say "hi" to",2\n4,5\n', [None, {"a": "4", "b": "5"}], [(2, "SFT019")]),
    "a quote inside a bare field": (b'a,b\n5" pipe,2\n', [{"a": '5" pipe', "b": "2"}], []),
    "a quote never closed": (
        b'a,b\n1,2\n"open,3\n4,5\nstray\n6,7\n',
        [{"a": "1", "b": "2"}, None, {"a": "4", "b": "5"}, None, {"a": "6", "b": "7"}],
        [(3, "SFT019"), (5, "SFT019")],
    ),
    "a quote never closed on the last line": (b'a,b\n1,2\n"open,3', [{"a": "1", "b": "2"}, None], [(3, "SFT019")]),
    "bytes that are not UTF-8": (b"a,b\n\xe9,2\n3,\xc3\xa9\n", [None, {"a": "3", "b": "é"}], [(2, "SFT002")]),
    "a header alone": (b"a,b\n", [], []),
    "nothing at all": (b"", [], []),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", CASES)
def test_rows_are_read_as_the_standard_has_it(name: str, tmp_path: Path, read_whole: ReadWhole) -> None:
    content, values, findings = CASES[name]
    assert _read(content, tmp_path, read_whole) == (values, findings)


def test_a_broken_row_keeps_its_bytes(tmp_path: Path, read_whole: ReadWhole) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\r\n1,2,\xe9\r\n")
    _, [record] = read_whole(path)
    assert record.raw == b"1,2,\xe9"
    assert record.findings[0].message == "the row has 3 fields and the header 2"


@pytest.mark.parametrize(
    ("header", "what"), [(b"a,b,a\n", "names the column 'a' twice"), (b'a,"b" c\n', "the header cannot be read")]
)
def test_a_header_that_cannot_be_used_is_refused(
    header: bytes, what: str, tmp_path: Path, read_whole: ReadWhole
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(header + b"1,2,3\n")
    with pytest.raises(InputError, match=what) as error:
        read_whole(path)
    assert str(path) in str(error.value)


def test_a_row_too_long_is_one_finding(tmp_path: Path, read_whole: ReadWhole, monkeypatch: pytest.MonkeyPatch) -> None:
    from sftdata.sources import lines

    for module in (csv_rows, making, lines):
        monkeypatch.setattr(module, "MAX_LINE", 2 << 20)
    content = b"a,b\n1," + b"x" * (3 << 20) + b"\n3,4\n"
    values, findings = _read(content, tmp_path, read_whole)
    assert values == [None, {"a": "3", "b": "4"}]
    assert findings == [(2, "SFT017")]
