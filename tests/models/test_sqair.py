"""SQAIR's programs: the joint density by hand, capacity, identities, filtering, empty slots, and a pair that fits."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from phlogiston.counting import OperationCounts
from phlogiston.guides.sqair import SQAIRGuide
from phlogiston.guides.sqair_paper import PaperParts
from phlogiston.guides.sqair_residual import ResidualParts
from phlogiston.guides.sqair_sight import brightest_other, in_front
from phlogiston.inference.svi.vimco import VIMCO
from phlogiston.models.sqair import LEAST, SQAIRModel
from phlogiston.models.sqair_state import State
from phlogiston.networks.occupied import Occupied
from phlogiston.networks.spatial import logits_of, paste

SHAPE = (1, 20, 20)
SMALL: dict[str, Any] = {"slots": 3, "features": 5, "glimpse": (8, 8), "hidden": 16, "memory": 12}


def make(parts: str = "residual", seed: int = 0, shape: tuple[int, int, int] = SHAPE, guide: Any = (), **options: Any):  # type: ignore[no-untyped-def]
    torch.manual_seed(seed)
    if parts == "paper":
        options = {"presence": "learned", "location": "absolute", "chain": True, "output": "linear",
                   "later_births": 3, "background": "mean", **options}  # fmt: skip
    if parts == "hiding":
        options = {"outside": 1.0, **options}
    model = SQAIRModel(shape, **{**SMALL, **options})
    networks = (PaperParts if parts == "paper" else ResidualParts)(model, hidden=16, **dict(guide))
    chosen = SQAIRGuide(model, networks)
    if parts != "paper":
        chosen.parts.threshold.fill_(5.0)
    return model, chosen


def videos(rows: int = 4, frames: int = 4, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Tensor:
    """Bright squares that move; the first video is black."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(rows, frames, *shape)
    for i in range(1, rows):
        for _ in range(i % 3):
            y, z = torch.randint(0, 12, (2,), generator=generator).tolist()
            for t in range(frames):
                x[i, t, :, y : y + 6, min(z + t, 13) : min(z + t, 13) + 6] = 0.9
    return x


def weigh(model: SQAIRModel, guide: SQAIRGuide, x: Tensor, noise: Tensor, **options: Any) -> tuple[Any, Any, Tensor]:
    """Run the pair with given noise: traces, and log weights per row."""
    fixed = poutine.condition(guide, data={"noise": noise})
    proposed = poutine.trace(fixed).get_trace(x=x, **options)
    target = poutine.trace(poutine.replay(model, trace=proposed)).get_trace(x=x, **options)
    proposed.compute_log_prob()
    target.compute_log_prob()
    names = [n for n in target.nodes if n.startswith("t") or n == "x"]
    total = sum(target.nodes[n]["log_prob"] - (proposed.nodes[n]["log_prob"] if n != "x" else 0) for n in names)
    return proposed, target, total


def noise_for(model: SQAIRModel, rows: int, frames: int, seed: int = 1, particles: int | None = None) -> Tensor:
    ahead = () if particles is None else (particles,)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*ahead, rows, frames, 2 * model.slots, 5 + model.features, generator=generator)


