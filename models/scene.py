"""A scene seen from new viewpoints: a memory of posed photographs, read and painted by a recurrent decoder.

    m   = memory(photographs, poses)                                   deterministic
    z_l ~ N(mean_l, (t sd_l)^2)(z_<l, m, query pose),   l = 0 .. L-1   site "z_<l>", event (latent, s, s)
    x   ~ likelihood(picture(z, m, query pose))                        site "x", event (3, H, W)

t is 1 in training (`systems.scene.training`), then `prior_temperature` ((V + 1) / (n + 1))^`prior_growth`, where n
photographs were seen of the query's tile, or V, the number of training, if they are more.

Plates: "data" over grids of scenes (dim -2) and "queries" over viewpoints (dim -1), the latter masked where a grid has
fewer than the widest. A row of a batch is a square grid of `side` x `side` scenes with one memory: a single scene where
the side is 1. Without query images the program generates them.

What model and guide share, memory, context and the decoder's recursion, is computed once: the guide leaves it in
`SceneModel.shared`, and the model, run on the guide's values, takes it from there and clears it.

References: Alet et al., *Graph Element Networks*, ICML 2019; Eslami et al., *Neural scene representation and
rendering*, Science 2018; Gregor et al., *DRAW*, 2015.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.distributions.discretized_logistic import DiscretizedLogistic
from phlogiston.distributions.mixed_normals import MixedNormals
from phlogiston.errors import ShapeError, unknown_name
from phlogiston.networks.draw import Context, DrawDecoder, Painting
from phlogiston.networks.scene_memory import Frame, SceneMemory, State

LIKELIHOODS = ("normal", "normal-learned-sigma", "discretized-logistic")


def latent_prior(decoder: DrawDecoder, painting: Painting) -> Any:
    """Return the prior of the next latent: one normal, or a mixture of normals where the context foresees several.

    Its deviations are those the networks were trained with, times `decoder.temperature`.
    """
    prior: Any
    if decoder.foresight is not None and painting.layer == 0:
        logits, means, deviations = decoder.foresight(painting.context.values)
        prior = MixedNormals(logits, means, deviations, trailing=2)
    else:
        mean, logvar = decoder.prior(painting)
        prior = dist.Normal(mean, (0.5 * logvar).exp()).to_event(3)
    temperature = decoder.temperature(painting.context)
    return prior if isinstance(temperature, float) and temperature == 1.0 else tempered(prior, temperature)


def tempered(prior: Any, temperature: float | Tensor) -> Any:
    """Return the prior of a latent with its standard deviations multiplied; those of all parts, if it is a mixture.

    Args:
        prior: of batch shape (..., B, Q).
        temperature: one factor, or (B, Q).
    """
    if isinstance(prior, MixedNormals):
        return prior.tempered(temperature)
    while hasattr(prior, "base_dist"):
        prior = prior.base_dist
    factor = temperature[..., None, None, None] if isinstance(temperature, Tensor) else temperature
    return dist.Normal(prior.loc, (prior.scale * factor).clamp_min(1e-12)).to_event(3)


@contextmanager
def at_temperature(decoder: DrawDecoder, temperature: float, growth: float = 0.0) -> Iterator[None]:
    """Set `prior_temperature` and `prior_growth` within a block."""
    before = decoder.prior_temperature, decoder.prior_growth
    decoder.prior_temperature, decoder.prior_growth = temperature, growth
    try:
        yield
    finally:
        decoder.prior_temperature, decoder.prior_growth = before


class Shared:
    """What the guide has computed and the model may take: kept from the guide's call to the model's.

    Entries are found by identity: a step is reused only if the model arrives with the very tensors the guide had.
    """

    def __init__(self) -> None:
        self.key: tuple[Any, ...] = ()
        self.context: Context | None = None
        self.draft: Tensor | None = None  # the picture before the first latent
        self.steps: dict[int, tuple[Tensor, Painting, Painting]] = {}
        self.advances = 0  # steps computed, for tests
        self.holding = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return Shared()

    def clear(self) -> None:
        """Forget everything, unless it is held."""
        if self.holding:
            return
        self.key, self.context, self.draft, self.steps = (), None, None, {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep what is left until the end of a block, whoever takes it: objectives that add terms of their own."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
            self.clear()

    def find(self, key: tuple[Any, ...]) -> Context | None:
        """Return the context left for this call, if it was."""
        same = len(key) == len(self.key) and all(a is b for a, b in zip(key, self.key, strict=True))
        return self.context if same else None


class SceneModel(nn.Module):
    """The generative program.

    Args:
        memory: what photographs are written to.
        decoder: what paints pictures.
        width: the option `tile`.
        most: V, the option `context`.

    The other arguments are options of `systems.scene.config.Config`, described there.
    """

    def __init__(
        self,
        memory: SceneMemory,
        decoder: DrawDecoder,
        width: float = 0.7,
        likelihood: str = "normal",
        sigma: float = 0.2,
        most: int = 8,
    ) -> None:
        super().__init__()
        if likelihood not in LIKELIHOODS:
            raise unknown_name("likelihood", likelihood, LIKELIHOODS)
        self.memory, self.decoder, self.width, self.kind, self.most = memory, decoder, width, likelihood, most
        self.register_buffer("sigma", torch.tensor(float(sigma)))
        if likelihood != "normal":
            self.raw_scale = nn.Parameter(torch.full((3,), math.log(math.expm1(float(sigma)))))
        self.shared = Shared()

    sigma: Tensor

    # ----- parts --------------------------------------------------------------------------------------------------

    def frame(self, origin: Tensor, side: Tensor | int) -> Frame:
        """The frame of scenes whose lower left corners are `origin` (B, 2)."""
        return Frame.of(origin, side, self.width)

    def observe(
        self,
        images: Tensor,
        poses: Tensor,
        obs_mask: Tensor | None = None,
        origin: Tensor | None = None,
        side: Tensor | int = 1,
    ) -> State:
        """Write photographs into a fresh memory; arguments as `forward`."""
        if images.dim() != 5 or images.shape[2] != 3 or images.shape[:2] != poses.shape[:2]:
            raise ShapeError(
                f"images have shape {tuple(images.shape)}, poses {tuple(poses.shape)}; expected (B, V, 3, H, W) and "
                "(B, V, 6)."
            )
        origin = poses.new_full((len(poses), 2), -0.4) if origin is None else origin
        return self.memory.observe(unit(images, poses.dtype), poses, obs_mask, self.frame(origin, side))

    def context(self, state: State, query_poses: Tensor) -> Context:
        """What the decoder starts from at query poses (B, Q, 6)."""
        local = self.memory.local(query_poses, state.frame)
        return self.decoder.context(self.memory.read(state, query_poses), local, self.scarce(state, query_poses))

    def scarce(self, state: State, query_poses: Tensor) -> Tensor | None:
        """How few photographs were seen of each query's tile, log (V + 1) / (n + 1), (B, Q); None if nothing asks."""
        if not self.decoder.prior_growth:
            return None
        (asked, _), (at, _) = state.frame.tiles(query_poses), state.frame.tiles(state.poses)
        seen = ((asked[:, :, None] == at[:, None]) & state.mask[:, None]).sum(-1).clamp_max(self.most)
        return math.log(self.most + 1.0) - torch.log(seen + query_poses.new_ones(()))

    def prior(self, painting: Painting) -> Any:
        """The prior of the next latent."""
        return latent_prior(self.decoder, painting)

    def likelihood(self, picture: Tensor) -> Any:
        """The distribution of a photograph around the painted one."""
        if self.kind == "normal":
            return dist.Normal(picture, self.sigma).to_event(3)
        scale = (functional.softplus(self.raw_scale) + 1e-3)[:, None, None]
        if self.kind == "normal-learned-sigma":
            return dist.Normal(picture, scale).to_event(3)
        return DiscretizedLogistic(picture, scale).to_event(3)

    def step(self, painting: Painting, z: Tensor) -> Painting:
        """Advance the decoder, taking the step from `shared` where the guide has computed it."""
        left = self.shared.steps.get(painting.layer)
        if left is not None and left[0] is z and left[1] is painting:
            return left[2]
        self.shared.advances += 1
        return self.decoder.advance(painting, z)

    def prepare(
        self,
        remember: bool,
        images: Tensor | None = None,
        poses: Tensor | None = None,
        obs_mask: Tensor | None = None,
        query_poses: Tensor | None = None,
        origin: Tensor | None = None,
        side: Tensor | int = 1,
        state: State | None = None,
    ) -> Painting:
        """The painting before the first latent, and what guide and model share of it.

        Args:
            remember: True for the guide: compute, and leave for the model. False for the model: take, or compute.
            images, poses, obs_mask, query_poses, origin, side, state: arguments of `forward`.
        """
        poses, images, query_poses = fill(self, poses, images, query_poses)
        key = (images, poses, obs_mask, query_poses, origin, side, state, torch.is_grad_enabled())
        if not remember:
            left = self.shared.find(key)
            if left is not None:
                return self.shared.steps[0][1] if 0 in self.shared.steps else self.decoder.begin(left)
        if state is None:
            state = self.observe(images, poses, obs_mask, origin, side)
        context = self.context(state, query_poses)
        if remember:
            self.shared.key, self.shared.context, self.shared.draft, self.shared.steps = key, context, None, {}
        return self.decoder.begin(context)

    # ----- the program --------------------------------------------------------------------------------------------

    def forward(
        self,
        images: Tensor | None = None,
        poses: Tensor | None = None,
        obs_mask: Tensor | None = None,
        query_poses: Tensor | None = None,
        query_images: Tensor | None = None,
        query_mask: Tensor | None = None,
        origin: Tensor | None = None,
        side: Tensor | int = 1,
        state: State | None = None,
    ) -> Tensor:
        """Run the program: score query images where they are given, paint them where they are None.

        Args:
            images: (B, V, 3, H, W), bytes or numbers in [0, 1]; None for a scene never seen.
            poses: (B, V, 6): x, y, z, yaw, pitch, roll of the photographs.
            obs_mask: bool (B, V), False for padding.
            query_poses: (B, Q, 6).
            query_images: (B, Q, 3, H, W), or None.
            query_mask: bool (B, Q), False where a scene has no such query.
            origin: (B, 2), lower left corner of each scene; (-0.4, -0.4) by default.
            side: scenes along a side of the grid, the same for all rows.
            state: a memory to ask, instead of photographs.

        Returns:
            x, (..., B, Q, 3, H, W).
        """
        painting = self.prepare(False, images, poses, obs_mask, query_poses, origin, side, state)
        try:
            with plates(painting, query_mask):
                for layer in range(self.decoder.layers):
                    z = pyro.sample(f"z_{layer}", self.prior(painting))
                    painting = self.step(painting, z)
                picture = self.decoder.picture(painting.total)
                obs = None if query_images is None else unit(query_images, picture.dtype)
                return pyro.sample("x", self.likelihood(picture), obs=obs)
        finally:
            self.shared.clear()


def unit(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Photographs as numbers in [0, 1]."""
    return images.to(dtype) / 255.0 if images.dtype == torch.uint8 else images


def fill(
    model: SceneModel, poses: Tensor | None, images: Tensor | None, query_poses: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Put empty tensors where a program was given None."""
    like = model.sigma
    if query_poses is None:
        query_poses = like.new_zeros(1, 1, 6)
    if poses is None:
        poses = like.new_zeros(len(query_poses), 0, 6)
    if images is None:
        side = model.decoder.image
        images = like.new_zeros(len(query_poses), 0, 3, side, side)
    if query_poses.dim() != 3 or query_poses.shape[-1] != 6:
        raise ShapeError(f"query_poses have shape {tuple(query_poses.shape)}; expected (B, Q, 6).")
    return poses, images, query_poses


@contextmanager
def plates(painting: Painting, query_mask: Tensor | None) -> Iterator[None]:
    """The plates over scenes and queries, and the mask of queries that are padding."""
    scenes, queries = painting.context.values.shape[:2]
    mask = nullcontext() if query_mask is None else poutine.mask(mask=cast(torch.BoolTensor, query_mask))
    with pyro.plate("data", scenes, dim=-2), pyro.plate("queries", queries, dim=-1), mask:
        yield
