"""SQAIR as a product: videos in; objects, counts, boxes, identities, futures and what-ifs out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.errors import ConfigError, DataError, DataWarning, ShapeError
from phlogiston.evaluate.held_out import held_out
from phlogiston.evaluate.score import Score
from phlogiston.evaluate.weights import mean_and_error
from phlogiston.guides.sqair import SQAIRGuide
from phlogiston.guides.sqair_paper import PaperParts
from phlogiston.guides.sqair_residual import ResidualParts
from phlogiston.inference.query.ask import Method, query
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.row_noise import row_keys
from phlogiston.inference.svi.vimco import log_weights
from phlogiston.models.sqair import SQAIRModel
from phlogiston.systems.base import Role, System
from phlogiston.systems.calls import seeded
from phlogiston.systems.frames import refuse_zeros_and_ones
from phlogiston.systems.inputs import check_heeded
from phlogiston.systems.options import from_config
from phlogiston.systems.sqair import freezing, posterior
from phlogiston.systems.sqair.config import Config as SQAIRConfig
from phlogiston.systems.sqair.tracking import Track, Tracker, tracks_of
from phlogiston.systems.sqair.training import stages
from phlogiston.systems.sqair.videos import (
    background,
    check_mask,
    checked,
    flat_evidence,
    of_frames,
    scaled,
    statistics,
    still,
)
from phlogiston.systems.words import in_words

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer

BATCH = 64  # videos at a time


class SQAIR(System):
    """Finds, counts and follows moving objects in videos, without labels.

    Videos are `x`: (videos, frames, height, width), or (videos, frames, channels, height, width); uint8, or numbers in
    0 .. 1. See `System` for construction; options are those of `systems.sqair.config.Config`.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("moving_digits", sizes=(64, 8, 8))
        >>> system = SQAIR(steps=2, lengths=(3,), shares=(1.0,)).fit(data)
        >>> tuple(system.infer(data.test)["boxes"].shape)  # videos, frames, slots, (x, y, width, height)
        (8, 10, 3, 4)
    """

    name: ClassVar[str] = "sqair"
    threads = None  # steps are large enough for as many as torch has
    Config: ClassVar[type] = SQAIRConfig
    config: SQAIRConfig
    model: SQAIRModel
    guide: SQAIRGuide

    # ----- data and training --------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Form of the videos, and the size and energy of what moves in them."""
        x = checked(train.tensors.get("x"), "x")
        refuse_zeros_and_ones(x, "x")
        counts = train.tensors.get("count")
        if counts is not None and counts.numel() and int(counts.max()) > self.config.slots:
            warnings.warn(
                f"videos hold up to {int(counts.max())} objects; with slots={self.config.slots} some will be missed.",
                DataWarning,
                stacklevel=4,
            )
        what_moves = statistics(x, self.config.background, self.config.std)
        return {"shape": list(x.shape[2:]), "frames": int(x.shape[1]), **what_moves}

    def prepare(self, split: Split, role: Role = "train") -> Split:
        """The videos alone."""
        return Split({"x": of_frames(checked(split.tensors.get("x")), self.schema.get("shape"))}, sequences=("x",))

    def build(self) -> None:
        """The model and its guide."""
        c = self.config
        shape = tuple(self.schema["shape"])
        self.model = from_config(SQAIRModel, c, shape=shape, background_std=c.background_std or None)
        parts = PaperParts if c.parts == "paper" else ResidualParts
        self.guide = SQAIRGuide(self.model, from_config(parts, c, model=self.model))

    def initialise(self, train: Split, seed: int) -> None:
        """Boxes of the size of what moves, evidence measured by its energy, the background as it mostly is."""
        c, schema = self.config, self.schema
        _, height, width = schema["shape"]
        with torch.no_grad():
            if c.background != "none":
                self.model.picture.copy_(background(train.tensors["x"], c.background))
            if c.screen:
                self.model.open.copy_(~still(train.tensors["x"]))
            if c.parts == "paper":
                return
            size = torch.tensor([schema["width"] / (width - 1), schema["height"] / (height - 1)]).clamp(0.05, 0.9)
            self.model.where_loc[:2] = torch.logit(size)
            self.model.where_spread[:2] = torch.tensor(0.3).expm1().log()
            self.guide.parts.threshold.fill_(c.least_energy * schema["energy"])

    def stages(self) -> list[Stage]:
        """Videos grow from stage to stage; the matched filter may come later."""
        return stages(self.config, self.model, self.guide, self.schema["frames"])

    # ----- verbs --------------------------------------------------------------------------------------------------

    def accepted(self, data: Any) -> Any:
        """Videos as one array; see `videos`."""
        array = isinstance(data, np.ndarray | Tensor) and data.ndim > 2
        return {"x": data} if array else data

    def read_rows(self, data: Any) -> Split:
        """Read rows to score; here also videos as one array."""
        return super().read_rows(data if isinstance(data, Split | Mapping) else {"x": checked(data)})

    def videos(self, data: Any) -> Tensor:
        """Read videos in any accepted form.

        Args:
            data: a dataset (its held-out rows), a split or mapping with `x`, or the videos themselves.

        Returns:
            Videos (videos, frames, channels, height, width), uint8 or float32 in 0 .. 1.

        Raises:
            ShapeError, DataError: no videos, or of other frames than this model was fitted on.
        """
        self._need_fit()
        rows = held_out(data) if isinstance(data, Dataset) else data
        if isinstance(rows, Split | Mapping):
            tensors = rows.tensors if isinstance(rows, Split) else rows
            check_heeded(self, tensors)
            rows = tensors.get("x")
        found = of_frames(checked(rows), self.schema["shape"])
        if not len(found):
            raise DataError("x holds no videos; at least one is needed.")
        return found

    def infer(
        self, x: Any, *, num_particles: int = 5, resample: bool = True, mask: Any = None, seed: int | None = 0
    ) -> dict[str, Tensor]:
        """Find the objects of videos.

        Args:
            x: videos, or data that hold them.
            num_particles: K, guesses per video.
            resample: return one guess per video, drawn by weight; otherwise all, with a leading axis of K.
            mask: True where pixels are known: (videos, frames) or (videos, frames, height, width).
            seed: of the draws; None goes on with torch's generator.

        Returns:
            Tensors (videos, frames, ...): `presence` (slots,), `boxes` (slots, 4) as x, y, width, height in pixels,
            `ids` int64 (slots,), -1 where nothing is, `what` (slots, features), `canvas` (channels, height, width),
            `presence_probability` (slots,) and `count_probability` (slots + 1,); and `log_weights` (K, videos) in
            nats of whole videos, `ess` (videos,).
        """
        videos = self.videos(x)
        known = check_mask(mask, videos)
        parts: list[dict[str, Tensor]] = []
        with seeded(seed):
            for some, some_known in posterior.batches(videos, known, BATCH):
                result = posterior.run(self.model, self.guide, some, num_particles, mask=some_known)
                if resample:
                    chosen = result.pick()
                else:
                    names = ("presence", "where", "what", "ids", "canvas")
                    chosen = {n: getattr(result, n).transpose(0, 1) for n in names}  # videos first, to be joined
                parts.append(
                    {
                        **{k: v for k, v in chosen.items() if k != "where"},
                        "boxes": posterior.boxes(self.model, chosen["where"], chosen["presence"]),
                        "presence_probability": torch.einsum("kr,krtn->rtn", result.weights, result.presence),
                        "count_probability": result.count_probability(self.model.slots),
                        "log_weights": result.log_weights.T,
                        "ess": result.ess(),
                    }
                )
        out = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        out["log_weights"] = out["log_weights"].T
        if not resample:
            for name in ("presence", "boxes", "what", "ids", "canvas"):
                out[name] = out[name].transpose(0, 1)
        return out

    def track(self, x: Any, *, num_particles: int = 5, seed: int | None = 0) -> list[list[Track]]:
        """Tracks of each video: identity, first and last frame, boxes, mean appearance."""
        videos = self.videos(x)
        tracks: list[list[Track]] = []
        with seeded(seed):
            for some, _ in posterior.batches(videos, None, BATCH):
                result = posterior.run(self.model, self.guide, some, num_particles, canvas=False)
                tracks += tracks_of(self.model, result.pick())
        return tracks

    def tracker(self, num_particles: int = 8, seed: int = 0) -> Tracker:
        """A tracker that takes frames one by one, for videos of any length."""
        self._need_fit()
        return Tracker(self.model, self.guide, num_particles, seed)

    def predict(
        self, x: Any, horizon: int = 5, num_samples: int = 10, *, births: bool = False, num_particles: int = 5,
        seed: int | None = 0,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Continue videos.

        Args:
            x: the frames that were seen.
            horizon: how many more.
            num_samples: futures per video; each starts from a guess drawn by weight.
            births: whether new objects may appear.
            num_particles: guesses per video.
            seed: of the draws.

        Returns:
            `x` (num_samples, videos, horizon, channels, height, width), means of pixels; `boxes`, `presence` and `ids`
            (num_samples, videos, horizon, slots, ...).
        """
        at_least("horizon", horizon, 1)
        at_least("num_samples", num_samples, 1)
        videos = self.videos(x)
        parts = []
        with seeded(seed):
            for some, _ in posterior.batches(videos, None, max(1, BATCH // num_samples)):
                result = posterior.run(self.model, self.guide, some, num_particles, canvas=False)
                start, _ = posterior.resampled(result, num_samples)
                canvas, states = posterior.extend(self.model, start, horizon, births)
                presence = torch.stack([s.presence for s in states], 2)
                where = torch.stack([s.where for s in states], 2)
                parts.append(
                    {
                        "x": canvas,
                        "boxes": posterior.boxes(self.model, where, presence),
                        "presence": presence,
                        "ids": torch.stack([s.ids for s in states], 2),
                    }
                )
        return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}

    def sample(
        self, n: int = 1, *, seed: int | None = None, frames: int = 10, count: int | None = None, noise: bool = False
    ) -> dict[str, Tensor]:
        """Draw videos.

        Args:
            n: how many.
            seed: of the draws; None goes on with torch's generator.
            frames: how long.
            count: number of objects in the first frame; None draws it.
            noise: add the pixels' noise; otherwise pixels are means.

        Returns:
            `x` (n, frames, channels, height, width) in 0 .. 1, `boxes` (n, frames, slots, 4) as x, y, width, height
            in pixels, `presence` (n, frames, slots).
        """
        self._need_fit()
        at_least("n", n, 1)
        at_least("frames", frames, 1)
        with seeded(seed):
            noisy, states = posterior.draw(self.model, n, frames, count)
        presence = torch.stack([s.presence for s in states], 1)
        where = torch.stack([s.where for s in states], 1)
        x = noisy if noise else torch.stack([s.canvas for s in states], 1)
        return {
            "x": x.clamp(0.0, 1.0),
            "boxes": posterior.boxes(self.model, where, presence),
            "presence": presence,
        }

    def impute(self, x: Any, mask: Any, *, num_particles: int = 20, seed: int | None = 0) -> Tensor:
        """Fill in pixels or whole frames that are not known.

        Args:
            x: videos; what stands where the mask is False does not matter.
            mask: True where pixels are known: (videos, frames) or (videos, frames, height, width).
            num_particles: guesses per video, averaged by weight.
            seed: of the draws.

        Returns:
            Videos (videos, frames, channels, height, width) in 0 .. 1: known pixels as they were, the rest as expected.
        """
        videos = self.videos(x)
        known = check_mask(mask, videos)
        if known is None:
            raise ConfigError("impute needs a mask: True where pixels are known.")
        out = []
        with seeded(seed):
            for some, some_known in posterior.batches(videos, known, 16):
                result = posterior.run(self.model, self.guide, some, num_particles, mask=some_known)
                assert result.canvas is not None
                assert some_known is not None
                mean = torch.einsum("kr,krtchw->rtchw", result.weights, result.canvas)
                shown = some_known.reshape(*some_known.shape[:2], 1, *(some_known.shape[2:] or (1, 1)))
                out.append(torch.where(shown, scaled(some), mean))
        return torch.cat(out)

    def edit(
        self,
        x: Any,
        *,
        remove: int | None = None,
        move: tuple[int, float, float] | None = None,
        swap: tuple[int, int] | None = None,
        freeze: int | None = None,
        first: int = 0,
        propagate: int = 0,
        num_particles: int = 10,
        seed: int | None = 0,
    ) -> dict[str, Tensor]:
        """What a video would look like if an object were gone, elsewhere, held still, or looked like another.

        Args:
            x: one video, (1, frames, ...).
            remove: identity of an object to take away.
            move: identity of an object, and pixels to the right and down.
            swap: identities of two objects that exchange what they look like.
            freeze: identity of an object that stays where it is, from `first` on and in the frames that follow.
            first: the first frame that is changed.
            propagate: continue the changed scene for so many frames after the last frame of the video.
            num_particles: guesses; the best is edited.
            seed: of the draws.

        Returns:
            `x` (1, frames + propagate, channels, height, width), means of pixels; `boxes`, `presence`, `ids` of the
            same frames after the change, and `before`, the video as inferred.

        Raises:
            DataError: no such object; the message lists those there are.
        """
        video = self.videos(x)
        if len(video) != 1:
            raise ShapeError(f"edit changes one video; x holds {len(video)}.")
        with seeded(seed):
            result = posterior.run(self.model, self.guide, video, num_particles)
            best = result.pick(best=True)
            scenes = posterior.edit(
                self.model, posterior.latents(best), remove=remove, move=move, swap=swap, first=first
            )
            if freeze is not None:
                scenes = freezing.freeze(scenes, freeze, first)
            pictures = posterior.show(self.model, scenes)
            if propagate:
                last = posterior.replaced(result.best_last(), scenes[-1])
                with freezing.Held(scenes[-1], freeze):
                    more, states = posterior.extend(self.model, last, propagate, births=False)
                pictures = torch.cat([pictures, more[0]], 1)
                scenes += [{"presence": s.presence[0], "where": s.where[0], "ids": s.ids[0]} for s in states]
        presence = torch.stack([scene["presence"] for scene in scenes], 1)
        where = torch.stack([scene["where"] for scene in scenes], 1)
        return {
            "x": pictures,
            "boxes": posterior.boxes(self.model, where, presence),
            "presence": presence,
            "ids": torch.stack([scene["ids"] for scene in scenes], 1),
            "before": best["canvas"],
        }

    def log_prob(
        self, data: Any, *, seed: int = 0, num_particles: int = 100, chunk: int = 20, mask: Any = None
    ) -> Score:
        """Importance-weighted lower bound of log p(x) of whole videos, in nats, with its standard error.

        Args:
            data: videos, or data that hold them.
            seed: of the draws.
            num_particles: K; the bound rises with it.
            chunk: particles at a time.
            mask: True where pixels count.

        Raises:
            ConfigError: fewer than one particle.
        """
        at_least("num_particles", num_particles, 1)
        videos = self.videos(data)
        known = check_mask(mask, videos)
        values, errors = [], []
        seen: tuple[Tensor, ...] = (videos,)
        if known is not None:  # what is masked out does not count
            wide = known.unsqueeze(2) if known.dim() > 2 else known[:, :, None, None, None]
            seen = (torch.where(wide, videos, 0), known)
        keys = row_keys(*seen, seed=seed).tolist()
        with seeded(seed):
            for key, (one, one_known) in zip(keys, posterior.batches(videos, known, 1), strict=True):
                torch.manual_seed(key)  # a video's own, so that its score does not depend on the others
                batch = {"x": one} if one_known is None else {"x": one, "mask": one_known}
                weights = log_weights(self.model, self.guide, batch, num_particles, chunk=chunk, max_plate_nesting=2)
                value, error = mean_and_error(weights.double())
                values.append(value)
                errors.append(error)
        return Score(torch.cat(values), "lower bound", torch.cat(errors))

    @in_words
    def query(
        self,
        evidence: Any = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 100,
        *,
        method: str = "auto",
        seed: int | None = None,
        frames: int | None = None,
        **options: Any,
    ) -> Answer:
        """Sample latents and pixels given evidence about either: the guide proposes where frames are known.

        Sites are those of the model: `x` (frames, channels, height, width), and for each frame t `t0/births`,
        `t0/where_new`, `t0/what_new`, `t1/presence`, `t1/where`, `t1/what`, ... See `System.query`.

        Args:
            evidence: site -> evidence; about `x` a video (frames, [channels,] height, width), uint8 or 0 .. 1.
            ask: sites to return.
            num_samples: per row of evidence.
            method: as for `System.query`; `"auto"` is importance sampling.
            seed: of this call; None draws from torch's generator.
            frames: length of the video; by default that of the evidence, or of the videos trained on.
            **options: of `inference.query.ask.query`.
        """
        self._need_fit()
        flat, known_frames = flat_evidence(evidence, self.schema["shape"])
        length = known_frames or self.schema.get("frames", 10) if frames is None else frames
        batch = {"frames": int(length), **options.pop("batch", {})}
        chosen = cast(Method, "importance" if method == "auto" else method)
        return query(self.model, self.guide, flat, ask, num_samples, chosen, batch=batch, seed=seed, **options)

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Pixels have no names."""
        self._need_fit()
        return {"x": ()}, {}

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """Moving digits."""
        return [
            {
                "title": "Objects found, counted and followed without labels",
                "text": "Videos of none, one or two moving digits; nothing is labelled. Boxes are coloured by "
                "identity: a digit keeps its colour while it is followed. Beside its accuracy in counting stands that "
                "without learning, by connected regions, which merge where digits touch.",
                "data": "moving_digits",
                "trained": "sqair/moving-digits",
                "data_options": {"sizes": (2000, 64, 128)},
                "options": {"steps": 160, "lengths": (3,), "shares": (1.0,)},
                "show": ["tracked", "glimpses"],  # how things move, and so what comes next, takes longer to learn
            }
        ]
