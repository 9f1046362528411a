"""Videos: moving digits, walkers, and one's own."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.generated import motion as physics
from phlogiston.datasets.generated import moving_digits, walkers
from phlogiston.datasets.readers import video_folder
from phlogiston.errors import DataError, UnknownNameError


@pytest.fixture(scope="module")
def templates() -> physics.Templates:
    return physics.prepare_templates(*moving_digits._pictures("digits", None)[0])


@pytest.mark.parametrize("bounds", physics.BOUNDS)
def test_clips_are_the_same_again_and_do_not_depend_on_how_many_were_asked_for(templates: Any, bounds: str) -> None:
    motion = physics.Motion(bounds)
    few, many = (physics.clips(n, templates, motion, frames=6) for n in (5, 140))
    for name, values in few.items():
        np.testing.assert_array_equal(values, many[name][:5], err_msg=name)


def test_truth_fits_the_pictures(templates: Any) -> None:
    clips = physics.clips(200, templates, physics.Motion("inside"))
    assert clips["x"].shape == (200, 10, 50, 50)
    np.testing.assert_allclose(np.bincount(clips["count"][:, 0], minlength=3) / 200, 1 / 3, atol=0.1)
    lit = clips["x"] > 0
    y, x = np.mgrid[:50, :50]
    inside = np.zeros(lit.shape, bool)
    for j in range(2):
        top, left, height, width = np.moveaxis(clips["boxes"][:, :, j, None, None], -1, 0)
        inside |= (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        assert (clips["visible"][:, :, j][clips["present"][:, :, j]] == 1.0).all()
    assert not (lit & ~inside).any()
    assert lit[clips["count"] == 0].sum() == 0
    first, second = clips["boxes"][:, 0, 0], clips["boxes"][:, 0, 1]
    both = clips["count"][:, 0] == 2
    apart = (
        np.abs(first[:, :2] + first[:, 2:] / 2 - second[:, :2] - second[:, 2:] / 2) * 2 >= first[:, 2:] + second[:, 2:]
    )
    assert apart.any(1)[both].mean() > 0.97  # boxes of the first frame are disjoint
    step = np.abs(np.diff(clips["boxes"][..., :2], axis=1))
    assert step.max() <= 5.0  # speed 4, and rounding


def test_the_published_protocol_lets_digits_leave_and_still_counts_them(templates: Any) -> None:
    clips = physics.clips(256, templates, physics.Motion("topleft"))
    seen = clips["visible"][clips["present"]]
    assert 0.15 < (seen < 0.5).mean() < 0.35
    assert clips["boxes"][..., :2].min() >= 0
    assert (clips["count"] == clips["count"][:, :1]).all()


def test_scale_colour_occlusion_and_turnover(templates: Any) -> None:
    pictures = moving_digits._pictures("digits", None)[0]
    small = physics.prepare_templates(*pictures, scale=(0.7, 0.7))
    assert small.sizes.mean() == pytest.approx(0.7 * templates.sizes.mean(), rel=0.06)
    mixed = physics.prepare_templates(*pictures, scale=(0.6, 1.2))
    assert mixed.pixels.shape[1] == 5
    still = physics.Motion("inside", speed=0.0, acceleration=0.0, noise=0.0)
    options: dict[str, Any] = {"counts": (2,), "frames": 4}
    for occlusion in physics.OCCLUSION:
        clip = physics.clips(4, templates, still, occlusion=occlusion, **options)["x"]
        assert (clip == clip[:, :1]).all()
    painted = physics.clips(4, templates, still, colour=True, **options)["x"]
    assert painted.shape == (4, 4, 3, 50, 50)
    changing = physics.clips(300, templates, still, turnover=0.8, counts=(1,), frames=10)
    assert 0.7 < (changing["count"].min(1) == 0).mean() < 0.9
    with pytest.raises(DataError, match="canvas"):
        physics.prepare_templates(*pictures, scale=(3.0, 3.0))


def test_the_parts_show_different_digits_and_bad_options_are_refused() -> None:
    data = datasets.load("moving_digits", sizes=(40, 20, 20), frames=2)
    assert len(data.train) == 40
    assert data.train.sequences == frozenset(physics.SEQUENCES)
    assert data.meta.options["bounds"] == "inside"
    with pytest.raises(UnknownNameError, match="inside"):
        datasets.load("moving_digits", bounds="insid")
    with pytest.raises(DataError, match="turnover"):
        datasets.load("moving_digits", turnover=2.0)
    with pytest.raises(DataError, match="speed"):
        physics.Motion("inside", speed=-1.0)


def test_digits_pass_behind_a_bar(templates: Any) -> None:
    small = physics.prepare_templates(*moving_digits._pictures("digits", None)[0], scale=(0.5, 0.5))
    options: dict[str, Any] = {"counts": (1,), "frames": 12}
    clips = physics.clips(200, small, physics.Motion("inside"), screen=16, **options)
    assert (clips["x"][..., 17:33] == 128).all()
    free = physics.clips(200, small, physics.Motion("inside"), **options)
    assert free["visible"].min() == 1.0
    left, width = clips["boxes"][:, :, 0, 1], clips["boxes"][:, :, 0, 3]
    behind = np.clip(np.minimum(left + width, 33) - np.maximum(left, 17), 0, None)
    np.testing.assert_allclose(clips["visible"][..., 0], 1 - behind / width, atol=1e-6)
    assert (clips["visible"][:, 0, 0] == 1.0).mean() > 0.97  # they start where they can be seen
    lit = np.delete(clips["x"], np.s_[17:33], axis=-1).any((2, 3))
    assert not lit[clips["visible"][..., 0] == 0].any()
    assert (clips["visible"][..., 0] == 0).any(1).mean() > 0.1
    with pytest.raises(DataError, match="screen"):
        datasets.load("moving_digits", screen=50)


def test_shapes_move_among_digits_and_pixels_are_grainy() -> None:
    data = datasets.load("moving_digits", sizes=(200, 8, 8), frames=1, shapes=True, grain=0.1, counts=(1,))
    labels = data.train.tensors["label"][:, 0].numpy()
    assert 0.35 < (labels >= 10).mean() < 0.65
    assert {10, 11} <= set(labels)
    clean = datasets.load("moving_digits", sizes=(200, 8, 8), frames=1, shapes=True, counts=(1,))
    noise = data.train.numpy("x").astype(float) - clean.train.numpy("x")
    middle = (clean.train.numpy("x") > 100) & (clean.train.numpy("x") < 155)
    assert noise[middle].std() == pytest.approx(25.5, rel=0.05)
    square = clean.train.numpy("x")[labels == 11][0, 0]
    assert len(set(square[square > 0].tolist())) == 1


def test_an_endless_stream_is_quick(templates: Any) -> None:
    clips = moving_digits.endless(templates, 32)
    first, second = next(clips), next(clips)
    assert (first["x"] != second["x"]).any()
    began = time.process_time()
    for _ in range(10):
        next(clips)
    assert (time.process_time() - began) / 10 < 0.05  # some 4 ms on a free core


def test_mnists_digits_move_where_they_are_at_hand(test_data: Any) -> None:
    data = datasets.load("moving_digits", root=test_data("mnist"), source="mnist", sizes=(16, 8, 8), frames=2)
    assert data.train.tensors["boxes"][..., 2].max() <= 21
    assert data.meta.kind == "fetched"


def test_walkers_come_cross_and_go() -> None:
    clips = walkers.clips(120, 12, 48, 64, 3, (1.5, 4.0))
    few = walkers.clips(4, 12, 48, 64, 3, (1.5, 4.0))
    np.testing.assert_array_equal(few["x"], clips["x"][:4])
    present = clips["present"]
    seen = present.any(1)
    assert (~present.all(1))[seen].mean() > 0.25  # who is seen at all often enters or leaves
    boxes = clips["boxes"][present]
    assert (boxes[:, 2] > 1.8 * boxes[:, 3]).all()  # people are higher than wide
    assert clips["x"][clips["visible"].sum(-1) == 0].max(initial=0) == 0
    alone = present.sum(-1) == 1
    for i, t in list(zip(*np.nonzero(alone), strict=True))[:40]:
        y, x = np.nonzero(clips["x"][i, t] > 60)
        if clips["visible"][i, t].max() == 1.0 and (clips["visible"][i, t] > 0).sum() == 1:
            top, left, height, width = clips["boxes"][i, t][present[i, t]][0]
            assert top - 2 <= y.min()
            assert y.max() <= top + height + 2
            assert left - 3 <= x.min()
            assert x.max() <= left + width + 3
    data = datasets.load("walkers", sizes=(4, 2, 2), background="street", colour=True, noise=0.02)
    assert tuple(data.train.tensors["x"].shape) == (4, 12, 3, 48, 64)
    with pytest.raises(DataError, match="speed"):
        datasets.load("walkers", speed=(3.0, 1.0))


def test_walkers_on_the_square_are_small_far_away_cast_shadows_and_pass_behind_the_tree() -> None:
    clips = walkers.clips(60, 12, 48, 64, 3, (1.5, 4.0), "square", colour=True)
    few = walkers.clips(3, 12, 48, 64, 3, (1.5, 4.0), "square", colour=True)
    np.testing.assert_array_equal(few["x"], clips["x"][:3])
    present, visible, boxes = (clips[name] for name in ("present", "visible", "boxes"))
    feet, tall = (boxes[..., 0] + boxes[..., 2])[present], boxes[..., 2][present]
    assert np.corrcoef(feet, tall)[0, 1] > 0.9  # who stands lower is nearer, and larger
    hidden = present & (visible < 0.1)
    assert 0.02 < hidden.sum() / present.sum() < 0.3
    empty = np.round(255 * walkers.square(48, 64)).transpose(2, 0, 1)
    colours, tree = walkers.tree(48, 64)
    empty[:, tree] = np.round(255 * colours[tree]).T
    np.testing.assert_allclose(
        clips["x"][..., tree], np.broadcast_to(empty[:, tree], clips["x"][..., tree].shape), atol=1
    )
    nobody = visible.sum(-1) == 0
    assert nobody.any()
    changed = np.abs(clips["x"].astype(int) - empty) > 2
    gone = nobody & ~present.any(-1)
    shadows_only = changed[gone].any(1).mean()
    assert shadows_only < 0.003  # but for shadows that reach back into the picture
    darker = (clips["x"].astype(int) - empty < -8).all(2)
    assert darker[present.any(-1)].any((1, 2)).mean() > 0.7
    with pytest.raises(UnknownNameError, match="squar"):
        datasets.load("walkers", background="squar")


def test_ones_own_clips_lose_their_background_and_are_divided_by_time(tmp_path: Path) -> None:
    from PIL import Image

    truth = walkers.clips(1, 60, 48, 64, 3, (1.5, 4.0), "street", seed=2)
    folder = tmp_path / "clips" / "camera"
    folder.mkdir(parents=True)
    for t, frame in enumerate(truth["x"][0]):
        Image.fromarray(frame).save(folder / f"{t:03d}.png")
    np.savez(tmp_path / "clips" / "more.npz", clip=truth["x"][0])
    data = datasets.load("video_folder", data=str(tmp_path / "clips"), length=6, stride=6, valid=0.2, test=0.2)
    assert (len(data.train), len(data.valid), len(data.test)) == (12, 4, 4)
    np.testing.assert_array_equal(data.test.numpy("x")[1, -1], video_folder.prepare(truth["x"][0])[-1])
    empty = truth["visible"][0].sum(-1) == 0
    if empty.any():
        assert video_folder.prepare(truth["x"][0])[empty].max() < 40  # the street is gone
    halved = datasets.load("video_folder", data=str(folder), length=4, size=(24, 32), colour=True, contrast=5.0)
    assert tuple(halved.train.tensors["x"].shape[1:]) == (4, 3, 24, 32)


def test_a_video_file_is_read(tmp_path: Path) -> None:
    import imageio.v3 as iio

    clips = walkers.clips(12, 12, 48, 64, 2, (2.0, 4.0), seed=1)
    clip = clips["x"][int(clips["present"].any(2).sum(1).argmax())]  # one that moves in every frame
    iio.imwrite(tmp_path / "clip.gif", clip, plugin="pillow")
    data = datasets.load("video_folder", data=str(tmp_path / "clip.gif"), length=3, stride=3, background="none")
    assert len(data.train) + len(data.valid) + len(data.test) == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [(np.full((5, 20, 20), np.nan, np.float32), "NaN"), (np.zeros((5, 5)), "holds no array"), (None, "no videos")],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    (tmp_path / "clips").mkdir()
    if content is not None:
        np.save(tmp_path / "clips" / "a.npy", content)
    with pytest.raises(DataError, match=words):
        datasets.load("video_folder", data=str(tmp_path / "clips"), length=2)
    with pytest.raises(DataError, match="data=FOLDER"):
        datasets.load("video_folder")
    with pytest.raises(DataError, match="no file or folder"):
        datasets.load("video_folder", data=str(tmp_path / "nothing"))
