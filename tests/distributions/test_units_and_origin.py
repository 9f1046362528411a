"""x -> a x + b: what a distribution of another unit and origin says is what it said before, told in the new ones.

Parameters and values have few binary digits and `a` is a power of two, so that a x + b is held exactly however far `b`
is: what is lost is then lost by the code and not by the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phlogiston.distributions.chained import ChainedNormal
from phlogiston.distributions.gaussian_chain import GaussianChain
from phlogiston.distributions.gridded import Gridded
from phlogiston.distributions.masked import MaskedNormal
from phlogiston.distributions.masked_triangular import MaskedTriangular
from phlogiston.distributions.mixed_normals import MixedNormals
from phlogiston.distributions.mixtures.base import Mixture
from phlogiston.distributions.mixtures.diagonal import DiagMixture, FactorisedMixture, IsotropicMixture
from phlogiston.distributions.mixtures.full import BivariateMixture, FullMixture
from phlogiston.distributions.paths import ResidualNormal
from phlogiston.distributions.presampled import PreSampled
from phlogiston.distributions.truncated_normal import TruncatedNormal
from phlogiston.distributions.warped import Warped
from phlogiston.networks.frames import DiagonalFrame


def t(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.double)


LOGITS, LOC, SCALE = t([0.25, -0.5]), t([[-1.0, 0.5], [1.5, 2.0]]), t([[0.75, 1.25], [0.5, 0.625]])
TRIL = t([[[1.0, 0.0], [0.5, 2.0]], [[0.75, 0.0], [-0.25, 0.5]]])
MASK = torch.tensor([[True], [False]])
COLUMNS = torch.tensor([False, False])
torch.manual_seed(0)
FRAMES = [DiagonalFrame(k, 2).double() for k in (2, 3)]


def truncated(a: float, b: float, low: float, high: float) -> TruncatedNormal:
    return TruncatedNormal(*(t(a * v + b) for v in (0.5, 1.25 - b / a, low, high)))


def chained(a: float, b: float) -> ChainedNormal:
    def link(previous: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return b + 0.5 * (previous - b) + a * context, torch.full_like(previous, 0.75 * a)

    return ChainedNormal(a * t([0.25, 0.5]) + b, t([0.25, -0.5]), link, torch.tensor([[True], [True]]))


def chain(a: float, b: float) -> GaussianChain:
    return GaussianChain(
        (a * t([0.25, -0.5]) + b, a * t([0.5, 1.5])),
        lambda z, times: (b + 0.5 * (z - b), torch.full_like(z, 0.75 * a)),
        2,
    )


# name -> the distribution in unit a and origin b, and how many coordinates its density has
LAWS: dict[str, tuple[Callable[[float, float], Any], int]] = {
    "truncated": (lambda a, b: truncated(a, b, -1.0, 2.0), 1),
    "truncated in the tail": (lambda a, b: truncated(a, b, 50.0, math.inf), 1),
    "truncated below": (lambda a, b: truncated(a, b, -1000.5, -1000.0), 1),
    "diag": (lambda a, b: DiagMixture(LOGITS, a * LOC + b, a * SCALE), 2),
    "isotropic": (lambda a, b: IsotropicMixture(LOGITS, a * LOC + b, a * SCALE[:, 0]), 2),
    "factorised": (lambda a, b: FactorisedMixture(LOGITS.expand(2, 2), a * LOC + b, a * SCALE), 2),
    "full": (lambda a, b: FullMixture(LOGITS, a * LOC + b, a * TRIL), 2),
    "bivariate": (lambda a, b: BivariateMixture(LOGITS, a * LOC + b, a * SCALE, t([0.5, -0.25])), 2),
    "gridded": (lambda a, b: Gridded(DiagMixture(LOGITS, a * LOC + b, a * SCALE), 0.25 * a), 0),
    "mixed": (lambda a, b: MixedNormals(LOGITS, a * LOC + b, a * SCALE), 2),
    "masked": (lambda a, b: MaskedNormal(a * LOC + b, a * SCALE, MASK, 2), 2),
    "masked, one scale": (lambda a, b: MaskedNormal(a * LOC + b, t(0.75 * a), None, 2), 4),
    "triangular": (lambda a, b: MaskedTriangular(a * LOC + b, a * TRIL, MASK), 2),
    "chained": (chained, 4),
    "chain": (chain, 4),
    "warped": (lambda a, b: Warped(DiagMixture(LOGITS, LOC, SCALE), t([b, b]), t([a, a]), COLUMNS), 2),
    "residual": (lambda a, b: ResidualNormal(FRAMES, torch.tensor([1, 2]), t([b, b]), t([a, a])), 2),
    "presampled": (lambda a, b: PreSampled(DiagMixture(LOGITS, a * LOC + b, a * SCALE), a * LOC[0] + b), 2),
}
UNITS = st.integers(-100, 100).map(lambda k: 2.0**k)  # 1e-30 to 1e30
ORIGINS = st.one_of(
    st.just(0.0), st.builds(lambda j, sign: sign * 2.0**j, st.integers(0, 40), st.sampled_from([-1, 1]))
)


def values(law: Any) -> Tensor:
    """Draws with eight binary digits after the point, inside the support."""
    torch.manual_seed(0)
    drawn = law.sample() if isinstance(law, PreSampled) else law.sample((8,))
    drawn = (drawn * 256).round() / 256
    return torch.clamp(drawn, law.low, law.high) if isinstance(law, TruncatedNormal) else drawn


def same(found: Tensor, wanted: Tensor, b: float, a: float, within: float = 1e-9) -> None:
    """Whether values in the new unit and origin are the old ones, up to rounding of numbers as large as `b`."""
    back = (found - b) / a
    slack = 4 * torch.finfo(torch.double).eps * (abs(b / a) + wanted.abs())
    assert ((back - wanted).abs() <= within * (1 + wanted.abs()) + slack).all(), (back, wanted)


@pytest.mark.parametrize("name", list(LAWS))
@settings(max_examples=15, deadline=None)
@given(UNITS, ORIGINS)
def test_densities_change_by_the_jacobian_and_draws_by_the_map(name: str, a: float, origin: float) -> None:
    make, coordinates = LAWS[name]
    b = a * origin
    plain, moved = make(1.0, 0.0), make(a, b)
    x = values(plain)
    gain = moved.log_prob(a * x + b) - plain.log_prob(x)
    torch.testing.assert_close(gain, torch.full_like(gain, -coordinates * math.log(a)), rtol=1e-11, atol=1e-9)
    if name == "gridded" and origin % 0.25:  # its grid has 0 on it
        return
    count = () if name == "presampled" else (8,)
    torch.manual_seed(1)
    wanted = plain.sample(count)
    torch.manual_seed(1)
    found = moved.sample(count)
    counted = (
        ~MASK.expand(2, 2) if name in ("masked", "triangular") else torch.zeros(wanted.shape[1:], dtype=torch.bool)
    )
    same(torch.where(counted, b, found), torch.where(counted, 0.0, wanted), b, a)


@pytest.mark.parametrize("name", ["truncated", "truncated in the tail", "truncated below"])
@settings(max_examples=15, deadline=None)
@given(UNITS, ORIGINS)
def test_a_truncated_normal_follows_units_and_origin(name: str, a: float, origin: float) -> None:
    make, _ = LAWS[name]
    b = a * origin
    plain, moved = make(1.0, 0.0), make(a, b)
    x = values(plain)
    torch.testing.assert_close(moved.cdf(a * x + b), plain.cdf(x), rtol=1e-9, atol=1e-12)
    u = t([1e-9, 0.1, 0.5, 0.9, 1 - 1e-9])
    same(moved.icdf(u), plain.icdf(u), b, a)
    same(moved.mean, plain.mean, b, a)
    same(moved.stddev, plain.stddev, 0.0, a)
    assert float(moved.entropy() - plain.entropy()) == pytest.approx(math.log(a), abs=1e-9)


@pytest.mark.parametrize("name", ["diag", "isotropic", "factorised", "full", "bivariate"])
@settings(max_examples=6, deadline=None)
@given(UNITS, ORIGINS)
def test_what_a_mixture_answers_follows_units_and_origin(name: str, a: float, origin: float) -> None:
    make, _ = LAWS[name]
    b = a * origin
    plain, moved = make(1.0, 0.0), make(a, b)
    assert isinstance(plain, Mixture)
    assert isinstance(moved, Mixture)
    x = values(plain)
    torch.testing.assert_close(moved.cdf(a * x + b), plain.cdf(x), rtol=1e-9, atol=1e-12)
    same(moved.crps(a * x + b), plain.crps(x), 0.0, a)
    same(moved.quantile([0.001, 0.3, 0.5, 0.99]), plain.quantile([0.001, 0.3, 0.5, 0.99]), b, a)
    same(moved.mean, plain.mean, b, a)
    rounding = 1e-9 + 4e-16 * abs(origin)  # of the mean, which the deviation is taken from
    same(moved.stddev, plain.stddev, 0.0, a, rounding)
    torch.testing.assert_close(moved.component_posterior(a * x + b), plain.component_posterior(x), rtol=1e-9, atol=1e-9)
    lower, upper = t([-1.0, 0.25]), t([0.5, math.inf])
    box = [m.log_prob_in_box(f * lower + s, f * upper + s) for m, f, s in ((plain, 1.0, 0.0), (moved, a, b))]
    torch.testing.assert_close(box[1], box[0], rtol=1e-9, atol=1e-9)
    for p in (0.05, 0.9):
        regions = [m.interval(p, "hpd") for m in (plain, moved)]
        assert torch.equal(regions[0].mask, regions[1].mask)
        for before, after in ((regions[0].lower, regions[1].lower), (regions[0].upper, regions[1].upper)):
            # where the ends are rounded, so is the level that they hold the probability at
            slack = 1e-7 + 4e-15 * abs(origin)
            same(torch.where(regions[1].mask, after, b), torch.where(regions[0].mask, before, 0.0), b, a, slack)
    for gained in (m - p for m, p in zip(moved.entropy_bounds(), plain.entropy_bounds(), strict=True)):
        assert float(gained) == pytest.approx(2 * math.log(a), abs=1e-8 + 1e-15 * abs(origin))
    found, wanted = moved.modes(), plain.modes()
    assert torch.equal(found.mask, wanted.mask)
    same(found.points[found.mask], wanted.points[wanted.mask], b, a, 1e-6 + 4e-15 * abs(origin))
    known = torch.tensor([True, False])
    gain = moved.log_prob_known(a * x + b, known) - plain.log_prob_known(x, known)
    torch.testing.assert_close(gain, torch.full_like(gain, -math.log(a)), rtol=1e-11, atol=1e-9)
