"""World model: what an agent sees, given its actions, and when a game ends (Ha and Schmidhuber, "World models", 2018).

    z_t, e_t | past ~ mixture(head(h_t)), Bernoulli(head(h_t))      a code of the next frame; whether it is the end
    h_{t+1} = lstm((z_t, a_t), h_t)                                 M, the memory
    x_t | z_t ~ Normal(decoder(z_t), noise)                         V, decodes a code

V and M of the paper are one program here, in which M is the prior of V's codes over time. It is trained in two stages,
each a program of its own that shares the parameters: `FrameModel`, a variational autoencoder of single frames with
z ~ N(0, I), and `MemoryModel`, the memory alone, given codes. The memory predicts the first code, too, from a token
that stands for the beginning; so dreams need no real frame to begin with.

Where a game has rewards that say more than how long it lasts, a third head predicts what comes with the next frame:

    r_t | past, z_t ~ Normal(head(h_t, z_{t-1}, z_t), scale)

The end is rare. Its cost counts `end_weight` times, as in the paper; the bias that this causes is known and corrected:
with `l` the logit of the model's own probability, the weighted cost is computed from `l + log w`, so that `l` itself
stays calibrated. (The paper samples from the weighted probability, or compares it with one half.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from phlogiston.distributions.mixtures.base import Mixture
from phlogiston.distributions.mixtures.from_head import mixture
from phlogiston.distributions.shapes import joint_shape
from phlogiston.errors import ConfigError, ShapeError
from phlogiston.models.stage_program import StageProgram
from phlogiston.networks.frame_decoder import FrameDecoder
from phlogiston.networks.frame_encoder import pixels
from phlogiston.networks.host import one_hot, require
from phlogiston.networks.mixture_heads import check, initial_outputs, mixture_parameters, num_outputs
from phlogiston.networks.rare_colours import colour_of, num_colours
from phlogiston.networks.recurrent import Recurrent
from phlogiston.networks.vector_codec import VectorDecoder

KINDS = ("factorised", "diag")
FARTHEST = 12.0
"""Largest entry of a code that the memory is told, in standard deviations of V's prior; codes of frames lie nearer. The
memory predicts changes, so a dream that strays from what it knows could go on for good, to codes of any size, at which
no game ever ends."""


class State(NamedTuple):
    """What the memory keeps of the past.

    Attributes:
        hidden: (rows, depth, hidden), of the recurrent network.
        out: (rows, hidden), its output `h_t`: what the past says about now.
        code: (rows, Z), the last code.
        seen: (rows,), number of codes so far.
    """

    hidden: Tensor
    out: Tensor
    code: Tensor
    seen: Tensor


class Prediction(NamedTuple):
    """Distribution of what comes next.

    Attributes:
        code: distribution of the next code, event (Z,).
        end: logit of the probability that it is the end, (...).
    """

    code: Mixture
    end: Tensor


class Before(NamedTuple):
    """What came before the first frame of sequences that are parts of games.

    Attributes:
        code: (rows, Z), of the frame before; what it holds at the beginning of a game does not matter.
        action: int64 (rows,), what was done there.
        begun: bool (rows,), False at the beginning of a game.
    """

    code: Tensor
    action: Tensor
    begun: Tensor


class World(nn.Module):
    """The generative program.

    Args:
        channels: of a frame.
        size: of a frame, pixels.
        actions: how many there are.
        widths: channels of the decoder before each doubling.
        vector: entries of frames that are vectors, (1, 1, entries); 0 for pictures.
        each: reward of a step, where all are alike.
        rewards: mean and standard deviation of rewards that are predicted; None where all steps are alike.

    The other arguments are options of `systems.world.config.Config`, described there.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 16,
        actions: int = 3,
        code: int = 16,
        widths: Sequence[int] = (32, 16),
        features: int = 256,
        hidden: int = 96,
        layers: int = 1,
        num_components: int = 5,
        kind: str = "factorised",
        noise: float = 0.05,
        min_scale: float = 0.01,
        end_weight: float = 10.0,
        vector: int = 0,
        each: float = 1.0,
        rewards: Sequence[float] | None = None,
        rare: float = 0.0,
    ) -> None:
        super().__init__()
        check(kind, num_components, code)
        if kind not in KINDS:
            raise ConfigError(f"kind is {kind!r}; the memory takes one of {', '.join(KINDS)}")
        if not (noise > 0 and min_scale > 0 and end_weight > 0):
            raise ConfigError(f"noise={noise}, min_scale={min_scale}, end_weight={end_weight}; all must be positive")
        self.channels, self.size, self.actions, self.code = channels, size, actions, code
        self.num_components, self.kind, self.min_scale = num_components, kind, min_scale
        self.noise, self.end_weight, self.hidden = noise, end_weight, hidden
        self.decoder: FrameDecoder | VectorDecoder
        if vector:
            self.decoder = VectorDecoder(code, vector, features)
        else:
            self.decoder = FrameDecoder(code, channels, size, widths, features)
        self.enter = nn.Sequential(nn.Linear(code + actions + 1, hidden), nn.SiLU())
        self.rnn = Recurrent(hidden, hidden, layers)
        outputs = num_outputs(kind, num_components, code) + 1
        self.head = nn.Sequential(nn.Linear(hidden + code, hidden), nn.SiLU(), nn.Linear(hidden, outputs))
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.weights: Tensor | None
        self.register_buffer("weights", torch.ones(num_colours(channels)) if rare else None)  # from the data
        self._initialise()
        self.vector, self.each = vector, float(each)
        self.rewards = None if rewards is None else (float(rewards[0]), float(rewards[1]))
        if rewards is not None:
            self.gain = nn.Sequential(nn.Linear(hidden + 2 * code, hidden), nn.SiLU(), nn.Linear(hidden, 1))
            self.gain_scale = nn.Parameter(torch.zeros(()))  # logarithm of the standard deviation, of standardised ones

    # ----- frames -------------------------------------------------------------------------------------------------

    def picture(self, code: Tensor) -> Tensor:
        """Decode codes (..., Z): means of pixels (..., C, H, W)."""
        return torch.sigmoid(self.decoder(code))

    def likelihood(self, code: Tensor, frames: Tensor | None = None) -> dist.TorchDistribution:
        """Distribution of the frames of codes (..., Z), event (C, H, W).

        Where pixels have weights, those of `frames` become variances divided by them: their errors count as often.
        """
        picture = self.picture(code)
        noise = picture.new_full((), self.noise)
        if frames is not None and self.weights is not None:
            noise = self.noise * self.weights[colour_of(frames)].rsqrt().unsqueeze(-3)
        return dist.Normal(picture, noise.expand_as(picture), validate_args=False).to_event(3)

    # ----- memory, one step at a time -----------------------------------------------------------------------------

    def start(self, rows: int) -> State:
        """The state before the first frame."""
        out, hidden = self.rnn(self.enter(self._token(rows)), self.rnn.start(rows))
        return State(hidden, out[:, 0], self.zero.new_zeros(rows, self.code), self.zero.new_zeros(rows))

    def predict(self, state: State) -> Prediction:
        """Predict the next code and whether it is the end."""
        return self._prediction(state.out, state.code, state.seen > 0)

    def reward(self, out: Tensor, last: Tensor, code: Tensor) -> dist.Normal:
        """Distribution of what comes with frames, (...).

        Args:
            out: (..., hidden), the memory's output before them.
            last: (..., Z), codes of the frames before; 0 at the beginning of a game.
            code: (..., Z), their own codes.
        """
        if self.rewards is None:
            raise ConfigError("these games have no rewards beyond how long they last; there is nothing to predict")
        mean, spread = self.rewards
        value = self.gain(torch.cat([out, near(last), near(code)], -1)).squeeze(-1)
        return dist.Normal(mean + spread * value, spread * self.gain_scale.exp(), validate_args=False)

    def gained(self, state: State, code: Tensor) -> Tensor:
        """Expected reward (rows,) of a step from a state to a frame of this code."""
        if self.rewards is None:
            return self.zero.new_full((len(code),), self.each)
        return self.reward(state.out, state.code, code).mean

    def observe(self, state: State, code: Tensor, action: Tensor) -> State:
        """The state after a frame of this code (rows, Z), at which this was done, int64 (rows,)."""
        out, hidden = self.rnn(self.enter(self._input(code, action).unsqueeze(1)), state.hidden)
        return State(hidden, out[:, 0], near(code), state.seen + 1)

    def _token(self, rows: int) -> Tensor:
        """Input of the memory at the beginning, in place of a code and an action: (rows, 1, Z + actions + 1)."""
        token = self.zero.new_zeros(rows, 1, self.code + self.actions + 1)
        token[..., -1] = 1.0
        return token

    def _input(self, code: Tensor, action: Tensor) -> Tensor:
        require(
            ((action >= 0) & (action < self.actions)).all(),
            lambda: ShapeError(
                f"actions run from {int(action.min())} to {int(action.max())}; there are {self.actions}."
            ),
        )
        done = one_hot(action, self.actions, code.dtype)
        return torch.cat([near(code), done, code.new_zeros(*code.shape[:-1], 1)], -1)

    def _prediction(self, out: Tensor, last: Tensor, later: Tensor) -> Prediction:
        last = torch.where(later.unsqueeze(-1), near(last), 0.0)
        raw = self.head(torch.cat([out, last], -1))
        params = mixture_parameters(
            raw[..., :-1], self.kind, self.num_components, self.code, "softplus", self.min_scale
        )
        # what changes is predicted: components sit around the last code
        params = params._replace(loc=params.loc + last.unsqueeze(-1 if self.kind == "factorised" else -2))
        return Prediction(mixture(params, validate_args=False), raw[..., -1])

    # ----- memory, all steps at once ------------------------------------------------------------------------------

    def predict_all(self, code: Tensor, action: Tensor, before: Before | None = None) -> tuple[Prediction, Tensor]:
        """Predict every step of known sequences.

        Args:
            code: (..., T, Z).
            action: int64 (..., T), what was done at each frame; the last is not used.
            before: of sequences (rows, T, Z) that do not begin with their games; the memory begins there, too, and
                needs some steps to know what it is about.

        Returns:
            Predictions, batch (..., T), each given what came before; and the memory's outputs (..., T, hidden).
        """
        shape = code.shape[:-1]
        flat = code.reshape(-1, *code.shape[-2:])
        did = action.expand(shape).reshape(-1, shape[-1])
        first, none = self._token(len(flat)), torch.zeros_like(flat[:, :1])
        later = torch.arange(shape[-1], device=code.device) > 0
        if before is not None:
            begun = before.begun[:, None, None]
            first = torch.where(begun, self._input(before.code, before.action).unsqueeze(1), first)
            none = torch.where(begun, before.code.unsqueeze(1), none)
            later = later | before.begun.unsqueeze(1)
        inputs = torch.cat([first, self._input(flat[:, :-1], did[:, :-1])], 1)
        out, _ = self.rnn(self.enter(inputs), self.rnn.start(len(flat)))
        last = torch.cat([none, flat[:, :-1]], 1)
        out, last = out.reshape(*shape, -1), last.reshape(code.shape)
        return self._prediction(out, last, later), out

    @torch.no_grad()
    def _initialise(self) -> None:
        """Spread the components over how codes may change, and expect the end to be rare."""
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(0.3)
        levels = (torch.arange(999) + 1) / 1000
        changes = 0.5 * torch.special.ndtri(levels).unsqueeze(-1)
        if self.kind == "factorised":
            changes = changes.expand(-1, self.code)
        else:  # components of a whole code differ in size; their directions are learned
            changes = changes * torch.randn(len(changes), self.code).sign()
        last.bias[:-1] = initial_outputs(changes, self.kind, self.num_components, "softplus")
        last.bias[-1] = -4.0

    # ----- the program --------------------------------------------------------------------------------------------

    def forward(
        self,
        frames: Tensor | None = None,
        action: Tensor | None = None,
        done: Tensor | None = None,
        length: Tensor | None = None,
        reward: Tensor | None = None,
        *,
        rows: int = 1,
        steps: int = 16,
    ) -> Tensor:
        """Run the program.

        Args:
            frames: (rows, T, C, H, W), bytes or floats in [0, 1]; None draws them.
            action: int64 (rows, T), what was done: a covariate. None draws them, all alike.
            done: bool or float (rows, T), whether a frame is the end; None draws it.
            length: (rows,), frames that count; None for all.
            reward: (rows, T), what came with each frame, where rewards are predicted; None draws it.
            rows: how many, where nothing is given.
            steps: how many, where nothing is given.

        Returns:
            The frames' means, (..., rows, T, C, H, W).
        """
        for given in (frames, action, done):
            if given is not None:
                rows, steps = given.shape[:2]
        valid = valid_steps(length, rows, steps, self.zero.device)
        with pyro.plate("data", rows, dim=-1):
            if action is None:
                even = self.zero.expand(rows, steps, self.actions)
                action = pyro.sample("action", dist.Categorical(logits=even).to_event(1))
            code = pyro.sample("code", CodePath(self, action, valid))
            prediction, out = self.predict_all(code, action)
            ends = dist.Bernoulli(logits=prediction.end, validate_args=False)
            follows = valid & (torch.arange(steps, device=valid.device) > 0)  # nothing has ended at the first frame
            pyro.sample("done", ends.mask(follows).to_event(1), obs=None if done is None else done.to(code.dtype))
            if self.rewards is not None:
                last = torch.cat([torch.zeros_like(code[..., :1, :]), code[..., :-1, :]], -2)
                gain = self.reward(out, last, code)
                pyro.sample("reward", gain.mask(follows).to_event(1), obs=reward)
            picture = self.picture(code)
            pixel = dist.Normal(picture, self.noise, validate_args=False).to_event(3).mask(valid).to_event(1)
            pyro.sample("frames", pixel, obs=pixels(frames))
        return picture


