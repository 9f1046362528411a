"""The fast parts of SQAIR's guide: look at what is not explained yet, all objects of a frame at once.

Propagation cuts each object out of the frame minus the other objects. Where it went is found by a matched filter: the
object's own picture is correlated with that residual over all shifts within reach, and a small network corrects the
result. Births look at the residual of everything found so far: a peak of its energy gives a box, a look at the box
corrects it, and whether something is born there depends on the energy that no box covers yet and on a network.
Evidence is in nats of the likelihood; it is a function of draws and the frame without gradient, so the bound stays a
bound. Networks run on the slots that hold something, never on empty ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, softplus

from phlogiston.distributions.masked import MaskedNormal
from phlogiston.guides.sqair_parts import Born, Frame, Kept
from phlogiston.models.sqair import LEAST, SQAIRModel
from phlogiston.networks.occupied import Occupied
from phlogiston.networks.perceptron import perceptron
from phlogiston.networks.spatial import cover, crop, displacement, enlarged, moved, paste, scale_of

GRID, FINE = 13, 25  # positions where births may start, and pixels the search looks at, per axis


class ResidualParts(nn.Module):
    """Propagation and discovery from residuals.

    Args:
        model: the model.
        temperature: of the filter's softmax, nats.
        survival_bias: logit of staying for an object whose picture fits as well as an empty position would.

    The other arguments are options of `systems.sqair.config.Config`, described there.
    """

    first_memory = None
    propagation = ("follow.", "mix.", "stay.")
    threshold: Tensor

    def __init__(
        self,
        model: SQAIRModel,
        hidden: int = 128,
        propagation: str = "match",
        reach: int = 7,
        temperature: float = 15.0,
        passes: int = 1,
        survival_bias: float = 3.0,
        freedom: float = 3.0,
        births: str = "energy",
    ) -> None:
        super().__init__()
        self._model = [model]
        self.matching = propagation == "match"
        self.reach, self.temperature, self.passes = reach, temperature, passes
        self.survival_bias, self.freedom, self.births = survival_bias, freedom, births
        channels = model.shape[0]
        pixels = channels * model.glimpse[0] * model.glimpse[1]
        size = model.features
        self.encoder = perceptron([pixels, hidden, hidden, 2 * size], [0.0] * size + [-1.0] * size)
        self.follow = perceptron([pixels + 4 + model.first_memory.shape[0], hidden, 8], _BOX, flat=True)
        self.mix = perceptron([2 * size + model.first_memory.shape[0], hidden, 2 * size], [1.0] * size + [0.0] * size)
        self.stay = perceptron([2 * size + 4, hidden // 2, 1], flat=True)
        self.search = nn.Sequential(
            nn.Conv2d(channels, 8, 5, stride=2, padding=2),
            nn.ELU(),
            nn.Conv2d(8, 1, 3, padding=1),
        )
        self.aim = perceptron([pixels, hidden, 8], _BOX, flat=True)
        self.birth = perceptron([size + 3, hidden // 2, 1], flat=True)
        self.register_buffer("threshold", torch.tensor(100.0))

    @property
    def model(self) -> SQAIRModel:
        """The model it belongs to."""
        return self._model[0]

    def encode(self, video: Tensor) -> None:
        """Nothing is computed once per row here."""
        return

    def where_distribution(self, parameters: tuple[Tensor, Tensor], there: Tensor) -> MaskedNormal:
        """The distribution of propagated boxes."""
        return MaskedNormal(*parameters, there, 2)

    def look(self, picture: Tensor, where: Tensor) -> Tensor:
        """Glimpses (rows, pixels) of boxes."""
        return crop(picture, where, self.model.glimpse).flatten(1)

    # ----- propagation --------------------------------------------------------------------------------------------

    def propagate(self, frame: Frame) -> Kept:
        """Carry objects over from the frame before."""
        model, before, prior = self.model, frame.before, frame.dynamics
        assert before is not None
        assert prior is not None
        occupied = Occupied((before.presence > 0).expand(*frame.lead, -1))
        parent = occupied.parent
        noise = occupied.take(frame.noise[..., : model.slots, :])
        memory = occupied.take(prior.memory)
        what_before = occupied.take(before.what)
        predicted = occupied.take(prior.where_loc)
        others, matched = self._others(frame, occupied, occupied.take(before.glimpse), predicted)
        glance = self.look(others, enlarged(matched, 1.0 if self.matching else 1.5))
        loc, spread = self.follow(torch.cat([glance, matched, memory], -1)).chunk(2, -1)
        base = matched if self.matching else predicted
        where_params = (base + loc, softplus(spread) + LEAST)
        if frame.seen is not None:
            seen = frame.seen[parent].unsqueeze(-1)
            where_params = (
                torch.where(seen, where_params[0], predicted),
                torch.where(seen, where_params[1], occupied.take(prior.where_scale)),
            )
        where = where_params[0] + where_params[1] * noise[:, 1:5]
        code, spread = self.encoder(self.look(others, where)).chunk(2, -1)
        gate, narrow = self.mix(torch.cat([code, what_before, memory], -1)).chunk(2, -1)
        gate = torch.sigmoid(gate - 2.0)
        what_params = (what_before + gate * (code - what_before), softplus(spread + narrow - 1.5) + LEAST)
        if frame.seen is not None:
            what_params = (
                torch.where(seen, what_params[0], occupied.take(prior.what_loc)),
                torch.where(seen, what_params[1], occupied.take(prior.what_scale)),
            )
        what = what_params[0] + what_params[1] * noise[:, 5:]
        glimpse = model.decode(what)
        layers = paste(glimpse[:, : model.shape[0]], where, *model.shape[1:])
        gain = self._gain(layers, others)
        features = torch.stack([torch.tanh(gain / 50.0), torch.tanh(gain / 300.0)], -1)
        free = self.stay(torch.cat([what, what_before, features, where[:, :2]], -1)).squeeze(-1)
        logits = self.survival_bias + (gain / 20.0).clamp(-7.0, 6.0) + self.freedom * torch.tanh(free)
        if frame.seen is not None:
            logits = torch.where(seen.squeeze(-1), logits, occupied.take(prior.presence))
        stays = _coin(noise[:, 0], logits)
        canvas = layers.new_zeros(frame.pixels.shape).index_add(0, parent, layers * stays[:, None, None, None])
        there = stays.unsqueeze(-1)
        return Kept(
            occupied.put(stays),
            occupied.put(where * there),
            occupied.put(what * there),
            occupied.put(logits),
            (occupied.put(where_params[0]), occupied.put(where_params[1])),
            (occupied.put(what_params[0]), occupied.put(what_params[1])),
            occupied.put(glimpse * stays[:, None, None, None]),
            canvas,
        )

    @torch.no_grad()
    def _others(self, frame: Frame, occupied: Occupied, glimpse: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """The frame minus all other objects, (rows, channels, height, width), and each object's matched box."""
        model = self.model
        height, width = model.shape[1:]
        pictures = glimpse[:, : model.shape[0]]
        parent = occupied.parent
        where = predicted.detach()
        ground = frame.pixels.index_select(0, parent)
        for turn in range(self.passes if self.matching else 0):
            own = paste(pictures, where, height, width)
            residual = ground - self._rest(own, parent, frame)
            nats = self.temperature * float(model.std) ** 2
            where = moved(where, displacement(own, residual, self.reach, nats), height, width)
            del turn
        own = paste(pictures, where, height, width)
        return ground - self._rest(own, parent, frame), where

    def _rest(self, own: Tensor, parent: Tensor, frame: Frame) -> Tensor:
        total = own.new_zeros(frame.pixels.shape).index_add(0, parent, own)
        if self.model.background == "static":
            total = total + self.model.picture
        return total.index_select(0, parent) - own

    @torch.no_grad()
    def _gain(self, layers: Tensor, residual: Tensor) -> Tensor:
        """By how many nats a picture makes the residual more probable, (rows,)."""
        return (layers * (residual - 0.5 * layers)).sum((1, 2, 3)) / self.model.std.square()

    # ----- discovery ----------------------------------------------------------------------------------------------

    def discover(self, frame: Frame, kept: Kept | None, capacity: Tensor, most: int) -> Born:
        """Look for new objects, one after the other."""
        model = self.model
        rows = len(frame.pixels)
        flat = capacity.reshape(-1)
        canvas = frame.pixels.new_zeros(frame.pixels.shape) if kept is None else kept.canvas
        covered = self._covered(frame, kept)
        births = torch.zeros(rows, dtype=torch.long, device=flat.device)
        parts: list[tuple[Tensor, ...]] = []
        for k in range(most):
            noise = frame.noise[..., model.slots + k, :].reshape(rows, -1)
            possible = Occupied((births == k) & (flat > k))
            promising = self._promising(frame, canvas, covered, possible)
            # where nothing is to be seen a birth is as good as excluded, and nothing needs to be computed
            alive = Occupied(promising | (possible.put(_coin(possible.take(noise[:, 0]), _FLOOR)) > 0))
            if frame.before is not None and not len(alive):
                parts.append(self._nothing(rows, canvas))
                continue
            residual = alive.take(frame.pixels) - alive.take(canvas)
            if model.background == "static":
                residual = residual - model.picture
            hidden = None if frame.seen is None else alive.take(frame.seen)
            drawn = self._candidate(residual, alive.take(covered), alive.take(noise), hidden, alive.take(promising))
            new, where, what, logit, glimpse = drawn[:5]
            layers = paste(glimpse[:, : model.shape[0]], where, *model.shape[1:])
            canvas = canvas.index_add(0, alive.index, layers * new[:, None, None, None])
            births = births.index_add(0, alive.index, new.long())
            if k + 1 < most:
                with torch.no_grad():
                    box = cover(where, *model.shape[1:], model.glimpse) * new[:, None, None]
                    covered = covered.index_add(0, alive.index, box)
            there = new.unsqueeze(-1)
            rest = (where * there, what * there, *drawn[5:], glimpse * new[:, None, None, None])
            logits = (logit.new_full((rows,), _FLOOR)).index_copy(0, alive.index, logit)
            parts.append((logits, *(alive.put(part) for part in rest)))
        stacked = [torch.stack(column, 1) for column in zip(*parts, strict=True)]

        def shaped(part: Tensor) -> Tensor:
            return part.reshape(*frame.lead, *part.shape[1:])

        logits, where, what, where_loc, where_scale, what_loc, what_scale, glimpse = map(shaped, stacked)
        return Born(
            births.reshape(frame.lead),
            logits,
            where,
            what,
            (where_loc, where_scale),
            (what_loc, what_scale),
            glimpse,
            canvas,
        )

    @torch.no_grad()
    def _covered(self, frame: Frame, kept: Kept | None) -> Tensor:
        """How much of each pixel lies in boxes of objects that stay, (R, height, width)."""
        height, width = self.model.shape[1:]
        out = frame.pixels.new_zeros(len(frame.pixels), height, width)
        if kept is None:
            return out
        occupied = Occupied(kept.presence > 0)
        return out.index_add(0, occupied.parent, cover(occupied.take(kept.where), height, width, self.model.glimpse))

    def _nothing(self, rows: int, like: Tensor) -> tuple[Tensor, ...]:
        """What is said of a birth that is looked for nowhere."""
        model = self.model
        size = model.features
        widths = (4, size, 4, 4, size, size)
        glimpse = like.new_zeros(rows, model.planes, *model.glimpse)
        return (like.new_full((rows,), _FLOOR), *(like.new_zeros(rows, n) for n in widths), glimpse)

    @torch.no_grad()
    def _promising(self, frame: Frame, canvas: Tensor, covered: Tensor, possible: Occupied) -> Tensor:
        """Rows where something might be born: some window holds energy to speak of, or the frame is hidden."""
        if self.births != "energy":
            return possible.put(torch.ones(len(possible), dtype=torch.bool, device=canvas.device))
        residual = possible.take(frame.pixels) - possible.take(canvas)
        if self.model.background == "static":
            residual = residual - self.model.picture
        energy = self._uncovered(residual, possible.take(covered))
        rows, columns = self._windows(energy, _wide)
        strong = (rows @ energy @ columns.T).flatten(1).amax(1) > _SLIGHT * self.threshold
        if frame.seen is not None:
            strong = strong | ~possible.take(frame.seen)
        return possible.put(strong)

    def _uncovered(self, residual: Tensor, covered: Tensor) -> Tensor:
        """Energy of each pixel in nats, as far as no box covers it, (rows, height, width)."""
        energy = residual.square().sum(1)
        return energy * (1.0 - covered).clamp_(min=0.0) / (2.0 * self.model.std.square())

    def _candidate(
        self, residual: Tensor, covered: Tensor, noise: Tensor, seen: Tensor | None, promising: Tensor
    ) -> tuple[Tensor, ...]:
        """Draw a box and an appearance for something new, and whether it is there.

        Returns:
            Birth (rows,), where, what, logit, glimpse, and loc and scale of where and of what.
        """
        model = self.model
        peak = self._peak(residual, covered)
        start = torch.cat([model.where_loc.detach()[:2].expand(len(peak), 2), torch.atanh(peak)], -1)
        loc, spread = self.aim(self.look(residual, enlarged(start, 1.2))).chunk(2, -1)
        where_params = (start + loc, softplus(spread) + LEAST)
        prior = (model.where_loc, softplus(model.where_spread) + LEAST)
        if seen is not None:
            there = seen.unsqueeze(-1)
            where_params = (
                torch.where(there, where_params[0], prior[0]),
                torch.where(there, where_params[1], prior[1]),
            )
        where = where_params[0] + where_params[1] * noise[:, 1:5]
        code, spread = self.encoder(self.look(residual, where)).chunk(2, -1)
        what_params = (code, softplus(spread) + LEAST)
        if seen is not None:
            what_params = (torch.where(there, code, 0.0), torch.where(there, what_params[1], 1.0))
        what = what_params[0] + what_params[1] * noise[:, 5:]
        glimpse = model.decode(what)
        evidence = self._evidence(residual, covered, where)
        features = torch.cat([torch.stack([torch.tanh(evidence - 1.0), torch.tanh(evidence / 4)], -1)], -1)
        free = self.birth(torch.cat([what, features, where[:, :1]], -1)).squeeze(-1)
        if self.births == "energy":
            logit = (5.0 * (evidence - 1.0)).clamp(-5.0, 6.0) + self.freedom * torch.tanh(free)
        else:
            logit = free + 1.0
        if seen is not None:
            logit = torch.where(seen, logit, self._hidden_logit())
        logit = torch.where(promising, logit, _FLOOR)
        return (_coin(noise[:, 0], logit), where, what, logit, glimpse, *where_params, *what_params)

    def _hidden_logit(self) -> Tensor:
        """Logit of a birth that cannot be seen: the prior's."""
        chance = torch.softmax(self.model.later_logits, -1)
        return torch.logit(1.0 - chance[0], eps=1e-6)

    @torch.no_grad()
    def _evidence(self, residual: Tensor, covered: Tensor, where: Tensor) -> Tensor:
        """Energy in the box that no other box covers, as a share of the least energy of an object, (rows,)."""
        model = self.model
        box = cover(where, *model.shape[1:], model.glimpse)
        return (self._uncovered(residual, covered) * box).sum((1, 2)) / self.threshold

    def _peak(self, residual: Tensor, covered: Tensor) -> Tensor:
        """Where to look: mean of a softmax around the highest peak, (rows, 2) as (x, y) in -0.98 .. 0.98."""
        coarse = adaptive_avg_pool2d(residual.detach(), FINE)
        with torch.no_grad():
            rows, columns = self._windows(residual, _triangle)
            blurred = rows @ self._uncovered(residual, covered) @ columns.T
        score = blurred / (0.2 * self.threshold) + self.search(coarse).squeeze(1)
        flat = score.flatten(1)
        best = flat.detach().argmax(1)
        steps = torch.linspace(-1.0, 1.0, GRID, device=residual.device, dtype=residual.dtype)
        ticks = torch.arange(GRID, device=residual.device)
        near_row = (ticks - torch.div(best, GRID, rounding_mode="floor").unsqueeze(1)).abs() <= 2
        near_column = (ticks - (best % GRID).unsqueeze(1)).abs() <= 2
        near = (near_row.unsqueeze(2) & near_column.unsqueeze(1)).flatten(1)
        chance = torch.softmax(torch.where(near, flat, -torch.inf), -1).reshape(score.shape)
        centre = torch.stack([chance.sum(1) @ steps, chance.sum(2) @ steps], -1)
        return centre.clamp(-0.98, 0.98)

    def _windows(self, like: Tensor, shape: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Weights (GRID, height) and (GRID, width) of windows of an object's size around the points of the grid."""
        extent = scale_of(self.model.where_loc.detach())  # (x, y) as shares of the picture
        centres = torch.linspace(-1.0, 1.0, GRID, device=like.device, dtype=like.dtype).unsqueeze(1)
        out = []
        for axis, size in ((1, self.model.shape[1]), (0, self.model.shape[2])):
            pixels = torch.linspace(-1.0, 1.0, size, device=like.device, dtype=like.dtype)
            out.append(shape((centres - pixels).abs() / extent[axis]))
        return out


def _triangle(apart: Tensor) -> Tensor:
    return torch.relu(1.0 - apart / 1.2)


def _wide(apart: Tensor) -> Tensor:
    return (apart < 1.1).to(apart.dtype)


_FLOOR = -12.0  # logit of a birth where nothing is to be seen
_SLIGHT = 0.35  # share of the least energy of an object below which nothing is to be seen
_BOX = [0.0] * 4 + [-3.0] * 4


def _coin(noise: Tensor, logits: Tensor | float) -> Tensor:
    """Heads (1.0) with probability sigma(logits), from standard normal noise."""
    with torch.no_grad():
        chance = torch.sigmoid(torch.as_tensor(logits, dtype=noise.dtype, device=noise.device))
        return (torch.special.ndtr(noise) < chance).to(noise.dtype)
