"""One table of containers x types x ranges for pictures and clips: every row is read right, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from phlogiston import datasets
from phlogiston.datasets import axes
from phlogiston.datasets.generated import moving_digits
from phlogiston.errors import DataError, DataWarning, PhlogistonError, ShapeError

RNG = np.random.default_rng(0)
CLIPS = RNG.integers(0, 256, (6, 4, 12, 14), dtype=np.uint8)
CLIPS[3] //= 250  # one clip all but black
BINARY = CLIPS > 127

# what is stored, and the bytes it stands for; None: to be refused, with a word of the message
RANGES: dict[str, tuple[Any, Any]] = {
    "uint8": (CLIPS, CLIPS),
    "int64": (CLIPS.astype(np.int64), CLIPS),
    "uint16 of 0 to 255": (CLIPS.astype(np.uint16), CLIPS),
    "uint16": (CLIPS.astype(np.uint16) * 257, CLIPS),
    "float32 0 to 1": ((CLIPS / 255.0).astype(np.float32), CLIPS),
    "float16 0 to 1": ((CLIPS / 255.0).astype(np.float16), CLIPS),
    "float64 0 to 255": (CLIPS.astype(np.float64), CLIPS),
    "bool": (BINARY, BINARY * np.uint8(255)),
    "uint8 0 and 1": (BINARY.astype(np.uint8), BINARY * np.uint8(255)),
    "int32 0 and 1": (BINARY.astype(np.int32), BINARY * np.uint8(255)),
    "float 0 and 1": (BINARY.astype(np.float32), BINARY * np.uint8(255)),
    "big-endian": (CLIPS.astype(">i4"), CLIPS),
    "floats a little beyond 1": (np.where(CLIPS == 255, 1.000001, CLIPS / 255.0), None),
    "floats beyond 0": (CLIPS / 255.0 - 0.01, None),
    "floats -1 to 1": (CLIPS / 127.5 - 1.0, None),
    "floats to 1.5": (CLIPS / 170.0, None),
    "negative integers": (CLIPS.astype(np.int16) - 128, None),
    "int32 to 60000": (CLIPS.astype(np.int32) * 240, None),
    "NaN": (np.where(CLIPS == 7, np.nan, CLIPS / 255.0), None),
}


def in_memory(values: Any, folder: Path) -> Any:
    return {"frames": values}


def tensor(values: Any, folder: Path) -> Any:
    return {"frames": torch.tensor(values.astype(values.dtype.newbyteorder("=")))}


def npz(values: Any, folder: Path) -> Any:
    np.savez(folder / "a.npz", frames=values)
    return folder / "a.npz"


def npy(values: Any, folder: Path) -> Any:
    np.save(folder / "a.npy", values)
    return folder / "a.npy"


def objects(values: Any, folder: Path) -> Any:
    held = np.empty(len(values), dtype=object)
    held[:] = list(values)
    np.savez(folder / "b.npz", frames=held)
    return folder / "b.npz"


def parts(values: Any, folder: Path) -> Any:
    np.savez(folder / "train.npz", frames=values[:4])
    np.savez(folder / "valid.npz", frames=values[4:5])
    np.savez(folder / "test.npz", frames=values[5:])
    return folder


CONTAINERS: dict[str, Callable[[Any, Path], Any]] = {
    "in memory": in_memory, "tensor": tensor, "npz": npz, "npy": npy, "object array": objects, "parts": parts,
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", RANGES)
def test_clips_are_read_in_their_own_range_or_refused(name: str, container: str, tmp_path: Path) -> None:
    values, wanted = RANGES[name]
    data = CONTAINERS[container](values, tmp_path)
    if wanted is None:
        with pytest.raises(DataError, match=r"value_range|no pixels"):
            datasets.load(data, test=0.0)
        return
    found = datasets.load(data) if container == "parts" else datasets.load(data, test=0.0)
    rows = np.concatenate([part.numpy("frames") for part in (found.train, found.valid, found.test) if len(part)])
    assert rows.shape == (6, 4, 1, 12, 14)
    order = np.argsort([row.tobytes() for row in rows])
    true = np.argsort([np.ascontiguousarray(row[:, None]).tobytes() for row in wanted])
    assert np.array_equal(rows[order][:, :, 0], wanted[true])
    assert "values" in {decision.topic for decision in found.meta.decisions}


@pytest.mark.parametrize("name", [n for n, (_, wanted) in RANGES.items() if wanted is None and n != "NaN"])
def test_what_is_refused_is_read_once_the_range_is_said(name: str) -> None:
    values = RANGES[name][0]
    low, high = float(values.min()), float(values.max())
    found = datasets.load({"frames": values}, test=0.0, value_range=(low, high)).train.numpy("frames")
    wanted = np.round((values - low) / (high - low) * 255).astype(np.uint8)
    assert sorted(f.tobytes() for f in found) == sorted(np.ascontiguousarray(w[:, None]).tobytes() for w in wanted)
    with pytest.raises(DataError, match="value_range"):
        datasets.load({"frames": values}, value_range=(high, high + 1))


@pytest.mark.parametrize("name", RANGES)
def test_videos_are_read_in_their_own_range_or_refused(name: str, tmp_path: Path) -> None:
    values, wanted = RANGES[name]
    for i, video in enumerate(values):
        np.save(tmp_path / f"{i}.npy", video)
    options: dict[str, Any] = {"data": str(tmp_path), "length": 4, "background": "none", "valid": 0.0, "test": 0.0}
    if wanted is None:
        with pytest.raises(DataError, match=r"value_range|no pixels"):
            datasets.load("video_folder", **options)
        return
    assert np.array_equal(datasets.load("video_folder", **options).train.numpy("x"), wanted)


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("colours", ["grey", "last", "first"])
def test_pictures_in_arrays_are_read_in_their_own_range(name: str, colours: str, tmp_path: Path) -> None:
    values, wanted = RANGES[name]
    if colours == "grey":
        values, wanted = values[:, 0], None if wanted is None else wanted[:, 0]
    else:
        values, wanted = values[:, :3], None if wanted is None else np.moveaxis(wanted[:, :3], 1, -1)
        values = np.moveaxis(values, 1, -1) if colours == "last" else values
    np.savez(tmp_path / "a.npz", x=values)
    for data in ({"x": values}, values, tmp_path / "a.npz"):
        found = datasets.load(data, valid=0.0, test=0.0)
        assert found.meta.image_shape == ((12, 14) if colours == "grey" else (12, 14, 3))
        if wanted is not None:
            np.testing.assert_allclose(found.train.numpy("x"), wanted.reshape(6, -1) / 255.0, atol=3e-4)
        elif name != "NaN":  # kept in the units they came in
            last = values if colours != "first" else np.moveaxis(values, 1, -1)
            np.testing.assert_allclose(found.train.numpy("x"), last.reshape(6, -1), rtol=1e-6, atol=1e-9)


# ---- which axis is which


def digits(clips: int, frames: int = 12) -> Any:
    return moving_digits.load(sizes=(clips, 1, 1), frames=frames, canvas=40, counts=(1, 2)).train.numpy("x")


LAYOUTS = ["NTHW", "TNHW", "NTHWC", "TNHWC", "NTCHW", "TNCHW", "NCTHW"]


def stored(clips: Any, layout: str) -> Any:
    """Clips (N, T, H, W, C) in another order of axes."""
    kept = clips if "C" in layout else clips[..., 0]
    return kept.transpose(["NTHWC".replace("C", "" if "C" not in layout else "C").index(letter) for letter in layout])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("clips", [9, 12, 30])
def test_axes_are_told_apart_by_what_the_values_do(layout: str, clips: int, tmp_path: Path) -> None:
    """Frames change slowly and clips do not: time is found whether it comes first or second, at any number of clips."""
    colours = 3 if "C" in layout else 1
    true = np.repeat(digits(clips)[..., None], colours, -1)
    array = stored(true, layout)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", clips=array)
    wanted = sorted(np.ascontiguousarray(np.moveaxis(clip, -1, 1)).tobytes() for clip in true)
    for data in ({"frames": array}, tmp_path / "a.npy", tmp_path / "a.npz", array):
        found = datasets.load(data, test=0.0)
        assert sorted(f.tobytes() for f in found.train.numpy("frames")) == wanted
        (told,) = [d for d in found.meta.decisions if d.topic == "axes"]
        assert told.found.startswith("read as ")
    said = datasets.load({"frames": array}, test=0.0, layout=layout.lower())
    assert sorted(f.tobytes() for f in said.train.numpy("frames")) == wanted


def test_labels_and_masks_follow_the_clips_where_time_comes_first() -> None:
    true = digits(9)
    mask = np.arange(12)[None] < RNG.integers(5, 12, 9)[:, None]
    found = datasets.load({"frames": true.swapaxes(0, 1), "action": np.arange(9) % 3, "mask": mask.T}, test=0.0).train
    for frames, action, known in zip(found.numpy("frames"), found.numpy("action"), found.numpy("mask"), strict=True):
        row = next(i for i in range(9) if np.array_equal(true[i], frames[:, 0]))
        assert action == row % 3
        assert np.array_equal(known, mask[row])


def test_the_published_file_of_moving_mnist_is_known_by_its_form(tmp_path: Path) -> None:
    video = (RNG.random((20, 7, 64, 64)) > 0.9).astype(np.uint8) * 255
    np.save(tmp_path / "mnist_test_seq.npy", video)
    found = datasets.load(tmp_path / "mnist_test_seq.npy", test=0.0)
    assert found.train.tensors["frames"].shape == (7, 20, 1, 64, 64)
    cut = datasets.load("video_folder", data=str(tmp_path), length=20, background="none", valid=0.0, test=0.0)
    assert np.array_equal(cut.train.numpy("x"), video.swapaxes(0, 1))
    other = datasets.load({"frames": video}, test=0.0, layout="NTHW")
    assert other.train.tensors["frames"].shape == (20, 7, 1, 64, 64)


def test_clips_that_all_begin_alike_are_no_time_axis() -> None:
    """Neighbouring clips may be more alike than neighbouring frames; what counts is that farther ones are not less."""
    one = digits(1)[0].astype(np.float64)
    clips = np.clip(one[None] + RNG.normal(0, 3, (10, *one.shape)), 0, 255).round()
    assert axes.find_layout(clips)[0] == "NTHW"
    assert axes.find_layout(clips.swapaxes(0, 1))[0] == "TNHW"


def test_shapes_that_mean_two_things_or_nothing_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((8, 3, 20, 20), np.uint8))
    with pytest.raises(ShapeError, match="TCHW"):
        datasets.load("video_folder", data=str(tmp_path), length=2)
    video = datasets.load("video_folder", data=str(tmp_path), length=2, layout="TCHW", colour=True)
    assert video.train.tensors["x"].shape[1:] == (2, 3, 20, 20)
    for layout, word in (("NTH", "order of axes"), ("NTHX", "order of axes"), ("NTHWC", "5 axes")):
        with pytest.raises(DataError, match=word):
            datasets.load({"frames": CLIPS}, layout=layout)
    with pytest.raises(ShapeError, match="expected"):
        datasets.load({"frames": np.zeros((3, 4, 9, 9, 5))})
    with pytest.raises(ShapeError, match="THW"):
        datasets.load({"frames": np.zeros((4, 9, 9))})


def test_features_and_pictures_are_no_clips() -> None:
    for shape in ((9, 8, 8), (9, 8, 8, 3), (9, 3, 8, 8), (9, 2, 5, 7)):
        found = datasets.load(np.random.default_rng(0).random(shape), valid=0.0, test=0.0)
        assert found.train.tensors["x"].shape == (9, int(np.prod(shape[1:])))
    assert found.meta.image_shape is None


LABELS = np.array([0, 2, 1, 2, 0, 1])


@pytest.mark.parametrize(
    "labels",
    [
        LABELS, LABELS.astype(np.uint8), LABELS.astype(float), LABELS[:, None], np.eye(3)[LABELS],
        np.array(["a", "c", "b", "c", "a", "b"]),
    ],
)  # fmt: skip
def test_labels_of_clips_may_be_any_numbers_or_text(labels: Any) -> None:
    found = datasets.load({"frames": CLIPS, "action": labels, "notes": RNG.random((6, 3))}, test=0.0)
    rows = [next(i for i in range(6) if np.array_equal(CLIPS[i], f[:, 0])) for f in found.train.numpy("frames")]
    assert found.train.numpy("action").tolist() == LABELS[rows].tolist()
    assert len(found.meta.categorical["action"]) == 3
    assert "notes" in next(d.found for d in found.meta.decisions if d.topic == "left out")
    with pytest.raises(DataError, match="'action' holds -3"):
        datasets.load({"frames": CLIPS, "action": LABELS - 3})


# ---- picture files


def save(folder: Path, name: str, picture: Any, **options: Any) -> None:
    Image.fromarray(picture).save(folder / name, **options)


PICTURE = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)


def row(folder: Path, **options: Any) -> Any:
    data = datasets.load(folder, valid=0.0, test=0.0, **options)
    shape = data.meta.image_shape
    assert shape is not None
    return np.round(data.train.numpy("x").reshape(len(data.train), *shape) * 255)


def test_every_picture_format_shows_the_same(tmp_path: Path) -> None:
    alpha = np.concatenate([PICTURE, RNG.integers(0, 256, (9, 7, 1), dtype=np.uint8)], -1)
    save(tmp_path, "0.png", PICTURE)
    save(tmp_path, "1.bmp", PICTURE)
    save(tmp_path, "2.webp", PICTURE, lossless=True)
    save(tmp_path, "3.tif", PICTURE)
    save(tmp_path, "4.PNG", alpha)
    save(tmp_path, "5.ppm", PICTURE)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    save(tmp_path, "6.png", np.rot90(PICTURE).copy(), exif=exif)
    assert (row(tmp_path) == PICTURE).all()
    assert len(row(tmp_path)) == 7


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_sixteen_bits(suffix: str, tmp_path: Path) -> None:
    grey = PICTURE[..., 0].astype(np.uint16)
    save(tmp_path, f"0.{suffix}", grey * 257)
    save(tmp_path, "1.png", PICTURE[..., 0])
    assert (row(tmp_path) == grey).all()
    (tmp_path / "1.png").unlink()
    save(tmp_path, f"0.{suffix}", grey * 16)
    assert (row(tmp_path, value_range=(0, 4080)) == grey).all()


def test_a_still_gif_is_a_picture_and_a_moving_one_does_not_swallow_the_others(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path, f"{i}.png", PICTURE)
    save(tmp_path, "4.gif", PICTURE[..., 0])
    assert len(row(tmp_path)) == 5
    iio.imwrite(tmp_path / "5.gif", RNG.integers(0, 255, (5, 9, 7, 3), dtype=np.uint8), plugin="pillow", loop=0)
    with pytest.warns(DataWarning, match=r"5\.gif.*left out"):
        assert len(row(tmp_path)) == 5
    for i in range(4):
        (tmp_path / f"{i}.png").unlink()
    iio.imwrite(tmp_path / "6.gif", RNG.integers(0, 255, (5, 9, 7, 3), dtype=np.uint8), plugin="pillow", loop=0)
    with pytest.raises(DataError, match="Separate them"):
        row(tmp_path)


def test_mixed_sizes_need_a_size_and_mixed_colours_do_not(tmp_path: Path) -> None:
    save(tmp_path, "0.png", np.full((8, 12, 3), 60, np.uint8))
    save(tmp_path, "1.png", np.full((6, 6), 60, np.uint8))
    with pytest.raises(ShapeError, match="size=6"):
        row(tmp_path)
    found = row(tmp_path, size=4)
    assert found.shape == (2, 4, 4, 3)
    assert (found == 60).all()
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    save(tmp_path, "0.png", wide)
    save(tmp_path, "1.png", np.full((2, 2, 3), 200, np.uint8))
    assert (row(tmp_path, size=4) == 200).all()


def test_one_damaged_picture_is_left_out_and_told(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        save(tmp_path / "ab"[i % 2], f"{i}.png", PICTURE)
    whole = (tmp_path / "a" / "2.png").read_bytes()
    (tmp_path / "a" / "2.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "photo.heic").write_bytes(b"")
    with pytest.warns(DataWarning, match=r"1 of 5 pictures .*2\.png"):
        found = datasets.load(tmp_path, valid=0.0, test=0.0)
    assert sorted(found.train.numpy("label").tolist()) == [0, 0, 1, 1]
    told = {decision.topic: decision for decision in found.meta.decisions}
    assert set(told) == {"skipped", "values", "axes", "labels", "other files"}
    assert "heic" in told["other files"].found
    again = datasets.read_options(tmp_path, {"value_range": "0,255", "size": "8"})
    assert again == {"value_range": (0.0, 255.0), "size": 8}


def test_one_damaged_video_among_others_is_left_out(tmp_path: Path) -> None:
    for i in range(3):
        iio.imwrite(tmp_path / f"{i}.gif", RNG.integers(0, 255, (5, 9, 7, 3), dtype=np.uint8), plugin="pillow", loop=0)
    (tmp_path / "1.gif").write_bytes((tmp_path / "1.gif").read_bytes()[:40])
    for name, options in ((tmp_path, {"test": 0.0}), ("video_folder", {"data": str(tmp_path), "length": 5})):
        with pytest.warns(DataWarning, match=r"1 of 3 .*1\.gif"):
            found = datasets.load(name, **options)  # type: ignore[arg-type]
        assert len(found.train) == 2


def test_what_was_decided_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from phlogiston.cli.main import main

    np.save(tmp_path / "a.npy", digits(9).swapaxes(0, 1) > 127)
    with pytest.raises(SystemExit) as left:
        main(["data", "info", str(tmp_path / "a.npy"), "--json"])
    assert not left.value.code
    topics = {d["topic"]: d for d in json.loads(capsys.readouterr().out)["decisions"]}
    assert topics["axes"]["option"] == "layout=NTHW"
    assert "true and false" in topics["values"]["found"]
    assert topics["values"]["option"].startswith("value_range=")


def test_nothing_else_escapes(tmp_path: Path) -> None:
    """Whatever is in a file, what comes out is data or an error of ours."""
    for i, content in enumerate((b"", b"\x93NUMPY", b"PK\x03\x04", b"GIF89a", b"\x00" * 100)):
        for suffix in ("npy", "npz", "gif", "png"):
            folder = tmp_path / f"{i}{suffix}"
            folder.mkdir()
            (folder / f"a.{suffix}").write_bytes(content)
            for path in (folder, folder / f"a.{suffix}"):
                with pytest.raises(PhlogistonError):
                    datasets.load(path)
