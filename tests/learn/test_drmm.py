"""The full recipes of the deep residual mixture: every figure in its tables comes from here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston import datasets
from phlogiston.datasets.base import Split
from phlogiston.datasets.generated.sierpinski import cell
from phlogiston.inference.query.evidence import Known
from phlogiston.systems.drmm.config import PRESETS
from phlogiston.systems.drmm.system import DRMM

pytestmark = pytest.mark.learn

NATS = "held-out log-likelihood, nats per row"
ROWS = {"noise_sd": 0.1, "n": 7000}


def held_out(system: DRMM, data: Any, **options: Any) -> float:
    return float(system.log_prob(data.test, **options).value.mean())


def gaussian_mixture(data: Any, components: int, seed: int, columns: Any = slice(None), reg: float = 1e-6) -> Any:
    """Scikit-learn's full-covariance mixture, fitted by EM on the training rows."""
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(components, random_state=seed, max_iter=200, reg_covar=reg)
    return mixture.fit(data.train.numpy()[:, columns].astype(np.float64))


def test_noisy_swissroll_tril(record: Any) -> None:
    entry = record(
        "drmm",
        "density/swissroll-noisy-tril",
        title="noisy Swiss roll",
        configuration="tril, 2 layers of 16",
        figure=NATS,
        kind="exact",
        must=-2.90,
        aim=-2.87,
        steps=PRESETS["swissroll"]["steps"],
        n_test=2000,
        published={},
    )
    truth, mixtures = [], {16: [], 48: []}
    for seed in entry.seeds:
        data = datasets.load("swissroll", **ROWS, seed=seed)
        x = data.test.numpy()
        true = data.meta.truth(x)
        truth.append(true.mean())
        for k, scores in mixtures.items():
            scores.append(gaussian_mixture(data, k, seed).score(x))
        entry.fields["baselines"] = {
            "the true density": float(np.mean(truth)),
            **{f"GaussianMixture, {k} full": float(np.mean(v)) for k, v in mixtures.items()},
        }
        with entry.measure(seed) as run:
            system = DRMM(preset="swissroll").fit(data, seed=seed)
            run.stop()
            score = system.log_prob(data.test)
            run.value = float(score.value.mean())
        gap = score.value.numpy() - true
        assert gap.mean() < 3 * gap.std() / len(gap) ** 0.5, "scores above the truth: not a density"
    entry.check()


def test_swissroll_chosen_by_validation_stands_level_with_em(record: Any) -> None:
    entry = record(
        "drmm",
        "density/swissroll-chosen",
        title="noisy Swiss roll, depth chosen by validation, minus GaussianMixture chosen likewise",
        configuration="tril, 1x24, 1x48, 2x16 or 3x16",
        figure="difference in held-out log-likelihood, nats per row",
        kind="exact",
        must=-0.02,
        aim=0.0,
        steps=PRESETS["swissroll"]["steps"],
        n_test=2000,
    )
    chosen = []
    for seed in entry.seeds:
        data = datasets.load("swissroll", **ROWS, seed=seed)
        with entry.measure(seed) as run:
            system = DRMM.select(
                data,
                [
                    {**PRESETS["swissroll"], "num_layers": layers, "num_components": components}
                    for layers, components in ((1, 24), (1, 48), (2, 16), (3, 16))
                ],
                seed=seed,
            )
            run.stop()
            mixtures = [gaussian_mixture(data, k, seed) for k in (16, 24, 32, 48, 64, 96)]
            best = max(mixtures, key=lambda m: m.score(data.valid.numpy()))
            chosen.append((held_out(system, data), best.score(data.test.numpy())))
            run.value = chosen[-1][0] - chosen[-1][1]
            entry.fields["choices"] = [
                *entry.fields.get("choices", []),
                f"{system.config.num_layers}x{system.config.num_components} against {best.n_components}",
            ]
            ours, theirs = np.mean(chosen, 0)
            entry.fields["baselines"] = {"ours, nats": float(ours), "GaussianMixture, nats": float(theirs)}
    entry.check()


@pytest.mark.parametrize(
    ("name", "title", "noise", "must", "aim", "original"),
    [
        ("clean", "noise-free Swiss roll, the paper's frame", 0.0, -2.5, -2.1, -2.89),
        ("noisy", "noisy Swiss roll, the paper's frame", 0.1, -3.17, -3.0, -3.17),
    ],
)
def test_shift_frame_beats_the_original(
    record: Any, name: str, title: str, noise: float, must: float, aim: float, original: float
) -> None:
    entry = record(
        "drmm",
        f"density/swissroll-{name}-shift",
        title=title,
        configuration="shift, 3 layers of 16",
        figure=NATS,
        kind="exact",
        must=must,
        aim=aim,
        steps=3000,
        n_test=2000,
        baselines={"original program, 40,000 steps": original},
    )
    for seed in entry.seeds:
        data = datasets.load("swissroll", **{**ROWS, "noise_sd": noise}, seed=seed)
        with entry.measure(seed) as run:
            system = DRMM(frame="shift", final_depth_weight=0.01, parameter_prior=noise > 0).fit(data, seed=seed)
            run.stop()
            run.value = held_out(system, data)
    entry.check()


