"""Measures: against direct sums, against what they promise on average, and against worked numbers."""

import pytest
import torch

from stamina_lite import measures
from stamina_lite.measures.masks import density, mask_overlap

R = [[90], [80, 85], [70, 88, 80], [75, 60, 78, 82]]
R2 = [[90], [80, 85], [95, 88, 80], [97, 60, 78, 82]]


def sample(n, seed, shift=0.0, d=6):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()
    rows[:, 0] += shift
    return torch.nn.functional.normalize(rows)


@pytest.mark.parametrize("kernel", [measures.cubic, measures.kid_kernel])
def test_mmd2_is_the_double_sum_at_unequal_sizes(kernel):
    x, y = sample(5, 0), sample(9, 1, shift=2)

    def k(a, b):
        return kernel(a[None], b[None]).item()

    xx = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (5 * 4)
    yy = sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (9 * 8)
    xy = sum(k(a, b) for a in x for b in y) / (5 * 9)
    assert measures.mmd2(x, y, kernel=kernel) == pytest.approx(xx + yy - 2 * xy, abs=1e-12)
    assert abs(xx + yy - 2 * xy) > 0.01


def test_kernels_at_known_angles():
    x, y = torch.eye(2).double()[:1], torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]).double()
    assert measures.cubic(x, y).tolist() == [[8.0, 1.0, 0.0]]
    assert measures.kid_kernel(x, y).tolist() == [[1.5**3, 1.0, 0.5**3]]


def test_mmd2_is_unbiased():
    same = torch.tensor([measures.mmd2(sample(8, 2 * s), sample(12, 2 * s + 1)) for s in range(400)])
    other = torch.tensor([measures.mmd2(sample(8, 2 * s), sample(12, 2 * s + 1, shift=2)) for s in range(400)])
    standard_error = same.std() / 20
    assert abs(same.mean()) < 3 * standard_error
    assert same.min() < 0 < same.max()
    assert other.mean() > 30 * standard_error


def test_shared_noise_lowers_the_plain_estimate_and_not_the_paired_one():
    plain, paired = [], []
    for seed in range(400):
        noise = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)).double()
        drift = 0.1 * torch.randn(8, 6, generator=torch.Generator().manual_seed(10_000 + seed)).double()
        x, y = (torch.nn.functional.normalize(rows) for rows in (noise, noise + drift))
        plain.append(measures.mmd2(x, y))
        paired.append(measures.mmd2(x, y, paired=True))
    plain, paired = torch.tensor(plain), torch.tensor(paired)
    assert plain.mean() < -1
    assert abs(paired.mean()) < 3 * paired.std() / 20
    assert abs(paired.mean()) < abs(plain.mean()) / 20


def test_paired_mmd2_still_sees_a_shift():
    x = sample(16, 0)
    moved = x.clone()
    moved[:, 0] += 1.5
    assert measures.mmd2(x, torch.nn.functional.normalize(moved), paired=True) > 0.5


def test_samples_without_pairs_are_refused():
    with pytest.raises(ValueError, match="two rows"):
        measures.mmd2(sample(1, 0), sample(5, 1))
    with pytest.raises(ValueError, match="one size"):
        measures.mmd2(sample(4, 0), sample(5, 1), paired=True)


def true_mmd2(shift):
    """MMD² of the distributions themselves, from samples so large that they miss it by little."""
    return measures.mmd2(sample(2000, 90_000), sample(2000, 90_001, shift))


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    truth, runs = true_mmd2(1.0), 100
    intervals = [measures.bootstrap(sample(24, 2 * s), sample(20, 2 * s + 1, 1.0), seed=s) for s in range(runs)]
    covered = sum(low <= truth <= high for low, high in intervals) / runs
    assert truth > 0.3
    assert 0.87 <= covered <= 0.995
    halves = [measures.bootstrap(sample(24, 2 * s), sample(20, 2 * s + 1, 1.0), seed=s, level=0.5) for s in range(runs)]
    assert 0.3 <= sum(low <= truth <= high for low, high in halves) / runs <= 0.7


def test_bootstrap_replicates_are_centred_where_plain_resampling_is_lifted():
    x, y = sample(10, 0), sample(10, 1, shift=1)
    estimate = measures.mmd2(x, y)
    low, high = measures.bootstrap(x, y, n=4000, level=0.02)  # an interval so narrow is the median
    generator = torch.Generator().manual_seed(0)
    plain = []
    for _ in range(1000):
        i, j = (torch.randint(10, (10,), generator=generator) for _ in range(2))
        plain.append(measures.mmd2(x[i], y[j]))
    lift = torch.tensor(plain).mean().item() - estimate
    assert lift > 0.5
    assert abs((low + high) / 2 - estimate) < lift / 5


