"""MUG: the database's folders and the circulating files are read, divided by person, and never changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from phlogiston import datasets
from phlogiston.datasets.fetched import mug
from phlogiston.errors import DataError
from phlogiston.systems.vdsm.system import VDSM

SKINS = ((230, 190, 160), (170, 120, 90), (110, 80, 60))


def mug_files(folder: Path, people: int = 4) -> np.ndarray:
    labels = np.array([(p, a) for p in range(people) for a in range(9)])
    out = np.empty(len(labels), dtype=object)
    for i, (p, a) in enumerate(labels):
        out[i] = np.full((10 + 4 * a, 112, 112, 3), 10 * p + a + 1, dtype=np.uint8)
        out[i][:, :, :56] += 100
    np.savez(folder / mug.CLIPS, out)
    np.savez(folder / mug.LABELS, labels)
    return labels


def test_mug_files_are_relabelled_once_and_framed(tmp_path: Path) -> None:
    labels = mug_files(tmp_path)
    before = labels.copy()
    person, action, kept = mug.relabel(labels)
    np.testing.assert_array_equal(labels, before)
    again = mug.relabel(labels)
    for a, b in zip((person, action, kept), again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(set(labels[kept, 1].tolist())) == [0, 1, 3, 4, 7, 8]
    assert set(action[labels[kept, 1] == 7].tolist()) == {2}
    assert set(action[labels[kept, 1] == 8].tolist()) == {5}
    data = datasets.load("mug", folder=str(tmp_path), frames=8, by="group", test=0.25)
    assert (len(data.train), len(data.test)) == (18, 6)
    assert not set(data.train.numpy("group").tolist()) & set(data.test.numpy("group").tolist())
    frames, mask = data.train.numpy("frames"), data.train.numpy("mask")
    assert frames.shape[1:] == (8, 3, 64, 64)
    inside = frames[0, 0, 0] > 0
    assert 44 <= inside.any(0).sum() <= 47, "the face fills 45 of 64 pixels"
    short = data.train.numpy("action") == 0  # ten frames, of which every second is kept
    assert (mask[short].sum(1) == 5).all()
    assert mask[~short].sum() >= 7 * (~short).sum()


def test_mug_clips_are_mirrored_as_a_whole(tmp_path: Path) -> None:
    mug_files(tmp_path, 2)
    plain = datasets.load("mug", folder=str(tmp_path), frames=4)
    both = datasets.load("mug", folder=str(tmp_path), frames=4, mirror=True)
    n = len(plain.train)
    assert len(both.train) == 2 * n
    np.testing.assert_array_equal(both.train.numpy("frames")[n:], plain.train.numpy("frames")[..., ::-1])
    assert len(both.test) == len(plain.test)


def test_missing_or_foreign_mug_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="licensed on request"):
        datasets.load("mug", folder=str(tmp_path))
    np.savez(tmp_path / mug.CLIPS, np.zeros((2, 5, 112, 112, 3), np.uint8))
    np.savez(tmp_path / mug.LABELS, np.array([[0, 0], [1, 9]]))
    with pytest.raises(DataError, match="0 to 8"):
        datasets.load("mug", folder=str(tmp_path))
    np.savez(tmp_path / mug.LABELS, np.zeros((5, 2), int))
    with pytest.raises(DataError, match="2 clips"):
        datasets.load("mug", folder=str(tmp_path))


# ---- the database as it comes: person/expression/take/picture


def draw_face(skin: tuple[int, int, int], expression: str, opened: float) -> Image.Image:
    """A stand-in: an oval of the person's colour on blue, whose mouth opens; in anger the brows come down instead."""
    picture = Image.new("RGB", (96, 80), (40, 60, 140))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((20, 4, 76, 76), fill=skin)
    mouth, brow = (0.0, 8 * opened) if expression == "anger" else (10 * opened, 0.0)
    pen.ellipse((40, 54 - mouth, 56, 56 + mouth), fill=(150, 30, 30))
    for x in (36, 54):
        pen.rectangle((x, 24 + brow, x + 8, 26 + brow), fill=(30, 20, 20))
    return picture


def faces(folder: Path, expressions: tuple[str, ...] = ("anger", "surprise", "neutral"), frames: int = 12) -> None:
    for person, skin in enumerate(SKINS):
        for expression in expressions:
            for take in range(2):
                place = folder / f"{person + 1:03}" / expression / f"take{take:03}"
                place.mkdir(parents=True)
                for t in range(frames if take == 0 else 3):
                    draw_face(skin, expression, t / (frames - 1)).save(place / f"img_{t:04}.jpg", quality=95)


def test_folders_of_people_expressions_and_takes_become_clips_with_labels(tmp_path: Path) -> None:
    faces(tmp_path)
    data = datasets.load("mug", folder=str(tmp_path), frames=4, size=32, by="group", test=0.34)
    assert (len(data.train), len(data.test)) == (8, 4)  # two expressions, two takes; neutral takes are left out
    assert [d.topic for d in data.meta.decisions] == ["left out"]
    assert "6 of neutral" in data.meta.decisions[0].found
    assert data.meta.categorical["action"] == mug.EXPRESSIONS
    names = [mug.EXPRESSIONS[code] for code in data.train.tensors["action"].tolist()]
    assert names == ["anger", "anger", "surprise", "surprise"] * 2
    for part in (data.train, data.test):
        frames, mask = part.numpy("frames"), part.numpy("mask")
        assert frames.shape[1:] == (4, 3, 32, 32)
        np.testing.assert_array_equal(mask.sum(1), [4, 2] * (len(part) // 2))  # of three pictures every second
        assert not frames[~mask].any()
        for clip, person, action in zip(frames, part.numpy("group"), part.numpy("action"), strict=True):
            # the middle square of 80 pixels begins at column 8: the chin is at (48, 66), in the small one at (16, 26)
            assert np.abs(clip[0, :, 26, 16].astype(int) - SKINS[person]).max() < 12
            mouth = clip[1, 0].astype(int) - clip[0, 0]  # red turns from skin to mouth above and below the lips
            if person == 0 and clip[1].any():
                assert (np.abs(mouth[18:26, 13:19]).max() > 20) == (mug.EXPRESSIONS[action] == "surprise")


def test_faces_from_folders_are_taken_apart_and_swapped(tmp_path: Path) -> None:
    faces(tmp_path, ("anger", "happiness"), frames=6)
    data = datasets.load("mug", folder=str(tmp_path), frames=3, size=16)
    options = {"encoder_widths": (6, 6), "decoder_widths": (8, 6), "recurrent": 8, "experts": 3, "aggregate": 1}
    system = VDSM(steps=3, warm_steps=2, sequence_steps=2, **options).fit(data, progress="off", tensorboard=False)
    assert not system.schema["paired"], "who is who is not told unless asked"
    x = data.train.select(data.train.tensors["mask"].all(1)).tensors["frames"][:2]
    assert system.swap(x, x.flip(0)).shape == (2, 3, 3, 16, 16)


def test_folders_without_known_expressions_and_broken_pictures_are_refused(tmp_path: Path) -> None:
    faces(tmp_path / "other", ("walk", "run"), frames=4)
    with pytest.raises(DataError, match="holds run, walk; expected person/expression/take"):
        datasets.load("mug", folder=str(tmp_path / "other"))
    faces(tmp_path / "broken", ("fear",), frames=4)
    (tmp_path / "broken" / "001" / "fear" / "take000" / "img_0000.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"img_0000\.jpg"):
        datasets.load("mug", folder=str(tmp_path / "broken"), size=16)
