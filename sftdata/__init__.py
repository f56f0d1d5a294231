"""sftdata: raw chat records become validated, rendered, tokenized, loss-masked, bin-packed Parquet shards.

    >>> import sftdata
    >>> outcome = sftdata.prepare("chats.jsonl", tokenizer="builtin", template="chatml", max_length=2048, out="shards")
    >>> for row in sftdata.read("shards"): ...                                                     # doctest: +SKIP

The stages can be called one by one: `sftdata.sources`, `sftdata.formats.normalise`, `sftdata.templates.contract`,
`sftdata.tokenizers.Encoder`, `sftdata.packing.pack`, `sftdata.shards`. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sftdata.version import VERSION

__version__ = VERSION

__all__ = ["__version__", "prepare", "read", "verify"]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sftdata.pipeline.run import prepare
    from sftdata.shards import verify


def read(path: str, split: str = "train") -> Iterator[dict[str, Any]]:
    """The rows of a sealed dataset, each a dict of numpy arrays under the names of the columns.

    A row is one bin. Every row group is checked against the manifest before it is decoded. Raises ShardError where the
    dataset is missing, damaged or foreign.
    """
    from sftdata.shards import open_dataset

    return open_dataset(path).iter_rows(split)


def __getattr__(name: str) -> Any:
    if name == "prepare":
        from sftdata.pipeline.run import prepare

        return prepare
    if name == "verify":
        from sftdata.shards import verify

        return verify
    raise AttributeError(f"module 'sftdata' has no attribute {name!r}")
