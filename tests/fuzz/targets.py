"""Every reader of files of others, each with small sound files to damage and a way to have them read."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import torch
from PIL import Image

from phlogiston import datasets
from phlogiston.datasets.readers import tfrecord

RNG = np.random.default_rng(0)
Change = Callable[..., bytes]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: what it is called.
        file: name of the file that is damaged, in the folder it is read from.
        seeds: sound files.
        change: damages one.
        read: has the file read; called with the folder and the file.
        beside: the other files of the folder, sound.
        slow: how many times slower than the others it is, roughly.
        sound: whether its files are sound, and must be read.
    """

    name: str
    file: str
    seeds: Sequence[bytes]
    change: Change
    read: Callable[[Path, Path], Any]
    beside: Mapping[str, bytes] = field(default_factory=dict)
    slow: int = 1
    sound: bool = True


def npz(packed: bool = True, **arrays: Any) -> bytes:
    held = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(held, **arrays)
    return held.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    held = io.BytesIO()
    np.save(held, array, **options)
    return held.getvalue()


def objects(entries: Sequence[Any]) -> Any:
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


def picture(format_: str, array: Any = None, **options: Any) -> bytes:
    held = io.BytesIO()
    array = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8) if array is None else array
    Image.fromarray(array).save(held, format_, **options)
    return held.getvalue()


def gif(frames: int = 3) -> bytes:
    held = io.BytesIO()
    pictures = [Image.fromarray(RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)) for _ in range(frames)]
    pictures[0].save(held, "GIF", save_all=True, append_images=pictures[1:])
    return held.getvalue()


def encoded(suffix: str, codec: str) -> bytes:
    import av

    held = io.BytesIO()
    with av.open(held, "w", format={"mkv": "matroska"}.get(suffix, suffix)) as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(4):
            pixels = np.full((32, 32, 3), 20 * i, dtype=np.uint8)
            pixels[4 : 12 + i, 8:20] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return held.getvalue()


def bombs() -> list[bytes]:
    """Arrays of zeros that unpack to some 64 MiB, in several shapes."""
    found = []
    for shape, dtype in (((1 << 26, 1), "u1"), ((1 << 20, 64), "u1"), ((4, 1 << 24), "u1"), ((1 << 23, 1), "f8"),
                         ((1024, 16, 64, 64), "u1"), ((1 << 23,), "f8"), ((1 << 22, 2), "i8")):  # fmt: skip
        found += [npz(**{name: np.zeros(shape, dtype)}) for name in ("x", "frames") if dtype == "u1"]
    found.append(npz(values=np.zeros((1 << 22, 3), "u1"), lengths=np.ones(1 << 22, "u1")))
    found.append(npz(x=np.zeros((1 << 20, 2), "u1"), label=np.zeros(1 << 20, "u1")))
    found.append(npz(frames=np.zeros((2, 3, 8, 8), "u1"), action=np.array([0, 10**12])))
    found.append(npz(x=np.zeros((1, 1 << 22), "u1")))
    return found


def load(name: str | None = None, **options: Any) -> Callable[[Path, Path], Any]:
    """Read by `datasets.load`: the file itself, or a named source whose `root` is the folder."""

    def read(folder: Path, file: Path) -> Any:
        chosen = {key: str(file) if value is FILE else value for key, value in options.items()}
        return datasets.load(file, **chosen) if name is None else datasets.load(name, root=folder, **chosen)

    return read


FILE = object()


SPACE = b"learning_rate = { low = 1e-3, high = 1e-1, log = true }\nhidden = [[8], [8, 8]]\nbatch_size = 64\n"


def on_demand(folder: Path, file: Path) -> Any:
    """Videos that are decoded when they are asked for, without a worker."""
    os.environ["PHLOGISTON_CACHE"] = str(folder / "cache")
    try:
        data = datasets.load("video_folder", data=str(file), length=2, stride=1, stream=True, workers=0)
        return data.train[:50]
    finally:
        shutil.rmtree(folder / "cache", ignore_errors=True)


def space(folder: Path, file: Path) -> Any:
    from phlogiston.systems.sweep.space import axes, read_space

    return axes(read_space(file), "mdn", {})


def folder_of(**options: Any) -> Callable[[Path, Path], Any]:
    return lambda folder, file: datasets.load(folder, **options)


def images(folder: Path, file: Path) -> Any:
    from phlogiston.evaluate.images import open_source

    source = open_source(file)
    source.fingerprint()
    return [len(block) for block in source.blocks(False)], source.count(False)


