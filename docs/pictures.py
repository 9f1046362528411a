"""Draw the pictures of README and docs from real runs: `make pictures` (or `python docs/pictures.py NAME ...`).

Each picture is trained for and drawn anew; nothing is cached, so a picture always shows what the code does today.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = Path(__file__).resolve().parent / "images"


def swissroll() -> Figure:
    """The noisy Swiss roll: data, truth, density and samples after each of two layers."""
    from phlogiston import datasets
    from phlogiston.systems.drmm import DRMM

    data = datasets.load("swissroll")
    return DRMM(preset="swissroll").fit(data).figures(data)["density"]


def sierpinski() -> Figure:
    """The Sierpinski triangle: density and samples after each of five layers of three components."""
    from phlogiston import datasets
    from phlogiston.systems.drmm import DRMM

    data = datasets.load("sierpinski")
    return DRMM(preset="sierpinski").fit(data).figures(data)["density"]


def digits() -> Figure:
    """The 8x8 digits: held-out images, and samples after one and two layers."""
    from phlogiston import datasets
    from phlogiston.systems.drmm import DRMM

    data = datasets.load("digits")
    return DRMM(preset="digits").fit(data).figures(data)["samples"]


PICTURES: dict[str, Callable[[], Figure]] = {draw.__name__: draw for draw in (swissroll, sierpinski, digits)}


def main(names: list[str]) -> None:
    """Draw the named pictures, or all."""
    unknown = [name for name in names if name not in PICTURES]
    if unknown:
        sys.exit(f"unknown picture {unknown[0]!r}; choose from {', '.join(PICTURES)}")
    IMAGES.mkdir(exist_ok=True)
    for name in names or PICTURES:
        PICTURES[name]().savefig(IMAGES / f"{name}.png", dpi=110)
        print(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
