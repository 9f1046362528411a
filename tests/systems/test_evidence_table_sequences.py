"""Every kind of evidence about sequences, drawings, handwriting, games and photographs, against plain simulation.

The oracle draws from the prior, as the models do when they generate, and weighs each draw by the density of the
evidence; it knows neither filters nor islands. Answers must agree within 4.5 of both errors together.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from phlogiston import datasets
from phlogiston.errors import ConfigError, EvidenceError, QueryWarning
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Within
from phlogiston.models.stepwise import Noise
from phlogiston.systems.handwriting.system import HandwritingModel
from phlogiston.systems.scene.system import Scene
from phlogiston.systems.sequence.system import SequenceModel
from phlogiston.systems.sketch.system import Sketch
from phlogiston.systems.world.system import WorldModel

INF = math.inf
Z = 4.5
DRAWS = 20_000


@pytest.fixture(autouse=True)
def _few_samples_may_be_poor() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        yield


class Oracle(NamedTuple):
    """Weighted prior draws.

    Attributes:
        values: (n, ...), what is asked about.
        log_weights: (n,), log density of the evidence given each draw.
    """

    values: Tensor
    log_weights: Tensor

    def compare(self, answer: Any, site: str, hard: Tensor | None = None) -> None:
        """Check log evidence and means of an answer; `hard`: bool, entries whose mean is not compared."""
        weights = self.log_weights.double()
        ess = float(weights.softmax(0).square().sum().reciprocal())
        assert ess > 50, "the oracle itself is too poor"
        truth = float(weights.logsumexp(0)) - math.log(len(weights))
        own = 0.4 if answer.log_evidence_error is None else float(answer.log_evidence_error)
        assert abs(float(answer.log_evidence) - truth) < Z * math.hypot(own, 1 / math.sqrt(ess)) + 1e-3
        flat = self.values.double().flatten(1)
        mean = weights.softmax(0) @ flat
        sd = (weights.softmax(0) @ (flat - mean).square()).sqrt()
        off = (answer.mean(site).flatten() - mean).abs()
        bound = Z * sd * math.sqrt(1 / ess + 1 / float(answer.ess)) + 1e-3
        keep = torch.ones_like(off, dtype=torch.bool) if hard is None else ~hard.flatten()
        assert bool((off <= bound)[keep].all()), (off - bound)[keep].max()


# ---- sequences, drawings, handwriting: two steps


@cache
def touches() -> SequenceModel:
    generator = np.random.default_rng(0)
    x = np.cumsum(0.3 * generator.standard_normal((60, 6, 2)), 1).astype(np.float32)
    options = {
        "hidden": 8, "layers": 1, "num_components": 3, "grid": 0.0, "steps": 60, "batch_size": 20, "window": 6,
        "carry": False, "learning_rate": 0.02,
    }  # fmt: skip
    return SequenceModel(options).fit({"x": x, "length": np.full(60, 6)}, progress="off")


@cache
def script() -> datasets.Dataset:
    return datasets.load("script", sizes=(60, 10, 10), letters=(1, 1))


@cache
def sketch(latent: int) -> Sketch:
    options: dict[str, Any] = {"latent": latent, "hidden": 12, "num_components": 2, "steps": 20, "batch_size": 20}
    if latent:
        options["encoder_hidden"] = 8
    return Sketch(options).fit(script(), progress="off")


@cache
def handwriting() -> HandwritingModel:
    data = datasets.load("script", sizes=(60, 10, 10), letters=(2, 3))
    return HandwritingModel(hidden=12, windows=2, num_components=2, steps=15, batch_size=20).fit(data, progress="off")


TEXT = "he"
SYSTEMS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sequence": (touches, {}),
    "sketch": (lambda: sketch(0), {}),
    "sketch with a latent": (lambda: sketch(3), {}),
    "handwriting": (handwriting, {"text": TEXT}),
}


@cache
def paths(name: str) -> tuple[Tensor, list[Any]]:
    """Prior draws of two steps (n, 2, width), and the laws they were drawn from."""
    system = SYSTEMS[name][0]()
    model = system.model
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(11)
        state = model.start(DRAWS, system.codes(TEXT)) if name == "handwriting" else model.start(DRAWS)
        steps, laws = [], []
        for _ in range(2):
            law, state = model.predict(state)
            chances = torch.rand(DRAWS, law.values.num_choices), torch.rand(DRAWS, max(1, model.pen_states))
            noise = Noise(chances[0], torch.randn(DRAWS, model.targets), chances[1])
            value = law.draw(noise)
            if steps and model.pen_states == 3:
                over = steps[-1][:, -1] > 1.5
                value = torch.where(over.unsqueeze(1), value.new_tensor([0.0] * model.targets + [2.0]), value)
            state = model.observe(state, value)
            steps.append(value)
            laws.append(law)
    return torch.stack(steps, 1), laws


def question(width: int) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Evidence about two steps of so many columns, and the same for the oracle."""
    open_ = torch.full((2, width), INF)
    low, high, mean, sd = -open_.clone(), open_.clone(), torch.zeros(2, width), open_.clone()
    low[1, 0], high[1, 0] = -0.2, 0.6
    both_low, both_high = low.clone(), high.clone()
    both_low[0, 1], both_high[0, 1] = -0.5, 0.9
    mean[1, 0], sd[1, 0] = 0.4, 0.3
    value, one, step = torch.zeros(2, width), torch.zeros(2, width), torch.zeros(2, width)
    value[1, :2], one[1, 0] = torch.tensor([0.3, -0.1]), 1.0
    step[1] = 1.0
    return {
        "nothing": ([], {}),
        "within": (Within(low, high), {"box": (low, high)}),
        "within both": (Within(both_low, both_high), {"box": (both_low, both_high)}),
        "near": (Near(mean, sd), {"soft": (0.4, 0.3)}),
        "known column": (Known(value, one), {"column": 0.3}),
        "known step": (Known(value, step), {"step": value[1]}),
        "known step and within": (
            [Known(value, step), Within(both_low, both_high)],
            {"step": value[1], "box": (both_low, both_high)},
        ),
        "near and within": (
            [Near(mean, sd), Within(both_low, both_high)],
            {"soft": (0.4, 0.3), "box": (both_low, both_high)},
        ),
    }


