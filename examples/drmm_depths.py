"""What is depth worth, and what the curriculum that trains every depth? One table on self-similar and on smooth data.

Deep residual mixtures of about as many parameters, one to five layers deep, and a Gaussian mixture of scikit-learn
beside them: held-out log-likelihood, precision and recall by nearest neighbours, and the gain of each layer. Each depth
is trained with the curriculum (the truncated depths count, too, less and less) and without.

    python examples/drmm_depths.py
    python examples/drmm_depths.py --data swissroll

After the comparison of depths in Hämäläinen and Solin, Deep Residual Mixture Models, 2020.
"""

from __future__ import annotations

import argparse
from typing import Any

from sklearn.mixture import GaussianMixture

from phlogiston import datasets
from phlogiston.evaluate.neighbours import precision_recall
from phlogiston.systems.drmm import DRMM

SHAPES = {"15 x 1": (1, 15), "8 x 2": (2, 8), "5 x 3": (3, 5), "3 x 5": (5, 3)}


def row(name: str, likelihood: float, real: Any, drawn: Any, gains: str = "") -> str:
    """One line of the table."""
    result = precision_recall(real, drawn, k=3)
    return f"{name:34}{likelihood:8.3f}{result['precision'].value:11.3f}{result['recall'].value:8.3f}   {gains}"


def main() -> None:
    """Fit all and print the table."""
    parser = argparse.ArgumentParser(description="The worth of depth and of the curriculum.")
    parser.add_argument("--data", default="sierpinski", help="two-dimensional built-in data")
    parser.add_argument("--smoke", action="store_true", help="two small models, some steps")
    chosen = parser.parse_args()
    data = datasets.load(chosen.data)
    held_out = data.test.tensors["x"][: 200 if chosen.smoke else 1000]
    shapes = {"3 x 2": (2, 3)} if chosen.smoke else SHAPES
    print(f"{'components x layers':34}{'nats':>8}{'precision':>11}{'recall':>8}   after each layer")
    for name, (layers, components) in shapes.items():
        for curriculum in (1.0, 0.0) if layers > 1 else (1.0,):
            system = DRMM(
                frame="iso", num_layers=layers, num_components=components, steps=30 if chosen.smoke else 1500,
                depth_weight=curriculum, final_depth_weight=0.1 * curriculum,
            ).fit(data, progress="off")  # fmt: skip
            depths = [system.log_prob(held_out, depth=depth).mean().value for depth in range(1, layers + 1)]
            drawn = system.sample(len(held_out), seed=0)["x"]
            words = name if curriculum else f"{name}, the last layer alone counts"
            print(row(words, depths[-1], held_out, drawn, " ".join(f"{depth:.2f}" for depth in depths)))
    mixture = GaussianMixture(15, covariance_type="spherical", random_state=0).fit(data.train.numpy("x"))
    drawn = mixture.sample(len(held_out))[0].astype("float32")
    print(row("GaussianMixture, 15 spherical", mixture.score(held_out.numpy()), held_out, drawn))


if __name__ == "__main__":
    main()
