"""Places to walk through: square rooms and mazes on a lattice, with materials, cylinders and maps seen from above.

Places share a frame with the GQN mazes: the lattice covers [-0.4, 0.3] in x and y, the eye is at height 0. A place is
a set of arrays, so that thousands are made and rendered at once. Every quantity has a random stream of its own and the
first m places do not depend on how many are asked for.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache

import numpy as np

from phlogiston.datasets.base import Array, stream
from phlogiston.errors import DataError

LOW, WIDTH = -0.4, 0.7
MARGIN = 0.016  # cameras keep this far from walls, as in the GQN mazes
TEXELS = 16  # side of a texture, a power of two
SKY = (149, 224, 255)
WALL_MATERIALS = tuple(range(1, 17))
FLOOR_MATERIALS = tuple(range(17, 23))
CYLINDER_MATERIALS = tuple(range(23, 31))
CORRIDOR, CORRIDOR_FLOOR = 31, 32
MAP_SIZE = 56


@dataclass(frozen=True)
class FloorPlans:
    """Places, as arrays with the places on their first axis.

    Attributes:
        cells: n, cells of the lattice a side.
        east: bool (places, n + 1, n), True where a wall stands on the line x = low + i cell, along cell j.
        north: bool (places, n + 1, n), True where a wall stands on the line y = low + j cell, along cell i.
        walls: uint8 (places, n, n, 4), materials of a cell's walls seen from inside: west, east, south, north.
        floors: uint8 (places, n, n), materials of floors.
        cylinders: float32 (places, c, 5): x, y, radius, height of the top, material (below 0 for none).
        floor: height of the floor.
        ceiling: height where walls end.
        low: smallest x and y.
        width: side of the square.
        texels: texels per unit of length.
    """

    cells: int
    east: Array
    north: Array
    walls: Array
    floors: Array
    cylinders: Array
    floor: float
    ceiling: float
    low: float = LOW
    width: float = WIDTH
    texels: float = 160.0

    def __len__(self) -> int:
        return len(self.floors)

    @property
    def cell(self) -> float:
        """Side of a cell."""
        return self.width / self.cells

    def maps(self, size: int = MAP_SIZE) -> Array:
        """Draw every place from above: uint8 (places, size, size, 3), north at the top."""
        return _maps(self, size)

    def free(self, places: Array, x: Array, y: Array, margin: float = MARGIN) -> Array:
        """Say where a camera may stand: bool, False within `margin` of walls' lines, outside, or near a cylinder.

        Args:
            places: int, broadcasting with x and y.
            x: positions.
            y: positions.
            margin: distance to keep.
        """
        i, j = ((p - self.low) / self.cell for p in (x, y))
        inside = (i > 0) & (i < self.cells) & (j > 0) & (j < self.cells)
        edge = margin / self.cell
        clear = (i % 1 > edge) & (i % 1 < 1 - edge) & (j % 1 > edge) & (j % 1 < 1 - edge)
        out: Array = inside & clear
        for c in range(self.cylinders.shape[1]):
            about = self.cylinders[places, c]
            near = (x - about[..., 0]) ** 2 + (y - about[..., 1]) ** 2 < (about[..., 2] + 2 * margin) ** 2
            out = out & ~(near & (about[..., 4] >= 0))
        return out


def court_plans(count: int, seed: int = 0, part: str = "train", *, cylinders: int = 2) -> FloorPlans:
    """Draw square rooms: four wall materials, one floor, and cylinders that stand about."""
    east = np.ones((count, 2, 1), dtype=bool)
    walls = _distinct(count, WALL_MATERIALS, 4, seed, part).reshape(count, 1, 1, 4)
    floors = _choose(count, FLOOR_MATERIALS, 1, seed, part, "floor").reshape(count, 1, 1)
    spread = 0.42 * WIDTH - 0.05
    standing = _standing(count, cylinders, spread, 0.045, 0.075, 0.1, 0.2, seed, part)
    return FloorPlans(1, east, east.copy(), walls, floors, standing, floor=-0.1, ceiling=0.2)


def ring_plans(count: int, seed: int = 0, part: str = "train", *, cylinders: int = 3) -> FloorPlans:
    """Draw rooms whose objects stand together in the middle, to be looked at from a ring around them."""
    east = np.ones((count, 2, 1), dtype=bool)
    walls = np.repeat(_choose(count, WALL_MATERIALS, 1, seed, part, "wall"), 4, axis=1).reshape(count, 1, 1, 4)
    floors = _choose(count, FLOOR_MATERIALS, 1, seed, part, "floor").reshape(count, 1, 1)
    standing = _standing(count, cylinders, 0.13, 0.03, 0.05, 0.03, 0.12, seed, part)
    present = stream(seed, "ring", part, "present").random((count, cylinders))
    standing[:, 1:, 4][present[:, 1:] < 0.35] = -1.0  # one to all of them
    return FloorPlans(1, east, east.copy(), walls, floors, standing, floor=-0.08, ceiling=0.25)


def maze_plans(
    count: int,
    seed: int = 0,
    part: str = "train",
    *,
    cells: int = 7,
    openings: float = 0.12,
    vary_corridors: bool = False,
    cylinders: int = 0,
) -> FloorPlans:
    """Draw mazes: a random spanning tree of the cells, more openings, and one or two rooms with materials of their own.

    Args:
        count: how many.
        seed: equal seeds give equal places.
        part: name of the part, which has random streams of its own.
        cells: cells a side, at least 3.
        openings: share of the walls left by the tree that is opened, too.
        vary_corridors: draw the corridors' materials for every maze, instead of using the same throughout.
        cylinders: at most so many cylinders in each, 0 to 3.

    Raises:
        DataError: numbers out of range.
    """
    if cells < 3 or not 0 <= openings <= 1 or not 0 <= cylinders <= 3:
        raise DataError(
            f"mazes need cells >= 3, openings in [0, 1], cylinders in 0..3; got {cells, openings, cylinders}."
        )
    n = cells
    opened = _spanning_trees(stream(seed, "mazes", part, "tree").random((count, 2 * n * (n - 1))), n)
    opened |= stream(seed, "mazes", part, "openings").random(opened.shape) < openings
    east = np.ones((count, n + 1, n), dtype=bool)
    north = np.ones((count, n + 1, n), dtype=bool)
    half = n * (n - 1)
    east[:, 1:-1] = ~opened[:, :half].reshape(count, n - 1, n)
    north[:, 1:-1] = ~opened[:, half:].reshape(count, n - 1, n)
    if vary_corridors:
        corridor = _choose(count, WALL_MATERIALS, 1, seed, part, "corridor")
        ground = _choose(count, FLOOR_MATERIALS, 1, seed, part, "ground")
    else:
        corridor = np.full((count, 1), CORRIDOR, dtype=np.uint8)
        ground = np.full((count, 1), CORRIDOR_FLOOR, dtype=np.uint8)
    walls = np.repeat(corridor, n * n, axis=1).reshape(count, n, n)
    floors = np.repeat(ground, n * n, axis=1).reshape(count, n, n)
    draws = stream(seed, "mazes", part, "rooms").random((count, 2, 5))
    materials = _distinct(count, WALL_MATERIALS, 2, seed, part)
    tiles = _distinct(count, FLOOR_MATERIALS, 2, seed, part)
    for room in range(2):
        here = np.ones(count, dtype=bool) if room == 0 else draws[:, 1, 4] < 0.5
        _carve(east, north, walls, floors, draws[:, room], here, materials[:, room], tiles[:, room])
    standing = _maze_cylinders(count, cylinders, n, seed, part)
    return FloorPlans(n, east, north, np.repeat(walls[..., None], 4, axis=3), floors, standing, -0.05, 0.06)


def _choose(count: int, among: tuple[int, ...], each: int, seed: int, part: str, what: str) -> Array:
    """Draw `each` materials per place, with repetition."""
    unit = stream(seed, "floorplans", part, what).random((count, each))
    return np.asarray(among, dtype=np.uint8)[(unit * len(among)).astype(np.int64)]


def _distinct(count: int, among: tuple[int, ...], each: int, seed: int, part: str) -> Array:
    """Draw `each` different materials per place."""
    unit = stream(seed, "floorplans", part, f"distinct {among[0]}").random((count, len(among)))
    return np.asarray(among, dtype=np.uint8)[np.argsort(unit, axis=1)[:, :each]]


def _standing(
    count: int,
    each: int,
    spread: float,
    thin: float,
    thick: float,
    short: float,
    tall: float,
    seed: int,
    part: str,
) -> Array:
    """Draw cylinders around the middle that do not touch: (count, each, 5).

    Where they would touch, a cylinder takes the first of its 32 drawn places that is free, or is left out.
    """
    unit = stream(seed, "cylinders", part).random((count, each, 32, 2))
    size = stream(seed, "cylinders", part, "size").random((count, each, 2))
    out = np.full((count, each, 5), -1.0, dtype=np.float32)
    middle = LOW + WIDTH / 2
    colour = _distinct(count, CYLINDER_MATERIALS, max(1, each), seed, part) if each else None
    for c in range(each):
        assert colour is not None
        radius = thin + (thick - thin) * size[:, c, 0]
        centre = middle + spread * (2 * unit[:, c] - 1)  # (count, 32, 2)
        free = np.ones(centre.shape[:2], dtype=bool)
        for earlier in range(c):
            gap = np.hypot(*(centre[..., k] - out[:, None, earlier, k] for k in (0, 1)))
            free &= (gap > (radius + out[:, earlier, 2])[:, None] + 0.02) | (out[:, None, earlier, 4] < 0)
        first = np.argmax(free, axis=1)
        rows = np.arange(count)
        out[:, c, :2] = centre[rows, first]
        out[:, c, 2] = radius
        out[:, c, 3] = short + (tall - short) * size[:, c, 1]
        out[:, c, 4] = np.where(free[rows, first], colour[:, c].astype(np.float32), -1.0)
    return out


def _maze_cylinders(count: int, most: int, cells: int, seed: int, part: str) -> Array:
    """Draw thin pillars in the middle of different cells: (count, most, 5)."""
    out = np.full((count, most, 5), -1.0, dtype=np.float32)
    if most == 0:
        return out
    cell = WIDTH / cells
    chosen = np.argsort(stream(seed, "mazes", part, "pillars").random((count, cells * cells)), axis=1)[:, :most]
    many = (stream(seed, "mazes", part, "number").random(count) * (most + 1)).astype(np.int64)
    out[..., 0] = LOW + cell * (chosen // cells + 0.5)
    out[..., 1] = LOW + cell * (chosen % cells + 0.5)
    out[..., 2], out[..., 3] = 0.016, 0.03
    colour = _distinct(count, CYLINDER_MATERIALS, most, seed, part)
    out[..., 4] = np.where(np.arange(most) < many[:, None], colour, -1)
    return out


def _spanning_trees(weights: Array, n: int) -> Array:
    """Return the edges of the minimum spanning tree of every weighted n x n lattice (Prim, all lattices at once).

    Args:
        weights: (count, 2 n (n - 1)): first the edges across lines of constant x, then of constant y.

    Returns:
        bool, as `weights`.
    """
    number = np.arange(n * n).reshape(n, n)
    ends = np.concatenate(
        [
            np.stack([number[:-1].ravel(), number[1:].ravel()]),  # edge i * n + j joins (i, j) and (i + 1, j)
            np.stack([number[:, :-1].T.ravel(), number[:, 1:].T.ravel()]),  # edge j * n + i joins (i, j), (i, j + 1)
        ],
        axis=1,
    )
    count = len(weights)
    rows = np.arange(count)
    reached = np.zeros((count, n * n), dtype=bool)
    reached[:, 0] = True
    tree = np.zeros(weights.shape, dtype=bool)
    for _ in range(n * n - 1):
        crossing = reached[:, ends[0]] != reached[:, ends[1]]
        edge = np.argmin(np.where(crossing, weights, np.inf), axis=1)
        tree[rows, edge] = True
        reached[rows, ends[0, edge]] = True
        reached[rows, ends[1, edge]] = True
    return tree


def _carve(
    east: Array,
    north: Array,
    walls: Array,
    floors: Array,
    draw: Array,
    here: Array,
    material: Array,
    tile: Array,
) -> None:
    """Open a rectangle of two or three cells a side and give it materials of its own, in place, where `here`."""
    n = walls.shape[1]
    wide, deep = (2 + (draw[:, k] < 0.5).astype(np.int64) for k in (0, 1))
    left, low = (np.floor(draw[:, k] * (n - s + 1)).astype(np.int64) for k, s in ((2, wide), (3, deep)))
    i, j = np.arange(n)[None, :, None], np.arange(n)[None, None, :]
    l_, d_, w_, h_ = (v[:, None, None] for v in (left, low, wide, deep))
    inside = (i >= l_) & (i < l_ + w_) & (j >= d_) & (j < d_ + h_) & here[:, None, None]
    east[:, 1:-1] &= ~(inside[:, :-1] & inside[:, 1:])
    # lines of constant y come first in `north`, cells along x second
    north[:, 1:-1] &= ~np.swapaxes(inside[:, :, :-1] & inside[:, :, 1:], 1, 2)
    np.copyto(walls, np.broadcast_to(material[:, None, None], walls.shape), where=inside)
    np.copyto(floors, np.broadcast_to(tile[:, None, None], floors.shape), where=inside)


# ---- materials


@cache
def atlas() -> Array:
    """Return all textures, packed into uint32 as red, green, blue, 0: (materials, 2 shades, TEXELS, TEXELS).

    Material 0 is the sky. Rows count texels upwards from the floor, columns along the wall.
    """
    count = CORRIDOR_FLOOR + 1
    out = np.zeros((count, 2, TEXELS, TEXELS, 4), dtype=np.uint8)
    for material in range(count):
        colour = _colour(material)
        pattern = _pattern(material)[..., None]
        for shade, light in enumerate((1.0, 0.82)):
            keep = 1.0 if material == 0 else light
            out[material, shade, :, :, :3] = np.clip(np.asarray(colour) * pattern * keep, 0, 255).round()
    return np.ascontiguousarray(out).view(np.uint32)[..., 0]


def _colour(material: int) -> tuple[float, float, float]:
    if material == 0:
        return SKY
    if material == CORRIDOR:
        return (196.0, 120.0, 62.0)
    if material == CORRIDOR_FLOOR:
        return (112.0, 104.0, 98.0)
    if material in WALL_MATERIALS:
        k = material - WALL_MATERIALS[0]
        hue, light, full = (k % 8) / 8.0, (0.62, 0.38)[k // 8], (0.62, 0.58)[k // 8]
    elif material in FLOOR_MATERIALS:
        k = material - FLOOR_MATERIALS[0]
        hue, light, full = k / 6.0 + 0.05, 0.45, 0.22
    else:
        k = material - CYLINDER_MATERIALS[0]
        hue, light, full = k / 8.0 + 0.03, 0.5, 0.95
    red, green, blue = colorsys.hls_to_rgb(hue % 1.0, light, full)
    return 255.0 * red, 255.0 * green, 255.0 * blue


def _pattern(material: int) -> Array:
    """Brightness of a texture's texels, around 1."""
    v, u = np.mgrid[:TEXELS, :TEXELS]
    if material == 0:
        return np.ones((TEXELS, TEXELS))
    if material in CYLINDER_MATERIALS:  # rounded: darker towards the sides
        across = (u + 0.5) / (TEXELS / 2) - 1.0
        return 0.55 + 0.45 * np.sqrt(np.maximum(0.0, 1.0 - across**2))
    if material in FLOOR_MATERIALS or material == CORRIDOR_FLOOR:
        return np.where((u // 8 + v // 8) % 2 == 0, 1.05, 0.95)
    kind = material % 3
    if kind == 0:  # courses of stone
        return np.where(v % 8 == 0, 0.85, 1.0)
    if kind == 1:  # panels
        return np.where(u % 8 < 2, 0.88, 1.02)
    return np.where((u // 8 + v // 8) % 2 == 0, 1.04, 0.94)


def _maps(plans: FloorPlans, size: int) -> Array:
    """See `FloorPlans.maps`."""
    mean = atlas().view(np.uint8).reshape(CORRIDOR_FLOOR + 1, 2 * TEXELS * TEXELS, 4)[..., :3].mean(axis=1)
    n = plans.cells
    at = (np.arange(size) + 0.5) / size * n  # in cells
    cell = np.minimum(at.astype(np.int64), n - 1)
    out = mean[plans.floors[:, cell][:, :, cell]]  # (places, x, y, 3)
    thick = max(0.6 * n / size, 0.07 if n > 1 else 0.02)
    part = at - cell
    for side, near in enumerate((part < thick, part > 1 - thick)):
        lines = cell + side
        standing = plans.east[:, lines][:, :, cell] & near[None, :, None]
        colour = mean[plans.walls[:, cell][:, :, cell, side]]
        out = np.where(standing[..., None], colour, out)
        standing = np.swapaxes(plans.north[:, lines][:, :, cell], 1, 2) & near[None, None, :]
        colour = mean[plans.walls[:, cell][:, :, cell, 2 + side]]
        out = np.where(standing[..., None], colour, out)
    x = plans.low + (np.arange(size) + 0.5) / size * plans.width
    for c in range(plans.cylinders.shape[1]):
        about = plans.cylinders[:, c][:, :, None, None]
        inside = (x[None, :, None] - about[:, 0]) ** 2 + (x[None, None, :] - about[:, 1]) ** 2 < about[:, 2] ** 2
        inside &= about[:, 4] >= 0
        colour = mean[np.maximum(about[:, 4, 0, 0], 0).astype(np.int64)]
        out = np.where(inside[..., None], colour[:, None, None], out)
    # x to the right, y upwards
    pictures: Array = np.swapaxes(out, 1, 2)[:, ::-1].round().astype(np.uint8)
    return np.ascontiguousarray(pictures)
