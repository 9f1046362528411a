"""SQAIR's guide: a filter that carries objects from frame to frame and looks for new ones.

    q(z_1:T | x_1:T) = prod_t q(stays_t | x_t, z_{t-1}) q(born_t | x_t, stays_t)

The guide decides whether an object is there after it has drawn a box and an appearance for it and looked at the
result. All its continuous noise is drawn first, at the auxiliary site `noise`; everything else is a function of noise
and video, so that the same noise gives the same answer however particles are arranged and however videos continue.
Boxes and appearances are registered as presampled values once it is known whether they count: those that do not have no
density in model or guide.

Two families of parts: `sqair_residual` (fast: one look at what is not explained yet, objects in parallel) and
`sqair_paper` (as published: a recurrent network over objects).
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from phlogiston.distributions.masked import MaskedBernoulli, MaskedNormal
from phlogiston.distributions.presampled import PreSampled
from phlogiston.distributions.stick_count import StickCount
from phlogiston.guides.sqair_parts import Born, Frame, Kept
from phlogiston.models.sqair import SQAIRModel
from phlogiston.models.sqair_state import State, counted


class SQAIRGuide(nn.Module):
    """The inference program.

    Args:
        model: the model it belongs to; glimpses are decoded and dynamics computed by it.
        parts: its networks, `guides.sqair_residual.ResidualParts` or `guides.sqair_paper.PaperParts`.
    """

    def __init__(self, model: SQAIRModel, parts: Any) -> None:
        super().__init__()
        # the model's parameters are the model's: a list keeps them out of this module's tree
        self._model = [model]
        self.parts = parts

    @property
    def model(self) -> SQAIRModel:
        """The model it belongs to."""
        return self._model[0]

    def forward(
        self,
        x: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        *,
        start: tuple[State, Tensor | None] | State | None = None,
        **_: Any,
    ) -> list[tuple[State, Tensor | None]]:
        """Propose what is in a video; arguments as the model's.

        Without `x` there is nothing to look at, and nothing is proposed.

        Returns:
            State and the guide's own memory after each frame.
        """
        model = self.model
        model.shared.clear()
        if x is None:
            return []
        video = model.video(x)
        rows, frames = video.shape[:2]
        if mask is not None and mask.dim() == 5:
            mask = mask.all(2)
        seen = None if mask is None else mask.reshape(rows, frames, -1).any(-1)
        if mask is not None:
            video = video * mask.reshape(rows, frames, 1, *(mask.shape[2:] or (1, 1)))
        state, memory = (start, None) if isinstance(start, State | None) else start
        width = 1 + 4 + model.features
        states = []
        with pyro.plate("data", rows, dim=-1):
            zero = torch.zeros(frames, 2 * model.slots, width, device=video.device, dtype=video.dtype)
            noise = pyro.sample(
                "noise", dist.Normal(zero, 1.0).to_event(3).mask(False), infer={"is_auxiliary": True}
            )  # (..., rows, frames, slots + births, width)
            lead = noise.shape[:-3]
            # the first number of each slot decides by a threshold: all of them at once
            noise = torch.cat([torch.special.ndtr(noise[..., :1]), noise[..., 1:]], -1)
            fresh = self.parts.encode(video)
            for time in range(frames):
                pixels = video[:, time].expand(*lead, *model.shape).reshape(-1, *model.shape)
                hidden = None if seen is None else seen[:, time].expand(lead).reshape(-1)
                frame = Frame(
                    pixels,
                    lead,
                    state,
                    None if state is None else model.dynamics(state),
                    hidden,
                    noise[..., time, :, :],
                    memory,
                    None if fresh is None else fresh[:, time],
                )
                with counted(lengths, time):
                    state, memory = self._frame(frame)
                states.append((state, memory))
        return states

    def _frame(self, frame: Frame) -> tuple[State, Tensor | None]:
        model, before, lead = self.model, frame.before, frame.lead
        time = 0 if before is None else before.time + 1
        kept: Kept | None = None
        stays = None
        if before is not None:
            kept = self.parts.propagate(frame)
            there = (kept.presence > 0).unsqueeze(-1)
            presence = pyro.sample(
                f"t{time}/presence", PreSampled(MaskedBernoulli(kept.logits, before.presence > 0), kept.presence)
            )
            where = pyro.sample(
                f"t{time}/where", PreSampled(self.parts.where_distribution(kept.where_params, there), kept.where)
            )
            what = pyro.sample(
                f"t{time}/what",
                PreSampled(MaskedNormal(kept.what_params[0], kept.what_params[1], there, 2), kept.what),
            )
            stays = (presence, where, what)
        most = model.most(before)
        capacity = model.capacity(stays).expand(lead)
        born: Born = self.parts.discover(frame, kept, capacity, most)
        births = pyro.sample(f"t{time}/births", PreSampled(StickCount(born.logits, capacity), born.births))
        new = model.born(births, most)
        where_new = pyro.sample(f"t{time}/where_new", PreSampled(MaskedNormal(*born.where_params, new, 2), born.where))
        what_new = pyro.sample(f"t{time}/what_new", PreSampled(MaskedNormal(*born.what_params, new, 2), born.what))
        drawn: tuple[Tensor, ...] = (births, where_new, what_new)
        drawn = drawn if stays is None else (*stays, *drawn)
        ours: tuple[Tensor, ...] = (born.births, born.where, born.what)
        if kept is not None:
            ours = (kept.presence, kept.where, kept.what, *ours)
        known = canvas = None
        if all(a is b for a, b in zip(drawn, ours, strict=True)):  # no handler replaced them
            known = (born.glimpse, None if kept is None else kept.glimpse)
            if model.background != "static" and model.renderer != "over":
                canvas = born.canvas.reshape(*lead, *model.shape)
        state = model.advance(before, frame.dynamics, stays, births, where_new, what_new, known, canvas)
        model.shared.keep(f"state {time}", drawn, state)
        return state, self._remember(frame, kept, state)

    def _remember(self, frame: Frame, kept: Kept | None, state: State) -> Tensor | None:
        start = self.parts.first_memory
        if start is None:
            return None
        fresh = start.expand(*state.presence.shape, -1)
        if kept is None or kept.memory is None:
            return fresh
        return torch.where((kept.presence > 0).unsqueeze(-1), kept.memory, fresh)
