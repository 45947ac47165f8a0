"""Heads: how classes are told from the features of a ViT that a method has trained, without stored images.

A head learns after each task, from the features of the task's training images, and never changes the weights: one run
can be tested with several heads. Its statistics of a class are of the features as the class's own task left them. Later
tasks change the weights and thereby the features, and the statistics do not follow.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.seeds import Stream, seeded
from ..errors import UserError

TRAINED = "trained"  # the head that is trained together with the weights


class Head(nn.Module):
    """Logits of classes from features. Its buffers are all that a run needs to be resumed.

    Args:
        width: of the features.
        classes: number of classes of all tasks together.
        seed: all that random numbers depend on, with the number of the task.
    """

    name = ""
    statistics: tuple[str, ...] = ()  # buffers that later tasks need, and predictions do not

    def __init__(self, width: int, classes: int, seed: int):
        super().__init__()
        self.seed = seed

    def learn(self, features: Tensor, labels: Tensor, tasks: list[list[int]], trained: nn.Linear) -> None:
        """Learn the classes of a task.

        Args:
            features: of its training images, (n, width).
            labels: their classes, (n,).
            tasks: the classes of every task so far, this one included.
            trained: the head that was trained with the weights.
        """
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Logits of all classes, (n, width) -> (n, classes); those of classes that are not learned mean nothing."""
        raise NotImplementedError


