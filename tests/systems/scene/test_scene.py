"""Scenes as a product: fit, remember, paint, ask, save, and say what is wrong with bad input."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.cli.main import main
from phlogiston.datasets.base import Dataset, Meta
from phlogiston.errors import (
    ConfigError,
    DataError,
    EvidenceError,
    PhlogistonError,
    QueryWarning,
    ShapeError,
    UnknownNameError,
)
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, Within
from phlogiston.systems.scene import pictures as scene_pictures
from phlogiston.systems.scene import scoring as scene_scoring
from phlogiston.systems.scene.config import PRESETS
from phlogiston.systems.scene.memory import Memory, tile
from phlogiston.systems.scene.system import Scene

TINY: dict[str, Any] = {
    "nodes": "both", "bins": 8, "values": 4, "code": 8, "encoder": (6, 8), "steps_between": 2, "grid": 4, "hidden": 6,
    "latent": 2, "whole": 0, "layers": 2, "width": 12, "blocks": 1, "context": 4, "queries": 2, "batch_size": 4,
    "draft_steps": 3, "steps": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_scoring, "QUERIES", 40)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.load("courts", sizes=(16, 4, 9), views=8, size=16)


@pytest.fixture(scope="module")
def system(data: Dataset) -> Scene:
    return Scene(TINY).fit(data, progress="off")


def views(data: Dataset, scene: int = 0, part: slice = slice(0, 4)) -> tuple[torch.Tensor, torch.Tensor]:
    return data.test.tensors["images"][scene, part], data.test.tensors["poses"][scene, part]


# ---- learning


@pytest.mark.slow
def test_it_learns_to_paint_what_a_memory_holds() -> None:
    data = datasets.load("courts", sizes=(300, 0, 40), size=16, cylinders=0)
    options = {**TINY, "bins": 32, "values": 8, "nodes": "hub", "hidden": 16, "width": 32, "encoder": (16,), "grid": 4,
               "batch_size": 8, "queries": 4, "draft_steps": 260, "steps": 60, "learning_rate": 0.004}  # fmt: skip
    found = Scene(options).fit(data, progress="off").evaluate(data, ["generation", "baselines"])
    fools = min(found[name].value for name in ("mean_image_mse", "context_mean_mse", "nearest_view_mse"))
    assert found["generation_mse"].value < 0.85 * fools


@pytest.mark.parametrize(
    "options",
    [
        {"nodes": "hub", "layers": 0},
        {"nodes": "lattice", "write": "soft"},
        {"nodes": "ground", "score_weight": 1.0, "grain_weight": 1.0, "output": "layers"},
        {"score_weight": 1.0, "edge_steps": 2, "edge_weight": 2.0},
        {"whole": 3, "parts": 1, "spread_weight": 0.5},
        {"whole": 3, "parts": 4, "layers": 1},
        {"whole": 2, "prior_context": False},
        {"memory": "pooled", "pool": "sum"},
        {"likelihood": "discretized-logistic"},
        {"likelihood": "normal-learned-sigma", "least_context": 2},
        {"output": "linear", "poses": "vector", "draft": False, "draft_steps": 0, "reduce": "linear", "canvas": 6,
         "prior_context": False, "residual": False, "sigma_start": 2.0, "prior_share": 0.0},
    ],
)  # fmt: skip
def test_every_variant_fits_paints_and_survives_a_round_trip(
    options: dict[str, Any], data: Dataset, tmp_path: Path
) -> None:
    system = Scene({**TINY, **options}).fit(data, out=tmp_path / "run", progress="off", tensorboard=False)
    memory = system.observe(*views(data))
    poses = views(data, part=slice(4, 8))[1]
    before = system.sample_views(memory, poses, 2, seed=3)
    for loaded in (systems.load(tmp_path / "run"), systems.load(system.save(tmp_path / "saved"))):
        again = loaded.sample_views(loaded.observe(*views(data)), poses, 2, seed=3)  # type: ignore[attr-defined]
        assert torch.equal(again, before)
    found = system.evaluate(data)
    assert all(math.isfinite(m.value) for m in found.values())
    assert {"generation_mse", "posterior_mse", "kl", "gap", "mean_image_mse", "log_likelihood"} <= set(found)


def test_a_resumed_run_ends_as_the_uninterrupted_one(data: Dataset, tmp_path: Path) -> None:
    options = {**TINY, "draft_steps": 4, "steps": 6, "least_context": 2, "sigma_start": 0.5}

    class Stop:
        def on_step(self, state: Any) -> None:
            if state.step == 7:
                raise KeyboardInterrupt

    whole = Scene(options).fit(data, progress="off", checkpoint_every=2)
    quiet: dict[str, Any] = {"progress": "off", "checkpoint_every": 2, "tensorboard": False}
    with pytest.raises(KeyboardInterrupt):
        Scene(options).fit(data, out=tmp_path, callbacks=[Stop()], **quiet)
    resumed = Scene(options).fit(data, out=tmp_path, **quiet)
    for a, b in zip(whole.guide.parameters(), resumed.guide.parameters(), strict=True):
        assert torch.equal(a, b)


def test_edges_come_last_with_a_weight_of_their_own(data: Dataset) -> None:
    """More steps at another weight of the score; those before stay as they would be without."""
    options = {**TINY, "score_weight": 1.0, "grain_weight": 0.5, "prior_share": 1.0}
    weights: list[tuple[str, float]] = []

    class Note:
        def on_step(self, state: Any) -> None:
            weights.append((state.stage.name, state.objective.grain_weight))

    before: dict[int, list[torch.Tensor]] = {}

    class Keep:
        def on_stage_end(self, state: Any) -> None:
            before.setdefault(state.step, [p.detach().clone() for p in state.model.parameters()])

    plain = Scene(options).fit(data, progress="off")
    edges = {"edge_steps": 2, "edge_weight": 4.0}
    system = Scene({**options, **edges}).fit(data, progress="off", callbacks=[Note(), Keep()])
    assert weights == [("draft", 0.5)] * 3 + [("all", 0.5)] * 3 + [("edges", 4.0)] * 2
    assert system.step_options() == {"draft_steps": 3, "steps": 3, "edge_steps": 2}
    for a, b in zip(plain.model.parameters(), before[6], strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(system.model.parameters(), before[6], strict=True))
    with pytest.raises(ConfigError, match="edge_steps"):
        Scene({**TINY, "edge_steps": 2, "edge_weight": 1.0})


def test_records_hold_the_terms_of_the_loss(data: Dataset) -> None:
    system = Scene({**TINY, "draft_steps": 25, "steps": 25}).fit(data, progress="off", log_every=25)
    assert system.history is not None
    first, second = system.history.records
    assert "draft_mse" in first
    assert {"kl", "prior_mse", "draft_mse"} <= set(second)


# ---- memories


def test_a_memory_grows_forgets_and_spreads(system: Scene, data: Dataset) -> None:
    images, poses = views(data, part=slice(0, 6))
    asked = views(data, part=slice(6, 8))[1]

    def paint(memory: Memory) -> torch.Tensor:
        return system.sample_views(memory, asked, 2, seed=0)  # type: ignore[no-any-return]

    whole = system.observe(images, poses)
    grown = system.observe(images[:2], poses[:2]).add(images[2:], poses[2:])
    assert len(grown) == len(whole) == 6
    torch.testing.assert_close(paint(grown), paint(whole), rtol=0, atol=1e-5)
    x, y = poses[0, :2].tolist()
    assert grown.forget((x - 1e-4, y - 1e-4, x + 1e-4, y + 1e-4)) == 1
    torch.testing.assert_close(paint(grown), paint(system.observe(images[1:], poses[1:])), rtol=0, atol=1e-5)
    with pytest.raises(DataError, match="extend"):
        whole.add(images[:1], poses[:1] + torch.tensor([0.7, 0, 0, 0, 0, 0]))
    whole.extend(2).add(images[:1], poses[:1] + torch.tensor([0.7, 0, 0, 0, 0, 0]))
    assert len(whole) == 7
    with pytest.raises(ConfigError, match="cannot be extended"):
        whole.extend(1)
    empty = system.observe()
    assert len(empty) == 0
    assert bool(torch.isfinite(paint(empty)).all())
    assert bool(torch.isfinite(paint(system.observe(images[:1], poses[:1]))).all())


def test_scenes_observed_apart_are_joined(system: Scene, data: Dataset) -> None:
    apart = [system.observe(*views(data, scene)) for scene in range(4)]
    joined = tile(apart)
    together = system.observe(side=2)
    for scene in range(4):
        images, poses = views(data, scene)
        together.add(images, poses + torch.tensor([0.7 * (scene // 2), 0.7 * (scene % 2), 0, 0, 0, 0]))
    asked = views(data, 3, slice(4, 8))[1] + torch.tensor([0.7, 0.7, 0, 0, 0, 0])
    one, two = (system.sample_views(m, asked, 2, seed=0) for m in (joined, together))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="no square"):
        tile(apart[:3])


def test_attribution_names_the_nodes_around_a_viewpoint(system: Scene, data: Dataset) -> None:
    memory = system.observe(*views(data)).extend(2)
    pose = [0.13, 0.45, 0.0, 1.0, 0.0]
    found = memory.attribution(pose)
    lattice = torch.tensor([kind == "lattice" for kind in found.kinds])
    assert int(lattice.sum()) == 4
    mean = (found.weights[lattice, None] * found.positions[lattice]).sum(0)
    torch.testing.assert_close(mean, torch.tensor(pose[:2]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.positions[~lattice][0], torch.tensor([-0.05, 0.65]), rtol=0, atol=1e-5)
    torch.testing.assert_close(memory.nodes()[found.index], found.positions, rtol=0, atol=1e-5)


# ---- pictures


def test_temperature_noise_and_kept_latents(system: Scene, data: Dataset) -> None:
    memory, poses = system.observe(*views(data)), views(data, part=slice(4, 8))[1]
    still = system.sample_views(memory, poses, 3, temperature=0.0)
    torch.testing.assert_close(still[0], still[1])
    assert not torch.equal(system.sample_views(memory, poses, 1), system.sample_views(memory, poses, 1))
    noisy = system.sample_views(memory, poses, 1, noise=True, seed=0) - system.sample_views(memory, poses, 1, seed=0)
    assert float(noisy.std()) == pytest.approx(0.2, rel=0.1)
    pictures, latents = system.sample_views(memory, poses, 4, latents=True, seed=0)
    assert set(latents) == {"z_0", "z_1"}
    again = system.sample_views(memory, poses, 4, keep=latents)
    torch.testing.assert_close(again, pictures, rtol=0, atol=1e-5)
    coarse = system.sample_views(memory, poses, 4, keep={"z_0": latents["z_0"][0]}, latents=True)[1]
    assert bool((coarse["z_0"] == latents["z_0"][0]).all())
    assert not torch.equal(coarse["z_1"], latents["z_1"])


def test_chunks_of_queries_give_what_all_at_once_gives(
    system: Scene, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, (images, poses) = system.observe(*views(data)), views(data, part=slice(4, 8))
    whole = system.sample_views(memory, poses, 2, temperature=0.0)
    monkeypatch.setattr("phlogiston.systems.scene.views.PICTURES", 2)
    torch.testing.assert_close(system.sample_views(memory, poses, 2, temperature=0.0), whole)
    assert system.reconstruct(memory, images, poses, 2).shape == (2, 4, 3, 16, 16)


def test_more_particles_tighten_the_bound(system: Scene, data: Dataset) -> None:
    memory, (images, poses) = system.observe(*views(data)), views(data, part=slice(4, 8))
    photographs = {"images": images, "poses": poses}
    loose, tight = (
        torch.stack(
            [system.log_prob(photographs, memory=memory, num_particles=k, seed=s).value.mean() for s in range(6)]
        )
        for k in (1, 64)
    )
    assert float(tight.mean()) > float(loose.mean())
    assert system.log_prob(photographs, memory=memory).kind == "lower bound"


def test_a_photographs_score_is_its_own(system: Scene, data: Dataset) -> None:
    memory, (images, poses) = system.observe(*views(data)), views(data, part=slice(4, 8))
    score = system.log_prob({"images": images, "poses": poses}, memory=memory, num_particles=6)
    assert score.std_error is not None
    for rows in ([3, 1, 0, 2], [2], [0, 0]):
        again = system.log_prob({"images": images[rows], "poses": poses[rows]}, memory=memory, num_particles=6)
        torch.testing.assert_close(again.value, score.value[rows], rtol=1e-4, atol=1e-3)


def test_localising_weighs_poses_by_their_density(system: Scene, data: Dataset) -> None:
    memory, (images, poses) = system.observe(*views(data)), views(data, part=slice(4, 8))
    found = system.localise(memory, images[0], poses, num_particles=8, seed=1)
    same = {"images": images[:1].expand(4, -1, -1, -1), "poses": poses}
    score = system.log_prob(same, memory=memory, num_particles=8, seed=1)
    torch.testing.assert_close(found, torch.softmax(score.value, 0))


def test_turning_looks_around_once(system: Scene, data: Dataset) -> None:
    memory = system.observe(*views(data))
    pictures, poses = system.turn(memory, (0.0, 0.1), 7)
    assert pictures.shape == (7, 3, 16, 16)
    assert float(poses[0, 3]) == pytest.approx(-3.13)
    assert bool((poses[1:, 3] > poses[:-1, 3]).all())
    assert system.turn(memory, (0.0, 0.1), 5, num_samples=3)[0].shape == (3, 5, 3, 16, 16)


def test_the_video_shows_every_scene_and_the_command_writes_it(system: Scene, tmp_path: Path) -> None:
    video = system.sample(1, turn=True, frames=2)["video"]
    assert video.shape == (1, 2 * 4, 192, 384, 3)
    assert int((video[0, 0] != video[0, 2]).sum()) > 0
    run = system.save(tmp_path / "run")
    with pytest.raises(SystemExit) as left:
        main(
            ["sample", str(run), "--turn", "--set", "frames=2", "--set", "side=1", "--out", str(tmp_path / "turn.gif")]
        )
    assert left.value.code == 0
    from PIL import Image

    with Image.open(tmp_path / "turn.gif") as video:
        assert video.n_frames == 2  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="keeps 4"):
        system.sample(1, turn=True, side=3)


def test_stills_of_the_video_show_a_turn_in_some_scenes(system: Scene) -> None:
    figure = scene_pictures.turn_stills(system, side=2, rows=2, frames=3)
    assert len(figure.axes) == 2 * 4
    assert [axes.get_title() for axes in figure.axes[:4]] == ["0°", "120°", "240°", "map"]
    assert "2 of 4 scenes" in str(figure.get_label())


def test_real_scenes_have_no_map_and_are_drawn_over_their_floors(data: Dataset) -> None:
    bare = {k: v for k, v in data.train.tensors.items() if k in ("images", "poses")}
    system = Scene(TINY).fit(bare, progress="off")
    assert system.sample(1, turn=True, side=1, frames=1)["video"].shape == (1, 1, 192, 384, 3)


def test_figures_have_words_for_those_who_cannot_see_them(system: Scene, data: Dataset) -> None:
    found = system.figures(data)
    assert {"views", "errors"} == set(found) - {"training"}
    assert all(figure.get_label() for figure in found.values())


# ---- questions


def test_half_a_photograph_is_completed(system: Scene, data: Dataset) -> None:
    memory, (images, poses) = system.observe(*views(data)), views(data, part=slice(4, 5))
    x = images[0].permute(2, 0, 1).double() / 255
    mask = torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[:, 8:] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        answer = system.query({"x": Known(x, mask)}, num_samples=200, memory=memory, pose=poses[0], seed=0)
    assert answer.samples["x"].shape == (200, 3, 16, 16)
    assert bool((answer.samples["x"][:, mask] == x[mask]).all())
    assert answer.samples["z_1"].shape == (200, 2, 4, 4)
    assert "guide" in answer.method
    assert math.isfinite(float(answer.log_evidence))  # type: ignore[arg-type]


def test_evidence_of_one_pixel_is_weighed_exactly(system: Scene, data: Dataset) -> None:
    """With latents given, a pixel is Gaussian: densities, boxes and soft values have closed forms."""
    memory, (_, poses) = system.observe(*views(data)), views(data, part=slice(4, 5))
    _, latents = system.sample_views(memory, poses[:1], 1, latents=True, seed=0)
    given = {name: Known(value[0, 0].flatten()) for name, value in latents.items()}
    base = system.query(given, num_samples=4, memory=memory, pose=poses[0], seed=0)
    mean = system.sample_views(memory, poses[:1], 1, keep={k: v[0] for k, v in latents.items()})[0, 0].flatten()
    normal = torch.distributions.Normal(float(mean[5]), 0.2)
    one = torch.zeros(768, dtype=torch.bool)
    one[5] = True
    inf = torch.full((768,), math.inf)
    cases = (
        (Known(torch.full((768,), 0.7), one), float(normal.log_prob(torch.tensor(0.7)))),
        (
            Within(torch.where(one, 0.3, -inf), torch.where(one, 0.6, inf)),
            math.log(float(normal.cdf(torch.tensor(0.6)) - normal.cdf(torch.tensor(0.3)))),
        ),
        (
            Near(torch.full((768,), 0.7), torch.where(one, 0.1, inf)),
            float(torch.distributions.Normal(mean[5], math.hypot(0.2, 0.1)).log_prob(torch.tensor(0.7))),
        ),
    )
    for piece, want in cases:
        answer = system.query({**given, "x": piece}, num_samples=50, memory=memory, pose=poses[0], seed=0)
        assert float(answer.log_evidence - base.log_evidence) == pytest.approx(want, abs=1e-4)  # type: ignore[operator]
        if isinstance(piece, Within):
            drawn = answer.samples["x"].flatten(1)[:, 5]
            assert bool(((drawn >= 0.3) & (drawn <= 0.6)).all())


def test_questions_without_evidence_sample_the_prior_and_bad_ones_are_refused(system: Scene) -> None:
    answer = system.query(num_samples=6, seed=0)
    assert float(answer.ess) == pytest.approx(6.0)
    assert "prior" in answer.method
    with pytest.raises(EvidenceError, match="half-spaces"):
        system.query({"x": HalfSpace(torch.ones(768))}, num_samples=2)
    with pytest.raises(EvidenceError, match="whole"):
        system.query({"z_0": Known(torch.zeros(32), torch.arange(32) < 3)}, num_samples=2)
    with pytest.raises(EvidenceError, match="unknown site"):
        system.query({"z_7": 0.0}, num_samples=2)
    with pytest.raises(UnknownNameError, match="site"):
        system.query(ask=["y"], num_samples=2)
    with pytest.raises(ConfigError, match="scenes 0 to"):
        system.query(num_samples=2, scene=99)
    assert system.vocabulary()[0]["x"][0] == "red_0_0"


# ---- bad input


@pytest.mark.parametrize(
    ("images", "poses", "error", "words"),
    [
        (np.zeros((2, 16, 16, 3), np.uint8), np.zeros((3, 5)), ShapeError, "2 images and 3 poses"),
        (np.zeros((2, 16, 16), np.uint8), np.zeros((2, 5)), ShapeError, r"\(views, H, W, 3\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 5)), ShapeError, "built for 16 x 16"),
        (np.full((1, 16, 16, 3), 7.0), np.zeros((1, 5)), DataError, r"\[0, 1\]"),
        (np.full((1, 16, 16, 3), np.nan), np.zeros((1, 5)), DataError, "NaN"),
        (np.zeros((1, 16, 16, 3), np.uint8), np.array([[np.inf, 0, 0, 0, 0]]), DataError, "NaN or infinity"),
        (np.zeros((1, 16, 16, 3), np.uint8), np.array([[0.5, 0, 0, 0, 0]]), DataError, "outside the memory's area"),
        (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 4)), ShapeError, "x, y, z, yaw, pitch"),
        (np.zeros((1, 16, 16, 3), np.uint8), None, ShapeError, "belong together"),
    ],
)
def test_photographs_that_cannot_be_are_refused(
    system: Scene, images: Any, poses: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        system.observe(images, poses)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": -1}, "layers must not be negative"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"kernel": 2}, "odd"),
        ({"draft": False}, "draft is off"),
        ({"least_context": 9}, "exceeds context"),
        ({"memory": "pooled", "sides": (4,)}, "arena"),
        ({"nodes": "hubs"}, "hub"),
        ({"layrs": 2}, "layers"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Scene(**options)


def test_data_that_are_no_scenes_are_refused(data: Dataset) -> None:
    with pytest.raises(DataError, match="scenes need"):
        Scene(TINY).fit(np.zeros((4, 3)), progress="off")
    with pytest.raises(ShapeError, match="multiple of grid"):
        Scene({**TINY, "grid": 5}).fit(data, progress="off")
    with pytest.raises(DataError, match="outside the tile"):
        Scene({**TINY, "tile": 0.3}).fit(data, progress="off")
    with pytest.raises(PhlogistonError, match="not fitted"):
        Scene().observe()
    with pytest.raises(UnknownNameError, match="metric"):
        Scene(TINY).fit(data, progress="off", steps=1).evaluate(data, ["mse"])
    none = Scene({**TINY, "keep_scenes": 0}).fit(data, progress="off", steps=1)
    with pytest.raises(ConfigError, match="keeps no scenes"):
        none.sample(1)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_valid(name: str) -> None:
    assert Scene(preset=name).config


def test_a_data_set_meta_is_not_needed(data: Dataset) -> None:
    """What a data set says of itself is written down, and nothing of the result hangs on it."""
    named = Scene(TINY).fit(Dataset(data.train, data.valid, data.test, Meta("mine")), progress="off", steps=1)
    plain = Scene(TINY).fit(data, progress="off", steps=1)
    assert all(torch.equal(a, b) for a, b in zip(named.model.parameters(), plain.model.parameters(), strict=True))
    assert len(named.observe(*views(data))) == len(plain.observe(*views(data)))


# ---- scores of whole scenes


def test_the_score_of_a_scene_is_that_of_its_photographs_beyond_the_context(system: Scene, data: Dataset) -> None:
    few = data.test.select([2, 0])
    score = system.log_prob(few, num_particles=8, seed=5)
    assert score.kind == "lower bound"
    assert score.std_error is not None
    for row, scene in enumerate((2, 0)):
        images, poses = views(data, scene, slice(4, 8))
        memory = system.observe(*views(data, scene))
        each = system.log_prob({"images": images, "poses": poses}, memory=memory, num_particles=8, seed=5)
        assert each.std_error is not None
        assert float(score.value[row]) == pytest.approx(float(each.value.sum()), rel=1e-6)
        assert float(score.std_error[row]) == pytest.approx(float(each.std_error.square().sum().sqrt()), rel=1e-6)
    more = system.log_prob(few, num_particles=2, context=6)
    assert float(more.value[0]) == pytest.approx(float(score.value[0]) / 2, rel=0.5)  # two photographs instead of four


def test_scores_refuse_what_cannot_be_scored(system: Scene, data: Dataset) -> None:
    with pytest.raises(DataError, match="8 photographs and 8 are seen"):
        system.log_prob(data.test, context=8)
    with pytest.raises(ConfigError, match="num_particles is 0"):
        system.log_prob(data.test, num_particles=0)
    with pytest.raises(DataError, match="scenes need 'images'"):
        system.log_prob({"images": data.test.tensors["images"]})
    memory = system.observe(*views(data))
    with pytest.raises(DataError, match="with a memory, data must be a mapping"):
        system.log_prob(views(data), memory=memory)
    with pytest.raises(ConfigError, match="context is for scenes"):
        system.log_prob(data.test, memory=memory, context=2)
    with pytest.raises(UnknownNameError, match="query method 'smc'"):
        system.query(method="smc")


def test_the_best_of_several_options_is_chosen_by_scores(data: Dataset) -> None:
    few = Dataset(data.train, data.valid.select([0]), data.test, data.meta)
    best = Scene.select(few, [{**TINY, "steps": 1}, {**TINY, "sigma": 5.0}], progress="off")
    assert best.config.sigma == 0.2  # pixels in [0, 1] are not spread over fives


# ---- what is kept


def test_scenes_kept_from_training_rows_keep_their_maps(data: Dataset) -> None:
    system = Scene(TINY).fit(data.train, progress="off", steps=1)
    count = len(system.model.kept_maps)
    assert count == 9
    assert torch.equal(system.model.kept_maps, data.train.tensors["map"][:count])
    assert system._kept_source is None  # data do not stay with a fitted system


def test_kept_scenes_without_further_photographs_are_sampled_from_all_their_poses(system: Scene) -> None:
    drawn = system.sample(9, context=8, seed=0)["poses"]
    assert torch.equal(drawn[:8], system.model.kept_poses[0])
    assert torch.equal(drawn[8], drawn[0])
