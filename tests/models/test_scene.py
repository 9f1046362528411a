"""The scene model and its guide: they match, compute shared work once, and their bound is the one on paper."""

from __future__ import annotations

import copy
import math
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceMeanField_ELBO
from pyro.infer.util import torch_item
from pyro.util import check_model_guide_match
from torch import Tensor

from phlogiston.distributions.discretized_logistic import DiscretizedLogistic
from phlogiston.errors import ConfigError, ShapeError, UnknownNameError
from phlogiston.guides.scene import SceneGuide
from phlogiston.inference.svi.bounds import MeanField
from phlogiston.models.scene import SceneModel, at_temperature
from phlogiston.networks import draw_plain
from phlogiston.networks.draw import DrawDecoder, DrawEncoder
from phlogiston.networks.scene_memory import GraphMemory, PooledMemory


def pair(memory: str = "graph", likelihood: str = "normal", **options: Any) -> tuple[SceneModel, SceneGuide]:
    torch.manual_seed(0)
    net: Any = GraphMemory(4, 3, 8, widths=(4, 6)) if memory == "graph" else PooledMemory(4, 3, widths=(4, 6))
    given = {"hidden": 6, "latent": 2, "layers": 3, "width": 8, **options}
    model = SceneModel(net, DrawDecoder(net, 16, 4, **given), likelihood=likelihood)
    return model, SceneGuide(model, DrawEncoder(model.decoder, 5, 3, 4))


def batch(scenes: int = 2, seen: int = 4, asked: int = 3, side: int = 2, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)

    def poses(count: int) -> Tensor:
        out = torch.zeros(scenes, count, 6)
        out[..., :2] = -0.4 + 0.7 * side * torch.rand(scenes, count, 2, generator=g)
        out[..., 3] = 6 * torch.rand(scenes, count, generator=g)
        return out

    return {
        "images": torch.randint(0, 256, (scenes, seen, 3, 16, 16), generator=g, dtype=torch.uint8),
        "poses": poses(seen),
        "query_poses": poses(asked),
        "query_images": torch.randint(0, 256, (scenes, asked, 3, 16, 16), generator=g, dtype=torch.uint8),
        "origin": torch.full((scenes, 2), -0.4),
        "side": torch.full((scenes,), side),
    }


