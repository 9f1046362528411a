"""Pictures of walled places by casting rays, many frames at once.

A camera at (x, y, z) with heading `yaw` looks along (cos yaw, sin yaw); yaw grows to the left, pitch upwards, roll
clockwise as the camera sees it. The horizontal field of view is 90 degrees and the horizon of a level camera lies in
the middle of the picture. The ray of a pixel is

    d = forward + a right + b up,   a in (-1, 1) from left to right,  b in (1, -1) h/w from top to bottom,

so that the parameter t of a hit o + t d is its depth along the viewing direction. Walls are met by intersecting every
lattice line at once, with no stepping loop; a level camera needs one such ray per column (column mode), any other one
per pixel (general mode). Both modes run the same arithmetic and agree on every pixel where both apply.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.generated.floorplans import TEXELS, FloorPlans, atlas
from phlogiston.errors import DataError, ShapeError

_CHUNK = 1 << 17  # pixels worked on at once: their arrays stay in the processor's cache
_TOUCH = 1e-6  # hits nearer than this are the camera's own place


class _Rays(NamedTuple):
    """Rays o + t d, axes (frames, rows, rays) where they have three: origins (frames, 1), directions (frames, rays)."""

    ox: Array
    oy: Array
    oz: Array
    dx: Array
    dy: Array
    dz: Array  # (frames or 1, rows, rays or 1)


class View(NamedTuple):
    """Rendered frames.

    Attributes:
        images: uint8 (frames, height, width, 3).
        depth: float32, distance along the viewing direction to the nearest wall or cylinder: (frames, width) in column
            mode, (frames, height, width) in general mode (where it is infinite for pixels of sky and floor only).
    """

    images: Array
    depth: Array


def six(poses: Array) -> Array:
    """Return poses as float32 (..., 6): x, y, z, yaw, pitch, roll; a missing roll is 0.

    Raises:
        ShapeError: the last axis holds neither five nor six numbers.
        DataError: NaN or infinity.
    """
    poses = np.asarray(poses, dtype=np.float32)
    if poses.ndim == 0 or poses.shape[-1] not in (5, 6):
        raise ShapeError(f"poses have shape {poses.shape}; expected (..., 5) or (..., 6): x, y, z, yaw, pitch[, roll].")
    if not np.isfinite(poses).all():
        raise DataError("poses hold NaN or infinity; every entry must be a finite number.")
    if poses.shape[-1] == 6:
        return poses
    return np.concatenate([poses, np.zeros_like(poses[..., :1])], axis=-1)


def render(plans: FloorPlans, scene: Array, poses: Array, size: int = 64, *, general: bool | None = None) -> View:
    """Render one frame per pose.

    Args:
        plans: the places.
        scene: int (frames,), which place each frame is of.
        poses: (frames, 5) or (frames, 6).
        size: height and width of the pictures, at least 2.
        general: cast a ray per pixel; by default only where some camera is tilted.

    Raises:
        ShapeError: `scene` and `poses` do not fit together.
        DataError: a camera outside its place, below the floor or above the walls; a place that does not exist.
    """
    poses = six(poses)
    scene = np.asarray(scene, dtype=np.int64)
    if poses.ndim != 2 or scene.shape != poses.shape[:1]:
        raise ShapeError(
            f"scene has shape {scene.shape}, poses {poses.shape}; expected (frames,) and (frames, 5 or 6)."
        )
    if size < 2:
        raise DataError(f"size is {size}; a picture needs at least 2 pixels a side.")
    _check_inside(plans, scene, poses)
    tilted = bool(np.any(poses[:, 4:] != 0.0))
    if general is False and tilted:
        raise DataError("general=False, but a camera has pitch or roll: those need a ray per pixel.")
    every = tilted if general is None else general
    frames = len(poses)
    images = np.empty((frames, size, size, 3), dtype=np.uint8)
    depth = np.empty((frames, size, size) if every else (frames, size), dtype=np.float32)
    step = max(1, _CHUNK // (size * size))
    colours = atlas()
    for start in range(0, frames, step):
        part = slice(start, start + step)
        packed, depth[part] = _frames(plans, scene[part], poses[part], size, every, colours)
        images[part] = packed.view(np.uint8).reshape(-1, size, size, 4)[..., :3]
    return View(images, depth)


def directions(poses: Array, size: int) -> tuple[Array, Array, Array]:
    """Return the rays of every pixel: dx, dy, dz, each float32 (frames, size * size), rows from the top."""
    a, b = _screen(size)
    yaw, pitch, roll = (poses[:, i : i + 1] for i in (3, 4, 5))
    cos_y, sin_y, cos_p, sin_p = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    cos_r, sin_r = np.cos(roll), np.sin(roll)
    forward = (cos_p * cos_y, cos_p * sin_y, sin_p)
    level = (sin_y, -cos_y, np.zeros_like(yaw))  # to the right, before rolling
    raised = (-sin_p * cos_y, -sin_p * sin_y, cos_p)
    right = tuple(cos_r * u - sin_r * v for u, v in zip(level, raised, strict=True))
    up = tuple(sin_r * u + cos_r * v for u, v in zip(level, raised, strict=True))
    across, upwards = np.tile(a, size)[None], np.repeat(b, size)[None]
    dx, dy, dz = (f + across * r + upwards * u for f, r, u in zip(forward, right, up, strict=True))
    return dx, dy, dz


def _screen(size: int) -> tuple[Array, Array]:
    """Offsets of the pixels' centres to the right and upwards, in focal lengths."""
    a = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
    return a, -a


