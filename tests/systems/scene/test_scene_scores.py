"""What scenes are trained by and scored by: expectations that are known, and sums that have to agree."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from phlogiston import datasets
from phlogiston.datasets.base import Dataset, Split
from phlogiston.errors import ConfigError, DataError
from phlogiston.evaluate.calibration import crps
from phlogiston.models.scene import at_temperature
from phlogiston.systems.scene import quality as scene_quality
from phlogiston.systems.scene import scoring as scene_scoring
from phlogiston.systems.scene import training as scene_training
from phlogiston.systems.scene.system import Scene
from phlogiston.systems.scene.training import SceneObjective, energy_score, grain_score, paint, spread_error

from .test_scene import TINY


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.load("courts", sizes=(16, 4, 9), views=8, size=16)


@pytest.fixture(scope="module")
def system(data: Dataset) -> Scene:
    return Scene(TINY).fit(data, progress="off")


def test_the_price_of_prior_samples_is_the_error_of_their_mean() -> None:
    torch.manual_seed(0)
    mean, truth = torch.randn(50), torch.randn(50)
    drawn = mean + 2.0 * torch.randn(2, 200_000, 50)
    pairs = ((drawn[0] - truth) * (drawn[1] - truth)).sum(-1)
    want = (mean - truth).square().sum()
    error = 5 * float(pairs.std()) / math.sqrt(len(pairs))
    assert float(pairs.mean()) == pytest.approx(float(want), abs=error)


def test_the_price_of_spread_is_that_of_variances_unlike_the_errors() -> None:
    """Squares of 2 pixels, of 4 and of 8: of means of samples and of their variances both are known."""
    torch.manual_seed(0)
    offset = torch.randn(1, 8, 8)
    count = 40_000
    errors = offset + 1.5 * torch.randn(4, count, 1, 8, 8) + 0.7 * torch.randn(4, count, 1, 1, 1)  # all move together
    rows = torch.stack([spread_error(part, 2, 0.5) for part in errors.split(200, 1)])
    want = 0.0
    for side in (2, 4, 8):
        square = torch.nn.functional.avg_pool2d(offset[None], side).square()
        variance = 1.5**2 / side**2 + 0.7**2
        want += float((variance**2 - 2 * variance * square).mean()) / (3 * 0.5)
    assert float(rows.mean()) == pytest.approx(want, abs=5 * float(rows.std()) / math.sqrt(len(rows)))


def test_the_energy_score_of_normal_colours_is_in_closed_form() -> None:
    """One channel of 2 x 2 pixels: colours are normal, and so are differences, with twice the variance."""
    torch.manual_seed(0)
    samples = 0.3 + 0.5 * torch.randn(2, 200_000, 1, 2, 2)
    rows = torch.stack([energy_score(samples[:, i]) for i in torch.arange(200_000).split(4000)]) / 0.2

    def closed(mean: float, deviation: float) -> float:  # the continuous ranked probability score of a normal, at 0
        z = mean / deviation
        inside, density = math.erf(z / math.sqrt(2.0)), math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
        return deviation * (z * inside + 2.0 * density - 1.0 / math.sqrt(math.pi))

    want = closed(0.3, 0.5) + 2.0 * closed(0.0, 0.5 * math.sqrt(2.0))
    assert float(rows.mean()) == pytest.approx(want, abs=5 * float(rows.std()) / math.sqrt(len(rows)))


def test_the_energy_score_prefers_sharp_samples_in_doubt_to_their_mean() -> None:
    """An edge stands at one of two places: samples that put it there score better than their mean, and than noise."""
    edges = torch.stack([(torch.arange(16.0) < at).expand(3, 16, 16).float() for at in (5, 9)])
    torch.manual_seed(0)
    truth = edges[torch.randint(2, (400,))]
    right = edges[torch.randint(2, (2, 400))]
    mean = edges.mean(0).expand_as(right)
    wrong = (mean + right.std() * torch.randn_like(right)).clamp(0, 1)
    found = [float(energy_score(samples - truth)) for samples in (right, mean, wrong)]
    assert found[0] < 0.8 * min(found[1:])


def test_the_grain_score_is_the_crps_of_local_gradients() -> None:
    """Against loops over squares and pixels, and the CRPS of `evaluate.calibration`."""
    torch.manual_seed(0)
    pictures = torch.rand(3, 4, 3, 8, 8).double()  # two samples of four views, and the truth

    def grain(picture: np.ndarray, side: int) -> list[float]:
        found = []
        for top in range(0, picture.shape[1], side):
            for left in range(0, picture.shape[2], side):
                total = 0.0
                for i in range(top, top + side):
                    for j in range(left, left + side):
                        here = picture[:, i, j]
                        if i + 1 < picture.shape[1]:
                            total += float(((picture[:, i + 1, j] - here) ** 2).sum())
                        if j + 1 < picture.shape[2]:
                            total += float(((picture[:, i, j + 1] - here) ** 2).sum())
                found.append(math.sqrt(total / side**2 + 1e-5))
        return found

    want = 0.0
    for level in range(2):
        small = torch.nn.functional.avg_pool2d(pictures.flatten(0, 1), 2**level).unflatten(0, (3, 4)).numpy()
        rows = np.array([[grain(view, 4 // 2**level) for view in views] for views in small]).reshape(3, -1)
        want += 0.2 * float(crps(rows[:2], rows[2]).mean()) / 2
    found = grain_score(pictures[:2], pictures[2], side=4, levels=2)
    assert float(found) == pytest.approx(want, rel=1e-9)


def test_the_grain_score_asks_for_an_edge_even_in_the_wrong_place() -> None:
    edges = torch.stack([(torch.arange(8.0) < at).expand(3, 8, 8).float() for at in (2, 3, 4, 5, 6)])
    torch.manual_seed(0)
    truth, sharp = edges[torch.randint(5, (100,))], edges[torch.randint(5, (2, 100))]
    blurred = edges.mean(0).expand_as(sharp)
    assert abs(float(grain_score(sharp, truth, levels=1))) < 1e-6
    assert float(grain_score(sharp, truth)) < 0.7 * float(grain_score(blurred, truth))


def test_sweeps_cover_what_the_data_allow(system: Scene, data: Dataset) -> None:
    assert set(scene_scoring.grid_sweep(system, data, (1, 2, 3, 4), total=9)) == {1, 2, 3}
    assert set(scene_scoring.context_sweep(system, data, (1, 4, 7, 8), total=9)) == {1, 4, 7}
    found = scene_scoring.score(system, scene_scoring.episodes(system, data.test, total=20))
    torch.testing.assert_close(found["kl"], found["kl_0"] + found["kl_1"])
    assert bool((found["kl_0"] >= 0).all())
    want = found["single"] - found["mean"] - found["variance"] * (1 - 1 / 8)
    assert float(want.abs().max()) < 1e-5  # single = mean + spread, query by query


def own_truths(
    system: Scene, split: Split, sigma: float, temperature: float = 1.0, seen: int = 2
) -> list[dict[str, torch.Tensor]]:
    """Batches whose pictures are the model's own, at a temperature of its latents' priors."""
    model, batches = system.model, []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for batch in scene_scoring.episodes(system, split, 1, seen, 60):
            state = model.observe(batch["images"], batch["poses"], None, batch["origin"], batch["side"])
            picture = paint(model.decoder, model.context(state, batch["query_poses"]), 1, temperature)[0]
            batches.append({**batch, "query_images": picture + sigma * torch.randn_like(picture)})
    return batches


def test_many_samples_are_painted_some_at_a_time(system: Scene, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = system.model, next(scene_scoring.episodes(system, data.test, 1, 2, 12))
    together, decode = [], model.decoder.picture
    monkeypatch.setattr(model.decoder, "picture", lambda total: together.append(total.shape[0]) or decode(total))
    with torch.no_grad():
        state = model.observe(batch["images"], batch["poses"], None, batch["origin"], batch["side"])
        context = model.context(state, batch["query_poses"])
        whole = paint(model.decoder, context, 50)
        assert together == [50]
        pixels = context.values.shape[:-3].numel() * model.decoder.image**2
        monkeypatch.setattr(scene_training, "MOST_PIXELS", 8 * pixels)
        parts = paint(model.decoder, context, 50)
    assert together[1:] == [8] * 6 + [2]
    assert parts.shape == whole.shape
    spread = whole.std(0).mean()
    assert float((parts.mean(0) - whole.mean(0)).abs().mean()) < float(spread)
    assert float(parts.std(0).mean()) == pytest.approx(float(spread), rel=0.2)


@pytest.mark.parametrize("samples", [400, 12])
def test_coverage_counts_truths_between_the_samples_quantiles(system: Scene, data: Dataset, samples: int) -> None:
    """Truths drawn from the model itself are covered as often as promised, however few samples there are."""
    batches = own_truths(system, data.test, 0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_quality, "episodes", lambda *_: iter(batches))
        own = scene_quality.coverage(system, data.test, 2, 0.8, samples=samples)
    assert own.value == pytest.approx(0.8, abs=0.015)
    assert own.detail["spread"] > 0


def test_priors_are_calibrated_to_truths_that_lie_further_out(data: Dataset, tmp_path: Path) -> None:
    """Truths drawn with deviations 1.8 times as large: that factor is found, takes effect everywhere, and is kept."""
    system = Scene(TINY, sigma=0.002).fit(data, progress="off")
    photographs = {name: data.test.tensors[name][0, 4:] for name in ("images", "poses")}
    seen = system.observe(data.test.tensors["images"][0, :4], data.test.tensors["poses"][0, :4])
    before = system.sample_views(seen, photographs["poses"], 200, seed=0)
    batches = own_truths(system, data.test, 0.0, 1.8)
    scored = system.log_prob(photographs, memory=seen, num_particles=4).value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_quality, "episodes", lambda *_: iter(batches))
        found = scene_quality.calibrate(system, data.test, (2,), samples=59)
        assert found == {"prior_temperature": system.config.prior_temperature, "prior_growth": 0.0}
        assert found["prior_temperature"] == pytest.approx(1.8, rel=0.08)
        assert scene_quality.coverage(system, data.test, 2).value == pytest.approx(0.9, abs=0.02)
    after = system.sample_views(seen, photographs["poses"], 200, seed=0)
    assert float(after.std(0).mean() / before.std(0).mean()) == pytest.approx(found["prior_temperature"], rel=0.1)
    gained = system.log_prob(photographs, memory=seen, num_particles=4).value - scored
    assert float(gained.abs().min()) > 1.0
    again = Scene.load(system.save(tmp_path / "kept"))
    assert torch.equal(again.sample_views(seen, photographs["poses"], 200, seed=0), after)
    with pytest.raises(ConfigError, match="no latents"):
        scene_quality.calibrate(Scene(TINY, layers=0), data.test)
    with pytest.raises(ConfigError, match="contexts"):
        scene_quality.calibrate(system, data.test, ())


def test_priors_are_calibrated_by_how_many_photographs_were_seen(data: Dataset, tmp_path: Path) -> None:
    """Truths of one photograph lie 2.2 times as far out, those of four 1.4 times: both are found, two between them."""
    system = Scene(TINY, sigma=0.002).fit(data, progress="off")
    truths = {seen: own_truths(system, data.test, 0.0, factor, seen) for seen, factor in ((1, 2.2), (4, 1.4))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_quality, "episodes", lambda system, split, side, seen, *_: iter(truths[seen]))
        found = scene_quality.calibrate(system, data.test, (1, 4), samples=59)
        for seen in truths:
            assert scene_quality.coverage(system, data.test, seen).value == pytest.approx(0.9, abs=0.025)
    assert found["prior_temperature"] == pytest.approx(1.4, rel=0.08)
    assert found["prior_growth"] == pytest.approx(math.log(2.2 / 1.4) / math.log(5 / 2), abs=0.1)
    again = Scene.load(system.save(tmp_path / "kept"))
    assert again.model.decoder.prior_growth == again.config.prior_growth == found["prior_growth"]
    images, poses = data.test.tensors["images"][0], data.test.tensors["poses"][0]
    for count, factor in ((1, 2.2), (4, 1.4), (7, 1.4)):  # as many as in training are 4
        seen = system.observe(images[:count], poses[:count])
        with at_temperature(system.model.decoder, 1.0):
            plain = system.sample_views(seen, poses[7:], 200, latents=True, seed=0)[1]["z_0"].std(0)
        ratio = system.sample_views(seen, poses[7:], 200, latents=True, seed=0)[1]["z_0"].std(0) / plain
        assert float(ratio.min()) == pytest.approx(float(ratio.max()), rel=1e-4)
        assert float(ratio.mean()) == pytest.approx(factor, rel=0.1)
        assert torch.equal(
            system.sample_views(seen, poses[7:], 3, seed=0), again.sample_views(seen, poses[7:], 3, seed=0)
        )


def test_training_is_at_temperature_one_and_evaluation_at_the_model_s(system: Scene, data: Dataset) -> None:
    batch = next(scene_scoring.episodes(system, data.test, 1, 2, 20))
    objective = SceneObjective(system.model, system.guide)

    def losses(temperature: float) -> list[float]:
        found = []
        with at_temperature(system.model.decoder, temperature), torch.no_grad(), torch.random.fork_rng(devices=[]):
            for training in (True, False):
                torch.manual_seed(0)
                objective.train(training)
                found.append(float(objective(**batch)))
        objective.eval()
        return found

    plain, wide = losses(1.0), losses(1.5)
    assert plain[0] == wide[0]
    assert plain[1] != wide[1]


def test_the_gallery_shows_each_viewpoint_in_every_way(system: Scene, data: Dataset) -> None:
    found = scene_quality.gallery(system, data, 20, samples=3)
    assert set(found) == {"truth", "sample", "mean", "reconstructed", "other"}
    assert {tuple(rows.shape[1:]) for rows in found.values()} == {(3, 16, 16)}
    assert len({len(rows) for rows in found.values()}) == 1
    assert len(found["truth"]) >= 20
    assert not torch.equal(found["sample"], found["mean"])
    again = scene_quality.gallery(system, data, 20, samples=3)
    assert all(torch.equal(again[name], found[name]) for name in found)
    once = scene_quality.gallery(system, data, 9, samples=2)  # one photograph of every scene, and another one
    assert not any(torch.equal(one, two) for one in once["truth"] for two in once["other"])
    with pytest.raises(DataError, match="6 photographs"):
        scene_quality.gallery(
            system, {name: rows[:, :5] for name, rows in data.test.tensors.items() if name != "map"}, 9
        )


def test_sharpness_is_one_for_photographs_and_falls_with_blur() -> None:
    torch.manual_seed(0)
    real = torch.rand(200, 3, 16, 16)
    shuffled = scene_quality.sharpness(real[torch.randperm(200)], real)
    assert shuffled.value == pytest.approx(1.0, abs=1e-5)  # other pictures of the same kind are as sharp
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1)  # variance of differences: 6 of 81 parts, where it was 2
    assert scene_quality.sharpness(blurred, real).value == pytest.approx(1 / 27, rel=0.05)
    again = [scene_quality.sharpness(torch.rand(50, 3, 8, 8), torch.rand(50, 3, 8, 8)).value for _ in range(300)]
    told = scene_quality.sharpness(torch.rand(50, 3, 8, 8), torch.rand(50, 3, 8, 8)).std_error
    assert told is not None
    assert 0.7 < told / float(torch.tensor(again).std()) < 1.4
