"""How well DRMM answers random questions: against a grid over the plane, a trained model, every kind of evidence.

The reference knows nothing of the query path: it adds up the 4,096 Gaussians at the points of a fine grid and applies
the pieces of evidence one by one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as hypothesis_seed
from torch import Tensor

from phlogiston import datasets
from phlogiston.inference.query.evidence import Evidence, HalfSpace, Known, Near, Within
from phlogiston.systems.drmm.query import DRMMQuery
from phlogiston.systems.drmm.system import DRMM

from ..systems.drmm.test_drmm_query import RANDOM, find_violation
from .recorder import cpu_time

pytestmark = [pytest.mark.learn, pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")]

INF = math.inf
PIECES, RUNS, SAMPLES, CELLS, FINE = 50, 8, 4000, 40, 6
STEPS = 1500
KINDS = ("known", "soft", "box", "rare box", "half-space", "half-spaces")
PAIRS = tuple(itertools.combinations(KINDS, 2))


def train(seed: int, **options: Any) -> DRMMQuery:
    data = datasets.load("swissroll", noise_sd=0.1, n=7000, seed=seed)
    system = DRMM(preset="swissroll", steps=STEPS, **options).fit(data, seed=seed)
    return DRMMQuery(system.model)


def random_piece(g: np.random.Generator, kind: str, c: np.ndarray) -> Evidence:
    """One piece of evidence that the point `c` satisfies."""
    if kind == "known":
        return Known(c, np.eye(2)[g.integers(2)])
    if kind == "soft":
        sd = g.uniform(0.1, 1.0, 2) if g.random() < 0.5 else np.array([g.uniform(0.1, 1.0), INF])
        return Near(c + 0.3 * g.normal(size=2), sd)
    if kind == "rare box":
        return Within(c - 0.3, c + 0.3)
    if kind == "box":
        h = g.uniform(0.2, 2.0, 2)
        return Within(c - h, c + h) if g.random() < 0.7 else Within([c[0] - h[0], -INF], [INF, c[1] + h[1]])
    k = 1 if kind == "half-space" else int(g.integers(2, 4))
    a = g.normal(size=(k, 2))
    return HalfSpace(a, -a @ c + g.uniform(0.05, 1.0, k) * np.linalg.norm(a, axis=1))


def random_questions(seed: int, data: np.ndarray, count: int = PIECES) -> list[tuple[tuple[str, ...], list[Evidence]]]:
    """Half of them of one kind, half of two, around a row of the data, or around a point where there are none."""
    g = np.random.default_rng(seed)
    found = []
    for i in range(count):
        kinds = (KINDS[(i // 2) % len(KINDS)],) if i % 2 else PAIRS[(i // 2) % len(PAIRS)]
        c = data[g.integers(len(data))]
        if "rare box" in kinds:  # outside the roll
            angle = g.uniform(0, 2 * math.pi)
            c = g.uniform(6.5, 7.5) * np.array([math.sin(angle), math.cos(angle)])
        found.append((kinds, [random_piece(g, kind, c) for kind in kinds]))
    return found


class Reference:
    """The density of a model over the plane, from its tuples written as quadratic forms."""

    def __init__(self, query: DRMMQuery) -> None:
        model = query.model
        with torch.no_grad():
            _, log_prior, means, factors = model.paths()
            wide = torch.diag_embed(factors) if factors.dim() == 2 else factors
            self.centre = model.location
            mean, factor = means * model.scale, model.scale.unsqueeze(-1) * wide
            precision = torch.cholesky_inverse(factor)
            pm = (precision @ mean.unsqueeze(-1)).squeeze(-1)
            log_det = factor.diagonal(dim1=1, dim2=2).log().sum(-1)
            constant = log_prior - math.log(2 * math.pi) - log_det - 0.5 * (pm * mean).sum(-1)
            p = precision
            rows = (constant, pm[:, 0], pm[:, 1], -0.5 * p[:, 0, 0], -p[:, 0, 1], -0.5 * p[:, 1, 1])
            self.form = torch.stack(rows)

    def log_prob(self, points: Tensor) -> Tensor:
        x, y = (points - self.centre).unbind(1)
        features = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], 1)
        # single precision after the quadratic forms: seven digits of a logarithm are plenty, and twice as fast
        parts = [torch.logsumexp((part @ self.form).float(), 1) for part in features.split(128)]
        return torch.cat(parts).double()


@dataclass
class Posterior:
    """What the grid says: probabilities of 40 x 40 cells (40 where an entry is known) and the log evidence."""

    edges: list[np.ndarray]
    cells: np.ndarray
    log_evidence: float

    def histogram(self, x: Tensor, weights: Tensor) -> np.ndarray:
        counts = np.histogram2d(x[:, 0].numpy(), x[:, 1].numpy(), bins=self.edges, weights=weights.numpy())[0]
        return counts / float(weights.sum())

    def distance(self, x: Tensor, weights: Tensor) -> float:
        """Total variation; what lies off the grid counts, too."""
        p = self.histogram(x, weights)
        return 0.5 * float(np.abs(p - self.cells).sum() + 1 - p.sum())

    def ideal(self, n: int) -> float:
        """Mean total variation of `n` independent draws."""
        p = self.cells.ravel() / self.cells.sum()
        counts = np.random.default_rng(0).multinomial(n, p, size=40)
        return 0.5 * float(np.abs(counts / n - p).sum(1).mean())


def grid_posterior(reference: Reference, pieces: Sequence[Evidence], support: Tensor) -> Posterior:
    """Tabulate p(x | pieces) around the points of `support`."""
    known: dict[int, float] = {}
    low, high = support.amin(0).numpy(), support.amax(0).numpy()
    low, high = low - 0.25 * (high - low), high + 0.25 * (high - low)
    for piece in pieces:
        if isinstance(piece, Known):
            known.update({d: float(piece.value[d]) for d in range(2) if piece.mask[d]})
        elif isinstance(piece, Within):
            low, high = np.maximum(low, piece.lower.numpy()), np.minimum(high, piece.upper.numpy())
    axes, edges, log_volume = [], [], 0.0
    for d in range(2):
        if d in known:
            axes.append(np.array([known[d]]))
            edges.append(np.array([known[d] - 1, known[d] + 1]))
            continue
        ends = np.linspace(low[d], high[d], CELLS * (100 if known else FINE) + 1)
        axes.append(0.5 * (ends[1:] + ends[:-1]))
        edges.append(np.linspace(low[d], high[d], CELLS + 1))
        log_volume += math.log(ends[1] - ends[0])
    points = torch.cartesian_prod(*map(torch.from_numpy, axes))
    log_factor = torch.zeros(len(points), dtype=torch.float64)
    for piece in pieces:
        if isinstance(piece, Near):
            for d in range(2):
                if math.isfinite(piece.sd.expand(2)[d]):
                    law = torch.distributions.Normal(piece.mean[d], piece.sd.expand(2)[d])
                    log_factor += law.log_prob(points[:, d])
        elif isinstance(piece, HalfSpace):
            log_factor[((points @ piece.a.T + piece.b) < 0).any(1)] = -INF
        elif isinstance(piece, Within):
            log_factor[((points < piece.lower) | (points > piece.upper)).any(1)] = -INF
    inside = torch.isfinite(log_factor)
    log_factor[inside] += reference.log_prob(points[inside])
    posterior = Posterior(edges, np.zeros((1, 1)), float(log_factor.logsumexp(0)) + log_volume)
    posterior.cells = posterior.histogram(points, log_factor.softmax(0))
    return posterior


@dataclass
class Figures:
    """What one question showed over `RUNS` calls."""

    kinds: tuple[str, ...]
    exact: bool
    ratio: float
    single: float
    mean: float
    ess: float


def examine(query: DRMMQuery, reference: Reference, kinds: tuple[str, ...], pieces: list[Evidence]) -> Figures:
    answers = [query.ask({"x": pieces}, num_samples=SAMPLES) for _ in range(RUNS)]
    posterior = grid_posterior(reference, pieces, torch.cat([a.samples["x"] for a in answers]))
    distance = np.mean([posterior.distance(a.samples["x"], a.weights) for a in answers])
    error = np.array([a.log_evidence.item() - posterior.log_evidence for a in answers])
    figures = Figures(
        kinds,
        "sequential" not in answers[0].method,
        float(distance) / posterior.ideal(SAMPLES),
        float(np.abs(error).max()),
        abs(float(error.mean())),
        min(float(a.ess) for a in answers) / SAMPLES,
    )
    print(f"{figures} log evidence {posterior.log_evidence:.2f}", flush=True)
    return figures


def begin(record: Any, name: str, title: str, figure: str, **fields: Any) -> Any:
    common = {"higher_is_better": False, "steps": STEPS, "n_test": PIECES}
    return record("drmm_queries", f"evidence/{name}", title=title, figure=figure, **{**common, **fields})


@pytest.mark.parametrize("frame", ["diag", "tril"])
def test_random_questions_match_a_grid(record: Any, frame: str) -> None:
    common = {"configuration": f"{frame}, 3 layers of 16: 4,096 tuples"}
    nats = "log-evidence, nats"
    entries = [
        begin(
            record,
            f"{frame}-1-distance",
            "samples against a grid of 40 x 40 cells, worst of 50 questions",
            "total variation over that of independent exact draws",
            must=1.25,
            aim=1.1,
            **common,
        ),
        begin(record, f"{frame}-2-closed", "worst error of closed-form masses", nats, must=0.02, aim=0.002, **common),
        begin(record, f"{frame}-3-run", "worst error of one estimated mass", nats, must=0.05, aim=0.023, **common),
        begin(record, f"{frame}-4-mean", "worst mean error of 8 estimates", nats, must=0.02, aim=0.007, **common),
    ]
    for seed in entries[0].seeds:
        began = cpu_time()
        query = train(seed, num_layers=3, frame=frame)
        seconds = cpu_time() - began
        reference = Reference(query)
        data = datasets.load("swissroll", noise_sd=0.1, n=7000, seed=seed).test.numpy().astype(np.float64)
        torch.manual_seed(seed)
        figures = [examine(query, reference, *question) for question in random_questions(seed, data)]
        closed, rest = [f for f in figures if f.exact], [f for f in figures if not f.exact]
        values = (
            max(f.ratio for f in figures),
            max(f.single for f in closed),
            max(f.single for f in rest),
            max(f.mean for f in rest),
        )
        for entry, value in zip(entries, values, strict=True):
            entry.fields["lowest_ess_share"] = min(f.ess for f in figures)
            with entry.measure(seed) as run:
                run.value, run.cpu_seconds = value, seconds
    for entry in entries:
        entry.check()


def test_growing_tuples_stands_level_with_weighing_them_all(record: Any) -> None:
    asked = 24
    common: dict[str, Any] = {"figure": "worst error of the log-evidence, nats", "n_test": asked}
    three = begin(
        record,
        "smc-3x16",
        "SMC over layers against enumeration, 256 particles, closed-form masses",
        configuration="tril, 3 layers of 16: 4,096 tuples",
        must=1e-6,
        **common,
    )
    four = begin(
        record,
        "smc-4x16",
        "SMC over layers against enumeration, 256 particles, closed-form masses",
        configuration="tril, 4 layers of 16: 65,536 tuples",
        must=0.01,
        **common,
    )
    for seed in three.seeds:
        data = datasets.load("swissroll", noise_sd=0.1, n=7000, seed=seed).test.numpy().astype(np.float64)
        for entry, layers in ((three, 3), (four, 4)):
            began = cpu_time()
            query = train(seed, num_layers=layers, frame="tril")
            seconds = cpu_time() - began
            torch.manual_seed(seed)
            worst = 0.0
            for kinds, pieces in random_questions(seed, data, asked):
                exact = query.ask({"x": pieces}, num_samples=64, method="exact", pilot=0)
                if "sequential" in exact.method:  # its noise is that of the masses, not of the tuples
                    continue
                grown = [query.ask({"x": pieces}, num_samples=256, method="smc").log_evidence for _ in range(RUNS)]
                error = float((torch.stack(grown) - exact.log_evidence).abs().max())
                print(layers, kinds, f"{exact.log_evidence.item():.2f}", error, flush=True)
                worst = max(worst, error)
            with entry.measure(seed) as run:
                run.value, run.cpu_seconds = worst, seconds
    three.check()
    four.check()


def test_ten_thousand_random_questions_keep_every_hard_constraint(record: Any) -> None:
    asked = 10_000
    entry = begin(
        record,
        "random-questions",
        "random questions answered wrongly: a constraint broken, a known value changed, a contradiction not refused",
        "answers",
        configuration="diag, tril and shift, 3 layers of 3, 1 to 30 dimensions, two label streams; tempering, SMC",
        must=0,
        steps=0,
        n_test=asked,
    )
    for seed in entry.seeds:
        with entry.measure(seed) as run:
            run.value = len(find_violations(seed, asked))
    entry.check()


def find_violations(seed: int, asked: int) -> list[str]:
    """Have Hypothesis ask questions; every wrong answer and every error that should not be."""
    answers: list[str | None] = []

    @hypothesis_seed(seed)
    @settings(max_examples=asked, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(**RANDOM)
    def ask(**case: Any) -> None:
        try:
            violation = find_violation(**case)
        except Exception as error:  # every error is a finding, and the others are still to be counted
            violation = repr(error)
        answers.append(violation and f"{case}: {violation}")
        if violation:
            print(answers[-1], flush=True)

    ask()
    assert len(answers) >= asked
    return [a for a in answers if a]
