"""Scenes from new viewpoints as a product: photographs into a memory, photographs out of it.

    data = phlogiston.datasets.load("courts")
    system = Scene().fit(data)
    memory = system.observe(images, poses)             posed photographs of one place, or of a square of places
    system.sample_views(memory, poses, 8)              pictures from new viewpoints, (8, queries, 3, H, W)
    system.reconstruct(memory, images, poses)          the same photographs, by way of the latents
    system.log_prob(memory, images, poses)             nats per photograph, a lower bound
    system.localise(memory, image, poses)              where was this taken? probabilities of the candidate poses
    system.turn(memory, (x, y))                        a look around

Memories grow (`add`), shrink (`forget`), spread (`extend`) and are joined (`tile`); see `systems.scene.memory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Meta, Split
from phlogiston.datasets.generated.hotels import Hotels
from phlogiston.errors import ConfigError, ShapeError
from phlogiston.evaluate.held_out import held_out
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.score import Score
from phlogiston.evaluate.weights import mean_and_error
from phlogiston.inference.query.evidence import Known
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.row_noise import row_keys
from phlogiston.systems.base import Role, System, coerce
from phlogiston.systems.scene import build as scene_build
from phlogiston.systems.scene import stages as scene_stages
from phlogiston.systems.scene import views as scene_views
from phlogiston.systems.scene.config import Config as SceneConfig
from phlogiston.systems.scene.memory import Memory, check_poses, check_views, observe
from phlogiston.systems.scene.training import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.inference.query.answer import Answer


class Scene(System):
    """Scene rendering with a spatial memory; options in `systems.scene.config.Config`.

    Data need `images` uint8 (places, views, height, width, 3) and `poses` (places, views, 5 or 6): x, y, z, yaw, pitch
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
    Config: ClassVar[type] = SceneConfig
    config: SceneConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Size of the pictures, and what is kept of places to show."""
        return scene_build.describe(self, train)

    _shown: Split | None = None

    def fit(self, data: Any, **options: Any) -> Self:
        """Train; see `System.fit`. Places to sample from are kept from the validation rows, if there are any."""
        _, valid, _ = coerce(data)
        self._shown = valid if valid is not None and len(valid) else None
        return super().fit(data, **options)

    def prepare(self, split: Split, role: Role = "train") -> Any:
        """Hotels of the split's places."""
        c = self.config
        return Hotels(
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
        """Keep the mean photograph, and photographs of a few places, with the model."""
        scene_build.initialise(self, train)

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Memory, decoder, and the guide's encoder."""
        scene_build.build(self)

    def stages(self) -> list[Stage]:
        """The draft alone, then everything."""
        return scene_stages.stages(self, self._report)

    @property
    def _report(self) -> Report:
        if not hasattr(self, "_reporting"):
            self._reporting = Report()
        return self._reporting

    def callbacks(self) -> list[Any]:
        """Keeps the loss's terms in the records, and warns of latents that do not wake."""
        return [self._report]

    # ----- verbs --------------------------------------------------------------------------------------------------

    def observe(self, images: Any = None, poses: Any = None, *, side: int = 1) -> Memory:
        """Write photographs into a fresh memory.

        Args:
            images: (views, height, width, 3) bytes, or (views, 3, height, width) in [0, 1]; None for none yet.
            poses: (views, 5 or 6): x, y, z, yaw, pitch[, roll].
            side: places along a side, the first at the options' `corner`.

        Raises:
            ShapeError: images and poses that do not fit each other or the model.
            DataError: a camera outside the memory's area.
        """
        self._need_fit()
        return observe(self, images, poses, side)

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
            memory: of the place.
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
        if num_samples < 1:
            raise ConfigError(f"num_samples is {num_samples}; at least 1 is needed.")
        if temperature < 0:
            raise ConfigError(f"temperature is {temperature}; it must not be negative.")
        wanted = check_poses(poses, memory)
        return scene_views.sample_views(
            self, memory, wanted, num_samples, temperature, noise, latents, keep or {}, seed
        )

    def reconstruct(
        self, memory: Memory, images: Any, poses: Any, num_samples: int = 1, *, seed: int | None = None
    ) -> Tensor:
        """Paint photographs anew by way of the guide's latents: (num_samples, queries, 3, H, W)."""
        pictures, wanted = check_views(self, images, poses, memory)
        return scene_views.reconstruct(self, memory, pictures, wanted, num_samples, seed)

    def log_prob(  # type: ignore[override]
        self, memory: Memory, images: Any, poses: Any, *, num_particles: int = 64, seed: int = 0
    ) -> Score:
        """Log density of photographs given the memory, in nats: a lower bound, tighter with more particles.

        The score of a photograph does not depend on the others: its draws are seeded by itself, its pose and `seed`.

        Args:
            memory: of the place.
            images: (queries, H, W, 3) bytes or (queries, 3, H, W).
            poses: (queries, 5 or 6).
            num_particles: importance samples from the guide.
            seed: of the samples.
        """
        pictures, wanted = check_views(self, images, poses, memory)
        keys = row_keys(pictures, wanted, seed=seed).tolist()
        weights = scene_views.log_weights(self, memory, pictures, wanted, num_particles, seed, keys)
        value, error = mean_and_error(weights.double())
        return Score(value, "lower bound", error if num_particles > 1 else None)

    def localise(
        self, memory: Memory, image: Any, candidates: Any, *, num_particles: int = 16, seed: int | None = 0
    ) -> Tensor:
        """Tell where a photograph was taken: probabilities of candidate poses, (candidates,), equally likely before.

        Args:
            memory: of the place.
            image: (H, W, 3) bytes or (3, H, W).
            candidates: (candidates, 5 or 6).
            num_particles: importance samples per candidate.
            seed: of the samples.
        """
        wanted = check_poses(candidates, memory)
        picture = torch.as_tensor(np.asarray(image)) if not isinstance(image, Tensor) else image
        if picture.dim() != 3:
            raise ShapeError(
                f"image has shape {tuple(picture.shape)}; expected one photograph, (H, W, 3) or (3, H, W)."
            )
        many = picture.expand(len(wanted), *picture.shape)
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        return torch.softmax(self.log_prob(memory, many, wanted, num_particles=num_particles, seed=seed).value, 0)

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
            memory: of the place.
            xy: where to stand.
            n_frames: pictures, from heading -3.13 to 3.13.
            num_samples: of the whole turn.
            temperature: as in `sample_views`.
            seed: of the draws.

        Returns:
            Pictures (n_frames, 3, H, W), or (num_samples, n_frames, 3, H, W) for several; poses (n_frames, 6).
        """
        poses = torch.zeros(n_frames, 6)
        poses[:, :2] = torch.as_tensor(xy, dtype=torch.float32)
        poses[:, 3] = torch.linspace(-3.13, 3.13, n_frames)
        drawn = self.sample_views(memory, poses, num_samples, temperature=temperature, seed=seed)
        return (drawn[0] if num_samples == 1 else drawn), poses

    def query(  # type: ignore[override]
        self,
        evidence: Any = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 100,
        *,
        memory: Memory | None = None,
        pose: Any = None,
        scene: int = 0,
        view: int = -1,
        seed: int | None = None,
    ) -> Answer:
        """Sample what is seen from one viewpoint given what is known of it.

        Args:
            evidence: pieces about `x`, the photograph (3 H W entries, or of the photograph's own shape (3, H, W)), and
                about the latents `z_0 ...`; see `inference.query.evidence`.
            ask: sites to return; all by default.
            num_samples: per row of evidence.
            memory: of the place; by default that of a place kept with the model.
            pose: (5,) or (6,), the viewpoint; by default a pose kept with the model.
            scene: which kept place, where there is no `memory`.
            view: which kept pose of it, where there is no `pose`.
            seed: of the draws.

        Returns:
            The answer; see `systems.scene.query`.

        Raises:
            EvidenceError: malformed or impossible evidence.
            ConfigError: neither a memory nor kept places.
        """
        from phlogiston.systems.scene.query import SceneQuery

        self._need_fit()
        if (memory is None or pose is None) and self.schema["kept"] is None:
            raise ConfigError("this model keeps no places (keep_scenes=0): give query a memory and a pose")
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
            raise ConfigError(f"scene is {scene}; the model keeps places 0 to {self.schema['kept'][0] - 1}")
        return scene

    # ----- the System's verbs -------------------------------------------------------------------------------------

    def sample(
        self,
        n: int = 1,
        *,
        scene: int = 0,
        turn: bool = False,
        side: int = 0,
        context: int = 8,
        frames: int = 11,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Draw pictures of the places kept with the model, or the film of turning round in them.

        Args:
            n: pictures; with `turn`, standing points per place.
            scene: which kept place.
            turn: lay the kept places side by side, stand in each, turn round: generated view on the left, map with the
                active nodes on the right.
            side: places along a side of the film's square; 0: as many as were kept, up to 3.
            context: photographs of each place that are seen.
            frames: per turn.
            temperature: of the latents' priors.
            seed: of the draws.

        Returns:
            `video` (1, time, H, 2 H, 3) with `turn`; else `x` (n, H W 3), `poses` (n, 6).
        """
        from phlogiston.systems.scene import video as scene_film

        self._need_fit()
        if self.schema["kept"] is None:
            raise ConfigError("this model keeps no places to sample from (keep_scenes=0); use observe and sample_views")
        if n < 1:
            raise ConfigError(f"n must be at least 1; got {n}")
        if turn:
            return {"video": scene_film.film(self, side, context, n if n < 10 else 1, frames, temperature, seed)[None]}
        memory = self.kept(self._kept_number(scene), context)
        others = self.model.kept_poses[scene][context:]
        poses = (others if len(others) else self.model.kept_poses[scene])[torch.arange(n) % max(1, len(others))]
        drawn = self.sample_views(memory, poses, 1, temperature=temperature, seed=seed)[0]
        return {"x": drawn.clamp(0, 1).permute(0, 2, 3, 1).flatten(1), "poses": poses}

    def kept(self, scene: int, context: int = 8) -> Memory:
        """A memory of a place kept with the model."""
        return self.observe(self.model.kept_images[scene, :context], self.model.kept_poses[scene, :context])

    METRICS: ClassVar[tuple[str, ...]] = ("generation", "posterior", "baselines", "bound")

    def evaluate(self, data: Any, metrics: Sequence[str] | None = None) -> dict[str, Metric]:
        """Score pictures of held-out places from viewpoints outside their context.

        Args:
            data: as for `fit`; of a `Dataset` the held-out places.
            metrics: of "generation" (prior samples against the truth), "posterior" (reconstructions, divergence, gap),
                "baselines" (mean image, mean and nearest of the context), "bound" (nats per picture).
        """
        from phlogiston.systems.scene import report as scene_report

        return scene_report.evaluate(self, data, self._chosen_metrics(metrics))

    def figures(self, data: Any) -> dict[str, Figure]:
        """Pictures from new viewpoints beside the truth, and errors against the number of places and photographs."""
        from phlogiston.systems.scene import report as scene_report

        self._need_fit()
        return scene_report.figures(self, data)

    def example_queries(self, data: Any) -> list[tuple[str, Any]]:
        """The lower half of a photograph, given its upper half, its pose and eight photographs of the place."""
        tensors = held_out(data).tensors
        images, poses = tensors["images"][0], tensors["poses"][0]
        memory = self.observe(images[:8], poses[:8])
        photograph = images[8].permute(2, 0, 1).double() / 255
        known = torch.zeros(photograph.shape, dtype=torch.bool)
        known[:, : photograph.shape[1] // 2] = True
        answer = self.query({"x": Known(photograph, known)}, ["x"], 50, memory=memory, pose=poses[8], seed=0)
        return [("eight photographs, a pose, and the upper half of what is seen there", answer)]

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """Courts, in a minute."""
        return [
            {
                "title": "Scenes from new viewpoints",
                "text": (
                    "Eight photographs of a room go into a memory; the model then paints what would be seen from other "
                    "places in it. Rooms laid side by side share one memory."
                ),
                "data": "courts",
                "data_options": {"sizes": (400, 9, 18) if quick else (1200, 9, 48)},
                # without latents when there is no time to wake them
                "options": {"draft_steps": 90, "layers": 0} if quick else {"draft_steps": 300, "steps": 90},
            }
        ]
