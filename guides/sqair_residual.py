"""The fast parts of SQAIR's guide: look at what is not explained yet, all objects of a frame at once.

Propagation cuts each object out of the frame minus the other objects. Where it went is found by a matched filter: the
object's own picture is correlated with that residual over all shifts within reach, and a small network corrects the
result. Births look at the residual of everything found so far: a peak of its energy gives a box, a look at the box
corrects it, and whether something is born there depends on the energy that no box covers yet and on a network.
Evidence is in nats of the likelihood; it is a function of draws and the frame without gradient, so the bound stays a
bound. Networks run on the slots that hold something, never on empty ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, softplus

from phlogiston.distributions.masked import MaskedNormal
from phlogiston.guides.sqair_draws import draw, mean_point
from phlogiston.guides.sqair_parts import Born, Frame, Kept
from phlogiston.guides.sqair_sight import Sight, brightest_other, found, in_front, sight
from phlogiston.models.sqair import LEAST, SQAIRModel
from phlogiston.models.sqair_state import Dynamics, State
from phlogiston.networks.occupied import Occupied
from phlogiston.networks.perceptron import applied, perceptron
from phlogiston.networks.spatial import Pair, boxed, crop, displacement, enlarged, framing, moved, scale_of

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
    gains: Tensor
    grid: Tensor
    far: Tensor
    floor: Tensor

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
        grid, far = _grid()
        for name, value in (("grid", grid), ("far", far), ("floor", torch.tensor(_FLOOR))):
            self.register_buffer(name, value, persistent=False)
        # how the gain in nats is shown to the network that decides on staying
        self.register_buffer("gains", torch.tensor([1 / 50.0, 1 / 300.0]), persistent=False)

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

    def look(self, picture: Tensor, where: Tensor, weights: Pair | None = None) -> Tensor:
        """Glimpses (rows, pixels) of boxes."""
        return crop(picture, where, self.model.glimpse, span=self.model.span, weights=weights).flatten(1)

    def _framing(self, where: Tensor) -> tuple[Pair, Pair]:
        """Weights to look at boxes with, and to paste what is in them."""
        return framing(where, *self.model.shape[1:], self.model.glimpse, self.model.span)

    # ----- propagation --------------------------------------------------------------------------------------------

    def propagate(self, frame: Frame) -> Kept:
        """Carry objects over from the frame before."""
        model, before, prior = self.model, frame.before, frame.dynamics
        assert before is not None
        assert prior is not None
        occupied, rows = self._objects(frame)
        parent = occupied.parent
        noise = occupied.take(frame.noise[..., : model.slots, :])
        what_before = occupied.take(before.what) if rows.what is None else rows.what
        others, matched, cut, seen_part = self._others(frame, occupied, before, rows)
        glance = self.look(others, matched, cut) if self.matching else self.look(others, enlarged(matched, 1.5))
        if seen_part is not None:
            glance = glance + seen_part.complete(model, matched, cut)
        told = applied(model.shared, self.follow, torch.cat([glance, matched, rows.memory], -1))
        where_params, where = draw(told, matched if self.matching else rows.where_loc, noise[:, 1:5])
        if seen_part is not None:
            where_params = (
                seen_part.between(rows.where_loc, where_params[0]),
                seen_part.spread(rows.where_scale, where_params[1]),
            )
        if frame.seen is not None:
            seen = frame.seen[parent].unsqueeze(-1)
            where_params = (
                torch.where(seen, where_params[0], rows.where_loc),
                torch.where(seen, where_params[1], rows.where_scale),
            )
        if seen_part is not None or frame.seen is not None:
            where = torch.addcmul(where_params[0], where_params[1], noise[:, 1:5])
        cut, put = self._framing(where)
        glance = self.look(others, where, cut)
        if seen_part is not None:
            glance = glance + seen_part.complete(model, where, cut)
        code, spread = applied(model.shared, self.encoder, glance).chunk(2, -1)
        gate, narrow = applied(model.shared, self.mix, torch.cat([code, what_before, rows.memory], -1)).chunk(2, -1)
        what_params = (
            what_before + torch.sigmoid(gate - 2.0) * (code - what_before),
            softplus(spread + narrow - 1.5) + LEAST,
        )
        if seen_part is not None:
            what_params = (
                seen_part.between(rows.what_loc, what_params[0]),
                seen_part.spread(rows.what_scale, what_params[1]),
            )
        if frame.seen is not None:
            what_params = (
                torch.where(seen, what_params[0], rows.what_loc),
                torch.where(seen, what_params[1], rows.what_scale),
            )
        what = torch.addcmul(what_params[0], what_params[1], noise[:, 5:])
        glimpse = model.decode(what)
        layers = model.place(glimpse[:, : model.shape[0]], where, put)
        gain = self._gain(layers, others, None if seen_part is None else seen_part.window)
        features = torch.tanh(gain.unsqueeze(-1) * self.gains)
        free = applied(model.shared, self.stay, torch.cat([what, what_before, features, where[:, :2]], -1)).squeeze(-1)
        evidence = (gain / 20.0).clamp(-7.0, 6.0).add(torch.tanh(free), alpha=self.freedom)
        logits = evidence + self.survival_bias
        if seen_part is not None:
            logits = evidence + (rows.presence.detach() - _DOUBT).clamp(min=self.survival_bias)
            logits = seen_part.between(rows.presence.unsqueeze(-1), logits.unsqueeze(-1)).squeeze(-1)
        if frame.seen is not None:
            logits = torch.where(seen.squeeze(-1), logits, rows.presence)
        stays = occupied.counting(_coin(noise[:, 0], logits))
        there, shown = stays.unsqueeze(-1), stays[:, None, None, None]
        canvas = model.paint(layers * shown, occupied, torch.Size([len(frame.pixels)]))
        drawn = torch.cat([where, what], -1) * there
        packed = occupied.put(torch.cat([there, drawn, logits.unsqueeze(-1), *where_params, *what_params], -1))
        size = model.features
        presence, where, what, logits, *params = packed.split((1, 4, size, 1, 4, 4, size, size), -1)
        return Kept(
            presence.squeeze(-1),
            where,
            what,
            logits.squeeze(-1),
            (params[0], params[1]),
            (params[2], params[3]),
            occupied.put(glimpse * shown),
            canvas,
            covered=self._covered(frame, occupied, put, stays),
        )

    def _objects(self, frame: Frame) -> tuple[Occupied, Dynamics]:
        """The slots that hold something, and the prior's step for these."""
        before, prior = frame.before, frame.dynamics
        assert before is not None
        assert prior is not None
        shape = torch.Size([*frame.lead, self.model.slots])
        if prior.occupied is not None and prior.rows is not None and prior.occupied.shape == shape:
            return prior.occupied, prior.rows
        occupied = Occupied((before.presence > 0).expand(shape))

        def rows(part: Tensor) -> Tensor:
            return occupied.take(part.expand(*shape, *part.shape[before.presence.dim() :]))

        return occupied, Dynamics(
            rows(prior.presence),
            rows(prior.where_loc),
            rows(prior.where_scale),
            rows(prior.what_loc),
            rows(prior.what_scale),
            rows(prior.memory),
        )

    @property
    def precision(self) -> Tensor:
        """One over the variance of a pixel, without gradient."""
        with torch.no_grad():
            spread = self.model.pixel_spread
            result: Tensor = self.model.shared("precision", (spread,), lambda: self.model.std.square().reciprocal())
            return result

    @torch.no_grad()
    def _others(
        self, frame: Frame, occupied: Occupied, before: State, prior: Dynamics
    ) -> tuple[Tensor, Tensor, Pair, Sight | None]:
        """The frame minus all other objects, (rows, channels, height, width), each object's matched box, the weights to
        look at it with, and how much of it can be seen where the model lets objects hide.
        """
        model = self.model
        pictures = occupied.take(before.glimpse)[:, : model.shape[0]]
        parent = occupied.parent
        where = prior.where_loc.detach()
        ground = frame.pixels.index_select(0, parent)
        for _ in range(self.passes if self.matching else 0):
            own = model.place(pictures, where)
            residual, window = self._speaks_of(ground, own, occupied, frame)
            if model.hides:
                last = occupied.take(before.where)
                where = found(model, pictures, residual, last, prior, self.reach, self.precision, window)
            else:
                nats = self.temperature / self.precision
                where = moved(where, displacement(own, residual, self.reach, nats), *model.shape[1:])
        cut, put = self._framing(where)
        own = model.place(pictures, where, put)
        others, window = self._speaks_of(ground, own, occupied, frame)
        return others, where, cut, sight(pictures, own, self.precision, window) if model.hides else None

    def _speaks_of(self, ground: Tensor, own: Tensor, occupied: Occupied, frame: Frame) -> tuple[Tensor, Tensor | None]:
        """What frames (rows, channels, height, width) say about each object given all others, zero where they say
        nothing; and which pixels say something, (rows, 1, height, width) or (height, width), None for all.
        """
        model, parent = self.model, occupied.parent
        if model.renderer == "max":
            return in_front(ground, brightest_other(own, occupied))
        total = own.new_zeros(frame.pixels.shape).index_add(0, parent, own)
        if model.background == "static":
            total = total + model.picture
        residual = ground - (total.index_select(0, parent) - own)
        return (residual * model.open, model.open) if model.screen else (residual, None)

    @torch.no_grad()
    def _gain(self, layers: Tensor, residual: Tensor, window: Tensor | None = None) -> Tensor:
        """By how many nats a picture makes the residual more probable, as far as it shows, (rows,)."""
        shown = layers if window is None else layers * window
        return (layers * torch.sub(residual, shown, alpha=0.5)).sum((1, 2, 3)) * self.precision

    # ----- discovery ----------------------------------------------------------------------------------------------

    def discover(self, frame: Frame, kept: Kept | None, capacity: Tensor, most: int) -> Born:
        """Look for new objects, one after the other."""
        model = self.model
        rows = len(frame.pixels)
        flat = capacity.reshape(-1)
        size = model.features
        canvas = frame.pixels.new_zeros(frame.pixels.shape) if kept is None else kept.canvas
        covered = canvas.new_zeros(rows, *model.shape[1:]) if kept is None or kept.covered is None else kept.covered
        births = torch.zeros(rows, dtype=torch.long, device=flat.device)
        parts: list[Tensor] = []
        for k in range(most):
            noise = frame.noise[..., model.slots + k, :].reshape(rows, -1)
            possible = (births == k) & (flat > k) if k else flat > 0
            residual = frame.pixels - canvas
            if model.background == "static":
                residual = residual - model.picture
            if model.screen:
                residual = residual * model.open
            energy = self._uncovered(residual, covered)
            strong, near = self._windowed(energy)
            if frame.seen is not None:
                strong = strong | ~frame.seen
            # where nothing is to be seen a birth is as good as excluded, and nothing needs to be computed
            alive = Occupied(possible & (strong | (noise[:, 0] < _RARE)))
            if frame.before is not None and not len(alive):
                parts.append(canvas.new_zeros(rows, 12 + 3 * size + 1 + model.planes * math.prod(model.glimpse)))
                continue
            hidden = None if frame.seen is None else alive.take(frame.seen)
            new, told, glimpse, layers, put = self._candidate(
                alive.take(residual),
                alive.take(energy),
                alive.take(near),
                alive.take(noise),
                alive.take(strong),
                hidden,
            )
            new = alive.counting(new)
            shown = new[:, None, None, None]
            layers = layers * shown
            if model.renderer == "max":
                layers = torch.relu(layers - canvas.index_select(0, alive.index))
            canvas = canvas.index_add(0, alive.index, layers)
            births = births.index_add(0, alive.index, new.long())
            if k + 1 < most:
                with torch.no_grad():
                    covered = covered.index_add(0, alive.index, boxed(put) * shown.squeeze(1))
            *params, drawn, logit = told
            there = torch.cat([drawn, glimpse.flatten(1)], -1) * new.unsqueeze(-1)
            parts.append(alive.put(torch.cat([*params, (logit - _FLOOR).unsqueeze(-1), there], -1)))
        whole = torch.stack(parts, 1) if most > 1 else parts[0].unsqueeze(1)
        whole = whole.reshape(*frame.lead, *whole.shape[1:])
        widths = (4, 4, size, size, 1, 4, size, model.planes * math.prod(model.glimpse))
        *params, logits, where, what, glimpse = whole.split(widths, -1)
        return Born(
            births.reshape(frame.lead),
            logits.squeeze(-1) + _FLOOR,
            where,
            what,
            (params[0], params[1]),
            (params[2], params[3]),
            glimpse.reshape(*glimpse.shape[:-1], model.planes, *model.glimpse),
            canvas,
        )

    @torch.no_grad()
    def _covered(self, frame: Frame, occupied: Occupied, put: Pair, stays: Tensor) -> Tensor:
        """How much of each pixel lies in boxes of objects that stay, (R, height, width)."""
        out = frame.pixels.new_zeros(len(frame.pixels), *self.model.shape[1:])
        return out.index_add(0, occupied.parent, boxed(put) * stays[:, None, None])

    @torch.no_grad()
    def _windowed(self, energy: Tensor) -> tuple[Tensor, Tensor]:
        """Where something might be born.

        Args:
            energy: (rows, height, width), of pixels that no box covers, nats.

        Returns:
            bool (rows,), whether some window holds energy to speak of; and the energy around each point of the grid in
            fifths of an object's least, (rows, GRID, GRID).
        """
        rows, columns = self._windows()
        count, height, width = energy.shape
        across = (energy.reshape(count * height, width) @ columns).reshape(count, height, 2 * GRID)
        whole = torch.bmm(rows.expand(count, 2 * GRID, height), across)
        if self.births != "energy":
            strong = torch.ones(count, dtype=torch.bool, device=energy.device)
        else:
            strong = whole[:, :GRID, :GRID].amax((1, 2)) > 1.0
        return strong, whole[:, GRID:, GRID:]

    @torch.no_grad()
    def _uncovered(self, residual: Tensor, covered: Tensor) -> Tensor:
        """Energy of each pixel in nats, as far as no box covers it, (rows, height, width)."""
        energy = residual.square().sum(1)
        return energy * (1.0 - covered).clamp_(min=0.0) * (0.5 * self.precision)

    def _candidate(
        self, residual: Tensor, energy: Tensor, near: Tensor, noise: Tensor, strong: Tensor, seen: Tensor | None
    ) -> tuple[Tensor, list[Tensor], Tensor, Tensor, Pair]:
        """Draw a box and an appearance for something new, and whether it is there.

        Returns:
            Birth (rows,); loc and scale of where and of what, where and what side by side, and the logit; glimpse; the
            glimpse in an empty picture; and the weights it is pasted with.
        """
        model = self.model
        shift = self._peak(residual, near)
        usual, wide = self._usual_sizes()
        rows = len(shift)
        glance = self.look(residual, torch.cat([wide.expand(rows, 2), shift], -1))
        base = torch.cat([usual.expand(rows, 2), shift], -1)
        where_params, where = draw(applied(model.shared, self.aim, glance), base, noise[:, 1:5])
        if seen is not None:
            there = seen.unsqueeze(-1)
            prior = (model.where_loc, softplus(model.where_spread) + LEAST)
            where_params = (
                torch.where(there, where_params[0], prior[0]),
                torch.where(there, where_params[1], prior[1]),
            )
            where = torch.addcmul(where_params[0], where_params[1], noise[:, 1:5])
        cut, put = self._framing(where)
        told = applied(model.shared, self.encoder, self.look(residual, where, cut))
        what_params, what = draw(told, None, noise[:, 5:])
        if seen is not None:
            what_params = (torch.where(there, what_params[0], 0.0), torch.where(there, what_params[1], 1.0))
            what = torch.addcmul(what_params[0], what_params[1], noise[:, 5:])
        glimpse = model.decode(what)
        layers = model.place(glimpse[:, : model.shape[0]], where, put)
        with torch.no_grad():  # energy in the box that no other box covers, as a share of the least of an object
            evidence = (energy * boxed(put)).sum((1, 2)) / self.threshold
            features = torch.tanh(torch.stack([evidence - 1.0, evidence / 4], -1))
        free = applied(model.shared, self.birth, torch.cat([what, features, where[:, :1]], -1)).squeeze(-1)
        if self.births == "energy":
            logit = (5.0 * (evidence - 1.0)).clamp(-5.0, 6.0).add(torch.tanh(free), alpha=self.freedom)
        else:
            logit = free + 1.0
        if seen is not None:
            logit = torch.where(seen, logit, self._hidden_logit())
        logit = torch.where(strong, logit, self.floor)
        said = [*where_params, *what_params, torch.cat([where, what], -1), logit]
        return _coin(noise[:, 0], logit), said, glimpse, layers, put

    @torch.no_grad()
    def _usual_sizes(self) -> Pair:
        """Logits of a typical new box's scale, and of one 1.2 times as large."""

        def compute() -> Pair:
            usual = model.where_loc.detach()
            return usual[:2], enlarged(usual, 1.2)[:2]

        model = self.model
        result: Pair = model.shared("usual sizes", (model.where_loc,), compute)
        return result

    def _hidden_logit(self) -> Tensor:
        """Logit of a birth that cannot be seen: the prior's."""
        chance = torch.softmax(self.model.later_logits, -1)
        return torch.logit(1.0 - chance[0], eps=1e-6)

    def _peak(self, residual: Tensor, near: Tensor) -> Tensor:
        """Where to look, the logits of a box's shift (rows, 2): mean of a softmax around the highest peak."""
        coarse = adaptive_avg_pool2d(residual.detach(), FINE)
        flat = (near + self.search(coarse).squeeze(1)).flatten(1)
        best = flat.detach().argmax(1)
        far = self.far.index_select(0, best)
        return mean_point(flat, far, self.grid, self.model.span)

    def _windows(self) -> Pair:
        """Weights (2 GRID, height) and (width, 2 GRID) of windows of an object's size around the points of the grid:
        flat ones, in units of the least energy to speak of, then triangles, in fifths of an object's least energy.
        """
        loc, size = self.model.where_loc, self.model.shape[1:]

        def compute() -> Pair:
            extent = scale_of(loc.detach())  # (x, y) as shares of the picture
            centres = torch.linspace(-1.0, 1.0, GRID, device=loc.device, dtype=loc.dtype).unsqueeze(1)
            pixels = (torch.linspace(-1.0, 1.0, n, device=loc.device, dtype=loc.dtype) for n in size)
            apart = [(centres - p).abs() / extent[i] for p, i in zip(pixels, (1, 0), strict=True)]
            rows, columns = (torch.cat([_wide(gap), _triangle(gap)]) for gap in apart)
            units = torch.stack([_SLIGHT * self.threshold, 0.2 * self.threshold]).repeat_interleave(GRID)
            return rows, (columns / units.unsqueeze(1)).T.contiguous()

        result: Pair = self.model.shared("windows", (loc, self.threshold), compute)
        return result


