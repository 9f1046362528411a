"""The Inception network that FID is defined by: TensorFlow's of 2015-12-05, in plain torch.

Szegedy et al., *Rethinking the Inception architecture for computer vision*, 2015, as frozen by its authors in December
2015 and used by Heusel et al., *GANs trained by a two time-scale update rule converge to a local Nash equilibrium*,
2017. It differs from the ImageNet network of today's model collections: batch norm with eps 0.001, average pools that
do not count their padding, a *maximum* in the pool branch of the last block, 1008 outputs, no auxiliary head.

Modules carry the names of the official file `pt_inception-2015-12-05-6726825d.pth`, so that its tensors load as they
are. The file is not shipped: `find_weights` looks for it, then fetches it.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phlogiston.datasets.readers.torch_files import TorchFile
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.datasets.untrusted.packed import read_file
from phlogiston.errors import ConfigError, DataError, DataWarning

WEIGHTS_NAME = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_ALSO = "weights-inception-2015-12-05-6726825d.pth"  # the same bytes under another project's name
WEIGHTS_BYTES = 95_628_359
WEIGHTS_SHA256 = "6726825d"  # its first eight digits
WEIGHTS_VARIABLE = "PHLOGISTON_INCEPTION"
LOCATIONS = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_NAME}",
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_ALSO}",
)
LAYERS = (64, 192, 768, 2048)
CONVENTIONS = ("tf1", "torch", "clean")
SIZE = 299


class Convolution(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, pad: bool = True):
        super().__init__()
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (high // 2, wide // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (high, wide), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """35 x 35: branches of 1 x 1, 5 x 5, twice 3 x 3, and an average pool."""

    def __init__(self, inputs: int, pooled: int):
        super().__init__()
        self.branch1x1 = Convolution(inputs, 64, 1)
        self.branch5x5_1 = Convolution(inputs, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3)
        self.branch_pool = Convolution(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], 1)


class BlockB(nn.Module):
    """35 x 35 -> 17 x 17."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = Convolution(288, 384, 3, stride=2, pad=False)
        self.branch3x3dbl_1 = Convolution(288, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), twice, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """17 x 17: 7 x 7 taken apart into 1 x 7 and 7 x 1."""

    def __init__(self, width: int):
        super().__init__()
        self.branch1x1 = Convolution(768, 192, 1)
        self.branch7x7_1 = Convolution(768, width, 1)
        self.branch7x7_2 = Convolution(width, width, (1, 7))
        self.branch7x7_3 = Convolution(width, 192, (7, 1))
        self.branch7x7dbl_1 = Convolution(768, width, 1)
        self.branch7x7dbl_2 = Convolution(width, width, (7, 1))
        self.branch7x7dbl_3 = Convolution(width, width, (1, 7))
        self.branch7x7dbl_4 = Convolution(width, width, (7, 1))
        self.branch7x7dbl_5 = Convolution(width, 192, (1, 7))
        self.branch_pool = Convolution(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    """17 x 17 -> 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(768, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2, pad=False)
        self.branch7x7x3_1 = Convolution(768, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1))
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """8 x 8: 3 x 3 taken apart side by side; `maximum` in the last block's pool branch, an average before."""

    def __init__(self, inputs: int, maximum: bool):
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = Convolution(inputs, 320, 1)
        self.branch3x3_1 = Convolution(inputs, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, (1, 3))
        self.branch3x3_2b = Convolution(384, 384, (3, 1))
        self.branch3x3dbl_1 = Convolution(inputs, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1))
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch3x3_1(x)
        two = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        wide = [self.branch3x3_2a(one), self.branch3x3_2b(one), self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two)]
        return torch.cat([self.branch1x1(x), *wide, self.branch_pool(pooled)], 1)


