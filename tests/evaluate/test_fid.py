"""`evaluate.fid` and its sources: any input, bounded memory, provenance in every figure, clear words for bad input."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from phlogiston.errors import ConfigError, DataError, DataWarning, SampleSizeWarning, ShapeError, UnknownNameError
from phlogiston.evaluate import fid
from phlogiston.evaluate.features import Custom, InceptionFeatures, Pixels, extract, make_extractor
from phlogiston.evaluate.frechet import frechet_from_features
from phlogiston.evaluate.images import Draws, Folder, Rows, open_source, to_uint8
from phlogiston.evaluate.inception import Inception
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.statistics import FeatureSet

pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.SampleSizeWarning")


def pictures(n: int, seed: int = 0, size: tuple[int, ...] = (6, 5)) -> np.ndarray:
    """Smooth random pictures, uint8 (n, *size)."""
    random = np.random.default_rng(seed)
    values = 128 + 40 * random.normal(size=(n, *[1] * len(size))) + 30 * random.normal(size=(n, *size))
    return values.clip(0, 255).astype(np.uint8)


def save_folder(folder: Path, images: np.ndarray, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:05d}{suffix}")
    return folder


def test_every_kind_of_input_gives_the_same_figure(tmp_path: Path) -> None:
    real, fake = pictures(120, 0), pictures(110, 1)
    save_folder(tmp_path / "real", real)
    np.savez_compressed(tmp_path / "fake.npz", images=fake)
    np.save(tmp_path / "fake.npy", fake)
    np.savez(tmp_path / "odd.npz", labels=np.zeros(3), x=np.asfortranarray(fake))
    flat = (fake / 255.0).reshape(len(fake), -1).astype(np.float32)
    wanted = frechet_from_features(real.reshape(120, -1) / 255.0, fake.reshape(110, -1) / 255.0)
    inputs = [fake, torch.tensor(fake), fake / 255.0, *(tmp_path / n for n in ("fake.npz", "fake.npy", "odd.npz"))]
    for generated in inputs:
        found = fid.compare(tmp_path / "real", generated, "pixels")["fid"]
        assert found.value == pytest.approx(wanted, rel=1e-5)
        assert (found.detail["n_real"], found.detail["n_generated"], found.n) == (120, 110, 110)
    assert fid.compare(real, flat, "pixels", shape=(6, 5))["fid"].value == pytest.approx(wanted, rel=1e-5)
    assert fid.compare(real, Draws(lambda n: fake[:n], 110), "pixels")["fid"].value == pytest.approx(wanted, rel=1e-5)


def test_draws_are_made_block_by_block() -> None:
    asked: list[int] = []

    def draw(n: int) -> Tensor:
        asked.append(n)
        return torch.rand(n, 4, 4)

    found = fid.compare(pictures(50, size=(4, 4)), Draws(draw, 600), "pixels")
    assert sum(asked) == 600
    assert max(asked) < 600
    assert found["fid"].detail["n_generated"] == 600


def test_colours_first_or_last_and_grey_are_understood() -> None:
    last = pictures(4, size=(6, 5, 3))
    first = np.moveaxis(last, -1, 1)
    assert torch.equal(to_uint8(last), to_uint8(first))
    assert to_uint8(pictures(4)).shape == (4, 1, 6, 5)
    assert to_uint8(pictures(2, size=(3, 6, 5, 3))).shape == (2, 3, 3, 6, 5)
    assert to_uint8(np.zeros((2, 784))).shape == (2, 1, 28, 28)
    assert to_uint8(np.ones((2, 4, 4), bool)).max() == 255
    assert to_uint8(np.array([[[0.0, 1.0], [0.5, 0.002]]])).flatten().tolist() == [0, 255, 128, 1]


@pytest.mark.parametrize(
    ("values", "error", "told"),
    [
        (np.full((3, 4, 4), np.nan), DataError, "NaN or infinite pixels in image 0"),
        (np.full((3, 4, 4), 200.0), DataError, "pixels are 0 to 1"),
        (np.full((3, 4, 4), 300), DataError, "pixels are 0 to 255"),
        (np.zeros((3, 5, 5, 7)), ShapeError, "expected"),
        (np.zeros((3, 11)), ShapeError, "no square image"),
        (np.zeros(5), ShapeError, "expected"),
    ],
)
def test_arrays_that_are_no_images_are_refused(values: np.ndarray, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        fid.compare(pictures(10, size=(4, 4)), values, "pixels")


def test_nan_is_located_in_a_later_block() -> None:
    values = np.zeros((600, 2, 2))
    values[500] = np.nan
    with pytest.raises(DataError, match="image 500"):
        list(Rows(values).blocks(False))


def test_an_unreadable_image_is_left_out_and_named(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "real", pictures(5))
    whole = (folder / "00002.png").read_bytes()
    for content in (b"not a picture", whole[: len(whole) // 2]):
        (folder / "00003.png").write_bytes(content)
        with pytest.warns(
            DataWarning, match=r"1 of 5 pictures of .*00003\.png' (is no readable|cannot be read as an) image"
        ):
            found = fid.compare(folder, pictures(5), "pixels")
        assert found["fid"].detail["n_real"] == 4
    for file in folder.iterdir():
        file.write_bytes(b"not a picture")
    with pytest.raises(DataError, match="none of the 5 pictures"):
        fid.compare(folder, pictures(5), "pixels")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.uint16, np.float32])
@pytest.mark.parametrize("stored", ["array", "tensor", "npy", "npz", "flat"])
def test_black_and_white_are_black_and_white_in_any_numbers(dtype: type, stored: str, tmp_path: Path) -> None:
    """Zeros and ones are no two greys of 256, wherever they come from and however late the first one comes."""
    images = (pictures(400, size=(4, 4)) > 127) & (np.arange(400) >= 300)[:, None, None]
    values: Any = images.astype(dtype)
    if stored == "tensor":
        values = torch.tensor(values.astype(np.int32) if dtype is np.uint16 else values)
    elif stored == "flat":
        values = values.reshape(400, 16)
    elif stored in ("npy", "npz"):
        (np.save if stored == "npy" else np.savez)(tmp_path / f"a.{stored}", values)
        values = tmp_path / f"a.{stored}"
    found = torch.cat(list(open_source(values).blocks(False)))
    assert np.array_equal(found[:, 0].numpy(), images * np.uint8(255))


def test_sixteen_bits_and_ranges_that_are_said(tmp_path: Path) -> None:
    deep = (pictures(5).astype(np.uint16) * 257)[..., None]
    assert np.array_equal(torch.cat(list(Rows(deep).blocks(False)))[:, 0].numpy(), pictures(5))
    np.save(tmp_path / "a.npy", pictures(5) * 4.0 - 100)
    with pytest.raises(DataError, match="value_range"):
        list(open_source(tmp_path / "a.npy").blocks(False))
    said = open_source(tmp_path / "a.npy", value_range=(-100.0, 920.0))
    assert np.array_equal(torch.cat(list(said.blocks(False)))[:, 0].numpy(), pictures(5))
    with pytest.raises(DataError, match="value_range"):
        list(Rows(pictures(5) * 4.0, value_range=(0.0, 255.0)).blocks(False))


def test_mixed_sizes_are_refused_unless_a_size_is_given(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "real", pictures(5))
    save_folder(folder / "more", pictures(5, size=(8, 8)))
    with pytest.raises(DataError, match="6 x 5 and of 8 x 8 pixels"):
        fid.compare(folder, pictures(10), "pixels")
    found = fid.compare(folder, pictures(10), "pixels", size=(6, 6))
    assert found["fid"].detail["size"] == [6, 6]


def test_mixed_sizes_only_warn_where_the_network_resizes_each(tmp_path: Path) -> None:
    def mean(images: Tensor) -> Tensor:
        return images.float().mean((2, 3))

    mean.any_size = True  # type: ignore[attr-defined]
    folder = save_folder(tmp_path / "real", pictures(5))
    save_folder(folder / "more", pictures(5, size=(8, 8)))
    with pytest.warns(DataWarning, match="several sizes"):
        assert fid.compare(folder, pictures(10), mean)["fid"].detail["n_real"] == 10


def test_grey_and_coloured_pictures_may_be_mixed(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "real", pictures(3))
    save_folder(folder / "colour", pictures(3, size=(6, 5, 3)), ".bmp")
    blocks = list(Folder(folder).blocks(False))
    assert [tuple(b.shape) for b in blocks] == [(6, 3, 6, 5)]


@pytest.mark.parametrize(("n", "told"), [(0, "0 images"), (1, "1 image; at least 2")])
def test_fewer_than_two_images_are_refused(n: int, told: str) -> None:
    with pytest.raises(DataError, match=told):
        fid.compare(pictures(5), pictures(n), "pixels")


def test_constant_images_are_scored_with_a_warning() -> None:
    same = np.full((20, 6, 5), 7, np.uint8)
    with pytest.warns(DataWarning, match="all 20 images of the array are the same"):
        found = fid.compare(pictures(50), same, "pixels", metrics=("fid", "kid", "prdc"))
    assert found["fid"].value > 0
    assert found["recall"].value == 0


@pytest.mark.filterwarnings("default::phlogiston.errors.SampleSizeWarning")
@pytest.mark.parametrize(("n", "told"), [(20, "no more than the 30 features"), (100, "fewer than 2048")])
def test_small_sets_bring_a_warning_that_points_to_kid(n: int, told: str) -> None:
    with pytest.warns(SampleSizeWarning, match=told) as caught:
        found = fid.compare(pictures(n), pictures(n, 1), "pixels")
    assert "go by KID" in str(caught[0].message)
    assert next(iter(found)) == "kid"


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="features of images 0 to 19 are not finite"):
        fid.compare(pictures(20), pictures(20), lambda x: torch.full((len(x), 3), float("nan")))


@pytest.mark.parametrize(
    ("features", "told"),
    [("inceptoin", "expected inception, pixels"), ("no.such:thing", "cannot import"), ("math:nothing", "no callable")],
)
def test_unknown_features_are_refused(features: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        fid.compare(pictures(5), pictures(5), features)


def test_unknown_metrics_missing_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="fid_infinity"):
        fid.compare(pictures(5), pictures(5), "pixels", metrics=("fid_infinty",))
    with pytest.raises(DataError, match="does not exist"):
        fid.compare(tmp_path / "nowhere", pictures(5), "pixels")
    with pytest.raises(DataError, match="holds no images"):
        fid.compare(tmp_path, pictures(5), "pixels")
    np.savez(tmp_path / "two.npz", a=pictures(3), b=pictures(3))
    with pytest.raises(ConfigError, match="say which one"):
        open_source(tmp_path / "two.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match="cannot be read as an npz file"):
        open_source(tmp_path / "bad.npz")
    with pytest.raises(DataError, match="5 images; 6 were requested"):
        fid.compare(pictures(5), pictures(9), "pixels", limit=6)
    with pytest.raises(ConfigError, match="pixel features take at most"):
        fid.compare(pictures(5, size=(80, 80)), pictures(5, size=(80, 80)), "pixels")


def test_a_truncated_npz_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, pictures(400))
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue()[:-100])
    with pytest.raises(DataError, match="truncated"):
        list(open_source(tmp_path / "cut.npz").blocks(False))


def test_a_limit_draws_at_random_and_not_the_first_rows() -> None:
    ordered = np.repeat(np.arange(200, dtype=np.uint8)[:, None, None], 4, 1).repeat(4, 2)
    found = fid.features_of(ordered, "pixels", limit=50)
    assert found.n == 50
    assert 0.2 < float(found.gaussian.mean[0]) * 255 / 200 < 0.8
    again = fid.features_of(ordered, "pixels", limit=50)
    assert torch.equal(found.kept, again.kept)


def test_long_streams_keep_moments_of_all_and_a_random_part_of_the_rows() -> None:
    images = pictures(900, size=(3, 3))
    found = extract(Rows(images), Pixels(), keep=200, batch_size=32)
    rows = torch.tensor(images.reshape(900, -1) / 255.0)
    assert torch.allclose(found.gaussian.covariance, torch.cov(rows.T), rtol=1e-5)
    assert found.kept.shape == (200, 9)
    whole = {tuple(np.round(r, 5)) for r in rows.numpy()}
    assert all(tuple(np.round(r, 5)) in whole for r in found.kept.double().numpy())
    first = {tuple(np.round(r, 5)) for r in rows[:200].numpy()}
    assert sum(tuple(np.round(r, 5)) in first for r in found.kept.double().numpy()) < 80


def test_the_inception_path_equals_features_then_distance_and_names_its_provenance(
    made_up_inception: Inception,
) -> None:
    extractor = InceptionFeatures(64, "torch", network=made_up_inception, checksum="abcd1234")
    a, b = pictures(12, size=(16, 16)), pictures(12, 1, (16, 16))
    found = fid.compare(a, b, extractor, metrics=("fid", "kid", "prdc"), k=3, device="cpu", batch_size=5)
    with torch.no_grad():
        rows = [extractor(to_uint8(x)) for x in (a, b)]
    assert found["fid"].value == pytest.approx(frechet_from_features(*rows), rel=1e-4)
    for metric in found.values():
        told = {k: metric.detail[k] for k in ("features", "layer", "convention", "weights", "n_real", "n_generated")}
        assert told == {
            "features": "inception-2015-12-05",
            "layer": 64,
            "convention": "torch",
            "weights": "abcd1234",
            "n_real": 12,
            "n_generated": 12,
        }
    assert json.dumps({name: metric.to_json() for name, metric in found.items()}, allow_nan=False)


def test_the_inception_score_uses_the_networks_own_classes(made_up_inception: Inception) -> None:
    extractor = InceptionFeatures(2048, network=made_up_inception)
    found = fid.compare(pictures(4, size=(16, 16)), pictures(4, 1, (16, 16)), extractor, metrics=("inception_score",))
    assert found["inception_score"].value >= 1.0
    with pytest.raises(ConfigError, match="features with classes"):
        fid.compare(pictures(4), pictures(4), "pixels", metrics=("inception_score",))


def test_statistics_are_interchangeable_with_the_common_format(tmp_path: Path) -> None:
    real, fake = pictures(300), pictures(300, 1)
    rows = real.reshape(300, -1) / 255.0
    np.savez(tmp_path / "theirs.npz", mu=rows.mean(0), sigma=np.cov(rows.T))
    wanted = fid.compare(real, fake, "pixels")["fid"].value
    with pytest.warns(DataWarning, match="taken on trust"):
        found = fid.compare(tmp_path / "theirs.npz", fake, "pixels", metrics=("fid",))["fid"]
    assert found.value == pytest.approx(wanted, rel=1e-5)
    assert found.detail["n_real"] is None
    fid.features_of(real, "pixels").save(tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz") as file:
        assert np.allclose(file["sigma"], np.cov(rows.T), atol=1e-9)
    ours = fid.compare(tmp_path / "ours.npz", fake, "pixels")
    assert ours["fid"].value == pytest.approx(wanted, rel=1e-9)
    assert ours["kid"].std_error is not None


def test_statistics_of_other_features_or_without_rows_are_refused(tmp_path: Path) -> None:
    real, fake = pictures(60), pictures(60, 1)
    fid.features_of(real, lambda x: x.flatten(1).float()).save(tmp_path / "other.npz")
    with pytest.raises(ConfigError, match="different features"):
        fid.compare(tmp_path / "other.npz", fake, "pixels")
    rows = real.reshape(60, -1) / 255.0
    np.savez(tmp_path / "theirs.npz", mu=rows.mean(0), sigma=np.cov(rows.T))
    with pytest.warns(DataWarning), pytest.raises(ConfigError, match="kid needs the images themselves"):
        fid.compare(tmp_path / "theirs.npz", fake, "pixels", metrics=("kid",))
    np.savez(tmp_path / "bad.npz", mu=np.full(3, np.nan), sigma=np.eye(3))
    with pytest.raises(DataError, match="NaN"):
        FeatureSet.load(tmp_path / "bad.npz")


class Counting(nn.Module):
    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        Counting.calls += 1
        return images.float().flatten(1)


def test_the_real_sets_statistics_are_cached_by_content(tmp_path: Path) -> None:
    folder, fake = save_folder(tmp_path / "real", pictures(40)), pictures(40, 1)
    extractor = Custom(Counting(), "counting")
    Counting.calls = 0
    first = fid.compare(folder, fake, extractor, cache=True)
    calls = Counting.calls
    second = fid.compare(folder, fake, extractor, cache=True)
    assert Counting.calls == calls + calls // 2  # only the generated set was computed again
    assert second["fid"].value == pytest.approx(first["fid"].value, rel=1e-6)
    fid.compare(pictures(40), fake, extractor, cache=True)
    calls = Counting.calls
    fid.compare(pictures(40), fake, extractor, cache=True)
    assert Counting.calls == calls + 1, "arrays are known by their content too"
    save_folder(folder, pictures(40, 5))
    third = fid.compare(folder, fake, extractor, cache=True)
    assert third["fid"].value != pytest.approx(first["fid"].value, rel=1e-3)


def test_a_damaged_cache_entry_is_made_anew(tmp_path: Path) -> None:
    folder, fake = save_folder(tmp_path / "real", pictures(40)), pictures(40, 1)
    first = fid.compare(folder, fake, "pixels", cache=True)["fid"].value
    (entry,) = (tmp_path / "cache" / "statistics").iterdir()
    entry.write_bytes(entry.read_bytes()[:200])
    assert fid.compare(folder, fake, "pixels", cache=True)["fid"].value == pytest.approx(first, rel=1e-6)


def test_features_come_from_a_module_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.float().mean((1, 2))\n"
    )
    extractor = make_extractor(f"{tmp_path / 'mine.py'}:Net")
    assert extractor(torch.zeros(3, 1, 4, 5, dtype=torch.uint8)).shape == (3, 5)
    with pytest.raises(ShapeError, match="expected \\(images, features\\)"):
        Custom(lambda x: x, "wrong")(torch.zeros(3, 1, 4, 5))


def test_videos_count_by_frame_or_by_clip(tmp_path: Path) -> None:
    import imageio.v3 as iio

    for i in range(3):
        iio.imwrite(tmp_path / f"{i}.gif", pictures(4, i, (8, 8)), plugin="pillow", loop=0)
    source = Folder(tmp_path)
    assert (source.count(False), source.count(True)) == (12, 3)

    def clip(clips: Tensor) -> Tensor:
        return clips.float().mean((2, 3, 4))

    clip.clips = True  # type: ignore[attr-defined]
    found = fid.compare(tmp_path, pictures(5, size=(4, 8, 8, 3)), clip)
    assert found["fid"].detail["n_real"] == 3
    with pytest.raises(ShapeError, match="single images"):
        fid.compare(tmp_path, pictures(5, size=(8, 8)), clip)


def test_an_mp4_is_read(tmp_path: Path) -> None:
    import imageio.v3 as iio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        iio.imwrite(tmp_path / "a.mp4", pictures(4, 0, (32, 32, 3)), plugin="pyav", codec="libx264", fps=8)
    assert [tuple(b.shape) for b in Folder(tmp_path).blocks(True)] == [(1, 4, 3, 32, 32)]


def test_fid_orders_growing_noise() -> None:
    real = pictures(400, 0)
    noisy = [
        (real + np.random.default_rng(1).normal(0, sd, real.shape)).clip(0, 255).astype(np.uint8) for sd in (5, 25, 60)
    ]
    found = [fid.compare(real, x, "pixels")["fid"] for x in noisy]
    assert found[0].value < found[1].value < found[2].value
    assert all(isinstance(m, Metric) and m.std_error > 0 for m in found)
