"""Classification as a question: one density of images and labels, with all labels or with ten per class.

A categorical column makes the label part of the density. Naming a digit is then Bayes' rule, and a training row without
a label (-1) still says what digits look like. The picture compares, label by label, the model that saw all 1,400 images
and 100 labels with the same model on the 100 labelled images alone.

    python examples/drmm_classification.py --out classification.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston import datasets
from phlogiston.datasets import Dataset
from phlogiston.systems.drmm import DRMM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIONS: dict[str, Any] = {
    "frame": "diag",
    "num_layers": 2,
    "num_components": 48,
    "steps": 1500,
    "stream_weight": 10.0,
}
CONFIGURATION = "diag, 2 layers of 48, label stream"
OPTIONS_FEW: dict[str, Any] = {
    "frame": "tril",
    "num_layers": 1,
    "num_components": 30,
    "steps": 60,
    "learning_rate": 0.002,
}
CONFIGURATION_FEW = "tril, 1 layer of 30, label stream"
NOISE = 0.15  # of the copies that keep full covariances from knowing their few rows by heart


def hide_labels(data: Dataset, per_class: int, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Keep a few labels of each class: all rows with the other labels at -1, and the labelled rows alone."""
    label = data.train.tensors["label"]
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    kept = torch.cat([order[label[order] == c][:per_class] for c in range(10)])
    hidden = torch.full_like(label, -1)
    hidden[kept] = label[kept]
    x = data.train.tensors["x"]
    return {"x": x, "label": hidden}, {"x": x[kept], "label": label[kept]}


def fit(rows: Mapping[str, Tensor], options: Mapping[str, Any], seed: int = 0, copies: int = 1) -> DRMM:
    """Fit images and labels; of `copies` copies of every image all but the first are noisy."""
    generator = torch.Generator().manual_seed(seed)
    x = rows["x"]
    noisy = [x, *(x + NOISE * torch.randn(x.shape, generator=generator) for _ in range(copies - 1))]
    return DRMM(**options).fit({"x": torch.cat(noisy), "label": rows["label"].repeat(copies)}, seed=seed)


def fit_all(data: Dataset, seed: int = 0, more: Mapping[str, Any] | None = None) -> dict[str, DRMM]:
    """With all labels, with ten per class and the rest unlabelled, and on the hundred labelled rows alone."""
    hidden, labelled = hide_labels(data, 10, seed)
    return {
        "all 1,400 labels": fit(data.train.tensors, {**OPTIONS, **(more or {})}, seed),
        "100 labels, 1,300 rows without": fit(hidden, {**OPTIONS_FEW, **(more or {})}, seed),
        "the 100 labelled rows alone": fit(labelled, {**OPTIONS_FEW, **(more or {})}, seed),
    }


def accuracy(system: DRMM, data: Dataset) -> float:
    """Share of held-out digits named correctly."""
    named = system.predict_proba("label", data.test).argmax(-1)
    return float((named == data.test.tensors["label"]).double().mean())


def picture(systems: Mapping[str, DRMM], data: Dataset) -> Figure:
    """Which labels held-out digits get, one matrix per system."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(systems), 3.7), layout="constrained")
    figure.set_label("confusion matrices of held-out digits")
    real = data.test.numpy("label")
    for ax, (title, system) in zip(figure.subplots(1, len(systems), squeeze=False)[0], systems.items(), strict=True):
        named = system.predict_proba("label", data.test).argmax(-1).numpy()
        counts = np.zeros((10, 10))
        np.add.at(counts, (real, named), 1.0)
        ax.imshow(counts / counts.sum(1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
        for i, j in zip(*np.nonzero(counts), strict=True):
            ax.text(j, i, int(counts[i, j]), ha="center", va="center", fontsize=6,
                       color="white" if counts[i, j] > 0.5 * counts[i].sum() else "#1d3557")  # fmt: skip
        ax.set(xticks=range(10), yticks=range(10), xlabel="named", ylabel="digit")
        ax.set_title(f"{title}\n{100 * accuracy(system, data):.1f} % correct", fontsize=9)
    return figure


def main() -> None:
    """Fit with all labels, with few, and on the few labelled rows alone; print accuracies and draw."""
    parser = argparse.ArgumentParser(description="Classification and semi-supervised learning by a joint density.")
    parser.add_argument("--smoke", action="store_true", help="a few steps that show the path, not the quality")
    parser.add_argument("--out", type=Path, default=Path("drmm_classification.png"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    data = datasets.load("digits", valid=0, seed=options.seed)
    systems = fit_all(data, options.seed, {"steps": 20} if options.smoke else {})
    for title, system in systems.items():
        print(f"{title}: {100 * accuracy(system, data):.1f} % of held-out digits named correctly")
    picture(systems, data).savefig(options.out, dpi=110)
    print(options.out)


if __name__ == "__main__":
    main()