def statistics(folder: Path, file: Path) -> Any:
    from phlogiston.evaluate.statistics import FeatureSet, has_statistics

    return has_statistics(file), FeatureSet.load(file)


def weights(folder: Path, file: Path) -> Any:
    from phlogiston.evaluate import inception

    return inception._read(file)


def judge(folder: Path, file: Path) -> Any:
    from phlogiston.evaluate.judge import Judge

    return Judge.load(folder)


def metrics(folder: Path, file: Path) -> Any:
    from phlogiston.evaluate.report import compare_runs

    return compare_runs([folder, folder])


def evidence(folder: Path, file: Path) -> Any:
    from phlogiston.inference.query import files

    columns, categories = {"x": ("a", "b", "c")}, {"label": ("u", "v")}
    return files.load(file, columns, categories)


@cache
def recording_files() -> dict[str, bytes]:
    from phlogiston.datasets.recording import store
    from phlogiston.datasets.recording.environment import GameSpec

    spec = GameSpec(env="Game-v0", actions=[0, 1])
    played = store.PlayedGames([3, 4], [True, False], [0, 1, 0, 1, 0, 1, 0], [0.0, 1, 1, 0, 1, 1, 1])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "raw").write_bytes(RNG.integers(0, 256, 7 * 64, dtype=np.uint8).tobytes())
        store.write(folder, folder / "raw", (1, 8, 8), False, played, {"title": "a game", "spec": spec.describe()})
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def recording(folder: Path, file: Path) -> Any:
    games = datasets.load(folder)
    return games.train[slice(None)]


def agent(folder: Path, file: Path) -> Any:
    from phlogiston.systems.world.agent import TrainedAgent

    return TrainedAgent.load(file)


def checkpoint(folder: Path, file: Path) -> Any:
    from phlogiston.inference.svi import checkpoints

    model = torch.nn.Linear(2, 3)
    return checkpoints.load_parameters(file, model)


def saved_system(folder: Path, file: Path) -> Any:
    from phlogiston import systems

    return systems.load(folder)


def scene_tfrecord() -> bytes:
    frames = [picture("JPEG") for _ in range(2)]

    def part(number: int, content: bytes) -> bytes:
        n, length = len(content), b""
        while n > 127:
            length, n = length + bytes([n & 127 | 128]), n >> 7
        return bytes([number << 3 | 2]) + length + bytes([n]) + content

    shown = part(1, b"".join(part(1, frame) for frame in frames))
    cameras = part(2, part(1, np.zeros((2, 5), "<f4").tobytes()))
    whole = b"".join(
        part(1, part(1, name) + part(2, value)) for name, value in ((b"frames", shown), (b"cameras", cameras))
    )
    return tfrecord.frame(part(1, whole))


def torch_files() -> list[bytes]:
    pixels, cameras = RNG.integers(0, 256, (2, 12, 12, 3), dtype=np.uint8), RNG.random((2, 5)).astype(np.float32)
    encoded = [picture("PNG") for _ in range(2)]
    out = []
    for content in ((pixels, cameras), {"images": encoded, "viewpoints": cameras},
                    (torch.tensor(pixels), torch.tensor(cameras)), [(pixels, cameras), (pixels, cameras)],
                    (encoded, cameras.tolist())):  # fmt: skip
        for zipped in (True, False):
            held = io.BytesIO()
            torch.save(content, held, _use_new_zipfile_serialization=zipped)
            out.append(held.getvalue())
    return out


def state_dicts() -> list[bytes]:
    content = OrderedDict((f"layer{i}.weight", torch.ones(2, 3) * i) for i in range(4))
    out = []
    for zipped in (True, False):
        held = io.BytesIO()
        torch.save(content, held, _use_new_zipfile_serialization=zipped)
        out.append(held.getvalue())
    return out


def torch_change(rng: Any, content: bytes) -> bytes:
    if rng.random() < 0.05:
        header = (119547037146038801333356, 1001, {"little_endian": True})
        return b"".join(pickle.dumps(part, 2) for part in header) + rng.choice(mutations.PICKLES)
    return (
        mutations.archive(rng, content)
        if content[:2] == b"PK" and rng.random() < 0.7
        else mutations.blind(rng, content)
    )


