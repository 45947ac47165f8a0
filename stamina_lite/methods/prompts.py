"""Prompt methods: prefixes of keys and values for a frozen ViT, chosen for each image by its feature, the query.

The trained parameters are a `Pool`; the ViT never changes. Methods are in their prefix-tuning versions, as Smith et al.
2023 (CODA-Prompt) compare them; sizes and initial values are those of that paper's code.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.method import Method
from ..errors import UserError


class PrefixAttention(nn.Module):
    """A stock timm Attention that also attends to a prefix (prefix tuning, Li & Liang 2021, as in DualPrompt).

    Without a prefix it is the stock module. Output gates are not supported, nor masks together with a prefix.
    """

    attention: Any  # timm's Attention

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.attention = attention
        self.prefix: tuple[Tensor, Tensor] | None = None  # P_k and P_v, each (B, L, d)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, **options) -> Tensor:
        """(B, N, d) -> (B, N, d). Raises ValueError for a mask together with a prefix."""
        stock = self.attention
        if self.prefix is None:
            return stock(x, attn_mask=attn_mask, **options)
        if attn_mask is not None or any(options.values()):
            raise ValueError("attention with a prefix takes no mask: set prefix to None, or leave out the mask")
        q, k, v = stock.qkv(x).chunk(3, dim=-1)
        P_k, P_v = (prefix.to(k.dtype) for prefix in self.prefix)
        k, v = torch.cat([P_k, k], dim=1), torch.cat([P_v, v], dim=1)  # (B, L + N, d)
        q, k, v = (t.unflatten(-1, (stock.num_heads, stock.head_dim)).transpose(1, 2) for t in (q, k, v))
        q, k = stock.q_norm(q), stock.k_norm(k)
        dropped = stock.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped, scale=stock.scale)  # (B, heads, N, head_dim)
        return stock.proj_drop(stock.proj(stock.norm(x.transpose(1, 2).flatten(2))))


class Pool(nn.Module):
    """The prompts of all tasks, allocated at the start: its state_dict is all that a run needs to be resumed."""

    task: Tensor

    def __init__(self, layers: Sequence[int]):
        super().__init__()
        self.layers = list(layers)  # the blocks whose attention gets a prefix
        self.loss: Tensor | None = None  # the last call's term of the loss: a scalar, or None
        self.register_buffer("task", torch.tensor(0))

    def begin(self, task: int) -> None:
        """Called before each task, from 1 and in order: decides what is trained, here everything."""
        self.task.fill_(task)

    def prefixes(self, query: Tensor, training: bool) -> dict[int, tuple[Tensor, Tensor]]:
        """Features of the ViT without prompts, (B, d) -> {layer: (P_k, P_v)}, each (B, L, d)."""
        raise NotImplementedError


class MatchingPool(Pool):
    """L2P++: prompts P: (layers, N, L, d) with keys K: (layers, N, d), all trained in every task.

    The prompts whose keys are nearest to the query by cosine are concatenated. The loss pulls these keys to the query:
    Σ (1 - cos) over them and over layers, mean over the batch [ours].
    """

    def __init__(self, layers, pool: int, length: int, top: int, width: int, generator: torch.Generator):
        super().__init__(layers)
        self.top = top
        self.K = nn.Parameter(torch.rand(len(layers), pool, width, generator=generator))
        self.P = nn.Parameter(torch.rand(len(layers), pool, length, width, generator=generator))

    def prefixes(self, query, training):
        similarity = F.cosine_similarity(query[:, None], self.K[:, None], dim=-1)  # (layers, B, N)
        nearest, index = similarity.topk(self.top)
        self.loss = (1 - nearest).sum(dim=(0, 2)).mean() if training else None
        return split(self.layers, pick(self.P, index))


class ExpertPool(Pool):
    """DualPrompt: general prompts G: (layers, L, d), trained in every task, and an expert prompt with a key per task.

    E: (layers, L, d) and K: (layers, d) of each task. A task trains its expert; the loss pulls the expert's key to the
    query: Σ (1 - cos) over layers, mean over the batch [ours]. In testing the nearest key among the tasks so far
    chooses the expert [ours]; in the code of Smith et al. it may also be the key of a later task.
    """

    def __init__(self, general, expert, lengths: tuple[int, int], tasks: int, width: int, generator: torch.Generator):
        super().__init__([*general, *expert])
        self.general, self.expert = general, expert
        n, (short, long) = len(expert), lengths
        self.G = nn.Parameter(torch.rand(len(general), short, width, generator=generator))
        self.E = nn.ParameterList([torch.rand(n, long, width, generator=generator) for _ in range(tasks)])
        self.K = nn.ParameterList([torch.rand(n, width, generator=generator) for _ in range(tasks)])

    def begin(self, task):
        super().begin(task)
        train_only(self.E, task)
        train_only(self.K, task)

    def prefixes(self, query, training):
        task = int(self.task)
        E, K = (torch.stack([*parts[:task]], dim=1) for parts in (self.E, self.K))  # (layers, task, ...)
        similarity = F.cosine_similarity(query[:, None], K[:, None], dim=-1)  # (layers, B, task)
        index = similarity.argmax(dim=-1, keepdim=True)
        self.loss = None
        if training:
            index = torch.full_like(index, task - 1)
            self.loss = (1 - similarity[..., -1]).sum(dim=0).mean()
        general = self.G[:, None, None].expand(-1, len(query), -1, -1, -1)
        return split(self.general, general) | split(self.expert, pick(E, index))


class ComponentPool(Pool):
    """CODA-P: p = Σ_m α_m P_m with α_m = cos(q ⊙ A_m, K_m), over the components of all tasks so far.

    A, K: (layers, M, d) and P: (layers, M, L, d) of each task; M is a task's share of all components. Those of past
    tasks are frozen. New ones start orthogonal to each other and to all past ones; the paper's penalty for that is left
    out, as in the later version of its code.
    """

    def __init__(self, layers, share: int, length: int, tasks: int, width: int, generator: torch.Generator):
        super().__init__(layers)

        def parts(*shape: int) -> nn.ParameterList:
            sizes = len(layers), share, *shape
            return nn.ParameterList([torch.randn(sizes, generator=generator) for _ in range(tasks)])

        self.A, self.K, self.P = parts(width), parts(width), parts(length, width)

    def begin(self, task):
        for parts in (self.A, self.K, self.P):
            train_only(parts, task)
            if task > self.task:  # a task that is resumed keeps what it has learned
                orthogonalise([*parts[:task]])
        super().begin(task)

    def prefixes(self, query, training):
        A, K, P = (torch.cat([*parts[: int(self.task)]], dim=1) for parts in (self.A, self.K, self.P))
        products = torch.einsum("bd,lmd->lbm", query, A * F.normalize(K, dim=-1))  # without storing q ⊙ A
        alpha = products / torch.einsum("bd,lmd->lbm", query.square(), A.square()).sqrt()  # (layers, B, M)
        p = torch.einsum("lbm,lmtd->lbtd", alpha, P)
        return split(self.layers, p[:, :, None])


def pick(prompts: Tensor, index: Tensor) -> Tensor:
    """Gather prompts (layers, n, L, d) by an index (layers, B, k): (layers, B, k, L, d)."""
    offset = torch.arange(len(prompts), device=index.device)[:, None, None] * prompts.shape[1]
    found = prompts.flatten(0, 1).index_select(0, (offset + index).flatten())  # indexing adds gradients in any order
    return found.view(*index.shape, *prompts.shape[2:])


def split(layers: Sequence[int], prompts: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """Prompts (layers, B, k, L, d) to prefixes: the first half is for keys, the second for values, (B, k L/2, d)."""
    P_k, P_v = (half.flatten(2, 3) for half in prompts.chunk(2, dim=3))
    return dict(zip(layers, zip(P_k, P_v, strict=True), strict=True))


def train_only(parts: nn.ParameterList, task: int) -> None:
    """Freeze the parts of all tasks but the present one."""
    for number, part in enumerate(parts, 1):
        part.requires_grad_(number == task)


@torch.no_grad()
def orthogonalise(parts: list[Tensor]) -> None:
    """Make the components of the last part, (layers, M, ...), orthonormal and orthogonal to those of earlier parts.

    Gram-Schmidt by a QR decomposition. Components beyond the dimension are only normalised.
    """
    rows = torch.cat([part.flatten(2) for part in parts], dim=1)  # (layers, n, D)
    past = rows.shape[1] - parts[-1].shape[1]
    Q, R = torch.linalg.qr(rows.mT)  # (layers, D, min(D, n)), (layers, min(D, n), n)
    signs = R.diagonal(dim1=1, dim2=2).sign()  # which QR does not determine
    fitting = (Q * signs[:, None]).mT[:, past:]
    others = F.normalize(rows[:, past + fitting.shape[1] :], dim=-1)
    parts[-1].copy_(torch.cat([fitting, others], dim=1).view_as(parts[-1]))


class Prompting(Method):
    """Prompts in some blocks are trained, the ViT is frozen."""

    layers: tuple[int, ...] = ()

    def adapter(self, layer, generator):
        return None

    def prompts(self, width, depth, tasks, generator):
        needed = max(self.layers) + 1
        if depth < needed:
            raise UserError(f"{self.name} has prompts in {needed} blocks: a ViT of {depth} is too shallow for it")
        return self.make_pool(width, tasks, generator)

    def make_pool(self, width: int, tasks: int, generator: torch.Generator) -> Pool:
        raise NotImplementedError


class L2P(Prompting):
    """The nearest prompts of one pool (Learning to Prompt, Wang et al. 2022)."""

    name = "l2p++"
    layers: tuple[int, ...] = (0,)
    pool, length, top = 30, 20, 5

    def make_pool(self, width, tasks, generator):
        return MatchingPool(self.layers, self.pool, self.length, self.top, width, generator)


class DeepL2P(L2P):
    """L2P with a pool in each of five layers."""

    name = "deep-l2p++"
    layers = (0, 1, 2, 3, 4)


class DualPrompt(Prompting):
    """General prompts in early blocks, an expert prompt per task in later ones (DualPrompt, Wang et al. 2022)."""

    name = "dualprompt"
    general, expert = (0, 1), (2, 3, 4)
    lengths = 6, 20  # of a general prompt, of an expert
    layers = general + expert

    def make_pool(self, width, tasks, generator):
        return ExpertPool(self.general, self.expert, self.lengths, tasks, width, generator)


class CODAPrompt(Prompting):
    """A weighted sum of prompt components, new ones for every task (CODA-Prompt, Smith et al. 2023)."""

    name = "coda-p"
    layers = (0, 1, 2, 3, 4)
    pool, length = 100, 8

    def make_pool(self, width, tasks, generator):
        share = self.pool // tasks
        if not share:
            raise UserError(f"{self.name} has {self.pool} components for all tasks: {tasks} tasks are too many")
        return ComponentPool(self.layers, share, self.length, tasks, width, generator)
