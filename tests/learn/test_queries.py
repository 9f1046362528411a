"""What questions promise: published posteriors met, error bars that cover, answers calibrated on simulated data."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from phlogiston import datasets
from phlogiston.errors import QueryWarning
from phlogiston.evaluate.sbc import check_query, rank
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.query.ask import query
from phlogiston.inference.query.evidence import Known
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.mdn.system import MDN
from phlogiston.systems.sequence.system import SequenceModel

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from posteriors import POSTERIORS, deviation

pytestmark = pytest.mark.learn
REPLICATIONS = 300
LEVEL = 0.05


# ---- published posteriors


@pytest.mark.parametrize("method", ["smc", "hmc"])
@pytest.mark.parametrize("name", POSTERIORS)
def test_query_meets_published_posteriors_or_warns(name: str, method: Any) -> None:
    """Within a tenth of a standard deviation, beyond what the answer's own sample size leaves open."""
    sequential = name in ("arma11", "garch11")  # 200 steps of Python per gradient
    n = 4000 if method == "smc" else 200 if sequential else 1000
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        answer = query(POSTERIORS[name].model, None, {}, num_samples=n, method=method, seed=0)
    warned = any(issubclass(w.category, QueryWarning) for w in told)
    found, open_ = deviation(name, answer), 2 / math.sqrt(answer.ess.item())
    print(
        f"{name} {method}: {found:.3f} sd, ESS {answer.ess.item():.0f} of {n}, {'warned' if warned else 'no warning'}"
    )
    assert warned or found < 0.1 + open_


# ---- error bars


def chain(x: Tensor, noise: float) -> None:
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, noise).to_event(1), obs=x)


@pytest.mark.parametrize(("method", "n", "noise"), [("importance", 1000, 0.7), ("smc", 300, 0.3), ("smc", 1000, 0.3)])
def test_query_error_bars_cover(method: Any, n: int, noise: float) -> None:
    """Nominal 95 % intervals of log evidence and means cover 90 to 98 % of 200 repeats (and 99.5 at most by chance)."""
    x = torch.tensor([[1.2, -0.6]])
    total = 1 + noise**2
    truth = float(dist.Normal(0.0, math.sqrt(total)).log_prob(x.double()).sum())
    mean, sd = x[0, 0].item() / total, noise / math.sqrt(total)
    evidence, means = 0, 0
    for seed in range(200):
        answer = query(chain, None, {}, batch={"x": x, "noise": noise}, num_samples=n, method=method, seed=seed)
        assert answer.log_evidence is not None
        assert answer.log_evidence_error is not None
        evidence += abs(answer.log_evidence.item() - truth) < 1.96 * answer.log_evidence_error.item()
        means += abs(answer.mean("z")[0, 0].item() - mean) < 1.96 * sd / math.sqrt(answer.ess.item())
    assert 180 <= evidence <= 199
    assert 180 <= means <= 199


# ---- simulation-based calibration


def funnel(x: Tensor | None = None, n: int = 1) -> None:
    """A scale and a location, both unknown."""
    with pyro.plate("data", n if x is None else len(x), dim=-1):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        z = pyro.sample("z", dist.Normal(torch.zeros_like(scale), scale))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 0.5).expand([*z.shape, 3]).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("importance", {"num_samples": 1000}),
        ("smc", {"num_samples": 300}),
        ("hmc", {"num_samples": 60, "chains": 1, "warmup": 75}),
    ],
)
def test_query_methods_are_calibrated(method: Any, options: dict[str, Any]) -> None:
    """Ranks of truths among answers are uniform; answers are thinned to what they are effectively worth."""

    def ask(row: dict[str, Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", QueryWarning)
            answer = query(funnel, None, {}, batch={"x": row["x"]}, method=method, **options)
        few = min(60, max(9, int(answer.ess)))
        answer = answer.resampled(few)
        return {name: value.reshape(few, -1) for name, value in answer.samples.items()}

    torch.manual_seed(0)
    found = check_query(ask, funnel, {"x": torch.zeros(REPLICATIONS, 3)}, ["scale", "z"])
    assert found.accepted(LEVEL), found.p_values()


def _calibrated(truth: np.ndarray, ask: Callable[[int], Answer], pick: Callable[[Tensor], Tensor], site: str) -> None:
    """Rank `truth` (n, ...) among the weighted draws that `ask(i)` returns, by what `pick` takes of them."""
    answers = [ask(i) for i in range(len(truth))]
    draws = np.stack([pick(a.samples[site]).reshape(a.num_samples, *truth.shape[1:]).numpy() for a in answers], 1)
    weights = np.stack([a.log_weights.reshape(-1).numpy() for a in answers], 1)
    found = rank({"x": truth}, {"x": draws}, weights)
    assert found.accepted(LEVEL), found.p_values()


def test_query_drmm_is_calibrated() -> None:
    """Rows drawn from the model; two of three columns asked given the first."""
    torch.manual_seed(1)
    data = datasets.load("swissroll", seed=0)
    system = DRMM(preset="cpu", steps=200).fit(data, seed=0, progress="off")
    rows = system.sample(REPLICATIONS, seed=1)["x"].double()
    mask = [1.0] + [0.0] * (rows.shape[1] - 1)

    def ask(i: int) -> Answer:
        return system.query({"x": Known(rows[i], mask)}, num_samples=60, seed=i)

    _calibrated(rows[:, 1:].numpy(), ask, lambda x: x[..., 1:], "x")


def test_query_mdn_is_calibrated() -> None:
    """Two correlated targets; the second asked given the first and the input."""
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 1))
    y = np.concatenate([np.sin(2 * x), x**2], 1) + random.normal(size=(600, 2)) @ [[0.4, 0.3], [0.0, 0.3]]
    parts = [datasets.Split({"x": x[i], "y": y[i]}) for i in np.split(np.arange(600), [400, 500])]
    data = datasets.Dataset(*parts, datasets.Meta("made up"))
    system = MDN(kind="full", num_components=3, hidden=(16,), steps=300).fit(data, seed=0, progress="off")
    inputs = random.normal(size=(REPLICATIONS, 1))
    drawn = system.sample(1, x=inputs, seed=1)["y"].double().reshape(REPLICATIONS, 2)

    def ask(i: int) -> Answer:
        evidence = {"x": torch.as_tensor(inputs[i]), "y": Known(drawn[i], [1.0, 0.0])}
        return system.query(evidence, num_samples=60, seed=i)

    _calibrated(drawn[:, 1:].numpy(), ask, lambda y: y[..., 1:], "y")


def test_query_sequences_are_calibrated() -> None:
    """Five steps of a walk; the middle one asked given all others."""
    random = np.random.default_rng(0)
    walks = np.cumsum(0.3 * random.standard_normal((200, 20, 2)), 1).astype(np.float32)
    parts = [datasets.Split({"x": walks[i]}) for i in np.split(np.arange(200), [150, 175])]
    data = datasets.Dataset(*parts, datasets.Meta(name="walk"))
    system = SequenceModel(hidden=16, layers=1, num_components=2, steps=150).fit(data, seed=0, progress="off")
    drawn = system.sample(REPLICATIONS, steps=5, seed=1)["x"].double()
    mask = torch.ones(5, 2)
    mask[2] = 0.0

    def ask(i: int) -> Answer:
        evidence = {"x": Known(drawn[i].reshape(-1), mask.reshape(-1))}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", QueryWarning)  # later steps leave few particles; the weights know
            return system.query(evidence, num_samples=1000, steps=5, seed=i)

    _calibrated(drawn[:, 2].numpy(), ask, lambda x: x.reshape(len(x), 5, 2)[:, 2], "x")
