"""Blended experts: a decoder whose weights are, for every clip, a mixture of `K` experts' weights.

A layer keeps `K` full banks of weights `W_k`; a clip with blend weights `w` is decoded by *one* network whose layer is
`W = sum_k w_k W_k`, biases alike: a mixture in the space of parameters, one forward pass per clip. All clips of a batch
are decoded at once: blending is one matrix product per layer, and the clips are the groups of one grouped transposed
convolution (route "grouped"), or of one batched matrix product whose columns are folded (route "gemm").

Vowels, Camgoz and Bowden, *VDSM*, CVPR 2021, section 3. Where we differ: banks start near one another, scaled for the
fan-in of a single layer, so that a flat blend is as well scaled as one expert; the output is logits.

Shapes: `...` leading axes of clips (any number, the same for features and blends up to broadcasting), `T` frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phlogiston.errors import ConfigError

Route = Literal["grouped", "gemm"]
BankKind = Literal["full", "lowrank"]


class Bank(nn.Module):
    """`K` versions of one array of weights, blended.

    Args:
        experts: `K`.
        shape: of the weights; the first axis is inputs.
        fan_in: how many inputs one output has, for the scale of the start.
        kind: "full" keeps `K` arrays; "lowrank" one array and `K` low-rank changes of it.
        rank: of the changes.
        spread: how much experts differ at the start, in units of their own scale.
    """

    def __init__(
        self,
        experts: int,
        shape: Sequence[int],
        fan_in: int,
        kind: BankKind = "full",
        rank: int = 4,
        spread: float = 0.5,
    ) -> None:
        super().__init__()
        if experts < 1 or rank < 1:
            raise ConfigError(f"experts={experts}, rank={rank}; both must be at least 1")
        self.shape = tuple(shape)
        inputs, rest = self.shape[0], math.prod(self.shape[1:])
        scale = math.sqrt(2.0 / fan_in)
        shared = scale * torch.randn(inputs, rest)
        self.left: nn.Parameter | None = None
        if kind == "full":
            self.weight = nn.Parameter(shared + spread * scale * torch.randn(experts, inputs, rest))
        else:
            self.weight = nn.Parameter(shared.unsqueeze(0))
            self.left = nn.Parameter(torch.randn(experts, inputs, rank) / math.sqrt(rank))
            self.right = nn.Parameter(spread * scale * torch.randn(experts, rank, rest))
        self.bias = nn.Parameter(torch.zeros(experts, self.shape[1]))

    def forward(self, blend: Tensor) -> tuple[Tensor, Tensor]:
        """Blend.

        Args:
            blend: (clips, K).

        Returns:
            Weights (clips, *shape) and biases (clips, outputs).
        """
        if self.left is None:
            mixed = blend @ self.weight.flatten(1)
        else:
            changes = torch.einsum("bk,kir,kro->bio", blend, self.left, self.right)
            mixed = self.weight + changes
        return mixed.reshape(len(blend), *self.shape), blend @ self.bias

    def alone(self) -> tuple[Tensor, Tensor]:
        """Weights and biases of the only version of a full bank with `experts=1`."""
        return self.weight[0].reshape(self.shape), self.bias[0]


def transposed_grouped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Transposed convolution, kernel 4, stride 2, padding 1, with weights of each clip's own.

    Args:
        x: (clips, frames, inputs, h, w).
        weight: (clips, inputs, outputs, 4, 4).
        bias: (clips, outputs).

    Returns:
        (clips, frames, outputs, 2h, 2w).
    """
    clips, frames, _, h, w = x.shape
    flat = x.transpose(0, 1).reshape(frames, -1, h, w)
    out = F.conv_transpose2d(flat, weight.flatten(0, 1), bias.reshape(-1), stride=2, padding=1, groups=clips)
    return out.reshape(frames, clips, -1, 2 * h, 2 * w).transpose(0, 1)


