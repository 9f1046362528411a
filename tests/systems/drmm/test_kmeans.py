"""The starting clusters are as good as scikit-learn's, heed weights, and stand whatever rows there are."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from phlogiston.systems.drmm.kmeans import clusters


def spread(points: Tensor, labels: Tensor, weight: Tensor) -> float:
    """What k-means makes small: the weighted squares of distances to the clusters' means."""
    one_hot = torch.nn.functional.one_hot(labels).to(points) * weight.unsqueeze(1)
    mean = (one_hot.T @ points) / one_hot.sum(0).clamp(min=1e-300).unsqueeze(1)
    return float((weight * (points - mean[labels]).square().sum(1)).sum())


def draw(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return points + 4 * torch.randint(3, (n, d), generator=generator), 0.2 + torch.rand(n, generator=generator).double()


@pytest.mark.parametrize(("n", "d", "k"), [(600, 2, 9), (400, 8, 20), (300, 1, 5)])
def test_clusters_are_as_tight_as_those_of_scikit_learn(n: int, d: int, k: int) -> None:
    points, weight = draw(n, d)
    ours, theirs = [], []
    for seed in range(10):
        ours.append(spread(points, clusters(points, k, weight, seed), weight))
        search = KMeans(k, n_init=1, random_state=seed, max_iter=50).fit(points.numpy(), sample_weight=weight.numpy())
        theirs.append(spread(points, torch.as_tensor(search.labels_).long(), weight))
    assert sum(ours) <= 1.05 * sum(theirs)


def test_every_point_is_nearest_to_the_mean_of_its_own_cluster() -> None:
    points, weight = draw(200, 3)
    far = points + 1e7  # squares are multiplied out: nothing may be lost far from zero
    labels = clusters(far, 6, weight, 0, iterations=200)
    assert torch.equal(labels, clusters(points, 6, weight, 0, iterations=200))
    one_hot = torch.nn.functional.one_hot(labels, 6).double() * weight.unsqueeze(1)
    means = (one_hot.T @ points) / one_hot.sum(0).unsqueeze(1)
    assert (torch.cdist(points, means).argmin(1) == labels).double().mean() > 0.98  # the last shift is small, not zero


def test_a_heavy_point_gets_a_cluster_of_its_own() -> None:
    points = torch.cat([torch.linspace(0, 1, 100), torch.tensor([1.4])]).double().unsqueeze(1)
    weight = torch.ones(101).double()
    alone = []
    for heavy in (1.0, 1e4):
        weight[-1] = heavy
        labels = clusters(points, 3, weight, 0)
        alone.append(int((labels == labels[-1]).sum()) == 1)
    assert alone == [False, True]


@pytest.mark.parametrize("n", [1, 2, 7])
def test_fewer_distinct_points_than_clusters(n: int) -> None:
    points = torch.zeros(n, 2).double()
    points[: n // 2] = 1.0
    labels = clusters(points, n, torch.ones(n).double(), 0)
    assert labels.shape == (n,)
    assert int(labels.max()) < n
    assert len(set(labels.tolist())) == min(n, len({tuple(p) for p in points.tolist()}))


def test_a_first_fit_loads_neither_scikit_learn_nor_what_it_needs() -> None:
    code = (
        "import sys, phlogiston as ph\n"
        "ph.DRMM(num_layers=2, num_components=2, steps=2).fit(ph.datasets.load('swissroll', n=100), progress='off')\n"
        "print([name for name in ('sklearn', 'scipy', 'pandas', 'torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
