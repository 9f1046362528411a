"""GQN: photographs of scenes in DeepMind's file formats, or converted to npz.

    datasets.load("gqn", path="mazes/train", size=64)        a folder of .tfrecord, .pt or .pt.gz files
    datasets.load("gqn", path="mazes.npz")                   what `phlogiston data convert` wrote

Scenes come from Eslami et al., *Neural scene representation and rendering* (Science 2018); deepmind/gqn-datasets says
where to fetch them. Nothing is fetched here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from phlogiston.datasets.base import PARTS, Array, Dataset, Decision, Info, Split, part_rows, recorded
from phlogiston.datasets.pixels import as_range, range_of
from phlogiston.datasets.readers import scene_files
from phlogiston.datasets.skipped import Skipped
from phlogiston.datasets.untrusted import arrays
from phlogiston.errors import DataError

INFO = Info(
    name="gqn",
    title="scenes in the files of deepmind/gqn-datasets (.tfrecord, .pt, .pt.gz, or converted to .npz)",
    kind="yours",
    licence="the data's own: the dataset repository is Apache-2.0 and makes no separate statement on the images",
    rows="yours",
    shape="views of height x width x 3, with poses",
    notes="Scenes are divided whole: neighbouring views of one scene are near duplicates.",
)


@recorded()
def load(
    root: str | PathLike[str] | None = None,
    *,
    path: str = "",
    size: int = 64,
    views: int = 0,
    valid: int = 0,
    test: int = 0,
    value_range: tuple[float, float] | None = None,
) -> Dataset:
    """Read scenes.

    Args:
        root: folder a relative path starts from.
        path: an npz file, a scene file, or a folder of scene files (with folders `train` and `test`, or without).
        size: pixels a side; frames of another size are resized (npz files are taken as they are).
        views: frames per scene, evenly spaced over all; 0: as many as the shortest scene has.
        valid: scenes set aside for validation, where the data do not say themselves.
        test: scenes set aside for testing, likewise.
        value_range: values of black and white, where pictures are stored as numbers; found out by default.

    Files that are damaged or hold no scene are left out with a `DataWarning` as long as others can be read.

    Raises:
        DataError: nothing there, or no file that could be read.
    """
    if not path:
        raise DataError("gqn needs a path: datasets.load('gqn', path='folder or file'), --data-set path=...")
    source = Path(root or ".") / Path(path).expanduser()
    if not source.exists():
        raise DataError(f"no file or folder {str(source)!r}.")
    value_range = as_range(value_range)
    decisions: list[Decision] = []
    if source.suffix == ".npz":
        parts = _from_npz(source, views, value_range, decisions)
    else:
        parts = _from_files(source, size, views, value_range, decisions)
    train = parts["train"]
    if "valid" not in parts and "test" not in parts:
        rows = part_rows(len(train), valid=valid, test=test, what=source.name)
        parts["valid"] = train.select(slice(rows, rows + valid))
        parts["test"] = train.select(slice(rows + valid, None))
        train = train.select(slice(0, rows))
    nothing = train.select(slice(0, 0))
    return Dataset.of(
        INFO,
        (train, parts.get("valid", nothing), parts.get("test", nothing)),
        {"path": str(source.absolute()), "value_range": None if value_range is None else list(value_range)},
        title=f"scenes of {source.name}",
        decisions=tuple(decisions),
    )


def _from_npz(
    path: Path, views: int, value_range: tuple[float, float] | None, decisions: list[Decision]
) -> dict[str, Split]:
    content = arrays.load(path)
    if not isinstance(content, dict):
        raise DataError(f"{path.name} is an npy file; expected an npz file of 'images' and 'cameras'.")
    for key, axes in (("images", 5), ("cameras", 3)):
        if key not in content or content[key].ndim != axes:
            raise DataError(f"{path.name} needs 'images' (scenes, views, H, W, 3) and 'cameras' (scenes, views, 5).")
    images, cameras = content["images"], content["cameras"].astype(np.float32)
    if images.shape[-1] not in (1, 3, 4) and images.shape[2] in (1, 3, 4):
        images = np.moveaxis(images, 2, -1)
        decisions.append(Decision("axes", "images read as scenes, views, colours, height, width"))
    if images.shape[-1] not in (1, 3, 4):
        raise DataError(f"{path.name}: images have shape {content['images'].shape}; expected (scenes, views, H, W, 3).")
    if images.shape[:2] != cameras.shape[:2] or cameras.shape[2] not in (5, 6):
        raise DataError(f"{path.name}: images {images.shape} and cameras {cameras.shape} do not belong together.")
    ranges = range_of([images], f"'images' of {path.name}", value_range)
    decisions += ranges.decisions()
    images = ranges.of(images).to_bytes(images)
    images = np.repeat(images, 3, -1) if images.shape[-1] == 1 else images[..., :3]
    if views:
        chosen = evenly(images.shape[1], views)
        images, cameras = images[:, chosen], cameras[:, chosen]
    whole = Split({"images": images, "poses": cameras})
    if "split" not in content:
        return {"train": whole}
    names = content["split"]
    if len(names) != len(whole):
        raise DataError(f"{path.name}: 'split' has {len(names)} entries for {len(whole)} scenes.")
    unknown = sorted(set(np.asarray(names).astype(str).tolist()) - set(PARTS))
    if unknown:
        raise DataError(f"{path.name}: 'split' names {unknown[0]!r}; expected train, valid or test.")
    result = {part: whole.select(np.flatnonzero(names == part)) for part in PARTS}
    return {part: rows for part, rows in result.items() if len(rows) or part == "train"}


def _from_files(
    path: Path, size: int, views: int, value_range: tuple[float, float] | None, decisions: list[Decision]
) -> dict[str, Split]:
    folders = {part: path / part for part in PARTS if (path / part).is_dir()}
    folders = folders if "train" in folders else {"train": path}
    out = {}
    for part, folder in folders.items():
        images, cameras, result = gather(scene_paths([folder]), size, views, value_range=value_range)
        decisions += [decision for decision in result if decision not in decisions]
        out[part] = Split({"images": images, "poses": cameras})
    return out


def scene_paths(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """Return the scene files among files and folders, sorted.

    Raises:
        DataError: there are none.
    """
    result: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            result += sorted(p for p in path.iterdir() if p.name.endswith(scene_files.SUFFIXES))
        elif path.is_file():
            result.append(path)
        else:
            raise DataError(f"no file or folder {str(path)!r}.")
    if not result:
        raise DataError(f"no scene files here; they end in {', '.join(scene_files.SUFFIXES)}.")
    return result


def evenly(there: int, views: int) -> list[int]:
    """Return `views` of `there` view numbers, evenly spaced."""
    if views > there:
        raise DataError(f"{views} views requested; the scenes have {there}.")
    return np.round(np.linspace(0, there - 1, views)).astype(int).tolist()  # type: ignore[no-any-return]


def gather(
    paths: Sequence[Path],
    size: int,
    views: int,
    progress: Callable[[int, int], None] = lambda done, scenes: None,
    value_range: tuple[float, float] | None = None,
) -> tuple[Array, Array, tuple[Decision, ...]]:
    """Read scene files into arrays: images uint8 (scenes, views, size, size, 3), cameras float32 (scenes, views, 5).

    Args:
        paths: the files.
        size: pixels a side.
        views: frames per scene, 0 for as many as the shortest has.
        progress: called with the files and scenes done so far.
        value_range: values of black and white of pictures that are numbers.

    Returns:
        Images, cameras, and what was decided.

    Raises:
        DataError: no file can be read, or scenes have fewer views than requested.
    """
    raw: list[scene_files.RawScene] = []
    names: list[str] = []
    skipped, damaged = Skipped("scene files"), Skipped("scenes")
    for done, path in enumerate(paths, 1):
        result = skipped.read(path.name, lambda file: list(scene_files.read(file)), path) or []
        raw, names = raw + result, names + [path.name] * len(result)
        progress(done, len(raw))
    decisions = skipped.decisions()
    if not raw:
        raise DataError(f"{paths[0].name}: there is no scene in it.")
    ranges = range_of((a for scene in raw for a in scene.arrays()), "the scenes", value_range)
    fewest = min(len(scene.frames) for scene in raw)
    per_scene = views or fewest
    images, cameras = [], []
    for name, scene in zip(names, raw, strict=True):
        chosen = evenly(len(scene.frames), per_scene) if views else list(range(fewest))
        shown = damaged.read(name, scene.images, size, chosen, ranges)
        if shown is not None:
            images.append(shown)
            cameras.append(scene.cameras[chosen])
    decisions += damaged.decisions()
    most = max(len(scene.frames) for scene in raw)
    if fewest < most:
        decisions += (Decision("views", f"{per_scene} of {fewest} to {most} per scene", "views=..."),)
    return np.stack(images), np.stack(cameras), (*decisions, *ranges.decisions())


def convert(
    places: Sequence[str | PathLike[str]],
    out: Path,
    size: int = 64,
    views: int = 0,
    progress: Callable[[int, int], None] = lambda done, scenes: None,
) -> tuple[int, int]:
    """Write scene files into one npz file that `load` reads; return the numbers of scenes and views.

    Args:
        places: scene files, or folders of them.
        out: the npz file.
        size: pixels a side.
        views: frames per scene, 0 for as many as the shortest has.
        progress: called with the files and scenes done so far.
    """
    images, cameras, _ = gather(scene_paths(places), size, views, progress)
    np.savez(out, images=images, cameras=cameras)
    return len(images), images.shape[1]