def test_sierpinski_gains_with_every_layer(record: Any) -> None:
    common: dict[str, Any] = {
        "configuration": "iso, 5 layers of 3: 150 parameters, 243 modes",
        "steps": PRESETS["sierpinski"]["steps"],
        "n_test": 1300,
    }
    final = record(
        "drmm", "sierpinski/5-final", title="all 5 layers", figure=NATS, kind="exact", must=0.09, aim=0.09, **common
    )
    gain = record(
        "drmm",
        "sierpinski/6-gain",
        title="smallest gain of a layer (theory: 0.2877)",
        figure="nats per row",
        must=0.2,
        aim=0.2877,
        **common,
    )
    cells = record(
        "drmm",
        "sierpinski/7-cells",
        title="cells visited by 20,000 samples",
        figure="share of the 243 cells",
        must=0.99,
        aim=1.0,
        **common,
    )
    width = record(
        "drmm",
        "sierpinski/8-free-mixture",
        title="gain over a free isotropic mixture of 243",
        figure="nats per row",
        must=0.0,
        aim=0.15,
        **common,
    )
    depths = [
        record("drmm", f"sierpinski/{d}", title=f"after layer {d}", figure=NATS, kind="exact", **common)
        for d in range(1, 5)
    ]
    free_figures = []
    for seed in final.seeds:
        data = datasets.load("sierpinski", seed=seed)
        with final.measure(seed) as run:
            system = DRMM(preset="sierpinski").fit(data, seed=seed)
            run.stop()
            curve = [held_out(system, data, depth=d) for d in range(1, 6)]
            run.value = curve[-1]
        for entry, value in zip(depths, curve, strict=False):
            with entry.measure(seed) as run:
                run.value = value
        with gain.measure(seed) as run:
            run.value = float(np.diff(curve).min())
        with cells.measure(seed) as run:
            visited = cell(system.sample(20_000, seed=seed)["x"].numpy().astype(np.float64), depth=5)
            run.value = len(np.unique(visited)) / 243
        with width.measure(seed) as run:
            free = DRMM(
                frame="iso", num_layers=1, num_components=243, steps=3000, batch_size=512, parameter_prior=False
            ).fit(data, seed=seed)
            run.stop()
            free_figures.append(held_out(free, data))
            width.fields["baselines"] = {"free mixture, 972 parameters, nats": float(np.mean(free_figures))}
            run.value = curve[-1] - free_figures[-1]
    for entry in (final, gain, cells, width):
        entry.check()


def test_poses(record: Any) -> None:
    preset = PRESETS["poses"]
    entry = record(
        "drmm",
        "density/poses",
        title="poses of a full body, 25 of 30 columns vary",
        configuration="tril, 2 layers of 48: 67,200 parameters",
        figure=NATS,
        kind="exact",
        must=25.0,
        aim=27.5,
        steps=preset["steps"],
        n_test=4000,
    )
    mixtures: list[float] = []
    for seed in entry.seeds:
        data = datasets.load("poses", seed=seed)
        with entry.measure(seed) as run:
            system = DRMM(preset="poses").fit(data, seed=seed)
            run.stop()
            run.value = held_out(system, data)
            # 191 full covariances in 25 dimensions have as many parameters; once is enough, it takes minutes
            if not mixtures:
                keep, scale = system.varying, system.model.scale.numpy()
                scaled = datasets.load("poses", seed=seed)
                scaled.train.tensors["x"][:, keep] /= torch.from_numpy(scale)
                mixture = gaussian_mixture(scaled, 191, seed, keep, reg=4e-4)
                test = data.test.numpy()[:, keep] / scale
                mixtures.append(mixture.score(test) - float(np.log(scale).sum()))
            entry.fields["baselines"] = {"GaussianMixture, 191 full (as many parameters)": mixtures[0]}
    assert entry.mean >= mixtures[0], "below a full-covariance mixture with as many parameters"
    entry.check()


