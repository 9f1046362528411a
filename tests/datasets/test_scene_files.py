"""Scene files: every format gives the same arrays, and what is damaged or dangerous is refused."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from phlogiston import datasets
from phlogiston.datasets.fetched import gqn
from phlogiston.datasets.generated.floorplans import maze_plans
from phlogiston.datasets.generated.raycast import render
from phlogiston.datasets.readers import scene_files, tfrecord
from phlogiston.errors import DataError

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "gqn-mazes"


class Scene(NamedTuple):
    frames: Any
    cameras: Any


def _length(message: bytes) -> bytes:
    n, out = len(message), b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _length(content) + content


def scene(views: int = 5, seed: int = 0, side: int = 20) -> tuple[list[bytes], Any]:
    rng = np.random.default_rng(seed)
    cameras = np.zeros((views, 5), dtype=np.float32)
    cameras[:, :2] = rng.uniform(-0.38, 0.28, (views, 2))
    cameras[:, 3] = rng.uniform(-3, 3, views)
    pictures = render(maze_plans(1, seed), np.zeros(views, int), cameras, side).images
    frames = []
    for picture in pictures:
        held = io.BytesIO()
        Image.fromarray(picture).save(held, "JPEG", quality=92)
        frames.append(held.getvalue())
    return frames, cameras


def record(frames: list[bytes], cameras: Any, packed: bool = True) -> bytes:
    images = field(1, b"".join(field(1, f) for f in frames))
    floats = cameras.astype("<f4").reshape(-1)
    inner = field(1, floats.tobytes()) if packed else b"".join(bytes([1 << 3 | 5]) + f.tobytes() for f in floats)
    parts = {b"frames": images, b"cameras": field(2, inner)}
    return field(1, b"".join(field(1, field(1, name) + field(2, value)) for name, value in parts.items()))


def legacy(frames: list[bytes], cameras: Any) -> bytes:
    held = np.empty(len(frames), dtype=object)
    held[:] = frames
    stored = Scene(held, cameras[None])
    return b"".join(
        pickle.dumps(part, 2) for part in (119547037146038801333356, 1001, {"little_endian": True}, stored, [])
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    frames, cameras = scene()
    found = {name: tmp_path / f"scene.{name}" for name in ("tfrecord", "pt", "pt.gz")}
    found["tfrecord"].write_bytes(tfrecord.frame(record(frames, cameras)))
    found["pt"].write_bytes(legacy(frames, cameras))
    found["pt.gz"].write_bytes(gzip.compress(legacy(frames, cameras)))
    return found


def test_all_formats_give_the_same_arrays(files: dict[str, Path]) -> None:
    frames, cameras = scene()
    for path in files.values():
        (found,) = scene_files.read(path)
        assert list(found.frames) == frames
        assert np.array_equal(found.cameras, cameras)
        assert found.images(16).shape == (5, 16, 16, 3)
    (unpacked,) = (tfrecord.example(record(frames, cameras, packed=False)),)
    assert np.array_equal(unpacked["cameras"], cameras.reshape(-1))


@pytest.mark.parametrize("length", [0, 3, 4095, 4096, 70_001])
def test_checksums_are_castagnolis(length: int) -> None:
    data = np.random.default_rng(0).bytes(length)
    register = 0xFFFFFFFF
    for byte in data:  # bit by bit, as defined
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    assert tfrecord.crc32c(data) == register ^ 0xFFFFFFFF


def test_damage_is_detected(files: dict[str, Path]) -> None:
    whole = files["tfrecord"].read_bytes()
    for at, words in ((40, "content does not agree"), (2, "length does not agree"), (9, "length does not agree")):
        broken = bytearray(whole)
        broken[at] ^= 1
        files["tfrecord"].write_bytes(broken)
        with pytest.raises(DataError, match=words):
            list(scene_files.read(files["tfrecord"]))
    for end in (5, 60, len(whole) - 1):
        files["tfrecord"].write_bytes(whole[:end])
        with pytest.raises(DataError, match="truncated"):
            list(scene_files.read(files["tfrecord"]))
    for name in ("pt", "pt.gz"):
        kept = files[name].read_bytes()
        files[name].write_bytes(kept[: len(kept) // 2])
        with pytest.raises(DataError, match=r"truncated|cannot be read as a scene file"):
            list(scene_files.read(files[name]))


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["pt", "pt.gz"])
@pytest.mark.parametrize("place", [0, 2, 3])
def test_malicious_pickles_are_refused_before_they_run(name: str, place: int, tmp_path: Path) -> None:
    target = tmp_path / "made by a pickle"
    parts: list[Any] = [1, 2, 3, Scene(np.zeros(1), np.zeros((1, 5)))]
    parts[place] = Evil(str(target))
    content = b"".join(pickle.dumps(part, 2) for part in parts)
    path = tmp_path / f"evil.{name}"
    path.write_bytes(gzip.compress(content) if name == "pt.gz" else content)
    with pytest.raises(DataError, match="which is no data"):
        list(scene_files.read(path))
    assert not target.exists()


@pytest.mark.parametrize("callable_", [eval, exec, getattr, np.load, np.frombuffer, __import__])
def test_nothing_but_arrays_can_be_asked_for(callable_: Any, tmp_path: Path) -> None:
    path = tmp_path / "scene.pt"
    path.write_bytes(pickle.dumps(callable_, 2) * 4)
    with pytest.raises(DataError, match="which is no data"):
        list(scene_files.read(path))


def test_what_is_no_scene_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.tfrecord"
    path.write_bytes(tfrecord.frame(field(1, field(1, field(1, b"labels") + field(2, field(1, field(1, b"x")))))))
    with pytest.raises(DataError, match="no 'cameras'"):
        list(scene_files.read(path))
    path.write_bytes(tfrecord.frame(record([b"no jpeg"] * 2, np.zeros((2, 5), np.float32))))
    (found,) = scene_files.read(path)
    with pytest.raises(DataError, match="is no readable image"):
        found.images(8)
    path.write_bytes(tfrecord.frame(record([b"x"] * 2, np.zeros((3, 5), np.float32))))
    with pytest.raises(DataError, match="5 camera numbers"):
        list(scene_files.read(path))
    path.write_bytes(tfrecord.frame(b"\x0b\x00"))
    with pytest.raises(DataError, match="wire type"):
        list(scene_files.read(path))
    path.write_bytes(struct.pack("<Q", 3) + b"\0\0\0\0")
    with pytest.raises(DataError, match="damaged, or no TFRecord"):
        list(scene_files.read(path))
    with pytest.raises(DataError, match="scene files end in"):
        list(scene_files.read(tmp_path / "scene.txt"))


def test_folders_become_splits_and_npz_files(files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True)
        (folder / part / "a.tfrecord").write_bytes(files["tfrecord"].read_bytes() * 2)
    data = datasets.load("gqn", path=str(folder), size=16, views=3)
    assert (len(data.train), len(data.valid), len(data.test)) == (2, 0, 2)
    assert tuple(data.train.tensors["images"].shape) == (2, 3, 16, 16, 3)
    told = []
    counts = gqn.convert([folder / "train"], tmp_path / "set.npz", 16, 3, lambda d, s: told.append((d, s)))
    assert counts == (2, 3)
    assert told == [(1, 2)]
    again = datasets.load("gqn", path=str(tmp_path / "set.npz"), test=1)
    assert np.array_equal(again.test.numpy("images")[0], data.test.numpy("images")[0])
    with pytest.raises(DataError, match="views requested"):
        datasets.load("gqn", path=str(folder), views=6)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no scene files"):
        datasets.load("gqn", path=str(tmp_path / "empty"))


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the developer sample of GQN mazes is not here")
def test_original_files_give_the_converted_arrays() -> None:
    with np.load(SAMPLE / "gqn_mazes_35x128_64.npz") as held:
        index, ids = held["view_index"], held["scene_id"]
        images, cameras = held["images"], held["cameras"]
    (found,) = scene_files.read(SAMPLE / "scene_000.pt")
    assert len(found.frames) == scene_files.PUBLISHED["mazes"].views
    assert np.array_equal(found.images(64, index.tolist()), images[ids == 0][0])
    assert np.array_equal(found.cameras[index], cameras[ids == 0][0])
    first, second = scene_files.read(SAMPLE / "sample_2x12.tfrecord")
    for number, one in ((1, first), (2, second)):
        seen = [i for i in range(12) if i in index]
        place = [int(np.flatnonzero(index == i)[0]) for i in seen]
        assert np.array_equal(one.images(64, seen), images[ids == number][0][place])