def weigh(name: str, box: Any = None, soft: Any = None, column: Any = None, step: Any = None) -> Oracle:
    x, laws = paths(name)
    weights = torch.zeros(len(x), dtype=torch.float64)
    ended = x[:, 0, -1] > 1.5 if laws[0].pen is not None else torch.zeros(len(x), dtype=torch.bool)
    values = x.clone()
    with torch.no_grad():
        if step is not None:
            weights = weights + laws[1].log_prob(step.expand(len(x), -1)).double()
            values[:, 1] = step
        if column is not None:
            full = torch.full_like(x[:, 1, : laws[1].values.event_shape[0]], column)
            weights = weights + laws[1].values.log_parts(full)[:, 0].double()
            if laws[1].pen is not None and laws[1].pen.shape[-1] == 3:
                weights = weights + torch.log1p(-laws[1].pen.softmax(-1)[:, 2].double())
            values[:, 1, 0] = column
    if step is not None or column is not None:
        weights = torch.where(ended, -INF, weights)
    if soft is not None:
        weights = weights + torch.distributions.Normal(*soft).log_prob(values[:, 1, 0].double())
    if box is not None:
        inside = ((values >= box[0]) & (values <= box[1])).flatten(1).all(1)
        weights = torch.where(inside, weights, -INF)
    return Oracle(values, weights)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("kind", question(3))
def test_filters_answer_every_kind_of_evidence(kind: str, name: str) -> None:
    make, options = SYSTEMS[name]
    system = make()
    pieces, said = question(system.model.width)[kind]
    answer = system.query({"x": pieces}, num_samples=3000, steps=2, seed=1, **options)
    # given the column, the other columns of its step follow the mixture's conditional, which prior draws do not show
    hard = torch.zeros(2, system.model.width, dtype=torch.bool)
    hard[1] = "column" in said
    weigh(name, **said).compare(answer, "x", hard)
    x = answer.samples["x"]
    if "box" in said:
        assert bool(((x >= said["box"][0]) & (x <= said["box"][1])).all())
    if "step" in said:
        assert bool((x[:, 1] == said["step"].double()).all())


@pytest.mark.parametrize("name", ["sketch", "sketch with a latent", "handwriting"])
def test_the_pen_may_be_known(name: str) -> None:
    make, options = SYSTEMS[name]
    system = make()
    value, mask = torch.zeros(2, 3), torch.zeros(2, 3)
    value[1, 2], mask[1, 2] = 1.0, 1.0
    answer = system.query({"x": Known(value, mask)}, num_samples=3000, steps=2, seed=1, **options)
    x, _ = paths(name)
    Oracle(x, torch.where(x[:, 1, 2] == 1.0, 0.0, -INF)).compare(answer, "x")