def test_digits(record: Any) -> None:
    preset = PRESETS["digits"]
    common: dict[str, Any] = {
        "configuration": "lowrank of rank 10, 1 layer of 16, label stream",
        "steps": preset["steps"],
        "n_test": 397,
    }
    label = record(
        "drmm",
        "classify/digits",
        title="8x8 digits, label given the image",
        figure="accuracy",
        must=0.92,
        aim=0.96,
        **common,
    )
    # a density of numbers anywhere in the cells of the 17 grey levels, which is what flows report
    density = record(
        "drmm",
        "density/digits",
        title="8x8 digits, dequantised",
        figure=NATS,
        kind="exact",
        must=87.0,
        aim=90.0,
        **common,
    )
    mixtures: list[float] = []
    for seed in label.seeds:
        data = datasets.load("digits", valid=0, seed=seed)
        with label.measure(seed) as run:
            system = DRMM(preset="digits").fit(data, seed=seed)
            run.stop()
            guessed = system.predict_proba("label", data.test).argmax(-1)
            run.value = float((guessed == data.test.tensors["label"]).double().mean())
        with density.measure(seed) as run:
            mixtures.append(gaussian_mixture(data, 10, seed, reg=1e-3).score(data.test.numpy()))
            density.fields["baselines"] = {"GaussianMixture, 10 full": float(np.mean(mixtures))}
            run.value = held_out(system, data)
    label.check()
    density.check()


def test_mnist(record: Any, test_data: Callable[[str], Path]) -> None:
    common: dict[str, Any] = {
        "configuration": "lowrank of rank 16, 1 layer of 24",
        "steps": 350,
        "higher_is_better": False,
    }
    bits = record(
        "drmm",
        "bits/mnist",
        title="MNIST, 28 x 28 pixels, dequantised",
        figure="bits per pixel",
        kind="exact",
        must=1.5,
        n_test=10_000,
        # Papamakarios, Pavlakou and Murray, Masked autoregressive flow for density estimation, 2017
        published={"MAF": 1.89},
        **common,
    )
    error = record(
        "drmm",
        "bits/mnist-completion",
        title="MNIST, lower half given the upper, posterior mean",
        figure="mean squared error of pixels in [0, 1]",
        n_test=200,
        **common,
    )
    data = datasets.load("mnist", root=test_data("mnist"), dequantise=True)
    images = datasets.Dataset(
        *(Split({"x": part.tensors["x"]}) for part in (data.train, data.valid, data.test)), data.meta
    )
    half = 392
    for seed in bits.seeds:
        with bits.measure(seed) as run:
            system = DRMM(frame="lowrank", num_layers=1, num_components=24, rank=16, steps=350, learning_rate=0.005)
            system.fit(images, seed=seed)
            run.stop()
            run.value = 8 - held_out(system, images) / (784 * np.log(2))
        with error.measure(seed) as run:
            x = images.test.tensors["x"][torch.randperm(10_000, generator=torch.Generator().manual_seed(seed))[:200]]
            known = Known(x.double(), torch.arange(784) < half)
            filled = system.query({"x": known}, ask=["x"], num_samples=100, seed=seed).mean("x")
            run.value = float((filled - x)[:, half:].square().mean())
            mean = images.train.tensors["x"][:, half:].mean(0)
            error.fields["baselines"] = {"mean image": float((x[:, half:] - mean).square().mean())}
    bits.check()


def test_missing_entries_cost_little(record: Any) -> None:
    entry = record(
        "drmm",
        "missing/swissroll",
        title="noisy Swiss roll, 30 % of the training entries missing",
        configuration="tril, 2 layers of 16",
        figure="loss against complete training rows, nats per row",
        higher_is_better=False,
        must=0.25,
        aim=0.1,
        steps=1500,
        n_test=2000,
    )
    for seed in entry.seeds:
        data = datasets.load("swissroll", **ROWS, seed=seed)
        options = {**PRESETS["swissroll"], "steps": 1500}
        complete = held_out(DRMM(options).fit(data, seed=seed), data)
        x = data.train.tensors["x"]
        mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) >= 0.3
        with entry.measure(seed) as run:
            system = DRMM(options).fit({"x": torch.where(mask, x, torch.zeros(())), "mask": mask}, seed=seed)
            run.stop()
            run.value = complete - held_out(system, data)
    entry.check()


def test_beam_gap_on_a_trained_model(record: Any) -> None:
    entry = record(
        "drmm",
        "beam/swissroll",
        title="exact minus beam of 8, trained 3 layers of 16",
        configuration="tril, 3 layers of 16, 4,096 tuples",
        figure="nats per row",
        higher_is_better=False,
        must=0.01,
        aim=0.001,
        steps=2000,
        n_test=2000,
    )
    for seed in entry.seeds:
        data = datasets.load("swissroll", **ROWS, seed=seed)
        with entry.measure(seed) as run:
            system = DRMM(preset="swissroll", num_layers=3).fit(data, seed=seed)
            run.stop()
            run.value = held_out(system, data) - held_out(system, data, method="beam", width=8)
    entry.check()
