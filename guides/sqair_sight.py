"""How much of an object can be seen: where it leaves the picture or goes behind something, the guide trusts the prior.

An object that nobody can see is neither refuted nor confirmed by the frame. The guide then proposes what the dynamics
predict: it stays with the prior's probability, moves as it moved, and looks as it looked. In between, the evidence
counts by the energy of that part of the object that shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phlogiston.models.sqair import SQAIRModel
from phlogiston.models.sqair_state import Dynamics
from phlogiston.networks.occupied import Occupied
from phlogiston.networks.spatial import Pair, crop, moved, partly_seen, pixel_spread, shift_of

_NATS = 2.0  # temperature of the filter: what little shows of an object must outweigh where it was expected
_HALF = 10.0  # nats of visible energy at which frame and prior count alike
_BRIGHTER = 0.5  # by how much a picture is brighter than the others where it surely shows the object
_NARROWEST = 0.25  # of the reach: the prior of a shift is taken to be no narrower, for dynamics yet unlearned,
_NARROW = 3.0  # but pixels at most: a far reach finds again what strayed while it was hidden, nothing more


@dataclass
class Sight:
    """What can be seen of objects, without gradient.

    Attributes:
        clear: (rows, 1) in 0 .. 1, how much the frame says about each.
        look: (rows, channels, gh, gw), how each looked in the frame before.
        window: (rows, 1, height, width) or (height, width) in 0 .. 1, which pixels show something of it; None for all.
    """

    clear: Tensor
    look: Tensor
    window: Tensor | None

    @torch.no_grad()
    def complete(self, model: SQAIRModel, where: Tensor, cut: Pair) -> Tensor:
        """What to add to a glimpse (rows, pixels) at a box: the part that cannot be seen, as it looked before."""
        height, width = model.shape[1:]
        window = where.new_ones(height, width) if self.window is None else self.window
        shown = crop(window.expand(len(where), 1, height, width), where, model.glimpse, span=model.span, weights=cut)
        return ((1.0 - shown) * self.look).flatten(1)

    def between(self, prior: Tensor, seen: Tensor) -> Tensor:
        """A location between what the prior expects and what the frame shows, (rows, n)."""
        return prior + self.clear * (seen - prior)

    def spread(self, prior: Tensor, seen: Tensor) -> Tensor:
        """The same of standard deviations: between them in the logarithm."""
        return prior.pow(1.0 - self.clear) * seen.pow(self.clear)


def found(
    model: SQAIRModel,
    pictures: Tensor,
    residual: Tensor,
    before: Tensor,
    prior: Dynamics,
    reach: int,
    precision: Tensor,
    window: Tensor | None = None,
) -> Tensor:
    """Boxes where objects fit best, (rows, 4): within reach of where they were, rather where the dynamics expect them.

    Args:
        model: the model.
        pictures: (rows, channels, gh, gw), how objects look.
        residual: (rows, channels, height, width), the frame minus everything else, zero where `window` is.
        before: (rows, 4), the boxes of the frame before.
        prior: the dynamics, of the same rows.
        reach: pixels searched each way.
        precision: one over the variance of a pixel.
        window: which pixels show something of these objects, see `Sight`.
    """
    height, width = model.shape[1:]
    seen = residual.new_ones(height, width) if window is None else window.reshape(-1, height, width)
    start = torch.cat([prior.where_loc[:, :2], before[:, 2:]], -1)
    pixels = torch.tensor([width - 1.0, height - 1.0], device=before.device) / 2.0
    expected = (shift_of(prior.where_loc, model.span) - shift_of(before, model.span)) * pixels
    spread = pixel_spread(prior.where_loc, prior.where_scale, height, width, model.span).clamp(
        min=min(_NARROWEST * reach, _NARROW)
    )
    template = model.place(pictures, start, margin=reach)
    step = partly_seen(template, residual, seen, reach, _NATS / precision, expected, spread)
    return moved(start, step, height, width, model.span)


@torch.no_grad()
def sight(pictures: Tensor, own: Tensor, precision: Tensor, window: Tensor | None = None) -> Sight:
    """What can be seen of objects.

    Args:
        pictures: (rows, channels, gh, gw), how they look.
        own: (rows, channels, height, width), these where they are, as far as they show.
        precision: one over the variance of a pixel.
        window: which pixels show something of them, see `Sight`.
    """
    own = own if window is None else own * window
    energy = 0.5 * precision * own.square().sum((1, 2, 3))
    return Sight((energy / (energy + _HALF)).unsqueeze(-1), pictures, window)


@torch.no_grad()
def brightest_other(own: Tensor, occupied: Occupied) -> Tensor:
    """The brightest of all other objects of the same picture, in each pixel; zero where there is none.

    Args:
        own: (rows, channels, height, width), each object alone.
        occupied: the slots that the rows are.
    """
    slots = occupied.shape[-1]
    whole = occupied.put(own).reshape(-1, slots, *own.shape[1:])
    first, which = whole.max(1, keepdim=True)
    second = whole.scatter(1, which, 0.0).amax(1, keepdim=True)
    mine = torch.arange(slots, device=own.device).reshape(-1, 1, 1, 1) == which
    return occupied.take(torch.where(mine, second, first).reshape(*occupied.shape, *own.shape[1:]))


@torch.no_grad()
def in_front(ground: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """What a picture says about one object where only the brightest shows in each pixel.

    Where the picture is brighter than all others it is the object; where the others are bright enough to explain it,
    the object may be anything that is less bright, and nothing is said.

    Args:
        ground: (rows, channels, height, width), the picture.
        rest: the same shape, the brightest of the others.

    Returns:
        The part that speaks of the object, zero where nothing does; and how much each pixel says,
        (rows, 1, height, width) in 0 .. 1.
    """
    more = ((ground - rest) / _BRIGHTER).clamp_(0.0, 1.0)
    window = torch.maximum(more, 1.0 - rest).amin(1, keepdim=True).clamp_(0.0, 1.0)
    return (ground - (1.0 - more) * rest) * window, window
