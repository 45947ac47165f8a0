"""Accuracy of generated pictures among concepts; accuracy and forgetting of a classifier over a sequence of tasks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .intervals import _mean


def directions(references: Sequence[Tensor]) -> Tensor:
    """The direction of the mean of every concept's real pictures: N tensors (m_j, d) -> (N, d), unit vectors, float64.

    Which of them is nearest to a picture, by cosine, does not depend on the length of the picture's own vector.
    """
    return torch.nn.functional.normalize(torch.stack([reference.double().mean(0) for reference in references]))


def nearest_concepts(generated: Sequence[Tensor], references: Sequence[Tensor]) -> list[list[int]]:
    """For every generated picture the concept whose references' mean is nearest, by cosine.  [ours]

    generated[j]: (n_j, d), references[j]: (m_j, d), features of concept j; concepts are counted from 0.
    """
    means = directions(references)
    return [(g.double() @ means.T).argmax(1).tolist() for g in generated]


def concept_accuracy(generated: Sequence[Tensor], references: Sequence[Tensor]) -> tuple[float, Tensor]:
    """Share of generated pictures whose nearest concept is their own (`nearest_concepts`).  [ours]

    Returns the share over all pictures and (N,) by concept, both in [0, 1]; chance is 1 / N.
    """
    hits = [(torch.tensor(n) == j).double() for j, n in enumerate(nearest_concepts(generated, references))]
    return torch.cat(hits).mean().item(), torch.stack([h.mean() for h in hits])


# Classification: R[t][i], the accuracy on task i after task t (i ≤ t), a list of rows of growing length. All forgetting
# measures are 0 for one task. They disagree, so print the name with the number.

Accuracies = Sequence[Sequence[float]]


def accuracy_by_task(right: Sequence[int], asked: Sequence[int], each: int) -> list[float]:
    """Percent of the pictures of every task told right: right, asked: counts of classes, `each` of them a task.

    asked may go on with classes of tasks that are still to come.
    """
    return [100 * sum(right[k : k + each]) / sum(asked[k : k + each]) for k in range(0, len(right), each)]


def final_mean(R: Accuracies) -> float:
    """A_N = (1/N) Σ_i R[N,i]: mean accuracy over tasks at the end.  [paper]"""
    return _mean(R[-1])


def mean_of_running_means(R: Accuracies) -> float:
    """(1/N) Σ_t (1/t) Σ_{i≤t} R[t,i]: `final_mean` after every task, averaged.

    iCaRL's "average incremental accuracy" (Rebuffi et al. 2017, arXiv 1611.07725).
    """
    return _mean([_mean(row) for row in R])


def forgetting_chaudhry(R: Accuracies) -> float:
    """(1/(N−1)) Σ_{i<N} (max_{i≤t<N} R[t,i] − R[N,i]): the best before the end less the end.

    Chaudhry et al. 2018, arXiv 1801.10112. Negative where a task is at its best at the end.
    """
    return _mean([max(row[i] for row in R[i:-1]) - R[-1][i] for i in range(len(R) - 1)])


def forgetting_mammoth(R: Accuracies) -> float:
    """(1/(N−1)) Σ_{i<N} (max_{i≤t≤N} R[t,i] − R[N,i]): the same, but the best may be the end itself.

    As in mammoth's and PILOT's code. Never negative: a gain counts as no forgetting.
    """
    return _mean([max(row[i] for row in R[i:]) - R[-1][i] for i in range(len(R) - 1)])


def forgetting_coda(R: Accuracies) -> float:
    """F_N = (1/(N−1)) Σ_{t≥2} (1/(t−1)) Σ_{i<t} (R[t−1,i] − R[t,i]): mean drop from task to task.

    As in the CODA-Prompt code, by the papers' first author: the F_N of our tables.
    """
    steps = zip(R[:-1], R[1:], strict=True)
    return _mean([_mean([a - b for a, b in zip(before, after[:-1], strict=True)]) for before, after in steps])


def backward_transfer(R: Accuracies) -> float:
    """(1/(N−1)) Σ_{i<N} (R[N,i] − R[i,i]): the end less when just learned (Lopez-Paz & Ranzato 2017, arXiv 1706.08840).

    Negative when tasks are forgotten.
    """
    return _mean([R[-1][i] - R[i][i] for i in range(len(R) - 1)])