@pytest.mark.parametrize("memory", ["graph", "pooled"])
@pytest.mark.parametrize("likelihood", ["normal", "normal-learned-sigma", "discretized-logistic"])
def test_model_and_guide_match_and_every_parameter_learns(memory: str, likelihood: str) -> None:
    model, guide = pair(memory, likelihood)
    rows = batch()
    guide_trace = poutine.trace(guide).get_trace(**rows)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**rows)
    check_model_guide_match(model_trace, guide_trace, max_plate_nesting=2)
    latents = [f"z_{i}" for i in range(3)]
    assert [
        n for n, s in guide_trace.nodes.items() if s["type"] == "sample" and n not in ("data", "queries")
    ] == latents
    for name in latents:
        assert model_trace.nodes[name]["fn"].shape() == guide_trace.nodes[name]["fn"].shape() == (2, 3, 2, 4, 4)
    assert model_trace.nodes["x"]["fn"].batch_shape == (2, 3)
    loss = TraceMeanField_ELBO(max_plate_nesting=2).differentiable_loss(model, guide, **rows)
    loss.backward()
    assert [n for n, p in guide.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


@pytest.mark.parametrize("temperature", [1.0, 1.4])
def test_the_bound_is_the_one_on_paper(temperature: float) -> None:
    model, guide = pair(prior_temperature=temperature)
    model, guide = model.double(), guide.double()
    rows = {k: v.double() if v.is_floating_point() else v for k, v in batch().items()}
    mask = torch.tensor([[True, True, False], [True, True, True]])
    rows["query_mask"] = mask
    torch.manual_seed(5)
    found = MeanField(max_plate_nesting=2).differentiable_loss(model, guide, **rows)
    torch.manual_seed(5)
    noise = [torch.randn(2, 3, 2, 4, 4, dtype=torch.double) for _ in range(3)]
    state = model.observe(rows["images"], rows["poses"], None, rows["origin"], rows["side"])
    code = model.memory.read(state, rows["query_poses"]).flatten(0, 1)
    local = model.memory.local(rows["query_poses"], state.frame).flatten(0, 1)
    x = rows["query_images"].flatten(0, 1).double() / 255
    run = draw_plain.run(model.decoder, guide.encoder, code, local, x, [n.flatten(0, 1) for n in noise])
    square = ((x - run.pictures) / model.sigma).square().flatten(1).sum(1)
    logp = -0.5 * square - x[0].numel() * (model.sigma.log() + 0.5 * math.log(2 * math.pi))
    divergence: Any = 0.0
    for (m, v), (pm, trained) in zip(run.posteriors, run.priors, strict=True):
        pv = trained + 2 * math.log(temperature)
        term = 0.5 * (pv - v + (v - pv).exp() + (m - pm).square() * (-pv).exp() - 1)
        assert bool((term >= -1e-12).all())
        divergence = divergence + term.flatten(1).sum(1)
    want = ((divergence - logp) * mask.flatten()).sum()
    assert float(found.detach()) == pytest.approx(float(want.detach()), rel=1e-9)


@pytest.mark.parametrize("parts", [1, 4])
def test_samples_spread_and_are_scored_by_the_prior_s_temperature(parts: int) -> None:
    """The same noise lies 1.7 times as far from the means; the density is that of the wider normals."""
    model, _ = pair(whole=3, parts=parts)
    rows = batch()
    query = {name: value for name, value in rows.items() if name != "query_images"}
    traces = []
    for temperature in (1.0, 1.7):
        with torch.no_grad(), at_temperature(model.decoder, temperature), pyro.plate("samples", 400, dim=-3):
            torch.manual_seed(3)
            traces.append(poutine.trace(model).get_trace(**query))
    assert model.decoder.prior_temperature == 1.0
    plain, wide = (trace.nodes["z_0"]["value"].flatten(-3) for trace in traces)
    prior = traces[0].nodes["z_0"]["fn"]
    if parts == 1:
        torch.testing.assert_close(wide, 1.7 * plain)  # around zero
        scale = torch.ones(1, 3)
        means, weights = torch.zeros(1, 3), torch.ones(1)
    else:
        near = plain[..., None, :] - prior.means, wide[..., None, :] - prior.means  # of one part they are parallel
        error = (near[1] - 1.7 * near[0]).abs().amax(-1).amin(-1)
        assert float(error.max()) < 1e-5
        means, weights, scale = prior.means, prior.logits.softmax(-1), prior.deviations
    parted = torch.distributions.Normal(means, 1.7 * scale).log_prob(wide[..., None, :]).sum(-1)
    want = (parted + weights.log()).logsumexp(-1)
    torch.testing.assert_close(traces[1].nodes["z_0"]["fn"].log_prob(traces[1].nodes["z_0"]["value"]), want)


@pytest.mark.parametrize("parts", [1, 4])
def test_priors_grow_wide_where_few_photographs_were_seen(parts: int) -> None:
    """Two rooms beside each other: one and three photographs of the left ones, none and five of the right ones."""
    model, _ = pair(whole=3, parts=parts, prior_temperature=0.8, prior_growth=0.5)
    rows = batch(seen=6, asked=2)
    del rows["query_images"]
    left, right = torch.tensor([-0.2, -0.2]), torch.tensor([0.5, -0.2])
    rows["poses"][0, :, :2], rows["poses"][1, :, :2] = left, right
    rows["poses"][1, :3, :2] = left
    rows["obs_mask"] = torch.tensor([[True] + 5 * [False], 6 * [True]])
    rows["query_poses"][:, 0, :2], rows["query_poses"][:, 1, :2] = left, right
    model.most = 2  # as if trained with two at most

    def scales() -> Tensor:
        with torch.no_grad():
            torch.manual_seed(0)
            prior: Any = poutine.trace(model).get_trace(**rows).nodes["z_0"]["fn"]
        found: Tensor = prior.deviations[..., 0, 0] if parts > 1 else prior.base_dist.scale[..., 0, 0, 0]
        return found

    wide = scales()
    want = 0.8 * torch.tensor([[3 / 2, 3 / 1], [3 / 3, 3 / 3]]).sqrt()
    with at_temperature(model.decoder, 1.0):
        plain = scales()
    torch.testing.assert_close(wide, want * plain)
    painting = model.prepare(False, **rows)
    painting = model.step(painting, torch.zeros(2, 2, 3, 1, 1))
    trained = (0.5 * model.decoder.prior(painting)[1]).exp()
    torch.testing.assert_close(model.prior(painting).base_dist.scale, want[..., None, None, None] * trained)
    assert model.decoder.prior_growth == 0.5


def test_shared_work_is_done_once_per_loss_and_nothing_is_left_behind() -> None:
    model, guide = pair()
    rows = batch()
    calls = {"memory": 0}
    observe = model.memory.observe

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls["memory"] += 1
        return observe(*args, **kwargs)

    model.memory.observe = counted  # type: ignore[method-assign]
    for objective, checked in (
        (MeanField(max_plate_nesting=2), False),
        (TraceMeanField_ELBO(max_plate_nesting=2), True),
    ):
        before, calls["memory"] = model.shared.advances, 0
        with pyro.validation_enabled(checked):
            objective.differentiable_loss(model, guide, **rows)
        assert model.shared.advances - before == model.decoder.layers
        assert calls["memory"] == 1
        assert model.shared.context is None
        assert not model.shared.steps


def test_a_model_alone_or_on_other_values_computes_for_itself() -> None:
    model, guide = pair()
    rows = batch()
    trace = poutine.trace(guide).get_trace(**rows)
    values = {name: trace.nodes[name]["value"].clone() for name in ("z_0", "z_1", "z_2")}  # equal, not identical
    replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(**rows)
    alone = poutine.trace(poutine.condition(model, data=values)).get_trace(**rows)
    torch.testing.assert_close(replayed.nodes["x"]["fn"].mean, alone.nodes["x"]["fn"].mean)
    other = batch(seed=1)
    guide(**rows)
    fresh = poutine.trace(poutine.condition(model, data=values)).get_trace(**other)
    again = poutine.trace(poutine.condition(model, data=values)).get_trace(**other)
    torch.testing.assert_close(fresh.nodes["x"]["fn"].mean, again.nodes["x"]["fn"].mean)
    twin = copy.deepcopy(guide)
    assert twin.model.shared is not model.shared


def test_particles_are_worlds_of_their_own() -> None:
    model, guide = pair()
    rows = batch()
    for particles in (1, 5):
        loss = MeanField(max_plate_nesting=2)
        elbo = TraceMeanField_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=2)
        torch.manual_seed(0)
        value = torch_item(elbo.differentiable_loss(model, guide, **rows).detach())
        torch.manual_seed(0)
        one = torch_item(loss.differentiable_loss(model, guide, **rows).detach())
        assert value == pytest.approx(one, rel=0.02 if particles > 1 else 1e-5)