@pytest.mark.parametrize("name", SYSTEMS)
def test_filters_refuse_what_they_cannot_weigh_by_name(name: str) -> None:
    make, options = SYSTEMS[name]
    system = make()
    size = 2 * system.model.width
    for piece, words in (
        (HalfSpace(torch.ones(size), 0.0), "half-space"),
        (OneOf({0}), "categor"),
        (Known(torch.zeros(size), torch.full((size,), 0.5)), "fractional"),
    ):
        with pytest.raises(EvidenceError, match=words):
            system.query({"x": piece}, num_samples=20, steps=2, **options)


# ---- games


@cache
def world() -> WorldModel:
    options = {
        "widths": (8, 8), "features": 16, "code": 3, "hidden": 8, "frame_steps": 10, "steps": 4, "frame_batch": 8,
        "batch_size": 8, "generations": 0, "noise": 0.2,
    }  # fmt: skip
    return WorldModel(options).fit(datasets.load("dodge", sizes=(12, 2, 2), limit=12), progress="off")


@cache
def games() -> tuple[Tensor, Tensor, Tensor]:
    """Prior draws of two frames: the first frame's mean (n, 256), the second's, and whether the second is the end."""
    model = world().model
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        state = model.start(4000)
        first = model.predict(state).code.draw(generator=generator)
        action = torch.randint(model.actions, (4000,), generator=generator)
        state = model.observe(state, first, action)
        law = model.predict(state)
        second = law.code.draw(generator=generator)
        end = torch.rand(4000, generator=generator) < law.end.sigmoid()
        return model.picture(first).flatten(1).double(), model.picture(second).flatten(1).double(), end


@pytest.mark.parametrize("kind", ["known pixel", "near", "within", "end", "combination"])
def test_games_answer_every_kind_of_evidence(kind: str) -> None:
    first, second, end = games()
    shape, noise, at = (2, 1, 16, 16), world().model.noise, 40
    open_ = torch.full(shape, INF)
    low, high, mean, sd = -open_.clone(), open_.clone(), torch.zeros(shape), open_.clone()
    value, mask = torch.zeros(shape), torch.zeros(shape)
    level = float(second[:, at].mean()) + 0.1
    for field, entry in ((low, level - 0.2), (high, level + 0.1), (mean, level), (sd, 0.1), (value, level), (mask, 1)):
        field[1].flatten()[at] = entry
    normal = torch.distributions.Normal(second[:, at], noise)
    box = (normal.cdf(high[1].flatten()[at].double()) - normal.cdf(low[1].flatten()[at].double())).log()
    evidence: dict[str, Any] = {}
    weights = torch.zeros(4000, dtype=torch.float64)
    if kind == "known pixel":
        evidence["frames"] = Known(value, mask)
        weights = normal.log_prob(value[1].flatten()[at].double())
    elif kind == "near":
        evidence["frames"] = Near(mean, sd)
        weights = torch.distributions.Normal(second[:, at], math.hypot(noise, 0.1)).log_prob(
            torch.tensor(level).double()
        )
    elif kind == "within":
        evidence["frames"], weights = Within(low, high), box
    elif kind == "end":
        evidence["done"], weights = Known([0.0, 1.0]), torch.where(end, 0.0, -INF).double()
    else:
        evidence = {"frames": Within(low, high), "done": Known([0.0, 0.0]), "action": OneOf({0, 1})}
        assert world().model.actions >= 2
    if kind == "combination":
        answer = world().query(evidence, steps=2, num_samples=2000, seed=1)
        assert bool(torch.isin(answer.samples["action"], torch.tensor([0, 1])).all())
        assert not bool(answer.samples["done"].any())
    else:
        # frame 0 as it is expected: the drawn frame is noise around it
        answer = world().query(evidence, steps=2, num_samples=2000, seed=1)
        oracle = Oracle(first + noise * torch.randn(first.shape, generator=torch.Generator().manual_seed(9)), weights)
        frames = answer.samples["frames"][:, 0].flatten(1)
        oracle.compare(answer.__class__(**{**vars(answer), "samples": {"first": frames}}), "first")
    frames = answer.samples["frames"]
    if kind in ("within", "combination"):
        assert bool(((frames >= low) & (frames <= high)).all())
    if kind == "known pixel":
        assert bool((frames[:, 1].flatten(1)[:, at] == value[1].flatten()[at].double()).all())


