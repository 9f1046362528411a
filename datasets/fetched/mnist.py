"""MNIST: 70,000 handwritten digits of 28 x 28 pixels, with labels, in the original IDX files.

Y. LeCun, C. Cortes and C. Burges, *The MNIST database of handwritten digits*, derived from NIST Special Databases 1
and 3; LeCun et al., *Gradient-based learning applied to document recognition*, 1998. Checksums are those of the
unpacked content, because the same content circulates in differently packed archives. The first 5,000 test digits are
cleaner than the last 5,000 (different writers): a figure on `test[:n]` is biased, draw rows at random.
"""

from __future__ import annotations

import hashlib
import math
from os import PathLike
from pathlib import Path

import numpy as np

from phlogiston.datasets.base import Array, Dataset, Info, Split, part_rows, recorded, stream
from phlogiston.datasets.fetch import cache_folder, fetch
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.datasets.untrusted.packed import read_gzip
from phlogiston.errors import DataError

INFO = Info(
    name="mnist",
    title="handwritten digits of 28 x 28 pixels, with labels",
    kind="fetched",
    licence="commonly distributed under CC BY-SA 3.0; cite LeCun et al. 1998",
    rows="55,000 / 5,000 / 10,000",
    shape="28 x 28, label of 10",
    notes="11 MB. The two halves of the test rows come from different writers: draw test rows at random.",
)

# name -> (SHA-256 of the unpacked content, axes)
FILES = {
    "train-images-idx3-ubyte.gz": ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 3),
    "train-labels-idx1-ubyte.gz": ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 1),
    "t10k-images-idx3-ubyte.gz": ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 3),
    "t10k-labels-idx1-ubyte.gz": ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 1),
}
LOCATIONS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")


@recorded()
def load(
    root: str | PathLike[str] | None = None,
    *,
    valid: int = 5_000,
    dequantise: bool = False,
    seed: int = 0,
) -> Dataset:
    """Load MNIST, fetching what is not there yet.

    Args:
        root: folder that holds the four .gz files; `mnist` in the cache folder if not given.
        valid: rows drawn at random from the 60,000 training rows for validation.
        dequantise: x = (pixel + u) / 256 with u ~ U(0, 1), for densities; otherwise x = pixel / 255.
        seed: of the division and of the noise.

    Returns:
        `x` float32 (rows, 784) and `label` int64 (rows,).

    Raises:
        DataError: a file is damaged, or cannot be fetched; the message names it, its place and its checksum.
    """
    folder = _folder(root)
    arrays = [_read(folder, name) for name in FILES]
    kept = part_rows(len(arrays[0]), valid=valid, test=0, what="the training part of mnist")
    order = stream(seed, "mnist", "order").permutation(len(arrays[0]))
    rows_of_train = np.sort(order[:kept])  # reading in the order of the file is kinder to memory
    rows_of_valid = np.sort(order[kept:])
    train_x, test_x = (
        _scale(pixels, dequantise, seed, part) for pixels, part in ((arrays[0], "train"), (arrays[2], "test"))
    )
    train = Split({"x": train_x[rows_of_train], "label": arrays[1][rows_of_train].astype(np.int64)})
    validation = Split({"x": train_x[rows_of_valid], "label": arrays[1][rows_of_valid].astype(np.int64)})
    test = Split({"x": test_x, "label": arrays[3].astype(np.int64)})
    columns = tuple(f"pixel_{row}_{column}" for row in range(28) for column in range(28))
    return Dataset.of(
        INFO,
        (train, validation, test),
        columns=columns,
        categorical={"label": tuple(str(digit) for digit in range(10))},
        image_shape=(28, 28),
        cells=dict.fromkeys(columns, (0.0, 1 / 256)) if dequantise else {},
    )


def get(root: str | PathLike[str] | None = None) -> Path:
    """Fetch and check the files without reading them in; return their folder."""
    folder = _folder(root)
    for name in FILES:
        _fetch(folder, name)
    return folder


def state() -> str:
    """Say whether the files are there."""
    return "cached" if all((_folder(None) / name).exists() for name in FILES) else "must be fetched"


def _folder(root: str | PathLike[str] | None) -> Path:
    return Path(root).expanduser() if root is not None else cache_folder() / "mnist"


def _fetch(folder: Path, name: str) -> Path:
    return fetch([location + name for location in LOCATIONS], folder / name, FILES[name][0], digest=_content_digest)


def _content_digest(path: Path) -> str:
    with reading(path, "a gzip file"):
        return hashlib.sha256(read_gzip(path)).hexdigest()


def _read(folder: Path, name: str) -> Array:
    return idx(_fetch(folder, name), FILES[name][1])


def idx(path: Path, axes: int) -> Array:
    """Read an IDX file: zero, zero, type 8 (unsigned byte), number of axes, their lengths, bytes."""
    content = read_gzip(path)
    if content[:4] != bytes((0, 0, 8, axes)) or len(content) < 4 + 4 * axes:
        raise DataError(f"{path.name}: not an IDX file of unsigned bytes with {axes} axes.")
    shape = tuple(np.frombuffer(content, dtype=">u4", count=axes, offset=4).tolist())
    if math.prod(shape) != len(content) - 4 - 4 * axes:
        raise DataError(f"{path.name}: claims {shape} bytes and holds {len(content) - 4 - 4 * axes:,}.")
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)


def _scale(pixels: Array, dequantise: bool, seed: int, part: str) -> Array:
    flat = pixels.reshape(len(pixels), -1)
    if not dequantise:
        return flat.astype(np.float32) / np.float32(255.0)
    noise = stream(seed, "mnist", "noise", part).random(flat.shape, dtype=np.float32)
    return (flat + noise) / np.float32(256.0)
