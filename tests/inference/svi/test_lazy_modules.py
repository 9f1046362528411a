"""A fresh pair takes what was saved, also where parameters are made at the first call only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import Predictive
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoNormal,
    AutoNormalMessenger,
    AutoStructured,
)
from torch import Tensor, nn

from phlogiston.errors import CheckpointError
from phlogiston.inference import Stage, fit, load_parameters
from phlogiston.inference.query.ask import query


class Line(nn.Module):
    """y ~ N(X w + b, sd), with sites whose names are not in alphabetical order."""

    def forward(self, X: Tensor, y: Tensor | None = None) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        a = pyro.sample("a", dist.LogNormal(0.0, 0.5))
        with pyro.plate("data", len(X)):
            pyro.sample("y", dist.Normal((X * w).sum(-1) + b, a), obs=y)


class Wider(Line):
    def forward(self, X: Tensor, y: Tensor | None = None) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("a", dist.LogNormal(0.0, 0.5))
        with pyro.plate("data", len(X)):
            pyro.sample("y", dist.Normal(w.sum(), 1.0), obs=y)


class Easy(EasyGuide):
    def guide(self, X: Tensor, y: Tensor | None = None) -> None:
        for name in ("w", "b", "a"):
            self.map_estimate(name)


def several(model: nn.Module) -> AutoGuideList:
    out = AutoGuideList(model)
    out.append(AutoNormal(poutine.block(model, expose=["w", "a"])))
    out.append(AutoDelta(poutine.block(model, expose=["b"])))
    return out


GUIDES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "AutoNormal": AutoNormal,
    "AutoDelta": AutoDelta,
    "AutoLowRankMultivariateNormal": AutoLowRankMultivariateNormal,
    "AutoIAFNormal": lambda model: AutoIAFNormal(model, hidden_dim=[5]),
    "AutoStructured": AutoStructured,
    "EasyGuide": Easy,
    "AutoGuideList": several,
    "AutoNormalMessenger": AutoNormalMessenger,
}
NEEDS_BATCH = {"AutoNormalMessenger"}
NEEDS_Y = {"AutoNormalMessenger", "AutoStructured"}  # as in Pyro: they look at what is observed


def data() -> dict[str, Tensor]:
    X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    return {"X": X, "y": X @ torch.tensor([1.0, -2.0]) + 0.5}


def train(guide_of: Callable[[nn.Module], nn.Module], out: Path, **more: Any) -> tuple[nn.Module, nn.Module]:
    model = Line()
    guide = guide_of(model)
    recipe = Stage("all", 20, learning_rate=0.05, batch_size=15)
    fit(model, guide, data(), stages=recipe, out=out, progress="off", tensorboard=False, **more)
    return model, guide


@pytest.mark.parametrize("name", GUIDES)
def test_a_fresh_guide_takes_what_was_saved_and_gives_it_back_after_its_first_call(name: str, tmp_path: Path) -> None:
    model, guide = train(GUIDES[name], tmp_path / "run")
    fresh_model = Line()
    fresh = GUIDES[name](fresh_model)
    if name in NEEDS_BATCH:
        with pytest.raises(CheckpointError, match="given a batch"):
            load_parameters(tmp_path / "run", fresh_model, fresh)
    load_parameters(tmp_path / "run", fresh_model, fresh, batch=data() if name in NEEDS_BATCH else None)
    saved = list(guide.parameters())
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in saved]
    for _ in range(2):  # before the first call, and after it
        assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), saved, strict=True))
        held = list(fresh.parameters())
        draws = []
        for program, proposal in ((model, guide), (fresh_model, fresh)):
            torch.manual_seed(3)
            rows = data() if name in NEEDS_Y else {"X": data()["X"]}  # predictions: y is not known
            draws.append(Predictive(program, guide=proposal, num_samples=5)(**rows))
        assert draws[0].keys() == draws[1].keys()
        assert all(torch.equal(draws[0][key], draws[1][key]) for key in draws[0])
    assert all(any(p is q for q in fresh.parameters()) for p in held)  # an optimiser over them stays good
    assert set(fresh.state_dict()) == set(guide.state_dict())


@pytest.mark.parametrize("name", ["AutoNormal", "AutoGuideList"])
def test_a_killed_run_goes_on_in_a_fresh_pair_bit_for_bit(name: str, tmp_path: Path) -> None:
    class Cut:
        def on_step(self, state: Any) -> None:
            if state.step == 12:
                raise KeyboardInterrupt

    _, whole = train(GUIDES[name], tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(GUIDES[name], tmp_path / "cut", callbacks=[Cut()], checkpoint_every=5)
    _, again = train(GUIDES[name], tmp_path / "cut", checkpoint_every=5)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")
def test_loaded_values_survive_a_first_call_inside_a_question_and_further_training(tmp_path: Path) -> None:
    model, guide = train(AutoNormal, tmp_path / "run")
    answers = []
    for pair in ((model, guide), (fresh_model := Line(), fresh := AutoNormal(fresh_model))):
        if pair[1] is fresh:
            load_parameters(tmp_path / "run", *pair)
        answers.append(query(*pair, {}, ask=["w"], batch=data(), num_samples=50, seed=1).samples["w"])
    assert torch.equal(*answers)
    second = AutoNormal(third := Line())
    load_parameters(tmp_path / "run", third, second)
    for pair in ((model, guide), (third, second)):
        fit(*pair, data(), stages=Stage("more", 5), progress="off")
    assert all(torch.equal(a, b) for a, b in zip(guide.parameters(), second.parameters(), strict=True))


def test_a_first_call_that_fails_loses_nothing(tmp_path: Path) -> None:
    _, guide = train(AutoNormal, tmp_path / "run")
    model = Line()
    fresh = AutoNormal(model)
    load_parameters(tmp_path / "run", model, fresh)
    with pytest.raises(TypeError):
        fresh(nonsense=1)
    fresh(**data())
    assert torch.equal(fresh.locs.w, guide.locs.w)
    assert torch.equal(fresh.median()["a"], guide.median()["a"])


def test_a_guide_over_another_model_is_refused_at_the_first_call_and_every_time(tmp_path: Path) -> None:
    train(AutoNormal, tmp_path / "run")
    fresh = AutoNormal(model := Wider())
    load_parameters(tmp_path / "run", model, fresh)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"AutoNormal do not fit.*locs\.w_unconstrained"):
            fresh(**data())


class LazyPair:
    """A model of one latent, and a guide whose layers learn their width from the data."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Linear(1, 2)

        def forward(self, X: Tensor) -> None:
            with pyro.plate("data", len(X)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("X", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=X)

    class Guide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LazyBatchNorm1d()
            self.encoder = nn.LazyLinear(1)

        def forward(self, X: Tensor) -> None:
            with pyro.plate("data", len(X)):
                pyro.sample("z", dist.Normal(self.encoder(self.norm(X)), 0.5).to_event(1))


def test_lazy_layers_take_what_was_saved(tmp_path: Path) -> None:
    X = {"X": data()["X"]}
    model, guide = LazyPair.Model(), LazyPair.Guide()
    fit(model, guide, X, stages=Stage("all", 10), out=tmp_path / "run", progress="off", tensorboard=False)
    fresh_model, fresh = LazyPair.Model(), LazyPair.Guide()
    load_parameters(tmp_path / "run", fresh_model, fresh)
    for _ in range(2):
        assert guide.state_dict().keys() == fresh.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(*(g.state_dict().values() for g in (guide, fresh)), strict=True))
        guide.eval(), fresh.eval()
        means = [poutine.trace(g).get_trace(**X).nodes["z"]["fn"].mean for g in (guide, fresh)]
        assert torch.equal(*means)


def test_only_the_model_may_be_loaded(tmp_path: Path) -> None:
    X = {"X": data()["X"]}
    model, guide = LazyPair.Model(), LazyPair.Guide()
    fit(model, guide, X, stages=Stage("all", 10), out=tmp_path / "run", progress="off", tensorboard=False)
    fresh = LazyPair.Model()
    load_parameters(tmp_path / "run", fresh, batch=X)
    assert torch.equal(fresh.decoder.weight, model.decoder.weight)
