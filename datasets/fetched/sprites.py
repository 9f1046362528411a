"""Sprites: characters of the Liberated Pixel Cup in nine clips each, as Li and Mandt (2018) composed them.

A character is one of six skins, bottomwears, topwears and hairs (1,296 in all); a clip of eight frames shows it
walking, casting a spell or slashing, seen from the front, the left or the right. The art is not shipped: it belongs to
many artists, under CC-BY-SA 3.0 or GPL 3.0. Two forms are read from a folder of yours:

- prepared arrays: `walk_front.npy.xz` and so on for the nine actions, palette indices uint8 (characters, 8, 64, 64),
  and `labels.npz` with `palette` (colours, 3), `identity` (characters, 4) and `identity_index`;
- the sheets themselves (832 x 1344 pixels, cells of 64): folders `body`, `bottomwear`, `topwear`, `hair` with six or
  more PNG files each and `shoes` with one or more; the first six by name are used, and the first pair of shoes.

Li and Mandt, *Disentangled Sequential Autoencoder*, ICML 2018 (arXiv 1803.02991).
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from phlogiston.datasets.base import Array, Dataset, Info, Split, recorded
from phlogiston.datasets.fetch import cache_folder
from phlogiston.datasets.untrusted import arrays
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.datasets.untrusted.media import open_picture
from phlogiston.datasets.untrusted.packed import read_xz
from phlogiston.errors import DataError

INFO = Info(
    name="sprites",
    title="Liberated Pixel Cup characters that walk, cast and slash: video with known identity and action",
    kind="yours",
    licence="art CC-BY-SA 3.0 or GPL 3.0, by the artists of the Liberated Pixel Cup: credit them",
    rows="9,000 / 0 / 2,664",
    shape="8 frames x 3 x 64 x 64, action of 9, skin, bottomwear, topwear and hair of 6 each",
    notes="Rows for all 1,296 characters; fewer where the folder holds fewer. Give the folder: --data-set folder=DIR.",
)

ATTRIBUTES = ("skin", "bottomwear", "topwear", "hair")
VIEWS = ("front", "left", "right")
ACTIONS = tuple(f"{action} {view}" for action in ("walk", "spellcast", "slash") for view in VIEWS)
VALUES, CHARACTERS, TRAINING, SEED_OF_SPLIT = 6, 6**4, 1000, 423
LAYERS = ("body", "bottomwear", "topwear", "hair", "shoes")
CELL, SHEET = 64, (1344, 832)
FIRST_ROW = {"spellcast": 0, "walk": 8, "slash": 12}  # of a sheet; then one row each for back, left, front and right
COLUMNS = {
    "walk": (8, 1, 2, 3, 4, 5, 6, 7),
    "spellcast": (0, 1, 2, 3, 4, 5, 4, 6),
    "slash": (0, 1, 2, 3, 4, 5, 4, 0),
}
_ROW_OF_VIEW = {"left": 1, "front": 2, "right": 3}


@recorded()
def load(
    root: str | PathLike[str] | None = None,
    *,
    folder: str | None = None,
    valid: int = 0,
    size: int = 64,
    seed: int = 0,
) -> Dataset:
    """Read the clips.

    Args:
        root: folder that relative paths start from, or that holds the files if `folder` is not given.
        folder: holds the prepared arrays or the folders of sheets; `sprites` in the cache folder by default.
        valid: training characters set aside for validation.
        size: of a frame, 64, 32 or 16 pixels; smaller ones are averages of larger ones.
        seed: of the choice of validation characters.

    Returns:
        `frames` uint8 (rows, 8, 3, size, size); int64 (rows,) each of `action`, `skin`, `bottomwear`, `topwear`,
        `hair`, and `group`, the number of the character among all 1,296. Of a fixed permutation of the characters the
        first 1,000 are for training and the other 296 for testing, whichever of them the folder holds.

    Raises:
        DataError: the folder, or a file in it, is missing or is not what it should be.
    """
    source = Path(root).expanduser() if root is not None else None
    if folder is not None:
        source = (source / folder if source is not None else Path(folder)).expanduser()
    source = source if source is not None else cache_folder() / "sprites"
    if size not in (16, 32, 64):
        raise DataError(f"size is {size}; choose 64, 32 or 16.")
    if (source / "labels.npz").is_file():
        characters, clips = _prepared(source, size)
    elif (source / "body").is_dir():
        characters, clips = compose(source, size)
    else:
        raise DataError(
            f"{str(source)!r} holds neither prepared arrays (labels.npz and walk_front.npy.xz, ...) nor folders of "
            f"sheets ({', '.join(LAYERS)}). Give the folder that does as folder=..."
        )
    order = np.random.RandomState(SEED_OF_SPLIT).permutation(CHARACTERS)  # the split others use
    for_training = np.isin(characters, order[:TRAINING])
    candidates = np.flatnonzero(for_training)
    if not 0 <= valid < len(candidates):
        raise DataError(f"valid is {valid}; the folder holds {len(candidates)} characters for training.")
    aside = np.random.default_rng(seed).permutation(candidates)[:valid]
    part = np.where(for_training, 0, 2)
    part[aside] = 1
    splits = [_split(characters[part == i], clips[part == i]) for i in range(3)]
    return Dataset.of(
        INFO,
        splits,
        {"folder": str(source.absolute())},
        categorical={"action": ACTIONS, **{name: tuple(str(i) for i in range(VALUES)) for name in ATTRIBUTES}},
    )


def _split(characters: Array, clips: Array) -> Split:
    group = np.repeat(characters, len(ACTIONS))
    labels = {name: group // VALUES ** (len(ATTRIBUTES) - 1 - i) % VALUES for i, name in enumerate(ATTRIBUTES)}
    frames = clips.reshape(-1, *clips.shape[2:])
    action = np.tile(np.arange(len(ACTIONS)), len(characters))
    return Split({"frames": frames, "action": action, **labels, "group": group}, sequences=("frames",))


def _prepared(folder: Path, size: int) -> tuple[Array, Array]:
    """Read palette indices; return characters (n,) and clips uint8 (n, 9, 8, 3, size, size)."""
    labels = folder / "labels.npz"
    with arrays.open_arrays(labels) as content:
        palette, identity = np.asarray(content.read("palette")), np.asarray(content.read("identity")).astype(np.int64)
    if palette.ndim != 2 or palette.shape[1] != 3 or palette.dtype.kind not in "iuf":
        raise DataError(f"{str(labels)!r}: palette is {palette.dtype} {palette.shape}; expected (colours, 3).")
    if identity.ndim != 2 or identity.shape[1] != len(ATTRIBUTES) or not 0 < len(identity) <= CHARACTERS:
        raise DataError(f"{str(labels)!r}: identity has shape {identity.shape}; expected (1 to {CHARACTERS}, 4).")
    if identity.min() < 0 or identity.max() >= VALUES:
        raise DataError(
            f"{str(folder / 'labels.npz')!r}: identity has shape {identity.shape}; expected (n, 4), 0 to 5."
        )
    characters = identity @ VALUES ** np.arange(len(ATTRIBUTES) - 1, -1, -1)
    clips = np.empty((len(identity), len(ACTIONS), 8, 3, size, size), dtype=np.uint8)
    for i, action in enumerate(ACTIONS):
        path = folder / f"{action.replace(' ', '_')}.npy.xz"
        with reading(path, "an npy array packed by xz"):
            index = arrays.from_bytes(read_xz(path, len(identity) * 8 * CELL**2 + 4096), repr(str(path)))
        if index.shape != (len(identity), 8, CELL, CELL) or index.dtype != np.uint8 or index.max() >= len(palette):
            raise DataError(
                f"{str(path)!r} holds {index.dtype} of shape {index.shape}; expected uint8 "
                f"({len(identity)}, 8, 64, 64) below {len(palette)}, the number of colours."
            )
        for start in range(0, len(index), 64):  # in blocks, to spare memory
            clips[start : start + 64, i] = _shrink(np.moveaxis(palette[index[start : start + 64]], -1, 2), size)
    return characters, clips


def compose(folder: Path, size: int = CELL) -> tuple[Array, Array]:
    """Lay the sheets of a folder over each other.

    Args:
        folder: holds `body`, `bottomwear`, `topwear`, `hair` and `shoes` with PNG sheets.
        size: of a frame.

    Returns:
        Characters int64 (1296,) and clips uint8 (1296, 9, 8, 3, size, size).

    Raises:
        DataError: too few sheets, or one of another size.
    """
    layers = [_sheets(folder / name, 1 if name == "shoes" else VALUES) for name in LAYERS]
    cells = [np.stack([_cut(sheet) for sheet in sheets]) for sheets in layers]  # (6, 9, 8, 4, 64, 64) each
    characters = np.arange(CHARACTERS)
    clips = np.empty((CHARACTERS, len(ACTIONS), 8, 3, size, size), dtype=np.uint8)
    for body in range(VALUES):
        for bottom in range(VALUES):
            lower = _over(
                _over(np.zeros((len(ACTIONS), 8, 3, CELL, CELL), np.float32), cells[0][body]), cells[1][bottom]
            )
            for top in range(VALUES):
                middle = _over(lower, cells[2][top])
                for hair in range(VALUES):
                    number = ((body * VALUES + bottom) * VALUES + top) * VALUES + hair
                    whole = _over(_over(middle, cells[3][hair]), cells[4][0])
                    clips[number] = _shrink(np.floor(whole + 0.5), size)
    return characters, clips


def _sheets(folder: Path, count: int) -> list[Array]:
    """Read the first PNG files of a folder by name: uint8 (1344, 832, 4) each."""
    paths = sorted(folder.glob("*.png"), key=lambda p: (len(p.stem), p.stem))[:count]
    if len(paths) < count:
        raise DataError(f"{str(folder)!r} holds {len(paths)} PNG sheets; {count} are needed.")
    sheets = []
    for path in paths:
        with open_picture(path) as picture:
            sheet = np.asarray(picture.convert("RGBA"))
        if sheet.shape[:2] != SHEET:
            raise DataError(f"{str(path)!r} has {sheet.shape[1]} x {sheet.shape[0]} pixels; a sheet has 832 x 1344.")
        sheets.append(sheet)
    return sheets


def _cut(sheet: Array) -> Array:
    """Cut the frames of the nine clips out of a sheet: (9, 8, 4, 64, 64)."""
    cells = sheet.reshape(SHEET[0] // CELL, CELL, SHEET[1] // CELL, CELL, 4).transpose(0, 2, 4, 1, 3)
    rows = [(FIRST_ROW[a.split()[0]] + _ROW_OF_VIEW[a.split()[1]], COLUMNS[a.split()[0]]) for a in ACTIONS]
    return np.stack([cells[row, list(columns)] for row, columns in rows])


def _over(below: Array, layer: Array) -> Array:
    """Composite a layer with alpha (..., 4, h, w) over colours (..., 3, h, w)."""
    alpha = layer[..., 3:, :, :].astype(np.float32) / 255.0
    return below * (1.0 - alpha) + layer[..., :3, :, :] * alpha


def _shrink(frames: Array, size: int) -> Array:
    """Average boxes of pixels: uint8 (..., size, size)."""
    box = CELL // size
    if box > 1:
        frames = frames.reshape(*frames.shape[:-2], size, box, size, box).mean((-3, -1), dtype=np.float32) + 0.5
    return frames.astype(np.uint8)
