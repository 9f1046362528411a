"""Features of images: the standard Inception network, raw pixels, a judge, or any callable; streamed into moments.

An extractor takes uint8 images (batch, channels, height, width) and returns (batch, features). Its `describe()` is part
of every figure made with it: features cannot be compared across conventions, layers or weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phlogiston.console import is_terminal, terminal
from phlogiston.errors import ConfigError, DataError, DataWarning, ShapeError
from phlogiston.evaluate.extractor import Extractor
from phlogiston.evaluate.frechet import Moments, gaussian_of
from phlogiston.evaluate.images import Source
from phlogiston.evaluate.inception import CONVENTIONS, LAYERS, Inception, load, prepare, resize_antialiased
from phlogiston.evaluate.judge import judge_of
from phlogiston.evaluate.statistics import FeatureSet

KEEP = 10_000  # feature rows kept for what needs rows; a random part of longer streams


class InceptionFeatures(Extractor):
    """The 2015 Inception network.

    Args:
        layer: 64, 192, 768 or 2048.
        convention: how images become 299 x 299; see `inception.prepare`.
        weights: file of weights; searched for if not given.
        network: a network already loaded, with `checksum` naming its weights.
    """

    any_size = True

    def __init__(
        self,
        layer: int = 2048,
        convention: str = "tf1",
        weights: str | Path | None = None,
        network: Inception | None = None,
        checksum: str = "unknown",
    ):
        if layer not in LAYERS:
            raise ConfigError(f"layer is {layer}; choose from {', '.join(map(str, LAYERS))}.")
        if convention not in CONVENTIONS:
            raise ConfigError(f"convention is {convention!r}; choose from {', '.join(CONVENTIONS)}.")
        self.layer, self.convention = layer, convention
        self.network, self.checksum = load(weights) if network is None else (network, checksum)
        self.device = next(self.network.parameters()).device

    def __call__(self, images: Tensor) -> Tensor:
        return self.network(prepare(images, self.convention), (self.layer,))[self.layer]

    def logits(self, features: Tensor) -> Tensor | None:
        return self.network.logits(features.to(self.device)) if self.layer == 2048 else None

    def describe(self) -> dict[str, Any]:
        return {
            "features": "inception-2015-12-05",
            "layer": self.layer,
            "convention": self.convention,
            "weights": self.checksum,
        }

    def to(self, device: torch.device) -> Extractor:
        self.network.to(device)
        self.device = device
        return self


class Pixels(Extractor):
    """The pixels themselves, scaled to [0, 1]: a distance between means and covariances of images.

    Args:
        most: refuse images of more values than this, because the covariance has the square of it.
    """

    def __init__(self, most: int = 4096):
        self.most = most

    def __call__(self, images: Tensor) -> Tensor:
        rows = images.flatten(1).float() / 255.0
        if rows.shape[1] > self.most:
            raise ConfigError(
                f"images have {rows.shape[1]} values each; pixel features take at most {self.most}. Give a size."
            )
        return rows


class Custom(Extractor):
    """Anything callable: uint8 images (batch, channels, height, width) -> features (batch, d).

    Args:
        function: the callable; an `nn.Module` is put into evaluation mode and moved to the device. It may have
            attributes `clips` and `any_size`, as `Extractor` documents them.
        name: what results call it.
    """

    def __init__(self, function: Callable[[Tensor], Any], name: str):
        self.function, self.name = function, name
        self.clips = bool(getattr(function, "clips", False))
        self.any_size = bool(getattr(function, "any_size", False))
        if isinstance(function, nn.Module):
            function.eval()

    def __call__(self, images: Tensor) -> Tensor:
        out = self.function(images)
        out = out if isinstance(out, Tensor) else torch.as_tensor(np.asarray(out))
        if out.ndim != 2 or len(out) != len(images):
            raise ShapeError(
                f"{self.name} returned shape {tuple(out.shape)} for {len(images)} images; expected (images, features)."
            )
        return out

    def describe(self) -> dict[str, Any]:
        return {"features": self.name}

    def to(self, device: torch.device) -> Extractor:
        if isinstance(self.function, nn.Module):
            self.function.to(device)
        return self


def make_extractor(
    features: Any = "inception",
    *,
    layer: int = 2048,
    convention: str = "tf1",
    weights: str | Path | None = None,
) -> Extractor:
    """Make an extractor of a name, a callable, or an extractor already.

    Args:
        features: `"inception"`, `"pixels"`, `"judge:NAME"` (the judge of a labelled data set, trained on first use),
            `"module:callable"` or `"file.py:callable"`, a callable, or an `Extractor`.
        layer: of the Inception network.
        convention: of the Inception network.
        weights: of the Inception network.

    Raises:
        ConfigError: no such thing.
    """
    if isinstance(features, Extractor):
        return features
    if callable(features):
        return Custom(features, getattr(features, "__name__", type(features).__name__))
    name = str(features)
    if name == "inception":
        return InceptionFeatures(layer, convention, weights)
    if name == "pixels":
        return Pixels()
    if name.startswith("judge:"):
        return judge_of(name.removeprefix("judge:"))
    if ":" in name:
        return Custom(_import(name), name)
    raise ConfigError(
        f"features are {name!r}; expected inception, pixels, judge:NAME (a labelled data set), or module:callable."
    )


def _import(name: str) -> Callable[[Tensor], Any]:
    where, _, attribute = name.rpartition(":")
    path = Path(where if where.endswith(".py") else where.replace(".", "/") + ".py")
    try:
        if where.endswith(".py") or (importlib.util.find_spec(where.split(".")[0]) is None and path.is_file()):
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None or not path.is_file():
                raise ConfigError(f"features {name!r}: there is no file {str(path)!r}.")
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
    except ImportError as error:
        raise ConfigError(f"features {name!r}: cannot import {where!r}: {error}") from error
    result = getattr(module, attribute, None)
    if isinstance(result, type):
        result = result()
    if not callable(result):
        raise ConfigError(f"features {name!r}: {where!r} has no callable {attribute!r}.")
    return result


def extract(
    source: Source,
    extractor: Extractor,
    *,
    batch_size: int = 64,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    keep: int = KEEP,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> FeatureSet:
    """Run a source through an extractor in memory that does not grow with the number of images.

    Args:
        source: the images.
        extractor: the features.
        batch_size: images per call of the extractor.
        size: resize every image to this height and width first (bicubic, antialiased, rounded back to eight bits).
        limit: use a random part of this many images (never the first ones: sets are often ordered).
        keep: feature rows to keep, a uniformly random part of longer streams.
        seed: of both random choices.
        device: where the extractor runs; an accelerator if there is one.
        progress: show a bar on a terminal.

    Raises:
        DataError: fewer than two images, images of mixed sizes the extractor cannot take, or features not finite.
        ConfigError: a batch size, limit or keep that makes no sense.
    """
    if batch_size < 1 or keep < 2 or (limit is not None and limit < 2):
        raise ConfigError(f"batch_size is {batch_size}, keep {keep}, limit {limit}; expected at least 1, 2 and 2.")
    target = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    extractor.to(target)
    moments, reservoir = Moments(), _Reservoir(keep, seed)
    constant, first, seen = True, None, 0
    with torch.inference_mode(), _Bar(source, extractor.clips, limit, progress) as bar:
        for images in _batches(source, extractor, batch_size, size, limit, seed):
            first = images[:1] if first is None else first
            constant = constant and images.shape[1:] == first.shape[1:] and bool((images == first).all())
            features = extractor(images.to(target))
            if not bool(torch.isfinite(features).all()):
                raise DataError(f"{source.name}: features of images {seen} to {seen + len(images) - 1} are not finite.")
            moments.update(features)
            reservoir.add(features)
            seen += len(images)
            bar.advance(len(images))
    if seen < 2:
        raise DataError(f"{source.name} holds {seen} image{'' if seen == 1 else 's'}; at least 2 are needed.")
    if constant:
        warnings.warn(f"all {seen} images of {source.name} are the same", DataWarning, stacklevel=2)
    kept = reservoir.rows()
    gaussian = gaussian_of(kept) if len(kept) == seen else moments.gaussian()
    about = {**extractor.describe(), **({"size": list(size)} if size else {})}
    return FeatureSet(source.name, seen, gaussian, kept, about)


def _batches(
    source: Source, extractor: Extractor, batch_size: int, size: tuple[int, int] | None, limit: int | None, seed: int
) -> Iterator[Tensor]:
    """Yield batches of equal size from a source, chosen, resized and checked."""
    chosen = _choose(source, extractor.clips, limit, seed)
    shape: tuple[int, ...] | None = None
    position, warned, waiting = 0, False, torch.empty(0)
    for block in source.blocks(extractor.clips):
        if chosen is not None:
            needed = chosen[position : position + len(block)]
            position += len(block)
            block = block[needed]
        if len(block) == 0:
            continue
        if size is not None:
            block = _resize(block, size)
        if shape is not None and block.shape[-2:] != shape[-2:]:
            if not extractor.any_size:
                raise DataError(
                    f"{source.name} holds images of {_size(shape)} and of {_size(tuple(block.shape))} pixels; these "
                    "features need one size. Give a size to resize all of them to."
                )
            if not warned:
                warnings.warn(
                    f"{source.name} holds images of several sizes; each is resized by the network's own convention",
                    DataWarning,
                    stacklevel=3,
                )
                warned = True
        shape = tuple(block.shape)
        if len(waiting) and block.shape[1:] != waiting.shape[1:]:
            if block.shape[-2:] == waiting.shape[-2:] and block.ndim == waiting.ndim == 4:
                block, waiting = (x.expand(-1, 3, -1, -1) for x in (block, waiting))
            else:
                yield waiting
                waiting = block[:0]
        waiting = torch.cat([waiting, block]) if len(waiting) else block
        while len(waiting) >= batch_size:
            yield waiting[:batch_size]
            waiting = waiting[batch_size:]
    if len(waiting):
        yield waiting


def _choose(source: Source, clips: bool, limit: int | None, seed: int) -> Tensor | None:
    """Return which images of a source to use, bool (count,), or None for all."""
    if limit is None:
        return None
    count = source.count(clips)
    if limit > count:
        raise DataError(f"{source.name} holds {count} images; {limit} were requested.")
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:limit]] = True
    return chosen


def _resize(block: Tensor, size: tuple[int, int]) -> Tensor:
    flat = block.flatten(0, 1) if block.ndim == 5 else block
    small = resize_antialiased(flat.float(), *size).round().to(torch.uint8)
    return small.reshape(*block.shape[:-2], *size)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[-2]} x {shape[-1]}"


class _Reservoir:
    """A uniformly random part of a stream of rows, of unknown length (Vitter's algorithm R)."""

    def __init__(self, capacity: int, seed: int):
        self.capacity, self.seen = capacity, 0
        self._draw = np.random.default_rng(seed)
        self._blocks: list[Tensor] = []
        self._full: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        rows = rows.detach().float().cpu()
        if self._full is None:
            self._blocks.append(rows[: self.capacity - self.seen].clone())
            taken = len(self._blocks[-1])
            self.seen += taken
            rows = rows[taken:]
            if self.seen == self.capacity:
                self._full = torch.cat(self._blocks)
                self._blocks = []
        if len(rows) and self._full is not None:
            places = self._draw.integers(0, self.seen + 1 + np.arange(len(rows)))
            for row in np.flatnonzero(places < self.capacity).tolist():
                self._full[places[row]] = rows[row]
            self.seen += len(rows)

    def rows(self) -> Tensor:
        if self._full is not None:
            return self._full
        return torch.cat(self._blocks) if self._blocks else torch.zeros(0, 0)


class _Bar:
    """A progress bar on stderr; silent where stderr is no terminal or `progress` is off."""

    def __init__(self, source: Source, clips: bool, limit: int | None, shown: bool):
        self._progress: Any = None
        if shown and is_terminal(sys.stderr):
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*parts, console=terminal())
            self._task = self._progress.add_task(f"features of {source.name}", total=limit or source.count(clips))

    def __enter__(self) -> _Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, count: int) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, count)
