"""What a step of the engine costs, against the same mathematics written by hand in bare PyTorch.

    python -P -m pytest benchmarks/test_engine.py -m bench -s

Both sides train the same variational autoencoder (784-400-20, batch 128, one sample) with the same fused Adam, once
with the analytic Kullback-Leibler term (`mean_field`) and once with the sampled one (`elbo`). Times are CPU time of one
thread, medians over alternating blocks of 8 steps.
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

ROWS, STEPS, BATCH, BLOCK = 1280, 1200, 128, 8


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

    def __init__(self, model: Model, guide: Guide, data: Tensor, analytic: bool) -> None:
        self.model, self.guide, self.data, self.analytic = model, guide, data, analytic
        self.optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=1e-3, fused=True)
        self.start = len(data)

    def step(self) -> None:
        if self.start >= len(self.data):
            self.order, self.start = torch.randperm(len(self.data)), 0
        x = self.data[self.order[self.start : self.start + BATCH]]
        self.start += BATCH
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


def measure(features: int, hidden: int, latent: int, objective: str) -> tuple[float, float, float]:
    """Return milliseconds per step by hand and with the engine, and the median ratio of the blocks."""
    torch.manual_seed(0)
    data = (torch.rand(ROWS, features) < 0.3).float()
    hand = ByHand(Model(features, hidden, latent), Guide(features, hidden, latent), data, objective == "mean_field")
    times = Alternate(hand)
    stage = Stage("all", STEPS, objective=objective, batch_size=BATCH)
    pair = Model(features, hidden, latent), Guide(features, hidden, latent)
    fit(*pair, {"x": data}, stages=stage, progress="off", callbacks=[times])
    hands, engines = times.hands[5:], times.engines[5:]  # the first blocks warm caches and allocator
    ratios = [engine / by_hand for engine, by_hand in zip(engines, hands, strict=True)]
    return statistics.median(hands), statistics.median(engines), statistics.median(ratios)


@pytest.mark.bench
def test_a_step_of_the_engine_costs_at_most_15_percent_more_than_by_hand() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        print(f"\n{'objective':<12}{'by hand, ms':>14}{'engine, ms':>14}{'ratio':>8}   (VAE 784-400-20, batch {BATCH})")
        ratios = {}
        for objective in ("mean_field", "elbo"):
            hand, engine, ratios[objective] = measure(784, 400, 20, objective)
            print(f"{objective:<12}{hand:>14.2f}{engine:>14.2f}{ratios[objective]:>8.3f}")
    finally:
        torch.set_num_threads(threads)
    assert max(ratios.values()) <= 1.15
