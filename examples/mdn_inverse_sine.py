"""Several right answers: why a network should answer with a mixture.

The task is the inverse of a noisy sine: x = 7 sin(0.75 y) + 0.5 y + noise, and y is to be predicted from x. One x has
up to five good answers. The script

1. evaluates and draws a small mixture, two humps at -5 and 5;
2. trains a network on squared error, which answers with the mean of the good answers: usually none of them;
3. trains a mixture density network with the same body, which covers all of them;
4. asks it for branches, intervals, conditional draws, and for what it does not know.

    python examples/mdn_inverse_sine.py --out runs/inverse-sine

writes four pictures and prints the figures of merit. `--quick` takes seconds.

Reference: Bishop, "Mixture Density Networks", 1994.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from phlogiston import datasets
from phlogiston.distributions.mixtures.diagonal import DiagMixture
from phlogiston.systems.mdn import MDN

INK, ACCENT = "#1d3557", "#c2410c"


def two_humps() -> Figure:
    """Draw a mixture by hand: weights one half, means -5 and 5, standard deviations 2 and 3."""
    mixture = DiagMixture(torch.zeros(2), torch.tensor([[-5.0], [5.0]]), torch.tensor([[2.0], [3.0]]))
    y = torch.linspace(-15, 17, 400).unsqueeze(1)
    density = mixture.log_prob(y).exp()
    each = mixture.logits.softmax(-1) * mixture.component_log_prob(y).exp()
    print("two humps: mean", round(float(mixture.mean), 3), " variance", round(float(mixture.variance), 3))
    print("           density at -5, 0, 5:", mixture.log_prob(torch.tensor([[-5.0], [0.0], [5.0]])).exp().tolist())
    print("           5 %, 50 %, 95 %:", mixture.quantile([0.05, 0.5, 0.95]).flatten().tolist())
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(y, density, color=INK, linewidth=2, label="mixture")
    axes.plot(y, each, color=ACCENT, linewidth=1, linestyle="--", label=["a component, weighted", None])
    region = mixture.interval(0.5, "hpd")
    for low, high in zip(region.lower[0][region.mask[0]], region.upper[0][region.mask[0]], strict=True):
        inside = (y[:, 0] >= low) & (y[:, 0] <= high)
        axes.fill_between(y[inside, 0], density[inside], color=INK, alpha=0.2, linewidth=0)
    axes.set(xlabel="y", ylabel="density", title="two humps; shaded: the shortest 50 % region has two parts")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def squared_error_network(data: datasets.Dataset, epochs: int) -> tuple[torch.nn.Module, float]:
    """Train 1-15-15-1 on squared error; return it, and its NLL as a Gaussian around its answer."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(1, 15), torch.nn.Tanh(), torch.nn.Linear(15, 15), torch.nn.Tanh(), torch.nn.Linear(15, 1)
    )
    x, y = data.train.tensors["x"] / 7.0, data.train.tensors["y"]
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            loss = (net(x[rows]) - y[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        spread = (net(x) - y).std()
        gap = net(data.test.tensors["x"] / 7.0) - data.test.tensors["y"]
        return net, float(-torch.distributions.Normal(0.0, spread).log_prob(gap).mean())


def answers(data: datasets.Dataset, net: torch.nn.Module, system: MDN) -> Figure:
    """Set the answers of both networks beside the data."""
    test = data.test.select(slice(0, 1500))
    x, y = test.tensors["x"], test.tensors["y"]
    with torch.no_grad():
        mean = net(x / 7.0)
    drawn = system.sample(1, x=x, seed=0)["y"][0]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    titles = ("data", "squared error: one answer, mostly wrong", "mixture: a draw for each x")
    for axes, values, title in zip(
        figure.subplots(1, 3, sharex=True, sharey=True), (y, mean, drawn), titles, strict=True
    ):
        axes.scatter(x, y, s=3, color="#8a94a3", alpha=0.35, linewidths=0)
        if values is not y:
            axes.scatter(x, values, s=3, color=ACCENT, linewidths=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("x")
    figure.axes[0].set_ylabel("y")
    return figure


def at_one_input(system: MDN, at: float) -> Figure:
    """Draw the predicted density at one input: components, modes, and the two kinds of interval."""
    found = system.predictive(np.array([[at]], dtype=np.float32))[0]
    y = torch.linspace(-12, 12, 600).unsqueeze(1)
    modes, central, shortest = found.modes(), found.interval(0.9), found.interval(0.9, "hpd")
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    each = found.logits.softmax(-1) * found.component_log_prob(y).exp()
    labels = ["components, weighted", *[None] * (each.shape[-1] - 1)]
    axes.plot(y, found.log_prob(y).exp(), color=INK, linewidth=2.5, label=f"p(y | x = {at:g})")
    axes.plot(y, each, color=ACCENT, linewidth=1, linestyle="--", label=labels)
    strong = modes.mask & (modes.log_density > modes.log_density[0] - 3)
    axes.plot(modes.points[strong, 0], modes.log_density[strong].exp(), "o", color=INK, label="modes")
    floor = -0.04 * float(found.log_prob(y).exp().max())
    axes.hlines(2.4 * floor, central.lower[0], central.upper[0], color="#8a94a3", linewidth=4, label="central 90 %")
    low, high = (ends[0][shortest.mask[0]] for ends in (shortest.lower, shortest.upper))
    axes.hlines([floor] * len(low), low, high, color=INK, linewidth=4, label="shortest 90 %")
    axes.set(xlabel="y", ylabel="density", title=f"{int(strong.sum())} answers at x = {at:g}")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    print(f"at x = {at:g}: branches at {[round(v, 2) for v in modes.points[strong, 0].tolist()]}")
    parts = [(round(float(a), 2), round(float(b), 2)) for a, b in zip(low, high, strict=True)]
    print(f"           shortest 90 % region: {parts}")
    return figure


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("runs/inverse-sine"), help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="train for seconds")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    two_humps().savefig(given.out / "two-humps.png", dpi=120)

    data = datasets.load("arcsine", sizes=(2550, 450, 2000 if given.quick else 10_000))
    net, squared = squared_error_network(data, 15 if given.quick else 200)
    system = MDN(preset="paper", steps=300 if given.quick else 4000).fit(data, progress="off")
    truth = data.meta.conditional_truth
    assert truth is not None
    best = -float(truth(data.test.numpy("y"), data.test.numpy("x")).mean())
    found = system.evaluate(data)
    print(
        f"test NLL, nats: squared error {squared:.3f}, mixture {-found['log_likelihood'].value:.3f}, truth {best:.3f}"
    )
    print(f"90 % intervals hold: central {found['coverage_90']}, shortest {found['coverage_hpd_90']}")
    answers(data, net, system).savefig(given.out / "answers.png", dpi=120)
    at_one_input(system, 0.0).savefig(given.out / "at-one-input.png", dpi=120)

    few = datasets.load("arcsine", sizes=(150, 0, 1000))
    short = {"steps": 150, "posterior_steps": 150, "weight_samples": 10} if given.quick else {}
    bayesian = MDN(preset="bayesian", **short).fit(few, progress="off")
    pictures = bayesian.figures(few)
    pictures["where the uncertainty comes from"].savefig(given.out / "ignorance.png", dpi=120)
    known = bayesian.uncertainty(np.array([[0.0], [25.0]], dtype=np.float32), draws=100)
    inside, outside = known.mutual_information.tolist()
    print(f"150 rows, random weights: ignorance at x = 0 is {inside:.2f} nats, far outside the data {outside:.2f}")
    print(f"pictures are in {given.out}")


if __name__ == "__main__":
    main()
