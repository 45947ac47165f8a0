"""Custom tokens: new rows of the embedding table, trained as free vectors or as the output of small MLPs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Vector(nn.Module):
    """A token as Textual Inversion and C-LoRA have it: the row itself is trained, from a random start [paper].

    start: (width,).
    """

    def __init__(self, start: Tensor, generator: torch.Generator | None = None):
        super().__init__()
        self.row = nn.Parameter(start.detach().float().clone())

    def forward(self) -> Tensor:
        return self.row


class MLP(nn.Module):
    """STAMINA's token V* = g(u): a small MLP on a fixed input [paper]; g = Linear, ReLU, Linear on a random u [ours].

    start: (width,), the row that the untrained MLP gives, so that vector and MLP tokens start alike.
    The hidden layer is averaged, not summed, so that one learning rate suits both.
    """

    u: Tensor

    def __init__(self, start: Tensor, generator: torch.Generator | None = None, hidden: int = 128):
        super().__init__()
        width, device = len(start), start.device
        self.register_buffer("u", torch.randn(width, generator=generator).to(device))
        self.W1 = nn.Parameter((torch.randn(hidden, width, generator=generator) / width**0.5).to(device))
        self.b1 = nn.Parameter(torch.zeros(hidden, device=device))
        self.W2 = nn.Parameter(torch.zeros(width, hidden, device=device))
        self.b2 = nn.Parameter(start.detach().float().clone())

    def forward(self) -> Tensor:
        return self.W2 @ torch.relu(self.W1 @ self.u + self.b1) / len(self.b1) + self.b2


class Rows(nn.Module):
    """Parametrization of an embedding table (n, width): some rows are tokens', every other passes through."""

    index: Tensor

    def __init__(self, made: dict[int, nn.Module]):
        super().__init__()
        self.tokens = nn.ModuleList(made.values())
        self.register_buffer("index", torch.tensor([*made]))

    def forward(self, table: Tensor) -> Tensor:
        rows = torch.stack([token() for token in self.tokens]).to(table.dtype)
        return table.index_copy(0, self.index, rows)


def attach(table: nn.Embedding, made: dict[int, nn.Module]) -> None:
    """Train rows of the table by tokens, {row: token}; the table itself stays as it is."""
    parametrize.register_parametrization(table, "weight", Rows(made).to(table.weight.device))
    parametrizations: Any = table.parametrizations
    parametrizations.weight.original.requires_grad_(False)


@torch.no_grad()
def fold(table: nn.Embedding) -> dict[int, Tensor]:
    """Write the tokens' rows into the table and leave the embedding stock; returns the rows in fp32."""
    parametrizations: Any = table.parametrizations
    made = parametrizations.weight[0]
    rows = {i: token().clone() for i, token in zip(made.index.tolist(), made.tokens, strict=True)}
    parametrize.remove_parametrizations(table, "weight", leave_parametrized=False)
    for index, row in rows.items():
        table.weight[index] = row.to(table.weight.dtype)
    return rows


def random_start(table: nn.Embedding, vocabulary: int, generator: torch.Generator) -> Tensor:
    """A random row with the mean and spread of the base vocabulary's rows (the first `vocabulary`): (width,), fp32."""
    rows = table.weight[:vocabulary].detach().float()
    noise = torch.randn(rows.shape[1], generator=generator).to(rows.device)
    return rows.mean(0) + rows.std() * noise