class Inception(nn.Module):
    """The network from 299 x 299 pixels in [-1, 1] to features and logits; always in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2, pad=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, pad=False)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB()
        self.Mixed_6b = BlockC(128)
        self.Mixed_6c = BlockC(160)
        self.Mixed_6d = BlockC(160)
        self.Mixed_6e = BlockC(192)
        self.Mixed_7a = BlockD()
        self.Mixed_7b = BlockE(1280, maximum=False)
        self.Mixed_7c = BlockE(2048, maximum=True)
        self.fc = nn.Linear(2048, 1008)
        for module in self.modules():  # kernels laid out channels last: the pictures follow, in 0.6 of the time
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        super().train(False)

    def train(self, mode: bool = True) -> Inception:
        """Stay in evaluation mode: its batch statistics are part of the definition."""
        return super().train(False)

    def forward(self, x: Tensor, layers: Sequence[int] = (2048,)) -> dict[int, Tensor]:
        """Compute features, averaged over space.

        Args:
            x: (batch, 3, 299, 299) in [-1, 1].
            layers: some of 64, 192, 768, 2048; nothing beyond the last one is computed.

        Returns:
            layer -> (batch, layer).
        """
        last, out = max(layers), {}
        stages = {
            64: (self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3, _halve),
            192: (self.Conv2d_3b_1x1, self.Conv2d_4a_3x3, _halve),
            768: (
                *(self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a),
                *(self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e),
            ),
            2048: (self.Mixed_7a, self.Mixed_7b, self.Mixed_7c),
        }
        for layer, steps in stages.items():
            for step in steps:
                x = step(x)
            if layer in layers:
                out[layer] = x.mean((2, 3))
            if layer == last:
                break
        return out

    def logits(self, features: Tensor) -> Tensor:
        """Return class logits (batch, 1008) of features (batch, 2048), *without* the bias: the Inception score's."""
        return F.linear(features, self.fc.weight)


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


def prepare(images: Tensor, convention: str = "tf1") -> Tensor:
    """Bring images to what the network expects, by one of the conventions in use; they give different figures.

    - `"tf1"`: as the original TensorFlow graph and torch-fidelity: bilinear to 299 with source coordinate
      i * in / out (no half-pixel centre, no antialias), then (x - 128) / 128.
    - `"torch"`: as pytorch-fid: x / 255, bilinear to 299 with half-pixel centres, no antialias, then 2 x - 1.
    - `"clean"`: Parmar et al., *On aliased resizing and surprising subtleties in GAN evaluation*, 2022: bicubic with
      antialias in floating point, clipped to [0, 255], not rounded again, then (x - 128) / 128.

    Args:
        images: uint8 (batch, 1 or 3, height, width); grey is repeated.
        convention: which.

    Returns:
        float32 (batch, 3, 299, 299).

    Raises:
        ConfigError: an unknown convention.
    """
    x = images.float()
    if convention == "tf1":
        x = (_bilinear_from_the_corner(x, SIZE) - 128.0) / 128.0
    elif convention == "torch":
        x = 2.0 * F.interpolate(x / 255.0, (SIZE, SIZE), mode="bilinear", align_corners=False) - 1.0
    elif convention == "clean":
        x = (resize_antialiased(x, SIZE, SIZE) - 128.0) / 128.0
    else:
        raise ConfigError(f"convention is {convention!r}; choose from {', '.join(CONVENTIONS)}.")
    return x.expand(-1, 3, -1, -1)