@pytest.mark.parametrize("parts", ["residual", "paper"])
@pytest.mark.parametrize("particles", [1, 3])
def test_guide_and_model_match_and_every_parameter_gets_a_gradient(parts: str, particles: int) -> None:
    model, guide = make(parts)
    x = videos()
    guided = poutine.trace(guide).get_trace(x=x)
    told = poutine.trace(poutine.replay(model, trace=guided)).get_trace(x=x)
    pyro.infer.util.torch_item(told.log_prob_sum())
    from pyro.util import check_model_guide_match, check_site_shape

    check_model_guide_match(told, guided, 1)
    told.compute_log_prob()
    for site in told.nodes.values():
        if site["type"] == "sample" and site["name"] != "data":
            check_site_shape(site, 1)
    if particles > 1:
        seen: set[str] = set()
        optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], 0.01)
        for seed in range(6):  # a network that no draw reached in one run, or behind zero weights, is reached later
            torch.manual_seed(seed)
            loss = VIMCO(particles, max_plate_nesting=1).differentiable_loss(model, guide, x=x)
            assert torch.isfinite(loss)
            for module in (model, guide):
                module.zero_grad()
            loss.backward()
            for prefix, module in (("model", model), ("guide", guide)):
                for name, parameter in module.named_parameters():
                    assert parameter.grad is not None, name
                    assert torch.isfinite(parameter.grad).all(), name
                    if parameter.grad.abs().max() > 0:
                        seen.add(f"{prefix}.{name}")
            optimizer.step()
        names = {f"model.{n}" for n, _ in model.named_parameters()} | {
            f"guide.{n}" for n, _ in guide.named_parameters()
        }
        assert names - seen == set()


def test_the_joint_density_is_the_one_on_paper() -> None:
    """Two frames of one video, every term computed by hand; with one frame alone this is AIR."""
    model, _ = make()
    torch.manual_seed(3)
    latents = {
        "t0/births": torch.tensor([2]),
        "t0/where_new": torch.randn(1, 3, 4) * torch.tensor([1.0, 1.0, 0.0])[:, None],
        "t0/what_new": torch.randn(1, 3, 5) * torch.tensor([1.0, 1.0, 0.0])[:, None],
        "t1/presence": torch.tensor([[0.0, 1.0, 0.0]]),
        "t1/where": torch.randn(1, 3, 4) * torch.tensor([0.0, 1.0, 0.0])[:, None],
        "t1/what": torch.randn(1, 3, 5) * torch.tensor([0.0, 1.0, 0.0])[:, None],
        "t1/births": torch.tensor([1]),
        "t1/where_new": torch.randn(1, 1, 4),
        "t1/what_new": torch.randn(1, 1, 5),
    }
    x = torch.rand(1, 2, *SHAPE)
    trace = poutine.trace(poutine.condition(model, data=latents)).get_trace(x=x)
    states: list[State] = trace.nodes["_RETURN"]["value"]

    def normal(value: Tensor, loc: Any, scale: Any) -> Tensor:
        return dist.Normal(loc, scale).log_prob(value).sum()

    std_where = softplus(model.where_spread) + LEAST
    air = torch.log_softmax(model.first_births, -1)[2]
    air = air + normal(latents["t0/where_new"][0, :2], model.where_loc, std_where)
    air = air + normal(latents["t0/what_new"][0, :2], 0.0, 1.0)
    boxes = latents["t0/where_new"][0, :2]
    glimpse = model.decode(latents["t0/what_new"][0, :2])
    canvas = paste(glimpse, boxes, 20, 20).sum(0)
    first = normal(x[0, 0], canvas, 0.3)
    one = poutine.trace(poutine.condition(model, data=latents)).get_trace(x=x[:, :1])
    torch.testing.assert_close(one.log_prob_sum(), air + first, rtol=1e-5, atol=1e-3)

    told = model._dynamics(states[0])
    rest = logsigmoid(model.survival) + logsigmoid(-model.survival)
    rest = rest + normal(latents["t1/where"][0, 1], told.where_loc[0, 1], told.where_scale[0, 1])
    rest = rest + normal(latents["t1/what"][0, 1], told.what_loc[0, 1], told.what_scale[0, 1])
    rest = rest + torch.log_softmax(model.later_logits, -1)[1]
    rest = rest + normal(latents["t1/where_new"], model.where_loc, std_where) + normal(latents["t1/what_new"], 0.0, 1.0)
    both = torch.cat([model.decode(latents["t1/what_new"][0]), model.decode(latents["t1/what"][0, 1:2])])
    canvas = paste(both, torch.cat([latents["t1/where_new"][0], latents["t1/where"][0, 1:2]]), 20, 20).sum(0)
    second = normal(x[0, 1], canvas, 0.3)
    torch.testing.assert_close(trace.log_prob_sum(), air + first + rest + second, rtol=1e-5, atol=1e-3)
    assert states[1].ids.tolist() == [[2, 1, -1]]  # the birth takes the slot that became free
    assert states[1].born.tolist() == [3]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from(["fixed", "learned"]))
