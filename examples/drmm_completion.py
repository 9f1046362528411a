"""Completing images by conditioning a density: the lower half of handwritten digits given the upper half.

The posterior mean is the best guess pixel by pixel, and blurred where several digits are possible; samples are sharp
and differ. Beside them, two imputers of scikit-learn, which give one answer only. Full covariances need more rows than
1,400; noisy copies of the training images keep them from knowing those by heart.

    python examples/drmm_completion.py --out completion.png
    python examples/drmm_completion.py --data mnist --out completion.png      # 28 x 28, fetched on first use
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston import datasets
from phlogiston.datasets import Dataset
from phlogiston.inference.query.evidence import Known
from phlogiston.systems.drmm import DRMM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIONS: dict[str, Any] = {"frame": "tril", "num_layers": 1, "num_components": 40, "steps": 150,
                           "learning_rate": 0.002}  # fmt: skip
OPTIONS_LARGE: dict[str, Any] = {"frame": "diag", "num_layers": 2, "num_components": 64, "steps": 2000}
CONFIGURATION = "tril, 1 layer of 40, label stream, 8 noisy copies"
COPIES, NOISE = 8, 0.15


def fit(data: Dataset, seed: int = 0, options: dict[str, Any] | None = None, copies: int = COPIES) -> DRMM:
    """Fit images and labels, the images also in noisy copies."""
    x, label = data.train.tensors["x"].float().flatten(1), data.train.tensors["label"]
    generator = torch.Generator().manual_seed(seed)
    noisy = [x, *(x + NOISE * torch.randn(x.shape, generator=generator) for _ in range(copies - 1))]
    rows = {"x": torch.cat(noisy), "label": label.repeat(copies)}
    return DRMM(**(options or OPTIONS)).fit(rows, seed=seed)


def complete(system: DRMM, x: np.ndarray, seed: int = 0, num_samples: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Complete the lower halves: posterior means and one sample each, (n, pixels) both; upper halves stay as given."""
    question = {"x": Known(torch.from_numpy(x).double(), torch.arange(x.shape[1]) < x.shape[1] // 2)}
    # Without a component's own noise the average over samples has the same mean and less error; not where pixels are
    # mapped, for the image of a mean is no mean.
    noise = "mean" if system.model.cells is None else "model"
    mean = system.query(question, ask=["x"], num_samples=num_samples, noise=noise, seed=seed).mean("x").numpy()
    sample = system.query(question, ask=["x"], num_samples=1, seed=seed).samples["x"][0].numpy()
    return mean, sample


def imputed(train: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
    """The same by scikit-learn's imputers as they come, and by the training rows' mean."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer

    half = x.shape[1] // 2
    holes = x.copy()
    holes[:, half:] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten rounds are what it does by default
        regressed = IterativeImputer(random_state=0).fit(np.concatenate([train, holes])).transform(holes)
    return {
        "mean image": np.concatenate([x[:, :half], np.broadcast_to(train[:, half:].mean(0), x[:, half:].shape)], 1),
        "IterativeImputer": regressed,
        "KNNImputer": KNNImputer().fit(train).transform(holes),
        "KNNImputer, 10 neighbours": KNNImputer(n_neighbors=10).fit(train).transform(holes),
    }


def squared_error(completed: np.ndarray, x: np.ndarray) -> float:
    """Mean squared error of the lower halves' pixels."""
    half = x.shape[1] // 2
    return float(((completed - x)[:, half:] ** 2).mean())


def judge(data: Dataset) -> Any:
    """A support vector machine that has seen real digits only; `score(images, labels)` is its accuracy."""
    from sklearn.svm import SVC

    return SVC(C=10.0).fit(data.train.numpy().reshape(len(data.train), -1), data.train.numpy("label"))


def picture(columns: dict[str, np.ndarray], shape: tuple[int, ...], shown: int = 12) -> Figure:
    """One column per digit, one row per kind of completion."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.62 * shown + 1.3, 0.62 * len(columns) + 0.15))
    figure.set_label("held-out digits, their upper halves, and completions")
    spacing = {"wspace": 0.06, "hspace": 0.06, "left": 0.16, "right": 0.99, "top": 0.98, "bottom": 0.02}
    axes = figure.subplots(len(columns), shown, gridspec_kw=spacing)
    for row, (title, images) in enumerate(columns.items()):
        for ax, image in zip(axes[row], images[:shown], strict=True):
            picture = image.reshape(shape)
            ax.imshow(np.ma.masked_invalid(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_facecolor("#f0d9c8")  # what is not known
            ax.axhline(shape[0] / 2 - 0.5, color="#c2410c", linewidth=0.8)
            ax.set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def gallery(system: DRMM, data: Dataset, others: dict[str, np.ndarray] | None = None, seed: int = 0) -> Figure:
    """The first held-out digits, what is given of them, the posterior mean, three samples, and others' completions."""
    x = data.test.numpy().reshape(len(data.test), -1)[:12].astype(np.float64)
    if others is None:
        others = imputed(data.train.numpy().astype(np.float64), x)
        others = {name: others[name] for name in ("IterativeImputer", "KNNImputer")}
    given = x.copy()
    given[:, x.shape[1] // 2 :] = np.nan
    samples = [complete(system, x, seed + i)[1] for i in range(3)]
    rows = {"digit": x, "given": given, "posterior mean": complete(system, x, seed)[0], "samples": samples[0]}
    rows |= {" ": samples[1], "  ": samples[2], **others}
    return picture(rows, (data.meta.image_shape or (8, 8))[-2:])


def main() -> None:
    """Fit, complete, compare errors and the judge's accuracy, and draw."""
    parser = argparse.ArgumentParser(description="Completing images by conditioning a density.")
    parser.add_argument("--smoke", action="store_true", help="a few steps that show the path, not the quality")
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--out", type=Path, default=Path("drmm_completion.png"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    large = options.data == "mnist"
    data = datasets.load(options.data, **({} if large else {"valid": 0, "seed": options.seed}))
    chosen = {**(OPTIONS_LARGE if large else OPTIONS), **({"steps": 10} if options.smoke else {})}
    system = fit(data, options.seed, chosen, copies=1 if large else COPIES)
    x = data.test.numpy().reshape(len(data.test), -1)[: 200 if large else None].astype(np.float64)
    label = data.test.numpy("label")[: len(x)]
    mean, sample = complete(system, x, options.seed)
    answers = {"posterior mean": mean, "sample": sample}
    if not large:  # regressing each of 392 pixels on the other 783 takes an hour
        answers |= imputed(data.train.numpy().astype(np.float64), x)
        verdict = judge(data)
        print(f"the judge names {100 * verdict.score(x, label):.1f} % of real digits")
    for name, completed in answers.items():
        named = "" if large else f", {100 * verdict.score(completed, label):.1f} % named correctly"
        print(f"{name:26} squared error {squared_error(completed, x):.4f}{named}")
    rivals = () if large else ("IterativeImputer", "KNNImputer")
    figure = gallery(system, data, {name: answers[name] for name in rivals}, options.seed)
    figure.savefig(options.out, dpi=110)
    print(options.out)


if __name__ == "__main__":
    main()
