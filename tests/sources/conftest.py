"""What the tests of the sources share: reading an input whole, and sizes so small that little data has many chunks."""

from __future__ import annotations

from pathlib import Path

import pytest

from sftdata import sources
from sftdata.sources import compression, opening, plain, spool, streams, tables
from tests.sources.reading import ReadWhole, Whole, read_stretch


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of about 100 bytes and windows of 7, so that everything straddles something."""
    for module in (plain, spool, tables):
        monkeypatch.setattr(module, "BLOCK", 100)
    monkeypatch.setattr(plain, "_WINDOW", 7)
    monkeypatch.setattr(compression, "BLOCK", 7)
    monkeypatch.setattr(streams, "HEAD", 200)
    monkeypatch.setattr(opening.windows, "__kwdefaults__", {"size": 7})


@pytest.fixture
def read_whole(tmp_path: Path) -> ReadWhole:
    """Scan one address and read all of it in one stretch."""

    def read(address: str | Path) -> Whole:
        folder = tmp_path / "work"
        folder.mkdir(exist_ok=True)
        [item] = sources.resolve([str(address)])
        scan = sources.scan(item, folder)
        records = read_stretch(item, scan.chunks, 0, folder) if scan.chunks else []
        assert [record.record_id for record in records] == list(range(scan.records))
        return scan, records

    return read
