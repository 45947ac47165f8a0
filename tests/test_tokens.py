import pytest
import torch
from torch import nn

from stamina_lite.core import tokens
from stamina_lite.diffusion.vocabulary import add_token


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def table():
    torch.manual_seed(0)
    return nn.Embedding(9, 6)


@pytest.mark.parametrize("kind", [tokens.Vector, tokens.MLP])
def test_only_the_tokens_row_changes(table, kind):
    """Oracle 8: after any number of steps every other row is bit-equal, under AdamW with weight decay too."""
    before = table.weight.detach().clone()
    token = kind(torch.randn(6, generator=generator()), generator())
    tokens.attach(table, {4: token})
    optimizer = torch.optim.AdamW(token.parameters(), 0.1, weight_decay=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        table(torch.tensor([4, 2, 4])).sin().sum().backward()
        optimizer.step()
    row = tokens.fold(table)[4]
    others = [k for k in range(9) if k != 4]
    assert torch.equal(table.weight[others], before[others])
    assert torch.equal(table.weight[4], row) and (row - before[4]).abs().max() > 0.1
    assert type(table) is nn.Embedding and [n for n, _ in table.named_parameters()] == ["weight"]


def test_several_rows_are_trained_apart(table):
    made = {7: tokens.Vector(torch.zeros(6)), 2: tokens.Vector(torch.zeros(6))}
    before = table.weight.detach().clone()
    tokens.attach(table, made)
    table(torch.tensor([7, 7, 2, 5])).sum(1).matmul(torch.tensor([1.0, 1.0, 5.0, 9.0])).backward()
    with torch.no_grad():
        for token in made.values():
            token.row -= token.row.grad
    rows = tokens.fold(table)
    assert torch.equal(rows[7], torch.full((6,), -2.0)) and torch.equal(rows[2], torch.full((6,), -5.0))
    assert torch.equal(table.weight[7], rows[7]) and torch.equal(table.weight[2], rows[2])
    assert torch.equal(table.weight[[0, 1, 3, 4, 5, 6, 8]], before[[0, 1, 3, 4, 5, 6, 8]])


@pytest.mark.parametrize("kind", [tokens.Vector, tokens.MLP])
def test_both_kinds_start_from_the_same_random_row(kind):
    start = torch.randn(6, generator=generator())
    assert torch.allclose(kind(start, generator(1))(), start, atol=1e-6)


def test_the_mlp_token_moves_when_trained():
    token = tokens.MLP(torch.zeros(6), generator())
    optimizer = torch.optim.SGD(token.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (token() - 1).square().sum().backward()
        optimizer.step()
    assert torch.allclose(token(), torch.ones(6), atol=0.05)
    assert token.W2.abs().max() > 0 and token.W1.grad.abs().max() > 0


def test_random_start_has_the_spread_of_the_vocabulary():
    table = nn.Embedding(400, 300)
    with torch.no_grad():
        table.weight.normal_(0.5, 0.03, generator=generator())
        table.weight[300:] = 9.0  # custom rows do not count
    start = tokens.random_start(table, 300, generator(1))
    assert start.mean().item() == pytest.approx(0.5, abs=0.01)
    assert start.std().item() == pytest.approx(0.03, rel=0.15)


def test_adding_a_token_keeps_every_row(tiny):
    table = tiny.text_encoder.get_input_embeddings().weight.detach().clone()
    index = add_token(tiny.tokenizer, tiny.text_encoder, "<person-01>")
    grown = tiny.text_encoder.get_input_embeddings().weight
    assert index == len(table) and torch.equal(grown[:index], table)
    ids = tiny.tokenizer("a photo of <person-01> with <person-01>").input_ids
    assert ids.count(index) == 2
    with pytest.raises(ValueError, match="in the vocabulary already"):
        add_token(tiny.tokenizer, tiny.text_encoder, "<person-01>")
