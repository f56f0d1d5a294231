"""One thread for tiny tensors: several processes of several threads each wait for each other more than they compute."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
