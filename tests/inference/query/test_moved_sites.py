"""What smc and hmc move: not the sites that come after everything known, and masked entries by their own law."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from phlogiston.distributions.masked import MaskedNormal
from phlogiston.errors import ConfigError
from phlogiston.inference.query.ask import query
from phlogiston.inference.query.evidence import Known, Near


def ended(x: Tensor | None = None) -> None:
    """A chain of two steps of which the second comes after the end of the sequence."""
    first, second = (None, None) if x is None else x.unbind(-1)
    with pyro.plate("data", 1):
        z0 = pyro.sample("z0", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x0", dist.Normal(z0, 0.5), obs=first)
        with poutine.mask(mask=torch.tensor([False])):  # type: ignore[call-overload]
            z1 = pyro.sample("z1", dist.Normal(0.5 * z0, 0.3))
            pyro.sample("x1", dist.Normal(z1, 0.5), obs=second)


def guided(x: Tensor) -> None:
    with pyro.plate("data", 1):
        z0 = pyro.sample("z0", dist.Normal(torch.full((), 2.0), 0.6))
        with poutine.mask(mask=torch.tensor([False])):  # type: ignore[call-overload]
            pyro.sample("z1", dist.Normal(0.5 * z0, 0.3))


@pytest.mark.parametrize("guide", [None, guided])
@pytest.mark.parametrize(("method", "options"), [("smc", {}), ("hmc", {"chains": 2, "warmup": 40})])
def test_latents_after_the_end_of_a_sequence_keep_their_prior(method: Any, options: Any, guide: Any) -> None:
    """z0 | x0 = 3 ~ N(2.4, 0.2); z1 follows it. Without a density of their own such latents drift away without end."""
    batch = {"x": torch.tensor([[3.0, 5.0]])}
    answer = query(ended, guide, {}, batch=batch, method=method, num_samples=200, seed=0, **options)
    size = math.sqrt(float(answer.ess))
    for name, mean, variance in (("z0", 2.4, 0.2), ("z1", 1.2, 0.25 * 0.2 + 0.09)):
        assert abs(float(answer.mean(name)) - mean) < 4.5 * math.sqrt(variance) / size
        assert float(answer.variance(name)) / variance == pytest.approx(1.0, abs=4.5 * math.sqrt(2.0) / size)
    if answer.log_evidence is not None:
        truth = float(dist.Normal(0.0, math.sqrt(1.25)).log_prob(torch.tensor(3.0)))
        assert abs(float(answer.log_evidence) - truth) < 4.5 * float(answer.log_evidence_error) + 0.01  # type: ignore[arg-type]


def present(x: Tensor | None = None) -> None:
    here = pyro.sample("here", dist.Bernoulli(torch.tensor(0.5)))
    with poutine.mask(mask=here > 0):
        where = pyro.sample("where", dist.Normal(torch.tensor(1.0), 0.5))
    pyro.sample("x", dist.Normal(here * where, 0.1), obs=x)


def test_masks_that_depend_on_a_latent_leave_its_probability_right() -> None:
    x = torch.tensor(0.25)
    absent = float(dist.Normal(0.0, 0.1).log_prob(x))
    there = float(dist.Normal(1.0, math.hypot(0.5, 0.1)).log_prob(x))
    share = 1.0 / (1.0 + math.exp(absent - there))
    answer = query(present, None, {}, batch={"x": x}, method="smc", num_samples=1000, seed=0)
    assert abs(float(answer.mean("here")) - share) < 4.5 * math.sqrt(share * (1.0 - share) / float(answer.ess))
    where = answer.samples["where"][answer.samples["here"] == 0]
    assert abs(float(where.mean()) - 1.0) < 4.5 * 0.5 / math.sqrt(len(where) / 3.0)
    assert float(where.std()) == pytest.approx(0.5, rel=0.3)


def picture(x: Tensor | None = None, label: Tensor | None = None) -> None:
    """What is known is z; its label and its many pixels come after."""
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("label", dist.Categorical(logits=torch.stack([z[..., 0], torch.zeros_like(z[..., 0])], -1)), obs=label)
    pyro.sample("x", dist.Normal(z[..., :1].expand(*z.shape[:-1], 300), 0.5).to_event(1), obs=x)


@pytest.mark.parametrize(("method", "options"), [("smc", {}), ("hmc", {"chains": 2, "warmup": 40})])
def test_sites_after_everything_known_are_drawn_from_the_model(method: Any, options: Any) -> None:
    """z_0 | evidence ~ N(0.8, 0.2); hmc takes the discrete label, for it need not move it."""
    answer = query(
        picture, None, {"z": Near([1.0, 0.0], [0.5, math.inf])}, method=method, num_samples=300, seed=0, **options
    )
    z, x, size = answer.samples["z"][:, 0].double(), answer.samples["x"].double(), math.sqrt(float(answer.ess))
    assert abs(float(z.mean()) - 0.8) < 4.5 * math.sqrt(0.2) / size
    assert ((x.mean(1) - z).abs() < 5.0 * 0.5 / math.sqrt(300)).all()
    assert float((x - z[:, None]).std()) == pytest.approx(0.5, abs=0.02)
    share = float(z.sigmoid().mean())
    assert abs(float((answer.samples["label"] == 0).double().mean()) - share) < 4.5 * 0.5 / math.sqrt(300)


def test_hmc_still_refuses_discrete_sites_that_matter() -> None:
    with pytest.raises(ConfigError, match="label is discrete"):
        query(picture, None, {"x": Known(torch.zeros(300))}, method="hmc", num_samples=50)


def slots(x: Tensor | None = None) -> None:
    count = pyro.sample("count", dist.Categorical(torch.ones(3)))
    there = torch.arange(2) < count.unsqueeze(-1)
    where = pyro.sample("where", MaskedNormal(torch.zeros(2), torch.ones(()), there))
    pyro.sample("x", dist.Normal(where.sum(-1), 0.5), obs=x)


def test_entries_that_come_and_go_are_not_moved() -> None:
    with pytest.raises(ConfigError, match='method="smc" cannot move where: which of its entries exist depends'):
        query(slots, None, {"x": 1.0}, method="smc", num_samples=50)
    answer = query(slots, None, {"count": {0, 1}}, method="smc", num_samples=500, seed=0)
    empty = ~(torch.arange(2) < answer.samples["count"].unsqueeze(-1))
    assert (answer.samples["where"][empty] == 0).all()
    assert float(answer.log_evidence) == pytest.approx(math.log(2.0 / 3.0), abs=1e-5)  # type: ignore[arg-type]
