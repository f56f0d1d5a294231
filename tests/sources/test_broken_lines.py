"""Every way a line can be broken is one finding on that record, and the rest of the file goes on."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sftdata.sources import lines as line_module
from sftdata.sources import making, streams
from sftdata.sources.lines import blocks
from sftdata.sources.parsing import MAX_DEPTH, parse, parse_all
from tests.sources.reading import ReadWhole, codes

GOOD = b'{"text": "good"}'
DEEP = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH

BROKEN: dict[str, tuple[bytes, str]] = {
    "not JSON": (b'{"text": nope}', "SFT001"),
    "cut off": (b'{"text": "go', "SFT001"),
    "two values": (b'{"a": 1} {"b": 2}', "SFT001"),
    "a comma between two values": (b'{"a": 1}, {"b": 2}', "SFT001"),
    "half a list": (b"[1", "SFT001"),
    "single quotes": (b"{'text': 1}", "SFT001"),
    "control character in a string": (b'{"text": "a\x01b"}', "SFT001"),
    "only NUL": (b"\0\0\0", "SFT001"),
    "too deep": (b"[" + DEEP + b"]", "SFT001"),
    "a bomb": (b"[" * 100_000, "SFT001"),
    "a bomb of objects": (b'{"a":' * 100_000, "SFT001"),
    "an integer of 5,000 digits": (b'{"n": ' + b"9" * 5000 + b"}", "SFT001"),
    "Latin-1": ('{"text": "é"}'.encode("latin-1"), "SFT002"),
    "UTF-8 of a surrogate": (b'{"text": "\xed\xa0\x80"}', "SFT002"),
    "overlong UTF-8": (b'{"text": "\xc0\xaf"}', "SFT002"),
    "a lone high surrogate": (b'{"text": "\\ud800"}', "SFT004"),
    "a lone low surrogate in a key": (b'{"\\udfff": 1}', "SFT004"),
    "surrogates the wrong way round": (b'{"text": "\\udc00\\ud800"}', "SFT004"),
    "NaN": (b'{"n": NaN}', "SFT008"),
    "Infinity": (b'{"n": [1, -Infinity]}', "SFT008"),
    "a number too large": (b'{"n": 1e999}', "SFT008"),
    "the same key twice": (b'{"a": 1, "a": 1}', "SFT009"),
    "the same key twice, inside": (b'[{"b": {"a": 1, "c": [], "a": 2}}]', "SFT009"),
    "the same key spelled twice": (b'{"a": 1, "\\u0061": 2}', "SFT009"),
    "the same key, hidden by escaped quotes": (
        b'{"a": 1, "a": "\\u0022\\u0022"}',
        "SFT009",
    ),
}

SOUND: dict[str, tuple[bytes, Any]] = {
    "a quote escaped both ways": (b'{"a": "\\"\\u0022"}', {"a": '""'}),
    "a backslash before u0022": (b'{"a": "\\\\u0022"}', {"a": "\\u0022"}),
    "a key of an inner object": (b'{"a": {"a": 1}}', {"a": {"a": 1}}),
    "a pair of surrogates": (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    "an integer beyond 64 bits": (b'{"n": 123456789012345678901234567890}', {"n": 123456789012345678901234567890}),
    "an integer just beyond 64 bits": (b"[-9223372036854775809]", [-9223372036854775809]),
    "the largest unsigned integer": (b"[18446744073709551615]", [18446744073709551615]),
    "many digits behind the point": (b"[0.1234567890123456789012]", [0.1234567890123456789012]),
    "as deep as may be": (DEEP, json.loads(DEEP)),
    "a number": (b"1", 1),
    "a text": (b'"text"', "text"),
    "null": (b"null", None),
    "a list of messages": (b'[{"role": "user"}]', [{"role": "user"}]),
    "white space around": (b' \t{"a": 1} ', {"a": 1}),
    "the separators that are no line ends": (
        '{"a": "\u2028\u2029\x85\x0c"}'.replace("\x0c", "").encode(),
        {"a": "\u2028\u2029\x85"},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_one_finding_and_the_rest_goes_on(name: str, tmp_path: Path, read_whole: ReadWhole) -> None:
    line, code = BROKEN[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join((GOOD, line, GOOD, b"")))
    scan, records = read_whole(path)
    assert scan.records == 3
    assert codes(records) == [(2, code)]
    assert [record.value for record in records] == [{"text": "good"}, None, {"text": "good"}]
    assert [record.raw for record in records] == [None, line, None]
    assert line.decode("latin-1") not in records[1].findings[0].message


@pytest.mark.parametrize("name", SOUND)
def test_an_odd_line_is_read_exactly(name: str) -> None:
    line, value = SOUND[name]
    assert parse(line) == (value, ())
    assert parse_all([GOOD, line, GOOD]) == ([{"text": "good"}, value, {"text": "good"}], {})


def test_a_line_is_parsed_alike_alone_and_among_others() -> None:
    lines = [line for line, _ in (*BROKEN.values(), *SOUND.values())]
    values, found = parse_all(lines)
    assert [(value, found.get(index, ())) for index, value in enumerate(values)] == [parse(line) for line in lines]


def test_findings_say_where_in_the_line() -> None:
    messages = {name: parse(line)[1][0].message for name, (line, _) in BROKEN.items()}
    assert messages["not JSON"] == "not JSON from character 10: expecting value"
    assert messages["cut off"] == "not JSON from character 10: unterminated string starting at"
    assert messages["half a list"] == "the text ends before the JSON does"
    assert messages["Latin-1"] == "byte 11 is not UTF-8 (0xe9)"
    assert messages["the same key twice"] == 'the key "a" stands more than once in one object'
    assert messages["too deep"] == "nested more than 253 levels deep"
    assert messages["Infinity"] == "-Infinity is not a JSON number"


def test_a_key_of_any_length_is_shown_short() -> None:
    key = b'"' + b"k" * 1000 + b'"'
    assert len(parse(b"{" + key + b": 1, " + key + b": 2}")[1][0].message) < 100


def test_blank_lines_are_no_records_and_count_as_lines(tmp_path: Path, read_whole: ReadWhole) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n\r\n  \t\r\n" + GOOD + b"\n\n\n" + GOOD + b"\n \n\xef\xbb\xbf\n")
    _, records = read_whole(path)
    assert [record.line for record in records] == [4, 7]
    assert codes(records) == []


def test_line_ends_of_windows_are_line_ends(tmp_path: Path, read_whole: ReadWhole) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"\r\n" + b"{bad}\r\n" + b"\r\n" + GOOD)
    _, records = read_whole(path)
    assert [(record.line, record.value is None) for record in records] == [(1, False), (2, True), (4, False)]
    assert records[1].raw == b"{bad}"


@pytest.mark.parametrize("suffix", ["jsonl", "json", "ndjson"])
def test_a_byte_order_mark_is_taken_off_and_told_once(suffix: str, tmp_path: Path, read_whole: ReadWhole) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\n" + GOOD + b"\n")
    scan, records = read_whole(path)
    assert [record.value for record in records] == [{"text": "good"}] * 2
    assert codes(records) == [(1, "SFT003")]
    assert scan.findings == ()


def test_a_file_without_records_has_none(tmp_path: Path, read_whole: ReadWhole) -> None:
    for content in (b"", b"\n\n", b" ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"):
        path = tmp_path / "a.jsonl"
        path.write_bytes(content)
        scan, records = read_whole(path)
        assert (scan.records, scan.chunks, records) == (0, (), [])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_line_too_long_is_one_finding_and_its_beginning_is_kept(
    suffix: str, tmp_path: Path, read_whole: ReadWhole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEAD", 20)
    monkeypatch.setattr(line_module, "MAX_LINE", 50)
    monkeypatch.setattr(line_module, "KEPT", 10)
    monkeypatch.setattr(making, "MAX_LINE", 50)
    path = tmp_path / f"a{suffix}"
    just = b'"' + b"y" * 48 + b'"'
    content = b"\n".join((GOOD, b'"' + b"x" * 60 + b'"', b" " * 60, just, b'"' + b"z" * 90))
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    scan, records = read_whole(path)
    assert scan.records == 4
    assert codes(records) == [(2, "SFT017"), (5, "SFT017")]
    assert records[1].raw == b'"xxxxxxxxx'
    assert records[1].findings[0].message == "a line of 62 bytes; the longest that is read has 50"
    assert records[2].value == "y" * 48


def test_two_gigabytes_without_a_line_end_are_never_held() -> None:
    window = b"x" * (1 << 20)
    tracemalloc.start()
    try:
        found = list(blocks(itertools.chain([b"1\n"], itertools.repeat(window, 2048), [b"\n2\n"])))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [(block.first_line, block.length) for block in found] == [(1, 0), (2, 2 << 30), (3, 0)]
    assert peak < 200 << 20