def _grid() -> tuple[Tensor, Tensor]:
    """Points of the grid, (GRID^2, 2) as (x, y), and which lie more than two steps from each, (GRID^2, GRID^2)."""
    steps, ticks = torch.linspace(-1.0, 1.0, GRID), torch.arange(GRID)
    far = (ticks - ticks.unsqueeze(1)).abs() > 2
    apart = far[:, None, :, None] | far[None, :, None, :]
    points = torch.stack([steps.expand(GRID, GRID), steps.unsqueeze(1).expand(GRID, GRID)], -1)
    return points.reshape(-1, 2), apart.reshape(GRID * GRID, GRID * GRID)


def _triangle(apart: Tensor) -> Tensor:
    return torch.relu(1.0 - apart / 1.2)


def _wide(apart: Tensor) -> Tensor:
    return (apart < 1.1).to(apart.dtype)


_FLOOR = -12.0  # logit of a birth where nothing is to be seen
_RARE = 1.0 / (1.0 + math.exp(-_FLOOR))
_DOUBT = 2.0  # by how much the logit of staying lies below the prior's where an object fits as well as nothing would
_SLIGHT = 0.35  # share of the least energy of an object below which nothing is to be seen
_BOX = [0.0] * 4 + [-3.0] * 4


def _coin(noise: Tensor, logits: Tensor) -> Tensor:
    """Heads (1.0) with probability sigma(logits), from noise uniform in 0 .. 1."""
    with torch.no_grad():
        return (noise < torch.sigmoid(logits)).to(noise.dtype)
