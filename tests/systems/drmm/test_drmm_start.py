"""The start by EM: densities and moments against dense algebra, no step down, the right answer from many seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from phlogiston import datasets
from phlogiston.models.drmm import DRMM as Model
from phlogiston.networks.frames import FRAMES
from phlogiston.systems.drmm.em import Layer, Pairs, fit_layer
from phlogiston.systems.drmm.labels import Labels
from phlogiston.systems.drmm.mixture_evidence import Components, Entrywise, Evidence, Partial, Whole
from phlogiston.systems.drmm.start import _affordable, start
from phlogiston.systems.drmm.system import DRMM

K, D = 3, 3


def rows(n: int = 70, seed: int = 0) -> Tensor:
    """Three skewed clusters in three columns."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(0, 3, (n,), generator=generator)
    e = torch.randn(n, D, generator=generator, dtype=torch.float64)
    e[:, 1] = 0.6 * e[:, 0] + 0.3 * e[:, 1].exp()
    return e * (0.4 + 0.3 * z.unsqueeze(1)) + 2.0 * torch.eye(3, dtype=torch.float64)[z]


def holes(x: Tensor, share: float = 0.3) -> Tensor:
    """A mask with whole rows, rows that miss some, and a row that misses everything."""
    known = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > share
    known[:20], known[20] = True, False
    return known


def pairs_of(parts: list[Evidence], weight: Tensor, values: Mapping[str, Tensor] | None = None) -> Pairs:
    row = torch.arange(len(weight))
    sizes = {name: int(value.max()) + 1 for name, value in (values or {}).items()}
    labels = Labels.of_rows(values or {}, sizes, weight)
    labels.start_layer(K)
    return Pairs(parts, row, torch.zeros_like(row), torch.zeros_like(weight), weight, labels)


def evidence(kind: str, x: Tensor, known: Tensor | None) -> list[Evidence]:
    u = x if known is None else x * known
    if kind != "full":
        return [Entrywise(u, None if known is None else known.double())]
    return [Whole(u)] if known is None else [Whole(u[:20]), Partial.of_rows(u[20:], known[20:].double())]


def dense(x: Tensor, known: Tensor | None, c: Components) -> Tensor:
    """Log density of the known entries under every component, by covariance matrices: (N, K)."""
    factor = c.factor if c.factor.dim() == 3 else torch.diag_embed(c.factor)
    covariance = factor @ factor.mT
    table = torch.zeros(len(x), len(c.mean), dtype=x.dtype)
    for n, row in enumerate(x):
        at = torch.arange(D) if known is None else known[n].nonzero()[:, 0]
        if len(at):
            for k in range(len(c.mean)):
                normal = MultivariateNormal(c.mean[k, at], covariance[k][at][:, at])
                table[n, k] = normal.log_prob(row[at])
    return table


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["shift", "iso", "diag", "full"])
def test_no_step_lowers_the_likelihood_of_weighted_rows(kind: Any, masked: bool) -> None:
    x = rows()
    known = holes(x) if masked else None
    weight = 0.2 + torch.rand(len(x), generator=torch.Generator().manual_seed(2)).double()
    found = torch.randint(0, K, (len(x),), generator=torch.Generator().manual_seed(3))

    def after(steps: int) -> tuple[Layer, float]:
        layer = fit_layer(
            pairs_of(evidence(kind, x, known), weight), kind, found, x[:K], steps=steps, made_up=0.0, tolerance=0.0
        )
        scores = (dense(x, known, layer.components) + layer.proportions.log()).logsumexp(1)
        assert layer.likelihoods[-1] == pytest.approx(float(scores @ weight / weight.sum()), abs=1e-8)
        # proportions count each component once more, which is the prior whose density belongs to what rises
        return layer, float(scores @ weight + layer.proportions.log().sum())

    reached = [after(steps)[1] for steps in (1, 2, 4, 25)]
    assert all(b >= a - 1e-4 for a, b in itertools.pairwise(reached))  # 1e-6 is added to variances
    assert reached[-1] > reached[0] + 2.0


