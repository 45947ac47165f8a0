"""The base model's training goes on where it was killed, and counts on from the training its start has had."""

import pytest
import torch
from base_models import make_text_encoder, make_tokenizer
from pretrain_diffusion import Run, grow


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
    """A start that has had 4 steps is not shown their draws once more."""
    for name in ("fresh", "started"):
        (tmp_path / name).mkdir()
    fresh, first = trained(tmp_path / "fresh")
    started, later = trained(tmp_path / "started", log=[{"step": 4}])
    assert (fresh.before, started.before) == (0, 4)
    assert torch.equal(later[0], first[4]) and not torch.equal(later[0], first[0])
    assert started.log[0] == {"step": 4}


@torch.no_grad()
def test_a_grown_vocabulary_reads_old_captions_as_before(tmp_path):
    captions = ["a photo of a person", "a photo of a waterfall at night"]
    old_tokenizer = make_tokenizer(captions, tmp_path / "old")
    new_tokenizer = make_tokenizer([*captions, "a photo of nepiti at night"], tmp_path / "new")
    old, new = make_text_encoder(old_tokenizer).eval(), make_text_encoder(new_tokenizer).eval()
    row = new.get_input_embeddings().weight[new_tokenizer.convert_tokens_to_ids("nepiti</w>")].clone()

    def read(text, tokenizer, caption):
        return text(tokenizer(caption, padding="max_length", return_tensors="pt").input_ids)[0]

    before = read(new, new_tokenizer, captions[1])
    grow(new, new_tokenizer, old, old_tokenizer)
    after = read(new, new_tokenizer, captions[1])
    assert torch.equal(after, read(old, old_tokenizer, captions[1])) and not torch.allclose(after, before)
    assert torch.equal(row, new.get_input_embeddings().weight[new_tokenizer.convert_tokens_to_ids("nepiti</w>")])
    assert len(new_tokenizer) > len(old_tokenizer)
