"""Clips that stay on disk: every frame as when it is read whole, decoded once and on demand, and the same trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston import datasets
from phlogiston.datasets.clips import decoded, index, videos
from phlogiston.datasets.clips.decoded import DecodedFrames
from phlogiston.datasets.clips.decoder import Form
from phlogiston.datasets.clips.streamed import StreamedClips
from phlogiston.datasets.untrusted.media import read_video
from phlogiston.errors import DataError
from phlogiston.systems.sqair.system import SQAIR
from phlogiston.systems.vdsm.system import VDSM


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def moving(frames: int, size: int = 32, seed: int = 0) -> Any:
    """A square that moves over noise, uint8 (frames, size, size, 3)."""
    still = np.random.default_rng(seed).integers(0, 60, (size, size, 3), dtype=np.uint8)
    out = np.repeat(still[None], frames, 0)
    for t in range(frames):
        x, y = (3 * t) % (size - 8), (2 * t) % (size - 8)
        out[t, y : y + 8, x : x + 8] = (250, 180, 90)
    return out


def write(path: Path, frames: Any, codec: str = "mpeg4", every: int = 5, **options: str) -> Path:
    """A video with a key frame every so many frames."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.gop_size = every
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def gif(path: Path, frames: Any) -> Path:
    from PIL import Image

    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others)
    return path


