"""SQAIR's guide as published: recurrent networks that go through the objects one by one.

Kosiorek et al., *Sequential Attend, Infer, Repeat*, 2018, section 3 and appendix. Propagation goes through the slots
in order: a first look near the old box under a soft mask, a relation network that has seen the slots before it, a box
with a full covariance, a second look, a recurrent state per object, gates that mix old and new appearance, presence.
Discovery goes through the births in order. Differences on purpose: the frame is encoded once, not once per particle
and step; the covariance's factor has a positive diagonal by construction; a birth needs a free slot.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from phlogiston.distributions.masked_triangular import MaskedTriangular
from phlogiston.guides.sqair_parts import Born, Frame, Kept
from phlogiston.models.sqair import LEAST, SQAIRModel
from phlogiston.networks.occupied import Occupied
from phlogiston.networks.perceptron import linear, perceptron
from phlogiston.networks.spatial import crop, paste


class PaperParts(nn.Module):
    """Propagation and discovery by recurrent networks.

    Args:
        model: the model; its `chain` must be on, whose summary of objects is used here, too.
        mask_width: width of the networks that place the first look and its mask.

    The other arguments are options of `systems.sqair.config.Config`, described there.
    """

    propagation = (
        "first_memory", "near.", "soft_mask.", "relate", "follow.", "correlation", "temporal.", "recall.", "gates.",
        "stay.",
    )  # fmt: skip

    def __init__(self, model: SQAIRModel, hidden: int = 256, mask_width: int = 128) -> None:
        super().__init__()
        self._model = [model]
        channels, height, width = model.shape
        pixels = model.glimpse[0] * model.glimpse[1]
        size = model.features
        state = size + 5  # what, where, presence
        self.matching = False  # there is no matched filter in these parts
        self.encoder = perceptron([channels * pixels, hidden, hidden, 2 * size])
        self.image = perceptron([channels * height * width, hidden, hidden])
        self.first_memory = nn.Parameter(torch.zeros(hidden))
        self.near = perceptron([hidden, mask_width, 4])
        self.soft_mask = perceptron([hidden, mask_width, pixels], 1.0)
        self.relate = nn.RNNCell(size + 2 * state + hidden, hidden)
        self.relate_start = nn.Parameter(torch.zeros(hidden))
        self.follow = perceptron([2 * hidden + 4, hidden, hidden, 8])
        self.correlation = nn.Parameter(torch.zeros(4, 4))
        self.spread = nn.Parameter(torch.tensor(-3.0))
        self.temporal = nn.GRUCell(hidden + 4 + 2 * size, hidden)
        self.recall = linear(hidden, 2 * size)
        self.gates = perceptron([hidden, 3 * size], 1.0)
        self.stay = perceptron([2 * hidden + size, mask_width, 1], 5.0)
        self.search = nn.RNNCell(2 * hidden + 1 + state, hidden)
        self.search_start = nn.Parameter(torch.zeros(hidden))
        self.aim = perceptron([hidden, hidden, hidden, 8])
        self.birth = perceptron([hidden + size, mask_width, 1], 1.0)

    @property
    def model(self) -> SQAIRModel:
        """The model it belongs to."""
        return self._model[0]

    def encode(self, video: Tensor) -> Tensor:
        """Encode every frame once, (rows, frames, hidden)."""
        code: Tensor = self.image(video.flatten(2))
        return code

    def where_distribution(self, parameters: tuple[Tensor, Tensor], there: Tensor) -> MaskedTriangular:
        """The distribution of propagated boxes."""
        return MaskedTriangular(*parameters, there)

    def _look(self, picture: Tensor, where: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        glimpse = crop(picture, where, self.model.glimpse)
        if mask is not None:
            glimpse = glimpse * mask.reshape(len(mask), 1, *self.model.glimpse)
        loc, spread = self.encoder(glimpse.flatten(1)).chunk(2, -1)
        return loc, softplus(spread) + LEAST

    # ----- propagation --------------------------------------------------------------------------------------------

    def propagate(self, frame: Frame) -> Kept:
        """Carry objects over from the frame before, slot after slot."""
        model, before, prior = self.model, frame.before, frame.dynamics
        assert before is not None
        assert prior is not None
        assert frame.memory is not None
        rows = len(frame.pixels)

        def flat(part: Tensor) -> Tensor:
            return part.expand(*frame.lead, *part.shape[len(frame.lead) :]).reshape(
                rows, *part.shape[len(frame.lead) :]
            )

        there, where_old, what_old = flat(before.presence), flat(before.where), flat(before.what)
        memory_old, noise = flat(frame.memory), flat(frame.noise)
        relation = self.relate_start.expand(rows, -1)
        last = frame.pixels.new_zeros(rows, model.features + 5)
        columns: list[tuple[Tensor, ...]] = []
        for i in range(model.slots):
            hidden, old, picture = memory_old[:, i], where_old[:, i], what_old[:, i]
            mask = torch.sigmoid(self.soft_mask(hidden))
            glance, _ = self._look(frame.pixels, old + 0.1 * self.near(hidden), mask)
            own = torch.cat([picture, old, there[:, i : i + 1]], -1)
            relation = self.relate(torch.cat([glance, last, own, hidden], -1), relation)
            loc, raw = self.follow(torch.cat([relation, old, hidden], -1)).chunk(2, -1)
            scale = softplus(raw + self.spread - 1.0) + LEAST
            factor = self.correlation.tril(-1) * scale.unsqueeze(-1) + torch.diag_embed(scale)
            where_params = [old + loc, factor]
            if frame.seen is not None:
                seen = frame.seen.unsqueeze(-1)
                where_params[0] = torch.where(seen, where_params[0], flat(prior.where_loc)[:, i])
                where_params[1] = torch.where(
                    seen.unsqueeze(-1), factor, torch.diag_embed(flat(prior.where_scale)[:, i])
                )
            where = where_params[0] + (where_params[1] @ noise[:, i, 1:5].unsqueeze(-1)).squeeze(-1)
            seen_loc, seen_scale = self._look(frame.pixels, where, mask)
            memory = self.temporal(torch.cat([relation, where, seen_loc, seen_scale], -1), hidden)
            told_loc, raw = self.recall(memory).chunk(2, -1)
            told_scale = softplus(raw) + LEAST
            keep, less, even = (0.9999 * torch.sigmoid(self.gates(memory))).chunk(3, -1)
            what_params = [
                keep * picture + (1.0 - less) * seen_loc + (1.0 - even) * told_loc,
                (1.0 - less) * seen_scale + (1.0 - even) * told_scale,
            ]
            if frame.seen is not None:
                what_params[0] = torch.where(frame.seen.unsqueeze(-1), what_params[0], flat(prior.what_loc)[:, i])
                what_params[1] = torch.where(frame.seen.unsqueeze(-1), what_params[1], flat(prior.what_scale)[:, i])
            what = what_params[0] + what_params[1] * noise[:, i, 5:]
            logit = self.stay(torch.cat([relation, hidden, what], -1)).squeeze(-1)
            if frame.seen is not None:
                logit = torch.where(frame.seen, logit, flat(prior.presence)[:, i])
            stays = _coin(noise[:, i, 0], logit) * there[:, i]
            present = stays.unsqueeze(-1) > 0
            where_kept, what_kept = torch.where(present, where, 0.0), torch.where(present, what, 0.0)
            last = torch.cat([what_kept, where_kept, stays.unsqueeze(-1)], -1)
            columns.append((stays, where_kept, what_kept, logit, *where_params, *what_params, memory))
        stacked = [torch.stack(column, 1) for column in zip(*columns, strict=True)]
        occupied = Occupied(stacked[0] > 0)
        glimpse = model.decode(occupied.take(stacked[2]))
        layers = paste(glimpse[:, : model.shape[0]], occupied.take(stacked[1]), *model.shape[1:])
        canvas = model.paint(layers, occupied, torch.Size([rows]))

        def shaped(part: Tensor) -> Tensor:
            return part.reshape(*frame.lead, *part.shape[1:])

        presence, where, what, logits, loc, factor, what_loc, what_scale, memory = map(shaped, stacked)
        put = shaped(occupied.put(glimpse))
        return Kept(presence, where, what, logits, (loc, factor), (what_loc, what_scale), put, canvas, memory)

    # ----- discovery ----------------------------------------------------------------------------------------------

    def discover(self, frame: Frame, kept: Kept | None, capacity: Tensor, most: int) -> Born:
        """Look for new objects, one after the other."""
        model = self.model
        rows = len(frame.pixels)
        assert frame.fresh is not None
        image = frame.fresh.expand(*frame.lead, -1).reshape(rows, -1)
        like = capacity.expand(frame.lead)
        stays = () if kept is None else (kept.presence, kept.where, kept.what)
        context = model.context(like, *stays).reshape(rows, -1)
        left = capacity.expand(frame.lead).reshape(-1)
        noise = frame.noise.reshape(rows, *frame.noise.shape[-2:])[:, model.slots :]
        hidden = self.search_start.expand(rows, -1)
        last = image.new_zeros(rows, model.features + 5)
        births = torch.zeros_like(left)
        columns: list[tuple[Tensor, ...]] = []
        for k in range(most):
            free = (left > k).to(image.dtype).unsqueeze(-1)
            hidden = self.search(torch.cat([image, context, free, last], -1), hidden)
            loc, raw = self.aim(hidden).chunk(2, -1)
            where_params = [loc, softplus(raw + self.spread) + LEAST]
            if frame.seen is not None:
                prior = model.where_guess()
                for i in (0, 1):
                    where_params[i] = torch.where(frame.seen.unsqueeze(-1), where_params[i], prior[i])
            where = where_params[0] + where_params[1] * noise[:, k, 1:5]
            what_params = list(self._look(frame.pixels, where))
            if frame.seen is not None:
                what_params[0] = torch.where(frame.seen.unsqueeze(-1), what_params[0], 0.0)
                what_params[1] = torch.where(frame.seen.unsqueeze(-1), what_params[1], 1.0)
            what = what_params[0] + what_params[1] * noise[:, k, 5:]
            logit = self.birth(torch.cat([hidden, what], -1)).squeeze(-1)
            if frame.seen is not None:
                hiddenly = torch.logit(1.0 - torch.softmax(model.later_logits, -1)[0], eps=1e-6)
                logit = torch.where(frame.seen, logit, hiddenly)
            new = _coin(noise[:, k, 0], logit) * ((births == k) & (left > k))
            births = births + new.long()
            there = new.unsqueeze(-1) > 0
            where_kept, what_kept = torch.where(there, where, 0.0), torch.where(there, what, 0.0)
            last = torch.cat([what_kept, where_kept, new.unsqueeze(-1)], -1)
            columns.append((logit, where_kept, what_kept, *where_params, *what_params, new))
        stacked = [torch.stack(column, 1) for column in zip(*columns, strict=True)]
        occupied = Occupied(stacked[-1] > 0)
        glimpse = model.decode(occupied.take(stacked[2]))
        layers = paste(glimpse[:, : model.shape[0]], occupied.take(stacked[1]), *model.shape[1:])
        canvas = model.paint(layers, occupied, torch.Size([rows]))
        if kept is not None:
            canvas = canvas + kept.canvas

        def shaped(part: Tensor) -> Tensor:
            return part.reshape(*frame.lead, *part.shape[1:])

        logits, where, what, loc, scale, what_loc, what_scale = map(shaped, stacked[:-1])
        put = shaped(occupied.put(glimpse))
        births = births.reshape(frame.lead)
        return Born(births, logits, where, what, (loc, scale), (what_loc, what_scale), put, canvas)


def _coin(noise: Tensor, logits: Tensor) -> Tensor:
    """Heads (1.0) with probability sigma(logits), from noise uniform in 0 .. 1."""
    with torch.no_grad():
        return (noise < torch.sigmoid(logits)).to(noise.dtype)
