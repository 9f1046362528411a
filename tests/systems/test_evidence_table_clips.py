"""Every kind of evidence about the latents of clips and videos, against the closed form."""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from pyro import poutine

from phlogiston import datasets
from phlogiston.errors import ConfigError, DataError, EvidenceError, QueryWarning
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Within
from phlogiston.systems.sqair.system import SQAIR
from phlogiston.systems.vdsm.system import VDSM

INF = math.inf
Z = 4.5


@cache
def vdsm() -> VDSM:
    options: dict[str, Any] = {
        "experts": 4, "pose": 3, "dynamics": 5, "encoder_widths": (6, 6), "features": 16, "decoder_widths": (8, 6),
        "recurrent": 8, "steps": 2, "batch_size": 6, "warm_steps": 1, "sequence_steps": 1, "warmup": 1,
    }  # fmt: skip
    data = datasets.load("figures", characters=(2, 0, 1), size=16, frames=3)
    return VDSM(options).fit(data, progress="off", tensorboard=False)


S = 0.2  # the dynamics are normal with this standard deviation: 1 / 5 for five of them


def closed_forms() -> dict[str, tuple[Any, float, float, float]]:
    """Evidence about the first of the five dynamics; its log probability, posterior mean and standard deviation."""
    law = scipy.stats.norm(0.0, S)
    box = scipy.stats.truncnorm(0.2, 1.1)  # in units of S
    row = scipy.stats.truncnorm(0.5, INF)  # (x_0 + x_1) / (S sqrt(2)) >= 0.5
    rest = [INF] * 4
    return {
        "known": (Known([0.14, 0, 0, 0, 0], [1, 0, 0, 0, 0]), law.logpdf(0.14), 0.14, 0.0),
        "near": (
            Near([0.16, 0, 0, 0, 0], [0.1, *rest]),
            scipy.stats.norm(0.0, math.hypot(S, 0.1)).logpdf(0.16),
            0.16 * S**2 / (S**2 + 0.1**2),
            S * 0.1 / math.hypot(S, 0.1),
        ),
        "within": (
            Within([0.2 * S, *[-INF] * 4], [1.1 * S, *rest]),
            math.log(scipy.stats.norm.cdf(1.1) - scipy.stats.norm.cdf(0.2)),
            S * box.mean(),
            S * box.std(),
        ),
        "half-space": (
            HalfSpace([1.0, 1.0, 0, 0, 0], -0.5 * S * math.sqrt(2)),
            scipy.stats.norm.logsf(0.5),
            S * row.mean() / math.sqrt(2),
            S * math.sqrt(0.5 * row.var() + 0.5),
        ),
    }


HMC = {"num_samples": 60, "chains": 2, "warmup": 30}  # each draw runs the program some ten times


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((kind, method) for kind in ("known", "near", "within", "half-space") for method in ("importance", "smc")),
        ("half-space", "hmc"),
    ],
)
def test_vdsm_answers_every_kind_of_evidence_about_a_clips_dynamics(kind: str, method: str) -> None:
    piece, log_evidence, mean, sd = closed_forms()[kind]
    options: dict[str, Any] = HMC if method == "hmc" else {"num_samples": 300}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        answer = vdsm().query({"dynamics": piece}, seed=1, method=method, **options)
    x = answer.samples["dynamics"].double()
    assert answer.samples["frames"].shape[1:] == (3, 3, 16, 16)  # drawn at the end, whatever the method
    error = 0.3 if answer.log_evidence_error is None else float(answer.log_evidence_error)
    if method == "hmc":
        assert answer.log_evidence is None
    else:
        assert abs(float(answer.log_evidence) - log_evidence) < Z * error + 1e-4  # type: ignore[arg-type]
    assert abs(float(answer.mean("dynamics")[0]) - mean) < Z * sd / float(answer.ess) ** 0.5 + 1e-6
    if kind == "known":
        assert bool((x[:, 0] == 0.14).all())
    if kind == "within":
        assert bool(((x[:, 0] >= 0.2 * S) & (x[:, 0] <= 1.1 * S)).all())
    if kind == "half-space":
        assert bool((x[:, 0] + x[:, 1] - 0.5 * S * math.sqrt(2) >= 0).all())


@cache
def sqair() -> SQAIR:
    data = datasets.load("moving_digits", sizes=(40, 4, 4))
    return SQAIR(steps=1, lengths=(2,), shares=(1.0,), batch_size=4).fit(data, tensorboard=False, progress="off")


