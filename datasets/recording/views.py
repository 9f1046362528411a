"""What a model sees of a game: pictures cropped, made grey and square, or observations that are vectors as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import ConfigError, ShapeError

Crop = tuple[int, int, int, int]


@dataclass(frozen=True)
class View:
    """How an observation becomes a frame.

    Attributes:
        key: entry of an observation that is a dictionary; "" for observations that are none.
        crop: rows from and to, columns from and to, in pixels of the observation; None for all of it.
        size: of a frame, pixels a side; 0 leaves a square picture as it is.
        grey: one channel of brightness in place of colours.
        render: the picture that the environment draws of itself, instead of its observation.
        values: what black and white are, in the observation's numbers; None for bytes.
        vector: entries of an observation that is no picture; 0 for pictures.
        categories: of an observation that is a number: its frame is a vector with a 1 in its place.
    """

    key: str = ""
    crop: Crop | None = None
    size: int = 64
    grey: bool = False
    render: bool = False
    values: tuple[float, float] | None = None
    vector: int = 0
    categories: int = 0

    def frame(self, observation: Any, env: Any = None) -> Array:
        """Return a frame: uint8 (C, H, W) of a picture, float32 (entries,) of a vector.

        Args:
            observation: as the environment gave it.
            env: the environment, where it is drawn.

        Raises:
            ShapeError: neither, or of another size than before.
        """
        if self.render:
            if getattr(env, "render_mode", None) != "rgb_array":
                raise ConfigError("to record what the environment draws, make it with render_mode='rgb_array'")
            observation = env.render()
        elif self.key:
            observation = observation[self.key]
        if self.categories:
            return np.eye(self.categories, dtype=np.float32)[int(observation)]
        array = np.asarray(observation)
        if self.vector:
            if array.size != self.vector:
                raise ShapeError(f"an observation has {array.size} numbers; expected {self.vector}")
            return array.astype(np.float32).ravel()
        return self._picture(array)

    def _picture(self, array: Array) -> Array:
        picture = channels_last(array)
        if self.values is not None:
            low, high = self.values
            picture = np.round(255.0 * np.clip((picture - low) / (high - low), 0.0, 1.0)).astype(np.uint8)
        if self.crop is not None:
            top, bottom, left, right = self.crop
            if not (0 <= top < bottom <= picture.shape[0] and 0 <= left < right <= picture.shape[1]):
                raise ConfigError(
                    f"crop is rows {top} to {bottom}, columns {left} to {right}; the picture has {picture.shape[0]} "
                    f"rows and {picture.shape[1]} columns"
                )
            picture = picture[top:bottom, left:right]
        if self.grey and picture.shape[2] == 3:
            picture = np.round(picture @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
        size = self.size or picture.shape[0]
        if picture.shape[:2] != (size, size):
            picture = _resized(picture, size)
        return np.ascontiguousarray(np.moveaxis(picture, -1, 0))


def view_of(
    space: Any,
    key: str = "",
    crop: Crop | None = None,
    size: int = 64,
    grey: bool = False,
    render: bool = False,
) -> View:
    """Choose how the observations of a Gymnasium space become frames.

    Raises:
        ConfigError: a space that is neither of pictures, vectors nor numbers; a dictionary without the key, or one of
            which no single entry is a picture.
    """
    if size and (size < 8 or size & (size - 1)):
        raise ConfigError(f"size is {size}; the model's networks halve frames, so that 8, 16, 32, 64, 128 fit")
    if render:
        return View("", crop, size, grey, True)
    kind = type(space).__name__
    if kind == "Dict":
        key = key or _only_picture(space)
        if key not in space.spaces:
            raise ConfigError(f"key is {key!r}; the observation has {', '.join(sorted(space.spaces))}")
        space, kind = space.spaces[key], type(space.spaces[key]).__name__
    elif key:
        raise ConfigError(f"key is {key!r}; the observation is no dictionary but a {kind} space")
    if kind == "Discrete":
        return View(key, vector=int(space.n), categories=int(space.n))
    if kind != "Box":
        raise ConfigError(f"observations are a {kind} space; pictures, vectors and numbers are taken. See render=True")
    if not is_picture(space):
        if len(space.shape) > 1:
            raise ConfigError(
                f"observations have shape {space.shape}; expected a picture (height, width[, 1 or 3 colours]) or a "
                "vector. Of stacked frames record single ones: the memory stacks them"
            )
        return View(key, vector=int(np.prod(space.shape, dtype=int)))
    values = None
    if space.dtype != np.uint8:
        values = (float(space.low.min()), float(space.high.max()))
        if not (np.isfinite(values).all() and values[0] < values[1] and values[1] - values[0] < 1e30):
            raise ConfigError(f"observations are {space.dtype} without borders; pictures need black and white values")
    return View(key, crop, size, grey, values=values)


def is_picture(space: Any) -> bool:
    """Say whether a space holds pictures: (H, W), (H, W, 1 or 3) or (1 or 3, H, W)."""
    shape: tuple[int, ...] = getattr(space, "shape", None) or ()
    if type(space).__name__ != "Box" or min(shape, default=0) < 1:
        return False
    return (len(shape) == 2 and min(shape) >= 8) or (len(shape) == 3 and (shape[-1] in (1, 3) or shape[0] in (1, 3)))


def channels_last(array: Array) -> Array:
    """Return a picture as (H, W, C).

    Raises:
        ShapeError: no picture.
    """
    if array.ndim == 2:
        return array[..., None]
    if array.ndim == 3 and array.shape[-1] in (1, 3):
        return array
    if array.ndim == 3 and array.shape[0] in (1, 3):
        return np.moveaxis(array, 0, -1)
    raise ShapeError(f"a picture has shape {array.shape}; expected (height, width) or 1 or 3 colours")


def _only_picture(space: Any) -> str:
    pictures = [name for name, entry in space.spaces.items() if is_picture(entry)]
    if len(pictures) != 1:
        raise ConfigError(
            f"the observation is a dictionary of {', '.join(sorted(space.spaces))}; {len(pictures)} of them are "
            "pictures. Say which one to take: key='...'"
        )
    return str(pictures[0])


def _resized(picture: Array, size: int) -> Array:
    """Scale bytes (H, W, C): means over areas where it becomes smaller, so that small things do not vanish."""
    from PIL import Image

    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    scaled = np.asarray(image.resize((size, size), Image.Resampling.BOX))
    return scaled[..., None] if scaled.ndim == 2 else scaled
