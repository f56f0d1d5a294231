"""Feed packed shards to torchtitan: what its trainer would receive, printed.

    python examples/torchtitan_loader.py OUT

In torchtitan, build `TitanLoader` where its configuration asks for a data loader, with the ranks it hands over, and
set its accumulation steps to `loader.micro_batches`.
"""

from __future__ import annotations

import argparse
from itertools import islice

from sftdata_torch.adapters.torchtitan import TitanLoader
from sftdata_torch.dataset import PackedDataset


def main() -> None:
    """Show the shapes of one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a sealed folder of `sftdata prepare`")
    given = parser.parse_args()
    dataset = PackedDataset(given.shards, seed=0)
    loader = TitanLoader(dataset, dp_rank=0, dp_world_size=1, global_batch=4, micro_batch=2)
    for inputs, labels in islice(loader, loader.micro_batches):
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        print(f"{shapes} labels {tuple(labels.shape)}, {int((labels != -100).sum())} valid")
    print(loader.state_dict())


if __name__ == "__main__":
    main()
