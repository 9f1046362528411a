"""Recurrent stacks whose state is one tensor with a row per sequence: easy to cut, reorder, carry over and export."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from phlogiston.errors import ConfigError, unknown_name

CELLS = ("lstm", "gru")


class Recurrent(nn.Module):
    """A stack of LSTM or GRU layers.

    Args:
        features: width of the input.
        hidden: units per layer.
        layers: number of layers.
        cell: `"lstm"` or `"gru"`.

    The state is (rows, depth, hidden): for an LSTM the outputs of all layers, then their cells; for a GRU the outputs.
    Forget gates of an LSTM start at 1, so that gradients reach back from the first step of training; recurrent weights
    start orthogonal.
    """

    def __init__(self, features: int, hidden: int, layers: int = 1, cell: Literal["lstm", "gru"] = "lstm") -> None:
        super().__init__()
        if cell not in CELLS:
            raise unknown_name("recurrent cell", cell, CELLS)
        if min(features, hidden, layers) < 1:
            raise ConfigError(f"features={features}, hidden={hidden}, layers={layers}; all must be at least 1")
        self.features, self.hidden, self.layers, self.cell = features, hidden, layers, cell
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.net = kind(features, hidden, layers, batch_first=True)
        for name, value in self.net.named_parameters():
            if name.startswith("weight_hh"):
                for gate in value.data.split(hidden):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias_hh") and cell == "lstm":
                value.data[hidden : 2 * hidden] = 1.0

    @property
    def depth(self) -> int:
        """Number of vectors a row's state is made of."""
        return self.layers * (2 if self.cell == "lstm" else 1)

    def start(self, rows: int) -> Tensor:
        """The state before anything was seen: zeros (rows, depth, hidden)."""
        first = next(self.net.parameters())
        return first.new_zeros(rows, self.depth, self.hidden)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run over a stretch of time.

        Args:
            x: (rows, time, features).
            state: (rows, depth, hidden).

        Returns:
            Outputs of the last layer (rows, time, hidden), and the state after the last step.
        """
        if x.shape[1] == 1 and not torch.is_grad_enabled():
            return self._step(x[:, 0], state)
        packed = state.transpose(0, 1).contiguous()
        if self.cell == "lstm":
            out, (h, c) = self.net(x, (packed[: self.layers], packed[self.layers :]))
            return out, torch.cat([h, c]).transpose(0, 1)
        out, h = self.net(x, packed)
        return out, h.transpose(0, 1)

    def _step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step, without a gradient: the fused layers lay out their weights again at every call.

        At batch 1 that costs several times what the step itself does.
        """
        layers = state.unbind(1)
        hidden, cells = layers[: self.layers], layers[self.layers :]
        after_hidden, after_cells = [], []
        for number, weights in enumerate(self.net.all_weights):
            if self.cell == "lstm":
                x, c = torch.lstm_cell(x, (hidden[number], cells[number]), *weights)
                after_cells.append(c)
            else:
                x = torch.gru_cell(x, hidden[number], *weights)
            after_hidden.append(x)
        return x.unsqueeze(1), torch.stack([*after_hidden, *after_cells], 1)
