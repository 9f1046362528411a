"""What a step of the engine costs, against the same mathematics written by hand in bare PyTorch.

    python -P -m pytest benchmarks/test_engine.py -m bench

Both sides train the same variational autoencoder (one sample) with the same fused Adam, once with the analytic
Kullback-Leibler term (`mean_field`) and once with the sampled one (`elbo`). Times are CPU time of one thread, medians
over alternating blocks of 8 steps.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.inference.svi.engine import Stage, fit

from .rows import Rows, shown

ROWS, STEPS, BLOCK = 1280, 600, 8


class Model(nn.Module):
    def __init__(self, features: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Softplus(), nn.Linear(hidden, features))
        self.register_buffer("zero", torch.zeros(latent))
        self.register_buffer("one", torch.ones(latent))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), device=x.device):
            z = pyro.sample("z", dist.Normal(self.zero, self.one).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, features: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, hidden), nn.Softplus(), nn.Linear(hidden, 2 * latent))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), device=x.device):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class ByHand:
    """The same training with nothing but torch: one sample, mean over the batch; `step` does one step."""

    def __init__(self, model: Model, guide: Guide, data: Tensor, batch: int, analytic: bool) -> None:
        self.model, self.guide, self.data, self.batch, self.analytic = model, guide, data, batch, analytic
        self.optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=1e-3, fused=True)
        self.start = len(data)

    def step(self) -> None:
        if self.start >= len(self.data):
            self.order, self.start = torch.randperm(len(self.data)), 0
        x = self.data[self.order[self.start : self.start + self.batch]]
        self.start += self.batch
        self.optimizer.zero_grad(set_to_none=True)
        loc, log_scale = self.guide.encoder(x).chunk(2, -1)
        scale = log_scale.exp()
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        error = functional.binary_cross_entropy_with_logits(self.model.decoder(z), x, reduction="sum")
        if self.analytic:
            divergence = 0.5 * (scale.square() + loc.square() - 1.0 - 2.0 * log_scale).sum()
        else:
            divergence = (0.5 * (z.square() - noise.square()) - log_scale).sum()
        loss = (error + divergence) / len(x)
        loss.backward()
        self.optimizer.step()


class Alternate:
    """A callback that measures blocks of the engine's steps, and does as many steps by hand after each.

    Blocks of milliseconds see the same machine: what else runs on it, its clock, its caches.
    """

    def __init__(self, hand: ByHand) -> None:
        self.hand = hand
        self.hands: list[float] = []
        self.engines: list[float] = []
        self.began: float | None = None

    def on_step(self, state: Any) -> None:
        if state.step % BLOCK:
            return
        ended = time.thread_time()
        if self.began is not None:
            self.engines.append((ended - self.began) / BLOCK * 1e3)
            for _ in range(BLOCK):
                self.hand.step()
            self.hands.append((time.thread_time() - ended) / BLOCK * 1e3)
        self.began = time.thread_time()


def measure(features: int, hidden: int, latent: int, batch: int, objective: str) -> tuple[float, float, float]:
    """Return milliseconds per step by hand and with the engine, and the median ratio of the blocks."""
    torch.manual_seed(0)
    data = (torch.rand(ROWS, features) < 0.3).float()
    hand = ByHand(
        Model(features, hidden, latent), Guide(features, hidden, latent), data, batch, objective == "mean_field"
    )
    times = Alternate(hand)
    stage = Stage("all", STEPS, objective=objective, batch_size=batch)
    pair = Model(features, hidden, latent), Guide(features, hidden, latent)
    fit(*pair, {"x": data}, stages=stage, progress="off", callbacks=[times])
    hands, engines = times.hands[5:], times.engines[5:]  # the first blocks warm caches and allocator
    ratios = [engine / by_hand for engine, by_hand in zip(engines, hands, strict=True)]
    return statistics.median(hands), statistics.median(engines), statistics.median(ratios)


SIZES = {"small": (784, 64, 8, 32), "usual": (784, 400, 20, 128)}
"""Features, hidden units, latents, batch."""


@pytest.mark.bench
@pytest.mark.parametrize("objective", ["mean_field", "elbo"])
@pytest.mark.parametrize(("size", "bar"), [("small", 1.25), ("usual", 1.05)])
def test_a_step_of_the_engine(row: Rows, size: str, bar: float, objective: str) -> None:
    features, hidden, latent, batch = SIZES[size]
    hand, engine, ratio = measure(features, hidden, latent, batch, objective)
    row.figure(
        f"engine/{size}-{objective}",
        f"a training step of a VAE, {features}-{hidden}-{latent}, batch {batch}, `{objective}`",
        ratio,
        bar,
        shown(engine / 1e3),
        f"by hand in bare torch: {shown(hand / 1e3)}",
    )
