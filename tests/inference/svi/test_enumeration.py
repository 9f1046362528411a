"""`enum` against sums over every value by brute force, wherever the plates lie and however many rows there are."""

from __future__ import annotations

import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.inference import Stage, fit
from phlogiston.inference.svi import objectives

CLASSES = 3


class Mixture(nn.Module):
    """A class per row, V readings per row given the class; the readings are one event, or an inner plate."""

    def __init__(self, inner: bool, readings: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.inner = inner
        self.logits = nn.Parameter(torch.randn(CLASSES, generator=generator))
        self.means = nn.Parameter(torch.randn(CLASSES, readings, generator=generator))

    @config_enumerate
    def forward(self, x: Tensor, length: Tensor | None = None) -> None:
        if not self.inner:
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Categorical(logits=self.logits))
                pyro.sample("x", dist.Normal(self.means[k], 1.0).to_event(1), obs=x)
            return
        readings = pyro.plate("readings", x.shape[1], dim=-1)
        with pyro.plate("data", len(x), dim=-2):
            k = pyro.sample("k", dist.Categorical(logits=self.logits))
            with readings:
                at = torch.arange(x.shape[1])
                pyro.sample("x", dist.Normal(self.means[k, at], 1.0), obs=x)

    def brute_force(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        """Return log p of each row."""
        joint = [
            self.logits.log_softmax(0)[k] + dist.Normal(self.means[k], 1.0).log_prob(x).sum(1) for k in range(CLASSES)
        ]
        return torch.stack(joint).logsumexp(0)


class Markov(nn.Module):
    """A hidden Markov chain per row, of ragged length; V readings per time, one event or an inner plate."""

    def __init__(self, inner: bool, readings: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.inner = inner
        self.transition = nn.Parameter(torch.randn(CLASSES, CLASSES, generator=generator))
        self.emission = nn.Parameter(torch.randn(CLASSES, readings, generator=generator))

    @config_enumerate
    def forward(self, x: Tensor, length: Tensor) -> None:
        move, emit = self.transition.softmax(-1), self.emission.sigmoid()
        readings = pyro.plate("readings", x.shape[-1], dim=-1)
        with pyro.plate("data", len(x), dim=-2 if self.inner else -1):
            z: Any = 0
            for t in pyro.markov(range(x.shape[1])):
                on = (t < length)[:, None] if self.inner else t < length
                with poutine.mask(mask=on):
                    z = pyro.sample(f"z{t}", dist.Categorical(move[z]))
                    if self.inner:
                        with readings:
                            at = torch.arange(x.shape[-1])
                            pyro.sample(f"x{t}", dist.Bernoulli(emit[z, at]), obs=x[:, t])
                    else:
                        pyro.sample(f"x{t}", dist.Bernoulli(emit[z]).to_event(1), obs=x[:, t])

    def brute_force(self, x: Tensor, length: Tensor) -> Tensor:
        """Return log p of each row."""
        move, emit = self.transition.log_softmax(-1), self.emission.sigmoid()
        out = []
        for row, steps in zip(x, length.tolist(), strict=True):
            paths = []
            for path in itertools.product(range(CLASSES), repeat=steps):
                before = (0, *path[:-1])
                paths.append(
                    sum(move[a, b] for a, b in zip(before, path, strict=True))
                    + sum(dist.Bernoulli(emit[z]).log_prob(row[t]).sum() for t, z in enumerate(path))
                )
            out.append(torch.stack(paths).logsumexp(0))
        return torch.stack(out)


def data(kind: type, rows: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if kind is Mixture:
        return {"x": torch.randn(rows, 4, generator=generator)}
    lengths = torch.randint(1, 4, (rows,), generator=generator)
    return {"x": (torch.rand(rows, 3, 4, generator=generator) < 0.4).float(), "length": lengths}


class Keep:
    """Keeps the last gradient of the model and the last loss on validation rows."""

    def on_step(self, state: Any) -> None:
        self.gradients = {name: p.grad.clone() for name, p in state.model.named_parameters()}

    def on_end(self, state: Any) -> None:
        self.valid_loss = state.valid_loss


LAYOUTS = [(Mixture, False), (Mixture, True), (Markov, False), (Markov, True)]
NAMES = ["rows at -1", "rows at -2", "chain, rows at -1", "chain, rows at -2"]


@pytest.mark.parametrize("rows", [1, CLASSES, 4])  # as many rows as classes, as many as readings
@pytest.mark.parametrize(("kind", "inner"), LAYOUTS, ids=NAMES)
@pytest.mark.parametrize("objective", ["enum", TraceEnum_ELBO], ids=["enum", "Pyro's class"])
def test_loss_and_gradient_are_those_of_the_sum_over_all_values(
    objective: Any, kind: Any, inner: bool, rows: int
) -> None:
    batch = data(kind, rows)
    ours, truth = kind(inner), kind(inner)
    seen = Keep()
    history = fit(
        ours,
        None,
        batch,
        stages=Stage("a", 1, objective=objective if isinstance(objective, str) else objective(), learning_rate=1e-12),
        callbacks=[seen],
        log_every=1,
        progress="off",
    )
    loss = -truth.brute_force(**batch).mean()
    loss.backward()
    assert history.loss[0] == pytest.approx(loss.item(), rel=1e-4)
    for name, parameter in truth.named_parameters():
        torch.testing.assert_close(seen.gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("kind", "inner"), LAYOUTS, ids=NAMES)
def test_validation_gives_the_exact_loss_of_the_other_rows_batch_by_batch(kind: Any, inner: bool) -> None:
    model = kind(inner)
    rows, valid = data(kind, 7), data(kind, 5, seed=1)
    stage = Stage("a", 4, objective="enum", batch_size=3, learning_rate=0.05)  # the last batch of both is smaller
    end = Keep()
    fit(model, None, rows, stages=stage, valid=valid, callbacks=[end], progress="off")
    with torch.no_grad():
        truth = -model.brute_force(**valid).mean().item()
    assert end.valid_loss == pytest.approx(truth, rel=1e-4)


def test_enumeration_in_the_guide_is_validated_as_it_is_trained() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.means = nn.Parameter(torch.tensor([-1.0, 1.0]))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Bernoulli(0.4))
                pyro.sample("x", dist.Normal(self.means[k.long()], 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(1, 1)

        @config_enumerate
        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("k", dist.Bernoulli(logits=self.net(x[:, None])[:, 0]))

    x, valid = torch.randn(20, generator=torch.Generator().manual_seed(3)), torch.linspace(-2.0, 2.0, 7)
    model, guide = Model(), Guide()
    stage = Stage("a", 30, objective="enum", batch_size=8, learning_rate=0.05)
    end = Keep()
    fit(model, guide, {"x": x}, stages=stage, valid={"x": valid}, callbacks=[end], progress="off")
    with torch.no_grad():
        q = guide.net(valid[:, None])[:, 0].sigmoid()
        joint = dist.Normal(model.means, 1.0).log_prob(valid[:, None]) + torch.tensor([0.6, 0.4]).log()
        both = torch.stack([1 - q, q], 1)
        truth = -(both * (joint - both.log())).sum(1).mean()
    assert end.valid_loss == pytest.approx(truth.item(), rel=1e-4)


def test_too_few_plate_axes_are_refused_with_the_number_there_are() -> None:
    stage = Stage("a", 1, objective=objectives.make("enum", max_plate_nesting=1))
    with pytest.raises(ConfigError, match="max_plate_nesting=1, but the plates of this pair reach to axis -2"):
        fit(Markov(inner=True), None, data(Markov, 3), stages=stage, progress="off")
