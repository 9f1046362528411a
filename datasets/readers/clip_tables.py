"""Clips of the user's own in whatever they come: npz, npy, arrays in memory, videos; with the labels beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets import axes, pictures
from phlogiston.datasets.base import PARTS, Array, Decision
from phlogiston.datasets.readers import object_arrays
from phlogiston.datasets.readers.object_arrays import array_shapes
from phlogiston.datasets.skipped import Skipped
from phlogiston.datasets.untrusted import arrays as untrusted
from phlogiston.datasets.untrusted.limits import check_count
from phlogiston.datasets.untrusted.media import read_video
from phlogiston.errors import DataError, ShapeError

Tables = dict[str, dict[str, Any]]
Labels = dict[str, tuple[str, ...]]


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an array, tensor or list; () for what has none."""
    if hasattr(value, "shape"):
        return tuple(value.shape)
    try:
        return np.shape(value)
    except ValueError:  # a list of arrays of different shapes
        return ()


def holds_frames(path: Path) -> bool:
    return clips_key(array_shapes(path)) is not None


def clips_key(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The array that holds clips: `frames`, or the only one of video's shape where nothing else is made for another."""
    if "frames" in shapes:
        return "frames"
    video = [name for name, shape in shapes.items() if axes.is_video(shape)]
    others = [name for name, shape in shapes.items() if len(shape) > 2 and name not in video]
    return video[0] if len(video) == 1 and not others and not {"cameras", "poses", "mask"} & set(shapes) else None


def read(data: Any, root: Any, layout: str) -> tuple[str, Tables, Labels, list[Decision]]:
    """Return the data's name, tables by part ("all" where there are none), names of labels, and what was decided."""
    if not isinstance(data, str | PathLike):
        given = data if isinstance(data, Mapping) else {"frames": data}
        sources = {"all": ("the mapping", {key: _plain(value) for key, value in given.items()})}
        return ("clips", *_tables(sources, layout))
    path = Path(data).expanduser()
    path = Path(root) / path if root is not None and not path.is_absolute() else path
    if path.is_dir() and (path / "train.npz").is_file():
        files = {part: path / f"{part}.npz" for part in PARTS if (path / f"{part}.npz").is_file()}
        return (str(path), *_tables({part: (str(file), _arrays(file)) for part, file in files.items()}, layout))
    if path.suffix.lower() in (".npz", ".npy"):
        return (str(path), *_tables({"all": (str(path), _arrays(path))}, layout))
    table, labels, decisions = read_videos(path)
    return str(path), {"all": table}, labels, decisions


def _plain(value: Any) -> Any:
    """An array in memory; one of arrays as a list."""
    if type(value).__module__.startswith("torch"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    if isinstance(value, list | tuple) and len({np.shape(entry) for entry in value}) > 1:
        return [np.asarray(entry) for entry in value]
    array = np.asarray(value)
    return [np.asarray(entry) for entry in array] if array.dtype == object else array


def _arrays(path: Path) -> dict[str, Any]:
    """Read an npz or npy; arrays of arrays become lists."""
    if path.suffix.lower() == ".npz":
        return dict(object_arrays.read(path))
    content = untrusted.load(path)
    return content if isinstance(content, dict) else {"frames": content}


def _tables(sources: Mapping[str, tuple[str, dict[str, Any]]], layout: str) -> tuple[Tables, Labels, list[Decision]]:
    """Bring the arrays of every part into form; the order of axes is decided once, by the first part."""
    tables: Tables = {}
    labels: Labels = {}
    decisions: list[Decision] = []
    for part, (source, arrays) in sources.items():
        key = clips_key({name: shape_of(value) for name, value in arrays.items()})
        key = "frames" if "frames" in arrays else key
        if key is None:
            raise DataError(f"{source} holds {sorted(arrays)}; clips need an array 'frames' (rows, T, H, W, C).")
        layout, clips, decided = _laid_out(arrays[key], layout, source)
        rest = {name: value for name, value in arrays.items() if name not in (key, "frames")}
        if layout.startswith("TN") and "mask" in rest and np.shape(rest["mask"]) == np.shape(arrays[key])[:2]:
            rest["mask"] = np.asarray(rest["mask"]).T
        tables[part], names, more = _table({"frames": clips, **rest}, source)
        labels = {**names, **labels}
        decisions += [decision for decision in (*decided, *more) if decision.topic not in {d.topic for d in decisions}]
    return tables, labels, decisions


def _laid_out(frames: Any, layout: str, source: str) -> tuple[str, Any, list[Decision]]:
    """Clips, each (T, H, W, C), the order of axes they came in, and what was decided."""
    if isinstance(frames, list) and frames:
        one = axes.clip_layout([np.shape(clip) for clip in frames], source)
        one = axes.check_layout(layout, frames[0].ndim) if layout != "auto" else one
        return layout, [axes.to_clips(clip, one)[0] for clip in frames], []
    frames = np.asarray(frames)
    if not frames.size:
        raise DataError(f"{source}: there are no clips.")
    why = "layout was given"
    if layout == "auto":
        if frames.ndim == 3:
            raise ShapeError(f"{source}: 'frames' has shape {frames.shape}. One clip is frames[None], or layout='THW'.")
        layout, why = axes.find_layout(frames, f"'frames' of {source}", clips=True)
    layout = axes.check_layout(layout, frames.ndim)
    return layout, axes.to_clips(frames, layout), [axes.decision(layout, frames.shape, why)]


def _table(arrays: dict[str, Any], source: str) -> tuple[dict[str, Any], Labels, list[Decision]]:
    """Keep what is known: frames, mask, group and labels; name the labels' values."""
    names: dict[str, Sequence[str]] = {}
    if "names" in arrays:
        names = _names(arrays["names"], source)
    table: dict[str, Any] = {"frames": arrays["frames"]}
    rows, unused = len(arrays["frames"]), []
    for key, value in arrays.items():
        if key in ("frames", "names"):
            continue
        array = np.asarray(value)
        if array.ndim == 0 or len(array) != rows:
            raise ShapeError(f"{source}: {key!r} has {len(array) if array.ndim else 1} rows, 'frames' {rows}.")
        if key == "mask":
            table[key] = array.astype(bool)
            continue
        if array.dtype.kind in "iu" and array.ndim == 2 and key == "identity" and array.shape[1] > 1:
            table.update({f"identity_{i}": array[:, i].astype(np.int64) for i in range(array.shape[1])})
            table.setdefault("group", np.unique(array, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64))
            continue
        codes, texts = _codes(array, f"{source}: {key!r}")
        if codes is None:
            unused.append(f"{key} {array.dtype} {array.shape}")
            continue
        table[key] = codes
        if texts:
            names.setdefault(key, texts)
        if key == "identity":
            table.setdefault("group", codes)
    for key, value in table.items():
        if key not in ("frames", "mask", "group", *names):
            check_count(int(value.max(initial=-1)) + 1, "categories", f"{source}: {key!r} counts categories from 0")
    labels = {
        key: tuple(str(n) for n in names.get(key, range(int(value.max(initial=-1)) + 1)))
        for key, value in table.items()
        if key not in ("frames", "mask", "group")
    }
    decisions = (
        [Decision("labels", ", ".join(f"{key}: {len(n)} values" for key, n in labels.items()))] if labels else []
    )
    if unused:
        decisions.append(Decision("left out", f"no labels, mask or group: {'; '.join(unused)}"))
    return table, labels, decisions


def _names(value: Any, source: str) -> dict[str, Sequence[str]]:
    """Names of labels' values from a JSON text {label: [names]}."""
    try:
        names = json.loads(str(np.asarray(value).reshape(-1)[0]))
        if not isinstance(names, dict) or not all(isinstance(entry, list) for entry in names.values()):
            raise ValueError("expected an object of lists")
    except (ValueError, IndexError, RecursionError) as error:
        raise DataError(f"{source}: 'names' is no JSON text {{label: [names]}}: {error}") from error
    return {key: [str(entry) for entry in entries] for key, entries in names.items()}


def _codes(array: Array, what: str) -> tuple[Array | None, tuple[str, ...]]:
    """Labels as codes: integers, booleans, whole floats, text, (rows, 1) or one-hot; None for what are no labels."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "iufb" and np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all():
        return array.argmax(1).astype(np.int64), ()
    if array.ndim != 1:
        return None, ()
    if array.dtype.kind in "US":
        categories, codes = np.unique(array.astype(str), return_inverse=True)
        return codes.reshape(-1).astype(np.int64), tuple(categories.tolist())
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.round(array)).all()):
        return None, ()
    if array.dtype.kind not in "iufb":
        return None, ()
    codes = array.astype(np.int64)
    if codes.min(initial=0) < -1:
        raise DataError(f"{what} holds {codes.min()}; labels count from 0, -1 is an unknown one.")
    return codes, ()


def read_videos(path: Path) -> tuple[dict[str, Any], Labels, list[Decision]]:
    """Read one video, or those of a folder; names of folders inside are actions."""
    if not path.exists():
        raise DataError(f"there is no file or folder {str(path)!r}.")
    files = [path] if path.is_file() else pictures.videos_of(path)
    if not files:
        raise DataError(f"{str(path)!r} holds no videos; readable: {', '.join(pictures.VIDEOS)}.")
    skipped = Skipped("videos")
    clips, read = [], []
    for file in files:
        video = skipped.read(str(file.relative_to(path)) if path.is_dir() else file.name, read_video, file)
        if video is not None:
            clips.append(video)
            read.append(file)
    decisions = list(skipped.decisions())
    kinds = sorted({file.parent.name for file in read})
    if path.is_file() or len(kinds) < 2:
        return {"frames": clips, "encoded": True}, {}, decisions
    decisions.append(Decision("labels", f"the folders' names: {len(kinds)} in 'action'"))
    codes = np.array([kinds.index(file.parent.name) for file in read])
    return {"frames": clips, "action": codes, "encoded": True}, {"action": tuple(kinds)}, decisions