def _check_inside(plans: FloorPlans, scene: Array, poses: Array) -> None:
    if len(scene) == 0:
        return
    if scene.min() < 0 or scene.max() >= len(plans):
        raise DataError(f"scene holds {scene.min()} to {scene.max()}; there are {len(plans)} places.")
    x, y, z = poses[:, 0], poses[:, 1], poses[:, 2]
    high = plans.low + plans.width
    out = (x <= plans.low) | (x >= high) | (y <= plans.low) | (y >= high) | (z <= plans.floor) | (z >= plans.ceiling)
    if out.any():
        i = int(np.flatnonzero(out)[0])
        raise DataError(
            f"pose {i} puts the camera at ({x[i]:g}, {y[i]:g}, {z[i]:g}), outside the place: x and y lie between "
            f"{plans.low:g} and {high:g}, z between {plans.floor:g} and {plans.ceiling:g}."
        )


def _frames(
    plans: FloorPlans, scene: Array, poses: Array, size: int, general: bool, colours: Array
) -> tuple[Array, Array]:
    """Packed colours uint32 (frames, size * size) and depth of one chunk.

    Arrays have the axes (frames, rows, rays): in column mode a ray serves a whole column of rows, in general mode each
    pixel is a ray with a single row.
    """
    ox, oy, oz = (poses[:, i : i + 1] for i in (0, 1, 2))
    if general:
        dx, dy, flat = directions(poses, size)
        dz = flat[:, None, :]
    else:
        a, b = _screen(size)
        cos_y, sin_y = np.cos(poses[:, 3:4]), np.sin(poses[:, 3:4])
        dx, dy = cos_y + a * sin_y, sin_y + a * -cos_y
        dz = b[None, :, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rays = _Rays(ox, oy, oz, dx, dy, dz)
        t, base = _walls(plans, scene, rays)
        index = _surfaces(plans, scene, rays, t, base)
        depth = _cylinders(plans, scene, rays, t, index) if plans.cylinders.shape[1] else t
    packed = colours.reshape(-1).take(index.reshape(len(poses), size * size))
    if not general:
        return packed, depth
    return packed, depth.reshape(-1, size, size)


def _walls(plans: FloorPlans, scene: Array, rays: _Rays) -> tuple[Array, Array]:
    """Depth of the nearest wall along each ray, and where its column of texels begins in the atlas."""
    ox, oy, _, dx, dy, _ = rays
    cells, cell, low = plans.cells, np.float32(plans.cell), np.float32(plans.low)
    best = np.full(dx.shape, np.inf, dtype=np.float32)
    code = np.zeros(dx.shape, dtype=np.int32)  # line, along, axis
    where = scene[:, None]
    for axis, (o, d, o2, d2) in enumerate(((ox, dx, oy, dy), (oy, dy, ox, dx))):
        standing = plans.east if axis == 0 else plans.north  # (scenes, cells + 1, cells): line, then cell along it
        inverse = 1.0 / d
        start, slope = (o2 - low) / cell, d2 / cell
        for line in range(cells + 1):
            t = (low + line * cell - o) * inverse
            along = (start + t * slope).astype(np.int32)
            np.clip(along, 0, cells - 1, out=along)
            hit = (t > _TOUCH) & (t < best)
            if 0 < line < cells:  # outer walls stand everywhere, and catch every ray
                # a ray that passes beside the lattice has met an outer wall before
                hit &= standing[where, line, along]
            np.copyto(best, t, where=hit)
            np.copyto(code, along * 2 + (line * cells * 2 + axis), where=hit)
    facing = code & 1
    lines, places = np.divmod(code >> 1, cells)
    positive = np.where(facing == 0, dx, dy) > 0
    inner = np.clip(lines - positive, 0, cells - 1)  # the cell the wall is seen from
    i, j = np.where(facing == 0, inner, places), np.where(facing == 0, places, inner)
    material = plans.walls[where, i, j, facing * 2 + positive]
    reached = np.where(facing == 0, oy + best * dy, ox + best * dx)
    u = ((reached - low) * np.float32(plans.texels)).astype(np.int32) & (TEXELS - 1)
    return best, (material.astype(np.int32) * 2 + facing) * (TEXELS * TEXELS) + u


def _surfaces(plans: FloorPlans, scene: Array, rays: _Rays, t: Array, base: Array) -> Array:
    """Index into the atlas of what each pixel shows of sky, walls and floor: int32 (frames, rows, rays)."""
    oz, dz = rays.oz, rays.dz
    rise = np.float32(TEXELS / (plans.ceiling - plans.floor))
    height = (oz[:, :, None] - np.float32(plans.floor)) * rise
    v = height + t[:, None, :] * (dz * rise)  # in texels above the floor
    index = v.astype(np.int32)
    np.clip(index, 0, TEXELS - 1, out=index)
    index *= TEXELS
    index += base[:, None, :]
    index[v >= TEXELS] = 0  # sky
    below = v < 0
    if dz.shape[0] == 1:  # a level camera sees floor in the lower half only
        rows = slice(int(np.argmax(dz[0, :, 0] < 0)), None)
        floor = _floor(plans, scene, rays._replace(dz=dz[:, rows]))
        np.copyto(index[:, rows], floor, where=below[:, rows])
    else:
        np.copyto(index, _floor(plans, scene, rays), where=below)
    return index


def _floor(plans: FloorPlans, scene: Array, rays: _Rays) -> Array:
    """Index into the atlas of the floor under each ray (nonsense where the ray does not fall)."""
    texels, low = np.float32(plans.texels), np.float32(plans.low)
    t = (np.float32(plans.floor) - rays.oz[:, :, None]) / rays.dz
    x = (rays.ox[:, :, None] - low) * texels + t * (rays.dx[:, None, :] * texels)
    y = (rays.oy[:, :, None] - low) * texels + t * (rays.dy[:, None, :] * texels)
    u, v = x.astype(np.int32), y.astype(np.int32)
    if plans.cells == 1:
        material = plans.floors[scene].astype(np.int32).reshape(-1, 1, 1)
    else:
        per_cell = round(plans.texels * plans.cell)
        i = np.clip(u // per_cell, 0, plans.cells - 1)
        j = np.clip(v // per_cell, 0, plans.cells - 1)
        material = plans.floors[scene[:, None, None], i, j].astype(np.int32)
    texel = (v & (TEXELS - 1)) * TEXELS + (u & (TEXELS - 1))
    out: Array = material * (2 * TEXELS * TEXELS) + texel
    return out


def _cylinders(plans: FloorPlans, scene: Array, rays: _Rays, wall: Array, index: Array) -> Array:
    """Paint cylinders into `index`, the farther ones first; return the depth of the nearest thing along each ray."""
    ox, oy, oz, dx, dy, dz = rays
    about = plans.cylinders[scene]  # (frames, cylinders, 5): x, y, radius, top, material (below 0: none)
    cx, cy, radius, top, material = (about[:, :, i].T[:, :, None] for i in range(5))  # each (cylinders, frames, 1)
    square = dx * dx + dy * dy
    px, py = cx - ox, cy - oy
    along = px * dx + py * dy
    beside = (px * dy - py * dx) / np.sqrt(square)  # signed distance of the ray from the axis, to the right positive
    inside = radius * radius - beside * beside
    t = along / square - np.sqrt(np.maximum(inside, 0.0) / square)
    t = np.where((inside > 0) & (t > _TOUCH) & (t < wall) & (material >= 0), t, np.inf).astype(np.float32)
    order = np.argsort(-t, axis=0, kind="stable")
    count = len(t)
    for rank in range(count):
        which = order[rank]
        depth = np.take_along_axis(t, which[None], 0)[0]
        f, k = np.nonzero(np.isfinite(depth))
        if len(f):
            c = which[f, k]
            slope = dz[f if len(dz) > 1 else np.zeros_like(f), :, k if dz.shape[2] > 1 else np.zeros_like(k)]
            z = oz[f] + depth[f, k, None] * slope  # (hits, rows)
            high = top[c, f]
            v = ((z - plans.floor) * (TEXELS / (high - plans.floor))).astype(np.int32)
            u = ((beside[c, f, k] / radius[c, f, 0] + 1.0) * (0.5 * TEXELS)).astype(np.int32)
            texel = np.clip(v, 0, TEXELS - 1) * TEXELS + np.clip(u, 0, TEXELS - 1)[:, None]
            painted = material[c, f].astype(np.int32) * (2 * TEXELS * TEXELS) + texel
            seen = (z >= plans.floor) & (z < high)
            index[f, :, k] = np.where(seen, painted, index[f, :, k])
    low_tops = np.where(material >= 0, top, np.inf)
    if bool((oz[None] > low_tops).any()):
        _lids((cx, cy, radius, low_tops, material), rays, wall, index)
    return np.minimum(wall, t.min(axis=0))


def _lids(cylinders: tuple[Array, ...], rays: _Rays, wall: Array, index: Array) -> None:
    """Paint the tops of cylinders that a camera looks down on, the lowest first; `cylinders` as in `_cylinders`."""
    cx, cy, radius, top, material = cylinders
    ox, oy, oz, dx, dy, dz = rays
    for c in np.argsort(top.min(axis=(1, 2))):
        t = (top[c][:, :, None] - oz[:, :, None]) / dz
        x = ox[:, :, None] + t * dx[:, None, :] - cx[c][:, :, None]
        y = oy[:, :, None] + t * dy[:, None, :] - cy[c][:, :, None]
        seen = (t > _TOUCH) & (t < wall[:, None, :]) & (x * x + y * y < (radius[c] ** 2)[:, :, None]) & (dz < 0)
        texel = (TEXELS - 1) * TEXELS + TEXELS // 2
        painted = material[c].astype(np.int32)[:, :, None] * (2 * TEXELS * TEXELS) + texel
        np.copyto(index, np.broadcast_to(painted, index.shape), where=seen)
