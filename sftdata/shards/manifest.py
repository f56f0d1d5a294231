"""The manifest: what a sealed dataset says about itself.

What lives here: its types, its one spelling in bytes, and the reading of untrusted ones. What must not: any look at
a shard. The bytes are canonical: a manifest is accepted only if writing it again gives the very bytes that were
read, and its `digest` is the hash of all the rest, so that no flipped bit in it goes unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

import msgspec

from sftdata.shards.faults import Problem
from sftdata.shards.layout import FORMAT_VERSION, HEADER, MANIFEST, PARTIAL, REJECTED, SPLITS
from sftdata.shards.store import Store, open_store

__all__ = [
    "Facts",
    "FileEntry",
    "InputEntry",
    "Ledger",
    "Manifest",
    "RowGroupEntry",
    "SidecarEntry",
    "TemplateEntry",
    "TokenizerEntry",
    "dump_manifest",
    "load_manifest",
    "read_manifest",
]

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class RowGroupEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row group of a shard: the unit of reading."""

    offset: Count
    """Where its bytes begin in the file."""
    bytes: Positive
    """How many there are: all column chunks with their page headers."""
    crc32: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    """zlib's crc32 over them."""
    rows: Positive
    tokens: Positive
    loss_tokens: Count
    documents: Positive


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shard. The bytes of the file are PAR1, the row groups one after another, and the footer: nothing else."""

    name: str
    """Base name, within the dataset's folder."""
    bytes: Positive
    sha256: Sha256
    footer_bytes: Positive
    """Size of the footer with the 8 bytes behind it (its length and the magic PAR1)."""
    footer_sha256: Sha256
    """Hash of the last `footer_bytes` bytes."""
    rows: Positive
    tokens: Positive
    loss_tokens: Count
    documents: Positive
    row_groups: tuple[RowGroupEntry, ...]


class SidecarEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file beside the shards that belongs to the dataset: `rejected.jsonl`, `partial.jsonl`."""

    bytes: Count
    sha256: Sha256


class InputEntry(msgspec.Struct, frozen=True):
    """One input, in the order in which record ids count them."""

    address: str
    """As short as tells it from the others; never the place where it lay."""
    size: Count
    sha256: Sha256
    records: Count


class TokenizerEntry(msgspec.Struct, frozen=True):
    """What the shards depend on; more keys may stand beside these."""

    sha256: Sha256
    vocab_size: Positive
    """Ids lie in `[0, vocab_size)`."""
    largest_id: Count
    """The largest id in any shard."""
    stop_token_ids: tuple[Count, ...]
    bos_token_id: Count | None
    eos_token_id: Count | None
    pad_token_id: Count | None


class TemplateEntry(msgspec.Struct, frozen=True):
    """The template in full, so that it can be served and compared; more keys may stand beside these."""

    sources: dict[str, str]
    """Template text by name (`default`, `tool_use`)."""
    sha256: dict[str, Sha256]
    """Of each source in UTF-8."""
    kwargs: dict[str, Any]
    clock: str
    """The day that the template saw, YYYY-MM-DD."""


class Options(msgspec.Struct, frozen=True):
    """The options that a verifier needs; the configuration holds all others too."""

    max_length: Positive
    """The capacity of a bin."""
    train_on: str


class RecordCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Records: read = written + rejected + duplicate + unsampled."""

    read: Count
    written: Count
    rejected: Count
    duplicate: Count
    unsampled: Count = 0
    """In no pass of a mixture; a record that is in several is written once."""


class ExampleCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Examples, of which a record may become several; an example written is a document of a shard."""

    written: Count
    rejected: Count


class TokenCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens per example: rendered = written + dropped; trained are labels other than -100."""

    rendered: Count
    written: Count
    dropped: Count
    trained: Count


class Ledger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of everything that was read."""

    records: RecordCounts
    examples: ExampleCounts
    tokens: TokenCounts
    rejections: dict[str, Positive]
    """Rejected records by the code of their first error; they sum to `records.rejected`."""


class Facts(msgspec.Struct, frozen=True):
    """The parts of a manifest that others own, typed."""

    inputs: tuple[InputEntry, ...]
    tokenizer: TokenizerEntry
    template: TemplateEntry
    config: Options
    ledger: Ledger


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sealed dataset. Plain JSON data where other stages know what it means; `facts` gives the typed view."""

    format_version: int
    fingerprint: Sha256
    """Of everything that decides the bytes; stands in the footer of every shard too."""
    files: dict[str, tuple[FileEntry, ...]]
    """Shards by split (`train`, `eval`), in the order of their rows."""
    sidecars: dict[str, SidecarEntry] = {}
    """Other files that are part of the dataset, by name."""
    inputs: list[dict[str, Any]]
    """See InputEntry."""
    tokenizer: dict[str, Any]
    """See TokenizerEntry."""
    template: dict[str, Any]
    """See TemplateEntry."""
    config: dict[str, Any]
    """See Options."""
    ledger: dict[str, Any]
    """See Ledger."""

    @property
    def facts(self) -> Facts:
        """The typed view. Raises msgspec.ValidationError, which `load_manifest` has already ruled out."""
        names = Facts.__struct_fields__
        return msgspec.convert(msgspec.to_builtins({name: getattr(self, name) for name in names}), Facts)


