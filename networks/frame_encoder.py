"""Encoders of single frames, and recurrent summaries of sequences in which some entries are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phlogiston.errors import ConfigError


class BlurPool(nn.Module):
    """Halve a picture without aliasing: a binomial filter 1-3-3-1, then every second pixel (Zhang, ICML 2019)."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8.0
        self.register_buffer("kernel", torch.outer(row, row).expand(channels, 1, 4, 4).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, channels, h / 2, w / 2), rounded up."""
        padded = F.pad(x, (1, 2, 1, 2), mode="reflect")
        return F.conv2d(padded, self.kernel.to(x.dtype), stride=2, groups=x.shape[1])


class FrameEncoder(nn.Module):
    """A frame to features: convolutions that halve it to 4 x 4, one more to 1 x 1.

    Args:
        channels: of the frames.
        size: of the frames, 4 times a power of two.
        widths: channels after each halving.
        features: of the output.
        kind: "blur" convolves at full size (kernel 4) and halves by `BlurPool`; "strided" halves by the convolution.
        slope: of the leaky rectifier. (With slope 1, as in the published code, everything up to here is affine.)

    Raises:
        ConfigError: widths that do not fit the size.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        widths: Sequence[int],
        features: int,
        kind: Literal["blur", "strided"] = "blur",
        slope: float = 0.1,
    ) -> None:
        super().__init__()
        halvings = int(math.log2(size / 4)) if size >= 8 else 0
        if 4 * 2**halvings != size or halvings < 1:
            raise ConfigError(
                f"frames have {size} pixels; the encoder takes 8, 16, 32, 64, 128, ...: resize them, or pad them"
            )
        if len(widths) != halvings or min(widths) < 1:
            raise ConfigError(f"encoder_widths has {len(widths)} entries; frames of {size} pixels need {halvings}")
        blocks: list[nn.Module] = []
        for i, o in zip([channels, *widths], widths, strict=False):
            if kind == "blur":
                blocks += [nn.Conv2d(i, o, 4, padding=1), nn.LeakyReLU(slope), BlurPool(o)]
            else:
                blocks += [nn.Conv2d(i, o, 4, stride=2, padding=1), nn.LeakyReLU(slope)]
        self.trunk = nn.Sequential(*blocks)
        self.last = nn.Conv2d(widths[-1], features, 4)
        self.slope = slope
        self.channels, self.size = channels, size
        self.layout = torch.channels_last  # of pictures in memory; convolutions are half as fast again in this one

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (..., channels, size, size) in [0, 1] to features (..., features)."""
        flat = frames.reshape(-1, self.channels, self.size, self.size).contiguous(memory_format=self.layout)
        out = F.leaky_relu(self.last(self.trunk(flat)).flatten(1), self.slope)
        return out.reshape(*frames.shape[:-3], -1)


class Summary(nn.Module):
    """A bidirectional LSTM that reads what is known of a sequence and nothing else.

    Missing entries are left out: the sequence is closed up before it is read, and the reading ends where the entries
    do. What a missing or padded entry holds, and how many there are, cannot have any influence.

    Args:
        inputs: size of an entry.
        hidden: units per layer and direction.
        layers: how many.
        dropout: between layers.

    Attributes:
        outputs: size of the summary, 2 * layers * hidden.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            inputs, hidden, layers, batch_first=True, bidirectional=True, dropout=dropout if layers > 1 else 0.0
        )
        self.start = nn.Parameter(torch.zeros(2, 2 * layers, 1, hidden))
        self.outputs = 2 * layers * hidden

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read.

        Args:
            x: (n, T, inputs).
            mask: bool (n, T), True where known; every row needs one known entry.

        Returns:
            The final states of all layers and directions, (n, outputs); and the outputs at each entry,
            (n, T, 2 hidden), zero where nothing is known.
        """
        n, length, _ = x.shape
        h, c = (part.expand(-1, n, -1).contiguous() for part in self.start)
        if mask is None or bool(mask.all()):
            out, (last, _) = self.lstm(x, (h, c))
            return last.transpose(0, 1).reshape(n, -1), out
        order = (~mask).to(torch.int8).argsort(dim=1, stable=True)  # known entries first, in their order
        known = mask.sum(1)
        closed = torch.gather(x, 1, order.unsqueeze(-1).expand_as(x))
        packed = nn.utils.rnn.pack_padded_sequence(closed, known.cpu(), batch_first=True, enforce_sorted=False)
        out, (last, _) = self.lstm(packed, (h, c))
        read, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=length)
        spread = torch.zeros_like(read).scatter(1, order.unsqueeze(-1).expand_as(read), read)
        return last.transpose(0, 1).reshape(n, -1), spread


class FreeRun(nn.Module):
    """An LSTM that is fed its own output: a state per time step, decided by where it starts.

    Args:
        inputs: size of the vector it starts from.
        hidden: units per layer, and size of a state.
        layers: how many.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.LSTMCell(hidden, hidden) for _ in range(layers))
        self.h = nn.Linear(inputs, layers * hidden)
        self.c = nn.Linear(inputs, layers * hidden)
        self.first = nn.Parameter(torch.zeros(hidden))

    def forward(self, start: Tensor, length: int) -> Tensor:
        """Run.

        Args:
            start: (..., inputs).
            length: steps.

        Returns:
            (..., length, hidden).
        """
        flat = start.reshape(-1, start.shape[-1])
        states = [
            (h.contiguous(), c.contiguous())
            for h, c in zip(
                self.h(flat).chunk(len(self.cells), -1), self.c(flat).chunk(len(self.cells), -1), strict=True
            )
        ]
        x = self.first.expand(len(flat), -1)
        out = []
        for _ in range(length):
            for i, cell in enumerate(self.cells):
                states[i] = cell(x, states[i])
                x = states[i][0]
            out.append(x)
        return torch.stack(out, 1).reshape(*start.shape[:-1], length, -1)


def pixels(frames: Tensor | None) -> Tensor | None:
    """Bytes as floats in [0, 1]; anything else as it is."""
    return frames.float() / 255.0 if frames is not None and frames.dtype == torch.uint8 else frames