@pytest.mark.parametrize("kind", ["iso", "diag", "full"])
def test_em_ends_where_the_likelihood_is_level(kind: Any) -> None:
    """With holes and weights: the gradient by dense algebra vanishes in means and scales."""
    x, weight = rows(), torch.linspace(0.5, 1.5, 70).double()
    known = holes(x)
    found = x.argmax(1)
    layer = fit_layer(
        pairs_of(evidence(kind, x, known), weight), kind, found, x[:K], steps=400, made_up=0.0, tolerance=-1.0
    )
    mean = layer.components.mean.clone().requires_grad_()
    stretch = torch.ones(K, 1 if kind == "iso" else D, dtype=x.dtype, requires_grad=True)
    factor = layer.components.factor * (stretch if kind != "full" else stretch.unsqueeze(2))
    value = (dense(x, known, Components(mean, factor)) + layer.proportions.log()).logsumexp(1) @ weight
    value.backward()
    assert mean.grad is not None
    assert stretch.grad is not None
    assert float(mean.grad.abs().max()) < 1e-2  # of some thousands at the start
    assert float(stretch.grad.abs().max()) < 1e-2


def test_moments_of_complete_rows_are_those_of_rows_that_could_miss_something() -> None:
    x, share = rows(30), torch.rand(30, K, generator=torch.Generator().manual_seed(0)).double()
    c = Components(x[:K], torch.randn(K, D, D, generator=torch.Generator().manual_seed(1)).double().tril() / 3)
    c.factor.diagonal(dim1=1, dim2=2).abs_().add_(0.3)
    whole, partial = Whole(x), Partial.of_rows(x, torch.ones_like(x))
    for one, other in zip(
        vars(whole.moments(share, c)).values(), vars(partial.moments(share, c)).values(), strict=True
    ):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(whole.log_density(c), partial.log_density(c))
    # and behind a component of one more layer, where log determinants are told apart from densities
    at, code = torch.tensor([3, 7, 7, 20]), torch.tensor([2, 0, 1, 2])
    (below, log_det), (behind, nothing) = whole.child(c, at, code), partial.child(c, at, code)
    torch.testing.assert_close(below.log_density(c) + log_det[:, None], behind.log_density(c) + nothing[:, None])


def test_expected_moments_are_those_of_the_conditional_normal() -> None:
    x, known = rows(1), torch.tensor([[True, False, True]])
    mean, root = torch.tensor([[0.3, -0.2, 0.5]]).double(), torch.tensor([[1.0, 0, 0], [0.5, 0.8, 0], [-0.3, 0.4, 0.6]])
    c = Components(mean, root.double().unsqueeze(0))
    got = Partial.of_rows(x * known, known.double()).moments(torch.full((1, 1), 2.0).double(), c)
    covariance = c.factor[0] @ c.factor[0].T
    seen = torch.tensor([0, 2])
    gain = covariance[1, seen] @ torch.linalg.inv(covariance[seen][:, seen])
    expected = x[0].clone()
    expected[1] = mean[0, 1] + gain @ (x[0, seen] - mean[0, seen])
    second = expected[:, None] * expected
    second[1, 1] += covariance[1, 1] - gain @ covariance[seen, 1]
    torch.testing.assert_close(got.first[0], 2 * expected)
    torch.testing.assert_close(got.second[0], 2 * second)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("masked", [False, True])
def test_every_layer_adds_to_the_density_before_training(frame: Any, masked: bool) -> None:
    x = datasets.load("swissroll", sizes=(600, 0, 0)).train.tensors["x"].double()
    x = torch.cat([x, x[:, :1] * x[:, 1:] + 0.1 * torch.randn(600, 1)], 1)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.2 if masked else None
    torch.manual_seed(0)
    model = Model(3, 3, 4, frame, rank=2)
    model.location.copy_(x.mean(0))
    model.scale.copy_(x.std(0))
    curves = start(model, x, mask)
    assert len(curves) == (2 if frame == "lowrank" else 3)
    nested = model.find(x, mask=mask).nested.mean(0).tolist()
    # paths that explain little of a row are left out of the sums of EM, and tables of layers farther up are not zero
    for value, curve in zip(nested, curves, strict=False):
        assert value == pytest.approx(curve[-1], abs=0.1)
    gains = np.diff(nested)
    assert (gains > 0).all() if frame != "lowrank" else gains[0] > 0


def test_later_layers_with_nothing_to_add_change_nothing() -> None:
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    model = Model(2, 3, 4, "tril")
    start(model, x)
    nested = model.find(x).nested.detach().mean(0)
    assert float(nested[-1] - nested[0]) < 0.05  # the many parameters below one normal find chance, not structure


def test_a_row_of_weight_three_starts_like_three_rows() -> None:
    x = rows(60).float()
    weight = torch.ones(60).index_fill(0, torch.arange(10), 3.0)
    heavy, copied = Model(D, 2, 4, "diag"), Model(D, 2, 4, "diag")
    start(heavy, torch.cat([x, x[:1]]), weight=torch.cat([weight, torch.zeros(1)]))  # sorted, as rows with copies are
    start(copied, torch.cat([x, x[:10], x[:10]]))
    one, other = heavy.find(x).nested, copied.find(x).nested
    torch.testing.assert_close(one.mean(0), other.mean(0), atol=0.05, rtol=0.0)


