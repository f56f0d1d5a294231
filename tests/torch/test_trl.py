"""TRL configurations that ruin packed rows are refused, and the two safe ones are not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sftdata.errors import ConfigError
from sftdata_torch.adapters.trl import check_trl_config

SFTConfig = pytest.importorskip("trl", reason="trl is not installed: it needs Python 3.11").SFTConfig

SKIP = {"dataset_kwargs": {"skip_prepare_dataset": True}}
SAFE = [
    {"packing": True, **SKIP},
    {"packing": True, "packing_strategy": "bfd_split", "max_length": 7, **SKIP},
    {"packing": True, "eval_packing": True, **SKIP},
    {"packing": False, "padding_free": True, "max_length": None},
    {"packing": False, "padding_free": True, "max_length": None, "eval_packing": False},
]
RUINOUS = [
    ({}, "without packing or padding_free"),
    ({"max_length": None}, "without packing or padding_free"),
    (SKIP, "without packing or padding_free"),
    ({"packing": True}, "merges the documents inside them"),
    ({"packing": True, "dataset_kwargs": {}}, "merges the documents inside them"),
    ({"packing": True, "packing_strategy": "wrapped", **SKIP}, "this packing_strategy"),
    ({"padding_free": True}, "max_length cuts the bins"),
    ({"padding_free": True, **SKIP}, "refused by the trainer"),
    ({"padding_free": True, "max_length": None, "eval_packing": True}, "eval_packing=True"),
    ({"packing": True, "use_cache": True, **SKIP}, "use_cache=True makes a cache"),
]


@pytest.mark.parametrize("settings", SAFE)
def test_configuration_that_keeps_bins_whole_and_documents_apart_passes(settings, tmp_path):
    check_trl_config(SFTConfig(output_dir=str(tmp_path), bf16=False, **settings))


@pytest.mark.parametrize(("settings", "words"), RUINOUS)
def test_configuration_that_ruins_packed_rows_is_refused_with_the_remedy(settings, words, tmp_path):
    with pytest.raises(ConfigError, match=rf"^SFTConfig: .*{words}.*Use packing=True with dataset_kwargs"):
        check_trl_config(SFTConfig(output_dir=str(tmp_path), bf16=False, **settings))


def test_settings_that_the_documentation_gives_are_safe(tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "trainers.md").read_text(encoding="utf-8")
    given = re.findall(r"^SFTConfig\((.*), \.\.\.\)", page, flags=re.MULTILINE)
    assert len(given) == 2
    for arguments in given:
        settings = eval(f"dict({arguments})")
        assert settings in SAFE
        check_trl_config(SFTConfig(output_dir=str(tmp_path), bf16=False, **settings))
