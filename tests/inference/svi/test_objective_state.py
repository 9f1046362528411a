"""What an objective remembers from step to step survives a kill, and nothing of it stays behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from inference_pairs import flat, pair, rows
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from torch import Tensor, nn

from phlogiston.inference import Stage, fit
from phlogiston.inference.svi import objective_state


class Coins(nn.Module):
    """z ~ Bernoulli; x | z ~ N(mean_z, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor([-0.5, 0.5]))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(self.means[z.long()], 1.0), obs=x)


class CoinGuide(nn.Module):
    """q(z | x), with a running average of the cost, or a network of x, as its baseline."""

    def __init__(self, baseline: str) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.guess = nn.Linear(1, 1) if baseline == "network" else None

    def forward(self, x: Tensor) -> None:
        options: dict[str, Any] = {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}
        if self.guess is not None:
            options = {"baseline_value": self.guess(x[:, None])[:, 0]}
        with pyro.plate("data", len(x)):
            logits = self.net(x[:, None])[:, 0]
            pyro.sample("z", dist.Bernoulli(logits=logits), infer={"baseline": options})


class Remembering(Trace_ELBO):  # type: ignore[misc]
    """Weights the loss by what it has seen: numbers, tensors and dictionaries that appear while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.average = torch.zeros(())
        self.by_rows: dict[str, Tensor] = {}
        self.history: list[float] = []

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        self.calls += 1
        key = str(len(kwargs["x"]))
        self.average = 0.9 * self.average + 0.1 * loss.detach()
        self.by_rows[key] = self.by_rows.get(key, torch.zeros(())) + loss.detach()
        self.history = [*self.history, loss.item()][-3:]
        weight = torch.sigmoid(self.average / 100.0 - self.by_rows[key] / 1e4 + self.calls / 100.0)
        return (1.0 + weight) * loss


class PowerCut:
    def on_step(self, state: Any) -> None:
        if state.step == 33:
            raise RuntimeError("power cut")


def coins(baseline: str) -> tuple[Any, Any]:
    torch.manual_seed(1)
    return Coins(), CoinGuide(baseline)


PAIRS = {
    "running average": (lambda: coins("average"), TraceGraph_ELBO, rows("sampled", 50)),
    "network": (lambda: coins("network"), TraceGraph_ELBO, rows("sampled", 50)),
    "an ELBO of one's own": (pair, Remembering, rows(count=50)),
}


@pytest.mark.parametrize("case", PAIRS)
def test_a_killed_run_ends_with_the_parameters_of_a_whole_one(case: str, tmp_path: Path) -> None:
    make, objective, data = PAIRS[case]
    shared = objective()  # the same object in every call, as in a recipe kept in a variable

    def run(out: Any, objective: Any = shared, callbacks: Any = ()) -> Tensor:
        model, guide = make()
        stage = Stage("a", 45, objective=objective, batch_size=20, learning_rate=0.02)  # 20, 20, 10 rows
        options = {"checkpoint_every": 20, "tensorboard": False, "progress": "off"}
        fit(model, guide, data, stages=stage, out=out, callbacks=callbacks, **options)  # type: ignore[arg-type]
        return flat(model, guide)

    pyro.clear_param_store()
    whole = run(None)
    assert torch.equal(run(None), whole)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "run", callbacks=[PowerCut()])
    assert torch.equal(run(tmp_path / "run", objective()), whole)
    assert not list(pyro.get_param_store().keys())


def test_averages_of_somebody_elses_training_are_left_alone() -> None:
    name = "__baseline_avg_downstream_cost_z"
    store = pyro.get_param_store()
    pyro.clear_param_store()
    store[name] = torch.full((3,), 7.0)
    model, guide = coins("average")
    fit(model, guide, PAIRS["running average"][2], stages=Stage("a", 2, objective=TraceGraph_ELBO()), progress="off")
    assert torch.equal(store[name].detach(), torch.full((3,), 7.0))
    pyro.clear_param_store()


def test_state_goes_through_json_and_back() -> None:
    class Thing:
        def __init__(self) -> None:
            self.number, self.table = 3, {"a": [torch.ones(2), (1.5, None)]}
            self.opaque = object()

    thing, other = Thing(), Thing()
    before = objective_state.capture(thing)
    assert objective_state.changes(thing, before) == ({}, {})
    thing.table["a"][0].mul_(2.0)  # type: ignore[attr-defined]
    tensors, skeleton = objective_state.changes(thing, before)
    assert list(skeleton) == ["table"]
    objective_state.put_back(other, (tensors, skeleton))
    assert torch.equal(other.table["a"][0], torch.full((2,), 2.0))  # type: ignore[arg-type]
    assert other.table["a"][1] == (1.5, None)
    objective_state.put_back(thing, ({}, {}), before)
    assert torch.equal(thing.table["a"][0], torch.ones(2))  # type: ignore[arg-type]
