"""What torch promises of every distribution, asked of every one of ours.

`CASES` has an entry for every public class; a new class without one fails the first test.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import math
import pickle
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import phlogiston.distributions
from phlogiston.distributions.chained import ChainedNormal
from phlogiston.distributions.discretized_logistic import DiscretizedLogistic
from phlogiston.distributions.gaussian_chain import GaussianChain
from phlogiston.distributions.gridded import Gridded
from phlogiston.distributions.masked import MaskedBernoulli, MaskedNormal
from phlogiston.distributions.masked_triangular import MaskedTriangular
from phlogiston.distributions.mixed_normals import MixedNormals
from phlogiston.distributions.mixtures.diagonal import DiagMixture, FactorisedMixture, IsotropicMixture
from phlogiston.distributions.mixtures.full import BivariateMixture, FullMixture
from phlogiston.distributions.paths import MixtureCategorical, PathMixture, PathPosterior, PathPrior, ResidualNormal
from phlogiston.distributions.presampled import PreSampled
from phlogiston.distributions.stick_count import StickCount
from phlogiston.distributions.truncated_normal import TruncatedNormal
from phlogiston.distributions.warped import Warped
from phlogiston.networks.frames import DiagonalFrame
from phlogiston.networks.path_priors import AutoregressivePrior

NAN = math.nan


@dataclass(frozen=True)
class Case:
    """One class and how to ask it.

    Attributes:
        make: parameters by name -> distribution; keywords besides them are `validate_args`.
        parameters: tensors by name, float64 where floating.
        wrong: (parameter, value that fills it) which must be refused with validation on.
        impossible: fillings of a value that must be refused with validation on.
        values: all values of a discrete distribution (n, *event), whose probabilities sum to 1.
        batched: names of parameters that may have a batch of their own.
        no_gradient: parameters that `rsample` carries no gradient to.
        counted: which entries of an event are part of the distribution.
    """

    make: Callable[..., Any]
    parameters: dict[str, Tensor]
    wrong: tuple[tuple[str, float], ...] = ()
    impossible: tuple[float, ...] = (NAN,)
    values: Tensor | None = None
    batched: tuple[str, ...] = ()
    no_gradient: tuple[str, ...] = ()
    counted: Tensor | None = field(default=None)

    def __call__(self, validate_args: bool | None = True, dtype: torch.dtype = torch.double, **other: Tensor) -> Any:
        chosen = {**self.parameters, **other}
        cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in chosen.items()}
        return self.make(**cast, validate_args=validate_args)


def t(*numbers: Any) -> Tensor:
    """One number, a list of lists, or a row of numbers, in double precision."""
    return torch.tensor(numbers if len(numbers) > 1 else numbers[0], dtype=torch.double)


def link(previous: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    return 0.5 * previous + context, 0.5 + 0.1 * context.square()


def walk(z: Tensor, times: slice) -> tuple[Tensor, Tensor]:
    return 0.7 * z, torch.full_like(z, 0.6)


def chained(start: Tensor, context: Tensor, mask: Tensor, validate_args: Any) -> ChainedNormal:
    return ChainedNormal(start, context, link, mask, validate_args=validate_args)


def chain(loc: Tensor, scale: Tensor, validate_args: Any) -> GaussianChain:
    return GaussianChain((loc, scale), walk, 3, validate_args=validate_args)


def gridded(logits: Tensor, loc: Tensor, scale: Tensor, width: Tensor, validate_args: Any) -> Gridded:
    return Gridded(DiagMixture(logits, loc, scale, validate_args), width, validate_args)


def warped(logits: Tensor, loc: Tensor, scale: Tensor, shift: Tensor, unit: Tensor, validate_args: Any) -> Warped:
    base = DiagMixture(logits, loc, scale, validate_args)
    return Warped(base, shift, unit, torch.tensor([True, False]), validate_args=validate_args)


def presampled(loc: Tensor, scale: Tensor, value: Tensor, validate_args: Any) -> PreSampled:
    return PreSampled(TruncatedNormal(loc, scale, -1.0, 2.0, validate_args=validate_args), value, validate_args)


torch.manual_seed(0)
PRIOR = AutoregressivePrior((2, 3))
FRAMES = [DiagonalFrame(k, 2).double() for k in (2, 3)]
with torch.no_grad():
    for parameter in PRIOR.parameters():
        parameter.normal_()


def path_prior(validate_args: Any) -> PathPrior:
    return PathPrior(PRIOR, (), validate_args=validate_args)


def residual(location: Tensor, scale: Tensor, codes: Tensor, validate_args: Any) -> ResidualNormal:
    return ResidualNormal(FRAMES, codes, location, scale, None, validate_args)


class Rows:
    """What a `PathMixture` is built around: plain standard normals."""

    def find(self, x: Tensor) -> Any:
        return SimpleNamespace(nested=(-0.5 * x.square() - 0.5 * math.log(2 * math.pi)).sum(-1, keepdim=True))

    def draw(self, shape: torch.Size) -> Tensor:
        return torch.randn(*shape, 2, dtype=torch.double)


def path_mixture(jacobian: Tensor, validate_args: Any) -> PathMixture:
    rows = Rows()
    return PathMixture(rows.find, rows.draw, jacobian, (), 2, validate_args)


def categorical(log_posterior: Tensor, stream_logits: Tensor, validate_args: Any) -> MixtureCategorical:
    return MixtureCategorical(log_posterior.log_softmax(-1), stream_logits.log_softmax(-1), validate_args=validate_args)


PAIR = {"logits": t(0.3, -0.4), "loc": t([[-1.0, 0.5], [1.5, 2.0]]), "scale": t([[0.8, 1.2], [0.5, 0.7]])}
PAIR_LOC = {"logits": PAIR["logits"], "loc": PAIR["loc"]}
HALVED = {"logits": PAIR["logits"], "loc": 0.5 * PAIR["loc"], "scale": 0.5 * PAIR["scale"]}
HALF = torch.tensor([[True], [False]])
CASES: dict[str, Case] = {
    "TruncatedNormal": Case(
        TruncatedNormal,
        {"loc": t(0.5), "scale": t(1.3), "low": t(-1.0), "high": t(2.0)},
        (("loc", NAN), ("scale", -1.0), ("scale", 0.0), ("low", 3.0), ("high", NAN)),
        (NAN, 2.5, -1.5), batched=("loc", "scale", "low", "high"),
    ),
    "DiscretizedLogistic": Case(
        DiscretizedLogistic, {"loc": t(0.4), "scale": t(0.2)}, (("loc", NAN), ("scale", 0.0)), (NAN, 1.5, -0.5),
        values=torch.arange(256).double() / 255, batched=("loc", "scale"),
    ),
    "MaskedNormal": Case(
        lambda loc, scale, mask, validate_args: MaskedNormal(loc, scale, mask, 2, validate_args),
        {"loc": t([[0.5, 1.0], [NAN, NAN]]), "scale": t([[1.0, 2.0], [NAN, 0.0]]), "mask": HALF},
        (("loc", NAN), ("scale", -1.0)), batched=("loc", "scale", "mask"), counted=HALF.expand(2, 2),
    ),
    "MaskedBernoulli": Case(
        MaskedBernoulli, {"logits": t(0.5, NAN), "mask": torch.tensor([True, False])}, (("logits", NAN),), (NAN, 0.5),
        values=t([[0, 0], [0, 1], [1, 0], [1, 1]]), batched=("logits", "mask"),
    ),
    "MaskedTriangular": Case(
        MaskedTriangular,
        {"loc": t([[0.5, 1.0], [NAN, NAN]]), "scale_tril": t([[[1.0, 0], [0.5, 2]], [[NAN, 1], [0, 0]]]), "mask": HALF},
        (("loc", NAN), ("scale_tril", -1.0)), batched=("loc", "scale_tril", "mask"), counted=HALF.expand(2, 2),
    ),
    "StickCount": Case(
        StickCount, {"logits": t(0.3, -0.5, 1.0), "capacity": torch.tensor(2)},
        (("logits", NAN), ("capacity", 4), ("capacity", -1)), (-1, 4, 1.5),
        values=torch.arange(4), batched=("logits", "capacity"),
    ),
    "MixedNormals": Case(
        MixedNormals, {"logits": PAIR["logits"], "means": PAIR["loc"], "deviations": PAIR["scale"]},
        (("logits", NAN), ("means", NAN), ("deviations", 0.0)), batched=("logits", "means", "deviations"),
        no_gradient=("logits",),
    ),
    "ChainedNormal": Case(
        chained,
        {"start": t(0.1, 0.2), "context": t(0.3, -0.4), "mask": torch.tensor([[True], [True], [False]])},
        (("start", NAN), ("context", NAN)), batched=("context", "mask"),
        counted=torch.tensor([[True], [True], [False]]).expand(3, 2),
    ),
    "GaussianChain": Case(
        chain, {"loc": t(0.3, -0.2), "scale": t(0.5, 1.5)}, (("loc", NAN), ("scale", -1.0)), batched=("loc", "scale")
    ),
    "DiagMixture": Case(
        DiagMixture, PAIR, (("logits", NAN), ("loc", NAN), ("scale", 0.0)), batched=("logits", "loc", "scale")
    ),
    "IsotropicMixture": Case(
        IsotropicMixture, {**PAIR, "scale": t(0.8, 0.5)}, (("logits", NAN), ("loc", NAN), ("scale", 0.0)),
        batched=("logits", "loc", "scale"),
    ),
    "FactorisedMixture": Case(
        FactorisedMixture, {**PAIR, "logits": t([[0.3, -0.4], [0.0, 1.0]])},
        (("logits", NAN), ("loc", NAN), ("scale", -1.0)), batched=("logits", "loc", "scale"),
    ),
    "FullMixture": Case(
        FullMixture,
        {**PAIR_LOC, "scale_tril": t([[[1.0, 0], [0.5, 2]], [[0.7, 0], [-0.3, 0.6]]])},
        (("logits", NAN), ("loc", NAN), ("scale_tril", 1.0)), batched=("logits", "loc", "scale_tril"),
    ),
    "BivariateMixture": Case(
        BivariateMixture, {**PAIR, "rho": t(0.5, -0.3)},
        (("logits", NAN), ("loc", NAN), ("scale", 0.0), ("rho", 1.0), ("rho", -1.5)),
        batched=("logits", "loc", "scale", "rho"),
    ),
    "Gridded": Case(
        gridded, {**PAIR, "width": t(0.5, 0.25)}, (("width", 0.0), ("width", NAN), ("scale", -1.0)),
        values=torch.cartesian_prod(torch.arange(-20, 21) * 0.5, torch.arange(-40, 41) * 0.25).double(),
        batched=("logits", "loc", "scale"),
    ),
    "Warped": Case(
        warped, {**HALVED, "shift": t(0.2, -1.0), "unit": t(0.9, 2)},
        (("unit", 0.0), ("shift", NAN), ("scale", 0.0)), (NAN, -0.5), batched=("logits", "loc", "scale", "shift"),
    ),
    "PreSampled": Case(
        presampled, {"loc": t(0.0), "scale": t(1.0), "value": t(0.5)}, (("value", 3.0), ("scale", -1.0)), (NAN, 3.0),
        no_gradient=("loc", "scale"),
    ),
    "PathPrior": Case(
        path_prior, {}, (), (-1.0, 5.0, 0.5),
        values=torch.cartesian_prod(torch.arange(2), torch.arange(3)),
    ),
    "PathPosterior": Case(
        PathPosterior, {"codes": torch.tensor([[0, 0], [1, 2], [0, 1]]), "logits": t(0.1, 0.5, -1.0)},
        (("codes", -1), ("logits", NAN)), (-1, 0.5), batched=("codes", "logits"),
        values=torch.cartesian_prod(torch.arange(2), torch.arange(3)),
    ),
    "ResidualNormal": Case(
        residual, {"location": t(0.5, 1.0), "scale": t(1.0, 2.0), "codes": torch.tensor([1, 2])},
        (("scale", 0.0), ("location", NAN)), batched=("codes",),
    ),
    "PathMixture": Case(path_mixture, {"jacobian": t(0.0)}),
    "MixtureCategorical": Case(
        categorical, {"log_posterior": t(0.5, -0.5), "stream_logits": t([[0.1, 0.2, 0.3], [1.0, 0.0, -1.0]])},
        (("log_posterior", NAN), ("stream_logits", NAN)), (-1, 3), values=torch.arange(3),
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", list(CASES))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def draw(law: Any, n: tuple[int, ...] = ()) -> Tensor:
    """What the law draws; a `PreSampled` holds one draw only, more come from its base."""
    drawn: Tensor = law.base.sample(n) if isinstance(law, PreSampled) and n else law.sample(n)
    return drawn.detach()


def test_every_public_distribution_has_a_case() -> None:
    found = set()
    for module in pkgutil.walk_packages(phlogiston.distributions.__path__, "phlogiston.distributions."):
        for name, value in vars(importlib.import_module(module.name)).items():
            ours = inspect.isclass(value) and value.__module__ == module.name
            if ours and issubclass(value, torch.distributions.Distribution) and not name.startswith("_"):
                found.add(name)
    assert found - {"Mixture", "JointMixture", "MaskedReals"} == set(CASES), (
        "abstract classes apart, each needs an entry in CASES"
    )


@EVERY
def test_impossible_parameters_are_refused_with_validation_on(name: str) -> None:
    case = CASES[name]
    case(True)
    for parameter, bad in case.wrong:
        with pytest.raises(ValueError, match=r"."):
            case(True, **{parameter: torch.full_like(case.parameters[parameter], bad)})


@EVERY
def test_impossible_values_are_refused_with_validation_on_and_have_no_density_without(name: str) -> None:
    case = CASES[name]
    law, free = case(True), case(False)
    value = draw(law)
    shape = value.shape
    law.log_prob(value)
    for bad in case.impossible:
        if math.isnan(bad) and not value.is_floating_point():
            continue
        wrong = torch.full(shape, bad, dtype=torch.double if bad != int(0 if math.isnan(bad) else bad) else value.dtype)
        for check in (law, law.expand((2, *law.batch_shape))):
            with pytest.raises(ValueError, match=r"."):
                check.log_prob(wrong)
        if math.isfinite(bad) and bad == int(bad) and name not in ("PathPrior", "PathPosterior", "MixtureCategorical"):
            assert (free.log_prob(wrong) == -math.inf).all()
    if law.event_shape:
        with pytest.raises(ValueError, match=r"."):
            law.log_prob(torch.zeros(*shape[:-1], shape[-1] + 1, dtype=value.dtype))


@EVERY
def test_probability_sums_or_integrates_to_one(name: str) -> None:
    case = CASES[name]
    law = case(False)
    if case.values is not None:
        assert float(law.log_prob(case.values).detach().exp().sum()) == pytest.approx(1.0, abs=1e-6)
        return
    drawn = draw(law, (20_000,))
    counted = torch.ones(law.event_shape, dtype=torch.bool) if case.counted is None else case.counted
    columns = drawn[:, counted].clone()
    positive = (columns > 0).all(0) & (name == "Warped")
    columns = torch.where(positive, columns.abs().log(), columns)
    columns = columns.reshape(len(columns), -1)
    covariance = 1.5 * torch.atleast_2d(columns.T.cov())
    proposal = torch.distributions.MultivariateNormal(columns.mean(0), covariance)
    points = proposal.sample((len(columns),))
    log_q = proposal.log_prob(points) - (points * positive).sum(-1)
    points = torch.where(positive, points.exp(), points)
    value = drawn.clone()
    value[:, counted] = points.reshape(value[:, counted].shape)
    weight = (law.log_prob(value).detach() - log_q).exp()
    # importance sampling: a wrong constant of 5 % fails, a right density once in a million seeds
    assert float(weight.mean()) == pytest.approx(1.0, abs=5 * float(weight.std()) / math.sqrt(len(weight)))
    assert float(weight.std()) / math.sqrt(len(weight)) < 0.02


@EVERY
def test_moments_are_those_of_the_draws_or_are_refused(name: str) -> None:
    law = CASES[name](True)
    n = 40_000
    drawn = draw(law, (n,)).double()
    for moment, seen, error in (
        ("mean", drawn.mean(0), drawn.std(0) / math.sqrt(n)),
        ("variance", drawn.var(0), ((drawn - drawn.mean(0)) ** 2).std(0) / math.sqrt(n)),
    ):
        try:
            told = getattr(law, moment)
        except NotImplementedError:
            continue
        if torch.isnan(told).all():  # torch's categorical has no mean, and says so
            continue
        assert told.shape == law.batch_shape + law.event_shape
        assert ((told - seen).abs() <= 5.5 * error + 1e-9).all(), moment


@EVERY
def test_a_batch_of_any_one_parameter_is_a_batch_of_distributions(name: str) -> None:
    case = CASES[name]
    plain = case(True)
    value = draw(plain)
    for parameter in case.batched:
        given = case.parameters[parameter]
        law = case(True, **{parameter: given.expand(3, *given.shape)})
        assert law.batch_shape == (3,), parameter
        assert law.log_prob(value).shape == (3,), parameter
        torch.testing.assert_close(law.log_prob(value), plain.log_prob(value).expand(3))
        assert draw(law, (4,)).shape == (4, 3, *plain.event_shape), parameter
        assert law.log_prob(draw(law, (4,))).shape == (4, 3), parameter


@EVERY
def test_expanding_keeps_values_validation_and_shapes(name: str) -> None:
    case = CASES[name]
    plain = case(True)
    value = draw(plain)
    for validate in (True, False):
        for shape in ((3,), (2, 3), (0,)):
            if validate and shape == (0,):  # torch's own constraints cannot check events of an empty batch
                continue
            law = case(validate).expand(shape)
            assert type(law) is type(plain)
            assert law._validate_args is validate
            assert law.batch_shape == shape
            assert law.event_shape == plain.event_shape
            torch.testing.assert_close(law.log_prob(value), plain.log_prob(value).expand(shape))
            count: tuple[int, ...] = () if name == "PreSampled" else (4,)
            drawn = draw(law, count)
            assert drawn.shape == (*count, *shape, *plain.event_shape)
            assert law.log_prob(drawn).shape == (*count, *shape)


@EVERY
def test_copies_and_pickles_have_the_same_density(name: str) -> None:
    law = CASES[name](True)
    value = law.rsample() if law.has_rsample else draw(law)  # what a draw leaves behind must not be in the way
    copies = [copy.deepcopy(law), copy.copy(law)]
    if name not in ("MaskedNormal",):  # its case is a lambda's; the class itself is pickled below
        copies.append(pickle.loads(pickle.dumps(law)))
    for other in copies:
        assert torch.equal(other.log_prob(value), law.log_prob(value))


@EVERY
def test_draws_have_the_dtype_of_the_parameters_and_no_gradient(name: str) -> None:
    case = CASES[name]
    if name in ("PathPrior", "PathPosterior", "PathMixture", "ResidualNormal", "MixtureCategorical", "StickCount"):
        return
    for dtype in (torch.float32, torch.float64):
        asked = {k: v.clone().to(dtype).requires_grad_() for k, v in case.parameters.items() if v.is_floating_point()}
        law = case(True, dtype, **asked)
        drawn = draw(law)
        assert drawn.dtype == dtype
        assert not drawn.requires_grad
        assert law.log_prob(drawn).dtype == dtype


@EVERY
def test_single_precision_gives_the_densities_of_double(name: str) -> None:
    case = CASES[name]
    if name in ("PathMixture", "PathPrior", "ResidualNormal"):  # made of modules, which have a dtype of their own
        return
    value = draw(case(True), () if name == "PreSampled" else (50,))
    single = case(True, torch.float32).log_prob(value.float() if value.is_floating_point() else value)
    finite = case(True).log_prob(value.float().double() if value.is_floating_point() else value)
    torch.testing.assert_close(single.double(), finite, atol=1e-4, rtol=1e-4)


@EVERY
def test_rsample_carries_the_gradients_that_finite_differences_see(name: str) -> None:
    case = CASES[name]
    law = case(True)
    if not law.has_rsample:
        with pytest.raises(NotImplementedError):
            law.rsample()
        return
    masked = {k for k, v in case.parameters.items() if v.is_floating_point() and torch.isnan(v).any()}
    for parameter, given in case.parameters.items():
        if not given.is_floating_point() or parameter in case.no_gradient:
            continue
        asked = given.clone().requires_grad_()
        torch.manual_seed(1)
        case(False, **{parameter: asked}).rsample().sum().backward()
        assert asked.grad is not None, parameter
        if parameter in masked:
            assert torch.isfinite(asked.grad).all()
            continue
        for index in range(given.numel()):
            ends = []
            for step in (1e-6, -1e-6):
                moved = given.clone()
                moved.view(-1)[index] += step
                torch.manual_seed(1)
                ends.append(float(case(False, **{parameter: moved}).rsample().sum()))
            slope = (ends[0] - ends[1]) / 2e-6
            assert float(asked.grad.reshape(-1)[index]) == pytest.approx(slope, rel=1e-5, abs=1e-6), parameter


@EVERY
def test_quantiles_invert_the_cdf(name: str) -> None:
    law = CASES[name](True)
    u = torch.tensor([0.001, 0.2, 0.5, 0.9, 0.999], dtype=torch.double)
    u = u.reshape(-1, *(1,) * len(law.event_shape)).expand(5, *law.batch_shape, *law.event_shape)
    try:
        x = law.icdf(u)
    except NotImplementedError:
        return
    torch.testing.assert_close(law.cdf(x), u, atol=1e-9, rtol=0)
    assert torch.isnan(law.icdf(u + 1.0)).all()


@EVERY
def test_the_entropy_is_the_mean_surprise(name: str) -> None:
    law = CASES[name](True)
    try:
        told = float(law.entropy())
    except NotImplementedError:
        return
    surprise = -law.log_prob(draw(law, (20_000,)))
    assert told == pytest.approx(float(surprise.mean()), abs=5.5 * float(surprise.std()) / math.sqrt(20_000))