def resize_antialiased(images: Tensor, height: int, width: int) -> Tensor:
    """Resize float images (batch, channels, h, w) in [0, 255]: bicubic, filter widened when shrinking, clipped."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp(0.0, 255.0)


def _bilinear_from_the_corner(x: Tensor, size: int) -> Tensor:
    """Resize the last two axes as TensorFlow 1 did: output i reads input i * in / out."""
    for axis in (-2, -1):
        length = x.shape[axis]
        if length == size:
            continue
        at = torch.arange(size, device=x.device, dtype=torch.float32) * (length / size)
        low = at.floor().long().clamp(max=length - 1)
        share = at - low
        if axis == -2:
            share = share.unsqueeze(-1)
        below = x.index_select(axis, low)
        x = below + (x.index_select(axis, (low + 1).clamp(max=length - 1)) - below) * share
    return x


def load(path: str | Path | None = None) -> tuple[Inception, str]:
    """Build the network with weights from a file.

    Args:
        path: the official file, or another file in its layout (.pth, or .safetensors); searched for if not given.

    Returns:
        The network and the first eight digits of the file's SHA-256 (every result names them). Warns when the file is
        not the official one.

    Raises:
        DataError: no such file, it cannot be read, or its tensors are not those of the network.
    """
    file = find_weights(path)
    network = Inception()
    network.load_state_dict(check_layout(_read(file), network, file))
    if not is_official(file):
        warnings.warn(
            f"{str(file)!r} has the layout of the official Inception weights but is not that file: figures made with "
            "it compare with no one else's",
            DataWarning,
            stacklevel=2,
        )
    return network.requires_grad_(False), digest(file)


def is_official(path: Path) -> bool:
    """Return whether a file is the official one, by size and checksum."""
    return path.stat().st_size == WEIGHTS_BYTES and digest(path) == WEIGHTS_SHA256


def digest(path: Path) -> str:
    """Return the first eight digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[: len(WEIGHTS_SHA256)]


def find_weights(path: str | Path | None = None) -> Path:
    """Find the file of weights: the path given, $PHLOGISTON_INCEPTION, torch hub's cache, our cache; else fetch it.

    Raises:
        DataError: a named file is missing, or there is no file and none could be fetched.
    """
    from phlogiston.datasets.fetch import fetch
    from phlogiston.files import cache_folder

    named = path or os.environ.get(WEIGHTS_VARIABLE)
    if named:
        file = Path(named).expanduser()
        if not file.is_file():
            source = "given" if path else f"of ${WEIGHTS_VARIABLE}"
            raise DataError(f"the Inception weights {source} are not there: {str(file)!r} is no file.")
        return file
    folders = (Path(torch.hub.get_dir()) / "checkpoints", cache_folder())
    for folder in folders:
        for name in (WEIGHTS_NAME, WEIGHTS_ALSO):
            if (folder / name).is_file() and is_official(folder / name):
                return folder / name
    try:
        return fetch(LOCATIONS, folders[-1] / WEIGHTS_NAME, WEIGHTS_SHA256, digest=digest)
    except DataError as error:
        raise DataError(
            f"the Inception weights are not here and cannot be fetched. Put {WEIGHTS_NAME} ({WEIGHTS_BYTES:,} bytes, "
            f"SHA-256 begins {WEIGHTS_SHA256}) into {str(folders[-1])!r}, or name it in ${WEIGHTS_VARIABLE}. Without "
            f"it, `--features judge:NAME` or `--features pixels` work. ({error})"
        ) from error


def _read(path: Path) -> Mapping[str, Tensor]:
    """Read a dict of tensors; nothing in the file is executed."""
    with reading(path, "a file of weights"):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        file = TorchFile(read_file(path))
        if not isinstance(file.content, Mapping) or not all(file.is_array(value) for value in file.content.values()):
            raise DataError(f"{str(path)!r} holds {type(file.content).__name__}; expected a plain dict of tensors.")
        return {str(name): torch.from_numpy(file.array(value)) for name, value in file.content.items()}


def check_layout(tensors: Mapping[str, Tensor], network: nn.Module, where: str | Path) -> Mapping[str, Tensor]:
    """Return the tensors if their names and shapes are those of the network.

    Raises:
        DataError: with the first difference.
    """
    expected_shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected_shapes.keys() | given.keys()):
        if expected_shapes.get(name) != given.get(name):
            difference = "is missing" if name not in given else f"has shape {given[name]}"
            requirement = (
                "which the network does not have"
                if name not in expected_shapes
                else f"expected {expected_shapes[name]}"
            )
            raise DataError(f"{str(where)!r} is not the 2015 Inception network: {name!r} {difference}; {requirement}.")
    return tensors
