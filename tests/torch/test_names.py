"""The names that the plugin offers are there, and cost nothing before they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sftdata_torch


def test_every_public_name_is_there():
    assert set(sftdata_torch.__all__) == set(sftdata_torch._HOMES)
    for name in sftdata_torch.__all__:
        assert getattr(sftdata_torch, name).__module__ == f"sftdata_torch.{sftdata_torch._HOMES[name]}"
    with pytest.raises(AttributeError, match="has no attribute 'Packed'"):
        sftdata_torch.Packed  # noqa: B018


def test_plugin_imports_neither_trainers_nor_the_rest_of_the_core():
    heavy = {
        "transformers",
        "datasets",
        "trl",
        "accelerate",
        "pandas",
        "sftdata.pipeline",
        "sftdata.templates",
        "click",
    }
    code = f"import sys; from sftdata_torch import *; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_plugin_alone_imports_no_torch():
    code = "import sys, sftdata_torch; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
