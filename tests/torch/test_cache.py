"""Remote shards arrive whole, verified and bounded."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile

from sftdata.errors import ShardError
from sftdata_torch import cache as cache_module
from sftdata_torch.cache import ShardCache


@pytest.fixture
def remote(request):
    """A folder of an in-memory file system holding three files of 1,000 bytes."""
    address = f"memory://{request.node.name}"
    files = fsspec.filesystem("memory")
    for number in range(3):
        files.pipe(f"/{request.node.name}/{number}.parquet", bytes([number]) * 1000)
    return address


def sha256(number: int) -> str:
    return hashlib.sha256(bytes([number]) * 1000).hexdigest()


def names(cache: ShardCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def test_fetched_file_is_there_whole_and_is_not_fetched_twice(remote, tmp_path, monkeypatch):
    cache = ShardCache(remote, tmp_path)
    path = cache.fetch("1.parquet", size=1000, sha256=sha256(1))
    assert path.read_bytes() == bytes([1]) * 1000
    monkeypatch.setattr(cache_module, "filesystem", None)
    assert cache.fetch("1.parquet", size=1000, sha256=sha256(1)) == path
    assert names(cache) == ["1.parquet"]


def test_wrong_bytes_never_appear_under_the_name(remote, tmp_path):
    cache = ShardCache(remote, tmp_path)
    with pytest.raises(ShardError, match=rf"^{remote}/1\.parquet: 1000 bytes with sha256 .*\. Upload the file again"):
        cache.fetch("1.parquet", size=1000, sha256=sha256(2))
    with pytest.raises(ShardError, match=r"expected 999 bytes"):
        cache.fetch("1.parquet", size=999, sha256=sha256(1))
    with pytest.raises(ShardError, match=rf"^{remote}/7\.parquet: the file is missing\. Upload"):
        cache.fetch("7.parquet", size=1000, sha256=sha256(1))
    assert names(cache) == []


def test_truncated_local_copy_is_fetched_again(remote, tmp_path):
    cache = ShardCache(remote, tmp_path)
    path = cache.fetch("1.parquet", size=1000, sha256=sha256(1))
    path.write_bytes(b"short")
    assert cache.fetch("1.parquet", size=1000, sha256=sha256(1)).read_bytes() == bytes([1]) * 1000


def test_least_recently_used_file_goes_first_and_the_limit_holds(remote, tmp_path):
    cache = ShardCache(remote, tmp_path, limit_bytes=2000)
    now = time.time()
    for age, number in enumerate((0, 1)):
        os.utime(cache.fetch(f"{number}.parquet", size=1000, sha256=sha256(number)), (now - 9 + age,) * 2)
    cache.fetch("0.parquet", size=1000, sha256=sha256(0))
    cache.fetch("2.parquet", size=1000, sha256=sha256(2))
    assert names(cache) == ["0.parquet", "2.parquet"]


def test_file_over_the_limit_alone_is_kept(remote, tmp_path):
    cache = ShardCache(remote, tmp_path, limit_bytes=10)
    assert cache.fetch("0.parquet", size=1000, sha256=sha256(0)).is_file()


def test_part_of_a_dead_process_is_swept_away_and_a_living_one_left(remote, tmp_path):
    cache = ShardCache(remote, tmp_path)
    cache.folder.mkdir(parents=True)
    dead, living = cache.folder / "0.parquet.aa.part", cache.folder / "0.parquet.bb.part"
    for part in (dead, living):
        part.write_bytes(b"half")
    os.utime(dead, (time.time() - 7200,) * 2)
    cache.fetch("1.parquet", size=1000, sha256=sha256(1))
    assert names(cache) == ["0.parquet.bb.part", "1.parquet"]


def test_many_that_fetch_the_same_file_at_once_all_get_it(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "2.parquet").write_bytes(bytes([2]) * 1000)
    remote = f"file://{source}"  # the in-memory file system hands all threads one open file
    got: list[Path] = []

    def fetch():
        got.append(ShardCache(remote, tmp_path).fetch("2.parquet", size=1000, sha256=sha256(2)))

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert {path.read_bytes() for path in got} == {bytes([2]) * 1000}
    assert names(ShardCache(remote, tmp_path)) == ["2.parquet"]


def test_fault_on_the_way_is_gone_on_from_and_a_lasting_one_named(remote, tmp_path, monkeypatch):
    """Half of the file comes, then the client raises what its author liked."""
    faults = [RuntimeError("connection reset"), TimeoutError("too slow")]
    read = MemoryFile.read

    def failing(file, size=-1):
        if file.tell() and faults:
            raise faults.pop()
        return read(file, min(size, 400))

    monkeypatch.setattr(MemoryFile, "read", failing)
    monkeypatch.setattr("time.sleep", lambda _: None)
    cache = ShardCache(remote, tmp_path)
    assert cache.fetch("1.parquet", size=1000, sha256=sha256(1)).read_bytes() == bytes([1]) * 1000
    faults[:] = [RuntimeError("no route")] * 9
    with pytest.raises(
        ShardError, match=rf"^{remote}/2\.parquet: it cannot be fetched: RuntimeError: no route\. Look at the address"
    ):
        cache.fetch("2.parquet", size=1000, sha256=sha256(2))
    assert names(cache) == ["1.parquet"]