def test_ragged_scenes_are_scored_as_each_alone() -> None:
    model, _ = pair()
    rows = batch(scenes=2, seen=4)
    rows["obs_mask"] = torch.tensor([[True] * 4, [True, True, False, False]])
    z = {f"z_{i}": torch.randn(2, 3, 2, 4, 4) for i in range(3)}
    both = poutine.trace(poutine.condition(model, data=z)).get_trace(**rows)
    both.compute_log_prob()
    for i, count in ((0, 4), (1, 2)):
        part = slice(i, i + 1)
        alone = {k: v[part] for k, v in rows.items() if k != "obs_mask"}
        alone["images"], alone["poses"] = alone["images"][:, :count], alone["poses"][:, :count]
        trace = poutine.trace(poutine.condition(model, data={k: v[part] for k, v in z.items()})).get_trace(**alone)
        trace.compute_log_prob()
        for name in (*z, "x"):
            one, other = both.nodes[name]["log_prob"][part], trace.nodes[name]["log_prob"]
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_pictures_do_not_depend_on_where_a_grid_lies() -> None:
    model, _ = pair()
    rows = batch()
    z = {f"z_{i}": torch.randn(2, 3, 2, 4, 4) for i in range(3)}
    moved = dict(rows)
    by = torch.tensor([4.2, -3.5])
    for name in ("poses", "query_poses"):
        moved[name] = rows[name].clone()
        moved[name][..., :2] += by
    moved["origin"] = rows["origin"] + by
    one, two = (
        poutine.trace(poutine.condition(model, data=z)).get_trace(**r).nodes["x"]["fn"].mean for r in (rows, moved)
    )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_the_program_generates_where_nothing_is_given() -> None:
    model, _ = pair()
    assert model().shape == (1, 1, 3, 16, 16)
    rows = batch()
    del rows["query_images"]
    drawn = Predictive(model, num_samples=4)(**rows)
    assert drawn["x"].shape == (4, 2, 3, 3, 16, 16)
    assert {"z_0", "z_1", "z_2", "x"} <= set(drawn)
    nothing = {"query_poses": rows["query_poses"], "origin": rows["origin"], "side": rows["side"]}
    assert bool(torch.isfinite(model(**nothing)).all())