def frames_of(path: Path, workers: int = 0) -> DecodedFrames:
    return DecodedFrames([index.video(path)], Form(), path.name, workers)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "mpeg4", {}),
        ("a.mp4", "libx264", {"bf": "3"}),
        ("a.mkv", "libx264", {"bf": "2", "x264-params": "open-gop=1"}),
        ("a.webm", "libvpx", {}),
        ("a.avi", "mpeg4", {}),
        ("a.gif", "", {}),
    ],
)
def test_frames_in_any_order_are_those_of_the_whole_video(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    import av

    if codec and codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = tmp_path / name
    whole = read_video(write(path, moving(33), codec, **options) if codec else gif(path, moving(33)))
    whole = np.repeat(whole, 3, -1) if whole.shape[-1] == 1 else whole
    frames = frames_of(path)
    assert len(frames) == len(whole)
    order = np.random.default_rng(1).permutation(len(whole))
    for part in np.array_split(order, 6):
        assert np.array_equal(frames.read(part), whole[part])


def test_only_what_is_asked_for_is_decoded_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    decode = decoded.decode

    def counted(segment: Any, *arguments: Any) -> None:
        asked.append(segment.first)
        decode(segment, *arguments)

    monkeypatch.setattr(decoded, "decode", counted)
    path = write(tmp_path / "a.mp4", moving(40), every=5)
    begins = index.video(path).begins
    assert len(begins) >= 8
    first, fourth, last = (int(begins[i]) for i in (0, 3, -1))
    frames = frames_of(path)
    frames.read(np.array([fourth + 1, 1]))
    assert asked == [first, fourth]
    frames.read(np.array([fourth, 0, 39]))
    assert asked == [first, fourth, last]
    again = frames_of(path)  # as a later run finds it
    again.read(np.array([0, 39]))
    assert asked == [first, fourth, last]
    write(path, moving(40, seed=1), every=5)  # another file under the same name
    assert not np.array_equal(frames_of(path).read(np.array([0])), again.read(np.array([0])))


def test_workers_decode_as_this_process_does_and_say_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving(60), every=3)
    frames = frames_of(path, workers=2)
    frames.expect(np.arange(30))
    assert np.array_equal(frames.read(np.arange(60)[::-1].copy()), read_video(path)[::-1])
    path = write(tmp_path / "b.mp4", moving(60, seed=1), every=3)
    broken = frames_of(path, workers=1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(DataError, match=r"b\.mp4"):
        broken.read(np.arange(60))


def videos_in(folder: Path, count: int = 3, frames: int = 40) -> Path:
    folder.mkdir()
    for i in range(count):
        write(folder / f"{i}.mp4", moving(frames + i, seed=i), every=6)
    pictures = folder / "still"
    pictures.mkdir()
    from PIL import Image

    for i, frame in enumerate(moving(frames, seed=9)):
        Image.fromarray(frame).save(pictures / f"{i:03d}.png")
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"background": "none"},
        {"background": "none", "colour": True, "every": 2, "stride": 3, "contrast": 5.0},
        {"crop": (2, 4, 24, 20), "tensor": "frames"},
    ],
)
def test_streamed_clips_are_those_read_into_memory(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = videos_in(tmp_path / "v")
    given = {"length": 5, "stride": 5, **options}
    held = datasets.load("video_folder", data=folder, **given)
    streamed = datasets.load("video_folder", data=folder, stream=True, workers=0, **given)
    name = options.get("tensor", "x")
    assert isinstance(streamed.train, StreamedClips)
    assert len(streamed.train) == len(held.train)
    row = torch.randperm(len(held.train), generator=torch.Generator().manual_seed(0))
    for a, b in (
        (streamed.train[row][name], held.train[row][name]),
        (streamed.valid.tensors[name], held.valid.tensors[name]),
        (streamed.test.tensors[name], held.test.tensors[name]),
    ):
        assert a.shape == b.shape
        assert torch.equal(a, b)
    assert streamed.train.sequences == held.train.sequences
    assert "decoded when they are asked for" in str(streamed.meta.decisions)


def test_frames_are_scaled_as_in_memory_but_for_rounding(tmp_path: Path) -> None:
    folder = videos_in(tmp_path / "v", 1)
    given: dict[str, Any] = {"data": folder, "length": 5, "stride": 5, "size": (16, 16), "background": "none"}
    streamed = datasets.load("video_folder", stream=True, workers=0, **given)
    held = datasets.load("video_folder", **given)
    a, b = (data.train[torch.arange(len(held.train))]["x"].int() for data in (streamed, held))
    assert int((a - b).abs().max()) <= 2


def test_many_frames_stay_on_disk_unasked_and_arrays_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = videos_in(tmp_path / "v")
    given: dict[str, Any] = {"data": folder, "length": 5, "workers": 0}
    assert not isinstance(datasets.load("video_folder", **given).train, StreamedClips)
    monkeypatch.setattr(videos, "SMALL", 1000)
    monkeypatch.setattr(videos, "LARGE", 100_000)
    assert isinstance(datasets.load("video_folder", **given).train, StreamedClips)
    write(folder / "large.mp4", moving(20, 64))
    with pytest.raises(DataError, match=r"different shapes.*size="):
        datasets.load("video_folder", **given)
    np.save(folder / "more.npy", moving(10)[..., 0])
    with pytest.raises(DataError, match=r"more\.npy holds arrays"):
        datasets.load("video_folder", stream=True, **given)


def test_sqair_trains_on_a_video_on_disk_as_in_memory_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    folder = videos_in(tmp_path / "v", 2)
    options: dict[str, Any] = {"steps": 4, "lengths": (2, 3), "shares": (0.5, 0.5), "batch_size": 2}
    options |= {"hidden": 16, "memory": 8}
    given: dict[str, Any] = {"data": folder, "length": 4, "stride": 4, "background": "none"}
    held = SQAIR(options).fit(datasets.load("video_folder", **given))
    data = datasets.load("video_folder", stream=True, workers=0, **given)

    class Stop:
        def on_step(self, state: Any) -> None:
            if state.step == 3:
                raise KeyboardInterrupt

    quiet: dict[str, Any] = {"out": tmp_path / "run", "checkpoint_every": 2, "progress": "off", "tensorboard": False}
    with pytest.raises(KeyboardInterrupt):
        SQAIR(options).fit(data, callbacks=[Stop()], **quiet)
    again = SQAIR(options).fit(data, **quiet)
    for name, value in held.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_vdsm_trains_on_a_video_on_disk(tmp_path: Path) -> None:
    folder = videos_in(tmp_path / "v", 2)
    given: dict[str, Any] = {"data": folder, "length": 4, "stride": 4, "background": "none", "tensor": "frames"}
    small: dict[str, Any] = {"encoder_widths": (8, 8, 8), "decoder_widths": (8, 8, 8), "recurrent": 8, "experts": 3}
    small |= {"aggregate": 1, "steps": 3, "warm_steps": 2, "sequence_steps": 2}
    pair = [
        VDSM(small).fit(datasets.load("video_folder", colour=True, **given, **more))
        for more in ({}, {"stream": True, "workers": 0})
    ]
    held, streamed = (system.model.state_dict() for system in pair)
    for name, value in held.items():
        assert torch.allclose(value, streamed[name], atol=1e-4), name


# ---- arrays of clips


@pytest.mark.parametrize(
    ("layout", "dtype"), [("NTHWC", "u1"), ("NTCHW", "u1"), ("TNHW", "u1"), ("NTHW", "f4"), ("NTHWC", "u2")]
)
def test_clips_of_a_large_npy_stay_on_disk_and_are_those_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, dtype: str
) -> None:
    from phlogiston.datasets.clips import mapped

    clips = np.stack([moving(6, 16, seed) for seed in range(30)])  # NTHWC
    clips = clips if "C" in layout else clips[..., 0]
    array = clips.transpose(["NTHWC".index(letter) for letter in layout])
    array = {"u1": array, "u2": array.astype("u2") * 257, "f4": array.astype("f4") / 255}[dtype]
    np.save(tmp_path / "clips.npy", array)
    given: dict[str, Any] = {"layout": layout, "every": 2, "size": 8, "valid": 0.1, "test": 0.2}
    held = datasets.load(tmp_path / "clips.npy", **given, seed=1)
    monkeypatch.setattr(mapped, "LARGE", 1000)
    for source in (tmp_path / "clips.npy", np.load(tmp_path / "clips.npy", mmap_mode="r")):
        streamed = datasets.load(source, **given)
        assert isinstance(streamed.train, StreamedClips)
        assert (len(streamed.train), len(streamed.valid), len(streamed.test)) == (21, 3, 6)
        parts = [streamed.train[torch.arange(21)]["frames"], streamed.valid.tensors["frames"]]
        found = torch.cat([*parts, streamed.test.tensors["frames"]]).flatten(1).numpy()
        whole = torch.cat([split.tensors["frames"] for split in (held.train, held.valid, held.test)])
        assert streamed.train[0]["frames"].shape == (1, *whole.shape[1:])
        expected = whole.flatten(1).numpy()
        assert np.array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


