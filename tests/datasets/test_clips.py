"""Video sets: what a clip shows is what its labels say, and no clip depends on the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.fetched import sprites
from phlogiston.datasets.generated import figures, pendulum
from phlogiston.errors import DataError

SPRITES = Path(__file__).resolve().parents[3] / "shared" / "data" / "sprites"
needs_sprites = pytest.mark.skipif(not SPRITES.is_dir(), reason="the prepared sprites are not beside the checkout")


# ---- figures


def test_a_figure_wears_the_colours_its_labels_name() -> None:
    data = datasets.load("figures", characters=(6, 0, 2))
    for name in ("top", "legs", "hair", "skin"):
        codes = data.train.numpy(name)
        tints = np.array(list(figures.COLOURS[name].values()))
        for row in range(0, len(data.train), 4):
            pixels = np.moveaxis(data.train.numpy("frames")[row], 1, -1).reshape(-1, 3)
            counts = [(pixels == tint).all(-1).sum() for tint in tints]
            assert counts[codes[row]] > 20, f"{name} of row {row}"
            if name == "top":  # no other part has these colours
                assert sum(counts) == counts[codes[row]]


def test_test_characters_are_new_combinations_of_known_attributes() -> None:
    data = datasets.load("figures", characters=(24, 4, 8))
    groups = [set(part.numpy("group").tolist()) for part in (data.train, data.valid, data.test)]
    assert not groups[0] & groups[2]
    assert not groups[0] & groups[1]
    assert [len(g) for g in groups] == [24, 4, 8]
    for i, name in enumerate(figures.ATTRIBUTES):
        np.testing.assert_array_equal(
            data.test.numpy(name), figures.attributes(data.test.numpy("group"))[:, i], err_msg=name
        )
    np.testing.assert_array_equal(data.train.numpy("action"), np.tile(np.arange(9), 24))


def test_a_figures_clip_does_not_depend_on_the_others() -> None:
    few = datasets.load("figures", characters=(2, 0, 1))
    many = datasets.load("figures", characters=(3, 1, 3))
    np.testing.assert_array_equal(few.train.numpy("frames"), many.train.numpy("frames")[:18])
    np.testing.assert_array_equal(few.test.numpy("frames"), many.test.numpy("frames")[:9])


def test_another_palette_paints_the_same_figures_in_other_colours() -> None:
    usual, other = (datasets.load("figures", characters=(2, 0, 1), size=32, palette=n) for n in (0, 3))
    for name in ("group", "action", *figures.ATTRIBUTES):
        np.testing.assert_array_equal(usual.train.numpy(name), other.train.numpy(name))
    colours = figures.palette_of(3)
    assert {name: tuple(colours[name]) for name in figures.ATTRIBUTES} == {
        name: other.meta.categorical[name] for name in figures.ATTRIBUTES
    }
    pixels = np.moveaxis(other.train.numpy("frames")[0], 1, -1).reshape(-1, 3)
    for name in ("top", "legs", "hair"):
        tint = list(colours[name].values())[other.train.numpy(name)[0]]
        assert (pixels == tint).all(-1).sum() > 10, name
    ground = (usual.train.numpy("frames") == 0).all(2)
    np.testing.assert_array_equal(ground, (other.train.numpy("frames") == 0).all(2))


def test_colours_of_a_palette_can_be_told_apart() -> None:
    assert figures.palette_of(0) is figures.COLOURS
    for number in range(1, 40):
        colours = {name: np.array(list(c.values()), float) for name, c in figures.palette_of(number).items()}
        for one in colours.values():
            assert one.shape == (4, 3)
            assert one.max(1).min() >= 80
            assert np.linalg.norm(one[:, None] - one[None], axis=-1)[~np.eye(4, dtype=bool)].min() >= 80
        for one, two in (("skin", "hair"), ("skin", "top"), ("top", "legs")):
            assert np.linalg.norm(colours[one][:, None] - colours[two][None], axis=-1).min() >= 60
    with pytest.raises(DataError, match="palette is -1"):
        datasets.load("figures", characters=(1, 0, 1), palette=-1)


def test_left_is_right_in_a_mirror_and_small_is_large_averaged() -> None:
    who, phase = np.array([[0, 1, 2, 3]]), np.array([0.3])
    for action in range(3):
        left = figures.draw(who, np.array([3 * action + 1]), phase, np.zeros((1, 2)))
        right = figures.draw(who, np.array([3 * action + 2]), phase, np.zeros((1, 2)))
        np.testing.assert_array_equal(left, right[..., ::-1])
    large = figures.draw(who, np.array([4]), phase, np.zeros((1, 2))).astype(float)
    for size in (32, 16):
        small = figures.draw(who, np.array([4]), phase, np.zeros((1, 2)), size=size)
        box = 64 // size
        mean = large.reshape(1, 8, 3, size, box, size, box).mean((4, 6))
        assert np.abs(small - mean).max() <= 1.0, "rounding, once instead of twice"


def test_nothing_of_a_figure_is_cut_off() -> None:
    who = np.zeros((36, 4), dtype=int)
    action = np.repeat(np.arange(9), 4)
    corners = np.tile(np.array([(-3, -2), (3, 2), (3, -2), (-3, 2)], dtype=float), (9, 1))
    moved = figures.draw(who, action, np.zeros(36), corners, frames=16)
    middle = figures.draw(who, action, np.zeros(36), np.zeros((36, 2)), frames=16)
    for row in range(36):
        dx, dy = corners[row].astype(int)
        np.testing.assert_array_equal(np.roll(middle[row], (dy, dx), (-2, -1)), moved[row])


# ---- pendulum


def test_the_pendulum_swings_as_physics_says() -> None:
    start = np.array([0.05, 0.05])
    angle = pendulum.swing(np.array([0, 1]), start, np.zeros(2), 200)
    t = pendulum.FRAME_STEP * np.arange(200)
    for row, pull in enumerate((4.0, 16.0)):  # small swings are harmonic, up to amplitude^2 / 16 of the phase
        np.testing.assert_allclose(angle[row], 0.05 * np.cos(np.sqrt(pull) * t), atol=1e-3)
    wide = pendulum.swing(np.array([1]), np.array([1.4]), np.array([0.7]), 60)[0]
    speed = np.gradient(wide, pendulum.FRAME_STEP)[2:-2]
    energy = 0.5 * speed**2 - 16.0 * np.cos(wide[2:-2])
    assert np.ptp(energy) < 0.1 * np.abs(energy).mean() + 2.0  # what finite differences leave
    damped = pendulum.swing(np.array([2]), np.array([1.2]), np.zeros(1), 60)[0]
    assert np.abs(damped[-20:]).max() < 0.1 * np.abs(damped[:10]).max()


def test_the_disc_is_where_the_angle_says() -> None:
    data = datasets.load("pendulum", sizes=(20, 0, 5))
    frames = data.train.numpy("frames").astype(float)
    tint = np.array(list(pendulum.COLOURS.values()), dtype=float)[data.train.numpy("colour")]
    near = np.abs(frames - tint[:, None, :, None, None]).sum(2) < 40.0
    y, x = np.mgrid[:64, :64] + 0.5
    found = np.stack([(near * x).sum((-2, -1)), (near * y).sum((-2, -1))], -1) / near.sum((-2, -1))[..., None]
    assert np.abs(found - pendulum.centre(data.train.numpy("angle"))).max() < 0.5


def test_a_longer_pendulum_clip_begins_with_the_shorter_one() -> None:
    short = datasets.load("pendulum", sizes=(3, 0, 2))
    long = datasets.load("pendulum", sizes=(5, 1, 2), frames=30)
    np.testing.assert_array_equal(short.train.numpy("frames"), long.train.numpy("frames")[:3, :16])
    np.testing.assert_array_equal(short.test.numpy("angle"), long.test.numpy("angle")[:, :16])


@pytest.mark.parametrize("name", ["figures", "pendulum"])
@pytest.mark.parametrize("options", [{"size": 48}, {"frames": 0}])
def test_impossible_clips_are_refused(name: str, options: dict[str, int]) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        datasets.load(name, **options)


@pytest.mark.parametrize("size", [16, 64])
def test_parts_may_be_empty(size: int) -> None:
    data = datasets.load("pendulum", sizes=(2, 0, 0), size=size)
    assert tuple(data.valid.tensors["frames"].shape) == (0, 16, 3, size, size)
    drawn = datasets.load("figures", characters=(1, 0, 0), size=size)
    assert tuple(drawn.test.tensors["frames"].shape) == (0, 8, 3, size, size)


def test_more_figures_than_there_are_combinations_are_refused() -> None:
    with pytest.raises(DataError, match="256"):
        datasets.load("figures", characters=(200, 0, 57))


# ---- sprites


@needs_sprites
def test_prepared_sprites_are_read_with_their_palette_and_divided_by_character() -> None:
    data = datasets.load("sprites", folder=str(SPRITES), valid=20, size=16)
    groups = [set(part.numpy("group").tolist()) for part in (data.train, data.valid, data.test)]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    assert len(groups[1]) == 20
    assert [len(part) for part in (data.train, data.valid, data.test)] == [9 * len(g) for g in groups]
    labels = np.load(SPRITES / "labels.npz")
    assert groups[0] | groups[1] | groups[2] == set(labels["identity_index"].tolist())
    row = 9 * 7 + 4
    code = sum(int(data.test.numpy(name)[row]) * 6 ** (3 - i) for i, name in enumerate(sprites.ATTRIBUTES))
    assert code == int(data.test.numpy("group")[row])


def sheets(folder: Path, seed: int = 0) -> None:
    """Flat sheets: every cell of a layer covers a patch of its own, in a colour that tells row, column and variant."""
    import imageio.v3 as iio

    for layer, name in enumerate(sprites.LAYERS):
        (folder / name).mkdir(parents=True)
        for variant in range(1 if name == "shoes" else 6):
            sheet = np.zeros((21, 64, 13, 64, 4), dtype=np.uint8)
            patch = slice(layer * 10, layer * 10 + 8)
            sheet[:, patch, :, :8, 0] = np.arange(21)[:, None, None, None]
            sheet[:, patch, :, :8, 1] = np.arange(13)[:, None]
            sheet[:, patch, :, :8, 2] = 10 * (variant + 1)
            sheet[:, patch, :, :8, 3] = 255
            iio.imwrite(folder / name / f"{variant}.png", sheet.reshape(21 * 64, 13 * 64, 4))


def test_sprites_are_composed_from_sheets(tmp_path: Path) -> None:
    sheets(tmp_path)
    data = datasets.load("sprites", folder=str(tmp_path))
    assert (len(data.train), len(data.test)) == (9000, 2664)
    frames, action = data.test.numpy("frames"), data.test.numpy("action")
    row = 31
    kind, view = sprites.ACTIONS[action[row]].split()
    want_row = {"spellcast": 0, "walk": 8, "slash": 12}[kind] + {"left": 1, "front": 2, "right": 3}[view]
    for layer, name in enumerate(("skin", "bottomwear", "topwear", "hair")):
        cell = frames[row, :, :, layer * 10 + 3, 3]  # (time, colour)
        assert (cell[:, 0] == want_row).all()
        assert cell[:, 1].tolist() == list(sprites.COLUMNS[kind])
        assert (cell[:, 2] == 10 * (data.test.numpy(name)[row] + 1)).all()


def test_a_folder_without_sprites_is_refused_and_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.npz"):
        datasets.load("sprites", folder=str(tmp_path))
    np.savez(tmp_path / "labels.npz", palette=np.zeros((3, 3), np.uint8), identity=np.zeros((2, 4), np.uint8))
    with pytest.raises(DataError, match="walk_front"):
        datasets.load("sprites", folder=str(tmp_path))


def test_a_preview_shows_clips_over_time() -> None:
    from phlogiston.datasets.preview import figure

    drawn = figure(datasets.load("pendulum", sizes=(5, 0, 0), size=16, frames=3))
    assert len(drawn.axes) == 15
