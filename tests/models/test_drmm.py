"""The deep residual mixture as mathematics: every way of summing the tuples agrees, and densities integrate to one."""

from __future__ import annotations

import itertools
import math

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate, infer_discrete
from torch import Tensor

from phlogiston.errors import ConfigError, PhlogistonError, ShapeError
from phlogiston.models.drmm import DRMM, CollapsedDRMM
from phlogiston.models.path_table import even_grid, pick

FRAMES = ["shift", "iso", "diag", "tril", "lowrank"]
PRIORS = ["autoregressive", "latent_class"]


def make(frame: str = "tril", prior: str = "autoregressive", sizes: tuple[int, ...] = (3, 4, 2), **options) -> DRMM:
    """A small model with parameters far from any special value."""
    torch.manual_seed(3)
    model = DRMM(2, len(sizes), sizes, frame, prior, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.location.copy_(torch.tensor([0.5, -1.0]))
        model.scale.copy_(torch.tensor([2.0, 0.5]))
    return model


@torch.no_grad()
def brute_force(model: DRMM, x: Tensor, mask: Tensor | None = None, depth: int | None = None) -> Tensor:
    """Log p(x) from first principles: a loop over tuples, covariances multiplied out, sub-blocks where known."""
    depth = depth or model.num_layers
    out = []
    for n, row in enumerate(x.double()):
        known = torch.ones(2, dtype=torch.bool) if mask is None else mask[n]
        terms = []
        for codes in itertools.product(*(range(k) for k in model.sizes[:depth])):
            log_prior, mean, factor = 0.0, torch.zeros(2, dtype=torch.double), torch.eye(2, dtype=torch.double)
            for l, code in enumerate(codes):
                prefix = torch.tensor(codes[:l], dtype=torch.long)
                log_prior += float(model.prior.log_conditional(prefix)[code])
                layer = model.layers[l]
                t = layer.factors()[code].double()
                mean = mean + factor @ layer.mean[code].double()
                factor = factor @ (t if t.dim() == 2 else torch.diag(t))
            if hasattr(model.layers[depth - 1], "noise_log_scale"):
                factor = factor * float(model.layers[depth - 1].noise_log_scale().exp())
            mean = model.location.double() + model.scale.double() * mean
            factor = model.scale.double().unsqueeze(-1) * factor
            covariance = (factor @ factor.T)[known][:, known]
            gap = (row - mean)[known]
            quadratic = gap @ torch.linalg.solve(covariance, gap) if known.any() else torch.zeros(())
            log_det = torch.logdet(covariance) if known.any() else 0.0
            terms.append(log_prior - 0.5 * (quadratic + log_det + int(known.sum()) * math.log(2 * math.pi)))
        out.append(torch.logsumexp(torch.stack([torch.as_tensor(t, dtype=torch.double) for t in terms]), 0))
    return torch.stack(out)


def exact(model: DRMM, x: Tensor, mask: Tensor | None = None, depth: int | None = None) -> Tensor:
    return model.find(x, mask=mask, depth=depth).nested[:, -1] + model.log_jacobian(mask)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("prior", PRIORS)
def test_the_sum_over_all_tuples_equals_brute_force_at_every_depth(frame: str, prior: str) -> None:
    model, x = make(frame, prior), torch.randn(5, 2)
    for depth in (1, 2, 3):
        found = exact(model, x, depth=depth)
        torch.testing.assert_close(found.double(), brute_force(model, x, depth=depth), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("holes", [False, True])
def test_enumerated_pyro_form_collapsed_density_and_brute_force_agree(frame: str, prior: str, holes: bool) -> None:
    model = make(frame, prior)
    x = torch.randn(6, 2)
    mask = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1], [1, 0]], dtype=torch.bool) if holes else None
    enumerated = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, lambda **batch: None, x=x, mask=mask)
    collapsed = Trace_ELBO().differentiable_loss(CollapsedDRMM(model, None), lambda **batch: None, x=x, mask=mask)
    truth = -brute_force(model, x, mask).sum()
    torch.testing.assert_close(enumerated.double(), truth, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(collapsed.double(), truth, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("frame", FRAMES)
def test_gradients_of_the_collapsed_density_equal_those_of_the_enumerated_form(frame: str) -> None:
    model = make(frame, categorical={"label": 3})
    batch = {"x": torch.randn(6, 2), "label": torch.tensor([0, 1, 2, -1, 0, -1])}
    gradients = []
    for loss in (
        TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, lambda **b: None, **batch),
        Trace_ELBO().differentiable_loss(CollapsedDRMM(model, None), lambda **b: None, **batch),
    ):
        model.zero_grad()
        loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    enumerated, collapsed = gradients
    for name in collapsed:  # the shift frame's recognition scales take part in the search, not in the exact sum
        torch.testing.assert_close(
            collapsed[name], enumerated.get(name, torch.zeros_like(collapsed[name])), atol=2e-5, rtol=2e-4
        )
    assert enumerated.keys() <= collapsed.keys()


def test_gradients_of_the_density_agree_with_finite_differences() -> None:
    model = make("tril").double()
    x = torch.randn(3, 2, dtype=torch.double)
    names = [n for n, _ in model.named_parameters() if "layers.0" in n or "prior.tables" in n]
    parameters = dict(model.named_parameters())

    def density(*values: Tensor) -> Tensor:
        swapped = dict(zip(names, values, strict=True))
        return torch.func.functional_call(_Density(model), {f"model.{n}": v for n, v in swapped.items()}, (x,))

    inputs = tuple(parameters[n].detach().clone().requires_grad_() for n in names)
    assert torch.autograd.gradcheck(density, inputs, atol=1e-6)


class _Density(torch.nn.Module):
    def __init__(self, model: DRMM) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return exact(self.model, x)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_density_integrates_to_one_at_every_depth(frame: str, depth: int) -> None:
    model = make(frame)
    with torch.no_grad():  # keep every Gaussian wider than the grid's step
        for layer in model.layers:
            layer.log_scale.clamp_(-0.4, 0.4)
    side = torch.linspace(-30, 30, 500)
    grid = torch.cartesian_prod(side, side * 0.5)
    cell = float((side[1] - side[0]) ** 2) * 0.5
    with torch.no_grad():
        total = sum(exact(model, part, depth=depth).double().exp().sum() for part in grid.split(50_000)) * cell
    assert float(total) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("frame", FRAMES)
def test_missing_value_marginals_equal_the_integral_of_the_joint(frame: str) -> None:
    model, x = make(frame), torch.randn(4, 2)
    with torch.no_grad():
        for layer in model.layers:
            layer.log_scale.clamp_(-0.4, 0.4)
    mask = torch.tensor([[True, False]]).expand(4, 2)
    side = torch.linspace(-20, 20, 4001)
    with torch.no_grad():
        for row, marginal in zip(x, exact(model, x, mask), strict=True):
            line = torch.stack([row[0].expand_as(side), side], -1)
            integral = exact(model, line).double().exp().sum() * (side[1] - side[0])
            assert float(integral.log()) == pytest.approx(float(marginal), abs=1e-3)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_beam_is_a_lower_bound_that_rises_to_the_exact_value(frame: str) -> None:
    model, x = make(frame), torch.randn(40, 2)
    bounds = [model.find(x, width=w).nested[:, -1] for w in (1, 3, 6, 12)]
    truth = model.find(x).nested[:, -1]
    for bound in bounds:
        assert (bound <= truth + 1e-5).all()
    assert bounds[0].mean() < bounds[1].mean() < truth.mean() - 1e-4
    torch.testing.assert_close(bounds[-1], truth)  # 12 = 3 * 4 prefixes: nothing is dropped


@given(st.integers(1, 30), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_permuting_rows_permutes_scores_and_batching_changes_nothing(n: int, seed: int) -> None:
    model = make("tril")
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator)
    mask = torch.rand(n, 2, generator=generator) > 0.3
    order = torch.randperm(n, generator=generator)
    whole = model.find(x, width=3, mask=mask).nested
    torch.testing.assert_close(model.find(x[order], width=3, mask=mask[order]).nested, whole[order])
    single = torch.cat([model.find(x[i : i + 1], width=3, mask=mask[i : i + 1]).nested for i in range(n)])
    torch.testing.assert_close(single, whole, atol=1e-5, rtol=1e-5)


def test_unknown_entries_do_not_matter() -> None:
    for frame in FRAMES:
        model, x = make(frame), torch.randn(8, 2)
        mask = torch.rand(8, 2) > 0.5
        other = torch.where(mask, x, torch.full_like(x, 1e3))
        torch.testing.assert_close(exact(model, x, mask), exact(model, other, mask))


def test_labels_sum_to_one_and_a_missing_label_is_summed_out() -> None:
    model = make("diag", categorical={"label": 3, "sex": 2})
    x = torch.randn(5, 2)

    def joint(label: int, sex: int) -> Tensor:
        batch = {"label": torch.full((5,), label), "sex": torch.full((5,), sex)}
        beam = model.find(x, streams=batch)
        return beam.nested[:, -1] + sum(part[:, -1] for part in beam.nested_streams.values())

    total = torch.stack([joint(a, b) for a in range(3) for b in range(2)]).logsumexp(0)
    torch.testing.assert_close(total, model.find(x).nested[:, -1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(joint(-1, 1), torch.stack([joint(a, 1) for a in range(3)]).logsumexp(0))
    torch.testing.assert_close(joint(-1, -1), model.find(x).nested[:, -1])


@pytest.mark.parametrize("prior", PRIORS)
def test_the_tuple_prior_is_normalised_and_its_sampler_matches_it(prior: str) -> None:
    model = make("iso", prior).requires_grad_(False)
    codes, log_prior, _, _ = model.paths()
    assert float(log_prior.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    drawn = model.draw_paths(20_000)
    slot = (drawn * torch.tensor([8, 2, 1])).sum(-1)
    share = torch.bincount(slot, minlength=len(codes)) / len(drawn)
    error = (log_prior.exp() * (1 - log_prior.exp()) / len(drawn)).sqrt()
    # 24 cells, 5 standard errors: fails by chance less than once in 50,000 runs
    assert ((share - log_prior.exp()).abs() <= 5 * error + 1e-6).all()


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("table", [False, True])
def test_the_sampler_has_the_moments_of_the_density(frame: str, table: bool) -> None:
    model = make(frame).requires_grad_(False)
    _, log_prior, means, factors = model.paths()
    weight = log_prior.exp().double()
    covariance = (
        factors.double() @ factors.double().mT if factors.dim() == 3 else torch.diag_embed(factors.double() ** 2)
    )
    mean = weight @ means.double()
    gap = means.double() - mean
    second = torch.einsum("p,pde->de", weight, covariance) + torch.einsum("p,pd,pe->de", weight, gap, gap)
    n = 60_000
    rows = model.generate(n)[1] if table else model.draw(model.draw_paths(n))
    drawn = ((rows - model.location) / model.scale).double()
    spread = second.diagonal().sqrt()
    assert ((drawn.mean(0) - mean).abs() < 5 * spread / math.sqrt(n)).all()
    assert torch.allclose(drawn.T.cov(), second, atol=0.06 * float(second.diagonal().max()))


def test_the_samplers_table_follows_the_parameters() -> None:
    model = make("tril")
    before = model.generate(2000)[1].mean(0)
    with torch.no_grad():
        model.layers[0].mean.add_(100.0)
    after = model.generate(2000)[1].mean(0)
    torch.testing.assert_close(after - before, 100.0 * model.scale, atol=2.0, rtol=0.02)
    model.location.add_(50.0)
    assert (model.generate(2000)[1].mean(0) - after > 40).all()


def test_one_program_generates_scores_and_conditions_through_pyros_own_handlers() -> None:
    model = make("diag", categorical={"label": 3})
    drawn = Predictive(model, num_samples=7)(num_rows=4)
    assert drawn["x"].shape == (7, 4, 2)
    assert drawn["label"].shape == (7, 4)
    trace = poutine.trace(pyro.condition(model, {"z": torch.zeros(4, 3, dtype=torch.long)})).get_trace(num_rows=4)
    trace.compute_log_prob()
    assert (trace.nodes["z"]["value"] == 0).all()
    assert torch.isfinite(trace.log_prob_sum())


def test_infer_discrete_finds_the_most_probable_tuple() -> None:
    model = make("diag", sites="layers")  # Pyro's sampler wants scalar sites
    x = torch.randn(6, 2)
    found = infer_discrete(config_enumerate(model), first_available_dim=-2, temperature=0)
    nodes = poutine.trace(found).get_trace(x=x).nodes
    beam = model.find(x)
    best = beam.codes[torch.arange(6), beam.log_joint.argmax(-1)]
    assert torch.equal(torch.stack([nodes[f"z_{l}"]["value"].flatten() for l in (1, 2, 3)], -1), best)


def test_the_collapsed_program_generates_rows_and_labels() -> None:
    model = make("diag", categorical={"label": 3})
    trace = poutine.trace(CollapsedDRMM(model, None)).get_trace(num_rows=5)
    assert trace.nodes["x"]["value"].shape == (5, 2)
    assert trace.nodes["label"]["value"].shape == (5,)


def test_row_weights_scale_rows() -> None:
    model = make("tril")
    x, weight = torch.randn(4, 2), torch.tensor([0.0, 1.0, 2.0, 0.5])
    loss = Trace_ELBO().differentiable_loss(CollapsedDRMM(model, None), lambda **b: None, x=x, weight=weight)
    torch.testing.assert_close(loss, -(weight * exact(model, x)).sum())


def test_tril_at_depth_one_is_the_full_covariance_mixture_of_scikit_learn() -> None:
    from sklearn.mixture import GaussianMixture

    x = torch.randn(400, 2) * torch.tensor([1.0, 3.0])
    mixture = GaussianMixture(4, random_state=0).fit(x.numpy())
    model = DRMM(2, 1, 4, "tril")
    model.layers[0].place(
        torch.tensor(mixture.means_, dtype=torch.float), torch.tensor(mixture.covariances_, dtype=torch.float)
    )
    with torch.no_grad():
        model.prior.bias[0].copy_(torch.tensor(mixture.weights_).log())
    expected = torch.tensor(mixture.score_samples(x.numpy()), dtype=torch.float)
    torch.testing.assert_close(exact(model, x), expected, atol=1e-4, rtol=1e-4)


def test_the_prior_order_limits_what_a_layer_looks_at() -> None:
    model = DRMM(2, 4, 3, "iso", prior_order=1)
    assert set(model.prior.tables) == {"1_0", "2_1", "3_2"}
    codes = torch.tensor([[0, 1, 2], [2, 1, 2]])
    torch.testing.assert_close(*model.prior.log_conditional(codes).unbind(0))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"frame": "trill"}, ConfigError, "tril"),
        ({"prior": "auto"}, ConfigError, "autoregressive"),
        ({"num_layers": 0}, ConfigError, "num_layers=0"),
        ({"num_components": [2, 3]}, ConfigError, "num_components"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, error: type[PhlogistonError], words: str) -> None:
    with pytest.raises(error, match=words):
        DRMM(2, **{"num_layers": 3, **options})


def test_rows_and_labels_of_different_length_are_refused() -> None:
    with pytest.raises(ShapeError, match="same number of rows"):
        make(categorical={"label": 3})(x=torch.randn(4, 2), label=torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
def test_paths_are_picked_as_by_a_search(spread: float) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        logits = spread * torch.randn(1 + 7 * seed, generator=generator, dtype=torch.float64)
        ends = logits.softmax(0).cumsum(0)
        ends[-1] = 1.0
        uniform = torch.rand(500, generator=generator, dtype=torch.float64)
        uniform[:2] = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
        for grid in (even_grid(ends), None):
            assert torch.equal(pick(ends, grid, uniform), torch.searchsorted(ends, uniform))


@pytest.mark.parametrize("frame", ["diag", "tril"])
def test_samples_from_the_table_have_the_moments_of_the_mixture(frame: str) -> None:
    torch.manual_seed(0)
    model = DRMM(3, 2, 4, frame)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    _, log_prior, means, factors = model.paths()
    covariances = factors @ factors.mT if factors.dim() == 3 else torch.diag_embed(factors.square())
    mean = log_prior.exp() @ means
    second = torch.einsum("p,pde->de", log_prior.exp(), covariances + means.unsqueeze(2) * means.unsqueeze(1))
    _, x = model.generate(200_000)
    x = x.to(mean)
    close = {"rtol": 0.03, "atol": 0.05}
    torch.testing.assert_close(x.mean(0), mean, **close)
    torch.testing.assert_close(x.T @ x / len(x), second, **close)
