"""VDSM as a product: learn who, which action and the pose per frame from unlabelled clips, then take them apart.

    data = phlogiston.datasets.load("figures", size=32)
    system = VDSM(preset="cpu-figures").fit(data)
    system.encode(clips)                       identity, dynamics, poses
    system.swap(who=clips, what=others)        the people of one set in the actions of another
    system.swap_grid(clips)                    every action with every person
    system.generate(clips, length=30)          the same action, longer
    system.predict(clips[:, :4], horizon=8)    what happens next
    system.sample(16, length=20)["frames"]     invented clips

Two stages of the shared engine: frames first, then sequences on the frozen frame encoder and decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from phlogiston import systems
from phlogiston.arrays import at_least
from phlogiston.datasets.base import Meta, Split
from phlogiston.errors import ConfigError, RunError, ShapeError, unknown_name
from phlogiston.evaluate.score import Score
from phlogiston.evaluate.weights import mean_and_error
from phlogiston.guides.vdsm import VDSMGuide
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.objectives import IWAE
from phlogiston.inference.svi.row_noise import row_keys
from phlogiston.models.vdsm import VDSM as VDSMModel
from phlogiston.networks.experts import ExpertDecoder
from phlogiston.networks.frame_encoder import pixels
from phlogiston.systems.base import Role
from phlogiston.systems.calls import evaluating, seeded
from phlogiston.systems.frames import mean_colour, refuse_zeros_and_ones
from phlogiston.systems.options import from_config
from phlogiston.systems.vdsm.clips import ClipOperations, check_mask, frames_of
from phlogiston.systems.vdsm.config import PAIRS, PRESETS, down, up
from phlogiston.systems.vdsm.config import Config as VDSMConfig
from phlogiston.systems.vdsm.query import query_clip
from phlogiston.systems.vdsm.stages import ENCODER_PARTS, FRAME_PARTS, stages
from phlogiston.systems.vdsm.ties import TieSegments
from phlogiston.systems.vdsm.training import Aggregate, Clips
from phlogiston.systems.words import in_words

SHARED = (  # options that a run whose stage 1 is taken must agree in
    "experts", "pose", "encoder", "encoder_widths", "features", "decoder_widths", "bank", "rank", "identity",
    "shared_layers", "segments", "tie_segments", "basis",
)  # fmt: skip


class VDSM(ClipOperations):
    """Video disentanglement; options in `systems.vdsm.config.Config`.

    Data hold `frames` uint8 (rows, T, C, H, W) or floats in [0, 1]; optionally `mask` bool (rows, T), True where a
    frame is known, and `group` int64 (rows,), which clips show the same individual; it is looked at only with
    `pair_within_group=True`. One bare array is `frames`. Labels are never trained on.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("pendulum", sizes=(12, 0, 4), size=16, frames=6)
        >>> small = {"encoder_widths": (8, 8), "decoder_widths": (8, 8), "recurrent": 8, "experts": 3, "aggregate": 1}
        >>> system = VDSM(steps=3, warm_steps=2, sequence_steps=2, **small).fit(data)
        >>> tuple(system.swap(data.test.tensors["frames"][:2], data.test.tensors["frames"][2:4]).shape)
        (2, 6, 3, 16, 16)
    """

    name: ClassVar[str] = "vdsm"
    HEEDS: ClassVar[tuple[str, ...]] = ("mask",)
    threads = None  # steps are large enough for as many as torch has
    ARRAY: ClassVar[str] = "frames"
    Config: ClassVar[type] = VDSMConfig
    config: VDSMConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Form of the clips, and names of their labels."""
        frames = frames_of(train.tensors)
        refuse_zeros_and_ones(frames, "frames")
        channels, height, width = frames.shape[2:]
        if height != width:
            raise ShapeError(
                f"frames have {height} x {width} pixels; this model takes square ones. Crop or resize them."
            )
        return {
            "channels": int(channels),
            "size": int(height),
            "length": int(frames.shape[1]),
            "mean": mean_colour(frames),
            "paired": self._pairs(train),
            "categorical": {} if meta is None else {name: list(labels) for name, labels in meta.categorical.items()},
        }

    def _pairs(self, train: Split) -> bool:
        """Whether clips of one individual are paired.

        Raises:
            ConfigError: they are to be, and the data do not say who is who.
        """
        if self.config.pair_within_group and "group" not in train.tensors:
            raise ConfigError(
                f"pair_within_group=True needs data that say who is who, in 'group'; these hold "
                f"{sorted(train.tensors)}. Set pair_within_group=False to learn from each clip by itself."
            )
        return bool(self.config.pair_within_group)

    def prepare(self, split: Split, role: Role = "train") -> Clips:
        """The clips as the engine reads them."""
        frames = frames_of(split.tensors, self.schema)
        if frames.dtype != torch.uint8:
            frames = (frames * 255.0).round().to(torch.uint8)
        group = split.tensors.get("group") if self.schema["paired"] else None
        return Clips(frames, check_mask(split.tensors.get("mask"), frames), group)

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Model and guide."""
        c, schema = self.config, self.schema
        self.model = from_config(
            VDSMModel, c, channels=schema["channels"], size=schema["size"], widths=up(c.decoder_widths, schema["size"]),
            hidden=c.transition or c.recurrent,
        )  # fmt: skip
        self.model.temperature = c.temperature[1]
        if isinstance(self.model.decoder, ExpertDecoder):
            self.model.decoder.start_at(torch.tensor(schema["mean"]))
        widths = down(c.encoder_widths, schema["size"])
        self.guide = from_config(VDSMGuide, c, model=self.model, widths=widths, share=c.identity_share)

    def initialise(self, train: Any, seed: int) -> None:
        """Take the parts of another run's stage 1, where the configuration names one."""
        if self.config.stage1:
            self.adopt(self.config.stage1)

    def adopt(self, run: str | Path) -> None:
        """Take frame encoder and decoder from another VDSM.

        Args:
            run: a run folder, or what `save` wrote.

        Raises:
            RunError: not a VDSM, or one of another form; the message says what differs.
        """
        other = systems.load(run)
        if not isinstance(other, VDSM):
            raise RunError(f"stage1={str(run)!r} holds a {other.name!r}, not a vdsm")
        pairs = [(n, other.schema[n], self.schema[n]) for n in ("channels", "size")]
        pairs += [(n, getattr(other.config, n), getattr(self.config, n)) for n in SHARED]
        pairs += [("temperature", other.config.temperature[1], self.config.temperature[1])]
        for name, theirs, ours in pairs:
            if theirs != ours:
                raise RunError(f"stage1={str(run)!r} has {name} {theirs}, this configuration {ours}; they must agree")
        for own, given, patterns in (
            (self.model, other.model, FRAME_PARTS), (self.guide, other.guide, ENCODER_PARTS),
        ):  # fmt: skip
            parts = {pattern.split(".")[0] for pattern in patterns}
            state = {name: value for name, value in given.state_dict().items() if name.split(".")[0] in parts}
            own.load_state_dict(state, strict=False)

    def step_options(self) -> dict[str, int]:
        """The options that count optimiser steps, stage by stage."""
        names = ["steps", "warm_steps", "sequence_steps", "finetune_steps"]
        names[1:1] = ["tie_steps"] if self.config.tie_segments and not self.config.stage1 else []
        return {name: count for name in names if (count := getattr(self.config, name))}

    def stages(self) -> list[Stage]:
        """Frames; then, on frozen parts, sequences: first of codes, then of pixels; then everything, if configured."""
        return stages(self.config, self.model, self.guide, self.schema["length"])

    def callbacks(self) -> list[Any]:
        """Trying ties of segments, and fitting the aggregate prior at the end, where configured."""
        tie = [TieSegments(self)] if self.config.tie_segments else []
        return [*tie, Aggregate(self)] if self.config.aggregate and self.config.identity == "continuous" else [*tie]

    # ----- drawing, scoring, asking -------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        length: int | None = None,
        identity: Any = None,
        dynamics: Any = None,
        prior: Literal["standard", "aggregate"] = "aggregate",
        chain: Literal["prior", "guide"] = "guide",
    ) -> dict[str, Tensor]:
        """Invent clips; either factor may be fixed: the same person in new actions, the same action by new people.

        Args:
            n: how many.
            seed: of this call; None draws from torch's generator.
            length: frames of each; as many as the training clips had by default.
            identity: codes (K,) or (n, K), as `encode` gives in `identity_loc`; drawn if not given.
            dynamics: codes (D,) or (n, D), as in `dynamics_loc`; drawn if not given.
            prior: where what is not given is drawn from: the model's own prior, or the mixture fitted to the training
                clips' codes.
            chain: how poses follow from the dynamics: by the model's first pose and transitions, or by the guide's
                free-running chain, whose first pose depends on the dynamics.

        Returns:
            `frames` (n, length, C, H, W), means of pixels; `identity` (n, K), `dynamics` (n, D).

        Raises:
            ConfigError: no such prior, or codes of another size.
        """
        self._need_fit()
        at_least("n", n, 1)
        length = length if length is not None else self.schema["length"]
        at_least("length", length, 1)
        if prior not in ("standard", "aggregate"):
            raise unknown_name("prior", prior, ("standard", "aggregate"))
        if chain not in ("prior", "guide"):
            raise unknown_name("chain", chain, ("prior", "guide"))
        model = self.model
        with seeded(seed), evaluating(model, self.guide):
            who = self._given("identity", identity, n, model.identity_size)
            what = self._given("dynamics", dynamics, n, self.config.dynamics)
            standard = prior == "standard" or self.config.identity != "continuous"
            if who is None:
                who = (model.identity_prior() if standard else model.identity_codes.mixture()).sample((n,))
            if what is None:
                what = (model.dynamics_prior() if prior == "standard" else model.dynamics_codes.mixture()).sample((n,))
            if chain == "prior":
                pose = model.pose_prior(what, length).sample()
            else:
                pose = self.guide.pose_chain(what, length).means()
            return {"frames": self.render(pose, model.blend(who)), "identity": who, "dynamics": what}

    def _given(self, name: str, code: Any, n: int, size: int) -> Tensor | None:
        if code is None:
            return None
        value = torch.as_tensor(code, dtype=torch.float32)
        if value.shape not in ((size,), (n, size)):
            raise ShapeError(f"{name} has shape {tuple(value.shape)}; expected ({size},) or ({n}, {size})")
        return value.expand(n, size)

    @torch.no_grad()
    def log_prob(self, data: Any, *, seed: int = 0, num_particles: int = 50, mask: Any = None) -> Score:
        """Bound the log density of clips from below by importance sampling from the guide.

        Args:
            data: clips, as in `encode`.
            seed: of the draws.
            num_particles: draws per clip.
            mask: frames that are known; only they are scored.

        Returns:
            Scores (rows,), nats per clip. With the Bernoulli likelihood grey pixels are soft targets: the figure is a
            cross-entropy then, which has a floor (`entropy_floor`), and no log density.

        Raises:
            ConfigError: fewer than one particle.
        """
        at_least("num_particles", num_particles, 1)
        frames, known = self.clips(data, mask)
        if self.config.identity != "continuous":
            raise ConfigError("log_prob needs a continuous identity; one-hot ones are not reparameterised")
        keys = row_keys(*((frames,) if known is None else (frames, known)), valid=known, seed=seed).tolist()
        values, errors = [], []
        bound = IWAE(num_particles=num_particles, max_plate_nesting=2 + int(num_particles > 1))
        with seeded(seed), evaluating(self.model, self.guide):
            for i, key in enumerate(keys):
                batch: dict[str, Any] = {"frames": pixels(frames[i : i + 1])}
                if known is not None:
                    batch["mask"] = known[i : i + 1]
                torch.manual_seed(key)  # a clip's own, so that its score does not depend on the others
                weights, _ = bound.log_weights(self.model, self.guide, **batch)
                value, error = mean_and_error(weights.double())
                values.append(value)
                errors.append(error)
        return Score(torch.cat(values), "lower bound", torch.cat(errors) if num_particles > 1 else None)

    @in_words
    def query(
        self,
        evidence: Any = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 100,
        *,
        method: str = "auto",
        seed: int | None = None,
        **options: Any,
    ) -> Answer:
        """Sample sites of a clip given evidence about others; see `System.query`.

        Sites are `identity` (K), `dynamics` (D), `pose` (T, Z) and `frames` (T, C, H, W).

        Args:
            evidence: by site.
            ask: sites to return; all that are not in the batch by default.
            num_samples: how many.
            method: `"auto"` is importance sampling, with the guide as the proposal where frames are known.
            seed: of this call; None draws from torch's generator.
            **options: `batch`: `frames` (T, C, H, W) and `mask` (T,) of a clip that is known, in whole or in part; and
                what `inference.query.ask.query` takes.

        Raises:
            ConfigError: the configuration has one-hot identities, or a site per pose.
            ShapeError: a batch of more than one clip.
        """
        self._need_fit()
        with evaluating(self.model, self.guide):
            return query_clip(
                self.model, self.guide, self.schema["length"], evidence, ask, num_samples,
                method="importance" if method == "auto" else method, seed=seed, **options,
            )  # fmt: skip

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Names evidence may be written in: entries of identity and dynamics."""
        self._need_fit()
        sizes = {"identity": self.model.identity_size, "dynamics": self.config.dynamics}
        return {site: tuple(f"{site}_{i}" for i in range(size)) for site, size in sizes.items()}, {}

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """Figures: who and what, swapped."""
        if quick:
            return []  # its people are shadows until it has learned for a minute or more
        return [
            {
                "title": "Who, what and how: drawn figures",
                "text": "The model was told which clips show the same character, and nothing else: neither attributes "
                "nor actions. It learned one code for the person, one for the action and a pose per frame, so that "
                "people and actions can be combined anew. Columns: the person; rows: the action. The characters shown "
                "are combinations it was never trained on.",
                "data": "figures",
                "data_options": {"size": 32, "characters": (96, 0, 16)},
                "options": {**PAIRS, **PRESETS["cpu-demo"], "steps": 900},
                "show": ["who times how", "training"],  # motion takes longer than appearance
            }
        ]
