"""Scenes from new viewpoints as a product: photographs into a memory, photographs out of it.

    data = phlogiston.datasets.load("courts")
    system = Scene().fit(data)
    memory = system.observe(images, poses)             posed photographs of one scene, or of a square grid of scenes
    system.sample_views(memory, poses, 8)              pictures from new viewpoints, (8, queries, 3, H, W)
    system.reconstruct(memory, images, poses)          the same photographs, by way of the latents
    system.log_prob(photographs, memory=memory)        nats per photograph, a lower bound
    system.log_prob(data.test)                         nats per scene: its first photographs are seen, the others scored
    system.localise(memory, image, poses)              where was this taken? probabilities of the candidate poses
    system.turn(memory, (x, y))                        a look around

Memories grow (`add`), shrink (`forget`), spread (`extend`) and are joined (`tile`); see `systems.scene.memory`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from phlogiston.arrays import at_least, tensor_of
from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.datasets.generated.scene_grid import SceneGrid, check_scenes
from phlogiston.datasets.streamed import in_memory
from phlogiston.errors import ConfigError, DataError, ShapeError, unknown_name
from phlogiston.evaluate.score import Score
from phlogiston.evaluate.weights import mean_and_error
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.row_noise import row_keys
from phlogiston.systems.base import Role, System
from phlogiston.systems.calls import checked_seed, drawn_seed
from phlogiston.systems.inputs import check_alike, check_heeded, coerce, rows_of
from phlogiston.systems.scene import build as scene_build
from phlogiston.systems.scene import stages as scene_stages
from phlogiston.systems.scene import views as scene_views
from phlogiston.systems.scene.config import Config as SceneConfig
from phlogiston.systems.scene.memory import Memory, check_poses, check_views, observe
from phlogiston.systems.scene.training import Report
from phlogiston.systems.scene.video import kept_memory, turn_video
from phlogiston.systems.words import in_words

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer

METHODS = ("auto", "importance")  # of `query`; both weigh draws of guide and prior


class Scene(System):
    """Scene rendering with a spatial memory; options in `systems.scene.config.Config`.

    Data need `images` uint8 (scenes, views, height, width, 3) and `poses` (scenes, views, 5 or 6): x, y, z, yaw, pitch
    and, if there, roll.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("courts", sizes=(16, 4, 4), views=6, size=16)
        >>> system = Scene(steps=2, draft_steps=2, context=3, queries=2, grid=4, width=8, code=8).fit(data)
        >>> memory = system.observe(data.test.tensors["images"][0, :3], data.test.tensors["poses"][0, :3])
        >>> tuple(system.sample_views(memory, data.test.tensors["poses"][0, 3:], 2).shape)
        (2, 3, 3, 16, 16)
    """

    name: ClassVar[str] = "scene"
    threads = None  # steps are large enough for as many as torch has
    Config: ClassVar[type] = SceneConfig
    config: SceneConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Size of the pictures, and what is kept of scenes to show."""
        return scene_build.describe(self.config, self.prepare(train), self._kept_source or train)

    _kept_source: Split | None = None  # scenes to keep with the model, while it is being fitted

    def fit(self, data: Any, **options: Any) -> Self:
        """Train; see `System.fit`. Scenes to sample from are kept from the validation rows, if there are any."""
        train, valid, _ = coerce(data)
        given = options.get("valid")
        valid = valid if given is None or isinstance(given, Dataset) else coerce(given)[0]
        if valid is not None and len(valid):
            check_alike(in_memory(train), valid)
        self._kept_source = valid if valid is not None and len(valid) else train
        try:
            return super().fit(data, **options)
        finally:
            self._kept_source = None

    def prepare(self, split: Split, role: Role = "train") -> Any:
        """Return grids of the split's scenes."""
        c = self.config
        return SceneGrid(
            split,
            c.context,
            c.queries,
            c.sides,
            least=c.least_context or None,
            width=c.tile,
            arena=c.arena if c.memory == "pooled" else 0,
            corner=c.corner,
            symmetry=c.symmetry,
        )

    def initialise(self, train: Any, seed: int) -> None:
        """Keep the mean photograph, and photographs of a few scenes, with the model."""
        kept = self._kept_source or Split({"images": train.images, "poses": train.poses})
        scene_build.initialise(self.model, train, kept)

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Memory, decoder, and the guide's encoder."""
        self.model, self.guide = scene_build.build(self.config, self.schema)

    def step_options(self) -> dict[str, int]:
        """The options that count optimiser steps, stage by stage."""
        draft = {"draft_steps": self.config.draft_steps} if self.config.draft_steps else {}
        edges = {"edge_steps": self.config.edge_steps} if self.config.edge_steps else {}
        return draft | ({"steps": self.config.steps} if self.config.layers else {}) | edges

    def stages(self) -> list[Stage]:
        """The draft alone, then everything, then edges."""
        return scene_stages.stages(self.config, self.schema["image"])

    def callbacks(self) -> list[Any]:
        """Report the terms of the loss in the records."""
        return [Report()]

    # ----- verbs --------------------------------------------------------------------------------------------------

    def observe(self, images: Any = None, poses: Any = None, *, side: int = 1) -> Memory:
        """Write photographs into a fresh memory.

        Args:
            images: (views, height, width, 3) bytes, or (views, 3, height, width) in [0, 1]; None for none yet.
            poses: (views, 5 or 6): x, y, z, yaw, pitch[, roll].
            side: scenes along a side of the grid, the first at the options' `corner`.

        Raises:
            ShapeError: images and poses that do not fit each other or the model.
            DataError: a camera outside the memory's area.
        """
        self._need_fit()
        return observe(self.model, images, poses, side, self.config.corner)

    def sample_views(
        self,
        memory: Memory,
        poses: Any,
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        noise: bool = False,
        latents: bool = False,
        keep: dict[str, Tensor] | None = None,
        seed: int | None = None,
    ) -> Any:
        """Paint what could be seen from new poses.

        Args:
            memory: of the scene.
            poses: (queries, 5 or 6).
            num_samples: pictures per pose.
            temperature: factor on the standard deviations of the latents' priors; 0 paints the most expected one.
            noise: add the pixels' own noise; otherwise pictures are the likelihood's means.
            latents: return `(pictures, {"z_0": ..., ...})`.
            keep: latents by name that are given, (queries, latent, s, s) or with samples first; the others are drawn
                anew (keep the coarse ones, redraw the fine ones).
            seed: of the draws; None draws from torch's generator as it is.

        Returns:
            (num_samples, queries, 3, H, W).
        """
        at_least("num_samples", num_samples, 1)
        seed = checked_seed(seed)
        if temperature < 0:
            raise ConfigError(f"temperature is {temperature}; it must not be negative.")
        where = check_poses(poses, memory)
        return scene_views.sample_views(
            self.model, memory.state, where, num_samples, temperature, noise, latents, keep, seed
        )

    def reconstruct(
        self, memory: Memory, images: Any, poses: Any, num_samples: int = 1, *, seed: int | None = None
    ) -> Tensor:
        """Paint photographs anew by way of the guide's latents: (num_samples, queries, 3, H, W)."""
        pictures, where = check_views(images, poses, memory)
        return scene_views.reconstruct(self.guide, memory.state, pictures, where, num_samples, seed)

    def log_prob(
        self,
        data: Any,
        *,
        seed: int = 0,
        num_particles: int = 64,
        memory: Memory | None = None,
        context: int | None = None,
    ) -> Score:
        """Log density of photographs given others of the same scene, in nats: a lower bound.

        More particles make it tighter. The score of a photograph does not depend on the others that are scored: its
        draws are seeded by itself, its pose and `seed`.

        Args:
            data: scenes: a dataset (its held-out rows), a split, or a mapping of arrays, as `fit` takes them. Of each
                scene the first `context` photographs are seen, the others are scored. With a `memory`: a mapping with
                the photographs to score, `images` (queries, H, W, 3) bytes or (queries, 3, H, W) in [0, 1], and their
                `poses` (queries, 5 or 6).
            seed: of the samples.
            num_particles: importance samples from the guide, per photograph.
            memory: what is seen, instead of the scenes' own first photographs.
            context: photographs of each scene that are seen; those of training by default.

        Returns:
            One score per scene, the sum over its photographs that were not seen; with a `memory` one per photograph.

        Raises:
            DataError: no scenes, or scenes without further photographs.
            ShapeError: photographs that do not fit their poses or the model.
            ConfigError: `num_particles` below 1, or `context` together with a `memory`.
        """
        self._need_fit()
        at_least("num_particles", num_particles, 1)
        if memory is not None:
            if context is not None:
                raise ConfigError("context is for scenes; with a memory, what is seen is in the memory: leave it out")
            given = data.tensors if isinstance(data, Split) else data
            if not isinstance(given, Mapping) or not {"images", "poses"} <= set(given):
                raise DataError("with a memory, data must be a mapping with 'images' and 'poses' of photographs")
            return self._score_views(memory, given["images"], given["poses"], num_particles, seed)
        rows = rows_of(data)
        check_heeded(self, rows)
        check_scenes(rows)
        seen = at_least("context", self.config.context if context is None else context, 0)
        views = rows["images"].shape[1]
        if views <= seen:
            raise DataError(f"every scene has {views} photographs and {seen} are seen; scoring needs more: set context")
        values, errors = [], []
        for images, poses in zip(rows["images"], rows["poses"], strict=True):
            own = self.observe(images[:seen], poses[:seen])
            score = self._score_views(own, images[seen:], poses[seen:], num_particles, seed)
            values.append(score.value.sum())
            if score.std_error is not None:
                errors.append(score.std_error.square().sum().sqrt())
        return Score(torch.stack(values), "lower bound", torch.stack(errors) if errors else None)

    def _score_views(self, memory: Memory, images: Any, poses: Any, num_particles: int, seed: int) -> Score:
        """Score photographs one by one."""
        pictures, where = check_views(images, poses, memory)
        keys = row_keys(pictures, where, seed=seed).tolist()
        weights = scene_views.log_weights(self.guide, memory.state, pictures, where, num_particles, seed, keys)
        value, error = mean_and_error(weights.double())
        return Score(value, "lower bound", error if num_particles > 1 else None)

    def localise(
        self, memory: Memory, image: Any, candidates: Any, *, num_particles: int = 16, seed: int | None = 0
    ) -> Tensor:
        """Tell where a photograph was taken: probabilities of candidate poses, (candidates,), equally likely before.

        Args:
            memory: of the scene.
            image: (H, W, 3) bytes or (3, H, W).
            candidates: (candidates, 5 or 6).
            num_particles: importance samples per candidate.
            seed: of the samples.
        """
        where = check_poses(candidates, memory)
        picture = tensor_of("image", image)
        if picture.dim() != 3:
            raise ShapeError(
                f"image has shape {tuple(picture.shape)}; expected one photograph, (H, W, 3) or (3, H, W)."
            )
        many = picture.expand(len(where), *picture.shape)
        seed = drawn_seed(seed)
        at_least("num_particles", num_particles, 1)
        return torch.softmax(self._score_views(memory, many, where, num_particles, seed).value, 0)

    def turn(
        self,
        memory: Memory,
        xy: Sequence[float],
        n_frames: int = 11,
        *,
        num_samples: int = 1,
        temperature: float = 1.0,
        seed: int | None = 0,
    ) -> tuple[Tensor, Tensor]:
        """Stand somewhere and turn once around, to the left.

        Args:
            memory: of the scene.
            xy: where to stand.
            n_frames: pictures, from heading -3.13 to 3.13.
            num_samples: of the whole turn.
            temperature: as in `sample_views`.
            seed: of the draws.

        Returns:
            Pictures (n_frames, 3, H, W), or (num_samples, n_frames, 3, H, W) for several; poses (n_frames, 6).
        """
        poses = scene_views.turn_poses(xy, n_frames)
        drawn = self.sample_views(memory, poses, num_samples, temperature=temperature, seed=seed)
        return (drawn[0] if num_samples == 1 else drawn), poses

    @in_words
    def query(
        self,
        evidence: Any = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 100,
        *,
        method: str = "auto",
        seed: int | None = None,
        memory: Memory | None = None,
        pose: Any = None,
        scene: int = 0,
        view: int = -1,
    ) -> Answer:
        """Sample what is seen from one viewpoint given what is known of it.

        Args:
            evidence: what is known of `x`, the photograph (3 H W entries, or of its own shape (3, H, W)), and
                of the latents `z_0 ...`; see `inference.query.evidence`.
            ask: sites to return; all by default.
            num_samples: per row of evidence.
            method: "auto" or "importance": proposals of the guide and of the prior are weighed.
            seed: of the draws; None draws from torch's generator.
            memory: of the scene; by default that of a scene kept with the model.
            pose: (5,) or (6,), the viewpoint; by default a pose kept with the model.
            scene: which kept scene, where there is no `memory`.
            view: which kept pose of it, where there is no `pose`.

        Returns:
            The answer; see `systems.scene.query`.

        Raises:
            EvidenceError: malformed or impossible evidence.
            ConfigError: neither a memory nor kept scenes.
            UnknownNameError: no such method.
        """
        from phlogiston.systems.scene.query import SceneQuery

        self._need_fit()
        if method not in METHODS:
            raise unknown_name("query method", method, METHODS)
        if (memory is None or pose is None) and self.schema["kept"] is None:
            raise ConfigError("this model keeps no scenes (keep_scenes=0): give query a memory and a pose")
        if memory is None:
            memory = self.kept(self._kept_number(scene))
        if pose is None:
            pose = self.model.kept_poses[self._kept_number(scene)][view]
        where = check_poses(np.asarray(pose, dtype=np.float32)[None], memory)[0]
        return SceneQuery(self.model, self.guide, memory.state, where).ask(evidence, ask, num_samples, seed=seed)

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Names of the pixels: `red_0_0` is the upper left one's red."""
        self._need_fit()
        side = range(self.schema["image"])
        return {"x": [f"{c}_{i}_{j}" for c in ("red", "green", "blue") for i in side for j in side]}, {}

    def _kept_number(self, scene: int) -> int:
        if not 0 <= scene < self.schema["kept"][0]:
            raise ConfigError(f"scene is {scene}; the model keeps scenes 0 to {self.schema['kept'][0] - 1}")
        return scene

    # ----- the System's verbs -------------------------------------------------------------------------------------

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        scene: int = 0,
        turn: bool = False,
        side: int = 0,
        context: int = 8,
        frames: int = 11,
        temperature: float = 1.0,
    ) -> dict[str, Tensor]:
        """Draw pictures of the scenes kept with the model, or the video of turning round in them.

        Args:
            n: pictures; with `turn`, standing points per scene.
            seed: of the draws; None draws from torch's generator.
            scene: which kept scene.
            turn: lay the kept scenes side by side, stand in each, turn round: generated view on the left, map with the
                active nodes on the right.
            side: scenes along a side of the video's grid; 0: as many as were kept, up to 3.
            context: photographs of each scene that are seen.
            frames: per turn.
            temperature: of the latents' priors.

        Returns:
            `video` (1, time, H, 2 H, 3) with `turn`; else `x` (n, H W 3), `poses` (n, 6).

        Raises:
            ConfigError: the model keeps no scenes, or numbers out of range.
        """
        self._need_fit()
        if self.schema["kept"] is None:
            raise ConfigError("this model keeps no scenes to sample from (keep_scenes=0); use observe and sample_views")
        at_least("n", n, 1)
        if turn:
            points = n if n < 10 else 1
            video = turn_video(self.model, self.config.corner, side, context, points, frames, temperature, seed)
            return {"video": video[None]}
        memory = self.kept(self._kept_number(scene), context)
        kept = self.model.kept_poses[scene]
        poses = kept[context:] if len(kept) > context else kept
        poses = poses[torch.arange(n) % len(poses)]
        drawn = self.sample_views(memory, poses, 1, temperature=temperature, seed=seed)[0]
        return {"x": drawn.clamp(0, 1).permute(0, 2, 3, 1).flatten(1), "poses": poses}

    def kept(self, scene: int, context: int = 8) -> Memory:
        """A memory of a scene kept with the model."""
        return kept_memory(self.model, scene, context, self.config.corner)

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """Courts, in a minute."""
        return [
            {
                "title": "Scenes from new viewpoints",
                "text": (
                    "Eight photographs of a room go into a memory; the model then paints what would be seen from other "
                    "points in it. Rooms laid side by side share one memory. After so short a training the paintings "
                    "are blurred: colours, walls and floor are in their places, edges are not sharp."
                ),
                "data": "courts",
                "trained": "scene/courts",
                "data_options": {"sizes": (1200, 9, 48)},
                "options": {"draft_steps": 300, "steps": 90},
                "show": ["views", "errors"],  # validation scores another bound than the loss of the draft
            }
        ]
