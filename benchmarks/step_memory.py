"""What a training step holds in memory at its peak, counted without computing it, on the device "meta".

Counted is every tensor from its making to its end: weights, what the backward pass needs, gradients, the optimizer's
two moments. Not counted is what a device holds beside tensors: its context, work space of kernels, gaps between blocks.
"""

import weakref
from collections.abc import Callable

import torch
from stable_diffusion import SHAPES, build, make_models
from step_arithmetic import flash, inputs, task
from stock_loops import make_loop
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Held(TorchDispatchMode):
    """Bytes of all tensors that were made inside and are still alive, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage from now to its end; views of one are counted once."""
        key, size = id(storage), storage.nbytes()
        if key in self.known and self.known[key]() is storage:
            return

        def gone(reference):
            self.now -= size
            if self.known.get(key) is reference:
                del self.known[key]

        self.known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def peak(make: Callable[[], tuple[Callable[[], None], list[Tensor]]]) -> int:
    """Bytes at the peak of two steps of AdamW; make() gives what makes the gradients, and of what. All of it counts."""
    with Held() as held, flash():
        backward, trained = make()
        optimizer = torch.optim.AdamW(trained)
        held.peak = held.now  # building, weights are there in two precisions for a while
        for _ in range(2):
            optimizer.zero_grad()
            backward()
            optimizer.step()
        return held.peak


def floor(shape: str, batch: int, dtype: torch.dtype, latent: int | None = None) -> int:
    """The frozen U-Net alone, forward, and backward to its words."""

    def make():
        unet = make_models(shape, "meta", latent)["unet"].requires_grad_(False)
        torch.nn.Module.to(unet, dtype)
        given = inputs(unet, batch, SHAPES[shape].text["max_position_embeddings"])
        return lambda: unet(*given).sample.float().square().mean().backward(), [given[-1]]

    return peak(make)


def ours(name: str, shape: str, batch: int, dtype: torch.dtype, latent=None, checkpointing: bool = False) -> int:
    """A step of one of our methods in a task that has a past, the whole pipeline in memory."""

    def make():
        pipe = build(shape, "meta", dtype, latent)
        unet, text = (model.requires_grad_(False) for model in (pipe.unet, pipe.text_encoder))
        if checkpointing:
            unet.enable_gradient_checkpointing()
        adaptation, words, trained = task(name, unet, text, batch)
        for layer in adaptation.adapted:
            if hasattr(layer.adapter, "mask"):
                layer.adapter.mask.noise = torch.empty(layer.adapter.mask.shape, device="meta")
        x, t, _ = inputs(unet, batch, 1)

        def backward():
            with adaptation.held():
                error = unet(x, t, words().to(dtype)).sample.float().square().mean()
                torch.stack([error, *adaptation.penalties()]).sum().backward()

        backward.pipe = pipe  # with all that a step does not use
        return backward, trained

    return peak(make)


def stock(name: str, shape: str, batch: int, latent: int | None = None) -> int:
    """A step of a published loop, in fp32: its autocast knows no device "meta"."""

    def make():
        pipe = build(shape, "meta", latent=latent)
        size = pipe.unet.config.sample_size * pipe.vae_scale_factor
        loop = make_loop(name, pipe, torch.empty(2 * batch, 3, size, size, device="meta"))
        return lambda: loop.loss().backward(), loop.trained

    return peak(make)