def test_inputs_a_hundred_times_too_large_stay_finite() -> None:
    model, guide = pair()
    rows = batch()
    rows["images"] = rows["images"].float() / 255 * 100
    rows["query_images"] = rows["query_images"].float() / 255 * 100
    loss = MeanField(max_plate_nesting=2).differentiable_loss(model, guide, **rows)
    assert math.isfinite(float(loss.detach()))


def test_two_hundred_fast_steps_stay_finite() -> None:
    model, guide = pair()
    rows = batch(scenes=1, side=1)
    optimizer = torch.optim.Adam(guide.parameters(), lr=3e-3)
    with pyro.validation_enabled(False):
        for _ in range(200):
            optimizer.zero_grad()
            loss = MeanField(max_plate_nesting=2).differentiable_loss(model, guide, **rows)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(guide.parameters(), 1000.0)
            optimizer.step()
    assert math.isfinite(float(loss.detach()))
    assert all(bool(torch.isfinite(p).all()) for p in guide.parameters())


def test_discretized_logistic_is_a_distribution_over_bytes() -> None:
    levels = torch.arange(256).double() / 255
    for loc, scale in ((0.3, 0.02), (-0.4, 0.1), (1.2, 0.001), (0.5, 5.0)):
        found = DiscretizedLogistic(torch.tensor(loc).double(), torch.tensor(scale).double())
        assert float(found.log_prob(levels).exp().sum()) == pytest.approx(1.0, abs=1e-9)
        drawn = found.sample((2000,))
        assert bool(((drawn * 255).round() / 255 == drawn).all())
    found = DiscretizedLogistic(torch.tensor(0.5).double(), torch.tensor(0.03).double())
    mean = float((found.log_prob(levels).exp() * levels).sum())
    assert float(found.sample((20000,)).mean()) == pytest.approx(mean, abs=0.002)


def test_bad_input_is_refused_in_words() -> None:
    model, guide = pair()
    rows = batch()
    with pytest.raises(ConfigError, match="query_images"):
        guide(**{**rows, "query_images": None})
    with pytest.raises(ShapeError, match="expected"):
        model(**{**rows, "query_poses": rows["query_poses"][..., :4]})
    with pytest.raises(ShapeError, match="images have shape"):
        model(**{**rows, "images": rows["images"][:, :2]})
    with pytest.raises(UnknownNameError, match="discretized-logistic"):
        pair(likelihood="discretised-logistic")