def parquet(compression: str = "snappy") -> bytes:
    import pyarrow
    import pyarrow.parquet

    held = io.BytesIO()
    columns = {"a": RNG.normal(size=50), "b": np.arange(50), "c": ["u", "v"] * 25, "d": np.ones(50)}
    pyarrow.parquet.write_table(pyarrow.table(columns), held, compression=compression)
    return held.getvalue()


def spreadsheet() -> bytes:
    import pandas

    held = io.BytesIO()
    pandas.DataFrame({"a": RNG.normal(size=8), "b": np.arange(8), "c": ["u", "v"] * 4}).to_excel(held, index=False)
    return held.getvalue()


def safetensors(**metadata: str) -> bytes:
    from safetensors.torch import save

    return save({"a": torch.ones(2, 3), "b": torch.arange(4)}, metadata or None)


STILLS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("jpg", "JPEG", {}), ("bmp", "BMP", {}), ("webp", "WEBP", {}), ("ppm", "PPM", {}), ("avif", "AVIF", {}),
    ("gif", "GIF", {}), ("tif", "TIFF", {"compression": "tiff_lzw"}),
)  # fmt: skip
XML = b"""<?xml version="1.0" encoding="ISO-8859-1"?><WhiteboardCaptureSession><StrokeSet>
<Stroke colour="black"><Point x="1" y="2" time="0"/><Point x="3" y="5" time="1"/><Point x="4" y="5" time="2"/></Stroke>
<Stroke><Point x="8" y="2" time="3"/><Point x="9" y="5" time="4"/></Stroke></StrokeSet></WhiteboardCaptureSession>
"""
CSV = b"a,b,label\n" + b"".join(b"%d,%.2f,%s\n" % (i, i / 3, b"uv"[i % 2 : i % 2 + 1]) for i in range(12))
SEQUENCES = b"sequence,step,x,y\n" + b"".join(b"%d,%d,%d,0.5\n" % (i // 4, i % 4, i) for i in range(12))
DRAWING = b'{"word":"cat","drawing":[[[1,2,3],[4,5,6]],[[7,8],[9,9]]]}\n' * 6
LOG = b"".join(b"2019-01-17T12:37:%02d.480,interface,0.1,0.2,0.3\n" % i for i in range(6))
METRICS = json.dumps({"run": "r", "finished": True, "step": 3, "metrics": {"log_likelihood": {"value": -1.5,
    "std_error": 0.1, "n": 10, "kind": "exact", "higher_is_better": True, "detail": {}}}}).encode()  # fmt: skip
NAMES = '{"action": ["a", "b", "c", "d"]}'
SITES = {"x": [{"kind": "known", "value": [1.0, 0.0, 3.0], "mask": [True, False, True]},
               {"kind": "within", "lower": [0.0] * 3, "upper": [1.0] * 3, "weight": 1.0}],
         "label": [{"kind": "oneof", "values": [0]}]}  # fmt: skip
EVIDENCE = [json.dumps({"format": "phlogiston evidence 1", "sites": SITES}).encode(),
            b'{"x": [1.0, null, 2.0], "label": "u"}', b'["a >= 0.5", "2*a - b <= 1"]']  # fmt: skip
AGENT = json.dumps({"format": "phlogiston world player 1", "weights": [0.1, 0.2], "looks": "zh", "inside": "dream",
                    "tau": 1.0, "ends": "sampled", "curve": [[1.0, 2.0]]}).encode()  # fmt: skip


def judge_files() -> tuple[bytes, bytes]:
    import tempfile

    from phlogiston.evaluate.judge import Judge, JudgeConfig, JudgeNetwork

    config = JudgeConfig(widths=(2,), features=4)
    network = JudgeNetwork((1, 8, 8), {"label": 3}, config)
    about = {"config": config.describe(), "shape": [1, 8, 8], "factors": {"label": 3}}
    with tempfile.TemporaryDirectory() as place:
        Judge(network, about, {}).save(place)
        return (Path(place) / "judge.json").read_bytes(), (Path(place) / "judge.safetensors").read_bytes()


def checkpoint_file() -> bytes:
    import tempfile

    from phlogiston.inference.svi import checkpoints

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "step-00000003.safetensors"
        tensors = checkpoints.capture(checkpoints.named_tensors({"model": torch.nn.Linear(2, 3)}))
        checkpoints.write(path, tensors, {"step": 3, "stage_index": 0, "score": None, "finished": True})
        return path.read_bytes()


def system_files() -> dict[str, bytes]:
    import tempfile

    from phlogiston import systems

    with tempfile.TemporaryDirectory() as place:
        kind: Any = systems.get("drmm")
        system = kind({"num_layers": 1, "num_components": 2})
        system.fit(RNG.normal(size=(16, 2)), steps=1)
        folder = Path(place) / "saved"
        system.save(folder)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


@cache
def targets() -> tuple[Target, ...]:
    """Every reader, with its files."""
    rows, label = RNG.normal(size=(12, 3)), np.arange(12) % 3
    shown = RNG.integers(0, 256, (4, 3, 12, 10, 3), dtype=np.uint8)
    flat = {"values": RNG.normal(size=(12, 3)), "lengths": np.array([4, 3, 5])}
    strokes = [np.column_stack([RNG.normal(size=(n, 2)), np.arange(n) == n - 1]) for n in (4, 6, 5)]
    sketch = {part: objects(strokes) for part in ("train", "valid", "test")}
    ragged = objects([RNG.integers(0, 256, (n, 12, 10, 3), dtype=np.uint8) for n in (2, 3, 4)])
    structured = np.array([(1.0, 2, "u"), (3.0, 4, "v")] * 6, dtype=[("a", "f8"), ("b", "i4"), ("c", "U1")])
    tables = [npz(x=rows, label=label), npz(x=rows, mask=rows > 0, weight=np.ones(12)), npz(a=rows[:, 0], b=label),
              npz(False, x=rows.astype("f4"), columns=np.array(["u", "v", "w"])),
              npz(x=shown[:, 0] / 255.0)]  # fmt: skip
    pngs = [picture("PNG"), picture("PNG", RNG.integers(0, 256, (9, 9), dtype=np.uint8)),
            picture("PNG", RNG.integers(0, 65536, (9, 9), dtype=np.uint16))]  # fmt: skip
    other = {"b/sound.png": picture("PNG")}
    archive, blind = mutations.archive, mutations.blind
    clips = {f"a.{suffix}": content for suffix, content in
             (("mp4", encoded("mp4", "libx264")), ("avi", encoded("avi", "mpeg4")), ("mkv", encoded("mkv", "libx264")),
              ("webm", encoded("webm", "libvpx-vp9")), ("mov", encoded("mov", "mpeg4")))}  # fmt: skip
    labels = npz(palette=np.zeros((5, 3), "u1"), identity=np.array([[0, 1, 2, 3]]), identity_index=np.arange(1))
    sheet = lzma.compress(npy(np.zeros((1, 8, 64, 64), "u1")), preset=0)
    kinds = (f"{action}_{view}" for action in ("walk", "spellcast", "slash") for view in ("front", "left", "right"))
    sheets = {f"{kind}.npy.xz": sheet for kind in kinds}
    about, tensors = judge_files()
    system = system_files()
    faces = objects([np.zeros((n, 12, 12, 3)) for n in (3, 4, 5)])
    mug = {
        "labels.npz": npz(arr_0=np.array([[0, 0], [1, 1], [2, 7]])),
        "MUG_0-255_OF_112x112_color.npz": npz(arr_0=faces),
    }
    found = [
        Target("array npz", "a.npz", tables, archive, load()),
        Target(
            "bombs",
            "a.npz",
            bombs(),
            lambda rng, content: content if rng.random() < 0.7 else archive(rng, content),
            load(),
            slow=100,
            sound=False,
        ),
        Target("bombs as images", "a.npz", bombs(), lambda rng, content: content, images, slow=200, sound=False),
        Target(
            "array npy", "a.npy", [npy(rows), npy(structured), npy(rows.astype("f4").T.copy().T)], mutations.npy, load()
        ),
        Target("stream npy", "a.npy", [npy(rows), npy(rows.astype("f4"))], mutations.npy, load("stream", data=FILE)),
        Target("stream folder", "a.npy", [npy(rows)], mutations.npy, folder_of(), {"b.npy": npy(rows)}),
        Target("array csv", "a.csv", [CSV, CSV.replace(b",", b";"), b"1,2\n3,4\n5,6\n"], mutations.table, load()),
        Target("array tsv", "a.tsv", [CSV.replace(b",", b"\t")], mutations.table, load()),
        Target("array csv.gz", "a.csv.gz", [gzip.compress(CSV)], mutations.gzipped(mutations.table), load()),
        Target("array parquet", "a.parquet", [parquet(), parquet("none")], blind, load(), slow=3),
        Target("array xlsx", "a.xlsx", [spreadsheet()], mutations.spreadsheet, load(), slow=20),
        Target("table folder", "train.npz", tables[:1], archive, folder_of(), {"test.npz": tables[0]}),
        Target("pictures png", "b/a.png", pngs, mutations.png, folder_of(size=8), other),
        *(
            Target(f"pictures {suffix}", f"a.{suffix}", [picture(kind, **options)], blind, folder_of())
            for suffix, kind, options in STILLS
        ),
        Target(
            "clips npz",
            "a.npz",
            [
                npz(frames=shown, action=np.arange(4), names=np.array(NAMES)),
                npz(frames=shown[..., 0], identity=np.arange(8).reshape(4, 2), mask=np.ones((4, 3), bool)),
            ],
            archive,
            load(),
        ),
        Target("clips npy", "a.npy", [npy(shown), npy(shown[..., 0])], mutations.npy, load("videos", data=FILE)),
        Target(
            "clips of objects", "a.npz", [npz(frames=ragged, action=np.arange(3))], archive, load("videos", data=FILE)
        ),
        *(
            Target(f"video {name[2:]}", name, [content], blind, load("videos", data=FILE, test=0), slow=8)
            for name, content in clips.items()
        ),
        *(
            Target(f"{name[2:]} on demand", name, [clips[name]], blind, on_demand, slow=8)
            for name in ("a.mp4", "a.mkv", "a.avi")
        ),
        Target("sweep space", "space.toml", [SPACE], mutations.document, space),
        Target("moving gif", "a.gif", [gif()], blind, load("videos", data=FILE, test=0)),
        Target(
            "videos npz",
            "a.npz",
            [npz(video=shown[0]), npz(a=shown[0], b=shown[1])],
            archive,
            load("video_folder", data=FILE, length=2),
        ),
        Target(
            "video folder",
            "f/00.png",
            pngs[:1],
            mutations.png,
            load("video_folder", data=".", length=2),
            {f"f/{i:02d}.png": pngs[0] for i in range(1, 30)},
            slow=4,
        ),
        Target("recordings npz", "a.npz", [npz(**flat)], archive, load()),
        Target("recordings folder", "train.npz", [npz(**flat)], archive, folder_of(), {"valid.npz": npz(**flat)}),
        Target("recordings csv", "a.csv", [SEQUENCES], mutations.table, load()),
        Target("sketches", "a.npz", [npz(**sketch)], archive, load("recordings", data=FILE)),
        Target("drawings npz", "cat.npz", [npz(**sketch)], archive, load("quickdraw", data=FILE)),
        Target("drawings ndjson", "cat.ndjson", [DRAWING], mutations.document, load()),
        Target("omniglot", "omniglot.npz", [npz(**sketch)], archive, load("omniglot")),
        Target(
            "kanji",
            "train.npz",
            [npz(**flat | {"values": np.column_stack([rows[:, :2], label > 1])})],
            archive,
            load("kanji"),
        ),
        Target(
            "tinyperf",
            "TinyPerformanceArrays.npz",
            [npz(a=objects(strokes * 4))],
            archive,
            load("tinyperf", min_length=2),
        ),
        Target(
            "control npz",
            "training-dataset-4d.npz",
            [npz(perfs=objects([np.abs(s) for s in strokes]))],
            archive,
            load("control"),
        ),
        Target("control log", "a.log", [LOG], mutations.table, load("control")),
        Target(
            "handwriting",
            "lineStrokes/a01/a01-000/a01-000u-01.xml",
            [XML],
            mutations.markup,
            load("iam_online", valid=0, test=0),
            {"ascii/a01/a01-000/a01-000u.txt": b"OCR:\n\nx\n\nCSR:\n\nhello there\n"},
        ),
        Target(
            "handwriting text",
            "ascii/a01/a01-000/a01-000u.txt",
            [b"OCR:\n\nx\n\nCSR:\n\nhello there\n"],
            blind,
            load("iam_online", valid=0, test=0),
            {"lineStrokes/a01/a01-000/a01-000u-01.xml": XML},
        ),
        Target(
            "gqn npz",
            "a.npz",
            [
                npz(
                    images=shown.repeat(2, 1)[:, :2],
                    cameras=np.zeros((4, 2, 5)),
                    split=np.array(["train", "valid", "test", "train"]),
                )
            ],
            archive,
            load("gqn", path="a.npz"),
        ),
        Target(
            "gqn tfrecord", "a.tfrecord", [scene_tfrecord()], mutations.records, load("gqn", path="a.tfrecord", size=8)
        ),
        Target("gqn pt", "a.pt", torch_files(), torch_change, load("gqn", path="a.pt", size=8)),
        Target(
            "gqn pt.gz",
            "a.pt.gz",
            [gzip.compress(content, 1) for content in torch_files()],
            mutations.gzipped(torch_change),
            load("gqn", path="a.pt.gz", size=8),
        ),
        Target("sprites labels", "labels.npz", [labels], archive, load("sprites", size=16), sheets, slow=4),
        Target(
            "sprites xz",
            "slash_right.npy.xz",
            [sheets["slash_right.npy.xz"]],
            mutations.xz,
            load("sprites", size=16),
            {**sheets, "labels.npz": labels},
            slow=4,
        ),
        Target(
            "mug clips",
            "MUG_0-255_OF_112x112_color.npz",
            [mug["MUG_0-255_OF_112x112_color.npz"]],
            archive,
            load("mug", frames=2, size=8),
            mug,
            slow=4,
        ),
        Target("mug labels", "labels.npz", [mug["labels.npz"]], archive, load("mug", frames=2, size=8), mug, slow=4),
        Target(
            "mnist",
            "train-labels-idx1-ubyte.gz",
            [gzip.compress(bytes((0, 0, 8, 1, 0, 0, 0, 4, 1, 2, 3, 4)))],
            mutations.gzipped(blind),
            mnist,
        ),
        Target(
            "uci", "yacht.npz", [npz(x=np.zeros((308, 6)), y=np.zeros((308, 1)))], archive, load("uci", table="yacht")
        ),
        Target("images npz", "a.npz", [npz(images=shown[:, 0]), npz(False, x=shown[..., 0] / 255.0)], archive, images),
        Target(
            "images npy",
            "a.npy",
            [npy(shown[:, 0]), npy(np.asfortranarray(shown[:, 0, ..., 0]))],
            mutations.npy,
            images,
        ),
        Target(
            "images folder",
            "d/a.png",
            pngs[:1],
            mutations.png,
            lambda folder, file: images(folder, folder / "d"),
            {"d/b.png": pngs[0]},
            slow=4,
        ),
        Target(
            "statistics",
            "a.npz",
            [npz(mu=np.zeros(4), sigma=np.eye(4), n=np.array(9), kept=np.zeros((9, 4), "f4"), about=np.array("{}"))],
            archive,
            statistics,
        ),
        Target("weights pth", "a.pth", state_dicts(), torch_change, weights),
        Target("weights safetensors", "a.safetensors", [safetensors()], mutations.tensors, weights),
        Target("judge json", "judge.json", [about], mutations.document, judge, {"judge.safetensors": tensors}, slow=2),
        Target(
            "judge safetensors", "judge.safetensors", [tensors], mutations.tensors, judge, {"judge.json": about}, slow=2
        ),
        Target("metrics", "metrics.json", [METRICS], mutations.document, metrics),
        Target("evidence json", "a.json", EVIDENCE, mutations.document, evidence),
        Target(
            "evidence npz",
            "a.npz",
            [npz(x=rows[0], x_mask=rows[0] > 0), npz(**{"x/0/known/value": rows[0], "x/0/known/mask": rows[0] > 0})],
            archive,
            evidence,
        ),
        Target("agent", "a.json", [AGENT], mutations.document, agent),
        *(
            Target(
                f"games {name}",
                name,
                [content],
                mutations.document if name.endswith("json") else mutations.npy,
                recording,
                {other: held for other, held in recording_files().items() if other != name},
            )
            for name, content in recording_files().items()
        ),
        Target("checkpoint", "step-00000003.safetensors", [checkpoint_file()], mutations.tensors, checkpoint),
        Target(
            "saved system", "config.json", [system["config.json"]], mutations.document, saved_system, system, slow=4
        ),
        Target(
            "saved parameters",
            "parameters.safetensors",
            [system["parameters.safetensors"]],
            mutations.tensors,
            saved_system,
            system,
            slow=4,
        ),
    ]
    return tuple(found)


def mnist(folder: Path, file: Path) -> Any:
    from phlogiston.datasets.fetched import mnist as source
    from phlogiston.datasets.untrusted.guard import reading

    with reading(file, "a gzip file"):
        source._content_digest(file)
        return source.idx(file, 1)
