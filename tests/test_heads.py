"""Heads without stored images, each against its public definition, and in runs."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from stamina_lite.classification.datasets import of_classes, task_images
from stamina_lite.classification.learner import ContinualClassifier
from stamina_lite.errors import UserError
from stamina_lite.methods import heads as module
from stamina_lite.methods.heads import Aligned, Means, RanPAC, best_penalty, make_heads, normalised

ALL = ("trained", "means", "ranpac", "aligned")
FEW = {"epochs": 1, "batch": 8, "rank": 2, "mask_rank": 2, "n_prior": 4, "lr": 0.01}
TASKS = [[4, 0], [1, 3]]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(RanPAC, "M", 80)


def gaussians(classes, n=60, width=12, seed=0):
    """Features (classes n, width) of Gaussian classes with covariances of their own, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    x = []
    for label in classes:
        own = torch.Generator().manual_seed(100 + label)
        mean, root = 2 * torch.randn(width, generator=own), 0.5 * torch.randn(width, width, generator=own)
        x.append(mean + torch.randn(n, width, generator=draw) @ root.T)
    return torch.cat(x), torch.tensor(classes).repeat_interleave(n)


def linear(width=12, classes=5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(width, classes).requires_grad_(False)


def learned(kind, tasks=2, **options):
    head = kind(12, 5, seed=0)
    with torch.no_grad():
        for t in range(1, tasks + 1):
            head.learn(*gaussians(TASKS[t - 1]), TASKS[:t], linear())
    return head


def accuracy(head, classes=(4, 0, 1, 3)):
    x, labels = gaussians([*classes], seed=1)
    seen = torch.tensor(classes)
    return (seen[head(x)[:, seen].argmax(1)] == labels).float().mean().item()


def test_means_are_the_nearest_mean():
    head, x = learned(Means), gaussians([4, 0, 1, 3], seed=1)[0]
    features, labels = (torch.cat(parts) for parts in zip(*(gaussians(task) for task in TASKS), strict=True))
    seen = torch.tensor(sum(TASKS, []))
    means = torch.stack([features[labels == label].mean(0) for label in seen])
    nearest = seen[torch.cdist(x, means).argmin(1)]
    assert torch.equal(seen[head(x)[:, seen].argmax(1)], nearest) and nearest.unique().numel() == 4
    assert not head.weight[2].any() and accuracy(head) > 0.8


def test_ranpac_is_the_ridge_regression_of_all_pictures_at_once():
    """G and C of two tasks are those of all pictures, and W_o solves (G + λI) W_o = C, with λ of the last task."""
    head = learned(RanPAC)
    x, labels = (torch.cat(parts) for parts in zip(*(gaussians(task) for task in TASKS), strict=True))
    phi = torch.relu(x @ head.W).double()
    Y = F.one_hot(labels, 5).double()
    assert torch.allclose(head.G, phi.T @ phi, rtol=1e-6) and torch.allclose(head.C, phi.T @ Y, rtol=1e-6)
    last = torch.relu(gaussians(TASKS[1])[0] @ head.W).double()
    order = torch.randperm(len(last), generator=module.seeded(0, 2, module.Stream.HEADS))
    penalty = best_penalty(last[order], F.one_hot(gaussians(TASKS[1])[1], 5).double()[order])
    residual = head.G @ head.W_o.double() + penalty * head.W_o.double() - head.C
    assert residual.abs().max() < 1e-4 * head.C.abs().max()
    assert torch.allclose(head(x), (phi.float() @ head.W_o), atol=1e-5)
    assert accuracy(head) > 0.9 and head.W.shape == (12, 80) and abs(head.W.std() - 1) < 0.1
    assert not torch.equal(head.W, RanPAC(12, 5, seed=1).W) and torch.equal(head.W, RanPAC(12, 5, seed=0).W)


@pytest.mark.parametrize(("noise", "seed"), [(0.01, 0), (1.0, 0), (30.0, 1)])
def test_the_penalty_is_the_one_with_the_least_error_on_the_held_part(noise, seed):
    draw = torch.Generator().manual_seed(seed)
    phi = torch.randn(50, 20, generator=draw).double()
    Y = phi @ torch.randn(20, 3, generator=draw).double() + noise * torch.randn(50, 3, generator=draw).double()
    errors = {}
    for power in range(-8, 9):
        W_o = torch.linalg.solve(phi[:40].T @ phi[:40] + 10.0**power * torch.eye(20).double(), phi[:40].T @ Y[:40])
        errors[10.0**power] = (phi[40:] @ W_o - Y[40:]).square().sum().item()
    assert best_penalty(phi, Y) == min(errors, key=errors.get)
    assert (best_penalty(phi, Y) > 1) == (noise > 1)


def test_logits_are_normalised_by_the_mean_norm_of_a_task():
    logits = torch.tensor([[3.0, 4.0, 0.0, 1.0], [0.0, 2.0, 6.0, 8.0]])
    expected = logits / torch.tensor([[(5 + 1) / 2], [(2 + 10) / 2]])
    assert torch.allclose(normalised(logits, [2, 2]), expected)
    assert torch.allclose(normalised(logits, [4]).norm(dim=1), torch.ones(2))


def test_alignment_keeps_a_mean_and_a_covariance_of_each_class():
    head = learned(Aligned)
    for task in TASKS:
        x, labels = gaussians(task)
        for label in task:
            assert torch.allclose(head.mean[label], x[labels == label].mean(0), atol=1e-5)
            assert torch.allclose(head.covariance[label], x[labels == label].T.cov(), atol=1e-4)
    assert not head.covariance[2].any()


def test_alignment_trains_the_trained_head_from_the_second_task_on():
    first, second, trained = learned(Aligned, 1), learned(Aligned), linear()
    assert torch.equal(first.weight, trained.weight) and torch.equal(first.bias, trained.bias)
    moved = (second.weight != trained.weight).any(1)
    assert moved.tolist() == [True, True, False, True, True] and torch.equal(trained.weight, linear().weight)
    assert accuracy(second) > 0.9 > 0.5 > accuracy(trained)


def test_alignment_samples_the_gaussians_of_the_classes(monkeypatch):
    """A step's inputs have the means and covariances of their classes."""
    seen = []
    cross_entropy, linear_map = F.cross_entropy, F.linear
    monkeypatch.setattr(module.F, "linear", lambda x, W, b: (seen.append(x), linear_map(x, W, b))[1])
    labels = []
    monkeypatch.setattr(module.F, "cross_entropy", lambda z, y: (labels.append(y), cross_entropy(z, y))[1])
    monkeypatch.setattr(Aligned, "samples", 4000)
    monkeypatch.setattr(Aligned, "epochs", 1)
    head = learned(Aligned)
    x, y = torch.cat(seen), torch.cat(labels)
    assert len(x) == 4 * 4000
    for k, label in enumerate(sum(TASKS, [])):
        own = x[y == k]
        scale = head.covariance[label].diagonal().max()
        assert (own.mean(0) - head.mean[label]).abs().max() < 0.1 * scale.sqrt()
        assert (own.T.cov() - head.covariance[label]).abs().max() < 0.15 * scale


def test_a_class_of_one_picture_has_a_covariance():
    head = Aligned(12, 5, 0)
    x, labels = gaussians([0, 1], n=1)
    with torch.no_grad():
        head.learn(x, labels, [[0, 1]], linear())
        head.learn(*gaussians([2, 3], n=1), [[0, 1], [2, 3]], linear())
    assert head.weight.isfinite().all() and not head.covariance[0].any()


def test_unknown_heads_are_refused():
    with pytest.raises(UserError, match="unknown head knn: choose from trained, means, ranpac, aligned"):
        make_heads(("means", "knn"), 12, 5, 0)
    with pytest.raises(UserError, match="a head is named twice in means, means"):
        make_heads(("means", "means"), 12, 5, 0)


def run(patches, heads, out=None, method="c-lora", seed=1):
    from conftest import vit

    return ContinualClassifier(vit.__wrapped__(), patches, method, 3, seed, out, heads=heads, **FEW)


def test_one_run_measures_every_head_and_none_changes_the_weights(patches, tmp_path):
    alone, several = run(patches, ("trained",)), run(patches, ALL, tmp_path / "run")
    before, after = alone.learn_all(progress=False), several.learn_all(progress=False)
    assert all(torch.equal(a.current, b.current) for a, b in zip(alone.model.layers, several.model.layers, strict=True))
    assert torch.equal(alone.model.head.weight, several.model.head.weight)
    assert before["accuracy"] == after["accuracy"] == after["heads"]["trained"]["accuracy"]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["heads"] == after["heads"]
    for name in ALL[1:]:
        single = run(patches, (name,)).learn_all(progress=False)
        assert single["right"] == after["heads"][name]["right"] and single["head"] == name
        assert single["a_n"] == after["heads"][name]["a_n"] and "heads" not in single
    assert len({tuple(after["heads"][name]["right"][-1]) for name in ALL}) == 4


def test_statistics_are_of_the_features_as_each_task_left_them(patches):
    learner, means = run(patches, ("means",)), []
    while learner.left:
        learner.learn(progress=False)
        own = task_images(patches.train, learner.tasks[len(learner.records) - 1])
        features = learner.model.features(patches.train.load(own.indices))
        means += [features[patches.train.labels[own.indices] == label].mean(0) for label in own.classes]
    head = learner.heads["means"]
    assert torch.allclose(head.weight[learner.model.seen], torch.stack(means), atol=1e-5)
    first = learner.tasks[0][0]
    now = learner.model.features(patches.train.load(of_classes(patches.train, [first]))).mean(0)
    assert not torch.allclose(now, head.weight[first], atol=1e-4)


def test_a_run_taken_up_again_has_the_heads_of_one_left_alone(patches, tmp_path):
    run(patches, ALL, tmp_path / "alone").learn_all(progress=False)
    for task in (1, 2):
        run(patches, ALL, tmp_path / "again").learn(progress=False)
        files = [*(tmp_path / "again").glob("heads-*")]
        assert [file.name for file in files] == [f"heads-00{task}.safetensors"]
        assert {"ranpac.G", "aligned.covariance"} <= load_file(files[0]).keys()
    run(patches, ALL, tmp_path / "again").learn_all(progress=False)
    one, two = (load_file(tmp_path / name / "heads-003.safetensors") for name in ("alone", "again"))
    assert set(one) == {"means.weight", "means.bias", "aligned.weight", "aligned.bias", "ranpac.W_o"}
    assert all(torch.equal(one[key], two[key]) for key in one)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "again")]
    assert results[0]["heads"] == results[1]["heads"]


