"""What tables get beside plain networks: shared ensembles, embeddings and recalibrated widths; each is one density."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from phlogiston.distributions.mixtures.from_head import mixture
from phlogiston.errors import ConfigError
from phlogiston.models.mdn import MDN, WIDTHS
from phlogiston.networks.dense import Adapted
from phlogiston.networks.mixture_heads import MixtureParams, mixture_parameters, num_outputs, spread_components


def no_guide(**batch: Tensor) -> None:
    """Sample nothing."""


def make(kind: str = "diag", targets: int = 1, **options: object) -> MDN:
    torch.manual_seed(1)
    model = MDN(3, targets, 2, kind, (8, 6), members=4, ensemble="tabm", bins=5, recalibrate=True, **options).double()
    model.y_location.copy_(torch.arange(targets) * 10.0)
    model.y_scale.copy_(torch.arange(targets) + 0.5)
    return model


def rows(n: int = 40, targets: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, 3, generator=generator).double()
    return {"x": x, "y": torch.randn(n, targets, generator=generator).double() + torch.arange(targets) * 10.0}


def ready(kind: str = "diag", targets: int = 1) -> tuple[MDN, dict[str, Tensor]]:
    model, batch = make(kind, targets), rows(targets=targets)
    model.initialise(batch["y"], x=batch["x"])
    model.widths.copy_(torch.tensor([0.25 if c in (0.5, 2.0) else 0.5 * (c == 1) for c in WIDTHS]))
    return model, batch


def test_members_that_share_weights_are_the_networks_their_adapters_make_of_them() -> None:
    torch.manual_seed(0)
    net = Adapted([3, 5, 4, 2], "tanh", 3).double()
    for parameters in (net.inputs, net.outputs):
        for p in parameters:
            p.data.normal_()
    x = torch.randn(7, 3).double()
    together = net(x)
    for m in range(3):
        h = torch.tanh(x @ (net.outputs[0][m, :, None] * net.weights[0]).T + net.biases[0][m])
        w = net.outputs[1][m, :, None] * net.weights[1] * net.inputs[0][m]
        h = torch.tanh(h @ w.T + net.biases[1][m])
        torch.testing.assert_close(together[m], h @ net.weights[2][m].T + net.biases[2][m])


@pytest.mark.parametrize("kind", ["diag", "isotropic", "full", "bivariate"])
def test_the_program_and_the_plain_likelihood_are_the_same_number(kind: str) -> None:
    model, batch = ready(kind, 2)
    plain = -model.log_likelihood(**batch).sum() / 4
    loss = Trace_ELBO().differentiable_loss(model, no_guide, **batch)
    torch.testing.assert_close(loss, plain, rtol=1e-9, atol=1e-9)


def test_the_recalibrated_predictive_integrates_to_one() -> None:
    model, batch = ready()
    predictive = model.predictive(batch["x"][:5])
    y = torch.linspace(-60, 60, 60_001).double()
    density = predictive.unsqueeze(-1).log_prob(y.reshape(1, -1, 1)).exp()
    total = torch.trapezoid(density, y)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["diag", "isotropic", "full", "bivariate"])
def test_copies_of_other_widths_are_the_mixture_of_widened_mixtures(kind: str) -> None:
    torch.manual_seed(0)
    raw = torch.randn(6, num_outputs(kind, 3, 2)).double()
    params = mixture_parameters(raw, kind, 3, 2)
    factors, weights = torch.tensor([0.5, 1.0, 3.0]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    y = torch.randn(6, 2).double()
    got = mixture(spread_components(params, factors, weights.log())).log_prob(y)
    terms = []
    for c, w in zip(factors, weights, strict=True):
        one = mixture(params)
        for k in range(3):  # a component around its mean, widened: N(m + (y - m) / c) / c^2
            parts = one.logits.log_softmax(-1)[:, k]
            centred = params.loc[:, k] + (y - params.loc[:, k]) / c
            terms.append(w.log() + parts + one.component_log_prob(centred)[:, k] - 2 * c.log())
    torch.testing.assert_close(got, torch.logsumexp(torch.stack(terms), 0))
    with pytest.raises(ConfigError, match="factorised"):
        spread_components(mixture_parameters(torch.randn(1, 18), "factorised", 3, 2), factors, weights.log())


@torch.no_grad()
def test_widths_follow_the_rows_they_are_fitted_to() -> None:
    """Rows drawn with thrice the model's standard deviation, a tenth of them with eleven times."""
    model, _ = ready()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 3, generator=generator).double()
    model.widths.copy_(torch.tensor([float(c == 1) for c in WIDTHS]))
    trained = model.predictive(x)
    which = torch.multinomial(trained.logits.softmax(-1), 1, generator=generator)
    loc, scale = (t.squeeze(-1).gather(-1, which) for t in (trained.loc, trained.scale.expand(trained.loc.shape)))
    factor = torch.where(torch.rand(4000, 1, generator=generator) < 0.1, 2**3.5, 2**1.5)
    y = loc + factor * scale * torch.randn(4000, 1, generator=generator).double()
    before = float(model.predictive(x).log_prob(y).mean())
    model.calibrate(x[:2000], y[:2000])
    near = dict(zip(WIDTHS, model.widths.tolist(), strict=True))
    assert math.isclose(sum(near.values()), 1.0, rel_tol=1e-12)
    assert sum(p for c, p in near.items() if 2 <= c <= 4) == pytest.approx(0.9, abs=0.06)
    assert sum(p for c, p in near.items() if c >= 8) == pytest.approx(0.1, abs=0.05)
    fresh = model.predictive(x[2000:])
    truth = torch.logsumexp(
        torch.stack(
            [
                math.log(w) + mixture(spread_one(trained, c)).log_prob(y)[2000:]
                for w, c in ((0.9, 2**1.5), (0.1, 2**3.5))
            ]
        ),
        0,
    )
    assert float(fresh.log_prob(y[2000:]).mean()) > before + 0.5
    assert float(fresh.log_prob(y[2000:]).mean()) > float(truth.mean()) - 0.02
    assert float(fresh.interval(0.9).contains(y[2000:]).double().mean()) == pytest.approx(0.9, abs=0.03)


def spread_one(trained: Any, factor: float) -> MixtureParams:
    """The parameters of a mixture whose components are all wider by one factor."""
    return MixtureParams("diag", trained.logits, trained.loc, factor * trained.scale.expand(trained.loc.shape))


def test_a_row_of_weight_three_counts_as_three_rows() -> None:
    model, batch = ready()
    model.calibrate(**batch, weight=torch.tensor([3.0] + [1.0] * 39).double())
    weighted = model.widths.clone()
    order = [0, 0, *range(40)]
    model.calibrate(batch["x"][order], batch["y"][order])
    torch.testing.assert_close(model.widths, weighted)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="factorised"):
        MDN(3, 2, 2, "factorised", recalibrate=True)
    with pytest.raises(ConfigError, match="at least 2"):
        MDN(3, ensemble="tabm")
    with pytest.raises(ConfigError, match="hidden layer"):
        MDN(3, hidden=(), members=3, ensemble="tabm")
    with pytest.raises(ConfigError, match="give x"):
        MDN(3, bins=4).initialise(torch.randn(5, 1))
    with pytest.raises(ConfigError, match="sampled"):
        Adapted([2, 3, 1], members=2)(torch.zeros(1, 2), {"weights.0": torch.zeros(3, 2)})
