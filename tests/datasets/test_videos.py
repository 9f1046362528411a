"""Clips of the user's own: read without running anything, filled up, divided, never changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.untrusted.media import read_video
from phlogiston.errors import DataError, ShapeError
from phlogiston.systems import export


def clips(rows: int = 10, length: int = 4, side: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, length, side, side, channels), dtype=np.uint8)


def ragged(lengths: list[int], side: int = 8) -> np.ndarray:
    out = np.empty(len(lengths), dtype=object)
    for i, length in enumerate(lengths):
        out[i] = np.full((length, side, side, 3), i + 1, dtype=np.uint8)
    return out


def test_an_npz_of_clips_is_known_by_its_frames(tmp_path: Path) -> None:
    x = clips()
    identity = np.stack([np.arange(10) % 5, np.arange(10) % 2], 1)
    names = json.dumps({"action": ["walk", "run"]})
    np.savez(tmp_path / "mine.npz", frames=x, action=np.arange(10) % 2, identity=identity, names=np.array(names))
    data = datasets.load(str(tmp_path / "mine.npz"), test=0.3)
    assert (len(data.train), len(data.valid), len(data.test)) == (7, 0, 3)
    assert data.meta.categorical["action"] == ("walk", "run")
    assert {"identity_0", "identity_1", "group"} <= set(data.train.tensors)
    assert "mask" not in data.train.tensors
    got = np.concatenate([data.train.numpy("frames"), data.test.numpy("frames")])
    assert sorted(f.tobytes() for f in got) == sorted(np.moveaxis(f, -1, 1).tobytes() for f in x)
    again = datasets.load(data.meta.name, **data.meta.options)
    np.testing.assert_array_equal(again.train.numpy("frames"), data.train.numpy("frames"))
    assert datasets.read_options(str(tmp_path / "mine.npz"), {"size": "16", "by": "group"}) == {
        "size": 16,
        "by": "group",
    }


def test_people_can_be_kept_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", frames=clips(20), identity=np.arange(20) % 5)
    data = datasets.load(str(tmp_path / "mine.npz"), by="group", valid=0.2, test=0.2)
    people = [set(part.numpy("group").tolist()) for part in (data.train, data.valid, data.test)]
    assert [len(p) for p in people] == [3, 1, 1]
    assert not people[0] & people[1]
    assert not people[0] & people[2]


def test_clips_of_unequal_length_are_filled_up_and_marked_without_unpickling(tmp_path: Path) -> None:
    np.savez(tmp_path / "ragged.npz", frames=ragged([3, 5, 2]), action=np.array([0, 1, 0]))
    data = datasets.load(str(tmp_path / "ragged.npz"), test=0)
    assert data.train.numpy("frames").shape == (3, 5, 3, 8, 8)
    assert sorted(data.train.numpy("mask").sum(1).tolist()) == [2, 3, 5]
    frames, mask = data.train.numpy("frames"), data.train.numpy("mask")
    assert (frames[~mask] == 0).all()
    assert (frames[mask] > 0).all()
    cut = datasets.load(str(tmp_path / "ragged.npz"), test=0, length=2)
    assert "mask" not in cut.train.tensors
    half = datasets.load(str(tmp_path / "ragged.npz"), test=0, every=2)
    assert sorted(half.train.numpy("mask").sum(1).tolist()) == [1, 2, 3]


def test_a_folder_of_videos_gives_actions_by_folder(tmp_path: Path) -> None:
    for kind, videos in {"jump": ["a.gif", "b.mp4"], "run": ["c.gif"]}.items():
        (tmp_path / kind).mkdir()
        for name in videos:
            video = clips(1, 4, 32)[0] // 2
            options = {"plugin": "pyav", "codec": "libx264", "fps": 8} if name.endswith("mp4") else {"loop": 0}
            iio.imwrite(tmp_path / kind / name, video, **options)
    data = datasets.load(str(tmp_path), test=0, size=16)
    assert data.meta.categorical["action"] == ("jump", "run")
    assert sorted(data.train.numpy("action").tolist()) == [0, 0, 1]
    assert data.train.numpy("frames").shape[2:] == (3, 16, 16)


def test_parts_of_ones_own_stay_as_they_are(tmp_path: Path) -> None:
    for part, rows in (("train", 6), ("test", 2)):
        np.savez(tmp_path / f"{part}.npz", frames=clips(rows), action=np.zeros(rows, int))
    data = datasets.load(str(tmp_path))
    assert (len(data.train), len(data.valid), len(data.test)) == (6, 0, 2)


def test_grey_floats_and_wide_frames_are_brought_into_form() -> None:
    x = np.linspace(0, 1, 2 * 3 * 12 * 20).reshape(2, 3, 12, 20)
    data = datasets.load({"frames": x}, test=0, size=8)
    assert data.train.numpy("frames").shape == (2, 3, 1, 8, 8)
    assert data.train.numpy("frames").max() > 240


def test_clips_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    for frames, error, word in (
        (clips(3).astype(float) * 2, DataError, "0 to 255"),
        (np.full((2, 3, 8, 8, 3), np.nan), DataError, "no pixels"),
        (clips(2, channels=2), ShapeError, "channels"),
        (clips(0), DataError, "no clips"),
    ):
        with pytest.raises(error, match=word):
            datasets.load({"frames": frames}, test=0)
    with pytest.raises(ShapeError, match="'action' has 2 rows"):
        datasets.load({"frames": clips(3), "action": np.zeros(2, int)})
    with pytest.raises(DataError, match="who is who"):
        datasets.load({"frames": clips(3)}, by="group")
    mixed = ragged([2, 2])
    mixed[1] = np.zeros((2, 9, 9, 3), np.uint8)
    np.savez(tmp_path / "mixed.npz", frames=mixed)
    with pytest.raises(ShapeError, match="size"):
        datasets.load(str(tmp_path / "mixed.npz"), test=0)
    (tmp_path / "bad.gif").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"bad\.gif"):
        datasets.load(str(tmp_path / "bad.gif"), test=0)


def test_what_stands_beside_videos_is_kept_as_labels_and_never_a_video(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = rng.integers(0, 256, (5, 8, 12, 12), dtype=np.uint8)
    boxes, angle = rng.random((5, 8, 3, 4)), rng.random(5)
    np.savez(tmp_path / "videos.npz", videos=videos, boxes=boxes, angle=angle, ids=rng.integers(0, 3, (5, 8, 3)))
    options = {"data": tmp_path / "videos.npz", "length": 4, "stride": 4, "valid": 0, "test": 0}
    data = datasets.load("video_folder", **options)
    tensors = data.train.tensors
    assert tensors["x"].shape == (10, 4, 12, 12)  # five videos of two clips each, and nothing made of boxes
    np.testing.assert_array_equal(tensors["boxes"].numpy(), boxes.reshape(10, 4, 3, 4).astype(np.float32))
    assert tensors["angle"].tolist() == pytest.approx(np.repeat(angle, 2).tolist(), rel=1e-6)
    assert {"x", "boxes", "ids"} <= data.train.sequences
    small = datasets.load("video_folder", **options, size=(6, 6))
    assert "boxes" not in small.train.tensors  # they speak of other pixels
    assert "ids" in small.train.tensors
    np.savez(tmp_path / "unnamed.npz", clips_of_mine=videos, boxes=boxes)
    other = datasets.load("video_folder", **{**options, "data": tmp_path / "unnamed.npz"})
    assert other.train.tensors["x"].shape == (10, 4, 12, 12)


def test_videos_without_what_reads_them_are_refused_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.zeros((3, 16, 16, 3), dtype=np.uint8)
    iio.imwrite(tmp_path / "a.mp4", frames, plugin="pyav", codec="libx264", fps=4)
    iio.imwrite(tmp_path / "a.gif", frames)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"phlogiston\[video\]"):
        read_video(tmp_path / "a.mp4")
    assert read_video(tmp_path / "a.gif").shape[1:3] == (16, 16)
    with pytest.raises(DataError, match=r"phlogiston\[video\]"):
        export.check_suffix(tmp_path / "b.mp4")
