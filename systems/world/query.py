"""Games given evidence, by a particle filter: what comes next, what was in between, how it might end.

Particles go from the first frame to the last. For a frame that is known in whole the encoder proposes the code;
otherwise the memory draws the code, and known pixels weight it. Given its code a frame's pixels are independent
normals, so known pixels, soft values and boxes weight it by their exact probability, and free pixels are drawn
conditionally. When weights have become uneven particles are resampled within independent islands, whole paths at a
time. The mean weight estimates the probability of the evidence without bias, and the spread of the islands gives its
error.

Behind the end of a game the last frame stays, and evidence of more excludes a particle. Actions are conditions: known
ones have no probability, others are drawn uniformly.

Reference: Doucet, de Freitas and Gordon, "Sequential Monte Carlo methods in practice", 2001.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.distributions.linear_constraints import LinearEvidence
from phlogiston.distributions.normal_interval import truncated_with_mass
from phlogiston.distributions.resampling import effective_size, log_mean, spread_error
from phlogiston.errors import EvidenceError
from phlogiston.guides.world import WorldGuide
from phlogiston.inference.query.answer import Answer, check_alive, warn_if_far
from phlogiston.inference.query.compilation import asked_sites, compile_vector
from phlogiston.inference.query.evidence import Evidence, Known, OneOf, normalise
from phlogiston.inference.query.islands import Islands
from phlogiston.inference.svi.row_noise import normal, uniform
from phlogiston.models.world import State, World
from phlogiston.systems.calls import drawn_seed

SITES = ("frames", "action", "done", "code")
METHODS = ("auto", "smc")
_FIELDS = ("value", "mask", "mean", "sd", "lower", "upper")
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_ISLAND = 8  # particles of a game that are resampled together when it is scored


@torch.no_grad()
def filter_games(
    world: World,
    guide: WorldGuide,
    evidence: Any,
    ask: Sequence[str] | None,
    num_particles: int,
    steps: int | None,
    typical: int,
    seed: int | None,
) -> Answer:
    """Sample games given evidence about them; see `WorldModel.query`.

    Raises:
        EvidenceError: malformed evidence, or evidence no particle satisfies.
        ConfigError: fewer than two particles.
    """
    at_least("num_samples", num_particles, 2)
    requested = asked_sites(ask or None, SITES)
    question = normalise(evidence, SITES[:3])
    mentioned = max((_steps(name, piece) for name, pieces in question.items() for piece in pieces), default=0)
    count = max(mentioned, steps or 0) or typical
    if steps is not None and steps < mentioned:
        raise EvidenceError(f"steps is {steps}, but the evidence is about {mentioned} frames")
    pixels, constant = _frame_evidence(question.get("frames", ()), count, world)
    values = torch.cat([pixels.values[pixels.known], pixels.soft_mean])
    if len(values):  # those of the model lie between 0 and 1
        beyond = torch.maximum(values - 1, -values).max().clamp_min(0.0)
        warn_if_far({"a pixel of 'frames'": float(beyond) / world.noise}, "query (particle filter)")
    action = _action_evidence(question.get("action", ()), count, world.actions)
    done = _end_evidence(question.get("done", ()), count)
    seed = drawn_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    path, islands = _ParticleFilter(
        world, guide, pixels, action, done, num_particles, generator, "code" in requested
    ).run()
    samples = {name: path[name] for name in requested}
    if "frames" in samples:  # bit for bit
        exact = pixels.values.reshape(count, *path["frames"].shape[2:])
        free = samples["frames"].double()
        free = free.maximum(pixels.lower.reshape(exact.shape)).minimum(pixels.upper.reshape(exact.shape))  # of rounding
        samples["frames"] = free.where(~pixels.known.reshape(exact.shape), exact)
    return islands.answers(samples, constant)[0]


class _ParticleFilter:
    """A particle filter over the frames of one game."""

    def __init__(
        self,
        world: World,
        guide: WorldGuide,
        pixels: LinearEvidence,
        action: Tensor,
        done: Tensor,
        num_particles: int,
        generator: torch.Generator,
        codes: bool,
    ) -> None:
        self.codes = codes  # requested: then they are open even where all else is known
        self.world, self.guide, self.n, self.generator = world, guide, num_particles, generator
        self.steps = len(done)
        self.shape = (world.channels, world.size, world.size)
        rows = (self.steps, -1)
        self.known, self.values = pixels.known.reshape(rows), pixels.values.reshape(rows)
        self.lower, self.upper = pixels.lower.reshape(rows), pixels.upper.reshape(rows)
        self.action, self.done = action, done
        size = self.known.shape[1]
        self.soft: dict[int, list[tuple[int, float, float]]] = {}
        for i, entry in enumerate(pixels.soft.tolist()):
            item = (entry % size, float(pixels.soft_mean[i]), float(pixels.soft_sd[i]))
            self.soft.setdefault(entry // size, []).append(item)
        boxed = (torch.isfinite(self.lower) | torch.isfinite(self.upper)).any(1)
        self.constrained = self.known.any(1) | boxed | torch.tensor([t in self.soft for t in range(self.steps)])

    def run(self) -> tuple[dict[str, Tensor], Islands]:
        """Return paths, and their weights and ancestors."""
        n, steps = self.n, self.steps
        state = self.world.start(n)
        path = {
            "frames": torch.zeros(n, steps, *self.shape),
            "action": torch.zeros(n, steps, dtype=torch.long),
            "done": torch.zeros(n, steps, dtype=torch.bool),
            "code": torch.zeros(n, steps, self.world.code),
        }
        islands = Islands(n, self.generator)
        islands.random[:] = True  # codes are drawn whatever is known
        ended = torch.zeros(n, dtype=torch.bool)
        for t in range(steps):
            code, frame, end, gain = self._frame(state, t)
            if t:
                # behind the end the last frame stays; evidence of more excludes a particle
                old = {name: path[name][:, t - 1] for name in ("code", "frames")}
                code = torch.where(ended.unsqueeze(1), old["code"], code)
                frame = torch.where(ended.reshape(-1, 1, 1, 1), old["frames"], frame)
                over = -math.inf if bool(self.constrained[t]) or int(self.done[t]) == 0 else 0.0
                gain = torch.where(ended, over, gain)
                ended = ended | end
            action = self._act(t)
            islands.log_weights = islands.log_weights + gain
            check_alive(islands.log_weights.unsqueeze(1), f"query, frame {t}")
            for name, value in (("frames", frame), ("action", action), ("done", ended), ("code", code)):
                path[name][:, t] = value
            state = self.world.observe(state, code, action)
            if self.codes or self._open(t):
                islands.remember()
            index = islands.resample() if t + 1 < steps else None
            if index is not None:
                state = State(*(part[index] for part in state))
                path, ended = {name: value[index] for name, value in path.items()}, ended[index]
        return path, islands

    def _open(self, t: int) -> bool:
        """Tell whether anything of step t is unknown."""
        known = bool(self.known[t].all()) and int(self.action[t].sum()) == 1
        return not known or (t > 0 and int(self.done[t]) < 0)

    def _frame(self, state: State, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw the code and the frame of step t and whether it is the end; return them with their log weights."""
        prediction = self.world.predict(state)
        n, gain = self.n, torch.zeros(self.n, dtype=torch.float64)
        if bool(self.known[t].all()):
            frame = self.values[t].float().reshape(1, *self.shape)
            loc, scale = self.guide.encode(frame)
            noise = torch.randn(n, self.world.code, generator=self.generator)
            code = loc + scale * noise
            proposed = (-0.5 * noise.square() - scale.log() - _HALF_LOG_2PI).double().sum(-1)
            gain = gain + prediction.code.log_prob(code).double() - proposed
        else:
            code = prediction.code.draw(generator=self.generator)
        frame, weight = self._pixels(self.world.picture(code).double().flatten(1), t)
        gain = gain + weight
        end = torch.zeros(n, dtype=torch.bool)
        if t:
            known = int(self.done[t])
            chance = prediction.end.double()
            if known >= 0:
                end = torch.full_like(end, bool(known))
                gain = gain + torch.nn.functional.logsigmoid(chance if known else -chance)
            else:
                end = torch.rand(n, generator=self.generator, dtype=torch.float64) < chance.sigmoid()
        return code, frame.float().unflatten(1, self.shape), end, gain

    def _pixels(self, mean: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Draw pixels around their means (n, D), and weight them by the evidence."""
        variance = torch.full_like(mean[0], self.world.noise**2)
        weight = torch.zeros(len(mean), dtype=torch.float64)
        for pixel, value, sd in self.soft.get(t, ()):
            total = variance[pixel] + sd**2
            gap = value - mean[:, pixel]
            weight = weight - 0.5 * gap.square() / total - 0.5 * total.log() - _HALF_LOG_2PI
            mean = mean.clone()
            mean[:, pixel] += variance[pixel] / total * gap
            variance[pixel] = variance[pixel] * sd**2 / total
        spread = variance.sqrt()
        known = self.known[t]
        z = (self.values[t] - mean) / spread
        inside = -0.5 * z.square() - spread.log() - _HALF_LOG_2PI
        weight = weight + torch.where(known, inside, 0.0).sum(1)
        uniform = torch.rand(mean.shape, generator=self.generator, dtype=torch.float64)
        low, high = (self.lower[t] - mean) / spread, (self.upper[t] - mean) / spread
        drawn, mass = truncated_with_mass(uniform, low, high)
        weight = weight + torch.where(known, 0.0, mass).sum(1)
        return torch.where(known, self.values[t], mean + spread * drawn), weight

    def _act(self, t: int) -> Tensor:
        allowed = self.action[t].double()
        return torch.multinomial(allowed, self.n, replacement=True, generator=self.generator)


@torch.no_grad()
def log_likelihood(
    world: World,
    guide: WorldGuide,
    games: dict[str, Tensor],
    num_particles: int,
    keys: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Estimate log p(frames, done | action) of whole games, all games side by side.

    Args:
        world: whose probability.
        guide: proposes codes.
        games: `frames` floats (rows, T, C, H, W), `action`, `done` (rows, T), `length` (rows,).
        num_particles: per game; from 32 on in islands of 8, whose spread gives the error.
        keys: (rows,), the seeds of the games' draws.

    Returns:
        Log probabilities (rows,) in nats, and their standard errors (rows,), None below 32 particles.
    """
    rows, steps = games["action"].shape
    islands = num_particles // _ISLAND if num_particles >= 4 * _ISLAND else 1
    size = num_particles // islands
    particles = islands * size
    state = world.start(rows * particles)
    weights = torch.zeros(rows, islands, size, dtype=torch.float64)
    for t in range(steps):
        counts = t < games["length"]
        if not bool(counts.any()):
            break
        prediction = world.predict(state)
        frame = games["frames"][:, t]
        loc, scale = (part.repeat_interleave(particles, 0) for part in guide.encode(frame))
        noise = normal(keys, particles, loc.shape[1], stream=2 * t).flatten(0, 1)
        code = loc + scale * noise
        gain = (prediction.code.log_prob(code) - (-0.5 * noise.square() - scale.log() - _HALF_LOG_2PI).sum(-1)).double()
        gap = (frame.repeat_interleave(particles, 0) - world.picture(code)).flatten(1) / world.noise
        gain = gain + (-0.5 * gap.square() - math.log(world.noise) - _HALF_LOG_2PI).double().sum(-1)
        if t:
            sign = torch.where(games["done"][:, t].repeat_interleave(particles, 0), 1.0, -1.0)
            gain = gain + torch.nn.functional.logsigmoid(sign * prediction.end).double()
        weights = torch.where(counts[:, None, None], weights + gain.reshape(weights.shape), weights)
        state = world.observe(state, code, games["action"][:, t].repeat_interleave(particles, 0))
        uneven = (effective_size(weights, 2) < 0.5 * size).unsqueeze(2)
        until = weights.softmax(2).cumsum(2)
        draws = uniform(keys, islands, size, stream=2 * t + 1, dtype=torch.float64) * until[..., -1:]
        chosen = torch.searchsorted(until, draws).clamp_max(size - 1)
        index = torch.where(uneven, chosen, torch.arange(size))
        weights = torch.where(uneven, log_mean(weights, 2).unsqueeze(2), weights)  # the island's, for all its particles
        flat = (index.flatten(0, 1) + size * torch.arange(rows * islands).unsqueeze(1)).flatten()
        state = State(*(part[flat] for part in state))
    means = log_mean(weights, 2)
    if islands == 1:
        return means[:, 0], None
    errors = [error for row in means if (error := spread_error(row)) is not None]
    return log_mean(means, 1), torch.stack(errors) if len(errors) == len(means) else None


# ---- evidence


def _steps(name: str, piece: Evidence) -> int:
    """Number of frames that evidence covers; 0 where it is the same for all."""
    axes = 4 if name == "frames" else 1
    sizes = set()
    for field in _FIELDS:
        value = getattr(piece, field, None)
        if isinstance(value, Tensor) and value.dim():
            if value.dim() != axes:
                form = "(T, C, H, W)" if name == "frames" else "(T,)"
                raise EvidenceError(f"evidence for {name!r} has shape {tuple(value.shape)}; expected {form}: one game")
            sizes.add(len(value))
    if len(sizes) > 1:
        raise EvidenceError(f"evidence for {name!r}: {type(piece).__name__} is about {sorted(sizes)} frames at once")
    return sizes.pop() if sizes else 0


def _frame_evidence(pieces: Sequence[Evidence], steps: int, world: World) -> tuple[LinearEvidence, float]:
    shape = (world.channels, world.size, world.size)
    nothing = {"value": 0.0, "mask": 0.0, "mean": 0.0, "sd": math.inf, "lower": -math.inf, "upper": math.inf}
    flat = []
    for piece in pieces:
        fields: dict[str, Any] = {}
        long = _steps("frames", piece)
        for name in piece.fields:
            value = getattr(piece, name)
            if name in nothing and isinstance(value, Tensor):
                try:
                    value = value.double().expand(long or steps, *shape)
                except RuntimeError:
                    form = ", ".join(map(str, shape))
                    raise EvidenceError(
                        f"evidence for 'frames' has shape {tuple(value.shape)}; expected (T, {form})"
                    ) from None
                rest = value.new_full((steps - len(value), *shape), nothing[name])
                value = torch.cat([value, rest]).flatten()
            fields[name] = value
        if isinstance(piece, Known) and piece.mask is None and long < steps:
            mask = torch.zeros(steps, *shape, dtype=torch.float64)
            mask[: long or steps] = 1.0
            fields["mask"] = mask.flatten()
        flat.append(type(piece)(**fields))
    compiled, constant = compile_vector("frames", flat, steps * math.prod(shape))
    if len(compiled.rows):
        raise EvidenceError("evidence for 'frames': half-spaces tie pixels together; use Known, Near or Within")
    if bool((compiled.soft_fraction > 0).any()):
        raise EvidenceError("evidence for 'frames': fractional masks are not for games; use Near")
    return compiled, float(constant)


def _action_evidence(pieces: Sequence[Evidence], steps: int, actions: int) -> Tensor:
    """Which actions are allowed at each frame, bool (steps, actions)."""
    allowed = torch.ones(steps, actions, dtype=torch.bool)
    for piece in pieces:
        if isinstance(piece, OneOf):
            chosen = torch.zeros(actions, dtype=torch.bool)
            for value in piece.values:
                chosen[_whole("action", value, actions)] = True
            allowed &= chosen
        elif isinstance(piece, Known):
            for t, value in _entries("action", piece, steps):
                chosen = torch.zeros(actions, dtype=torch.bool)
                chosen[_whole("action", value, actions)] = True
                allowed[t] &= chosen
        else:
            raise EvidenceError(f"evidence for 'action': {type(piece).__name__} is for numbers; use Known or OneOf")
    if not bool(allowed.any(1).all()):
        raise EvidenceError(f"evidence for 'action': none is left at frame {int((~allowed.any(1)).nonzero()[0])}")
    return allowed


def _end_evidence(pieces: Sequence[Evidence], steps: int) -> Tensor:
    """Whether each frame is the end: 1, 0, or -1 where that is unknown."""
    ends = torch.full((steps,), -1)
    for piece in pieces:
        if not isinstance(piece, Known):
            raise EvidenceError(f"evidence for 'done': {type(piece).__name__} does not fit; use Known")
        for t, value in _entries("done", piece, steps):
            number = _whole("done", value, 2)
            if int(ends[t]) not in (-1, number):
                raise EvidenceError(f"evidence for 'done': frame {t} is said to be the end and not to be")
            ends[t] = number
    if int(ends[0]) == 1:
        raise EvidenceError("evidence for 'done': a game cannot end at its first frame")
    return ends


def _entries(name: str, piece: Known, steps: int) -> list[tuple[int, float]]:
    if isinstance(piece.value, str):
        raise EvidenceError(f"evidence for {name!r}: {piece.value!r} is no number")
    value = piece.value.double()
    value = value.expand(steps) if value.dim() == 0 else value
    mask = torch.ones(len(value)) if piece.mask is None else piece.mask.double().expand(len(value))
    if bool(((mask != 0) & (mask != 1)).any()):
        raise EvidenceError(f"evidence for {name!r}: fractional masks are not for categories")
    return [(t, float(v)) for t, (v, m) in enumerate(zip(value, mask, strict=True)) if m]


def _whole(name: str, value: Any, count: int) -> int:
    if isinstance(value, str) or float(value) != int(value) or not 0 <= int(value) < count:
        raise EvidenceError(f"evidence for {name!r} holds {value!r}; expected a whole number from 0 to {count - 1}")
    return int(value)
