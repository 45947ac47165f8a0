"""The base model's training goes on where it was killed, and counts on from the training its start has had."""

import pytest
import torch
from pretrain_diffusion import Run


class Killed(Exception):
    pass


def trained(folder, kill_at=None, log=()):
    """Six steps of a small regression, killed in one of them or not: the Run and the numbers it drew."""
    torch.manual_seed(0)
    model, drawn = torch.nn.Linear(3, 1), []
    run = Run(folder, "line", {"model": model}, 6, 1e-1, 4, "cpu", decay=0.9, log=list(log))

    def loss(draw):
        if run.step == kill_at:
            raise Killed
        x = torch.randn(4, 3, generator=draw)
        drawn.append(x)
        value = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return value, {"loss": value.detach()}

    run.train(loss, lambda step: None, save_seconds=0)
    return run, drawn


@pytest.mark.parametrize("kill_at", [1, 4])
def test_killed_training_ends_the_same(tmp_path, kill_at):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, drawn = trained(tmp_path / "a")
    with pytest.raises(Killed):
        trained(tmp_path / "b", kill_at)
    resumed, rest = trained(tmp_path / "b")
    assert len(rest) == 6 - kill_at and all(map(torch.equal, rest, drawn[kill_at:]))
    for ours, theirs in zip(resumed.parameters, whole.parameters, strict=True):
        assert torch.equal(ours, theirs)  # the moving average, which is what is left after training
    for ours, theirs in zip(resumed.average.average, whole.average.average, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(whole.parameters[0], whole.average.average[0])


def test_training_counts_on_from_its_start(tmp_path):
    """A start that has had 10 steps is not shown their draws once more."""
    for name in ("fresh", "started"):
        (tmp_path / name).mkdir()
    fresh, first = trained(tmp_path / "fresh")
    started, later = trained(tmp_path / "started", log=[{"step": 4}])
    assert (fresh.before, started.before) == (0, 4)
    assert torch.equal(later[0], first[4]) and not torch.equal(later[0], first[0])
    assert started.log[0] == {"step": 4}
