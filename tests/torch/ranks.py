"""Several runs, one after the other, in the ranks that torchrun starts: see test_distributed.

    python -m torch.distributed.run ... -m tests.torch.ranks FOLDER '[{"out": "two", "epochs": 1}, ...]'

Every rank writes how each of its runs ended to FOLDER/ended-RANK.json: the number of steps, or the error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from sftdata.errors import SftdataError
from sftdata_torch.loop import train
from tests.torch.runs import settings


def main():
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    folder, ends = Path(sys.argv[1]), []
    for options in json.loads(sys.argv[2]):
        try:
            ends.append(train(settings(folder, **options)).steps)
        except SftdataError as error:
            ends.append(f"{type(error).__name__}: {error}")
    path = folder / f"ended-{os.environ['RANK']}.json"
    path.write_text(json.dumps(ends), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
