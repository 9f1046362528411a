"""Every objective refuses, before the first step and by the site's name, the pairs it would get wrong."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer as infer
import pyro.optim
import pytest
import torch
from inference_pairs import GlobalGuide, GlobalMean, Mixture, MixtureGuide, flat, pair, rows
from pyro.contrib.gp.kernels import RBF
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.inference import Stage, fit
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.pair import validity


def name_of(objective: object) -> str:
    """A name that is the same in every process, as parallel test runs need."""
    return objective if isinstance(objective, str) else type(objective).__name__


def train(model: nn.Module, guide: nn.Module | None, data: Any, objective: Any, steps: int = 1) -> Any:
    return fit(model, guide, data, stages=Stage("a", steps, objective=objective, batch_size=16), progress="off")


FREE = objectives.make("free_bits", nats=0.0)
DISCRETE = {
    "elbo": True, "enum": True, "vimco": True, "mean_field": False, "free_bits": False, "iwae": False,
}  # fmt: skip
FOREIGN = [
    (infer.Trace_ELBO(), True),
    (infer.TraceGraph_ELBO(), True),
    (infer.TraceEnum_ELBO(), True),
    (infer.TraceMeanField_ELBO(), False),
    (infer.RenyiELBO(), False),
    (infer.Trace_MMD(RBF(1), num_particles=2), False),
    (FREE, False),
]


def test_the_table_speaks_of_every_objective_there_is() -> None:
    assert sorted(DISCRETE) == objectives.names()
    assert all(validity.rule_of(name) is not None for name in objectives.names())
    for name, valid in DISCRETE.items():
        rule = validity.rule_of(name)
        assert rule is not None
        assert rule.sampled is valid


@pytest.mark.parametrize(
    ("objective", "valid"),
    [*DISCRETE.items(), *FOREIGN],
    ids=name_of,
)
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_a_discrete_guide_is_trained_or_refused_by_its_site(objective: Any, valid: bool) -> None:
    model, guide = pair("sampled")
    before = flat(model, guide)
    if valid:
        train(model, guide, rows("sampled"), objective)
        assert not torch.equal(flat(model, guide), before)
        return
    with pytest.raises(ConfigError, match=r"reparameterised guide sites; 'k' is a Categorical"):
        train(model, guide, rows("sampled"), objective)
    assert torch.equal(flat(model, guide), before)


class Pair(nn.Module):
    """Sites drawn in a given order; those named in `observed` get their value."""

    def __init__(self, names: str, **options: Any) -> None:
        super().__init__()
        self.names, self.options = names, options
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for name in self.names:
                infer = self.options.get(name, {})
                obs = x if name == "x" and infer is not NOT_OBSERVED else None
                pyro.sample(name, dist.Normal(self.loc, 1.0), obs=obs, infer=infer)


NOT_OBSERVED: dict[str, Any] = {}
DATA = {"x": torch.linspace(-1.0, 1.0, 16)}


@pytest.mark.parametrize("objective", ["elbo", "mean_field", "enum", "iwae", "vimco", "free_bits"])
def test_sites_of_one_program_only_are_refused(objective: Any) -> None:
    with pytest.raises(ConfigError, match=r"the guide has no site 'b', which the model draws"):
        train(Pair("abx"), Pair("a"), DATA, objective)
    with pytest.raises(ConfigError, match=r"the guide has no site 'a'"):
        train(Pair("ax"), None, DATA, objective)
    with pytest.raises(ConfigError, match=r"the model has no site 'c', which the guide draws"):
        train(Pair("ax"), Pair("ac"), DATA, objective)
    drawing = Pair("ax", x=NOT_OBSERVED)
    with pytest.raises(ConfigError, match=r"the guide draws 'x', which the model observes"):
        train(Pair("ax"), drawing, DATA, objective)


def test_auxiliary_sites_and_sites_to_sum_out_need_no_counterpart() -> None:
    train(Pair("ax"), Pair("ca", c={"is_auxiliary": True}), DATA, "elbo")
    model = Mixture()
    with pytest.raises(ConfigError, match="Draw 'k' in the guide"):
        train(model, None, rows("sampled"), "enum")
    marked = infer.config_enumerate(model.forward)
    model.forward = marked  # type: ignore[method-assign]
    train(model, None, rows("sampled"), "enum")
    with pytest.raises(ConfigError, match=r"'k' is marked for enumeration.*Use objective 'enum'"):
        train(model, None, rows("sampled"), "elbo")
    with pytest.raises(ConfigError, match="vimco draws every site; 'k' is marked"):
        train(Mixture(), MixtureGuide(enumerated=True), rows("sampled"), "vimco")
    model.forward = infer.config_enumerate(Mixture().forward, "sequential")  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="sequential enumeration"):
        train(model, None, rows("sampled"), "enum")


@pytest.mark.parametrize("objective", ["mean_field", FREE, infer.TraceMeanField_ELBO()], ids=name_of)
def test_closed_divergences_need_one_order_of_sites(objective: Any) -> None:
    train(Pair("abx"), Pair("ab"), DATA, objective)
    with pytest.raises(ConfigError, match="the guide draws 'b' where the model draws 'a'"):
        train(Pair("abx"), Pair("ba"), DATA, objective)


def test_iwae_refuses_global_sites_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match="the latent site 'm' lies outside the plate"):
        train(GlobalMean(), GlobalGuide(point=False), rows("global"), "iwae")
    train(GlobalMean(), GlobalGuide(point=False), rows("global"), "vimco")


class NoPlateForData(nn.Module):
    """z in the plate, x beside it: its batch axis has no plate."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, self.scale.exp()), obs=x)


