"""Streams sftdata shards into torch: a dataset, a sampler, a collator, attention for packed rows, a loss and a loop.

Imports torch and `sftdata.shards` (pyarrow and numpy), and nothing else of the core.
"""
