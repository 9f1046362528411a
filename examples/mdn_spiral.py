"""Two targets at once, and the three forms of a mixture head: module, distribution, Pyro pair.

A point moves along a noisy spiral; its two coordinates are predicted from the time, which leaves out where exactly on
the spiral it is. The script

1. puts a mixture head behind a body of its own and trains it as any torch module, asking the *distribution* it gives;
2. trains the *system*, whose model and guide are a Pyro pair, for diagonal and full components;
3. shows what the two temperatures do, and the error of one draw beside that of the mean;
4. saves the system and loads it again, no shape being mentioned.

    python examples/mdn_spiral.py --out spiral.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure
from pyro import poutine
from torch import nn

from phlogiston import datasets, systems
from phlogiston.distributions.mixtures.from_head import mixture
from phlogiston.networks.mixture_heads import MixtureHead
from phlogiston.systems.mdn import MDN

TEMPERATURES = {"as learned": (1.0, 1.0), "calm": (0.5, 0.2), "best component's mean": (0.0, 0.0)}


def head_alone(data: datasets.Dataset, steps: int) -> float:
    """Train a head behind a body of one's own; return the held-out negative log-likelihood, nats."""
    torch.manual_seed(0)
    x, y = data.train.tensors["x"], data.train.tensors["y"]
    head = MixtureHead(32, targets=2, num_components=8, kind="full")
    head.initialise(y)
    network = nn.Sequential(nn.Linear(x.shape[1], 32), nn.Tanh(), head)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(steps):
        rows = torch.randint(len(x), (256,))
        loss = -mixture(network(x[rows])).log_prob(y[rows]).mean()  # a distribution like any other
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return -float(mixture(network(data.test.tensors["x"])).log_prob(data.test.tensors["y"]).mean())


def main() -> None:
    """Run the story."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("spiral.png"))
    parser.add_argument("--smoke", action="store_true", help="some steps only")
    chosen = parser.parse_args()
    steps = 40 if chosen.smoke else 2000
    data = datasets.load("spiral")
    print(f"a head of one's own:  {head_alone(data, steps):.3f} nats on held-out points")

    for kind in ("diag", "full"):
        system = MDN(kind=kind, num_components=8, steps=steps).fit(data, progress="off")
        found = system.evaluate(data, ["log_likelihood", "rmse", "draw"])
        print(f"system, {kind} components: {-found['log_likelihood'].value:.3f} nats; {found['rmse']}")
    print(f"squared error of one draw {found['mse_of_draw'].value:.3f}, of the mean {found['rmse'].value ** 2:.3f}")

    x = data.test.tensors["x"][:400]
    trace = poutine.trace(system.model).get_trace(x=x)  # the program itself
    print("sites of the program:", [name for name in trace.stochastic_nodes if name != "data"])
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    figure.set_label("points of a spiral: the data, and draws at three temperatures")
    panels = figure.subplots(1, 4, sharex=True, sharey=True)
    drawn = {"data": data.test.tensors["y"][:400]}
    for name, (pi, sigma) in TEMPERATURES.items():
        drawn[name] = system.sample(1, x=x, pi_temperature=pi, sigma_temperature=sigma, seed=0)["y"][0]
    for place, (name, points) in zip(panels, drawn.items(), strict=True):
        place.scatter(points[:, 0], points[:, 1], s=3, color="#1f3a5f")
        place.set_title(name, fontsize=9)
        place.set_aspect("equal")
    figure.savefig(chosen.out, dpi=110)

    with tempfile.TemporaryDirectory() as folder:
        system.save(f"{folder}/spiral")
        again = systems.load(f"{folder}/spiral")
        same = torch.equal(again.log_prob(data.test).value, system.log_prob(data.test).value)
    print(f"loaded from the folder alone: {'the same densities' if same else 'other densities'}; {chosen.out}")


if __name__ == "__main__":
    main()