# ---- photographs


@cache
def scene() -> Scene:
    options = {
        "nodes": "both", "bins": 8, "values": 4, "code": 8, "encoder": (6, 8), "steps_between": 2, "grid": 4,
        "hidden": 6, "latent": 2, "whole": 0, "layers": 2, "width": 12, "blocks": 1, "context": 4, "queries": 2,
        "batch_size": 4, "draft_steps": 3, "steps": 3,
    }  # fmt: skip
    return Scene(options).fit(datasets.load("courts", sizes=(6, 0, 3), views=8, size=16), progress="off")


@pytest.mark.parametrize("kind", ["known", "near", "within", "combination"])
def test_photographs_answer_every_kind_of_evidence(kind: str) -> None:
    system, at = scene(), 300
    memory, pose = system.kept(0), system.model.kept_poses[0][-1]
    drawn = system.sample_views(memory, pose[None], 2000, seed=5).flatten(2)[:, 0].double()
    sd = float(system.model.likelihood(drawn[:1].reshape(1, 3, 16, 16).float()).base_dist.scale.flatten()[0])
    mean = drawn[:, at]
    level = float(mean.mean()) + 0.5 * sd
    one = torch.arange(768) == at
    normal = torch.distributions.Normal(mean, sd)
    inf = torch.full((768,), INF)
    box = Within(torch.where(one, level - sd, -inf), torch.where(one, level + 0.2, inf))
    mass = (normal.cdf(box.upper[at]) - normal.cdf(box.lower[at])).log()
    soft = Near(torch.full((768,), level), torch.where(one, 0.1, inf))
    pieces, weights = {
        "known": (Known(torch.full((768,), level), one), normal.log_prob(torch.tensor(level).double())),
        "near": (soft, torch.distributions.Normal(mean, math.hypot(sd, 0.1)).log_prob(torch.tensor(level).double())),
        "within": (box, mass),
        "combination": ([Known(torch.full((768,), level), torch.arange(768) == 5), box],
                        mass + torch.distributions.Normal(drawn[:, 5], sd).log_prob(torch.tensor(level).double())),
    }[kind]  # fmt: skip
    answer = system.query({"x": pieces}, num_samples=1500, memory=memory, pose=pose, seed=1)
    truth = float(weights.logsumexp(0)) - math.log(2000)
    own = 0.3 if answer.log_evidence_error is None else float(answer.log_evidence_error)
    ess = float(weights.softmax(0).square().sum().reciprocal())
    assert abs(float(answer.log_evidence) - truth) < Z * math.hypot(own, (max(2000 / ess - 1, 0) / 2000) ** 0.5) + 1e-4
    x = answer.samples["x"].flatten(1)
    if kind in ("within", "combination"):
        assert bool(((x >= box.lower) & (x <= box.upper)).all())
    if kind == "known":
        assert bool((x[:, at] == torch.tensor(level).double()).all())


# ---- methods that a system does not have


@pytest.mark.parametrize("name", [*SYSTEMS, "world", "scene"])
@pytest.mark.parametrize("method", ["importance", "smc", "hmc", "exact"])
def test_methods_that_a_system_does_not_have_are_refused_by_name(method: str, name: str) -> None:
    """The generic methods would put a sequence's steps or a photograph's pixels into one vector; these know better."""
    ask: Callable[..., Any]
    if name in SYSTEMS:
        make, options = SYSTEMS[name]
        ask, options, own = make().query, {**options, "steps": 2}, "particle filter"
    elif name == "world":
        ask, options, own = world().query, {"steps": 2}, "smc"
    else:
        system = scene()
        ask, own = system.query, "importance"
        options = {"memory": system.kept(0), "pose": system.model.kept_poses[0][-1]}
    if method == own:
        assert ask({}, num_samples=20, method=method, seed=0, **options).num_samples == 20
        return
    with pytest.raises(ConfigError, match=rf"unknown query method '{method}'.*Choose from: auto, {own}\.") as caught:
        ask({}, num_samples=20, method=method, **options)
    assert "\n" not in str(caught.value)
