"""The bytes of all tensors that live at once, counted operation by operation: a peak of memory without a GPU."""

from __future__ import annotations

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Inside, `peak` is the largest sum over storages that were alive together; `held` are alive from the beginning.

    What an operation needs for itself while it runs is not seen.
    """

    def __init__(self, held):
        super().__init__()
        self._alive = {}
        self.peak = 0
        for tensor in held:
            self._note(tensor)
        self._count()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, torch.Tensor):
                self._note(each)
        self._count()
        return out

    def _note(self, tensor):
        storage = tensor.untyped_storage()
        self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    def _count(self):
        self._alive = {key: (ref, size) for key, (ref, size) in self._alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