def transposed_gemm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same as `transposed_grouped` by a batched matrix product and a fold."""
    clips, frames, _, h, w = x.shape
    columns = weight.flatten(2).transpose(1, 2).unsqueeze(1) @ x.flatten(3)  # (clips, frames, outputs * 16, h * w)
    out = F.fold(columns.flatten(0, 1), (2 * h, 2 * w), 4, padding=1, stride=2)
    return out.reshape(clips, frames, -1, 2 * h, 2 * w) + bias[:, None, :, None, None]


_ROUTES = {"grouped": transposed_grouped, "gemm": transposed_gemm}


class ExpertDecoder(nn.Module):
    """Poses and blends to frames: a blended linear map to 4 x 4, then blended transposed convolutions.

    Args:
        pose: size `Z` of a pose.
        experts: `K`.
        channels: of the frames.
        size: of the frames, 4 times a power of two.
        widths: channels of the layers before the last; one for 4 x 4 and one for each doubling but the last.
        kind, rank: of the banks, see `Bank`.
        route: how clips are decoded together.
        slope: of the leaky rectifier.
        shared: how many of the first layers are the same for all clips, without a blend. They see the pose alone, so
            that where things are is the pose's to say, and the blend decides what they look like there. With one
            expert it may be all of them.

    Raises:
        ConfigError: widths that do not fit the size, or no layer left to blend.
    """

    def __init__(
        self,
        pose: int,
        experts: int,
        channels: int,
        size: int,
        widths: Sequence[int],
        kind: BankKind = "full",
        rank: int = 4,
        route: Route = "grouped",
        slope: float = 0.1,
        shared: int = 0,
    ) -> None:
        super().__init__()
        doublings = int(math.log2(size / 4)) if size >= 8 else 0
        if 4 * 2**doublings != size or doublings < 1:
            raise ConfigError(
                f"frames have {size} pixels; the decoder makes 8, 16, 32, 64, 128, ...: resize them, or pad them"
            )
        if len(widths) != doublings or min(widths) < 1:
            raise ConfigError(f"decoder_widths has {len(widths)} entries; frames of {size} pixels need {doublings}")
        if not 0 <= shared <= doublings + int(experts == 1):
            raise ConfigError(
                f"shared_layers is {shared}; frames of {size} pixels have {doublings + 1} layers, one to blend at least"
            )
        self.experts, self.channels, self.size, self.slope, self.route = experts, channels, size, slope, route
        self.shared = shared
        inputs = pose if shared else pose + experts
        pairs = list(zip(widths, [*widths[1:], channels], strict=True))
        # stride 2, kernel 4: each output pixel sees a quarter of the kernel
        forms = [((inputs, widths[0] * 16), inputs), *(((i, o, 4, 4), 4 * i) for i, o in pairs)]
        banks = [
            Bank(1, shape, fan_in) if n < shared else Bank(experts, shape, fan_in, kind, rank)
            for n, (shape, fan_in) in enumerate(forms)
        ]
        self.first, self.layers = banks[0], nn.ModuleList(banks[1:])

    def forward(self, pose: Tensor, blend: Tensor) -> Tensor:
        """Decode.

        Args:
            pose: (..., T, Z).
            blend: (..., K), broadcastable with the leading axes of `pose`.

        Returns:
            Logits, (..., T, channels, size, size).
        """
        lead = torch.broadcast_shapes(pose.shape[:-2], blend.shape[:-1])
        frames = pose.shape[-2]
        z = pose.expand(*lead, *pose.shape[-2:]).reshape(-1, *pose.shape[-2:])
        w = blend.expand(*lead, blend.shape[-1]).reshape(-1, blend.shape[-1])
        if self.shared:
            weight, bias = self.first.alone()
            x = z @ weight + bias
        else:
            weight, bias = self.first(w)
            x = torch.baddbmm(bias.unsqueeze(1), torch.cat([z, w.unsqueeze(1).expand(-1, frames, -1)], -1), weight)
        x = x.reshape(len(z), frames, -1, 4, 4)
        transposed = _ROUTES[self.route]
        for n, layer in enumerate(self.layers):
            x = F.leaky_relu(x, self.slope)
            if n + 1 < self.shared:
                x = self._alone(layer, x.flatten(0, 1)).unflatten(0, x.shape[:2])
            else:
                x = transposed(x, *layer(w))
        return x.reshape(*lead, frames, self.channels, self.size, self.size)

    def components(self, pose: Tensor) -> Tensor:
        """What each expert alone makes of poses, where the last layer is the only one that is blended.

        Args:
            pose: (n, Z).

        Returns:
            Logits, (n, K, channels, size, size).

        Raises:
            ConfigError: more layers are blended.
        """
        if self.shared != len(self.layers):
            raise ConfigError(
                f"components need shared={len(self.layers)}, all layers but the last; it is {self.shared}"
            )
        weight, bias = self.first.alone()
        x = (pose @ weight + bias).reshape(len(pose), -1, 4, 4)
        for layer in self.layers[:-1]:
            x = self._alone(layer, F.leaky_relu(x, self.slope))
        last = self.layers[-1]
        assert isinstance(last, Bank)
        weights = last.weight.reshape(self.experts, *last.shape).transpose(0, 1).flatten(1, 2)  # (in, K * out, 4, 4)
        made = F.conv_transpose2d(F.leaky_relu(x, self.slope), weights, last.bias.flatten(), stride=2, padding=1)
        return made.unflatten(1, (self.experts, self.channels))

    @staticmethod
    def _alone(layer: nn.Module, x: Tensor) -> Tensor:
        """A layer that all clips share, of (n, inputs, h, w)."""
        assert isinstance(layer, Bank)
        weight, bias = layer.alone()
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        """Let every expert begin with the mean picture's colours.

        Args:
            mean: (channels,), mean of the training pixels, in (0, 1).
        """
        last = self.layers[-1]
        assert isinstance(last, Bank)
        last.bias.copy_(torch.logit(mean.clamp(0.01, 0.99)).expand_as(last.bias))
        last.weight.mul_(0.3)  # a first picture close to the mean
