import copy
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from stamina_lite.classification.datasets import TaskImages, task_images
from stamina_lite.classification.model import Classifier
from stamina_lite.core.settings import ClassSettings, renamed
from stamina_lite.errors import UserError
from stamina_lite.methods import registry
from stamina_lite.methods.registry import CLASS_METHODS, make_class_method
from stamina_lite.methods.subspaces import grow, input_covariances, leading
from stamina_lite.reproduction.grids import load_grid

FEW = {"epochs": 2, "batch": 8, "rank": 4, "mask_rank": 2, "n_prior": 6, "lr": 0.01}
FIRST, SECOND = [0, 1], [2, 3]


def classifier(vit, name, **options):
    return Classifier(vit, 6, make_class_method(name, **{**FEW, **options}), tasks=3, seed=0)


@pytest.mark.parametrize("name", CLASS_METHODS)
def test_every_method_learns_two_tasks(vit, patches, name):
    model = classifier(vit, name)
    for task, classes in enumerate((FIRST, SECOND), 1):
        learned = model.learn(task_images(patches.train, classes), task)
        assert all(math.isfinite(step["loss"]) for step in learned.steps)
    assert model.seen == [0, 1, 2, 3] and model.head.weight[:4].abs().sum(1).min() > 0
    assert name == "ncm" or learned.steps[-1]["cross_entropy"] < math.log(4)


def test_weight_space_methods_are_those_of_text_to_image():
    shared = {"lora", "c-lora", "lora-scaled", *(name for name in CLASS_METHODS if name.startswith("stamina"))}
    assert all(CLASS_METHODS[name] is registry.METHODS[name] for name in shared) and len(shared) == 11
    settings = make_class_method("stamina", lambda_forget=7.0).settings
    assert isinstance(settings, ClassSettings) and settings.lambda_forget == 7.0 and settings.lambda_sparse > 0


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("stamina", {"steps": 3}, "unknown setting steps"),
        ("stamina", {"epochs": 0}, "epochs must be above 0"),
        ("lwf", {"distill": -1.0}, "distill must be 0 or more"),
        ("ft", {"lr_head": float("nan")}, "lr_head must be a finite number, not nan"),
        ("inflora", {"threshold": 1.5}, "threshold must be"),
        ("dreambooth", {}, "unknown method dreambooth: choose one of lora, c-lora"),
    ],
)
def test_bad_settings_are_refused(name, options, says):
    with pytest.raises(UserError, match=says):
        make_class_method(name, **options)


def test_nearest_class_mean_is_a_linear_head(vit, patches):
    model = classifier(vit, "ncm")
    model.learn(task_images(patches.train, FIRST), 1)
    model.learn(task_images(patches.train, SECOND), 2)
    indices = (patches.test.labels < 4).nonzero()[:, 0]
    x = patches.test.load(indices)
    train = model.features(patches.train.load(torch.arange(48)))
    means = torch.stack([train[patches.train.labels[:48] == k].mean(0) for k in range(4)])
    nearest = torch.cdist(model.features(x), means).argmin(1)
    assert torch.equal(model.predict(x), nearest) and nearest.unique().numel() == 4


def test_lwf_holds_past_classes_to_the_model_before(vit, patches):
    model = classifier(vit, "lwf", distill=3.0)
    model.learn(task_images(patches.train, FIRST), 1)
    before = copy.deepcopy(vit)
    model.past = list(model.seen)
    model.method.begin(model, None)
    x = patches.train.load(torch.arange(4))
    assert model.method.auxiliary_loss(model, x, model.logits(x)).item() == pytest.approx(0, abs=1e-5)
    logits = model.logits(x) + torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    old = F.softmax(before((x - model.mean) / model.std)[:, FIRST] / 2, 1)
    now = F.softmax(logits[:, FIRST] / 2, 1)
    expected = 3.0 * 4 * (old * (old / now).log()).sum(1).mean()
    assert (
        model.method.auxiliary_loss(model, x, logits).item() == pytest.approx(expected.item(), rel=1e-4)
        and expected > 0.01
    )


def test_lwf_keeps_what_it_said_of_past_classes(vit, patches):
    def drift(name, **options):
        model = classifier(copy.deepcopy(vit), name, epochs=10, lr=0.003, **options)
        model.learn(task_images(patches.train, FIRST), 1)
        x = patches.test.load(torch.arange(12, 24))  # of the second task: these it is held on
        before = F.softmax(model.logits(x)[:, FIRST], 1)
        model.learn(task_images(patches.train, SECOND), 2)
        return (F.softmax(model.logits(x)[:, FIRST], 1) - before).abs().mean().item()

    assert drift("lwf", distill=10.0) < 0.2 * drift("ft++")


def test_ewc_keeps_the_fisher_information_of_past_tasks(vit, patches):
    model = classifier(vit, "ewc", n_prior=3)
    task = task_images(patches.train, FIRST)
    model.learn(task, 1)
    from stamina_lite.core.seeds import seeded

    layer = next(la for la in model.layers if la.name == "blocks.4.mlp.fc2.weight")
    weight, total = layer.weight.requires_grad_(), 0
    for loss in model.losses(task, 3, seeded(0, 1, 5)):
        total = total + torch.autograd.grad(loss(), weight)[0].square()
    assert torch.allclose(layer.memory["fisher"], total / 3, rtol=1e-4) and total.max() > 0
    first = layer.memory["fisher"].clone()
    weight.requires_grad_(False)
    model.learn(task_images(patches.train, SECOND), 2)
    assert (layer.memory["fisher"] >= first).all() and not torch.equal(layer.memory["fisher"], first)


