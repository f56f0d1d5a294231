"""What transformers writes into a tokenizer's configuration is read, whatever its size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import sftdata
from sftdata.tokenizers.origin import load_files


def test_a_maximum_length_of_ten_to_the_thirty_is_hashed_like_any_other(tmp_path: Path) -> None:
    carried = Path(sftdata.__file__).parent / "tokenizers" / "builtin"
    hashes: set[str] = set()
    for length in (10**30, 10**30 + 1, 10**30):
        folder = tmp_path / str(len(hashes))
        folder.mkdir(exist_ok=True)
        shutil.copy(carried / "tokenizer.json", folder)
        config = json.loads((carried / "tokenizer_config.json").read_text(encoding="utf-8"))
        config["model_max_length"] = length
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        hashes.add(load_files(str(folder)).sha256)
    assert len(hashes) == 2
