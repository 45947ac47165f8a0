"""Variants of STAMINA's mask that are compared in a study."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from stamina_lite.core.layers import AdaptedWeight
from stamina_lite.methods.lora import Stamina

sys.path.append(str(Path(__file__).resolve().parents[1] / "studies"))

import mask_variants  # noqa: E402


def second_task(method):
    """A layer with a past, and the method's adapter on it with an update that is not zero."""
    layer, draw = AdaptedWeight("K", torch.nn.Linear(32, 32, bias=False)), torch.Generator().manual_seed(0)
    for _ in range(2):
        layer.attach(method.adapter(layer, draw))
        torch.nn.init.normal_(layer.adapter.A, generator=draw)
        if not layer.past.any():
            layer.fold()
    return layer


@pytest.mark.parametrize(("kind", "reached"), [(Stamina, True), (mask_variants.PenaltyApart, False)])
def test_whether_the_gradient_of_the_penalty_reaches_the_mask(kind, reached):
    layer = second_task(kind(lambda_forget=10.0, lambda_sparse=0.0))
    penalty = kind(lambda_forget=10.0, lambda_sparse=0.0).penalty(layer)
    penalty.backward()
    gradient = layer.adapter.mask.W2.grad
    assert (gradient is not None and gradient.abs().sum().item() > 0) == reached
    assert layer.adapter.A.grad.abs().sum() > 0 and penalty.item() > 0


def test_variants_have_equal_penalties_for_equal_updates():
    layer = second_task(Stamina())
    values = [kind(lambda_forget=10.0).penalty(layer).item() for kind in (Stamina, mask_variants.PenaltyApart)]
    assert values[0] == pytest.approx(values[1]) and values[0] > 0


def test_a_sparse_start_opens_few_weights():
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    layer = AdaptedWeight("K", torch.nn.Linear(64, 64, bias=False))
    kinds = (Stamina, mask_variants.SparseStart)
    opened = [kind().adapter(layer, draw).mask.eval()().mean().item() for kind, draw in zip(kinds, draws, strict=True)]
    assert opened[0] == pytest.approx(0.5, abs=0.1) and opened[1] == pytest.approx(0.05, abs=0.005)


def test_the_table_and_figure_compare_with_the_mask_as_it_is():
    tasks = [f"c{k}" for k in range(6)]

    def row(base, density):
        measures = {name: dict.fromkeys(tasks, base) for name in mask_variants.MEASURES}
        measures["plasticity"] = {name: base + (k >= 4) for k, name in enumerate(tasks)}
        return {**measures, "step_change": [3.0, *[1.0] * 5], "mask_density": [density] * 6}

    report = {"rows": {mask_variants.AS_IS: row(0.5, 0.2), "no mask": row(0.25, None), "free": row(0.75, 0.3)}}
    report["rows"]["free"]["plasticity"]["c0"] = 9.0  # an early concept, which is not among the late ones
    lines = mask_variants.variants_table(report).splitlines()[2:]
    assert lines[0] == "| no mask | " + " | ".join(["-0.25 [-0.25, -0.25]"] * 3) + " | -25 [-25, -25] |"
    assert lines[1].startswith("| free | 0.25 [0.25, 0.25] |")
    left, right = mask_variants.variants_figure(report).axes
    assert [len(line.get_xdata()) for line in left.lines] == [6, 0, 6] and len(right.lines) == 3
    assert left.lines[0].get_ydata()[0] == pytest.approx(20)
    plt.close("all")
