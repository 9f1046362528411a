"""SketchRNN as a product: drawings as pen strokes, drawn, reconstructed, completed, interpolated and mixed.

    data = phlogiston.datasets.load("omniglot", max_length=40)
    system = Sketch(preset="omniglot").fit(data)
    system.sample(16, temperature=0.6)            drawings from nothing
    system.reconstruct(drawings)                  given ones, encoded and drawn again
    system.interpolate(a, b, 8)                   from one to another
    system.complete(beginning, n=5)               different ways to go on
    system.arithmetic([(1, a), (-1, b), (1, c)])  a - b + c

`latent=0` trains the unconditional model: a decoder alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.datasets.base import Meta, Split
from phlogiston.datasets.readers.sequences import STROKES
from phlogiston.errors import ConfigError, DataError, ShapeError, unknown_name
from phlogiston.evaluate.score import Score
from phlogiston.guides.sketch import SketchEncoder
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.sequences import Sequences
from phlogiston.models.generation import RowNoise, generate, row_seed
from phlogiston.models.sketch import SketchRNN
from phlogiston.models.stepwise import Choice
from phlogiston.systems.base import Role
from phlogiston.systems.calls import drawn_seed
from phlogiston.systems.options import from_config
from phlogiston.systems.sketch.config import PRESETS
from phlogiston.systems.sketch.config import Config as SketchConfig
from phlogiston.systems.sketch.latent import PROPOSALS, bound_parts, draw_alike, explain, importance_bound, slerp
from phlogiston.systems.sketch.rows import keys_of, noisy, varied
from phlogiston.systems.sketch.training import CollapseCheck, stages_of
from phlogiston.systems.stepwise import StepwiseSystem, make_choice

NOISES = 4  # draws of the noise that a drawing on a grid is scored with


class Sketch(StepwiseSystem):
    """SketchRNN; options in `systems.sketch.config.Config`.

    Data need `x` (rows, points, 3): dx, dy, and the pen (1 where it is lifted after this point), padded, and `length`
    (rows,). The end of a drawing is learned, too; it is no point of the data.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("script", sizes=(40, 10, 10))
        >>> system = Sketch(steps=3, hidden=8, latent=2).fit(data)
        >>> sorted(system.sample(3, seed=0))
        ['length', 'x']
    """

    name: ClassVar[str] = "sketch"
    Config: ClassVar[type] = SketchConfig
    config: SketchConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """That the data are drawings, and how long they are."""
        tensors = train.tensors
        if "x" not in tensors or tensors["x"].ndim != 3 or tensors["x"].shape[2] != 3:
            raise ShapeError("drawings need a tensor 'x' of shape (rows, points, 3): dx, dy, pen")
        if not len(train):
            raise DataError("x has no rows; at least one drawing is needed")
        self.schema = {"columns": list(STROKES), "pen": True}
        _, length = self.sequences(tensors["x"], tensors.get("length"))
        return {**self.schema, "longest": int(length.max()), "mean_points": float(length.double().mean())}

    def prepare(self, split: Split, role: Role = "train") -> Any:
        """Drawings in batches of like length; in training with noise, stretched and thinned, as configured."""
        c = self.config
        x, length = self.sequences(split.tensors["x"], split.tensors.get("length"))
        if role == "score":
            return Sequences({"x": x, "length": length})
        if role == "valid":
            order = length.argsort()
            return Sequences({"x": noisy(x, length, c.dequantise)[order], "length": length[order]})
        return Sequences({"x": x, "length": length}, change=varied(c.dequantise, c.stretch, c.drop))

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """The decoder and, with a latent, the encoder."""
        c = self.config
        self.model = from_config(SketchRNN, c)
        self.guide = SketchEncoder(self.model, hidden=c.encoder_hidden) if c.latent else None

    def initialise(self, train: Any, seed: int) -> None:
        """Set the unit of the offsets and spread the components."""
        self.model.initialise(train.tensors["x"], train.tensors["length"])

    def stages(self) -> list[Stage]:
        """The bound, or without a latent the likelihood; see `systems.sketch.training.stages_of`."""
        return stages_of(self.config)

    def callbacks(self) -> list[Any]:
        """Those of all systems of sequences, and a check that warns when the latent has collapsed."""
        check = [CollapseCheck(self.guide, self.config.dequantise)] if self.guide is not None else []
        return [*super().callbacks(), *check]

    # ----- verbs --------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        temperature: float | None = None,
        pi_temperature: float = 1.0,
        sigma_temperature: float = 1.0,
        pen_temperature: float | None = None,
        z: Any = None,
        max_points: int | None = None,
    ) -> dict[str, Tensor]:
        """Draw drawings.

        Args:
            n: how many.
            seed: of this call; None draws one from torch's generator. Drawing i depends on the seed and i alone.
            temperature: stands for the other three: the single one of the paper.
            pi_temperature: divides logits of components.
            sigma_temperature: multiplies variances.
            pen_temperature: divides logits of the pen.
            z: latents (n, latent) to draw; from the prior by default.
            max_points: longest drawing; the configuration's by default.

        Returns:
            `x` (n, points, 3): dx, dy, pen; `length` (n,).
        """
        self._need_fit()
        n = at_least("n", n, 1)
        seed = drawn_seed(seed)
        choice = make_choice(pi_temperature, sigma_temperature, pen_temperature, 0.0, temperature)
        if z is None and self.config.latent:
            z = self._priors(n, seed)
        return self._draw(self._start(n, z), n, choice, max_points, seed)

    def _priors(self, n: int, seed: int) -> Tensor:
        rows = [torch.Generator().manual_seed(row_seed(seed + 1, row)) for row in range(n)]
        return torch.stack([torch.randn(self.config.latent, generator=g) for g in rows])

    def _start(self, n: int, z: Any) -> Any:
        if z is not None:
            self._need_latent()
            z = torch.as_tensor(z, dtype=torch.float32)
            if z.shape != (n, self.config.latent):
                raise ShapeError(f"z has shape {tuple(z.shape)}; expected ({n}, {self.config.latent})")
        with torch.inference_mode():
            return self.model.start(n, z)

    def _draw(self, state: Any, n: int, choice: Choice, most: int | None, seed: int) -> dict[str, Tensor]:
        self.model.eval()
        drawn = generate(self.model, state, most or self.config.max_points, RowNoise(self.model, n, seed), choice)
        return {"x": drawn.x, "length": drawn.length}

    def _need_latent(self) -> None:
        if not self.config.latent:
            raise ConfigError("this model has no latent (latent=0): it can sample and complete, and nothing else")

    def encode(self, x: Any, length: Any = None) -> Any:
        """Encode drawings: q(z | drawing), a normal of batch (rows,).

        Raises:
            ConfigError: the unconditional model.
        """
        self._need_latent()
        x, length = self.sequences(x, length)
        with torch.no_grad():
            return self.guide.posterior(x, length)

    def decode(self, z: Any, *, temperature: float = 0.1, max_points: int | None = None, seed: int = 0) -> Any:
        """Draw latents (n, latent); a low temperature shows what is typical of them."""
        z = torch.as_tensor(z, dtype=torch.float32)
        return self.sample(len(z), temperature=temperature, z=z, max_points=max_points, seed=seed)

    def reconstruct(self, x: Any, length: Any = None, *, temperature: float = 0.1, seed: int = 0) -> dict[str, Tensor]:
        """Encode drawings and draw them again."""
        return self.decode(self.encode(x, length).mean, temperature=temperature, seed=seed)  # type: ignore[no-any-return]

    def interpolate(
        self,
        a: Any,
        b: Any,
        n: int = 8,
        *,
        kind: Literal["slerp", "lerp"] = "slerp",
        temperature: float = 0.1,
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Draw `n` drawings on the way from one drawing to another, ends included.

        Args:
            a: a drawing (points, 3).
            b: another.
            n: how many, at least 2.
            kind: along the great circle between their latents (`"slerp"`), or straight (`"lerp"`).
            temperature: of the draws.
            seed: of the draws; all are drawn with the same noise, so that only the latent differs.
        """
        if n < 2:
            raise ConfigError(f"n is {n}; an interpolation has at least its two ends")
        if kind not in ("slerp", "lerp"):
            raise unknown_name("kind of interpolation", kind, ("slerp", "lerp"))
        first, last = self.encode(a).mean[0], self.encode(b).mean[0]
        way = torch.linspace(0.0, 1.0, n).unsqueeze(-1)
        z = slerp(first, last, way) if kind == "slerp" else (1 - way) * first + way * last
        with torch.inference_mode():
            return draw_alike(self.model.eval(), z, make_choice(temperature=temperature), self.config.max_points, seed)

    def arithmetic(self, terms: Sequence[tuple[float, Any]], *, temperature: float = 0.1, seed: int = 0) -> Any:
        """Draw the weighted sum of drawings' latents: `[(1, cat_head), (1, body), (-1, head)]`."""
        if not terms:
            raise ConfigError("arithmetic needs at least one (weight, drawing)")
        z = torch.stack([weight * self.encode(drawing).mean[0] for weight, drawing in terms]).sum(0, keepdim=True)
        return self.decode(z, temperature=temperature, seed=seed)

    def complete(
        self,
        prefix: Any,
        n: int = 1,
        *,
        z: Any = None,
        temperature: float = 0.6,
        max_points: int | None = None,
        num_proposals: int = PROPOSALS,
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Go on from the beginning of a drawing.

        Args:
            prefix: the beginning, (points, 3).
            n: how many ways to go on.
            z: latents (n, latent); by default drawn from the prior and weighed by how well they explain the beginning.
            temperature: of the draws.
            max_points: of a whole drawing.
            num_proposals: latents tried for each way to go on, where they are drawn from the prior; `query` about the
                beginning tells how many of so many count.
            seed: of this call.

        Returns:
            Whole drawings, the beginning included: `x` (n, points, 3) and `length` (n,).
        """
        x, length = self.sequences(prefix)
        if len(x) != 1:
            raise ShapeError(f"prefix holds {len(x)} drawings; give the beginning of one")
        n = at_least("n", n, 1)
        seed = drawn_seed(seed)
        begun = x[:, : int(length[0])].expand(n, -1, -1)
        with torch.no_grad():
            if z is None and self.config.latent:
                z = explain(self.model, x, n, seed, at_least("num_proposals", num_proposals, 1))
            state = self._start(n, z)
            state = self.model.consume(state, begun)
        left = max(1, (max_points or self.config.max_points) - begun.shape[1])
        rest = self._draw(state, n, make_choice(temperature=temperature), left, seed)
        return {"x": torch.cat([begun, rest["x"]], 1), "length": rest["length"] + begun.shape[1]}

    # ----- densities ----------------------------------------------------------------------------------------------

    def bound_parts(self, x: Tensor, length: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Reconstruction log density and divergence of each drawing, in nats; see `systems.sketch.latent.bound_parts`.

        Args:
            x: (rows, points, 3); see `sequences`.
            length: (rows,).
            seed: of the drawings' latents and of their noise.
        """
        self.model.eval()
        rows = noisy(x, length, self.config.dequantise, seed)
        return bound_parts(self.model, self.guide, rows, length, keys_of(x, length, seed))

    def log_prob(self, data: Any, *, length: Any = None, seed: int = 0, num_particles: int = 64) -> Score:
        """Log density of drawings in nats, per unit of the data's offsets.

        Exact for the unconditional model; with a latent the importance-weighted bound (Burda et al., 2016). Drawings on
        a grid (`config.dequantise`) are scored with noise: the mean of `NOISES` draws, an estimate with its standard
        error; on average no more than the log of the mean density over the cells that the points stand for. All noise
        is seeded by the drawing and `seed`, so that the score of a drawing does not depend on others.

        Args:
            data: see `sequences`.
            length: (rows,), where `data` is a padded array.
            seed: of all noise.
            num_particles: draws of the latent per drawing.

        Raises:
            ConfigError: fewer than one.
        """
        at_least("num_particles", num_particles, 1)
        x, length = self.sequences(data, length)
        keys = keys_of(x, length, seed)
        self.model.eval()
        if self.guide is not None:
            rows = noisy(x, length, self.config.dequantise, seed)
            value, error = importance_bound(self.model, self.guide, rows, length, num_particles, keys)
            return Score(value, "lower bound", error)
        if not self.config.dequantise:
            return Score(bound_parts(self.model, None, x, length, keys)[0], "exact")
        draws = [noisy(x, length, self.config.dequantise, seed, draw) for draw in range(NOISES)]
        values = torch.stack([bound_parts(self.model, None, rows, length, keys)[0] for rows in draws])
        return Score(values.mean(0), "estimate", values.std(0) / NOISES**0.5)

    def typical_steps(self) -> int:
        """The longest training drawing, with its end."""
        return int(self.schema["longest"]) + 1

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """Single letters of the built-in script."""
        return [
            {
                "title": "Drawing letters, stroke by stroke",
                "text": "Every drawing is read into a few numbers, and drawn again from them. In between lie drawings "
                "that were in no data.",
                "data": "script",
                "data_options": {"sizes": (1500, 100, 100), "letters": (1, 1), "hands": ("print",)},
                "trained": "sketch/letters",
                "show": ["reconstructions", "interpolations", "completions", "training"],  # half of its own are letters
                "options": {
                    **PRESETS["default"], "hidden": 64, "encoder_hidden": 32, "latent": 8, "free_bits": 0.0,
                    "beta": 0.2, "max_points": 40, "learning_rate": 0.005, "steps": 3000,
                },
            }
        ]  # fmt: skip
