"""Custom tokens: one new row of the embedding table, trained as a free vector or as the output of a small MLP."""

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


class Row(nn.Module):
    """Parametrization of an embedding table (n, width): row `index` is a token's, every other passes through."""

    def __init__(self, index: int, token: nn.Module):
        super().__init__()
        self.index, self.token = index, token

    def forward(self, table: Tensor) -> Tensor:
        row = self.token().to(table.dtype)[None]
        return torch.cat([table[: self.index], row, table[self.index + 1 :]])


def attach(table: nn.Embedding, index: int, token: nn.Module) -> None:
    """Train row `index` of the table by `token`; the table itself stays as it is."""
    parametrize.register_parametrization(table, "weight", Row(index, token))
    table.parametrizations.weight.original.requires_grad_(False)


@torch.no_grad()
def fold(table: nn.Embedding) -> Tensor:
    """Write the token's row into the table and leave the embedding stock; returns the row in fp32."""
    parametrization = table.parametrizations.weight[0]
    row = parametrization.token().clone()
    parametrize.remove_parametrizations(table, "weight", leave_parametrized=False)
    table.weight[parametrization.index] = row.to(table.weight.dtype)
    return row


def random_start(table: nn.Embedding, vocabulary: int, generator: torch.Generator) -> Tensor:
    """A random row with the mean and spread of the base vocabulary's rows (the first `vocabulary`): (width,), fp32."""
    rows = table.weight[:vocabulary].detach().float()
    noise = torch.randn(rows.shape[1], generator=generator).to(rows.device)
    return rows.mean(0) + rows.std() * noise


def add_token(tokenizer, text_encoder, token: str) -> int:
    """Append a token to the vocabulary and a row to the table; returns its index. The other rows stay bit-equal."""
    from transformers import AddedToken

    if tokenizer.add_tokens([AddedToken(token, normalized=False)]) != 1:
        raise ValueError(f"{token} is in the vocabulary already: choose another name")
    text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    text_encoder.requires_grad_(False)
    return tokenizer.convert_tokens_to_ids(token)
