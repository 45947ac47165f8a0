"""Counts the memory of all live tensors on any device, including "meta"."""

import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryTracker(TorchDispatchMode):
    """Current and peak bytes of all tensors that were created in this context and are still alive."""

    def __init__(self):
        super().__init__()
        self.current = self.peak = 0
        self.known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed. Views share a storage, which counts once."""
        key, size = id(storage), storage.nbytes()
        if key in self.known and self.known[key]() is storage:
            return

        def release(reference):
            self.current -= size
            if self.known.get(key) is reference:
                del self.known[key]

        self.known[key] = weakref.ref(storage, release)
        self.current += size
        self.peak = max(self.peak, self.current)
