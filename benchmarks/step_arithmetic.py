"""What a training step has to compute, counted without computing it, and how long that should take.

Models are on the device "meta", so every operation of a real forward and backward pass is seen with its shapes and none
is run. A time follows from three rates of the machine at hand, measured on something else: see `Machine`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from unittest.mock import patch

import torch
import torch.nn.functional as F
from stable_diffusion import SHAPES, build, make_models
from stock_loops import make_loop
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from stamina_lite import make_method
from stamina_lite.core import tokens
from stamina_lite.core.adaptation import Adaptation
from stamina_lite.core.layers import layers_of
from stamina_lite.core.masks import MLPMask
from stamina_lite.core.seeds import on_device, seeded
from stamina_lite.diffusion.model import CROSS_ATTENTION


@dataclass
class Work:
    """flops: of matrix products, convolutions and attention; moved: bytes that all operators read and write;
    launches: operators that start a kernel; drawn: random numbers of the masks' noise.
    """

    flops: float = 0
    moved: float = 0
    launches: float = 0
    drawn: float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(**{k: v + getattr(other, k) for k, v in vars(self).items()})

    def __sub__(self, other: "Work") -> "Work":
        return Work(**{k: v - getattr(other, k) for k, v in vars(self).items()})


class Count(TorchDispatchMode):
    """Counts the work of all operators inside, of backward passes too."""

    def __init__(self):
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = operator(*args, **kwargs)
        if not operator.is_view and "view" not in str(operator):
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
            self.work.moved += sum(t.numel() * t.element_size() for t in tensors)
            self.work.launches += 1
        if operator.overloadpacket in flop_registry:
            self.work.flops += flop_registry[operator.overloadpacket](*args, **kwargs, out_val=out)
        return out


def flash():
    """Attention as the one operator it is on a GPU: on "meta" torch would take it apart. As a context."""

    def attention(query, key, value, *args, **options):
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]

    return patch.object(F, "scaled_dot_product_attention", attention)


def counted(loss: Callable[[], torch.Tensor], trained: int = 0) -> Work:
    """The work of a loss, its backward pass, and AdamW, which reads four numbers a weight and writes three."""
    with Count() as count, flash():
        loss().backward()
    return count.work + Work(moved=7 * 4 * trained)


def floor(shape: str, batch: int, dtype: torch.dtype, latent: int | None = None) -> Work:
    """The frozen U-Net, forward, and backward to its words: no gradient of a weight."""
    unet = make_models(shape, "meta", latent)["unet"].requires_grad_(False)
    torch.nn.Module.to(unet, dtype)
    given = inputs(unet, batch, SHAPES[shape].text["max_position_embeddings"])
    return counted(lambda: unet(*given).sample.float().square().mean())


def inputs(unet, batch: int, positions: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random latents (n, 4, h, w), times (n,) and words (n, positions, width) of which gradients are wanted."""
    side, like = unet.config.sample_size, {"device": unet.device, "dtype": unet.dtype}
    words = torch.randn(batch, positions, unet.config.cross_attention_dim, requires_grad=True, **like)
    x = torch.randn(batch, 4, side, side, **like).contiguous(memory_format=torch.channels_last)
    return x, torch.full((batch,), 500, device=unet.device), words


def added(name: str, shape: str, batch: int, dtype: torch.dtype) -> Work:
    """What one of our methods adds to the floor, in a task that has a past: words that are made of a token, adapters,
    penalties. Counted on the text encoder and on K and V alone.
    """
    return keys_and_values(name, shape, batch, dtype) - keys_and_values(None, shape, batch, dtype)


@cache
def keys_and_values(name: str | None, shape: str, batch: int, dtype: torch.dtype) -> Work:
    """The work on K and V of given words, or with a method on those of a sentence whose token it trains."""
    models = make_models(shape, "meta")
    unet, text = (torch.nn.Module.to(models[k].requires_grad_(False), dtype) for k in ("unet", "text_encoder"))
    layers = layers_of(unet, CROSS_ATTENTION)
    words = inputs(unet, batch, text.config.max_position_embeddings)[2]
    if name is None:
        return counted(lambda: torch.stack([layer.module(words).sum() for layer in layers]).sum())
    adaptation, encode, trained = task(name, unet, text, batch)

    def loss():
        with adaptation.cached():
            states = encode()
            products = [layer.module(states).sum() for layer in adaptation.layers]
            return torch.stack([*products, *adaptation.penalties()]).sum()

    work = counted(loss, sum(p.numel() for p in trained))
    masks = [layer for layer in adaptation.adapted if hasattr(layer.adapter, "mask")]
    return work + Work(drawn=sum(layer.start.numel() for layer in masks))


def task(name: str, unet, text, batch: int) -> tuple[Adaptation, Callable[[], torch.Tensor], list[torch.Tensor]]:
    """A method's task on K and V of a U-Net: its adapters, the words that a token is made into, what is trained."""
    method = make_method(name)
    adaptation = Adaptation(layers_of(unet, CROSS_ATTENTION), method, seeded(0))
    table = text.get_input_embeddings()
    token = method.token(torch.empty(table.embedding_dim, device="meta"), seeded(0)).to("meta")
    tokens.attach(table, {0: token})
    shape = min(batch, 4), text.config.max_position_embeddings  # a caption is encoded once
    ids, which = (torch.zeros(s, dtype=torch.long, device="meta") for s in (shape, batch))
    return adaptation, lambda: text(ids)[0][which], [*adaptation.parameters(), *token.parameters()]


def stock(name: str, shape: str, batch: int, dtype: torch.dtype, latent: int | None = None) -> Work:
    """A whole step of a published loop, counted in fp32; bytes are then those of the dtype."""
    pipe = build(shape, "meta", latent=latent)
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    loop = make_loop(name, pipe, torch.empty(2 * batch, 3, size, size, device="meta"))
    work = counted(loop.loss, sum(p.numel() for p in loop.trained))
    work.moved *= dtype.itemsize / 4
    return work


@dataclass
class Machine:
    """Rates of a device. flops: a second, of a large matrix product; moved: bytes a second, of adding large tensors;
    launch: seconds from one small operator to the next; drawn: seconds in which a random number is made where the
    model is, and turned into noise.
    """

    device: torch.device
    flops: float
    moved: float
    launch: float
    drawn: float

    def seconds(self, work: Work) -> float:
        """A GPU computes while the next kernels are started, a CPU does one after the other; noise is waited for."""
        device, launches = work.flops / self.flops + work.moved / self.moved, work.launches * self.launch
        gpu = self.device.type == "cuda"
        return (max(device, launches) if gpu else device + launches) + work.drawn * self.drawn


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    long, small, noisy = torch.zeros(side**2, device=device), torch.ones(8, device=device), MLPMask((1280, 768))

    def noise():
        noisy.sample_noise(on_device(seeded(0), device))

    return Machine(
        device,
        flops=2 * side**3 / timed(lambda: a @ b, device),
        moved=12 * side**2 / timed(lambda: long + long, device),
        launch=timed(lambda: [small + 1 for _ in range(1000)], device) / 1000,
        drawn=timed(noise, device) / (1280 * 768),
    )


def timed(work: Callable[[], object], device: torch.device, times: int = 5) -> float:
    """Fewest seconds of a few calls, after one that does not count."""
    seconds = []
    for _ in range(times + 1):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