def test_labels_start_at_their_frequencies_and_later_tables_only_help() -> None:
    x = rows(200)
    value = (x[:, 0] + 0.5 * x[:, 2] > 1).long()
    value[:50] = -1
    weight = torch.linspace(0.5, 1.5, 200).double()
    pairs = pairs_of([Entrywise(x, None)], weight, {"kind": value})
    layer = fit_layer(pairs, "diag", x.argmax(1), x[:K], steps=20)
    pairs.labels.count(layer.share)
    seen = value >= 0
    overall = (torch.stack([weight[value == v].sum() for v in (0, 1)]) + 1) / (weight[seen].sum() + 2)
    for k in range(K):
        counts = torch.stack([layer.share[value == v, k].sum() for v in (0, 1)])
        logits = pairs.labels.logits["kind"][0] + pairs.labels.tables["kind"][k]
        torch.testing.assert_close(logits.softmax(0), (counts + 2 * overall) / (counts.sum() + 2))
    below = pairs.children(layer, "diag")
    below.labels.start_layer(K)

    def objective() -> float:
        table = below.labels.tables["kind"]
        log_probs = (below.labels.logits["kind"].unsqueeze(1) + table).log_softmax(-1)
        label = value[below.row]
        picked = log_probs.gather(2, label.clamp(min=0)[:, None, None].expand(-1, K, 1))[..., 0]
        return float((share * picked * (label >= 0).unsqueeze(1)).sum() - 0.5 * table.square().sum())

    share = torch.softmax(below.points() @ torch.randn(D, K, generator=torch.Generator().manual_seed(0)).double(), 1)
    reached = [objective()]
    for _ in range(4):
        below.labels.refine(share, below.row)
        reached.append(objective())
    assert all(b >= a for a, b in itertools.pairwise(reached))
    assert reached[1] > reached[0] + 0.1


def test_too_many_rows_with_holes_are_thinned_and_their_weight_kept() -> None:
    known = torch.ones(6000, 30, dtype=torch.bool)
    known[1000:, 3] = False
    kept, weight = _affordable(known, torch.ones(6000).double(), 16)
    assert kept is not None
    assert torch.equal(kept[:1000], torch.arange(1000))
    assert 1100 < len(kept) < 6000
    assert float(weight.sum()) == pytest.approx(6000.0)
    assert _affordable(known[1000:], torch.ones(5000).double(), 200)[0] is None


def correlated(n: int) -> Tensor:
    """Five columns, skewed, each nearly a function of others."""
    generator = np.random.default_rng(7)
    a = generator.standard_normal((n, 2))
    first = np.exp(0.6 * a[:, 0])
    second = 2 * first + 0.1 * generator.standard_normal(n)
    third = a[:, 1] + 0.5 * first
    fourth = np.exp(0.5 * third) + 0.05 * generator.standard_normal(n)
    fifth = second - fourth + 0.1 * generator.standard_normal(n)
    return torch.from_numpy(np.stack([first, second, third, fourth, fifth], 1))


def test_a_plain_model_of_correlated_columns_does_not_hang_on_its_seed() -> None:
    """K-means alone started between -0.6 and -0.2, and a mixture of as many diagonal components ends at -3.6."""
    table = correlated(2500)
    reached = []
    for seed in range(5):
        system = DRMM(steps=30).fit(table[:2000], seed=seed, progress="off")
        reached.append(float(system.log_prob(table[2000:]).value.mean()))
    assert min(reached) > -0.4
    assert max(reached) - min(reached) < 0.5


def test_the_start_equals_a_mixture_by_scikit_learn_at_once() -> None:
    from sklearn.mixture import GaussianMixture

    table = correlated(2500)
    scaled = ((table - table[:2000].mean(0)) / table[:2000].std(0)).numpy()
    for frame, kind in (("tril", "full"), ("diag", "diag")):
        mixture = GaussianMixture(16, covariance_type=kind, random_state=0).fit(scaled[:2000]).score(scaled[2000:])
        system = DRMM(frame=frame, num_layers=2, steps=1, learning_rate=1e-9).fit(torch.from_numpy(scaled[:2000]))
        first, both = (float(system.log_prob(scaled[2000:], depth=d).value.mean()) for d in (1, 2))
        assert first > mixture - 0.15
        assert both > mixture + (0.0 if frame == "tril" else 1.5)
