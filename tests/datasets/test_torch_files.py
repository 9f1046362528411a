"""Files of torch.save in both of their forms hold what was saved, whatever the pictures were, and run nothing."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from phlogiston import datasets
from phlogiston.datasets.readers import pickle_notes, scene_files
from phlogiston.datasets.readers.torch_files import TorchFile
from phlogiston.errors import DataError, DataWarning

Context = namedtuple("Context", ["frames", "cameras"])
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 12, 12, 3), dtype=np.uint8)
CAMERAS = RNG.random((3, 5)).astype(np.float32)


def encoded(picture: Any) -> bytes:
    held = io.BytesIO()
    Image.fromarray(picture).save(held, "PNG")
    return held.getvalue()


def objects(entries: list[Any]) -> Any:
    held = np.empty(len(entries), dtype=object)
    held[:] = entries
    return held


FRAMES = [encoded(picture) for picture in PIXELS]
FORMS: dict[str, Any] = {
    "namedtuple of an array of bytes": Context(objects(FRAMES), CAMERAS),
    "pair of a list and an array": (FRAMES, CAMERAS),
    "array of strings of one length": (np.array(FRAMES), CAMERAS),
    "dictionary": {"images": FRAMES, "viewpoints": CAMERAS},
    "tensors": (torch.tensor(PIXELS), torch.tensor(CAMERAS)),
    "tensors, channels first": (torch.tensor(PIXELS).permute(0, 3, 1, 2), torch.tensor(CAMERAS).double()),
    "floats": (torch.tensor(PIXELS / 255.0).float(), CAMERAS),
    "list of arrays": (list(PIXELS), CAMERAS),
    "cameras as numbers": (FRAMES, CAMERAS.tolist()),
    "list of scenes": [(PIXELS, CAMERAS), (PIXELS, CAMERAS)],
}


def saved(content: Any, zipped: bool) -> bytes:
    held = io.BytesIO()
    torch.save(content, held, _use_new_zipfile_serialization=zipped)
    return held.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_scene_holds_the_same_pictures(form: str, zipped: bool, tmp_path: Path) -> None:
    content = saved(FORMS[form], zipped)
    (tmp_path / "0.pt").write_bytes(content)
    (tmp_path / "1.pt.gz").write_bytes(gzip.compress(content))
    data = datasets.load("gqn", path=str(tmp_path), size=12)
    assert len(data.train) == 2 * (2 if form == "list of scenes" else 1)
    for row in data.train:
        assert np.array_equal(row["images"][0].numpy(), PIXELS)
        np.testing.assert_allclose(row["poses"][0].numpy(), CAMERAS, rtol=1e-6)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int16, torch.uint8, torch.bool])
def test_tensors_and_views_of_them_come_back(dtype: torch.dtype, zipped: bool) -> None:
    whole = (torch.arange(24).reshape(4, 6) % 7).to(dtype)
    file = TorchFile(saved([whole, whole.T[1:3, ::2], torch.zeros(0, 3).to(dtype)], zipped))
    wanted = whole.float().numpy() if dtype == torch.bfloat16 else whole.numpy()
    first, second, empty = (file.array(node) for node in file.content)
    assert np.array_equal(first, wanted)
    assert np.array_equal(second, wanted.T[1:3, ::2])
    assert empty.shape == (0, 3)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def test_nothing_in_a_zip_archive_is_run(tmp_path: Path) -> None:
    target = tmp_path / "made by a pickle"
    for content in (Evil(str(target)), Context(Evil(str(target)), CAMERAS), (FRAMES, Evil(str(target)))):
        (tmp_path / "evil.pt").write_bytes(saved(content, True))
        with pytest.raises(DataError, match=r"evil\.pt"):
            list(scene_files.read(tmp_path / "evil.pt"))
    assert not target.exists()


def archive(tree: Any, **members: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr("a/data.pkl", pickle.dumps(tree, 2))
        for name, content in members.items():
            file.writestr(f"a/{name}", content)
    return held.getvalue()


def test_storages_that_do_not_hold_what_is_claimed_are_refused() -> None:
    content = bytearray(saved(torch.zeros(4, 4), True))
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        for name, inside in members.items():
            file.writestr(name, inside[:8] if "/data/" in name else inside)
    short = TorchFile(held.getvalue())
    with pytest.raises(DataError, match="beyond its storage"):
        short.array(short.content)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr("readme", "")
    with pytest.raises(DataError, match=r"no data\.pkl"):
        TorchFile(held.getvalue())
    with pytest.raises(DataError, match="frames and cameras"):
        scene_files._scenes(TorchFile(archive([1, 2, 3])), [1, 2, 3])


@pytest.mark.parametrize("named", ["STACK_GLOBAL", "BINPERSID"])
def test_a_name_that_is_no_text_is_refused_before_it_is_written_out(named: str) -> None:
    """Sixty tuples of the tuple before, three times each: 3^60 characters, were it printed (a fuzzed file found it)."""
    nest = b"N\x85" + b"q\x00h\x00h\x00\x87" * 60
    if named == "STACK_GLOBAL":
        program = b"\x80\x04\x8c\x05numpy" + nest + b"\x93."
    else:
        program = b"\x80\x04\x8c\x07storagectorch\nFloatStorage\n" + nest + b"\x87Q."
    with pytest.raises(DataError, match="no text"):
        pickle_notes.interpret(program)


def test_a_bad_file_among_good_ones_is_left_out_and_told(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.pt").write_bytes(saved((FRAMES, CAMERAS), True))
    (tmp_path / "3.pt").write_bytes(saved((FRAMES, CAMERAS), True)[:400])
    (tmp_path / "4.pt").write_bytes(saved(([b"no picture"] * 3, CAMERAS), True))
    with pytest.warns(DataWarning) as told:
        data = datasets.load("gqn", path=str(tmp_path), size=12)
    assert len(data.train) == 3
    assert ["3.pt" in str(told[0].message), "4.pt" in str(told[1].message)] == [True, True]
    assert [d.topic for d in data.meta.decisions][:2] == ["skipped", "skipped"]
    for i in range(3):
        (tmp_path / f"{i}.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "4.pt").unlink()
    with pytest.raises(DataError, match="none of the 4 scene files"):
        datasets.load("gqn", path=str(tmp_path), size=12)


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        (PIXELS[None], PIXELS),
        (PIXELS[None] / 255.0, PIXELS),
        (PIXELS[None].astype(np.float32), PIXELS),
        (np.moveaxis(PIXELS[None], -1, 2), PIXELS),
        (PIXELS[None] > 127, (PIXELS > 127) * np.uint8(255)),
        ((PIXELS[None] > 127).astype(np.int64), (PIXELS > 127) * np.uint8(255)),
        (PIXELS[None, ..., :1], np.repeat(PIXELS[..., :1], 3, -1)),
    ],
)
def test_scenes_in_npz_are_read_in_their_own_units_and_axes(images: Any, wanted: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", images=images, cameras=CAMERAS[None])
    data = datasets.load("gqn", path=str(tmp_path / "s.npz"))
    assert np.array_equal(data.train.numpy("images")[0], wanted)
    np.savez(tmp_path / "s.npz", images=PIXELS[None] - 128.0, cameras=CAMERAS[None])
    with pytest.raises(DataError, match="value_range"):
        datasets.load("gqn", path=str(tmp_path / "s.npz"))
    moved = datasets.load("gqn", path=str(tmp_path / "s.npz"), value_range=(-128, 127))
    assert np.array_equal(moved.train.numpy("images")[0], PIXELS)