def test_there_is_never_more_than_fits_and_identities_are_never_used_again(seed: int, slots: int, kind: str) -> None:
    torch.manual_seed(seed)
    model = SQAIRModel(
        SHAPE,
        **{**SMALL, "slots": slots},
        survival=0.6,
        birth=0.5,
        later_births=2,
        presence=kind,
        chain=kind == "learned",
    )
    if kind == "learned":
        with torch.no_grad():
            model.readout.bias[-1] = 0.0
            model.later_logits.zero_()
    with torch.no_grad():
        states = model(frames=8, rows=5)
    for row in range(5):
        alive: set[int] = set()
        known: set[int] = set()
        slot_of: dict[int, int] = {}
        for state in states:
            ids, there = state.ids[row].tolist(), (state.presence[row] > 0).tolist()
            assert sum(there) <= slots
            assert all((name >= 0) == present for name, present in zip(ids, there, strict=True))
            now = [name for name in ids if name >= 0]
            assert len(set(now)) == len(now)
            for name in now:
                assert name in alive or name not in known  # who is gone is gone for good
                assert slot_of.setdefault(name, ids.index(name)) == ids.index(name)
            alive, known = set(now), known | set(now)
        assert int(states[-1].born[row]) == len(known)


@pytest.mark.parametrize("parts", ["residual", "paper", "hiding"])
def test_what_comes_later_changes_nothing_of_what_was_seen(parts: str) -> None:
    model, guide = make(parts)
    x = videos(6, 5)
    other = x.clone()
    other[:, 3:] = torch.rand(6, 2, *SHAPE)
    noise = noise_for(model, 6, 5)
    with torch.no_grad():
        first, first_model, _ = weigh(model, guide, x, noise)
        second, second_model, _ = weigh(model, guide, other, noise)
        short, short_model, _ = weigh(model, guide, x[:, :3], noise[:, :3])
    for name in first.nodes:
        if name[:2] in ("t0", "t1", "t2"):
            for a, b in ((first, second), (first, short), (first_model, second_model), (first_model, short_model)):
                torch.testing.assert_close(a.nodes[name]["value"], b.nodes[name]["value"])
                torch.testing.assert_close(a.nodes[name]["log_prob"], b.nodes[name]["log_prob"])
    assert any((first.nodes[n]["value"] != second.nodes[n]["value"]).any() for n in ("t3/where", "t3/where_new"))


