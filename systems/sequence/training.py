"""How models of sequences are trained: the likelihood without a program around it, and the state carried from window to
window, so that gradients are cut but memory is not (truncated back-propagation through time).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phlogiston.models.sequence import MDNRNN


class CarriedLikelihood(nn.Module):
    """Minus the log likelihood, summed over the batch and divided by the mean number of steps of a row.

    The loss the engine shows is thus in nats per step. Buffers hold the network's state after each track's last window
    and where that window lay: a window that follows continues from that state, any other begins anew. They are saved
    with the run, so that a resumed run goes on bit for bit.

    Args:
        model: the program.
        guide: unused; there are no latents.
        mean_steps: steps that count per training row; validation rows bring their own number.
        tracks: rows of a batch; 0 carries nothing.
        last_only: in training, count the last step of every row alone, for rows that are `Endings`.
    """

    state: Tensor
    place: Tensor

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module | None = None,
        mean_steps: float = 1.0,
        tracks: int = 0,
        last_only: bool = False,
    ) -> None:
        super().__init__()
        assert isinstance(model, MDNRNN)
        self.model = model
        self.mean_steps, self.last_only = mean_steps, last_only
        self.register_buffer("state", model.rnn.start(tracks).detach())
        self.register_buffer("place", torch.full((tracks, 2), -1))

    def forward(
        self,
        x: Tensor,
        length: Tensor,
        last: Tensor | None = None,
        seen: Tensor | None = None,
        place: Tensor | None = None,
        mean_steps: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch: windows (see `inference.svi.sequences.Windows`), or whole sequences.

        Args:
            x: (rows, steps, width).
            length: (rows,).
            last: (rows, 2, width), the two steps before each window.
            seen: (rows,), how many steps came before it.
            place: (rows, 2), the sequence and the number of the window in it.
            mean_steps: (rows,), all equal: steps that count per validation row.
        """
        if self.last_only and self.training:
            prediction, _ = self.model.predictions(x, last, seen)
            return -prediction.log_prob(x).gather(1, (length - 1).unsqueeze(1)).sum()
        if place is None or not len(self.state) or not self.training:
            scores, _ = self.model.log_likelihood(x, length, last, seen)
            return -scores.sum() / (self.mean_steps if mean_steps is None else mean_steps[0])
        rows = len(x)
        follows = (place[:, 0] == self.place[:rows, 0]) & (place[:, 1] == self.place[:rows, 1] + 1)
        hidden = torch.where(follows.reshape(-1, 1, 1), self.state[:rows], 0.0)
        scores, after = self.model.log_likelihood(x, length, last, seen, hidden)
        with torch.no_grad():
            self.state[:rows] = after.detach().to(self.state.dtype)
            self.place[:rows] = place
        return -scores.sum() / self.mean_steps
