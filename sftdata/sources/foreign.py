"""Files that hold no records but are taken for data all the same, told by their first bytes.

What lives here: what they are, and what to do instead. What must not: reading records.
"""

from __future__ import annotations

import os

from sftdata.errors import InputError, describe
from sftdata.sources.sniff import is_prose

__all__ = ["refuse_foreign"]

_FOREIGN = (
    (b"PK\x03\x04", "a zip archive, or a spreadsheet", "Unpack an archive; save a spreadsheet as CSV."),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the data", "Fetch the data: git lfs pull."),
    (b"<!doctype html", "an HTML page, such as a login or error page", "Download the data again."),
    (b"<html", "an HTML page, such as a login or error page", "Download the data again."),
    (b"\xff\xfe", "UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    (b"\xfe\xff", "UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
)
_PROSE = frozenset({".txt", ".text", ".md", ".rst"})
"""Names of plain text, as far as the content does not say otherwise."""


def refuse_foreign(address: str, head: bytes) -> None:
    """Raise InputError where a file that begins with `head` is something else than data, and says so."""
    start = head[:64].lower()
    for magic, what, fix in _FOREIGN:
        if head.startswith(magic) or start.startswith(magic):
            raise InputError(describe(what, where=address, expected="records", fix=fix))
    if os.path.splitext(address.lower())[1] in _PROSE and is_prose(head):
        each = "jq -Rc 'select(. != \"\") | {text: .}' FILE > NEW.jsonl"
        fix = f"Make each line a text record: {each}, or all of it one: jq -Rsc '{{text: .}}' FILE > NEW.jsonl"
        raise InputError(describe("plain text", where=address, expected="a record a line", fix=fix))
