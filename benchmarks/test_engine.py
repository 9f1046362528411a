"""What a step of the engine costs, against the same mathematics written by hand in bare PyTorch.

    python -P -m pytest benchmarks/test_engine.py -m bench -s

Both sides train the same variational autoencoder (784-400-20, batch 128, one sample) with the same fused Adam, once
with the analytic Kullback-Leibler term (`mean_field`) and once with the sampled one (`elbo`). Times are process time on
one thread, medians over interleaved rounds.
"""

from __future__ import annotations

import statistics
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.inference.engine import Stage, fit

ROWS, STEPS, ROUNDS, BATCH = 1280, 200, 9, 128


class Model(nn.Module):
    def __init__(self, features: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Softplus(), nn.Linear(hidden, features))
        self.register_buffer("zero", torch.zeros(latent))
        self.register_buffer("one", torch.ones(latent))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.zero, self.one).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, features: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, hidden), nn.Softplus(), nn.Linear(hidden, 2 * latent))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def by_hand(model: Model, guide: Guide, data: Tensor, steps: int, analytic: bool = True) -> None:
    """Train with nothing but torch: one sample, mean over the batch."""
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=1e-3, fused=True)
    step = 0
    while True:
        order = torch.randperm(len(data))
        for start in range(0, len(data), BATCH):
            if step == steps:
                return
            x = data[order[start : start + BATCH]]
            optimizer.zero_grad(set_to_none=True)
            loc, log_scale = guide.encoder(x).chunk(2, -1)
            scale = log_scale.exp()
            noise = torch.randn_like(loc)
            z = loc + scale * noise
            error = functional.binary_cross_entropy_with_logits(model.decoder(z), x, reduction="sum")
            if analytic:
                divergence = 0.5 * (scale.square() + loc.square() - 1.0 - 2.0 * log_scale).sum()
            else:
                divergence = (0.5 * (z.square() - noise.square()) - log_scale).sum()
            loss = (error + divergence) / len(x)
            loss.backward()
            optimizer.step()
            step += 1


def measure(features: int, hidden: int, latent: int, objective: str) -> tuple[float, float, float]:
    """Return milliseconds per step by hand and with the engine, and the median ratio of the rounds."""
    torch.manual_seed(0)
    data = (torch.rand(ROWS, features) < 0.3).float()
    hand, engine = [], []
    pairs = [(Model(features, hidden, latent), Guide(features, hidden, latent)) for _ in range(2)]
    stage = Stage("all", STEPS, objective=objective, batch_size=BATCH)
    for turn in range(ROUNDS + 2):
        began = time.process_time()
        by_hand(*pairs[0], data, STEPS, analytic=objective == "mean_field")
        middle = time.process_time()
        fit(*pairs[1], {"x": data}, stages=stage, progress="off")
        ended = time.process_time()
        if turn >= 2:  # the first rounds warm caches and allocator
            hand.append((middle - began) / STEPS * 1e3)
            engine.append((ended - middle) / STEPS * 1e3)
    return (
        statistics.median(hand),
        statistics.median(engine),
        statistics.median(e / h for e, h in zip(engine, hand, strict=True)),
    )


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
