from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from inference_pairs import pair, rows
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from phlogiston.errors import ConfigError
from phlogiston.inference.svi.handlers import per_datum, scale_sites, setting, weight_depths


def trace_of(program: Any, **batch: Any) -> Any:
    trace = poutine.trace(program).get_trace(**batch)
    trace.compute_log_prob()
    return trace


def test_scale_sites_multiplies_only_the_named_sites_in_model_and_guide() -> None:
    model, guide = pair()
    data = rows()
    plain = trace_of(guide, **data)
    with scale_sites({"z": 3.0}):
        scaled = trace_of(poutine.replay(guide, trace=plain), **data)
        other = trace_of(poutine.replay(model, trace=plain), **data)
    reference = trace_of(poutine.replay(model, trace=plain), **data)
    torch.testing.assert_close(scaled.nodes["z"]["log_prob"], 3 * plain.nodes["z"]["log_prob"])
    torch.testing.assert_close(other.nodes["z"]["log_prob"], 3 * reference.nodes["z"]["log_prob"])
    torch.testing.assert_close(other.nodes["x"]["log_prob"], reference.nodes["x"]["log_prob"])


def test_scale_sites_follows_its_weights_and_works_under_vectorised_particles() -> None:
    model, guide = pair("point")
    data = rows("point", 5)
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    handler = scale_sites({"x": 1.0})
    losses = []
    for weight in (0.0, 1.0, 2.0):
        handler.weights["x"] = weight
        with handler:
            losses.append(elbo.loss(model, guide, **data))
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-5)
    assert abs(losses[1] - losses[0]) > 1.0


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="'z' is -1"):
        scale_sites({"z": -1.0})


def test_per_datum_weights_the_sites_outside_the_data_plate_and_no_others() -> None:
    model, _ = pair("global")
    data = rows("global", 6)
    plain = trace_of(poutine.condition(model, {"m": torch.tensor(0.4)}), **data)
    with per_datum(0.1):
        weighted = trace_of(poutine.condition(model, {"m": torch.tensor(0.4)}), **data)
    torch.testing.assert_close(weighted.nodes["m"]["log_prob"], 0.1 * plain.nodes["m"]["log_prob"])
    torch.testing.assert_close(weighted.nodes["x"]["log_prob"], plain.nodes["x"]["log_prob"])


class Layered(dist.TorchDistribution):
    """A stand-in for a layered density: after depth l the log-density is -l (x - loc)^2."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = dist.constraints.real

    def __init__(self, loc: Tensor) -> None:
        self.loc = loc
        super().__init__(loc.shape, validate_args=False)

    def nested_log_prob(self, value: Tensor) -> Tensor:
        return -((value - self.loc) ** 2).unsqueeze(-1) * torch.tensor([1.0, 2.0, 3.0])

    def log_prob(self, value: Tensor) -> Tensor:
        return self.nested_log_prob(value)[..., -1]

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.loc.expand(sample_shape + self.loc.shape)


def layered(x: Tensor | None = None) -> None:
    with pyro.plate("data", 4):
        pyro.sample("x", Layered(torch.zeros(4)), obs=x)


@pytest.mark.parametrize("weight", [0.5, torch.tensor([0.0, 1.0, 2.0, 3.0])], ids=["number", "tensor"])
def test_weight_depths_adds_the_shallower_densities_with_their_weight(weight: Any) -> None:
    x = torch.arange(4.0)
    with weight_depths({"x": weight}):
        trace = trace_of(layered, x=x)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], -(3 + weight * 3) * x**2)


def test_the_attribute_weight_of_weight_depths_overrides_and_particles_do_not_disturb_it() -> None:
    x = torch.arange(4.0)
    handler = weight_depths({"x": 0.5})
    handler.weight = 2.0
    with handler, pyro.plate("particles", 5, dim=-2):
        trace = trace_of(layered, x=x)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], (-9 * x**2).expand(5, 4))


def test_weight_depths_leaves_generation_alone_and_refuses_flat_densities() -> None:
    with weight_depths({"x": 1.0}):
        assert trace_of(layered).nodes["x"]["value"].shape == (4,)
    model, guide = pair()
    trace = poutine.trace(guide).get_trace(**rows())
    with weight_depths({"x": 1.0}), pytest.raises(ConfigError, match="nested_log_prob"):
        poutine.replay(model, trace=trace)(**rows())


def test_setting_changes_an_attribute_inside_and_puts_it_back() -> None:
    class Warm:
        temperature = 10.0

    target = Warm()
    handler = setting(target, "temperature", 1.0)
    with handler:
        assert target.temperature == 1.0
        handler.value = 2.0  # takes effect at the next entry
    assert target.temperature == 10.0
    with handler:
        assert target.temperature == 2.0
    assert target.temperature == 10.0
    assert handler.describe() == {"handler": "setting", "of": "Warm", "name": "temperature", "value": 2.0}
    with pytest.raises(ConfigError, match="temprature"):
        setting(target, "temprature", 1.0)