@pytest.mark.parametrize("parts", ["residual", "paper", "hiding"])
def test_particles_together_weigh_what_they_weigh_one_by_one(parts: str) -> None:
    model, guide = make(parts)
    x, noise = videos(5, 3), noise_for(model, 5, 3, particles=3)
    with torch.no_grad():
        with pyro.plate("particles", 3, dim=-2):
            together = weigh(model, guide, x, noise)[2]
        apart = torch.stack([weigh(model, guide, x, noise[k])[2] for k in range(3)])
        rows = torch.stack([weigh(model, guide, x[i : i + 1], noise[0, i : i + 1])[2][0] for i in range(5)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=0.02)
    torch.testing.assert_close(rows, apart[0], rtol=1e-4, atol=0.02)


@pytest.mark.parametrize("parts", ["residual", "paper", "hiding"])
def test_the_model_weighs_the_same_whether_or_not_it_takes_over_what_the_guide_rendered(parts: str) -> None:
    model, guide = make(parts)
    x, noise = videos(5, 3), noise_for(model, 5, 3)
    with torch.no_grad():
        proposed, _, total = weigh(model, guide, x, noise)
        model.shared.clear()
        again = poutine.trace(poutine.replay(model, trace=proposed)).get_trace(x=x)
        again.compute_log_prob()
    _, target, _ = weigh(model, guide, x, noise)
    for name in [n for n in target.nodes if n.startswith("t") or n == "x"]:
        torch.testing.assert_close(again.nodes[name]["log_prob"], target.nodes[name]["log_prob"], rtol=1e-4, atol=0.01)
    assert torch.isfinite(total).all()


def test_empty_places_have_no_say_even_with_nan_in_them() -> None:
    model, guide = make()
    x = torch.zeros(3, 3, *SHAPE)  # nothing to see, so nothing is born
    noise = noise_for(model, 3, 3)
    noise[..., 0] = 0.0  # coins that show tails
    proposed, _, total = weigh(model, guide, x, noise)
    assert all((proposed.nodes[f"t{t}/births"]["value"] == 0).all() for t in range(3))
    noise[..., 1:] = math.nan  # the noise of boxes and appearances nobody draws
    _, _, same = weigh(model, guide, x, noise)
    torch.testing.assert_close(same, total)
    same.sum().backward()
    for module in (model, guide):
        for name, parameter in module.named_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    for name in ("decoder.0.weight", "readout.weight"):
        gradient = dict(model.named_parameters())[name].grad
        assert gradient is None or (gradient == 0).all()


def test_frames_beyond_a_videos_length_do_not_count() -> None:
    model, guide = make()
    x, noise = videos(4, 5), noise_for(model, 4, 5)
    lengths = torch.tensor([2, 3, 3, 5])
    with torch.no_grad():
        _, _, cut = weigh(model, guide, x, noise, lengths=lengths)
        for row, length in enumerate(lengths.tolist()):
            _, _, short = weigh(model, guide, x[row : row + 1, :length], noise[row : row + 1, :length])
            torch.testing.assert_close(cut[row], short[0], rtol=1e-4, atol=0.02)


def test_hidden_frames_are_left_to_the_prior_and_hidden_pixels_do_not_count() -> None:
    model, guide = make()
    x, noise = videos(4, 4), noise_for(model, 4, 4)
    seen = torch.tensor([True, True, False, False]).expand(4, 4)
    with torch.no_grad():
        proposed, target, total = weigh(model, guide, x, noise, mask=seen)
        other = x.clone()
        other[:, 2:] = 0.7
        _, _, same = weigh(model, guide, other, noise, mask=seen)
    torch.testing.assert_close(same, total)
    for name in ("t2/where", "t3/what", "t3/presence"):
        torch.testing.assert_close(
            proposed.nodes[name]["log_prob"], target.nodes[name]["log_prob"], rtol=1e-4, atol=1e-3
        )


@pytest.mark.parametrize(
    "options",
    [
        {"renderer": "over"},
        {"renderer": "max"},
        {"background": "static"},
        {"background": "mean", "background_std": 0.2},
        {"learn_std": True, "output": "linear"},
        {"location": "residual", "later_births": 3},
        {"outside": 1.0},
        {"outside": 0.5, "background": "static", "screen": True},
    ],
    ids=str,
)
def test_plug_ins_train_and_draw(options: dict[str, Any]) -> None:
    model, guide = make(shape=(3, 20, 20), **options)
    x = videos(4, 3, (3, 20, 20))
    loss = VIMCO(3, max_plate_nesting=1).differentiable_loss(model, guide, x=x)
    loss.backward()
    assert torch.isfinite(loss)
    lacking = [n for n, p in model.named_parameters() if p.grad is None]
    assert not lacking
    trace = poutine.trace(model).get_trace(frames=2, rows=3)
    assert trace.nodes["x"]["value"].shape == (3, 2, 3, 20, 20)


def test_max_shows_the_brightest_and_weighs_the_same_with_the_guides_picture() -> None:
    """In each pixel the brightest layer, and no gradient elsewhere; the guide's running maximum is the model's."""
    model, guide = make(renderer="max")
    glimpse = torch.rand(1, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    where = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [0.3, 0.1, 0.2, -0.2], [0.0, 0.0, 0.0, 0.0]]])
    presence = torch.tensor([[1.0, 1.0, 0.0]])
    canvas, _ = model.render(presence, where, glimpse)
    one, two = (paste(glimpse[:, i], where[:, i], 20, 20) for i in (0, 1))
    torch.testing.assert_close(canvas, torch.maximum(one, two))
    x = videos(6, 4)
    _, target, _ = weigh(model, guide, x, noise_for(model, 6, 4))
    for state in target.nodes["_RETURN"]["value"]:
        drawn, _ = model.render(state.presence, state.where, state.glimpse)
        torch.testing.assert_close(state.canvas, drawn, rtol=1e-5, atol=1e-5)
    assert max(float(s.presence.sum(-1).max()) for s in target.nodes["_RETURN"]["value"]) >= 2


