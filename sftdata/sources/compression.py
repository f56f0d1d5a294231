"""Compressed bytes become plain bytes, as many as there are: what comes before a break is never lost.

What lives here: gzip, bzip2, Zstandard and xz, of any number of members, with bounded memory whatever a file claims.
What must not: what the bytes mean.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from sftdata.errors import InputError
from sftdata.sources.items import BLOCK

__all__ = ["CODECS", "Decoded", "magic_compression"]

_FEED = 2048
"""Compressed bytes decoded at once: all of the decoders lose what stands before an error in the same piece, and make
at most 64 MiB of it, but for bzip2, which is told to (one of its blocks of 40 bytes can stand for 45 MB)."""


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _gzip() -> _Decoder:
    return zlib.decompressobj(wbits=31)


class _Bzip2:
    """A decoder that hands out a block at a time, and holds back the rest until it is called again."""

    def __init__(self) -> None:
        self._inner = bz2.BZ2Decompressor()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def holds_back(self) -> bool:
        return not self._inner.needs_input

    def decompress(self, data: bytes, /) -> bytes:
        return self._inner.decompress(data, BLOCK)


def _xz() -> _Decoder:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ)


def _zstd() -> _Decoder:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


CODECS: dict[str, tuple[Callable[[], _Decoder], bytes]] = {
    "gzip": (_gzip, b"\x1f\x8b"),
    "bzip2": (_Bzip2, b"BZh"),
    "zstd": (_zstd, b"\x28\xb5\x2f\xfd"),
    "xz": (_xz, b"\xfd7zXZ\x00"),
}
"""A decoder of one member, and the bytes that a file begins with, by compression."""


def magic_compression(head: bytes) -> str:
    """The compression that the first bytes of a file show: `magic_compression(b"\\x1f\\x8b...")` is `"gzip"`."""
    return next((name for name, (_, magic) in CODECS.items() if head.startswith(magic)), "none")


class Decoded:
    """The plain bytes of a stream, in windows of about 1 MiB; `fault` says afterwards why they ended early, if so."""

    def __init__(self, windows: Iterable[bytes], compression: str) -> None:
        self.fault = ""
        self._raw = iter(windows)
        self._windows = self._raw if compression == "none" else _regrouped(self._members(CODECS[compression][0]))

    def __iter__(self) -> Iterator[bytes]:
        return self._windows

    def _members(self, make: Callable[[], _Decoder]) -> Iterator[bytes]:
        members = 0
        decoder: _Decoder | None = None
        try:
            for piece in (window[at : at + _FEED] for window in self._raw for at in range(0, len(window), _FEED)):
                while piece or getattr(decoder, "holds_back", False):
                    if decoder is None:
                        piece = piece.lstrip(b"\0")  # padding, allowed between members
                        if not piece:
                            break
                        decoder = make()
                        members += 1
                    plain = decoder.decompress(piece)
                    piece = b""
                    if decoder.eof:
                        piece, decoder = decoder.unused_data, None
                    if plain:
                        yield plain
        except (InputError, MemoryError):  # the bytes cannot be read, or kept: nothing is known about what they hold
            raise
        except Exception as error:  # noqa: BLE001 - each codec has errors of its own, and none is documented in full
            self.fault = f"cannot be decompressed further: {error}"
        if decoder is not None and not self.fault:
            self.fault = "the compressed file ends early"
        if not members:
            self.fault = "the compressed file is empty"
        for _ in self._raw:  # whoever counts and hashes the raw bytes is to see all of them
            pass


def _regrouped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `BLOCK`, the last one smaller."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= BLOCK:
            joined = b"".join(held)
            whole = size - size % BLOCK
            yield from (joined[at : at + BLOCK] for at in range(0, whole, BLOCK))
            held, size = [joined[whole:]], size - whole
    if size:
        yield b"".join(held)
