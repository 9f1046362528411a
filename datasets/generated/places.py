"""What the built-in scene data share: standing cameras in places, and the splits made of their pictures.

A row is one place. `images` uint8 (views, height, width, 3) and `poses` float32 (views, 6: x, y, z, yaw, pitch, roll)
are what a camera brought home; `depth` float32 (views, width) and `map` uint8 (height, width, 3), the place seen from
above, are for evaluation and pictures. Views are drawn independently, so that any of them may serve as context.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from phlogiston.datasets.base import Array, Dataset, Info, Split, sized_parts, stream
from phlogiston.datasets.generated.floorplans import FloorPlans
from phlogiston.datasets.generated.raycast import render
from phlogiston.errors import DataError

_TRIES = 24  # drawn standing points per view, of which the first free one is taken


def standing(plans: FloorPlans, views: int, seed: int, part: str, *, margin: float) -> Array:
    """Draw level cameras anywhere they may stand, looking anywhere: float32 (places, views, 6)."""
    count = len(plans)
    unit = stream(seed, "cameras", part).random((count, views, _TRIES, 2))
    at = plans.low + plans.width * unit
    free = plans.free(np.arange(count)[:, None, None], at[..., 0], at[..., 1], margin)
    first = np.argmax(free, axis=2)[..., None, None]
    poses = np.zeros((count, views, 6), dtype=np.float32)
    poses[..., :2] = np.take_along_axis(at, first, axis=2)[:, :, 0]
    poses[..., 3] = np.pi * (1.0 - 2.0 * stream(seed, "headings", part).random((count, views)))
    return poses


def circling(plans: FloorPlans, views: int, seed: int, part: str, *, radius: float) -> Array:
    """Draw level cameras on a circle around the middle, looking inwards: float32 (places, views, 6)."""
    angle = 2.0 * np.pi * stream(seed, "cameras", part).random((len(plans), views))
    middle = plans.low + plans.width / 2
    poses = np.zeros((len(plans), views, 6), dtype=np.float32)
    poses[..., 0] = middle + radius * np.cos(angle)
    poses[..., 1] = middle + radius * np.sin(angle)
    poses[..., 3] = np.mod(angle, 2.0 * np.pi) - np.pi  # looking back along the radius
    return poses


def photograph(plans: FloorPlans, poses: Array, size: int) -> Split:
    """Render every view of every place; poses (places, views, 6)."""
    count, views = poses.shape[:2]
    result = render(plans, np.repeat(np.arange(count), views), poses.reshape(-1, poses.shape[-1]), size)
    return Split(
        {
            "images": result.images.reshape(count, views, size, size, 3),
            "poses": poses,
            "depth": result.depth.reshape(count, views, *result.depth.shape[1:]),
            "map": plans.maps(),
        }
    )


def assemble(
    info: Info, make: Callable[[int, str], tuple[FloorPlans, Array]], sizes: tuple[int, int, int], size: int, views: int
) -> Dataset:
    """Make the three parts of a built-in scene data set.

    Args:
        info: what the source says about itself.
        make: called with a number of places and the name of a part; gives places and poses.
        sizes: places of train, valid and test.
        size: height and width of the pictures.
        views: pictures per place.

    Raises:
        DataError: sizes that cannot be.
    """
    named = sized_parts(sizes, "places")
    if views < 1 or not 4 <= size <= 256:
        raise DataError(f"views={views} and size={size}; expected at least 1 view, and 4 to 256 pixels a side.")
    return Dataset.of(info, (photograph(*make(count, part), size) for part, count in named))
