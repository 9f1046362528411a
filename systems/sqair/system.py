"""SQAIR as a product: films in; objects, counts, boxes, identities, futures and what-ifs out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.errors import ConfigError, ShapeError
from phlogiston.evaluate.held_out import held_out
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.score import Score
from phlogiston.guides.sqair import SQAIRGuide
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.row_noise import row_keys
from phlogiston.models.sqair import SQAIRModel
from phlogiston.systems.base import Role, System
from phlogiston.systems.calls import seeded
from phlogiston.systems.frames import refuse_zeros_and_ones
from phlogiston.systems.sqair import posterior
from phlogiston.systems.sqair import videos as films
from phlogiston.systems.sqair.config import Config as SQAIRConfig
from phlogiston.systems.sqair.training import stages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.inference.query.answer import Answer
    from phlogiston.systems.sqair.tracking import Track, Tracker

CHUNK = 64  # films at a time


class SQAIR(System):
    """Finds, counts and follows moving objects in films, without labels.

    Films are `x`: (films, frames, height, width), or (films, frames, channels, height, width); uint8, or numbers in
    0 .. 1. See `System` for construction; options are those of `configs.sqair.Config`.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("moving_digits", sizes=(64, 8, 8))
        >>> system = SQAIR(steps=2, lengths=(3,), shares=(1.0,)).fit(data)
        >>> tuple(system.infer(data.test)["boxes"].shape)  # films, frames, places, (x, y, width, height)
        (8, 10, 3, 4)
    """

    name: ClassVar[str] = "sqair"
    Config: ClassVar[type] = SQAIRConfig
    config: SQAIRConfig
    model: SQAIRModel
    guide: SQAIRGuide

    # ----- data and training --------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Form of the films, and the size and energy of what moves in them."""
        x = films.checked(train.tensors.get("x"), "x")
        refuse_zeros_and_ones(x, "x")
        counts = train.tensors.get("count")
        if counts is not None and counts.numel() and int(counts.max()) > self.config.slots:
            import warnings

            from phlogiston.errors import DataWarning

            warnings.warn(
                f"films hold up to {int(counts.max())} objects; with slots={self.config.slots} some will be missed.",
                DataWarning,
                stacklevel=4,
            )
        if x.shape[1] < max(self.config.lengths):
            raise ShapeError(
                f"films have {x.shape[1]} frames, training wants up to {max(self.config.lengths)}: set lengths, for "
                f"example lengths=({x.shape[1]},) with shares=(1.0,)."
            )
        found = films.statistics(x, self.config.background, self.config.std)
        return {"shape": list(x.shape[2:]), "frames": int(x.shape[1]), **found}

    def prepare(self, split: Split, role: Role = "train") -> Split:
        """The films alone."""
        x = films.checked(split.tensors["x"], "x")
        if self.schema and list(x.shape[2:]) != self.schema["shape"]:
            raise ShapeError(f"films have frames of {tuple(x.shape[2:])}; this model knows {self.schema['shape']}.")
        return Split({"x": x}, sequences=("x",))

    def build(self) -> None:
        """The model and its guide."""
        c = self.config
        channels, height, width = self.schema["shape"]
        self.model = SQAIRModel(
            (channels, height, width),
            slots=c.slots,
            features=c.features,
            glimpse=c.glimpse,
            hidden=c.hidden,
            memory=c.memory,
            std=c.std,
            background_std=c.background_std or None,
            output=c.output,
            presence=c.presence,
            survival=c.survival,
            birth=c.birth,
            later_births=c.later_births,
            location=c.location,
            chain=c.chain,
            background=c.background,
            renderer=c.renderer,
            learn_std=c.learn_std,
        )
        if c.parts == "paper":
            self.guide = SQAIRGuide(self.model, "paper", hidden=c.hidden)
        else:
            self.guide = SQAIRGuide(
                self.model,
                "residual",
                hidden=c.hidden,
                propagation=c.propagation,
                reach=c.reach,
                passes=c.passes,
                births=c.births,
                freedom=c.freedom,
            )

    def initialise(self, train: Split, seed: int) -> None:
        """Boxes of the size of what moves, evidence measured by its energy, the background as it mostly is."""
        c, found = self.config, self.schema
        _, height, width = found["shape"]
        with torch.no_grad():
            if c.background != "none":
                self.model.picture.copy_(films.background(train.tensors["x"], c.background))
            if c.parts == "paper":
                return
            size = torch.tensor([found["width"] / (width - 1), found["height"] / (height - 1)]).clamp(0.05, 0.9)
            self.model.where_loc[:2] = torch.logit(size)
            self.model.where_spread[:2] = torch.tensor(0.3).expm1().log()
            self.guide.parts.threshold.fill_(c.least_energy * found["energy"])

    def stages(self) -> list[Stage]:
        """Films grow from stage to stage; the matched filter may come later."""
        return stages(self.config, self.model, self.guide)

    # ----- verbs --------------------------------------------------------------------------------------------------

    def _films(self, x: Any) -> Tensor:
        """Films in any accepted form, checked against the model."""
        self._need_fit()
        if isinstance(x, Dataset):
            x = held_out(x)
        if isinstance(x, Split | Mapping):
            x = (x.tensors if isinstance(x, Split) else x).get("x")
        found = films.checked(x)
        if list(found.shape[2:]) != self.schema["shape"]:
            raise ShapeError(f"films have frames of {tuple(found.shape[2:])}; this model knows {self.schema['shape']}.")
        return found

    def _mask(self, mask: Any, x: Tensor) -> Tensor | None:
        if mask is None:
            return None
        known = torch.as_tensor(mask).bool()
        if known.shape not in (x.shape[:2], (*x.shape[:2], *x.shape[3:])):
            raise ShapeError(
                f"mask has shape {tuple(known.shape)}; expected (films, frames), {tuple(x.shape[:2])}, or with height "
                "and width."
            )
        return known

    def infer(
        self, x: Any, *, particles: int = 5, resample: bool = True, mask: Any = None, seed: int | None = 0
    ) -> dict[str, Tensor]:
        """Find the objects of films.

        Args:
            x: films, or data that hold them.
            particles: K, guesses per film.
            resample: return one guess per film, drawn by weight; otherwise all, with a leading axis of K.
            mask: True where pixels are known: (films, frames) or (films, frames, height, width).
            seed: of the draws; None goes on with torch's generator.

        Returns:
            Tensors (films, frames, ...): `presence` (places,), `boxes` (places, 4) as x, y, width, height in pixels,
            `ids` int64 (places,), -1 where nothing is, `what` (places, features), `canvas` (channels, height, width),
            `presence_probability` (places,) and `count_probability` (places + 1,); and `log_weights` (K, films) in
            nats of whole films, `ess` (films,).
        """
        video = self._films(x)
        known = self._mask(mask, video)
        parts: list[dict[str, Tensor]] = []
        with seeded(seed):
            for films_, mask_ in posterior.chunks(video, known, CHUNK):
                found = posterior.run(self.model, self.guide, films_, particles, mask=mask_)
                if resample:
                    chosen = found.pick()
                else:
                    names = ("presence", "where", "what", "ids", "canvas")
                    chosen = {n: getattr(found, n).transpose(0, 1) for n in names}  # films first, to be joined
                weights = found.weights
                parts.append(
                    {
                        **{k: v for k, v in chosen.items() if k != "where"},
                        "boxes": posterior.boxes(chosen["where"], chosen["presence"], self.model.shape),
                        "presence_probability": torch.einsum("kr,krtn->rtn", weights, found.presence),
                        "count_probability": found.count_probability(self.model.slots),
                        "log_weights": found.log_weights.T,
                        "ess": found.ess(),
                    }
                )
        out = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        out["log_weights"] = out["log_weights"].T
        if not resample:
            for name in ("presence", "boxes", "what", "ids", "canvas"):
                out[name] = out[name].transpose(0, 1)
        return out

    def track(self, x: Any, *, particles: int = 5, seed: int | None = 0) -> list[list[Track]]:
        """Tracks of each film: identity, first and last frame, boxes, mean appearance."""
        from phlogiston.systems.sqair.tracking import tracks_of

        video = self._films(x)
        out: list[list[Track]] = []
        with seeded(seed):
            for part, _ in posterior.chunks(video, None, CHUNK):
                found = posterior.run(self.model, self.guide, part, particles, canvas=False)
                out += tracks_of(found.pick(), self.model.shape)
        return out

    def tracker(self, particles: int = 8, seed: int = 0) -> Tracker:
        """A tracker that takes frames one by one, for films of any length."""
        from phlogiston.systems.sqair.tracking import Tracker

        self._need_fit()
        return Tracker(self, particles, seed)

    def predict(
        self, x: Any, horizon: int = 5, n_samples: int = 10, *, births: bool = False, particles: int = 5,
        seed: int | None = 0,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Let films go on.

        Args:
            x: the frames that were seen.
            horizon: how many more.
            n_samples: futures per film; each starts from a guess drawn by weight.
            births: whether new objects may appear.
            particles: guesses per film.
            seed: of the draws.

        Returns:
            `x` (n_samples, films, horizon, channels, height, width), means of pixels; `boxes`, `presence` and `ids`
            (n_samples, films, horizon, places, ...).
        """
        if horizon < 1 or n_samples < 1:
            raise ConfigError(f"horizon={horizon}, n_samples={n_samples}: both must be at least 1.")
        video = self._films(x)
        parts = []
        with seeded(seed):
            for films_, _ in posterior.chunks(video, None, max(1, CHUNK // n_samples)):
                found = posterior.run(self.model, self.guide, films_, particles, canvas=False)
                start, _ = posterior.resampled(found, n_samples)
                canvas, states = posterior.go_on(self.model, start, horizon, births)
                presence = torch.stack([s.presence for s in states], 2)
                where = torch.stack([s.where for s in states], 2)
                parts.append(
                    {
                        "x": canvas,
                        "boxes": posterior.boxes(where, presence, self.model.shape),
                        "presence": presence,
                        "ids": torch.stack([s.ids for s in states], 2),
                    }
                )
        return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}

    def sample(  # type: ignore[override]
        self, n: int, *, frames: int = 10, count: int | None = None, noise: bool = False, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Draw films.

        Args:
            n: how many.
            frames: how long.
            count: number of objects in the first frame; None draws it.
            noise: add the pixels' noise; otherwise pixels are means.
            seed: of the draws; None goes on with torch's generator.

        Returns:
            `x` (n, frames, channels, height, width) in 0 .. 1, `boxes` (n, frames, places, 4) as x, y, width, height
            in pixels, `presence` (n, frames, places).
        """
        self._need_fit()
        if n < 1 or frames < 1:
            raise ConfigError(f"n={n}, frames={frames}: both must be at least 1.")
        with seeded(seed):
            noisy, states = posterior.draw(self.model, n, frames, count)
        presence = torch.stack([s.presence for s in states], 1)
        where = torch.stack([s.where for s in states], 1)
        x = noisy if noise else torch.stack([s.canvas for s in states], 1)
        x = x.clamp(0.0, 1.0)
        return {
            "x": x,
            "boxes": posterior.boxes(where, presence, self.model.shape),
            "presence": presence,
        }

    def impute(self, x: Any, mask: Any, *, particles: int = 20, seed: int | None = 0) -> Tensor:
        """Fill in pixels or whole frames that are not known.

        Args:
            x: films; what stands where the mask is False does not matter.
            mask: True where pixels are known: (films, frames) or (films, frames, height, width).
            particles: guesses per film, averaged by weight.
            seed: of the draws.

        Returns:
            Films (films, frames, channels, height, width) in 0 .. 1: known pixels as they were, the rest as expected.
        """
        video = self._films(x)
        known = self._mask(mask, video)
        if known is None:
            raise ConfigError("impute needs a mask: True where pixels are known.")
        out = []
        with seeded(seed):
            for films_, mask_ in posterior.chunks(video, known, 16):
                found = posterior.run(self.model, self.guide, films_, particles, mask=mask_)
                assert found.canvas is not None
                assert mask_ is not None
                mean = torch.einsum("kr,krtchw->rtchw", found.weights, found.canvas)
                shown = mask_.reshape(*mask_.shape[:2], 1, *(mask_.shape[2:] or (1, 1)))
                out.append(torch.where(shown, films.scaled(films_), mean))
        return torch.cat(out)

    def edit(
        self,
        x: Any,
        *,
        remove: int | None = None,
        move: tuple[int, float, float] | None = None,
        swap: tuple[int, int] | None = None,
        first: int = 0,
        propagate: int = 0,
        particles: int = 10,
        seed: int | None = 0,
    ) -> dict[str, Tensor]:
        """What a film would look like if an object were gone, elsewhere, or looked like another.

        Args:
            x: one film, (1, frames, ...).
            remove: identity of an object to take away.
            move: identity of an object, and pixels to the right and down.
            swap: identities of two objects that exchange what they look like.
            first: the first frame that is changed.
            propagate: after the last frame of the film let the changed scene go on for so many frames.
            particles: guesses; the best is edited.
            seed: of the draws.

        Returns:
            `x` (1, frames + propagate, channels, height, width), means of pixels; `boxes`, `presence`, `ids` of the
            film's frames after the change, and `before`, the film as inferred.

        Raises:
            DataError: no such object; the message says which there are.
        """
        video = self._films(x)
        if len(video) != 1:
            raise ShapeError(f"edit changes one film; x holds {len(video)}.")
        with seeded(seed):
            found = posterior.run(self.model, self.guide, video, particles)
            best = found.pick(best=True)
            scenes = posterior.edit(
                posterior.latents(best), remove=remove, move=move, swap=swap, shape=self.model.shape, first=first
            )
            pictures = posterior.show(self.model, scenes)
            if propagate:
                chosen = int(found.log_weights[:, 0].argmax())
                last = found.last.map(lambda part: part[chosen : chosen + 1])
                places = last.presence > 0
                with torch.no_grad():
                    for name in ("presence", "where", "what", "ids"):
                        setattr(last, name, scenes[-1][name].unsqueeze(0))
                    last.memory = last.memory * (last.presence > 0).unsqueeze(-1)
                    last.step = last.step * (last.presence > 0).unsqueeze(-1)
                del places
                more, _ = posterior.go_on(self.model, last, propagate, births=False)
                pictures = torch.cat([pictures, more[0]], 1)
        presence = torch.stack([scene["presence"] for scene in scenes], 1)
        where = torch.stack([scene["where"] for scene in scenes], 1)
        return {
            "x": pictures,
            "boxes": posterior.boxes(where, presence, self.model.shape),
            "presence": presence,
            "ids": torch.stack([scene["ids"] for scene in scenes], 1),
            "before": best["canvas"],
        }

    def log_prob(  # type: ignore[override]
        self, x: Any, *, particles: int = 100, chunk: int = 20, mask: Any = None, seed: int = 0
    ) -> Score:
        """Importance-weighted lower bound of log p(x) of whole films, in nats, with its standard error.

        Args:
            x: films.
            particles: K; the bound rises with it.
            chunk: particles at a time.
            mask: True where pixels count.
            seed: of the draws.
        """
        from phlogiston.evaluate.weights import mean_and_error
        from phlogiston.inference.svi.vimco import log_weights

        video = self._films(x)
        known = self._mask(mask, video)
        values, errors = [], []
        seen: tuple[Tensor, ...] = (video,)
        if known is not None:  # what is masked out does not count
            wide = known.unsqueeze(2) if known.dim() > 2 else known[:, :, None, None, None]
            seen = (torch.where(wide, video, 0), known)
        keys = row_keys(*seen, seed=seed).tolist()
        with seeded(seed):
            for key, (films_, mask_) in zip(keys, posterior.chunks(video, known, 1), strict=True):
                torch.manual_seed(key)  # a film's own, so that its score does not depend on the others
                batch = {"x": films_} if mask_ is None else {"x": films_, "mask": mask_}
                weights = log_weights(self.model, self.guide, batch, particles, chunk=chunk, max_plate_nesting=1 + 1)
                value, error = mean_and_error(weights.double())
                values.append(value)
                errors.append(error)
        return Score(torch.cat(values), "lower bound", torch.cat(errors))

    def blank_log_prob(self, x: Any) -> Tensor:
        """Log density of films if nothing were there, (films,), nats: what any model must beat."""
        video = self._films(x)
        out = []
        with torch.no_grad():
            for part, _ in posterior.chunks(video, None, CHUNK):
                none = torch.zeros(*part.shape[:1], self.model.slots)
                where = torch.zeros(*none.shape, 4)
                glimpse = torch.zeros(*none.shape, self.model.planes, *self.model.glimpse)
                canvas, covers = self.model.render(none, where, glimpse)
                law = self.model.likelihood(
                    canvas.unsqueeze(1).expand(part.shape), None if covers is None else covers.unsqueeze(1)
                )
                out.append(law.log_prob(self.model.video(part)))
        return torch.cat(out)

    def query(  # type: ignore[override]
        self, evidence: Any = None, ask: Sequence[str] | None = None, num_samples: int = 100, **options: Any
    ) -> Answer:
        """Sample latents and pixels given evidence about either: the guide proposes where frames are known.

        Sites are those of the model: `x` (frames, channels, height, width), and for each frame t `t0/births`,
        `t0/where_new`, `t0/what_new`, `t1/presence`, `t1/where`, `t1/what`, ... See `System.query`.

        Args:
            evidence: site -> pieces; about `x` a film (frames, [channels,] height, width), uint8 or 0 .. 1.
            ask: sites to return.
            num_samples: per row of evidence.
            **options: of `inference.query.ask.query`; `frames=` sets the length of the film, by default that of the
                evidence, or of the films trained on.
        """
        from phlogiston.inference.query.ask import query

        self._need_fit()
        question, found = films.question(evidence, self.schema["shape"])
        frames = int(options.pop("frames", found or self.schema.get("frames", 10)))
        batch = {"frames": frames, **options.pop("batch", {})}
        return query(self.model, self.guide, question, ask, num_samples, batch=batch, **options)

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Pixels have no names."""
        self._need_fit()
        return {"x": ()}, {}

    # ----- evaluation ---------------------------------------------------------------------------------------------

    METRICS: ClassVar[tuple[str, ...]] = ("bound", "count", "tracking", "prediction", "addition", "places")

    def evaluate(
        self, data: Any, metrics: Sequence[str] | None = None, *, particles: int = 5, frames: int | None = None
    ) -> dict[str, Metric]:
        """Score on held-out films.

        Args:
            data: a dataset (its test films), split or dict with `x` and, for what needs the truth, `count` (films,
                frames), `boxes` (films, frames, objects, 4), `present` (films, frames, objects), `label`.
            metrics: groups, some of `METRICS`; all by default.
            particles: K.
            frames: look at so many frames of each film only.

        Returns:
            Bound, log p(x | z), divergence and the bound of an empty picture in nats per frame; count accuracy (of the
            posterior, of its mode, of connected components with and without a median over time), over-counts and
            calibration; MOTA, IDF1, identity switches per object and frame, share of matched objects, centre error, and
            the share of crossing pairs that keep their identities; prediction errors beside staying put; the addition
            probe.
        """
        from phlogiston.systems.sqair.report import evaluate

        return evaluate(self, data, self._chosen_metrics(metrics), particles, frames)

    def figures(self, data: Any) -> dict[str, Figure]:
        """Films with boxes coloured by identity, glimpses, futures, samples, and the loss."""
        from phlogiston.systems.sqair.pictures import figures

        self._need_fit()
        return figures(self, data)

    def example_queries(self, data: Any) -> list[tuple[str, Any]]:
        """How many there are at first, given two frames; and two frames of two objects, given nothing else."""
        born = self.query({"x": self._films(data)[0, :2]}, ["t0/births"], 50, seed=0)
        two = self.query({"t0/births": 2}, ["x"], num_samples=20, frames=2, seed=0)
        return [("two frames; how many objects are there at first?", born), ("two objects, nothing else", two)]

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """Moving digits."""
        return [
            {
                "title": "Objects found, counted and followed without labels",
                "text": "Films of none, one or two moving digits; nothing is labelled. Boxes are coloured by identity: "
                "a digit keeps its colour while it is followed.",
                "data": "moving_digits",
                "data_options": {"sizes": (1000, 32, 64) if quick else (2000, 64, 128)},
                "options": {"steps": 40 if quick else 160, "lengths": (3,), "shares": (1.0,)},
            }
        ]
