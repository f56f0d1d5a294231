"""The JSON Schemas of sftdata as package data: record formats, configuration, manifest, report.

Installed as `sftdata_schemas`. `load(name)` returns a schema as a dict; `names()` lists what there is.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

__all__ = ["load", "names"]


def names() -> list[str]:
    """The names of all shipped schemas, sorted: `alpaca`, `manifest`, ..."""
    return sorted(
        entry.name.removesuffix(".schema.json")
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith(".schema.json")
    )


def load(name: str) -> dict[str, Any]:
    """The schema called `name`, parsed. Raises FileNotFoundError for a name that `names()` does not list."""
    text = resources.files(__name__).joinpath(f"{name}.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
