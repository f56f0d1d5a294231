"""Streams sftdata shards into torch: dataset, sampler, collator, attention for packed rows, loss and loop.

Imports torch and `sftdata.shards` (pyarrow and numpy), and nothing else of the core.
"""