def test_a_run_with_other_heads_or_a_damaged_file_is_refused(patches, tmp_path):
    run(patches, ("means",), tmp_path / "run").learn(progress=False)
    with pytest.raises(UserError, match="holds another run .heads is"):
        run(patches, ("ranpac",), tmp_path / "run")
    file = tmp_path / "run" / "heads-001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="heads-001.safetensors was altered"):
        run(patches, ("means",), tmp_path / "run")
    file.unlink()
    with pytest.raises(UserError, match="heads-001.safetensors is missing"):
        run(patches, ("means",), tmp_path / "run")


def test_a_row_of_means_is_its_method_with_that_head(patches):
    row, method = run(patches, ("trained",), method="c-lora-means"), run(patches, ("means",))
    first, second = (learner.learn_all(progress=False) for learner in (row, method))
    assert first["right"] == second["right"] and first["method"] == "c-lora-means" and first["head"] == "means"


def test_an_unfinished_run_without_statistics_does_not_go_on(patches, tmp_path):
    """As earlier versions left runs of c-lora-means: the rows of its first classes would be empty."""
    run(patches, ("trained",), tmp_path / "run", method="c-lora-means").learn(progress=False)
    (tmp_path / "run" / "heads-001.safetensors").unlink()
    with pytest.raises(UserError, match="heads-001.safetensors is missing"):
        run(patches, ("trained",), tmp_path / "run", method="c-lora-means")
