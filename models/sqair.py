"""SQAIR: objects that appear, stay and vanish (Kosiorek, Kim, Posner and Teh, *Sequential Attend, Infer, Repeat*).

Up to N objects live in fixed slots. At frame t each object of the frame before stays or goes (propagation), then new
ones may fill empty slots (discovery); what is there is rendered.

    presence_t[i] ~ Bernoulli(p_i)                                     where presence_{t-1}[i] = 1
    where_t[i] ~ Normal(f(memory), s),  what_t[i] ~ Normal(g(memory), s)    where presence_t[i] = 1
    births_t ~ Categorical(0 .. capacity)
    where_new_t[k] ~ Normal, what_new_t[k] ~ Normal(0, I)              for k < births_t
    x_t ~ Normal(sum_i paste(decode(what_t[i]), where_t[i]), std)

Births fill empty slots in order, so there are never more objects than slots; each gets an identity that no other
object of the video ever has. A video of one frame is AIR (Eslami et al., 2016). Differences on purpose: the prior of a
frame does not depend on the guide's presence logits; logits of the count are not cut by an elu; births are limited to
the slots that are free.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from phlogiston.distributions.chained import ChainedNormal
from phlogiston.distributions.masked import MaskedBernoulli, MaskedNormal
from phlogiston.distributions.shapes import joint_shape
from phlogiston.models.sqair_state import Dynamics, State, counted, pixel_mask
from phlogiston.networks.occupied import Occupied
from phlogiston.networks.perceptron import applied, linear, perceptron
from phlogiston.networks.shared import Shared
from phlogiston.networks.spatial import cover, paste, placing

PROPAGATION = ("first_memory", "cell.", "readout.", "later_logits")
"""Parameters that videos of one frame do not need."""

LEAST = 0.01  # smallest standard deviation of anything


class SQAIRModel(nn.Module):
    """The generative program.

    Args:
        shape: channels, height, width of a frame.
        background_std: the option of this name; None for one number everywhere.
        what_prior_scale: first scale of an appearance's change per frame.

    The other arguments are options of `systems.sqair.config.Config`, described there.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        slots: int = 3,
        features: int = 24,
        glimpse: tuple[int, int] = (20, 20),
        hidden: int = 128,
        memory: int = 128,
        std: float = 0.3,
        background_std: float | None = None,
        output: str = "sigmoid",
        presence: str = "fixed",
        survival: float = 0.99,
        birth: float = 0.01,
        later_births: int = 1,
        location: str = "velocity",
        chain: bool = False,
        background: str = "none",
        renderer: str = "sum",
        learn_std: bool = False,
        outside: float = 0.0,
        screen: bool = False,
        what_prior_scale: float = -2.0,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.slots, self.features, self.glimpse = slots, features, glimpse
        self.presence, self.location, self.chain = presence, location, chain
        self.background, self.renderer, self.output = background, renderer, output
        self.later_births = min(later_births, slots)
        self.span = 1.0 + outside
        self.screen = screen
        if screen:
            self.open: Tensor
            self.register_buffer("open", torch.ones(shape[1:]))
        channels = shape[0]
        self.planes = planes = channels + (renderer == "over")
        pixels = planes * glimpse[0] * glimpse[1]
        start = -1.5 if output == "sigmoid" else 0.0
        self.decoder = perceptron([features, hidden, hidden, pixels], start)
        if output == "linear":
            self.output_scale = nn.Parameter(torch.tensor(0.25))
        self.cell = nn.GRUCell(features + (4 if location == "absolute" else 8), memory)
        self.first_memory = nn.Parameter(torch.zeros(memory))
        self.readout = linear(memory, 2 * (4 + features) + (presence == "learned"))
        with torch.no_grad():
            if location != "absolute":
                self.readout.weight.mul_(0.1)
            spread = self.readout.bias[4 + features : 2 * (4 + features)]
            if location != "absolute":
                spread[:4] = -2.5
                spread[4:] = what_prior_scale
            if presence == "learned":
                self.readout.bias[-1] = 10.0
        self.survival: Tensor
        self.register_buffer("survival", torch.tensor(survival).logit())
        self.first_births = nn.Parameter(torch.zeros(slots + 1))
        later = torch.arange(self.later_births + 1) * torch.tensor(birth).log()
        if presence == "learned":
            later = torch.zeros(self.later_births + 1)
            later[0] = 10.0
            self.later_logits = nn.Parameter(later)
        else:
            self.register_buffer("later_logits", later)
        if chain:
            self._add_chain(features, hidden)
        else:
            self.where_loc = nn.Parameter(torch.tensor([-0.4, -0.4, 0.0, 0.0]))
            self.where_spread = nn.Parameter(torch.tensor([0.5, 0.5, 1.0, 1.0]).expm1().log())
        self.learn_std = learn_std
        spread_of_pixels = torch.tensor(std - LEAST).expm1().log()
        if learn_std:
            self.pixel_spread = nn.Parameter(spread_of_pixels)
        else:
            self.register_buffer("pixel_spread", spread_of_pixels)
        self.background_std = background_std
        if background != "none":
            self.picture = nn.Parameter(torch.zeros(shape))
        self.shared = Shared()

    def _add_chain(self, features: int, hidden: int) -> None:
        """Networks through which boxes of new objects depend on each other, and births on what is there."""
        self.summary = perceptron([features + 4, hidden, hidden])
        self.count = perceptron([1, 10, self.slots + 1])
        self.chain_start = nn.Parameter(torch.zeros(4))
        self.chain_state = nn.Parameter(torch.zeros(4))  # as wide as the recurrent state, hence as a box
        self.chain_context = linear(4 + hidden + 1, 128)
        self.chain_hidden = linear(4 + 128, 4)
        self.chain_read = linear(4, 8)
        with torch.no_grad():
            self.chain_read.bias.copy_(torch.tensor([-2.0, -2.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]))

    # ----- densities ----------------------------------------------------------------------------------------------

    @property
    def std(self) -> Tensor:
        """Standard deviation of pixels where objects are."""
        return LEAST + softplus(self.pixel_spread)

    def dynamics(self, state: State) -> Dynamics:
        """The prior of propagation from a state; computed for the objects that are there."""
        dynamics: Dynamics = self.shared(f"dynamics {state.time}", (state.presence, state.where, state.what),
                                         lambda: self._dynamics(state))  # fmt: skip
        return dynamics

    def _dynamics(self, state: State) -> Dynamics:
        occupied = Occupied(state.presence > 0)
        where, what, step = (occupied.take(part) for part in (state.where, state.what, state.step))
        inputs = [what, where] if self.location == "absolute" else [what, where, 10.0 * step]
        memory = applied(self.shared, self.cell, torch.cat(inputs, -1), occupied.take(state.memory))
        read = applied(self.shared, self.readout, memory)
        size = 4 + self.features
        loc, spread = read[:, : 2 * size].chunk(2, -1)
        spread = softplus(spread) + LEAST
        if self.location != "absolute":
            loc = loc + torch.cat([where + step if self.location == "velocity" else where, what], -1)
        stays = read[:, -1:] if self.presence == "learned" else self.survival.expand(len(read), 1)
        packed = torch.cat([loc, spread, memory, stays], -1)
        widths = (4, self.features, 4, self.features, memory.shape[1], 1)

        def parts(whole: Tensor, **more: Any) -> Dynamics:
            where_loc, what_loc, where_scale, what_scale, memory, stays = whole.split(widths, -1)
            return Dynamics(stays.squeeze(-1), where_loc, where_scale, what_loc, what_scale, memory, **more)

        return parts(occupied.put(packed), occupied=occupied, rows=parts(packed, what=what))

    def count_logits(self, before: Dynamics | None, state: State | None, capacity: Tensor, context: Any) -> Tensor:
        """Logits of the number of births, minus infinity beyond the capacity: (..., most + 1)."""
        logits = self.first_births if state is None else self.later_logits
        if self.chain:
            logits = logits + self.count(self._expected(before, state, capacity))[..., : logits.shape[-1]]
        count = torch.arange(logits.shape[-1], device=logits.device)
        return logits.masked_fill(count > capacity.unsqueeze(-1), -torch.inf)

    def _expected(self, before: Dynamics | None, state: State | None, like: Tensor) -> Tensor:
        """Expected share of slots whose objects stay, (..., 1)."""
        if before is None or state is None:
            return torch.zeros((*like.shape, 1), device=like.device)
        return (torch.sigmoid(before.presence) * state.presence).sum(-1, keepdim=True) / self.slots

    def context(
        self, like: Tensor, presence: Tensor | None = None, where: Tensor | None = None, what: Tensor | None = None
    ) -> Tensor:
        """The deep-set summary of the objects that stay, (..., hidden); zero without any."""
        if presence is None or where is None or what is None:
            return torch.zeros((*like.shape, self.chain_context.in_features - 5), device=like.device)
        parts = self.summary(torch.cat([what, where], -1))
        return (torch.where(presence.unsqueeze(-1) > 0, parts, 0.0)).sum(-2)

    def where_new(
        self, births: Tensor, most: int, context: Tensor | None = None, expected: Tensor | None = None
    ) -> Any:
        """The distribution of boxes of new objects, event (most, 4)."""
        mask = self.born(births, most)
        if not self.chain:
            return MaskedNormal(*self.where_guess(), mask, 2)
        assert context is not None
        assert expected is not None
        lead = joint_shape(births.shape, context.shape[:-1])
        parts = [part.expand(*lead, part.shape[-1]) for part in (self.chain_state, context, expected)]
        inside = torch.nn.functional.elu(self.chain_context(torch.cat(parts, -1)))
        return ChainedNormal(self.chain_start, inside, self._link, mask)

    def where_guess(self) -> tuple[Tensor, Tensor]:
        """Loc and scale of a new box if nothing is known of the frame; under a chain, of the first."""
        if not self.chain:
            scale: Tensor = self.shared(
                "where scale", (self.where_spread,), lambda: softplus(self.where_spread) + LEAST
            )
            return self.where_loc, scale
        nothing = self.chain_state.new_zeros(self.chain_context.in_features - 4)
        inside = torch.nn.functional.elu(self.chain_context(torch.cat([self.chain_state, nothing])))
        return self._link(self.chain_start, inside)

    def _link(self, previous: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.chain_hidden(torch.cat([previous, context], -1)))
        loc, spread = self.chain_read(hidden).chunk(2, -1)
        return loc, softplus(spread) + LEAST

    def what_new(self, births: Tensor, most: int) -> MaskedNormal:
        """The distribution of appearances of new objects, event (most, features)."""
        like = self.first_births

        def compute() -> tuple[Tensor, Tensor]:
            return like.new_zeros(self.features), like.new_ones(self.features)

        loc, scale = self.shared("what prior", (like,), compute)
        return MaskedNormal(loc, scale, self.born(births, most), 2)

    def born(self, births: Tensor, most: int) -> Tensor:
        """Which of the new objects there are, bool (..., most, 1)."""

        def compute() -> Tensor:
            return (torch.arange(most, device=births.device) < births.unsqueeze(-1)).unsqueeze(-1)

        mask: Tensor = self.shared(f"born {id(births)} {most}", (births,), compute)
        return mask

    # ----- rendering ----------------------------------------------------------------------------------------------

    def decode(self, what: Tensor) -> Tensor:
        """Appearance (rows, features) to glimpse (rows, planes, gh, gw); the last plane is opacity under `over`."""
        flat = applied(self.shared, self.decoder, what)
        planes = flat.reshape(len(what), self.planes, *self.glimpse)
        if self.output == "sigmoid":
            return torch.sigmoid(planes)
        if self.renderer == "over":
            return torch.cat([self.output_scale * planes[:, :-1], torch.sigmoid(planes[:, -1:])], 1)
        return self.output_scale * planes

    def _glimpses(self, presence: Tensor, what: Tensor) -> Tensor:
        occupied = Occupied(presence > 0)
        return occupied.put(self.decode(occupied.take(what)))

    def paint(self, layers: Tensor, occupied: Occupied, lead: torch.Size) -> Tensor:
        """Put together what objects look like, their sum or the brightest of them.

        Args:
            layers: (rows, channels, height, width).
            occupied: the slots that the rows are.
            lead: the slots' leading axes.

        Returns:
            (*lead, channels, height, width).
        """
        if self.renderer == "max":
            return occupied.put(layers).amax(-4).reshape(*lead, *layers.shape[1:])
        return self._add(layers, occupied, lead)

    def _add(self, layers: Tensor, occupied: Occupied, lead: torch.Size) -> Tensor:
        flat = layers.new_zeros((lead.numel(), *layers.shape[1:]))
        flat = flat.index_add(0, occupied.parent, occupied.counting(layers))
        return flat.reshape(*lead, *layers.shape[1:])

    @property
    def hides(self) -> bool:
        """Whether objects may be there that cannot be seen: beside the picture, or behind something."""
        return self.span > 1.0 or self.screen or self.renderer == "max"

    def place(
        self, glimpse: Tensor, where: Tensor, weights: tuple[Tensor, Tensor] | None = None, margin: int = 0
    ) -> Tensor:
        """Paste glimpses (rows, ...) where boxes are; with a margin also beside the picture and behind the screen."""
        height, width = self.shape[1:]
        if margin:
            weights = placing(where, height, width, (glimpse.shape[-2], glimpse.shape[-1]), self.span, margin)
        layers = paste(glimpse, where, height, width, weights, self.span)
        return layers * self.open if self.screen and not margin else layers

    def render(self, presence: Tensor, where: Tensor, glimpse: Tensor) -> tuple[Tensor, Tensor | None]:
        """Canvas (..., channels, height, width) and, where needed, cover (..., height, width) of a scene."""
        occupied = Occupied(presence > 0)
        lead = presence.shape[:-1]
        height, width = self.shape[1:]
        boxes = occupied.take(where)
        layers = self.place(occupied.take(glimpse), boxes)
        if self.renderer == "over":
            whole = occupied.put(layers)  # (..., slots, channels + 1, height, width)
            canvas = torch.zeros(*lead, *self.shape, device=where.device) + self._behind()
            for i in range(self.slots):
                alpha = whole[..., i, -1:, :, :]
                canvas = canvas * (1.0 - alpha) + alpha * whole[..., i, :-1, :, :]
            return canvas, None
        canvas = self.paint(layers, occupied, lead)
        if self.background == "static":
            canvas = canvas + self.picture
        if not self.needs_cover:
            return canvas, None
        covers = cover(boxes, height, width, self.glimpse, self.span).unsqueeze(1)
        return canvas, self._add(covers, occupied, lead).squeeze(-3)

    def _behind(self) -> Tensor | float:
        return self.picture if self.background == "static" else 0.0

    @property
    def needs_cover(self) -> bool:
        """Whether the likelihood treats pixels inside and outside boxes differently."""
        return self.background == "mean" or self.background_std is not None

    def likelihood(self, canvas: Tensor, covers: Tensor | None, mask: Tensor | None = None) -> MaskedNormal:
        """The distribution of frames.

        Args:
            canvas: (..., frames, channels, height, width).
            covers: (..., frames, height, width), where `needs_cover`.
            mask: bool, broadcasts against the canvas, True where a pixel is known.
        """
        std = self.std
        if covers is not None:
            inside = torch.sigmoid(-10.0 + 20.0 * covers).unsqueeze(-3)
            if self.background == "mean":
                canvas = canvas + self.picture * inside
            outside = std if self.background_std is None else torch.as_tensor(self.background_std, device=std.device)
            if self.background_std is not None:
                std = inside * std + (1.0 - inside) * outside
        return MaskedNormal(canvas, std, mask, 4)

    # ----- the program --------------------------------------------------------------------------------------------

    def advance(
        self,
        before: State | None,
        dynamics: Dynamics | None,
        stays: tuple[Tensor, Tensor, Tensor] | None,
        births: Tensor,
        where_new: Tensor,
        what_new: Tensor,
        known: tuple[Tensor, Tensor | None] | None = None,
        canvas: Tensor | None = None,
    ) -> State:
        """Put together what stays and what is new.

        Args:
            before: the state before; None at the first frame.
            dynamics: the prior's step from it.
            stays: presence, where and what after propagation; None at the first frame.
            births: int64 (...).
            where_new: (..., most, 4).
            what_new: (..., most, features).
            known: glimpses of new objects (..., most, planes, gh, gw) and of old ones (..., slots, ...), where they
                have been decoded already.
            canvas: where it has been painted already.
        """
        lead, device = births.shape, births.device
        if before is None or stays is None or dynamics is None:
            kept = torch.zeros(*lead, self.slots, device=device)
            born = torch.zeros(lead, dtype=torch.long, device=device)
        else:
            kept, born = stays[0].expand(*lead, -1), before.born.expand(lead)
        free = kept == 0
        rank = free.long().cumsum(-1) - 1
        new = free & (rank < births.unsqueeze(-1))
        order = rank.clamp(0, where_new.shape[-2] - 1)

        def put(fresh: Tensor, old: Tensor | None) -> Tensor:
            rest = fresh.shape[len(lead) + 1 :]
            chosen = fresh  # one new object goes to whatever place is its
            if fresh.shape[len(lead)] > 1:
                index = order.reshape(*order.shape, *[1] * len(rest)).expand(*order.shape, *rest)
                chosen = fresh.gather(len(lead), index)
            there = new.reshape(*new.shape, *[1] * len(rest))
            return chosen.masked_fill(~there, 0.0) if old is None else torch.where(there, chosen, old)

        presence = kept.masked_fill(new, 1.0)
        gone = (presence == 0).unsqueeze(-1)
        where_old, what_old = (None, None) if stays is None else stays[1:]
        where, what = put(where_new, where_old), put(what_new, what_old)
        glimpse = self._glimpses(presence, what) if known is None else put(*known)
        fresh = self.first_memory.expand(*presence.shape, -1)
        if before is None or dynamics is None or stays is None:
            memory, step = fresh.masked_fill(gone, 0.0), torch.zeros_like(where)
            ids = rank.masked_fill(~new, -1)
        else:
            memory = torch.where(new.unsqueeze(-1), fresh, dynamics.memory).masked_fill(gone, 0.0)
            step = (where - before.where).masked_fill((kept == 0).unsqueeze(-1), 0.0)
            ids = torch.where(new, born.unsqueeze(-1) + rank, before.ids).masked_fill(gone.squeeze(-1), -1)
        covers = None
        if canvas is None or self.needs_cover:
            painted, covers = self.render(presence, where, glimpse)
            canvas = painted if canvas is None else canvas
        time = 0 if before is None else before.time + 1
        return State(presence, where, what, glimpse, memory, step, ids, born + births, canvas, covers, time)

    def forward(
        self,
        x: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        frames: int = 10,
        rows: int = 1,
        start: State | None = None,
    ) -> list[State]:
        """Generate a video, or score one.

        Args:
            x: videos (rows, frames, [channels,] height, width), uint8 or 0 .. 1; None to draw them.
            mask: bool (rows, frames, height, width), or (rows, frames): True where `x` is known.
            lengths: int64 (rows,), frames that count in each video; all by default.
            frames: how many to draw without `x`.
            rows: how many videos to draw without `x`.
            start: the state to continue from.

        Returns:
            The state after each frame.
        """
        video = None if x is None else self.video(x)
        if video is not None:
            rows, frames = video.shape[:2]
        states: list[State] = []
        with pyro.plate("data", rows, dim=-1):
            state = start
            for time in range(frames):
                with counted(lengths, time):
                    state = self._frame(state)
                states.append(state)
            canvas = torch.stack([s.canvas for s in states], -4)
            covers = None if states[0].cover is None else torch.stack([s.cover for s in states], -3)  # type: ignore[misc]
            known = pixel_mask(mask, lengths, rows, frames)
            pyro.sample("x", self.likelihood(canvas, covers, known), obs=video)
        self.shared.clear()
        return states

    def _frame(self, before: State | None) -> State:
        time = 0 if before is None else before.time + 1
        stays = dynamics = None
        if before is not None:
            dynamics = self.dynamics(before)
            presence = pyro.sample(f"t{time}/presence", MaskedBernoulli(dynamics.presence, before.presence > 0))
            there = (presence > 0).unsqueeze(-1)
            where = pyro.sample(f"t{time}/where", MaskedNormal(dynamics.where_loc, dynamics.where_scale, there, 2))
            what = pyro.sample(f"t{time}/what", MaskedNormal(dynamics.what_loc, dynamics.what_scale, there, 2))
            stays = (presence, where, what)
        most = self.most(before)
        capacity = self.capacity(stays)
        context = expected = None
        if self.chain:
            context = self.context(capacity, *(stays or ()))
            expected = self._expected(dynamics, before, capacity)
        births = pyro.sample(
            f"t{time}/births", dist.Categorical(logits=self.count_logits(dynamics, before, capacity, context))
        )
        where_new = pyro.sample(f"t{time}/where_new", self.where_new(births, most, context, expected))
        what_new = pyro.sample(f"t{time}/what_new", self.what_new(births, most))
        drawn = (births, where_new, what_new) if stays is None else (*stays, births, where_new, what_new)
        state: State = self.shared(
            f"state {time}", drawn, lambda: self.advance(before, dynamics, stays, births, where_new, what_new)
        )
        return state

    def most(self, before: State | None) -> int:
        """Most births in a frame."""
        return self.slots if before is None else self.later_births

    def capacity(self, stays: tuple[Tensor, ...] | None) -> Tensor:
        """Slots left for births, int64 (...)."""
        if stays is None:
            return torch.tensor(self.slots, device=self.first_memory.device)
        presence, most = stays[0], self.later_births
        free: Tensor = self.shared(f"capacity {id(presence)}", (presence,),
                                   lambda: (self.slots - presence.sum(-1)).long().clamp(max=most))  # fmt: skip
        return free

    def video(self, x: Tensor) -> Tensor:
        """Videos as float (rows, frames, channels, height, width)."""
        pixels = x.to(self.first_memory.dtype) / 255.0 if x.dtype == torch.uint8 else x
        return pixels.reshape(*pixels.shape[:2], *self.shape)
