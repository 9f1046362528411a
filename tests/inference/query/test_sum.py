"""Equalities of several entries: their text and files, exact answers against closed forms and quadrature, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phlogiston.distributions.gaussian_evidence import ConditionedMixture
from phlogiston.distributions.linear_constraints import LinearEvidence, project
from phlogiston.distributions.mixtures.diagonal import DiagMixture
from phlogiston.distributions.resampling import log_mean
from phlogiston.errors import EvidenceError
from phlogiston.inference.query import evidence as ev
from phlogiston.inference.query import files
from phlogiston.inference.query.ask import query
from phlogiston.inference.query.compilation import compile_vector
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, Within
from phlogiston.inference.query.kinds.sum import Sum
from phlogiston.inference.query.text import parse
from phlogiston.models.drmm import DRMM
from phlogiston.systems.drmm.query import DRMMQuery
from phlogiston.systems.mdn.query import MDNQuery


def about(*pieces: ev.Evidence, dim: int) -> LinearEvidence:
    return compile_vector("x", pieces, dim, equalities=True)[0]


def test_a_statement_about_several_columns_is_a_sum() -> None:
    (total,) = parse(["2*x - y = 0.3", "y + z = 1"], {"v": ["x", "y", "z"]})["v"]
    assert isinstance(total, Sum)
    assert total.a.tolist() == [[2.0, -1.0, 0.0], [0.0, 1.0, 1.0]]
    assert total.b.tolist() == [0.3, 1.0]


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_files_bring_a_sum_back(ending: str, tmp_path: Path) -> None:
    back = files.load(files.save(tmp_path / f"sum.{ending}", {"x": Sum([2.0, -1.0], 0.3)}))["x"][0]
    assert isinstance(back, Sum)
    assert (back.a.tolist(), back.b.tolist()) == ([[2.0, -1.0]], [0.3])
    assert json.dumps(ev.to_json({"x": back}), allow_nan=False)


@pytest.mark.parametrize("given_", [([0.0, 0.0], 1.0), ([[1.0, 2.0]], [1.0, 2.0]), (1.0, 0.0), ([math.nan, 1.0], 0.0)])
def test_malformed_sums_are_refused(given_: tuple[object, object]) -> None:
    with pytest.raises(EvidenceError, match=r"Sum"):
        Sum(*given_)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(1, 3), st.booleans(), st.integers(0, 10_000))
def test_sums_of_gaussians_are_conditioned_in_closed_form(dim: int, count: int, diagonal: bool, seed: int) -> None:
    """One component: the density of A x at b, and the mean and covariance of x given it."""
    count = min(count, dim - 1)
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((count, dim), (count,)))
    mean = torch.randn(dim, generator=g, dtype=torch.float64)
    sd = 0.5 + torch.rand(dim, generator=g, dtype=torch.float64)
    factor = torch.diag(sd) if diagonal else torch.randn(dim, dim, generator=g, dtype=torch.float64) + torch.diag(sd)
    cov = factor @ factor.T
    e = about(Sum(a, b), dim=dim)
    mix = ConditionedMixture(torch.zeros(1).double(), mean[None], (sd if diagonal else factor)[None], e)
    law = torch.distributions.MultivariateNormal(a @ mean, a @ cov @ a.T, validate_args=False)
    assert mix.exact
    torch.testing.assert_close(mix.log_evidence, law.log_prob(b), rtol=1e-6, atol=1e-6)
    draws = mix.sample(4000, generator=g)
    gain = cov @ a.T @ torch.linalg.inv(a @ cov @ a.T)
    expected, spread = mean + gain @ (b - a @ mean), cov - gain @ a @ cov
    x, good = project(draws.x, e)
    assert bool(good.all())
    error = spread.diagonal().clamp_min(0).sqrt() / 4000**0.5
    assert bool(((x.mean(0) - expected).abs() < 5.5 * error + 1e-6 * (1 + expected.abs())).all())
    assert float((x @ a.T - b).abs().max()) <= 1e-11 * (1 + float((x.abs() @ a.abs().T).max()))


def tiny(frame: str) -> DRMMQuery:
    torch.manual_seed(3)
    model = DRMM(2, 3, 3, frame=frame, categorical={"label": 3})  # type: ignore[arg-type]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
        model.location.copy_(torch.tensor([0.2, -0.3]))
        model.scale.copy_(torch.tensor([0.8, 1.3]))
    return DRMMQuery(model)


@pytest.mark.parametrize(
    "more",
    [
        (),
        (Within([-0.2, -math.inf], [math.inf, 0.9]),),
        (HalfSpace([1.0, 1.0], 0.4),),
        (Near([0.3, 0.0], [0.5, math.inf]),),
    ],
)
@pytest.mark.parametrize(("frame", "method"), [("diag", "exact"), ("tril", "exact"), ("tril", "smc")])
def test_drmm_answers_a_sum_by_quadrature_along_its_line(
    frame: str, method: Any, more: tuple[ev.Evidence, ...]
) -> None:
    query_ = tiny(frame)
    t = torch.linspace(-12, 12, 40_001, dtype=torch.float64)  # along 2 x0 - x1 = 0.3
    line = torch.stack([t, 2 * t - 0.3], 1)
    log_p = query_.log_prob(line)  # the density of (x0, 2 x0 - x1) at (t, 0.3): the change of variables has slope 1
    for piece in more:
        if isinstance(piece, Within):
            log_p = log_p.masked_fill(((line < piece.lower) | (line > piece.upper)).any(1), -math.inf)
        elif isinstance(piece, HalfSpace):
            log_p = log_p.masked_fill((line @ piece.a.T + piece.b < 0).any(1), -math.inf)
        elif isinstance(piece, Near):
            log_p = log_p + torch.distributions.Normal(0.3, 0.5).log_prob(line[:, 0])
    truth = float(log_p.logsumexp(0) + (t[1] - t[0]).log())
    mean = log_p.softmax(0) @ line
    sd = (log_p.softmax(0) @ (line - mean).square()).sqrt()
    evidence = {"x": [Sum([2.0, -1.0], 0.3), *more]}
    answer = query_.ask(evidence, num_samples=2000, method=method, seed=1)
    error = 0.0 if answer.log_evidence_error is None else float(answer.log_evidence_error)
    assert abs(float(answer.log_evidence) - truth) < 5 * error + 0.005
    assert bool(((answer.mean("x") - mean).abs() < 5 * sd / float(answer.ess) ** 0.5 + 0.005 * sd).all())
    x = answer.samples["x"]
    assert float((2 * x[:, 0] - x[:, 1] - 0.3).abs().max()) < 1e-11
    for piece in more:
        if isinstance(piece, Within):
            assert bool(((x >= piece.lower) & (x <= piece.upper)).all())
        elif isinstance(piece, HalfSpace):
            assert bool((x @ piece.a.T + piece.b >= 0).all())


def test_sums_that_fix_everything_agree_with_known_values() -> None:
    query_ = tiny("tril")
    both = query_.ask({"x": Sum([[1.0, 1.0], [1.0, -1.0]], [1.0, 0.0])}, num_samples=10, seed=0)
    known = query_.log_evidence({"x": Known([0.5, 0.5])})
    torch.testing.assert_close(both.samples["x"], torch.full((10, 2), 0.5, dtype=torch.float64))
    assert float(both.log_evidence) == pytest.approx(float(known) - math.log(2.0), abs=1e-9)  # |det| of the two sums
    one = query_.ask({"x": [Known([0.5, 0.0], [1, 0]), Sum([1.0, 1.0], 1.0)]}, num_samples=10, seed=0)
    assert bool((one.samples["x"][:, 0] == 0.5).all())
    assert float(one.log_evidence) == pytest.approx(float(known), abs=1e-9)


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ([Sum([[1.0, 1.0], [2.0, 2.0]], [1.0, 3.0])], "contradict"),
        ([Known([0.5, 0.5]), Sum([1.0, 1.0], 2.0)], "contradict"),
        ([Sum([1.0, 1.0], 1.0), HalfSpace([1.0, 1.0], -2.0)], "contradict"),
        ([Sum([1.0, 1.0], 1.0), Near([0.0, 0.0], [1.0, 1.0])], "Sum and Near"),
        ([Sum([1.0, 1.0, 1.0], 1.0)], "3 entries"),
    ],
)
def test_sums_that_cannot_be_answered_say_why(pieces: list[ev.Evidence], says: str) -> None:
    with pytest.raises(EvidenceError, match=says):
        tiny("diag").ask({"x": pieces}, num_samples=10)


def test_columns_that_never_vary_take_part_in_sums() -> None:
    inner = tiny("tril")
    outer = DRMMQuery(inner.model, constant={2: 1.5})
    fixed = outer.log_evidence({"x": Sum([1.0, 0.0, 2.0], 3.5)})  # x0 + 2 * 1.5 = 3.5
    torch.testing.assert_close(fixed, inner.log_evidence({"x": Known([0.5, 0.0], [1, 0])}))
    with pytest.raises(EvidenceError, match="contradict"):
        DRMMQuery(inner.model, constant={2: 1.5, 3: 1.0}).ask({"x": Sum([0.0, 0.0, 1.0, 1.0], 3.0)}, num_samples=10)


def test_mdn_answers_a_sum_of_its_targets_in_closed_form() -> None:
    mean, sd = torch.tensor([[0.2, -0.3], [1.0, 0.5]]).double(), torch.tensor([[0.5, 0.8], [0.3, 0.6]]).double()
    logits = torch.tensor([0.3, -0.2]).double()

    def predict(x: torch.Tensor) -> DiagMixture:
        return DiagMixture(*(t.expand(len(x), *t.shape) for t in (logits, mean, sd)))

    query_ = MDNQuery(predict, 1, 2, torch.zeros(3, 1))
    answer = query_.ask({"x": Known([0.0]), "y": Sum([1.0, 1.0], 0.7)}, num_samples=4000, seed=0)
    law = torch.distributions.Normal(mean.sum(1), sd.square().sum(1).sqrt())
    joint = logits.log_softmax(0) + law.log_prob(torch.tensor(0.7, dtype=torch.float64))
    assert float(answer.log_evidence) == pytest.approx(float(joint.logsumexp(0)), abs=1e-9)
    gain = sd.square()[:, 0] / sd.square().sum(1)
    first = joint.softmax(0) @ (mean[:, 0] + gain * (0.7 - mean.sum(1)))
    assert float(answer.mean("y")[0]) == pytest.approx(float(first), abs=0.05)  # five errors of 4,000 draws
    assert float((answer.samples["y"].sum(1) - 0.7).abs().max()) < 1e-11
    with pytest.raises(EvidenceError, match="'x': an equality"):
        query_.ask({"x": Sum([1.0], 0.7)}, num_samples=10)


def test_a_sum_said_twice_counts_once() -> None:
    query_ = tiny("diag")
    once = query_.log_evidence({"x": Sum([1.0, 1.0], 1.0)})
    twice = query_.log_evidence({"x": Sum([[1.0, 1.0], [3.0, 3.0]], [1.0, 3.0])})
    torch.testing.assert_close(once, twice)


def test_paths_that_do_not_condition_on_sums_refuse_them() -> None:
    def model() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(EvidenceError, match="'z': an equality of several entries needs"):
        query(model, None, {"z": Sum([1.0, 1.0], 0.0)}, num_samples=10)


def test_weights_of_draws_give_the_density_of_the_sum() -> None:
    e = about(Sum([1.0, 1.0, 1.0], 0.5), Within([-0.5] * 3, [1.0] * 3), dim=3)
    mix = ConditionedMixture(torch.zeros(1).double(), torch.zeros(1, 3).double(), torch.ones(1, 3).double(), e)
    draws = mix.sample(4000, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(-0.5, 1.0, 601, dtype=torch.float64)
    x, y = torch.meshgrid(t, t, indexing="ij")
    z = 0.5 - x - y
    edge = torch.full_like(t, 1.0)
    edge[0] = edge[-1] = 0.5
    density = torch.exp(-0.5 * (x**2 + y**2 + z**2)) * (2 * math.pi) ** -1.5 * ((z >= -0.5) & (z <= 1.0))
    truth = float((density * edge[:, None] * edge).sum() * (t[1] - t[0]) ** 2)
    assert draws.error is not None
    assert abs(float(log_mean(draws.log_weights)) - math.log(truth)) < 5 * float(draws.error) + 0.01