def near(code: Tensor) -> Tensor:
    """Codes as the memory takes them, see `FARTHEST`."""
    return code.clamp(-FARTHEST, FARTHEST)


class CodePath(TorchDistribution):
    """The memory's distribution of whole sequences of codes, event (T, Z): drawn step by step, scored at once.

    Args:
        world: whose memory.
        action: int64 (..., T).
        valid: bool (rows, T), steps that count; broadcast against `action`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"action": constraints.nonnegative_integer}
    support = constraints.independent(constraints.real, 2)
    has_rsample = False

    def __init__(self, world: World, action: Tensor, valid: Tensor, validate_args: bool | None = None) -> None:
        self.world = world
        shape = joint_shape(action.shape, valid.shape)
        self.action, self.valid = action.expand(shape), valid.expand(shape)
        super().__init__(shape[:-1], torch.Size([shape[-1], world.code]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CodePath:
        """The same over more rows."""
        shape = (*batch_shape, self.event_shape[0])
        new = CodePath(self.world, self.action.expand(shape), self.valid.expand(shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw (*sample_shape, *batch, T, Z)."""
        shape = (*sample_shape, *self.batch_shape)
        steps = self.event_shape[0]
        action = self.action.expand(*shape, steps).reshape(-1, steps)
        with torch.no_grad():
            state = self.world.start(len(action))
            path = []
            for t in range(steps):
                path.append(self.world.predict(state).code.draw())
                if t + 1 < steps:
                    state = self.world.observe(state, path[-1], action[:, t])
        return torch.stack(path, 1).reshape(*shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, (...), in nats."""
        if self._validate_args:
            self._validate_sample(torch.where(self.valid.unsqueeze(-1), value, 0.0))
        prediction, _ = self.world.predict_all(value, self.action)
        return torch.where(self.valid, prediction.code.log_prob(value), 0.0).sum(-1)


class FrameModel(StageProgram[World]):
    """Stage V: single frames, whose codes are independent."""

    def forward(self, frames: Tensor) -> None:
        """Take frames (rows, n, C, H, W), some of each sequence."""
        rows, count = frames.shape[:2]
        whole = self.whole
        with pyro.plate("data", rows, dim=-2), pyro.plate("time", count, dim=-1):
            code = pyro.sample("code", dist.Normal(whole.zero.expand(whole.code), 1.0).to_event(1))
            pyro.sample("frames", whole.likelihood(code, frames), obs=pixels(frames))


class MemoryModel(StageProgram[World]):
    """Stage M: sequences of codes, given what was done."""

    def forward(
        self,
        code: Tensor,
        action: Tensor,
        done: Tensor,
        length: Tensor,
        reward: Tensor | None = None,
        counts: Tensor | None = None,
        before: Before | None = None,
    ) -> None:
        """Take codes (rows, T, Z), actions, ends and rewards (rows, T) and lengths (rows,).

        Of parts of games, `before` says what came before them, and `counts`, bool (rows, T), which frames count.
        """
        rows, steps = code.shape[:2]
        whole = self.whole
        valid = valid_steps(length, rows, steps, code.device)
        prediction, out = whole.predict_all(code, action, before)
        weight = torch.where(done > 0.5, whole.end_weight, 1.0)
        later = torch.arange(steps, device=code.device) > 0
        last = torch.cat([torch.zeros_like(code[:, :1]), code[:, :-1]], 1)
        if before is not None:
            later = later | before.begun.unsqueeze(1)
            last[:, 0] = torch.where(before.begun.unsqueeze(1), before.code, last[:, 0])
        valid = valid if counts is None else valid & counts
        follows = valid & later
        with pyro.plate("data", rows, dim=-2), pyro.plate("time", steps, dim=-1):
            with poutine.mask(mask=cast(torch.BoolTensor, valid)):
                pyro.sample("code", prediction.code, obs=code)
            with poutine.mask(mask=cast(torch.BoolTensor, follows)), poutine.scale(scale=weight):
                # the weight shifts the best logit by its logarithm
                shifted = prediction.end + math.log(whole.end_weight)
                pyro.sample("done", dist.Bernoulli(logits=shifted, validate_args=False), obs=done)
            if whole.rewards is not None:
                with poutine.mask(mask=cast(torch.BoolTensor, follows)):
                    pyro.sample("reward", whole.reward(out, last, code), obs=reward)


def valid_steps(length: Tensor | None, rows: int, steps: int, device: torch.device) -> Tensor:
    """Which steps count, bool (rows, steps)."""
    if length is None:
        return torch.ones(rows, steps, dtype=torch.bool, device=device)
    return torch.arange(steps, device=length.device) < length.unsqueeze(-1)
