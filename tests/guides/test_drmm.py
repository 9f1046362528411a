"""Guides match their model site for site, and their bounds are what they claim."""

from __future__ import annotations

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.poutine import trace
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match
from torch import Tensor

from phlogiston.errors import ConfigError
from phlogiston.guides.drmm import AutoregressiveGuide, BeamGuide, ExactGuide
from phlogiston.models.drmm import DRMM, CollapsedDRMM


def make(sites: str = "path", frame: str = "tril") -> DRMM:
    torch.manual_seed(5)
    model = DRMM(2, 3, 4, frame, categorical={"label": 3}, sites=sites)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return {"x": torch.randn(6, 2), "label": torch.tensor([0, 1, 2, -1, 0, -1])}


def test_guides_match_their_models_site_for_site(batch: dict[str, Tensor]) -> None:
    for model, guide in (
        (m := make("path"), BeamGuide(m, 3)),
        (m := make("layers"), AutoregressiveGuide(m)),
    ):
        guide_trace = prune_subsample_sites(trace(guide).get_trace(**batch))
        from pyro.poutine import replay

        model_trace = prune_subsample_sites(trace(replay(model, guide_trace)).get_trace(**batch))
        check_model_guide_match(model_trace, guide_trace, max_plate_nesting=1)
        assert set(guide_trace.stochastic_nodes) == set(model_trace.stochastic_nodes)


@pytest.mark.parametrize("frame", ["shift", "iso", "diag", "tril"])
def test_the_beam_guide_gives_the_summed_beam_and_equals_the_exact_value_when_it_holds_every_tuple(
    frame: str, batch: dict[str, Tensor]
) -> None:
    model = make(frame=frame)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    exact = elbo.differentiable_loss(model, ExactGuide(model), **batch)
    for width in (1, 3, 16):
        bound = elbo.differentiable_loss(model, BeamGuide(model, width), **batch)
        collapsed = Trace_ELBO().differentiable_loss(CollapsedDRMM(model, width), lambda **b: None, **batch)
        torch.testing.assert_close(bound, collapsed, atol=1e-4, rtol=1e-5)
        assert bound >= exact - 1e-4
    torch.testing.assert_close(bound, exact, atol=1e-4, rtol=1e-5)  # 16 prefixes of two layers: all of them


def test_gradients_through_the_beam_guide_equal_those_of_the_collapsed_program(batch: dict[str, Tensor]) -> None:
    model = make()
    gradients = []
    for loss in (
        TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, BeamGuide(model, 3), **batch),
        Trace_ELBO().differentiable_loss(CollapsedDRMM(model, 3), lambda **b: None, **batch),
    ):
        model.zero_grad()
        loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for enumerated, collapsed in zip(*gradients, strict=True):
        torch.testing.assert_close(enumerated, collapsed, atol=5e-5, rtol=5e-4)


def test_the_autoregressive_guide_bounds_from_below_and_is_exact_for_one_layer(batch: dict[str, Tensor]) -> None:
    model = make("layers")
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    exact = elbo.differentiable_loss(model, ExactGuide(model), **batch)
    draws = torch.stack(
        [elbo.differentiable_loss(model, AutoregressiveGuide(model), **batch).detach() for _ in range(200)]
    )
    error = draws.std() / len(draws) ** 0.5
    assert draws.mean() > exact - 3 * error
    shallow = DRMM(2, 1, 4, "tril", categorical={"label": 3}, sites="layers")
    one = elbo.differentiable_loss(shallow, AutoregressiveGuide(shallow), **batch)
    torch.testing.assert_close(one, elbo.differentiable_loss(shallow, ExactGuide(shallow), **batch))


def test_both_site_layouts_are_the_same_joint(batch: dict[str, Tensor]) -> None:
    path, layers = make("path"), make("layers")
    layers.load_state_dict(path.state_dict())
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    torch.testing.assert_close(
        elbo.differentiable_loss(path, ExactGuide(path), **batch),
        elbo.differentiable_loss(layers, ExactGuide(layers), **batch),
    )


def test_guides_refuse_models_they_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="sites='path'"):
        BeamGuide(make("layers"))
    with pytest.raises(ConfigError, match="sites='layers'"):
        AutoregressiveGuide(make("path"))
    with pytest.raises(ConfigError, match="max_enum=10"):
        ExactGuide(make(), max_enum=10)
