"""How drawings are trained on before there is a latent: the decoder by itself learns what drawings are like.

What a decoder knows of drawings in general it need not learn together with a latent, and cheaper steps will do.
Afterwards the latent has only to say what this drawing is.
"""

from __future__ import annotations

from torch import Tensor, nn

from phlogiston.models.sketch import SketchRNN


class DecoderAlone(nn.Module):
    """Minus the log likelihood of drawings under the decoder without a latent, summed over the batch, in nats.

    Args:
        model: the program; its latent has no part in this.
        guide: unused.
    """

    def __init__(self, model: nn.Module, guide: nn.Module | None = None) -> None:
        super().__init__()
        assert isinstance(model, SketchRNN)
        self.model = model

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return -self.model.log_likelihood(x, length).sum()