def test_inflora_leaves_what_past_inputs_use_alone(vit, patches):
    model = classifier(vit, "inflora", threshold=0.9)
    model.learn(task_images(patches.train, FIRST), 1)
    layer = model.layers[3]
    space, before = layer.memory["space"], layer.current.clone()
    assert torch.allclose(space.T @ space, torch.eye(space.shape[1]), atol=1e-5) and 1 <= space.shape[1] < 24
    model.learn(task_images(patches.train, SECOND), 2)
    step = layer.current - before
    assert (step @ space).norm() < 1e-5 * step.norm() and step.norm() > 1e-3
    assert layer.memory["space"].shape[1] >= space.shape[1]


def test_every_token_counts_alike_however_pictures_are_parted(vit, patches):
    """Seventy pictures go through the model as 64 and 6."""
    model, task = classifier(vit, "inflora"), task_images(patches.train, FIRST)
    indices = torch.cat([task.indices[:1].repeat(64), task.indices[-1:].repeat(6)])
    many = TaskImages(patches.train, indices, FIRST)
    ends = [TaskImages(patches.train, indices[k : k + 1], FIRST) for k in (0, 64)]
    module = model.layers[4].module
    first, last, found = (input_covariances(model, pictures)[module] for pictures in (*ends, many))
    assert torch.allclose(found, (64 * first + 6 * last) / 70) and not torch.allclose(first, last, rtol=0.1)


def test_the_protected_subspace_holds_the_threshold(vit, patches):
    model = classifier(vit, "inflora")
    module = model.layers[4].module
    task = task_images(patches.train, FIRST)
    covariance = input_covariances(model, task)[module]
    seen = []
    hook = module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(0, 1).double()))
    model.features(patches.train.load(task.indices))
    hook.remove()
    assert torch.allclose(covariance, seen[0].T @ seen[0] / len(seen[0]))
    space = grow(None, covariance, 0.95).double()

    def share(space):
        return ((space.T @ covariance @ space).trace() / covariance.trace()).item()

    assert share(space) >= 0.95 > share(space[:, :-1])
    wider = grow(space.float(), covariance, 0.999).double()
    assert torch.allclose(wider @ wider.T @ space, space, atol=1e-6) and share(wider) >= 0.999
    assert torch.equal(grow(space.float(), covariance, 0.5), grow(space.float(), covariance, 0.6))  # enough already
    rows = leading(covariance, space.float(), 3).double()
    assert (rows @ space).abs().max() < 1e-6 and torch.allclose(rows @ rows.T, torch.eye(3).double(), atol=1e-5)


def test_sd_lora_is_a_sum_of_directions_with_magnitudes(vit, patches):
    model = classifier(vit, "sd-lora", lr=0.05)
    model.learn(task_images(patches.train, FIRST), 1)
    layer = model.layers[1]
    first = {k: v.clone() for k, v in layer.memory.items()}
    starts = model.method.adapter(layer, torch.Generator().manual_seed(0))
    assert torch.allclose(starts.delta(), torch.zeros(24, 24), atol=1e-6)  # a task's first step changes nothing
    model.learn(task_images(patches.train, SECOND), 2)
    A, B, alpha = (layer.memory[k] for k in ("A", "B", "alpha"))
    assert A.shape == (2, 24, 4) and B.shape == (2, 4, 24) and alpha.shape == (2,)
    directions = A @ B
    assert torch.allclose(directions.flatten(1).norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(layer.past, (alpha[:, None, None] * directions).sum(0), atol=1e-5)
    assert torch.equal(A[0], first["A"][0]) and torch.equal(B[0], first["B"][0])
    assert abs(alpha[0] - first["alpha"][0]) > 1e-4


ROOT = Path(__file__).parents[1]
TUNING = {file.stem: json.loads(file.read_text()) for file in (ROOT / "results" / "tuning-classes").glob("*.json")}


def test_every_method_with_settings_of_its_own_was_tuned():
    ablations = {name for name in CLASS_METHODS if name.startswith("stamina-")}
    assert {*TUNING} == {*CLASS_METHODS} - ablations - {"ncm"}


@pytest.mark.parametrize("name", [*CLASS_METHODS])
def test_a_class_method_starts_from_what_was_chosen_for_it(name):
    """Ablations have STAMINA's settings, but for what they leave out."""
    settings = make_class_method(name).settings.as_dict()
    if name in TUNING:
        found = TUNING[name]
        chosen = next(trial for trial in found["trials"] if trial["options"] == found["chosen"])
        assert chosen["a_n"] == max(trial["a_n"] for trial in found["trials"]) and len(found["trials"]) == 6
        assert settings == renamed(chosen["settings"])
    elif name != "ncm":
        own = {key for key, value in make_class_method("stamina").settings.as_dict().items() if settings[key] != value}
        assert own <= {"lambda_forget", "lambda_sparse", "mask", "hard", "density"}


def test_the_grid_runs_every_class_method_from_what_was_chosen():
    runs = load_grid(ROOT / "notebooks" / "params" / "classes.yaml")
    assert {run.row for run in runs} == {*CLASS_METHODS, *registry.WITH_HEAD, "coda-p-slow-head"}
    assert {(run.variant, run.seed) for run in runs if run.row == "stamina"} == {
        (tasks, seed) for tasks in (5, 10, 20) for seed in range(5)
    }
    for run in runs:
        method, settings = run.method()
        same = make_class_method(method, **settings).settings == make_class_method(method).settings
        assert same == (run.row != "coda-p-slow-head")
