"""sftdata: raw chat records become validated, rendered, tokenized, loss-masked, bin-packed Parquet shards."""

__version__ = "0.1.0"