class LocalGuide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x[:, None])[:, 0], self.log_scale.exp()))


PARTICLES = [objectives.make(name, num_particles=16, vectorize_particles=True) for name in ("elbo", "mean_field")]


@pytest.mark.parametrize(
    "objective",
    [
        *objectives.names(),
        *PARTICLES,  # as many particles as rows
        infer.RenyiELBO(num_particles=16, vectorize_particles=True),
        infer.TraceGraph_ELBO(),
    ],
    ids=name_of,
)
def test_a_batch_axis_without_a_plate_is_refused_by_the_site(objective: Any) -> None:
    with pytest.raises(ConfigError, match=r"site 'x' of the model: its log-density has shape \(16,\)"):
        train(NoPlateForData(), LocalGuide(), DATA, objective)


def test_an_axis_left_of_the_plate_is_refused_even_where_it_is_as_long_as_the_particles_are_many() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z + torch.zeros(8, 1), self.scale.exp()), obs=x)

    for objective in ("vimco", "iwae"):
        with pytest.raises(ConfigError, match=r"site 'x' of the model: its log-density has shape \(8, 16\)"):
            train(Wide(), LocalGuide(), DATA, objectives.make(objective, num_particles=8))


class Regression(nn.Module):
    """w ~ N(0, I); y ~ N(x . w, 1): right for one particle; for many only where `well`."""

    def __init__(self, well: bool) -> None:
        super().__init__()
        self.well = well
        self.scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = (x * w).sum(-1) if self.well else (x @ w.unsqueeze(-1)).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, self.scale.exp()), obs=y)


class WeightGuide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, y: Tensor) -> None:
        pyro.sample("w", dist.Normal(self.loc, 0.5).to_event(1))


@pytest.mark.parametrize("objective", ["vimco", *PARTICLES], ids=name_of)
def test_a_program_that_mixes_particles_with_rows_is_refused_by_the_site(objective: Any) -> None:
    data = {"x": torch.randn(10, 2, generator=torch.Generator().manual_seed(5)), "y": torch.linspace(-1.0, 1.0, 10)}
    train(Regression(well=True), WeightGuide(), data, objective)
    train(Regression(well=False), WeightGuide(), data, "elbo")  # one particle: right
    with pytest.raises(ConfigError, match=r"site 'y' of the model: with 3 particles at once"):
        train(Regression(well=False), WeightGuide(), data, objective)


