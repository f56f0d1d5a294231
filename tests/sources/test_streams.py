"""Standard input and pipes: read once, whatever is in them, and never held."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sftdata import sources
from sftdata.errors import InputError
from sftdata.sources import streams
from tests.sources.reading import ReadWhole

VALUES = [{"text": f"line {index}"} for index in range(5000)]
LINES = b"".join(json.dumps(value).encode() + b"\n" for value in VALUES)


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(VALUES), sink)
    return sink.getvalue()


CONTENTS = {
    "lines": LINES,
    "a list": json.dumps(VALUES).encode(),
    "CSV": b"text,n\n" + b"".join(b"%s,1\n" % v["text"].encode() for v in VALUES),
    "gzip": gzip.compress(LINES),
    "Parquet": _parquet(),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_standard_input_is_told_by_its_content(
    name: str, read_whole: ReadWhole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CONTENTS[name])))
    scan, records = read_whole("-")
    assert [{"text": record.value["text"]} for record in records] == VALUES
    assert {record.source for record in records} == {"-"}
    assert scan.size == len(CONTENTS[name])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.parametrize("name", ["pipe", "pipe.jsonl"])
def test_a_named_pipe_is_read_once_and_from_the_spool_afterwards(
    name: str, tmp_path: Path, read_whole: ReadWhole
) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(LINES))
    writer.start()
    scan, records = read_whole(path)
    writer.join()
    assert [record.value for record in records] == VALUES
    assert scan.records == 5000


_CHILD = """
import resource, sys
from pathlib import Path
from sftdata import sources
spool = Path(sys.argv[1])
[item] = sources.resolve(["-"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scan = sources.scan(item, spool)
count = 0
for block in sources.read(item, 0, scan.chunks[-1].stop, first_record=0, first_line=1, spool=spool):
    count += len(block)
print(scan.size, scan.records, count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in KiB as Linux does")
def test_a_large_input_is_streamed_in_little_memory(tmp_path: Path) -> None:
    line = b'{"text": "' + b"x" * 1000 + b'"}\n'
    piece, times = line * 1000, 100
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for _ in range(times):
            child.stdin.write(piece)
        child.stdin.close()
        size, records, count, grown = map(int, child.stdout.read().split())
    assert (size, records, count) == (len(piece) * times, 1000 * times, 1000 * times)
    assert grown < 60 << 10


@pytest.mark.parametrize("name", ["lines", "gzip"])
def test_a_failing_read_is_an_error_and_leaves_no_half_written_spool(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.RawIOBase):
        sent = 0

        def read(self, size: int = -1) -> bytes:
            self.sent += 1
            if self.sent > 3:
                raise OSError(5, "Input/output error")
            return CONTENTS[name]

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Failing()}))
    monkeypatch.setattr(streams, "HEAD", 100)
    [item] = sources.resolve(["-"])
    with pytest.raises(InputError, match="Input/output error"):
        sources.scan(item, tmp_path)
    assert list(tmp_path.iterdir()) == []