@pytest.mark.parametrize("method", ["importance", "smc"])
@pytest.mark.parametrize(("evidence", "counts"), [(Known(1), (1,)), (OneOf({0, 2}), (0, 2)), (Known(-1), (0, 1, 2, 3))])
def test_sqair_answers_every_kind_of_evidence_about_counts(evidence: Any, counts: tuple[int, ...], method: str) -> None:
    system = sqair()
    with torch.no_grad():
        law = poutine.trace(system.model).get_trace(frames=1).nodes["t0/births"]["fn"]
        values = law.enumerate_support(expand=False).reshape(-1)
        probs = torch.stack([law.log_prob(v).reshape(-1)[0] for v in values]).softmax(0).double()
    allowed = [count for count in counts if count < len(values)]
    answer = system.query({"t0/births": evidence}, ["t0/births"], 400, frames=1, seed=0, method=method)
    truth = math.log(float(probs[allowed].sum()))
    error = 0.0 if answer.log_evidence_error is None else float(answer.log_evidence_error)
    assert float(answer.log_evidence) == pytest.approx(truth, abs=Z * error + 1e-4)  # type: ignore[arg-type]
    births = answer.samples["t0/births"].reshape(-1).long()
    assert set(births.tolist()) <= set(allowed)
    share = np.bincount(births.numpy(), weights=answer.weights.numpy(), minlength=len(values))
    want = torch.zeros(len(values), dtype=torch.float64)
    want[allowed] = probs[allowed] / probs[allowed].sum()
    assert np.abs(share - want.numpy()).max() < Z * 0.5 / 400**0.5


@pytest.mark.parametrize("method", ["importance", "smc"])
def test_sqair_weighs_counts_softly(method: str) -> None:
    system = sqair()
    with torch.no_grad():
        law = poutine.trace(system.model).get_trace(frames=1).nodes["t0/births"]["fn"]
        values = law.enumerate_support(expand=False).reshape(-1)
        probs = torch.stack([law.log_prob(v).reshape(-1)[0] for v in values]).softmax(0).double()
    soft = torch.distributions.Normal(values.double(), 0.5).log_prob(torch.tensor(1.0, dtype=torch.float64))
    answer = system.query({"t0/births": Near(1.0, 0.5)}, ["t0/births"], 1000, frames=1, seed=0, method=method)
    assert answer.log_evidence is not None
    error = 0.2 if answer.log_evidence_error is None else float(answer.log_evidence_error)
    assert abs(float(answer.log_evidence) - float((probs.log() + soft).logsumexp(0))) < Z * error + 1e-4
    births = answer.samples["t0/births"].reshape(-1).long()
    share = np.bincount(births.numpy(), weights=answer.weights.numpy(), minlength=len(values))
    want = (probs.log() + soft).softmax(0).numpy()
    assert np.abs(share - want).max() < Z * 0.5 / float(answer.ess) ** 0.5


@pytest.mark.parametrize(
    ("method", "evidence", "words"),
    [
        ("hmc", {"t0/births": Near(1.0, 0.5)}, 'method="hmc" needs continuous unknowns, but t0/births is discrete'),
        ("smc", {"x": np.zeros((1, 50, 50), np.float32)}, 'method="smc" cannot move t0/where_new, t0/what_new'),
        ("exact", {}, "method 'exact'"),
    ],
)
def test_sqair_refuses_what_a_method_cannot_do_by_name(method: str, evidence: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        sqair().query(evidence, num_samples=20, frames=1, method=method)
    assert "\n" not in str(caught.value)


def test_vdsm_refuses_methods_and_unknown_pixels_under_hmc_by_name() -> None:
    mask = np.zeros((3, 3, 16, 16), bool)
    mask[0] = True
    pixels = Known(np.ones(mask.shape), mask)
    with pytest.raises(ConfigError, match='method="hmc" needs continuous unknowns, but frames is discrete'):
        vdsm().query({"frames": pixels}, num_samples=20, method="hmc")
    with pytest.raises(ConfigError, match="method 'filter'"):
        vdsm().query({}, num_samples=20, method="filter")


@pytest.mark.filterwarnings("ignore:.*effective sample size")
def test_values_that_are_no_pixels_are_refused_or_warned_of() -> None:
    far = np.full((3, 3, 16, 16), 1e9, np.float32)
    with pytest.raises(DataError, match="frames hold values from 1e\\+09 to 1e\\+09"):
        vdsm().query({}, num_samples=20, batch={"frames": far})
    with pytest.raises(EvidenceError, match="no value is left for 'frames'"):
        vdsm().query({"frames": far}, num_samples=20)
    with pytest.raises(DataError, match="x lies in"):
        sqair().query({"x": np.full((1, 50, 50), 1e9, np.float32)}, num_samples=20)
    sd = np.full(2500, INF)
    sd[7] = 1.0
    with pytest.warns(QueryWarning, match="far outside of what the model generates .site 'x', entry 7"):
        sqair().query({"x": Near(np.full(2500, 1e9), sd)}, num_samples=50, frames=1, seed=0)


@pytest.mark.filterwarnings("ignore:.*effective sample size")
@pytest.mark.parametrize("method", ["importance", "smc"])
def test_dynamics_far_from_the_prior_are_told(method: str) -> None:
    with pytest.warns(QueryWarning, match="far outside of what the model generates .site 'dynamics'"):
        vdsm().query({"dynamics": [1e9] * 5}, num_samples=50, method=method, seed=0)
