"""DRMM's exact query path against brute force over tuples, and its promises under random questions."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from phlogiston.errors import ConfigError, EvidenceError, QueryWarning, UnknownNameError
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Within
from phlogiston.models.drmm import DRMM
from phlogiston.systems.drmm.query import DRMMQuery

INF = math.inf


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def make(frame: str = "tril", layers: int = 2, components: int = 4, features: int = 2, **options: Any) -> DRMM:
    torch.manual_seed(1)
    model = DRMM(features, layers, components, frame=frame, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.4 * torch.randn_like(p))
        model.location.copy_(torch.linspace(-1, 2, features))
        model.scale.copy_(torch.linspace(0.5, 3, features))
    return model


def grid_posterior(query: DRMMQuery, keep: Any, n: int = 400) -> tuple[Tensor, Tensor, float]:
    """Points, weights and log mass of the model on a grid over +-8 standardised units, where `keep(points)`."""
    axes = [query.model.location[d] + query.model.scale[d] * torch.linspace(-8, 8, n).double() for d in range(2)]
    points = torch.cartesian_prod(*axes)
    cell = math.prod((a[1] - a[0]).item() for a in axes)
    log_p = query.log_prob(points) + keep(points)
    return points, log_p.softmax(0), (torch.logsumexp(log_p, 0) + math.log(cell)).item()


@pytest.mark.parametrize("frame", ["shift", "iso", "diag", "tril"])
def test_questions_of_every_kind_match_a_grid(frame: str) -> None:
    query = DRMMQuery(make(frame))
    evidence = {"x": [Within([-3.0, -INF], [1.0, 6.0]), Near([0.0, 1.0], [INF, 1.5]), HalfSpace([1.0, 1.0], 1.0)]}

    def keep(x: Tensor) -> Tensor:
        inside = (x[:, 0] >= -3) & (x[:, 0] <= 1) & (x[:, 1] <= 6) & (x.sum(1) + 1 >= 0)
        soft = torch.distributions.Normal(1.0, 1.5).log_prob(x[:, 1])
        return torch.where(inside, soft, -INF)

    points, weights, log_mass = grid_posterior(query, keep)
    answer = query.ask(evidence, num_samples=20_000, seed=0)
    assert answer.log_evidence.item() == pytest.approx(log_mass, abs=0.02)
    mean = (weights.unsqueeze(1) * points).sum(0)
    variance = (weights.unsqueeze(1) * (points - mean) ** 2).sum(0)
    error = (variance / answer.ess).sqrt()
    assert ((answer.mean("x") - mean).abs() < 5 * error + 0.02).all()
    assert torch.allclose(answer.variance("x"), variance, rtol=0.1)


def test_log_evidence_of_known_values_is_the_marginal_density() -> None:
    query = DRMMQuery(make("tril"))
    points, _, _ = grid_posterior(query, lambda x: torch.zeros(len(x)))
    column = points[:400, 1]
    rows = torch.stack([torch.full_like(column, 0.7), column], 1)
    direct = torch.logsumexp(query.log_prob(rows), 0) + (column[1] - column[0]).log()
    assert query.log_evidence({"x": Known([0.7, 0.0], [1, 0])}).item() == pytest.approx(direct.item(), abs=1e-4)


def test_full_rows_score_like_the_model_itself() -> None:
    model = make("tril")
    query = DRMMQuery(model)
    x = torch.randn(20, 2)
    beam = model.find(x, width=None)
    want = beam.log_joint.logsumexp(-1) + model.log_jacobian()
    assert torch.allclose(query.log_evidence({"x": Known(x)}).float(), want, atol=1e-4)


STREAMS = {"label": 3, "other": 2}


def test_categorical_streams_take_every_role() -> None:
    query = DRMMQuery(make("diag", categorical=STREAMS), categorical={"label": ["cat", "dog", "cow"]})
    x = {"x": Known([0.5, 1.0])}
    probs = query.predict_proba("label", x)
    assert probs.sum().item() == pytest.approx(1.0)
    # target: samples follow the predictive probabilities; failing by chance: once in 10,000
    answer = query.ask(x, num_samples=20_000, seed=1)
    share = torch.bincount(answer.samples["label"], minlength=3) / 20_000
    assert ((share - probs).abs() < 4 * (probs * (1 - probs) / 20_000).sqrt() + 1e-4).all()
    # evidence: Bayes both ways
    for i, name in enumerate(["cat", "dog", "cow"]):
        joint = query.log_evidence({**x, "label": Known(name)})
        assert joint.item() == pytest.approx((query.log_evidence(x) + probs[i].log()).item(), abs=1e-9)
    some = query.log_evidence({**x, "label": OneOf(["cat", 2])})
    assert some.item() == pytest.approx((query.log_evidence(x) + (probs[0] + probs[2]).log()).item(), abs=1e-9)
    # missing
    assert query.log_evidence({**x, "label": Known(-1)}).item() == pytest.approx(query.log_evidence(x).item())
    # restricted
    restricted = query.ask({"label": OneOf({0, 2}), "x": Within(0.0, INF)}, num_samples=500, seed=0)
    assert set(restricted.samples["label"].tolist()) <= {0, 2}
    cond = query.predict_proba("other", {"label": {1}})
    joint = [query.log_evidence({"label": Known(1), "other": Known(v)}).exp() for v in range(2)]
    assert torch.allclose(cond, torch.stack(joint) / sum(joint))


def test_labels_sharpen_x_as_bayes_says() -> None:
    query = DRMMQuery(make("tril", categorical=STREAMS))
    by_label = [query.log_evidence({"x": Known([0.3, 0.2]), "label": Known(v)}) for v in range(3)]
    assert torch.logsumexp(torch.stack(by_label), 0).item() == pytest.approx(
        query.log_evidence({"x": Known([0.3, 0.2])}).item()
    )
    conditional = query.conditional_log_prob({"x": Known([0.3, 0.2])}, {"label": Known(2)})
    assert conditional.item() == pytest.approx((by_label[2] - query.log_evidence({"label": Known(2)})).item())


QUESTIONS = {
    "known": {"x": Known([0.5, 0.0], [1, 0])},
    "soft": {"x": Near([0.5, 1.0], [0.4, 0.5])},
    "interval": {"x": Within([-1.0, -INF], [0.5, INF])},
    "half-space": {"x": HalfSpace([2.0, -1.0], 0.5)},
}


@pytest.mark.parametrize("frame", ["diag", "tril"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_growing_tuples_agrees_with_weighing_them_all(name: str, frame: str) -> None:
    query = DRMMQuery(make(frame, layers=4, components=6))
    exact = query.ask(QUESTIONS[name], num_samples=10, method="exact").log_evidence.item()
    # 216 particles cover all prefixes of length 3: no error at all
    assert query.ask(
        QUESTIONS[name], num_samples=10, method="smc", num_particles=216
    ).log_evidence.item() == pytest.approx(exact, abs=1e-9)
    grown = torch.stack(
        [query.ask(QUESTIONS[name], num_samples=10, method="smc", num_particles=64).log_evidence for _ in range(60)]
    )
    assert grown.std() < 0.1
    # unbiased on the scale of probabilities: within five standard errors
    ratio = (grown - exact).exp()
    assert abs(ratio.mean().item() - 1) < 5 * ratio.std().item() / math.sqrt(60) + 1e-6


def test_large_models_are_grown_without_being_asked() -> None:
    query = DRMMQuery(make("diag", layers=6, components=12, categorical={"label": 3}))
    answer = query.ask({**QUESTIONS["half-space"], "label": {0, 1}}, num_samples=200)
    assert "SMC over 6 layers" in answer.method
    assert answer.log_evidence_error is not None
    assert 0 < answer.log_evidence_error < 0.5
    with pytest.raises(ConfigError, match="too many"):
        query.ask({}, method="exact")


@pytest.mark.parametrize("frame", ["diag", "tril"])
def test_gradients_of_log_evidence_agree_with_finite_differences(frame: str) -> None:
    query = DRMMQuery(make(frame))

    def value(t: Tensor) -> Tensor:
        return query.log_evidence(
            {
                "x": [
                    Known(torch.stack([t[0], t[0] * 0]), [1, 0]),
                    Within([-INF, -1.0], torch.stack([t[1] * 0 + INF, t[2]])),
                ]
            }
        ) + query.log_evidence({"x": Near(t[:2], [0.5, 0.7])})

    t = torch.tensor([0.3, 0.7, 1.5], dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(value(t), t)
    for i in range(3):
        step = torch.zeros(3).double()
        step[i] = 1e-6
        slope = (value(t.detach() + step) - value(t.detach() - step)).item() / 2e-6
        assert got[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_rows_of_evidence_are_separate_questions() -> None:
    query = DRMMQuery(make("tril", categorical=STREAMS))
    x = torch.tensor([[0.5, 0.0], [1.5, 0.0], [-1.0, 0.0]])
    question = {"x": Known(x, [1, 0]), "label": Known(torch.tensor([0, -1, 2]))}
    answer = query.ask(question, num_samples=50)
    assert answer.samples["x"].shape == (50, 3, 2)
    assert torch.equal(answer.samples["x"][:, :, 0], x[:, 0].double().expand(50, 3))
    assert answer.log_evidence.shape == answer.ess.shape == (3,)
    single = [query.log_evidence({"x": Known(x[i], [1, 0]), "label": Known(int(v))}) for i, v in enumerate([0, -1, 2])]
    assert torch.allclose(answer.log_evidence, torch.stack(single))
    assert query.predict_proba("other", question).shape == (3, 2)
    assert answer.quantile("x", torch.tensor([0.1, 0.9])).shape == (2, 3, 2)
    assert answer.resampled(7).samples["x"].shape == (7, 3, 2)


def test_conditional_log_prob_of_many_rows_equals_one_by_one() -> None:
    query = DRMMQuery(make("tril", categorical=STREAMS))
    x, y = torch.randn(12, 2).double(), torch.randint(3, (12,))
    target, given = {"x": Known(x, [0, 1]), "label": Known(y)}, {"x": Known(x, [1, 0])}
    many = query.conditional_log_prob(target, given)
    for i in range(12):
        one = query.conditional_log_prob(
            {"x": Known(x[i], [0, 1]), "label": Known(int(y[i]))}, {"x": Known(x[i], [1, 0])}
        )
        assert many[i].item() == pytest.approx(one.item(), abs=1e-6)


def test_constant_columns_come_back_and_contradictions_are_refused() -> None:
    query = DRMMQuery(make("tril"), columns=["a", "c", "b"], constant={1: 5.0})
    answer = query.ask({"x": [Known([0.4, 0, 0], [1, 0, 0]), HalfSpace([0.0, 1.0, 1.0], -5.5)]}, num_samples=100)
    x = answer.samples["x"]
    assert (x[:, 1] == 5.0).all()
    assert (x[:, 0] == 0.4).all()
    assert (x[:, 1] + x[:, 2] - 5.5 >= 0).all()
    plain = DRMMQuery(make("tril")).log_evidence({"x": [Known([0.4, 0], [1, 0]), Within([-INF, 0.5], INF)]})
    assert answer.log_evidence.item() == pytest.approx(plain.item())
    for piece in (Known([0, 4.0, 0], [0, 1, 0]), Within([-INF, 6.0, -INF], INF)):
        with pytest.raises(EvidenceError, match="'c'"):
            query.ask({"x": piece})
    soft = query.log_evidence({"x": Near([0.0, 4.0, 0.0], [INF, 1.0, INF])})
    assert soft.item() == pytest.approx(torch.distributions.Normal(5.0, 1.0).log_prob(torch.tensor(4.0)).item())


def test_everything_known_is_a_question_too() -> None:
    answer = DRMMQuery(make("tril", categorical=STREAMS)).ask({"x": Known([0.1, 0.2])}, num_samples=10)
    assert torch.equal(answer.samples["x"], torch.tensor([[0.1, 0.2]], dtype=torch.float64).expand(10, 2))


def test_sorting_pruning_and_noise() -> None:
    query = DRMMQuery(make("tril"))
    answer = query.ask(QUESTIONS["half-space"], num_samples=200, sort=True, prune=0.5)
    assert answer.num_samples == 100
    log_prob = answer.details["log_prob"]
    assert (log_prob.diff() <= 0).all()
    assert torch.allclose(log_prob, query.log_prob(answer.samples["x"]))
    means = query.ask(QUESTIONS["half-space"], num_samples=200, noise="mean")
    assert len(means.samples["x"].unique(dim=0)) <= 16
    assert (means.samples["x"] @ torch.tensor([2.0, -1.0]).double() + 0.5 >= 0).all()
    equal = query.ask({"x": HalfSpace([[2.0, -1.0], [-1.0, -1.0]], [0.5, 1.0])}, num_samples=64, resample=True)
    assert equal.log_weights.std() == 0
    assert equal.num_samples == 64


def test_the_same_seed_gives_the_same_answer() -> None:
    query = DRMMQuery(make("tril", categorical=STREAMS))
    one, two = (query.ask(QUESTIONS["half-space"], num_samples=30, seed=4) for _ in range(2))
    assert all(torch.equal(one.samples[k], two.samples[k]) for k in one.samples)


@pytest.mark.parametrize(
    "evidence",
    [
        {"x": [Known([2.0, 0.0], [1, 0]), Within([-INF, 0.0], [1.0, INF])]},
        {"x": HalfSpace([[1.0, 1.0], [-1.0, -1.0]], [-1.0, 0.5])},
        {"x": HalfSpace([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [0.0, 0.0, -0.5])},
        {"x": [Known([1.0, 0.0], [1, 0]), Known([2.0, 0.0], [1, 0])]},
        {"label": [OneOf({0}), OneOf({1})]},
        {"label": Known(7)},
        {"label": Within(0.0, 1.0)},
        {"x": OneOf({1})},
        {"x": Known([1.0, 2.0, 3.0])},
        {"x": HalfSpace([1.0, 2.0, 3.0], 0.0)},
        {"lable": Known(1)},
        {"x": Known("cat")},
    ],
)
def test_impossible_or_malformed_evidence_is_a_clear_error(evidence: Any) -> None:
    with pytest.raises(EvidenceError):
        DRMMQuery(make("tril", categorical=STREAMS)).ask(evidence)


def test_bad_options_are_refused() -> None:
    query = DRMMQuery(make("tril"))
    for options in ({"num_samples": 0}, {"prune": 1.0}, {"noise": "some"}, {"ask": ["y"]}, {"method": "magic"}):
        with pytest.raises((ConfigError, UnknownNameError)):
            query.ask({}, **options)  # type: ignore[arg-type]


def random_question(g: np.random.Generator, dim: int) -> dict[str, Any]:
    known = g.random(dim) < 0.3
    value = (g.normal(size=dim) * 2).astype(np.float32)  # float32 must survive bit for bit
    pieces: list[Any] = [Known(torch.tensor(value), known)] if g.random() < 0.7 and known.any() else []
    fixed = known if pieces else np.zeros(dim, bool)
    low, high = np.full(dim, -INF), np.full(dim, INF)
    for i in range(dim):
        if not fixed[i] and g.random() < 0.5:
            low[i] = g.normal()
            high[i] = low[i] + g.exponential() if g.random() < 0.6 else INF
    weight = float(g.choice([1.0, 0.4, INF]))
    if np.isfinite(low).any():
        pieces.append(Within(low, high, weight))
    inside = np.where(fixed, value, np.where(np.isfinite(low), low + 0.5 * np.minimum(high - low, 1), 0.0))
    for _ in range(int(g.integers(0, 3))):
        a = g.normal(size=dim) * 10.0 ** g.uniform(-1, 1)
        pieces.append(HalfSpace(a, -a @ inside + g.exponential() * np.linalg.norm(a), weight))
    if g.random() < 0.5:
        pieces.append(Near(g.normal(size=dim), np.where(g.random(dim) < 0.5, g.uniform(0.1, 2, size=dim), INF), weight))
    question: dict[str, Any] = {"x": pieces}
    if g.random() < 0.5:
        question["label"] = OneOf({int(v) for v in g.integers(0, 3, size=2)})
    return question


QUERIES = {
    (frame, dim): DRMMQuery(make(frame, layers=3, components=3, features=dim, categorical=STREAMS))
    for frame in ("diag", "tril", "shift")
    for dim in (1, 2, 5, 30)
}


def contradiction(g: np.random.Generator, dim: int) -> list[Any]:
    """Two pieces that no point satisfies."""
    a, i = g.normal(size=dim), int(g.integers(dim))
    value, one = g.normal(), np.eye(dim)[i]
    gap = g.exponential() + 0.01
    return [
        [HalfSpace(np.stack([a, -a]), [value, -value - gap])],
        [Known(value * one, one), Within(np.where(one > 0, value + gap, -INF), INF)],
        [Known(value * one, one), HalfSpace(one, -value - gap)],
        [Within(-INF, np.where(one > 0, value, INF)), Within(np.where(one > 0, value + gap, -INF), INF)],
        [Known(value * one, one), Known((value + gap) * one, one)],
    ][int(g.integers(5))]


RANDOM = {
    "seed": st.integers(0, 10**6),
    "which": st.sampled_from(sorted(QUERIES)),
    "method": st.sampled_from(["exact", "smc"]),
    "noise": st.sampled_from(["model", "mean"]),
    "temper": st.booleans(),
    "possible": st.sampled_from([True] * 9 + [False]),
}


def find_violation(
    seed: int, which: tuple[str, int], method: Any, noise: Any, temper: bool, possible: bool
) -> str | None:
    """Ask a random question; say what is wrong with the answer, None if nothing is."""
    g = np.random.default_rng(seed)
    torch.manual_seed(seed)
    question = random_question(g, which[1])
    options: dict[str, Any] = {
        "num_samples": 40,
        "method": method,
        "num_particles": 8,
        "noise": noise,
        "temper": temper,
    }
    if not possible:
        try:
            QUERIES[which].ask({**question, "x": contradiction(g, which[1])}, **options)
        except EvidenceError:
            return None
        return "a contradiction was answered"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        answer = QUERIES[which].ask(question, **options)
    x = answer.samples["x"]
    numbers = (x, answer.log_weights, answer.log_evidence)
    if answer.num_samples != 40 or not all(n is not None and bool(torch.isfinite(n).all()) for n in numbers):
        return "samples are missing or not finite"
    for piece in question["x"]:
        if isinstance(piece, Known) and not torch.equal(x[:, piece.mask], piece.value[piece.mask].expand(40, -1)):
            return "a known value changed"
        if isinstance(piece, Within) and not ((x >= piece.lower) & (x <= piece.upper)).all():
            return "a sample left the box"
        if isinstance(piece, HalfSpace) and not (x @ piece.a.T + piece.b >= 0).all():
            return "a sample left a half-space"
    if "label" in question and not set(answer.samples["label"].tolist()) <= set(question["label"].values):
        return "a label outside its set"
    return None


@settings(max_examples=80, deadline=None)
@given(**RANDOM)
# far corners of thirty dimensions, where no draw that begins with a half-space meets all rows
@example(seed=40770, which=("tril", 30), method="exact", noise="model", temper=True, possible=True)
@example(seed=253498, which=("tril", 30), method="smc", noise="model", temper=False, possible=True)
@example(seed=988, which=("tril", 30), method="exact", noise="mean", temper=True, possible=True)
def test_every_sample_keeps_every_hard_constraint(**case: Any) -> None:
    assert find_violation(**case) is None