def test_values_that_no_sample_showed_are_refused_and_not_clipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phlogiston.datasets.clips import mapped

    clips = np.zeros((300, 4, 8, 8), np.float32)
    clips[:, :, 2:4] = 1.0
    clips[1, 0, 0, 0] = 200.0  # one clip of bytes among clips of 0 .. 1, and the sample takes every fourth
    np.save(tmp_path / "clips.npy", clips)
    monkeypatch.setattr(mapped, "LARGE", 1000)
    data = datasets.load(tmp_path / "clips.npy", layout="NTHW", test=0.0)
    with pytest.raises(DataError, match=r"200.*beyond those of a sample.*value_range"):
        data.train[torch.arange(300)]


def test_a_mapped_array_given_to_fit_is_not_copied(tmp_path: Path) -> None:
    clips = np.stack([moving(4, 16, seed) for seed in range(6)]).transpose(0, 1, 4, 2, 3)
    np.save(tmp_path / "clips.npy", clips)
    mapped = np.load(tmp_path / "clips.npy", mmap_mode="r")
    split = datasets.Split({"frames": mapped})
    where = split.tensors["frames"].data_ptr()
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "clips.npy" in line]
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
    assert any(low <= where < high for low, high in spans)
    assert np.array_equal(split.tensors["frames"].numpy(), clips)
    small: dict[str, Any] = {"encoder_widths": (8, 8), "decoder_widths": (8, 8), "recurrent": 8, "experts": 3}
    small |= {"aggregate": 1, "steps": 2, "warm_steps": 1, "sequence_steps": 1}
    pair = [VDSM(small).fit(given).model.state_dict() for given in (mapped, clips)]
    assert all(torch.equal(value, pair[1][name]) for name, value in pair[0].items())