class LinearHead(Head):
    """weight: (classes, width), bias: (classes,)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, width, classes, seed):
        super().__init__(width, classes, seed)
        self.register_buffer("weight", torch.zeros(classes, width))
        self.register_buffer("bias", torch.zeros(classes))

    def forward(self, features):
        return F.linear(features, self.weight, self.bias)


class Means(LinearHead):
    """Nearest class mean: the class c whose mean feature μ_c is nearest.

    The rule of iCaRL (arXiv 1611.07725) [recalled], with all training images of the class for its stored ones, and
    without normalised features [ours]. ‖f − μ‖² is smallest where μ·f − ‖μ‖²/2 is largest: a linear head.
    """

    name = "means"

    def learn(self, features, labels, tasks, trained):
        write_means(self, features, labels, tasks[-1])


def write_means(head: LinearHead | nn.Linear, features: Tensor, labels: Tensor, classes: list[int]) -> None:
    """Write the rows of the nearest class mean of some classes into a head: μ, and the bias −‖μ‖²/2."""
    for label in classes:
        mean = features[labels == label].mean(0)
        head.weight[label], head.bias[label] = mean, -mean.square().sum() / 2


class RanPAC(Head):
    """Ridge regression on a random projection (RanPAC, McDonnell et al. 2023, arXiv 2307.02251).

    φ = relu(Wᵀ f), G = Σ φ φᵀ and C = Σ φ yᵀ over all images so far, y one-hot; logits W_oᵀ φ with
    W_o = (G + λI)⁻¹ C. λ is that of 10⁻⁸ ... 10⁸ with the least squared error on a fifth of the task's images after a
    fit to the others, as in the authors' code.

    W: (width, M), standard normal. G: (M, M). C, W_o: (M, classes). M is 10,000 in the paper [recalled]; here 2,000,
    ten times the width of the embedded ViT [ours].
    """

    name = "ranpac"
    statistics = ("G", "C")
    M = 2000
    W: Tensor
    G: Tensor
    C: Tensor
    W_o: Tensor

    def __init__(self, width, classes, seed):
        super().__init__(width, classes, seed)
        W = torch.randn(width, self.M, generator=seeded(seed, 0, Stream.HEADS))
        self.register_buffer("W", W, persistent=False)
        self.register_buffer("G", torch.zeros(self.M, self.M, dtype=torch.float64))
        self.register_buffer("C", torch.zeros(self.M, classes, dtype=torch.float64))
        self.register_buffer("W_o", torch.zeros(self.M, classes))

    def project(self, features: Tensor) -> Tensor:
        """φ: (n, width) -> (n, M)."""
        return (features @ self.W).relu()

    def learn(self, features, labels, tasks, trained):
        phi, Y = self.project(features).double(), F.one_hot(labels, self.C.shape[1]).double()
        self.G += phi.T @ phi
        self.C += phi.T @ Y
        order = torch.randperm(len(phi), generator=seeded(self.seed, len(tasks), Stream.HEADS)).to(phi.device)
        penalty = best_penalty(phi[order], Y[order])
        self.W_o.copy_(torch.linalg.solve(self.G + penalty * torch.eye(self.M).to(self.G), self.C))

    def forward(self, features):
        return self.project(features) @ self.W_o


def best_penalty(phi: Tensor, Y: Tensor) -> float:
    """λ of ridge regression from phi (n, M) to Y (n, classes): fitted to the first four fifths, tested on the others.

    With φ = U S Vᵀ the solution is V S (S² + λ)⁻¹ Uᵀ Y for every λ.
    """
    n = max(1, int(0.8 * len(phi)))
    U, S, Vt = torch.linalg.svd(phi[:n], full_matrices=False)
    inputs, targets = phi[n:] @ Vt.T, U.T @ Y[:n]
    penalties = [10.0**power for power in range(-8, 9)]
    errors = [(inputs @ ((S / (S**2 + p))[:, None] * targets) - Y[n:]).square().sum().item() for p in penalties]
    return penalties[errors.index(min(errors))]


class Aligned(LinearHead):
    """The trained head, trained on with Gaussian samples of all classes (SLCA, Zhang et al. 2023, arXiv 2303.05118).

    A class's features are taken as N(μ_c, Σ_c). From the second task on, the rows of all classes so far are trained on
    256 samples of each class an epoch. The cross-entropy is of the logits divided by τ times their norm (the mean over
    tasks of the norm of a task's logits, as in the authors' code). That code also scales the means of earlier classes
    by 0.9 to 1, which is left out [ours].

    mean: (classes, width), covariance: (classes, width, width).
    """

    name = "aligned"
    statistics = ("mean", "covariance")
    epochs, samples, lr, tau = 5, 256, 0.01, 0.1
    mean: Tensor
    covariance: Tensor

    def __init__(self, width, classes, seed):
        super().__init__(width, classes, seed)
        self.register_buffer("mean", torch.zeros(classes, width))
        self.register_buffer("covariance", torch.zeros(classes, width, width))

    def learn(self, features, labels, tasks, trained):
        for label in tasks[-1]:
            own = features[labels == label]
            self.mean[label] = own.mean(0)
            centred = own - self.mean[label]
            self.covariance[label] = centred.T @ centred / max(1, len(own) - 1)
        self.weight.copy_(trained.weight)
        self.bias.copy_(trained.bias)
        if len(tasks) > 1:
            self.align(tasks, seeded(self.seed, len(tasks), Stream.HEADS))

    @torch.enable_grad()
    def align(self, tasks: list[list[int]], generator: torch.Generator) -> None:
        """Train the rows of all classes so far on samples of their Gaussians."""
        seen, sizes = sum(tasks, []), [len(task) for task in tasks]
        jitter = 1e-4 * torch.eye(self.mean.shape[1]).to(self.mean)  # fewer images than dimensions: Σ is singular
        roots = torch.linalg.cholesky(self.covariance[seen] + jitter)  # (classes, width, width)
        W, b = (rows[seen].clone().requires_grad_() for rows in (self.weight, self.bias))
        optimizer = torch.optim.SGD([W, b], lr=self.lr, momentum=0.9, weight_decay=5e-4)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        targets = torch.arange(len(seen)).repeat_interleave(self.samples)
        for _ in range(self.epochs):
            noise = torch.randn(len(seen), self.samples, self.mean.shape[1], generator=generator).to(roots)
            x = (self.mean[seen][:, None] + noise @ roots.mT).flatten(0, 1)
            for part in torch.randperm(len(x), generator=generator).split(self.samples):
                logits = F.linear(x[part], W, b)
                loss = F.cross_entropy(normalised(logits, sizes) / self.tau, targets[part].to(x.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()
        with torch.no_grad():
            self.weight[seen], self.bias[seen] = W, b


def normalised(logits: Tensor, sizes: list[int]) -> Tensor:
    """Logits (n, classes) divided by the mean over tasks of the norm of a task's logits; sizes: of the tasks."""
    norms = [part.norm(dim=1, keepdim=True) for part in logits.split(sizes, dim=1)]
    return logits / (torch.cat(norms, dim=1).mean(1, keepdim=True) + 1e-7)


HEADS: dict[str, type[Head]] = {head.name: head for head in (Means, RanPAC, Aligned)}


def make_heads(names: tuple[str, ...], width: int, classes: int, seed: int) -> dict[str, Head]:
    """New heads by their names, but for the trained one.

    Raises:
        UserError: a name is unknown, or is given twice.
    """
    for name in names:
        if name not in (TRAINED, *HEADS):
            raise UserError(f"unknown head {name}: choose from {', '.join((TRAINED, *HEADS))}")
    if len({*names}) < len(names):
        raise UserError(f"a head is named twice in {', '.join(names)}: name each once")
    return {name: HEADS[name](width, classes, seed) for name in names if name != TRAINED}