def dump_manifest(manifest: Manifest) -> bytes:
    """The canonical bytes: JSON with sorted keys, one top-level key a line, `digest` among them.

    The digest is the sha256 of the same text without it. Raises ValueError for what is not plain JSON (NaN).
    """
    body = msgspec.to_builtins(manifest, str_keys=True)
    return _spell({**body, "digest": hashlib.sha256(_spell(body)).hexdigest()})


def load_manifest(data: bytes, folder: str) -> Manifest:
    """Read untrusted bytes. Raises DamageError (SFT807, or SFT803 for another format version) naming what is wrong."""
    try:
        body = json.loads(data)
        digest = body.pop("digest")
        version = body["format_version"]
    except (ValueError, RecursionError, KeyError, AttributeError, TypeError) as error:
        raise _invalid(f"not a manifest: {type(error).__name__} {error}").error(folder) from error
    if version != FORMAT_VERSION:
        fix = "Read it with the version of sftdata that wrote it, or run prepare again."
        message = f"format version {version!r}, and this version of sftdata reads {FORMAT_VERSION}"
        raise Problem("SFT803", MANIFEST, "", message, fix).error(folder)
    try:
        sealed = digest == hashlib.sha256(_spell(body)).hexdigest() and data == _spell({**body, "digest": digest})
    except (ValueError, RecursionError):  # NaN, or lists within lists without end: prepare writes neither
        sealed = False
    if not sealed:
        raise _invalid("its bytes are not those that were sealed: damaged, or edited by hand").error(folder)
    try:
        manifest = msgspec.convert(body, Manifest)
        msgspec.convert(body, Facts)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)).error(folder) from error
    for split, files in manifest.files.items():
        wrong = _wrong_files(split, files)
        if wrong:
            raise _invalid(wrong).error(folder)
    for name in manifest.sidecars:
        if name not in (REJECTED, PARTIAL):
            raise _invalid(f"unknown sidecar {name!r}").error(folder)
    return manifest


def read_manifest(path: str | Any) -> Manifest:
    """The manifest of the dataset at `path`, a folder or an fsspec address.

    Raises DamageError: SFT807 where there is none or it is damaged, SFT812 where an unfinished run lies there.
    """
    return manifest_of(open_store(path))


def manifest_of(store: Store) -> Manifest:
    """The manifest in an open store."""
    size = store.size(MANIFEST)
    if size is not None:
        return load_manifest(store.read(MANIFEST, 0, size), store.address)
    if store.holds_unfinished_run():
        raise Problem(
            "SFT812",
            MANIFEST,
            "",
            "the folder holds a run that was not sealed",
            "Run the same prepare command again: it resumes.",
        ).error(store.address)
    raise _invalid(
        "there is no manifest", "Name the folder that prepare wrote; without a manifest nothing is sealed."
    ).error(store.address)


def _spell(body: dict[str, Any]) -> bytes:
    lines = (
        f"{json.dumps(key)}: {json.dumps(body[key], sort_keys=True, separators=(',', ':'), allow_nan=False)}"
        for key in sorted(body)
    )
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _invalid(message: str, fix: str = "") -> Problem:
    return Problem("SFT807", MANIFEST, "", message, fix)


def _wrong_files(split: str, files: tuple[FileEntry, ...]) -> str:
    """What is wrong with the files of a split as the manifest has them; empty where nothing is."""
    if split not in SPLITS:
        return f"unknown split {split!r}"
    for index, file in enumerate(files):
        name = f"{split}-{index:05d}-of-{len(files):05d}.parquet"
        if file.name != name:
            return f"file {index} of {split} is called {file.name!r}, not {name}"
        end = len(HEADER)
        for group in file.row_groups:
            if group.offset != end:
                return f"the row groups of {name} do not follow one another"
            end += group.bytes
        if end + file.footer_bytes != file.bytes:
            return f"row groups and footer of {name} are not the whole file"
        for count in ("rows", "tokens", "loss_tokens", "documents"):
            if sum(getattr(group, count) for group in file.row_groups) != getattr(file, count):
                return f"the {count} of the row groups of {name} do not add up"
    return ""
