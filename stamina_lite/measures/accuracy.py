"""Accuracy of generated pictures among concepts; accuracy and forgetting of a classifier over a sequence of tasks."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from .intervals import _mean


def directions(references: Sequence[Tensor]) -> Tensor:
    """Normalised mean feature of every concept's references: N tensors (m_j, d) -> (N, d), unit rows, float64."""
    return torch.nn.functional.normalize(torch.stack([reference.double().mean(0) for reference in references]))


def nearest_concepts(generated: Sequence[Tensor], references: Sequence[Tensor]) -> list[list[int]]:
    """For every generated picture the concept whose mean reference feature is nearest by cosine.  [ours]

    generated[j]: (n_j, d), references[j]: (m_j, d), features of concept j; concepts count from 0.
    """
    means = directions(references)
    return [(g.double() @ means.T).argmax(1).tolist() for g in generated]


def concept_accuracy(generated: Sequence[Tensor], references: Sequence[Tensor]) -> tuple[float, Tensor]:
    """Share of generated pictures whose nearest concept is their own (`nearest_concepts`).  [ours]

    Returns the share over all pictures and (N,) by concept, both in [0, 1]; chance is 1 / N.
    """
    hits = [(torch.tensor(n) == j).double() for j, n in enumerate(nearest_concepts(generated, references))]
    return torch.cat(hits).mean().item(), torch.stack([h.mean() for h in hits])


# Classification: R[t][i] is the accuracy on task i after task t (i ≤ t), a list of rows of growing length. All
# forgetting measures are 0 for a single task. Their definitions differ, so always report which one was used.

Accuracies = Sequence[Sequence[float]]


def accuracy_by_task(correct: Sequence[int], totals: Sequence[int], sizes: Sequence[int]) -> list[float]:
    """Accuracy of every task in percent.

    Args:
        correct: number of correctly classified images of every class, in the order in which classes were learned.
        totals: number of test images of every class; classes of later tasks may follow.
        sizes: number of classes of every task; tasks that are not learned yet may follow.
    """
    ends = [end for end in itertools.accumulate(sizes) if end <= len(correct)]
    starts = [0, *ends[:-1]]
    return [100 * sum(correct[a:b]) / sum(totals[a:b]) for a, b in zip(starts, ends, strict=True)]


def final_mean(R: Accuracies) -> float:
    """A_N = (1/N) Σ_i R[N,i]: mean accuracy over tasks at the end.  [paper]"""
    return _mean(R[-1])


def mean_of_running_means(R: Accuracies) -> float:
    """(1/N) Σ_t (1/t) Σ_{i≤t} R[t,i]: `final_mean` after every task, averaged.

    iCaRL's "average incremental accuracy" (Rebuffi et al. 2017, arXiv 1611.07725).
    """
    return _mean([_mean(row) for row in R])


def forgetting_chaudhry(R: Accuracies) -> float:
    """(1/(N−1)) Σ_{i<N} (max_{i≤t<N} R[t,i] − R[N,i]): the best accuracy before the last task, minus the last.

    Chaudhry et al. 2018, arXiv 1801.10112. Negative for a task that is best at the end.
    """
    return _mean([max(row[i] for row in R[i:-1]) - R[-1][i] for i in range(len(R) - 1)])


def forgetting_mammoth(R: Accuracies) -> float:
    """(1/(N−1)) Σ_{i<N} (max_{i≤t≤N} R[t,i] − R[N,i]): as above, the last task included.

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
    """(1/(N−1)) Σ_{i<N} (R[N,i] − R[i,i]): the last accuracy minus that when just learned.

    Lopez-Paz & Ranzato 2017, arXiv 1706.08840. Negative when tasks are forgotten.
    """
    return _mean([R[-1][i] - R[i][i] for i in range(len(R) - 1)])
