"""Digits: 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships, with their labels.

Pixels are whole numbers 0 .. 16; x = (pixel + u) / 16 with u ~ U(0, 1), so that a density over the plane of real
numbers bounds a probability over the whole numbers (Theis, van den Oord and Bethge, *A note on the evaluation of
generative models*, 2016, section 3.1). Original: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten
Digits*, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from os import PathLike

import numpy as np

from phlogiston.datasets.base import Array, Dataset, Info, Split, part_rows, recorded, stream

INFO = Info(
    name="digits",
    title="handwritten digits of 8 x 8 pixels, with labels",
    kind="built in",
    licence="CC BY 4.0 (UCI Machine Learning Repository), shipped inside scikit-learn",
    rows="1,300 / 100 / 397",
    shape="8 x 8, label of 10",
    notes="valid=0 leaves all 1,400 rows of the usual split to training.",
)

LEVELS = 16


@recorded()
def load(
    root: str | PathLike[str] | None = None,
    *,
    valid: int = 100,
    test: int = 397,
    dequantise: bool = True,
    seed: int = 0,
) -> Dataset:
    """Load the digits.

    Args:
        root: unused; the data come with scikit-learn.
        valid: rows carved from the training part for validation.
        test: rows set aside for testing; they do not depend on `valid`.
        dequantise: add uniform noise of one grey level; otherwise x = pixel / 16.
        seed: of the division into parts and of the noise. The noise of a picture does not depend on the division.

    Raises:
        DataError: the parts do not fit.
    """
    from sklearn.datasets import load_digits

    pixels, label = load_digits(return_X_y=True)
    x = np.asarray(pixels, dtype=np.float64)
    if dequantise:
        x = x + stream(seed, "digits", "noise").random(x.shape)
    x /= LEVELS
    kept = part_rows(len(x), valid=valid, test=test, what="digits")
    order = stream(seed, "digits", "order").permutation(len(x))
    columns = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
    # order = test, train, valid: what is tested stays the same whatever is carved from the rest
    parts: list[Array] = np.split(order, [test, test + kept])
    testing, train, validation = (Split({"x": x[rows], "label": label[rows]}, columns=columns) for rows in parts)
    return Dataset.of(
        INFO,
        (train, validation, testing),
        columns=columns,
        categorical={"label": tuple(str(digit) for digit in range(10))},
        image_shape=(8, 8),
        cells=dict.fromkeys(columns, (0.0, 1 / LEVELS)) if dequantise else {},
    )