def test_iwae_refuses_a_site_outside_the_plate_that_depends_on_what_is_inside() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, self.scale.exp()))
            pyro.sample("total", dist.Normal(z.sum(-1, keepdim=z.dim() > 1), 1.0), obs=x.sum())

    with pytest.raises(ConfigError, match=r"'total' lies outside the plate 'data' and depends on what lies inside"):
        train(Sum(), LocalGuide(), DATA, "iwae")


REFUSED = [
    (infer.JitTrace_ELBO(), r"JitTrace_ELBO.*Use Trace_ELBO"),
    (infer.JitTraceEnum_ELBO(), "Use TraceEnum_ELBO"),
    (infer.JitTraceGraph_ELBO(), "Use TraceGraph_ELBO"),
    (infer.JitTraceMeanField_ELBO(), "Use TraceMeanField_ELBO"),
    (infer.ReweightedWakeSleep(), "two losses.*'vimco'"),
    (infer.TraceTailAdaptive_ELBO(), "reports no loss"),
    (infer.EnergyDistance(), "no sum over data points"),
    (infer.SVGD(lambda: None, infer.RBFSteinKernel(), pyro.optim.Adam({}), 2, 1), "step()"),
    (infer.Trace_ELBO, r"give an instance, Trace_ELBO\(\)"),
]


@pytest.mark.parametrize(("objective", "reason"), REFUSED, ids=lambda value: type(value).__name__)
def test_what_the_engine_cannot_train_with_is_refused_in_one_line(objective: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        Stage("a", 1, objective=objective)
    assert "\n" not in str(caught.value)


def test_an_elbo_without_any_loss_is_refused() -> None:
    class Bare(infer.ELBO):
        def _get_trace(self, *args: Any) -> None:
            """Trace nothing."""

    with pytest.raises(ConfigError, match="neither differentiable_loss"):
        objectives.bind(Bare(), *pair())


def test_a_later_stage_is_refused_before_the_first_one_has_run() -> None:
    model, guide = pair("sampled")
    before = flat(model, guide)
    stages = [Stage("first", 5), Stage("second", 5, objective="iwae")]
    with pytest.raises(ConfigError, match=r"stage 'second': objective 'iwae' needs reparameterised"):
        fit(model, guide, rows("sampled"), stages=stages, progress="off")
    assert torch.equal(flat(model, guide), before)


def test_a_sampler_with_rejections_is_not_fully_reparameterised() -> None:
    class Partly(dist.Gamma):  # type: ignore[misc]
        def score_parts(self, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            log_prob = self.log_prob(value)
            return dist.score_parts.ScoreParts(log_prob, log_prob, log_prob)

    class Guide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", Partly(1.0, self.rate.exp()))

    model = NoPlateForData()
    model.forward = Pair("zx").forward  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="'z' is a Partly"):
        train(model, Guide(), DATA, "mean_field")


def test_callables_are_taken_as_they_are() -> None:
    class Loss(nn.Module):
        def __init__(self, model: nn.Module, guide: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            shifted = (x + self.model.loc).requires_grad_()
            (slope,) = torch.autograd.grad(shifted.square().sum(), shifted, create_graph=True)
            return slope.square().sum()

    stage = Stage("a", 2, objective=Loss)
    history = fit(Pair("ab"), None, DATA, stages=stage, valid=DATA, progress="off")  # validated with gradients on
    assert history.finished


def test_training_needs_no_leave_of_the_caller_to_take_gradients() -> None:
    ends = []
    for enabled in (True, False):
        model, guide = pair()
        with torch.set_grad_enabled(enabled):
            train(model, guide, rows(), "elbo", steps=3)
            assert torch.is_grad_enabled() is enabled
        ends.append(flat(model, guide))
    assert torch.equal(*ends)
