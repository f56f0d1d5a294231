"""The examples in the docstrings of the formats are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import sftdata.formats


def test_every_example_in_a_docstring_is_true() -> None:
    names = [entry.name for entry in pkgutil.iter_modules(sftdata.formats.__path__, "sftdata.formats.")]
    results = [doctest.testmod(importlib.import_module(name)) for name in ("sftdata.formats", *names)]
    assert sum(result.attempted for result in results) >= 10
    assert not any(result.failed for result in results)