def test_the_brightest_other_is_that_of_the_same_picture() -> None:
    own = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, True, True], [False, True, True, False]])
    rest = [own[[1, 2]].amax(0), own[[0, 2]].amax(0), own[[0, 1]].amax(0), own[4], own[3]]
    occupied = Occupied(mask, gather=True)
    torch.testing.assert_close(brightest_other(own, occupied), torch.stack(rest))
    alone = Occupied(torch.tensor([[False, True]]), gather=True)
    assert brightest_other(own[:1], alone).abs().max() == 0.0
    slots = Occupied(mask, gather=False)
    whole = brightest_other(slots.take(occupied.put(own)), slots)
    torch.testing.assert_close(whole[occupied.index], torch.stack(rest))


def test_a_pixel_speaks_of_an_object_where_nothing_brighter_explains_it() -> None:
    ground, rest = (torch.tensor(v).reshape(1, 1, 1, 4) for v in ([0.8, 1.0, 1.0, 0.0], [0.0, 1.0, 0.3, 0.0]))
    told, window = in_front(ground, rest)
    torch.testing.assert_close(window.flatten(), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    torch.testing.assert_close(told.flatten(), torch.tensor([0.8, 0.0, 1.0, 0.0]))


def test_an_object_behind_a_brighter_one_is_left_to_the_prior() -> None:
    """A small dim square behind a large bright one: what is proposed for it is what the dynamics predict."""
    model, guide = make(renderer="max")
    small, large = torch.tensor([-1.5, -1.5, 0.1, 0.0]), torch.tensor([0.0, 0.0, 0.1, 0.0])
    start = {
        "t0/births": torch.tensor([2]),
        "t0/where_new": torch.stack([small, large, torch.zeros(4)]).unsqueeze(0),
        "t0/what_new": torch.zeros(1, 3, 5),
    }
    with torch.no_grad():
        first = poutine.condition(model, data=start)(x=torch.zeros(1, 1, *SHAPE))[0]
        first.glimpse[0, 0], first.glimpse[0, 1] = 0.3, 1.0
        x = paste(torch.ones(1, 1, 8, 8), large.unsqueeze(0), 20, 20).unsqueeze(1)
        proposed, _, _ = weigh(model, guide, x, noise_for(model, 1, 1), start=first)
        prior = model.dynamics(first)
    for site, loc, scale in (
        ("t1/where", prior.where_loc, prior.where_scale),
        ("t1/what", prior.what_loc, prior.what_scale),
    ):
        ours = proposed.nodes[site]["fn"].base
        torch.testing.assert_close(ours.loc[0, 0], loc[0, 0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.scale[0, 0], scale[0, 0], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(ours.loc[0, 1], loc[0, 1], atol=1e-3), "the bright one is followed by the frame"
    assert proposed.nodes["t1/presence"]["fn"].base.logits[0, 0] == pytest.approx(float(model.survival), abs=1e-3)


@pytest.mark.parametrize("reason", ["outside", "screen"])
def test_what_nobody_can_see_is_left_to_the_prior(reason: str) -> None:
    """An object beside the picture, or behind a bar: the proposal is the prior, and pixels elsewhere do not matter."""
    screen = reason == "screen"
    model, guide = make(outside=1.0, background="static" if screen else "none", screen=screen)
    model.readout.bias.data[4:9] += torch.randn(5, generator=torch.Generator().manual_seed(0))
    if screen:
        model.open[:, 4:16] = 0.0
    centre = torch.tensor([[0.0 if screen else 1.9, 0.1]])
    place = torch.cat([torch.tensor([[-1.2, -1.2]]), logits_of(centre, model.span)], -1)
    start = {
        "t0/births": torch.tensor([1]),
        "t0/where_new": torch.zeros(1, 3, 4).index_copy(1, torch.tensor([0]), place.unsqueeze(0)),
        "t0/what_new": torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(1)),
    }
    x = torch.rand(1, 2, *SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        first = poutine.condition(model, data=start)(x=x[:, :1])[0]
        assert first.canvas.abs().max() == 0.0
        proposed, target, _ = weigh(model, guide, x[:, 1:], noise_for(model, 1, 1), start=first)
    assert proposed.nodes["t1/presence"]["value"][0, 0] == 1.0
    for name in ("t1/presence", "t1/where", "t1/what"):
        ours, prior = (trace.nodes[name]["log_prob"] for trace in (proposed, target))
        torch.testing.assert_close(ours, prior, rtol=1e-4, atol=1e-3)


def test_the_screen_hides_what_is_drawn_behind_it_alone() -> None:
    model, _ = make(background="static", screen=True)
    model.open[:, 10:] = 0.0
    presence, where = torch.tensor([[1.0, 0.0, 0.0]]), torch.zeros(1, 3, 4)
    glimpse = torch.ones(1, 3, 1, 8, 8)
    canvas, _ = model.render(presence, where, glimpse)
    free = paste(glimpse[:, 0], where[:, 0], 20, 20)
    torch.testing.assert_close(canvas[..., :10], free[..., :10])
    assert canvas[..., 10:].abs().max() == 0.0
    assert free[..., 10:].max() > 0.9


def test_over_puts_later_places_in_front() -> None:
    model, _ = make(renderer="over")
    presence = torch.tensor([[1.0, 1.0, 0.0]])
    where = torch.zeros(1, 3, 4)
    glimpse = torch.zeros(1, 3, 2, 8, 8)
    glimpse[0, 0, 0], glimpse[0, 1, 0] = 0.2, 0.8
    glimpse[0, :, 1] = 1.0  # opaque
    canvas, _ = model.render(presence, where, glimpse)
    assert float(canvas[0, 0, 10, 10]) == pytest.approx(0.8)


@pytest.mark.parametrize("parts", ["residual", "paper"])
def test_computing_all_slots_without_waiting_gives_what_computing_the_occupied_ones_does(
    parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerators compute all slots: a step there reads no number of a tensor, and is the same step."""
    x, results = videos(5, 4), []
    for gathers in (True, False):
        monkeypatch.setattr(Occupied, "gathers", gathers)
        model, guide = make(parts)
        torch.manual_seed(2)
        with pyro.validation_enabled(False), OperationCounts() as counted:
            loss = VIMCO(3, max_plate_nesting=1).differentiable_loss(model, guide, x=x)
            loss.backward()
        modules = (*model.parameters(), *guide.parameters())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in modules]
        results.append((loss.detach(), torch.cat([g.flatten() for g in gradients])))
        assert bool(counted.counts.waits) == gathers
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-4 * float(results[0][1].abs().max()))