def test_bootstrap_is_seeded_and_survives_tiny_samples():
    x, y = sample(3, 0), sample(3, 1)
    assert measures.bootstrap(x, y) == measures.bootstrap(x, y)
    assert measures.bootstrap(x, y) != measures.bootstrap(x, y, seed=1)
    low, high = measures.bootstrap(x, y)
    assert low < high  # false for nan too


def test_paired_bootstrap_covers_zero_drift_and_uses_that_rows_move_together():
    x = sample(64, 0)
    y = torch.nn.functional.normalize(x + 0.02 * sample(64, 1))
    low, high = measures.bootstrap(x, y, paired=True)
    plain = measures.bootstrap(x, y)
    assert low <= 0 <= high
    assert high - low < (plain[1] - plain[0]) / 5  # rows that move together cancel


def test_mean_interval_covers_the_truth_and_shrinks_with_more_values():
    draw = torch.Generator().manual_seed(0)
    samples = 3 + torch.randn(200, 40, generator=draw)
    intervals = [measures.mean_interval(x.tolist(), n=400) for x in samples]
    covered = sum(low < 3 < high for low, high in intervals) / len(intervals)
    assert 0.88 < covered < 0.99  # 95 %, and the bootstrap of 40 values is a little narrow
    low, high = measures.mean_interval(samples.flatten().tolist(), n=400)
    assert high - low < 0.2 * min(b - a for a, b in intervals)
    with pytest.raises(ValueError):
        measures.mean_interval([])


def test_concept_accuracy_counts_pictures_nearest_to_their_own_mean():
    references = [torch.tensor([[1.0, 0.1], [1.0, -0.1]]), torch.tensor([[0.0, 5.0]])]
    generated = [torch.tensor([[1.0, 0.2], [0.2, 1.0], [1.0, 0.0]]), torch.tensor([[0.1, 0.3]])]
    overall, by_concept = measures.concept_accuracy(generated, references)
    assert overall == 0.75
    assert by_concept.tolist() == pytest.approx([2 / 3, 1.0])


def test_concept_accuracy_is_by_cosine_not_by_length():
    references = [torch.tensor([[100.0, 0.0]]), torch.tensor([[0.6, 0.8]])]
    assert measures.concept_accuracy([torch.tensor([[1.0, 0.1]]), torch.tensor([[1.0, 2.0]])], references)[0] == 1.0


def test_a_mmd_and_f_mmd_are_means_over_concepts():
    assert measures.a_mmd([3.0, 4.0, 8.0]) == 5.0
    assert measures.f_mmd([1.0, -0.5]) == 0.25
    assert measures.f_mmd([]) == 0.0


def test_accuracy_measures_of_the_worked_example():
    assert measures.final_mean(R) == 73.75
    assert measures.mean_of_running_means(R) == pytest.approx(81.396, abs=5e-4)
    assert measures.forgetting_chaudhry(R) == 15.0
    assert measures.forgetting_mammoth(R) == 15.0
    assert measures.forgetting_coda(R) == pytest.approx(7.2778, abs=5e-5)
    assert measures.backward_transfer(R) == -14.0


def test_accuracy_measures_where_a_task_improves():
    assert measures.forgetting_mammoth(R2) == 10.0
    assert measures.forgetting_chaudhry(R2) == pytest.approx(9.333, abs=5e-4)
    assert measures.forgetting_coda(R2) == pytest.approx(3.444, abs=5e-4)
    assert measures.backward_transfer(R2) == pytest.approx(-6.667, abs=5e-4)


def test_nothing_is_forgotten_after_one_task():
    forgetting = (
        measures.forgetting_chaudhry,
        measures.forgetting_mammoth,
        measures.forgetting_coda,
        measures.backward_transfer,
    )
    assert [measure([[90.0]]) for measure in forgetting] == [0.0] * 4


def test_mask_overlap_of_equal_disjoint_and_independent_masks():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    assert density(mask) == 0.25
    assert mask_overlap(mask, mask) == pytest.approx((1.0, 0.0625 / 0.4375))
    assert mask_overlap(mask, mask.flip(1))[0] == 0.0
    assert mask_overlap(mask * 0, mask * 0) == (0.0, 0.0)
    noise = torch.rand(2, 400, 400, generator=torch.Generator().manual_seed(0))
    overlap, chance = mask_overlap(noise[0] < 0.3, noise[1] < 0.6)
    assert chance == pytest.approx(0.18 / 0.72, abs=0.01)
    assert overlap == pytest.approx(chance, abs=0.005)
