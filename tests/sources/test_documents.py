"""JSON documents: told by content, split as they stream, and one broken element is one finding."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftdata.sources import documents, making
from sftdata.sources.compression import Decoded
from sftdata.sources.container import Container
from sftdata.sources.sniff import sniff
from tests.sources.reading import ReadWhole, codes

CHAT = '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]'
SNIFFED: dict[str, tuple[str, str]] = {
    "objects a line": ('{"a": 1}\n{"a": 2}\n', "lines"),
    "one object on a line": ('{"a": 1}', "lines"),
    "a first line cut off": ('{"a": {\n{"a": 2}\n', "lines"),
    "a first line cut off in a string": ('{"a": "x\n{"a": 2}\n', "lines"),
    "one object over several lines": ('{"a":\n 1}', "values"),
    "an object printed wide": ('{\n  "a": 1\n}\n{\n  "a": 2\n}', "values"),
    "a broken object printed wide": ('{\n  "a": nope\n}', "values"),
    "a list on one line": ('[{"a": 1}, {"a": 2}]\n', "list"),
    "a list printed wide": ('[\n  {\n  "a": 1\n}\n]', "list"),
    "a list, elements on lines": ('[{"a": 1},\n{"a": 2}]', "list"),
    "an empty list": ("[]", "list"),
    "a broken list": ('[{"a": nope},\n{"a": 2}]', "list"),
    "a chat a line": (CHAT + "\n" + CHAT + "\n", "lines"),
    "one chat on a line": (CHAT, "lines"),
    "a broken chat, then chats": (CHAT[:-4] + "\n" + CHAT + "\n", "lines"),
    "one chat printed wide": (json.dumps(json.loads(CHAT), indent=2), "values"),
    "numbers a line": ("1\n2\n", "lines"),
    "rubbish": ("what is this\n", "lines"),
    "CSV": ("instruction,output\na,b\n", "csv"),
    "nothing": ("", "lines"),
}


@pytest.mark.parametrize("name", SNIFFED)
@pytest.mark.parametrize("mark", ["", "\ufeff", " \n"])
def test_content_tells_the_form(name: str, mark: str) -> None:
    text, form = SNIFFED[name]
    assert sniff((mark + text).encode(), whole=True) == form


def test_a_first_line_longer_than_the_head_is_told_by_its_beginning() -> None:
    assert sniff(b'[{"a": "' + b"x" * 100, whole=False) == "list"
    assert sniff(b'[{"role": "user", "content": "hi"}, {"role": "ass', whole=False) == "values"
    assert sniff(b'{"a": "' + b"x" * 100, whole=False) == "lines"
    assert sniff(b'{"a": 1,\n "b": "' + b"x" * 100, whole=False) == "values"


GOOD = '{"a": "one, [two]"}'
BROKEN = {
    "a bare word": '{"a": nope}',
    "no closing quote": '{"a": "nope}',
    "no opening quote": '{"a": nope"}',
    "no closing brace": '{"a": "nope"',
    "no closing bracket": '{"a": ["nope"}',
    "one closing brace too many": '{"a": "nope"}}',
    "a quote too many": '{"a": "no"pe"}',
    "a comma too many": '{"a": "nope",}',
    "an escape that is none": '{"a": "\\q"}',
    "not UTF-8": '{"a": "\udce9"}',
    "a key twice": '{"a": 1, "a": 2}',
    "NaN": '{"a": NaN}',
    "a line end in a string": '{"a": "x\ny"}',
    "too deep": '{"a": ' + "[" * 5000 + "]" * 5000 + "}",
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("gap", ["", "\n", "\n  "])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_element_is_one_finding_and_the_rest_goes_on(
    name: str, gap: str, tmp_path: Path, read_whole: ReadWhole
) -> None:
    elements = [GOOD, GOOD, BROKEN[name], GOOD, GOOD]
    text = "[" + gap + ("," + gap).join(elements) + gap.rstrip(" ") + "]"
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    scan, records = read_whole(path)
    assert [record.value for record in records] == [json.loads(GOOD)] * 2 + [None] + [json.loads(GOOD)] * 2
    assert [line for line, _ in codes(records)] == [4 if gap else 1]
    assert scan.findings == ()
    assert records[2].raw == elements[2].encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("text", "values", "container"),
    [
        ('[{"a": 1}, {"a": 2}', [{"a": 1}, {"a": 2}], ["SFT015"]),
        ('[{"a": 1},\n', [{"a": 1}], ["SFT015"]),
        ('[{"a": 1} {"a": 2}]', [{"a": 1}, {"a": 2}], ["SFT001"]),
        ('[{"a": 1},, {"a": 2}]', [{"a": 1}, {"a": 2}], ["SFT001"]),
        ('[{"a": 1},\n]', [{"a": 1}], ["SFT001"]),
        ('[{"a": 1}] \n\n ', [{"a": 1}], []),
        ('[\n{"a": 1}] x', [{"a": 1}], ["SFT001"]),
        ("[]", [], []),
        ('[1, "two", null, [3], true]', [1, "two", None, [3], True], []),
        ('\ufeff[{"a": 1}]', [{"a": 1}], ["SFT003"]),
    ],
)
def test_what_is_wrong_between_elements_is_the_containers(
    text: str, values: list[object], container: list[str], tmp_path: Path, read_whole: ReadWhole
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    scan, records = read_whole(path)
    assert [record.value for record in records] == values
    assert codes(records) == []
    assert [finding.code for _, finding in scan.findings] == container


@pytest.mark.parametrize("cut", [30, 45, 50, 58])
def test_an_element_cut_off_by_the_end_of_the_file_is_one_finding(
    cut: int, tmp_path: Path, read_whole: ReadWhole
) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"[{GOOD},\n{GOOD},\n{GOOD}]"[:cut])
    scan, records = read_whole(path)
    assert [record.value for record in records[:-1]] == [json.loads(GOOD)] * (len(records) - 1)
    assert len(codes(records)) + len(scan.findings) == 1


def test_many_broken_elements_cost_no_more_than_sound_ones(tmp_path: Path, read_whole: ReadWhole) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + ",\n".join([GOOD, *(['{"a": "nope"', '{"a": nope}', '{"a": "x}'] * 3000), GOOD]) + "]")
    _, records = read_whole(path)
    assert len(codes(records)) == 9000
    assert len(records) == 9002


def test_values_go_on_after_a_broken_one(tmp_path: Path, read_whole: ReadWhole) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\n "a": 1\n}\n{\n "a": nope\n}\n{\n "a": 3\n}\n')
    _, records = read_whole(path)
    assert [record.value for record in records] == [{"a": 1}, None, {"a": 3}]
    assert codes(records) == [(4, "SFT001")]


def test_one_conversation_printed_wide_is_one_record(tmp_path: Path, read_whole: ReadWhole) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(json.loads(CHAT), indent=1))
    _, records = read_whole(path)
    assert [record.value for record in records] == [json.loads(CHAT)]


def test_an_element_too_long_is_one_finding(
    tmp_path: Path, read_whole: ReadWhole, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (documents, making):
        monkeypatch.setattr(module, "MAX_LINE", 5000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"a": 1}, {"a": "x" * 6000}, {"a": 2}, {"a": "y" * 60_000}, {"a": 3}], indent=0))
    _, records = read_whole(path)
    assert [record.value for record in records] == [{"a": 1}, None, {"a": 2}, None, {"a": 3}]
    assert codes(records) == [(5, "SFT017"), (11, "SFT017")]
    assert len(records[1].raw or b"") == 4096


def test_a_broken_element_without_end_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (documents, making):
        monkeypatch.setattr(module, "MAX_LINE", 1 << 20)
    windows = itertools.chain([b'[{"a": 1},\n{"a": "'], itertools.repeat(b"x" * (1 << 18), 160), [b',\n{"a": 2}]'])
    tracemalloc.start()
    try:
        found = list(documents.list_elements(windows, Container(Decoded((), "none"))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [lines for lines, _, _ in found] == [[1], [2], [3]]
    assert [finding and finding.code for _, _, finding in found] == [None, "SFT017", None]
    assert peak < 12 << 20


def test_a_list_that_never_ends_is_never_held() -> None:
    window = b",\n".join([b'{"a": "' + b"x" * 1000 + b'"}'] * 1000) + b",\n"
    windows: Iterator[bytes] = itertools.chain([b"["], itertools.repeat(window, 20), [b"1]"])
    tracemalloc.start()
    try:
        count = sum(1 for _ in documents.list_elements(windows, Container(Decoded((), "none"))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_001
    assert peak < 12 << 20
