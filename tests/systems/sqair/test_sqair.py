"""SQAIR as a product: it learns in seconds, answers every verb, survives saving, and refuses what it cannot use."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.errors import ConfigError, DataError, DataWarning, ShapeError, UnknownNameError
from phlogiston.evaluate.tracking import Frame
from phlogiston.inference.query.evidence import Known
from phlogiston.systems.sqair import pictures as sqair_pictures
from phlogiston.systems.sqair.identities import crossings, hidings
from phlogiston.systems.sqair.report import count_components, whole_videos
from phlogiston.systems.sqair.system import SQAIR

TINY: dict[str, Any] = {
    "steps": 3,
    "lengths": (2, 3),
    "shares": (0.5, 0.5),
    "batch_size": 4,
    "hidden": 32,
    "memory": 16,
}


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return datasets.load("moving_digits", sizes=(600, 8, 48))


@pytest.fixture(scope="module")
def learned(data: datasets.Dataset) -> SQAIR:
    """Trained for some twenty seconds: enough to count."""
    return SQAIR(steps=60, lengths=(3,), shares=(1.0,)).fit(data, tensorboard=False, progress="off")


@pytest.fixture(scope="module")
def crowded(data: datasets.Dataset) -> torch.Tensor:
    """A video of two digits."""
    return data.test.tensors["x"][data.test.tensors["count"][:, 0] == 2][:1]


def test_it_learns_to_count_and_follow_in_seconds(learned: SQAIR, data: datasets.Dataset) -> None:
    result = learned.evaluate(data)
    assert result["count_accuracy"].value > 0.85
    assert result["count_accuracy_commonest"].value < 0.55
    assert result["id_switches"].value < 0.05
    assert result["matched"].value > 0.85
    assert result["log_likelihood"].value > result["log_likelihood_of_nothing"].value + 150
    assert result["over_count"].value < 0.1
    assert result["divergence"].value > 0


@pytest.mark.parametrize("masked", [False, True])
def test_a_videos_score_is_its_own(learned: SQAIR, data: datasets.Dataset, masked: bool) -> None:
    x = data.test.tensors["x"][:5, :4]
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.2 if masked else None
    score = learned.log_prob(x, mask=mask, num_particles=4)
    for rows in ([4, 2, 0, 1, 3], [3], [1, 1]):
        again = learned.log_prob(x[rows], mask=None if mask is None else mask[rows], num_particles=4)
        torch.testing.assert_close(again.value, score.value[rows], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(again.std_error, score.std_error[rows], rtol=1e-3, atol=1e-3)  # type: ignore[index]


def test_pairs_that_cross_keep_their_identities_or_not() -> None:
    """Two boxes pass each other; the followers stay with them, are exchanged, or one is lost."""
    left = [(10.0 * t, 0.0, 8.0, 8.0) for t in range(6)]
    right = [(50.0 - 10.0 * t, 0.0, 8.0, 8.0) for t in range(6)]
    real = [{0: a, 1: b} for a, b in zip(left, right, strict=True)]
    faithful = [{7: a, 9: b} for a, b in zip(left, right, strict=True)]
    exchanged = [faithful[t] if t < 3 else {9: left[t], 7: right[t]} for t in range(6)]
    lost = [faithful[t] if t < 3 else {7: left[t]} for t in range(6)]
    assert crossings(real, faithful) == [True]
    assert crossings(real, exchanged) == [False]
    assert crossings(real, lost) == [False]
    assert crossings(real[:3], faithful[:3]) == []


def test_an_object_that_was_hidden_keeps_its_identity_or_not() -> None:
    """One box goes behind something for two frames; its follower waits, is exchanged, is lost, or was never there."""
    real: list[Frame] = [{0: (5.0 * t, 0.0, 8.0, 8.0)} for t in range(8)]
    visible = np.array([[1.0], [0.6], [0.3], [0.0], [0.05], [0.4], [0.7], [1.0]])
    waits: list[Frame] = [{4: frame[0]} for frame in real]
    assert hidings(real, waits, visible) == [True]
    away: list[Frame] = [waits[t] if t not in (3, 4) else {} for t in range(8)]
    assert hidings(real, away, visible) == [True]  # who follows it before and after is what counts
    exchanged: list[Frame] = [waits[t] if t < 4 else {5: real[t][0]} for t in range(8)]
    assert hidings(real, exchanged, visible) == [False]
    assert hidings(real, [waits[t] if t < 4 else {} for t in range(8)], visible) == [False]
    far: list[Frame] = [{4: (5.0 * t + 11.0, 0.0, 8.0, 8.0)} for t in range(8)]
    assert hidings(real, far, visible) == [False]  # 11 pixels away nobody follows it
    assert hidings(real[:6], waits[:6], visible[:6]) == []  # it has not shown again
    assert hidings(real, waits, np.where(visible < 0.1, 0.2, visible)) == []  # never hidden
    long: list[Frame] = [{0: (0.0, 0.0, 8.0, 8.0)}] * 9
    for hidden, expected in ((5, [True]), (6, [])):
        shares = np.ones((9, 1))
        shares[1 : 1 + hidden] = 0.0
        assert hidings(long, long, shares) == expected
    gone: list[Frame] = [real[t] if t != 3 else {} for t in range(8)]
    assert hidings(gone, waits, visible) == []  # it was not hidden: it was not there


def test_the_bound_rises_with_particles_and_says_that_it_is_one(learned: SQAIR, data: datasets.Dataset) -> None:
    few, many = (learned.log_prob(data.test.tensors["x"][:8], num_particles=k) for k in (2, 24))
    assert few.kind == many.kind == "lower bound"
    assert many.value.mean() > few.value.mean()
    assert many.std_error is not None


def test_the_likelihood_is_the_bound_of_the_bound_and_one_array_is_data_enough(
    learned: SQAIR, data: datasets.Dataset
) -> None:
    x = data.test.tensors["x"][:4, :3]
    alone, terms = learned.evaluate(x, ["log_likelihood"]), learned.evaluate({"x": x}, ["bound"])
    assert alone == {"log_likelihood": terms["log_likelihood"]}
    assert len(terms) == 4
    assert learned.evaluate(x, ["count", "tracking", "prediction", "addition"]) == {}  # they need the truth


def test_infer_gives_boxes_counts_and_identities(learned: SQAIR, crowded: torch.Tensor) -> None:
    result = learned.infer(crowded, num_particles=6)
    assert result["boxes"].shape == (1, 10, 3, 4)
    torch.testing.assert_close(result["count_probability"].sum(-1), torch.ones(1, 10))
    assert ((result["ids"] >= 0) == (result["presence"] > 0)).all()
    assert 1 <= float(result["ess"]) <= 6
    every = learned.infer(crowded, num_particles=6, resample=False)
    assert every["boxes"].shape == (6, 1, 10, 3, 4)
    assert every["log_weights"].shape == (6, 1)
    again = learned.infer(crowded, num_particles=6)
    assert torch.equal(result["boxes"], again["boxes"])


def test_tracks_and_the_streaming_tracker_agree_on_how_many_there_are(
    learned: SQAIR, crowded: torch.Tensor, data: datasets.Dataset
) -> None:
    tracks = learned.track(crowded, num_particles=10)[0]
    long = max(tracks, key=lambda track: track.last - track.first)
    assert long.boxes.shape == (long.last - long.first + 1, 4)
    tracker = learned.tracker(6)
    counts = []
    for video in (crowded[0], crowded[0].flip(0)):  # there and back again
        for frame in video:
            step = tracker.step(frame)
            counts.append(len(step["ids"]))
            assert step["boxes"].shape == (len(step["ids"]), 4)
    assert tracker.frames == 20
    for video in data.test.tensors["x"][data.test.tensors["count"][:, 0] == 2][1:4]:
        other = learned.tracker(6)
        counts += [len(other.step(frame)["ids"]) for clip in (video, video.flip(0)) for frame in clip]
    assert np.mean([count == 2 for count in counts]) > 0.55  # 0.9 +- 0.1 for four videos, 0.3 to 1 for a single one
    sizes = {name: value.shape for name, value in vars(tracker.state[0]).items() if isinstance(value, torch.Tensor)}  # type: ignore[index]
    tracker.step(crowded[0, 0])
    assert sizes == {
        name: value.shape for name, value in vars(tracker.state[0]).items() if isinstance(value, torch.Tensor)
    }  # type: ignore[index]


def test_futures_keep_identities_and_births_only_happen_where_allowed(learned: SQAIR, crowded: torch.Tensor) -> None:
    after = learned.predict(crowded[:, :5], 6, 20)
    assert after["x"].shape == (20, 1, 6, 1, 50, 50)
    before = learned.infer(crowded[:, :5], num_particles=10)
    most = int(before["ids"].max()) + 3
    assert int(after["ids"].max()) < most
    counts = after["presence"].sum(-1)
    assert (counts[:, :, 1:] <= counts[:, :, :-1]).all()
    grown = learned.predict(crowded[:, :5], 40, 20, births=True)["presence"].sum(-1)
    assert (grown[:, :, 1:] > grown[:, :, :-1]).any()


def test_samples_have_as_many_objects_as_asked_for(learned: SQAIR) -> None:
    for count in (0, 3):
        drawn = learned.sample(5, frames=3, count=count, seed=1)
        assert drawn["x"].shape == (5, 3, 1, 50, 50)
        assert (drawn["presence"][:, 0].sum(-1) == count).all()
    assert learned.sample(2, frames=1, count=0)["x"].abs().max() == 0.0
    with pytest.raises(ConfigError, match="count=4"):
        learned.sample(1, count=4)


def test_hidden_frames_are_filled_in_from_those_around(learned: SQAIR, data: datasets.Dataset) -> None:
    videos = data.test.tensors["x"][data.test.tensors["count"][:, 0] > 0][:12]
    mask = torch.ones(videos.shape[:2], dtype=torch.bool)
    mask[:, 6] = False
    spoiled = videos.clone()
    spoiled[:, 6] = 255
    filled = learned.impute(spoiled, mask)
    truth = videos.unsqueeze(2).float() / 255
    assert torch.equal(filled[:, :6], truth[:, :6])
    error = (filled[:, 6] - truth[:, 6]).square().sum((1, 2, 3)).mean()
    assert error < truth[:, 6].square().sum((1, 2, 3)).mean()  # better than leaving it black


def test_edits_do_what_they_say(learned: SQAIR, crowded: torch.Tensor) -> None:
    result = learned.edit(crowded, num_particles=10)
    ids = sorted({int(i) for i in result["ids"].flatten() if i >= 0})
    gone = learned.edit(crowded, remove=ids[0])
    assert ids[0] not in gone["ids"]
    assert gone["x"].sum() < result["x"].sum()
    frame = int((result["ids"] == ids[0]).any(-1).nonzero()[0, 1])
    slot = int((result["ids"][0, frame] == ids[0]).nonzero()[0])
    moved = learned.edit(crowded, move=(ids[0], 5.0, -3.0))
    step = moved["boxes"][0, frame, slot, :2] - result["boxes"][0, frame, slot, :2]
    assert step[0] <= 5.01
    assert step[1] >= -3.01
    assert step.abs().sum() > 2
    late = learned.edit(crowded, remove=ids[0], first=5, propagate=3)
    assert late["x"].shape[1] == 13
    torch.testing.assert_close(late["x"][:, :5], result["x"][:, :5], atol=1e-5, rtol=0)
    if len(ids) > 1:
        swapped = learned.edit(crowded, swap=(ids[0], ids[1]))
        assert torch.equal(swapped["boxes"], result["boxes"])
        assert not torch.equal(swapped["x"], result["x"])
    with pytest.raises(DataError, match="identities are"):
        learned.edit(crowded, remove=99)


def test_questions_about_videos_and_latents(learned: SQAIR, crowded: torch.Tensor) -> None:
    answer = learned.query({"x": crowded[0, :2]}, ["t0/births"], 8, seed=0)
    assert "guide" in answer.method
    assert float((answer.samples["t0/births"] == 2).double().mean()) > 0.5
    known = torch.ones(2, 50, 50)
    known[1, :25] = 0
    video = crowded[0, :2].float() / 255
    answer = learned.query({"x": Known(video, known)}, ["x"], 4, seed=0)
    kept = answer.samples["x"].reshape(4, 2, 50, 50)[:, known.bool()]
    assert torch.equal(kept, video[known.bool()].expand_as(kept))
    answer = learned.query({"t0/births": 1}, num_samples=4, frames=2, seed=0)
    assert (answer.samples["t0/births"] == 1).all()


def test_saving_and_loading_changes_nothing(learned: SQAIR, crowded: torch.Tensor, tmp_path: Path) -> None:
    again = systems.load(learned.save(tmp_path / "kept"))
    assert torch.equal(again.infer(crowded)["boxes"], learned.infer(crowded)["boxes"])


def test_pictures_and_videos_show_videos(learned: SQAIR, data: datasets.Dataset) -> None:
    figures = learned.figures(data)
    assert {"tracked", "glimpses", "predicted", "samples"} == set(figures) - {"training"}
    assert all(figure.get_label() for figure in figures.values())
    video = sqair_pictures.video(learned, data.test.tensors["x"][:2], num_particles=2)
    assert video.shape == (10, 400, 400, 3)
    assert video.dtype == np.uint8


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_videos_are_survived(learned: SQAIR, level: int) -> None:
    video = torch.full((2, 4, 50, 50), level, dtype=torch.uint8)
    result = learned.infer(video)
    assert torch.isfinite(result["log_weights"]).all()
    if level == 0:
        assert (result["presence"] == 0).all()
    system = SQAIR(TINY).fit({"x": video}, tensorboard=False, progress="off")
    assert torch.isfinite(system.infer(video)["canvas"]).all()


def test_single_frames_are_air(data: datasets.Dataset) -> None:
    pictures = data.train.tensors["x"][:8, :1]
    system = SQAIR(TINY)  # whose stages ask for more frames than there are
    system.fit({"x": pictures}, tensorboard=False, progress="off")
    assert system.infer(pictures)["boxes"].shape == (8, 1, 3, 4)


@pytest.mark.parametrize("options", [{}, {"match_from": 0.5}, {"background": "static", "renderer": "over"}])
def test_runs_resume_where_they_were(data: datasets.Dataset, tmp_path: Path, options: dict[str, Any]) -> None:
    videos = {"x": data.train.tensors["x"][:16, :3]}
    settings = {**TINY, "steps": 4, **options}
    whole = SQAIR(settings).fit(videos, out=tmp_path / "a", tensorboard=False, progress="off")
    again = SQAIR(settings).fit(videos, out=tmp_path / "a", tensorboard=False, progress="off")
    for a, b in zip(whole.guide.parameters(), again.guide.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.guide.parts.matching


def test_the_published_form_trains_too(data: datasets.Dataset) -> None:
    small = {"steps": 2, "batch_size": 2, "lengths": (2,), "shares": (1.0,), "hidden": 32, "memory": 32, "features": 8}
    system = SQAIR(preset="paper_mlp", **small).fit(
        {"x": data.train.tensors["x"][:4]}, tensorboard=False, progress="off"
    )
    assert torch.isfinite(system.log_prob(data.test.tensors["x"][:2], num_particles=3).value).all()
    whole = SQAIR(preset="paper_mlp")
    whole.schema = {"shape": [1, 50, 50]}
    whole.build()
    count = sum(p.numel() for module in (whole.model, whole.guide) for p in module.parameters())
    # torch gives each of the two GRU cells a second vector of 3 * 256 biases
    assert count == pytest.approx(2_951_522 + 2 * 768, rel=2e-4)


def test_what_cannot_be_used_is_refused_in_words(learned: SQAIR, data: datasets.Dataset) -> None:
    videos = data.test.tensors["x"][:2]
    for wrong, error, words in (
        (videos[0, 0], ShapeError, r"x\[None\]"),
        (videos[:, :, :40], ShapeError, "fitted on"),
        (videos.float() / 255 * float("nan"), DataError, "NaN"),
        (videos.float(), DataError, "0 .. 1"),
        (videos.unsqueeze(2).expand(-1, -1, 2, -1, -1), ShapeError, "channels"),
    ):
        with pytest.raises(error, match=words):
            learned.infer(wrong)
    with pytest.raises(ShapeError, match="mask"):
        learned.impute(videos, torch.ones(2, 3))
    with pytest.raises(UnknownNameError, match="tracking"):
        learned.evaluate(data, ["trackin"])
    with pytest.raises(ConfigError, match="particles"):
        SQAIR(particles=1)
    with pytest.raises(ConfigError, match="add up"):
        SQAIR(lengths=(3, 4), shares=(0.5, 0.4))
    with pytest.raises(ConfigError, match="chain"):
        SQAIR(chain=True)
    with pytest.raises(ConfigError, match="renderer 'max' takes"):
        SQAIR(renderer="max", background="static")


def test_more_objects_than_places_are_told_of() -> None:
    crowd = datasets.load("moving_digits", sizes=(8, 4, 4), counts=(3,))
    with pytest.warns(DataWarning, match="up to 3 objects"):
        SQAIR({**TINY, "slots": 2}).fit(crowd, tensorboard=False, progress="off")


def test_connected_components_are_counted_before_a_fixed_background() -> None:
    ground = torch.full((1, 20, 20), 0.5)
    videos = ground.expand(2, 3, 1, 20, 20).clone()
    videos[0, :, :, 2:8, 2:8] = 0.9
    videos[0, 1:, :, 12:18, 12:18] = 0.1  # darker things count, too
    assert count_components(videos, ground).tolist() == [[1, 2, 2], [0, 0, 0]]
    assert count_components(videos)[1].tolist() == [1, 1, 1], "without it the background is one thing"


def test_the_median_of_connected_components_is_the_ordinary_one() -> None:
    counted = torch.tensor([[1, 2, 2, 1], [1, 1, 3, 1], [2, 2, 3, 1]])  # medians 1.5, 1 and 2
    median, maximum = whole_videos(counted)
    assert median.tolist() == [[2] * 4, [1] * 4, [2] * 4], "torch's own median would take the lower of the two: 1"
    assert maximum.tolist() == [[2] * 4, [3] * 4, [3] * 4]
