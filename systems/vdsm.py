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

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.errors import ConfigError, DataError, RunError, ShapeError, unknown_name
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.score import Score
from phlogiston.guides.vdsm import FrameGuide, LatentGuide, VDSMGuide
from phlogiston.inference import objectives
from phlogiston.inference.engine import Stage
from phlogiston.inference.evidence import Known
from phlogiston.inference.handlers import setting
from phlogiston.inference.schedules import Schedule, four_point, half_cosine, piecewise
from phlogiston.models.vdsm import VDSM as VDSMModel
from phlogiston.models.vdsm import FrameModel, LatentModel, pixels
from phlogiston.systems.base import System, coerce
from phlogiston.systems.configs.vdsm import PRESETS
from phlogiston.systems.configs.vdsm import Config as VDSMConfig
from phlogiston.systems.vdsm_training import Aggregate, Clips, Codes, DrawFrames, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHUNK = 32  # clips looked at together
FRAME_PARTS = ("decoder.*", "noise")  # of the model, what stage 1 trains
ENCODER_PARTS = ("encoder.*", "pose_head.*", "identity_head.*", "identity_loc.*", "identity_scale.*")  # of the guide


class VDSM(System):
    """Video disentanglement; options in `systems.configs.vdsm.Config`.

    Data hold `frames` uint8 (rows, T, C, H, W) or floats in [0, 1]; optionally `mask` bool (rows, T), True where a
    frame is known, and `group` int64 (rows,), which clips show the same individual. Labels are never trained on.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("pendulum", sizes=(12, 0, 4), size=16, frames=6)
        >>> small = {"encoder_widths": (8, 8), "decoder_widths": (8, 8), "recurrent": 8, "experts": 3, "aggregate": 1}
        >>> system = VDSM(steps=3, warm_steps=2, sequence_steps=2, **small).fit(data)
        >>> tuple(system.swap(data.test.tensors["frames"][:2], data.test.tensors["frames"][2:4]).shape)
        (2, 6, 3, 16, 16)
    """

    name: ClassVar[str] = "vdsm"
    Config: ClassVar[type] = VDSMConfig
    config: VDSMConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Form of the clips, and names of their labels."""
        frames = self._frames(train.tensors)
        channels, height, width = frames.shape[2:]
        if height != width:
            raise ShapeError(
                f"frames have {height} x {width} pixels; this model takes square ones. Crop or resize them."
            )
        return {
            "channels": int(channels),
            "size": int(height),
            "length": int(frames.shape[1]),
            "mean": _mean_colour(frames),
            "paired": bool(self.config.pair_within_group and "group" in train.tensors),
            "categorical": {} if meta is None else {name: list(labels) for name, labels in meta.categorical.items()},
        }

    def _frames(self, tensors: Mapping[str, Tensor]) -> Tensor:
        if "frames" not in tensors:
            raise ShapeError(f"VDSM needs clips: a tensor 'frames' (rows, T, C, H, W); the data hold {sorted(tensors)}")
        return check_frames(tensors["frames"], self.schema or None)

    def prepare(self, split: Split) -> Clips:  # type: ignore[override]
        """The clips as the engine reads them."""
        frames = self._frames(split.tensors)
        if frames.dtype != torch.uint8:
            frames = (frames * 255.0).round().to(torch.uint8)
        group = split.tensors.get("group") if self.schema["paired"] else None
        mask = check_mask(split.tensors.get("mask"), frames)
        clips = Clips(frames, mask, group, sum(len(part) for part in self._parts))
        self._parts.append(clips)
        return clips

    def fit(self, data: Any, **options: Any) -> VDSM:
        """Train on clips; see `System.fit`. `data` may also be one array of clips, (rows, T, C, H, W).

        Raises:
            RunError: `config.stage1` names something that is no VDSM of the same form.
        """
        self._parts = []
        if not isinstance(data, Dataset | Split | Mapping | str | Path):
            data = {"frames": data}
        coerce(data)
        return super().fit(data, **options)

    _parts: list[Clips]

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Model and guide."""
        c, schema = self.config, self.schema
        self.model = VDSMModel(
            schema["channels"], schema["size"], c.experts, c.pose, c.dynamics, c.decoder_widths,
            c.transition or c.recurrent, c.identity, c.likelihood, c.chain, c.bank, c.rank, c.route, c.aggregate,
        )  # fmt: skip
        self.model.temperature = c.temperature[1]
        self.model.decoder.start_at(torch.tensor(schema["mean"]))
        self.guide = VDSMGuide(
            self.model, c.encoder_widths, c.features, c.recurrent, c.layers, c.encoder, c.pose_guide, c.pool,
            c.identity_share, c.dropout, c.agreement,
        )  # fmt: skip

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
        from phlogiston import systems

        other = systems.load(run)
        if not isinstance(other, VDSM):
            raise RunError(f"stage1={str(run)!r} holds a {other.name!r}, not a vdsm")
        names = (
            "experts",
            "pose",
            "encoder",
            "encoder_widths",
            "features",
            "decoder_widths",
            "bank",
            "rank",
            "identity",
        )
        pairs = [(n, other.schema[n], self.schema[n]) for n in ("channels", "size")]
        pairs += [(n, getattr(other.config, n), getattr(self.config, n)) for n in names]
        pairs += [("temperature", other.config.temperature[1], self.config.temperature[1])]
        for name, theirs, ours in pairs:
            if theirs != ours:
                raise RunError(f"stage1={str(run)!r} has {name} {theirs}, this configuration {ours}; they must agree")
        for own, given, parts in (
            (self.model, other.model, FRAME_PARTS), (self.guide, other.guide, ENCODER_PARTS),
        ):  # fmt: skip
            state = {k: v for k, v in given.state_dict().items() if k.split(".")[0] in {p.split(".")[0] for p in parts}}
            own.load_state_dict(state, strict=False)

    def stages(self) -> list[Stage]:
        """Frames; then, on frozen parts, sequences: first of codes, then of pixels; then everything, if asked for."""
        c = self.config
        poses = ["pose"] if c.chain == "fused" else [f"pose_{t}" for t in range(self.schema["length"])]
        objective: Any = "mean_field"
        if c.identity == "discrete":
            objective = objectives.make("enum", max_plate_nesting=2)
        rate = self._rate
        tau = setting(self.model, "temperature", c.temperature[1])
        frames = [f"model.{part}" for part in FRAME_PARTS if not (part == "noise" and c.likelihood != "normal")]
        encoder = [
            f"guide.{p}" for p in ENCODER_PARTS if not (p[:14] == "identity_scale" and c.identity != "continuous")
        ]
        chain = ["guide.summary.*", "guide.dynamics_head.*", "guide.run.*", "guide.before", "guide.from_pose.*"]
        chain += ["guide.from_state.*", "guide.step_loc.*", "guide.step_scale.*", "model.transition.*"]
        anneal = {
            "scale.dynamics": half_cosine(*c.dynamics_weight, c.epochs),
            **dict.fromkeys(
                (f"scale.{pose}" for pose in poses),
                four_point(*c.sequence_pose_weight, c.sequence_pose_places, c.curve, epochs=c.epochs),
            ),
        }
        codes = Codes(self.guide, self._parts)
        found: list[Stage] = []
        if not c.stage1:
            found.append(
                Stage(
                    "frames", c.steps, objective, "adam", c.learning_rate, c.batch_size, (*frames, *encoder),
                    {
                        "learning_rate": rate(c.steps),
                        "temperature.value": half_cosine(*c.temperature, c.epochs),
                        "scale.identity": half_cosine(*c.identity_weight, c.epochs),
                        "scale.pose": four_point(*c.pose_weight, c.pose_places, c.curve, epochs=c.epochs),
                    },
                    c.clip,
                    handlers={"temperature": tau},
                    programs=frame_programs,
                    transform=DrawFrames(c.frames_per_clip, c.identity_share, c.recolour),
                )
            )  # fmt: skip
        if c.warm_steps:
            found.append(
                Stage(
                    "codes", c.warm_steps, "mean_field", "adam", c.warm_learning_rate, c.warm_batch, tuple(chain),
                    {
                        "learning_rate": rate(c.warm_steps),
                        "scale.dynamics": half_cosine(*c.dynamics_weight, c.epochs),
                    },
                    c.clip,
                    programs=latent_programs,
                    transform=codes,
                )
            )  # fmt: skip
        if c.sequence_steps:
            found.append(
                Stage(
                    "sequences", c.sequence_steps, objective, "adam", c.sequence_learning_rate, c.sequence_batch,
                    tuple(chain), {"learning_rate": rate(c.sequence_steps), **anneal}, c.clip, transform=codes,
                )
            )  # fmt: skip
        if c.finetune_steps:
            found.append(
                Stage(
                    "all", c.finetune_steps, objective, "adam", 0.1 * c.sequence_learning_rate, c.sequence_batch,
                    ("*",), {"learning_rate": rate(c.finetune_steps)}, c.clip, transform=plain,
                )
            )  # fmt: skip
        if not found:
            raise ConfigError("there is nothing to train: every stage has 0 steps")
        return found

    def _rate(self, steps: int) -> Schedule:
        """A short rise, a plateau, and a lower plateau at the end; as factors of the stage's rate."""
        c = self.config
        rise = min(0.5, c.warmup / steps)
        points = [(0.0, 0.05 if rise else 1.0), (rise, 1.0)] if rise else [(0.0, 1.0)]
        if c.cooldown:
            points += [(1.0 - c.cooldown, 1.0), (1.0 - c.cooldown, c.cooldown_factor), (1.0, c.cooldown_factor)]
        return piecewise(points)

    def callbacks(self) -> list[Any]:
        """Fitting the aggregate prior at the end."""
        if not self.config.aggregate or self.config.identity != "continuous":
            return []
        return [Aggregate(self, self._parts[0], self.config.aggregate)]

    # ----- codes --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def codes_of(
        self, frames: Tensor, mask: Tensor | None = None, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """Codes of clips that have been checked; see `encode`."""
        with evaluating(self.model, self.guide):
            parts = []
            for i in range(0, len(frames), CHUNK):
                block = frames[i : i + CHUNK].to(device) if device is not None else frames[i : i + CHUNK]
                known = None if mask is None else mask[i : i + CHUNK].to(block.device)
                encoded = self.guide.encode_frames(block)
                who, spread = self.guide.pool_identity(encoded, known)
                what, width, outputs = self.guide.read(encoded, known)
                z = self.config.pose
                parts.append(
                    {
                        "identity_loc": who,
                        "identity_scale": spread,
                        "blend": self._blend(who),
                        "dynamics_loc": what,
                        "dynamics_scale": width,
                        "pose_loc": encoded[..., :z],
                        "pose_scale": encoded[..., z : 2 * z],
                        "outputs": outputs,
                    }
                )
            return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}

    def _blend(self, identity_loc: Tensor) -> Tensor:
        """Blend weights of the most probable identity."""
        if self.config.identity == "continuous":
            return self.model.blend(identity_loc)
        return torch.nn.functional.one_hot(identity_loc.argmax(-1), self.config.experts).to(identity_loc.dtype)

    def encode(self, x: Any, mask: Any = None) -> dict[str, Tensor]:
        """Take clips apart.

        Args:
            x: a dataset (its test rows), a split, a dict with `frames`, or clips (rows, T, C, H, W); `T` may be any.
            mask: bool (rows, T), True where a frame is known; what other frames hold has no influence.

        Returns:
            `identity_loc`, `identity_scale` (rows, K); `blend` (rows, K), the experts' weights; `dynamics_loc`,
            `dynamics_scale` (rows, D); `pose_loc`, `pose_scale` (rows, T, Z), of each frame by itself.

        Raises:
            ShapeError, DataError: clips of another form than the system was trained on.
        """
        frames, known = self._clips(x, mask)
        found = self.codes_of(frames, known)
        found.pop("outputs")
        return found

    # ----- clips from codes ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def _render(self, pose: Tensor, blend: Tensor) -> Tensor:
        """Pictures (rows, T, C, H, W) of poses (rows, T, Z) with experts blended by (rows, K)."""
        with evaluating(self.model):
            parts = [
                self.model.picture(self.model.decoder(z, w))
                for z, w in zip(pose.split(CHUNK), blend.split(CHUNK), strict=True)
            ]
        return torch.cat(parts)

    @torch.no_grad()
    def _poses(
        self, codes: Mapping[str, Tensor], length: int, means: bool = True, mask: Tensor | None = None
    ) -> Tensor:
        """Poses re-created from the dynamics code alone (or with a smoothing guide from the clip): (rows, T, Z)."""
        with evaluating(self.guide):
            outputs = codes.get("outputs")
            if self.config.pose_guide == "smoothing" and outputs is not None and outputs.shape[1] != length:
                raise ConfigError("the smoothing guide looks at the clip; it cannot make clips of another length")
            dynamics = codes["dynamics_loc"]
            if not means:
                dynamics = dynamics + codes["dynamics_scale"] * torch.randn_like(dynamics)
            chain = self.guide.pose_chain(dynamics, length, outputs)
            found: Tensor = chain.means() if means else chain.sample()
            return found

    def reconstruct(
        self, x: Any, mode: Literal["frame", "sequence"] = "sequence", *, mask: Any = None, samples: bool = False
    ) -> Tensor:
        """Make clips again from their codes.

        Args:
            x: clips, as in `encode`.
            mode: "frame": poses by the frame encoder; "sequence": poses re-created from the dynamics code.
            mask: frames that are known.
            samples: draw dynamics and poses instead of taking their locations.

        Returns:
            (rows, T, C, H, W), means of pixels in [0, 1].
        """
        frames, known = self._clips(x, mask)
        codes = self.codes_of(frames, known)
        return self._render(self._mode(codes, mode, frames.shape[1], samples), codes["blend"])

    def _mode(self, codes: Mapping[str, Tensor], mode: str, length: int, samples: bool = False) -> Tensor:
        if mode == "frame":
            return codes["pose_loc"]
        if mode != "sequence":
            raise unknown_name("mode", mode, ("frame", "sequence"))
        return self._poses(codes, length, means=not samples)

    def swap(self, who: Any, what: Any, mode: Literal["frame", "sequence"] = "sequence") -> Tensor:
        """Show the people of some clips in the actions of others, row by row.

        Args:
            who: clips that give the identity.
            what: clips that give dynamics and poses; as many.
            mode: as in `reconstruct`.

        Returns:
            (rows, T, C, H, W).

        Raises:
            ShapeError: not as many.
        """
        donors, known = self._clips(who)
        actors, also = self._clips(what)
        if len(donors) != len(actors):
            raise ShapeError(f"who has {len(donors)} clips, what {len(actors)}; they are taken row by row")
        codes = self.codes_of(actors, also)
        return self._render(self._mode(codes, mode, actors.shape[1]), self.codes_of(donors, known)["blend"])

    def swap_grid(self, x: Any, mode: Literal["frame", "sequence"] = "sequence") -> Tensor:
        """Every action with every person.

        Args:
            x: n clips.
            mode: as in `reconstruct`.

        Returns:
            (n, n, T, C, H, W): row i has the action of clip i, column j the person of clip j.
        """
        frames, known = self._clips(x)
        codes = self.codes_of(frames, known)
        n = len(frames)
        pose = self._mode(codes, mode, frames.shape[1]).repeat_interleave(n, 0)
        return self._render(pose, codes["blend"].repeat(n, 1)).unflatten(0, (n, n))

    def generate(self, x: Any, length: int, *, mask: Any = None) -> Tensor:
        """Go on with clips for as long as asked: the chain of poses runs freely from the inferred dynamics code.

        Args:
            x: clips, as in `encode`.
            length: frames to make, from the first on; may be more than the clips have.
            mask: frames that are known.

        Returns:
            (rows, length, C, H, W).
        """
        _positive("length", length)
        frames, known = self._clips(x, mask)
        codes = self.codes_of(frames, known)
        return self._render(self._poses(codes, length), codes["blend"])

    @torch.no_grad()
    def predict(
        self, x: Any, horizon: int, *, mask: Any = None, samples: bool = False, seed: int | None = None
    ) -> Tensor:
        """Say what follows clips: infer dynamics and poses, then let the *prior's* transitions run on.

        Args:
            x: the first frames of clips, as in `encode`.
            horizon: frames to add.
            mask: frames that are known.
            samples: draw each step instead of taking its location.
            seed: of the draws.

        Returns:
            (rows, horizon, C, H, W), what comes after the frames of `x`.
        """
        _positive("horizon", horizon)
        frames, known = self._clips(x, mask)
        codes = self.codes_of(frames, known)
        pose = self._poses(codes, frames.shape[1])[:, -1]
        with seeded(seed):
            return self._render(self._roll(pose, codes["dynamics_loc"], horizon, samples), codes["blend"])

    @torch.no_grad()
    def rollout(self, x: Any, length: int, *, samples: bool = False, seed: int | None = None) -> Tensor:
        """Run the prior's transitions from the first pose of clips and their dynamics code: (rows, length, C, H, W)."""
        _positive("length", length)
        frames, known = self._clips(x)
        codes = self.codes_of(frames, known)
        first = self._poses(codes, frames.shape[1])[:, :1]
        with seeded(seed):
            later = self._roll(first[:, 0], codes["dynamics_loc"], length - 1, samples) if length > 1 else first[:, :0]
        return self._render(torch.cat([first, later], 1), codes["blend"])

    def _roll(self, pose: Tensor, dynamics: Tensor, steps: int, samples: bool) -> Tensor:
        with evaluating(self.model):
            path = []
            for _ in range(steps):
                pose, scale = self.model.transition(pose, dynamics)
                pose = pose + scale * torch.randn_like(pose) if samples else pose
                path.append(pose)
            return torch.stack(path, 1)

    def infill(self, x: Any, mask: Any) -> Tensor:
        """Fill in missing frames: known ones come back as they are, the others from the codes of the known ones.

        Args:
            x: clips; what missing frames hold has no influence.
            mask: bool (rows, T), True where a frame is known.

        Returns:
            (rows, T, C, H, W).
        """
        frames, known = self._clips(x, mask)
        if known is None:
            raise ConfigError("infill needs a mask, True where a frame is known")
        made = self.reconstruct({"frames": frames}, mask=known)
        given = pixels(frames)
        assert given is not None
        return torch.where(known[:, :, None, None, None], given, made)

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        length: int | None = None,
        identity: Any = None,
        dynamics: Any = None,
        prior: Literal["standard", "aggregate"] = "aggregate",
        chain: Literal["prior", "guide"] = "guide",
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Invent clips; either factor may be fixed: the same person in new actions, the same action by new people.

        Args:
            n: how many.
            length: frames of each; as many as the training clips had by default.
            identity: codes (K,) or (n, K), as `encode` gives in `identity_loc`; drawn if not given.
            dynamics: codes (D,) or (n, D), as in `dynamics_loc`; drawn if not given.
            prior: where what is not given is drawn from: the model's own prior, or the mixture fitted to the training
                clips' codes.
            chain: how poses follow from the dynamics: by the model's first pose and transitions, or by the guide's
                free-running chain, whose first pose knows the dynamics.
            seed: of this call; None draws from torch's generator.

        Returns:
            `frames` (n, length, C, H, W), means of pixels; `identity` (n, K), `dynamics` (n, D).

        Raises:
            ConfigError: no such prior, or codes of another size.
        """
        self._need_fit()
        _positive("n", n)
        length = length if length is not None else self.schema["length"]
        _positive("length", length)
        if prior not in ("standard", "aggregate"):
            raise unknown_name("prior", prior, ("standard", "aggregate"))
        if chain not in ("prior", "guide"):
            raise unknown_name("chain", chain, ("prior", "guide"))
        model = self.model
        with seeded(seed), evaluating(model, self.guide):
            who = self._given("identity", identity, n, self.config.experts)
            what = self._given("dynamics", dynamics, n, self.config.dynamics)
            standard = prior == "standard" or self.config.identity != "continuous"
            if who is None:
                who = (model.identity_prior() if standard else model.identity_codes.law()).sample((n,))
            if what is None:
                what = (model.dynamics_prior() if prior == "standard" else model.dynamics_codes.law()).sample((n,))
            law = model.pose_prior(what, length) if chain == "prior" else self.guide.pose_chain(what, length)
            pose = law.sample() if chain == "prior" else law.means()
            return {"frames": self._render(pose, model.blend(who)), "identity": who, "dynamics": what}

    def _given(self, name: str, code: Any, n: int, size: int) -> Tensor | None:
        if code is None:
            return None
        value = torch.as_tensor(code, dtype=torch.float32)
        if value.shape not in ((size,), (n, size)):
            raise ShapeError(f"{name} has shape {tuple(value.shape)}; expected ({size},) or ({n}, {size})")
        return value.expand(n, size)

    @torch.no_grad()
    def log_prob(self, x: Any, *, mask: Any = None, n_samples: int = 50, seed: int = 0) -> Score:  # type: ignore[override]
        """Bound the log density of clips from below by importance sampling from the guide.

        Args:
            x: clips, as in `encode`.
            mask: frames that are known; only they are scored.
            n_samples: draws per clip.
            seed: of the draws.

        Returns:
            Scores (rows,), nats per clip. With the Bernoulli likelihood grey pixels are soft targets: the figure is a
            cross-entropy then, which has a floor (`entropy_floor`), and no log density.

        Raises:
            ConfigError: fewer than one sample.
        """
        from phlogiston.inference.objectives import IWAE

        _positive("n_samples", n_samples)
        frames, known = self._clips(x, mask)
        if self.config.identity != "continuous":
            raise ConfigError("log_prob needs a continuous identity; one-hot ones are not reparameterised")
        found = []
        bound = IWAE(num_particles=n_samples, max_plate_nesting=2 + int(n_samples > 1))
        block = max(1, 200 // n_samples)
        with seeded(seed), evaluating(self.model, self.guide):
            for i in range(0, len(frames), block):
                batch: dict[str, Any] = {"frames": pixels(frames[i : i + block])}
                if known is not None:
                    batch["mask"] = known[i : i + block]
                weights, _ = bound.log_weights(self.model, self.guide, **batch)
                found.append(torch.logsumexp(weights, 0) - torch.log(torch.tensor(float(n_samples))))
        return Score(torch.cat(found), "lower bound")

    # ----- asking, scoring, showing -------------------------------------------------------------------------------

    def query(  # type: ignore[override]
        self, evidence: Any = None, ask: Sequence[str] | None = None, num_samples: int = 100, **options: Any
    ) -> Any:
        """Sample sites given evidence about others; see `System.query`.

        Sites are `identity` (K), `dynamics` (D), `pose` (T, Z) and `frames` (T, C, H, W), per clip. `batch=` may hold
        `frames` and `mask` of clips that are known.
        """
        from phlogiston.systems.queries.vdsm import ask as answer

        self._need_fit()
        with evaluating(self.model, self.guide):
            return answer(self.model, self.guide, self.schema["length"], evidence, ask, num_samples, **options)

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Names evidence may be written in: entries of identity and dynamics."""
        self._need_fit()
        sizes = {"identity": self.config.experts, "dynamics": self.config.dynamics}
        return {site: tuple(f"{site}_{i}" for i in range(size)) for site, size in sizes.items()}, {}

    METRICS: ClassVar[tuple[str, ...]] = (
        "judge",
        "error",
        "swap",
        "rollout",
        "samples",
        "probes",
        "fvd",
        "log_likelihood",
    )

    def evaluate(self, data: Any, metrics: Sequence[str] | None = None) -> dict[str, Metric]:
        """Score on held-out clips.

        Args:
            data: a dataset (judge and probes learn from its training rows), split or dict.
            metrics: some of `METRICS`; all but "log_likelihood" by default where clips have labels, else "error".
        """
        from phlogiston.systems.vdsm_report import evaluate

        chosen = self._chosen_metrics(metrics)
        return evaluate(self, data, None if metrics is None else chosen)

    def figures(self, data: Any) -> dict[str, Figure]:
        """Swap grids, reconstructions, continuations, samples, the loss."""
        from phlogiston.systems.vdsm_pictures import figures

        self._need_fit()
        return figures(self, data)

    def views(self) -> dict[str, Any]:
        """What `show` can lay out: name -> function of held-out clips."""
        from phlogiston.systems.vdsm_pictures import VIEWS

        return dict(VIEWS)

    def asked(self, data: Any) -> list[tuple[str, Any]]:
        """Clips of one person, all else left open."""
        who = self.encode(data)["identity_loc"][0]
        return [("who is seen", self.query({"identity": Known(who)}, ask=["frames"], num_samples=8, seed=0))]

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """Figures: who and what, swapped."""
        shorter = {"steps": 45, "warm_steps": 25, "sequence_steps": 8, "aggregate": 4}
        return [
            {
                "title": "Who, what and how: drawn figures",
                "text": "The model was told which clips show the same character, and nothing else: neither attributes "
                "nor actions. It learned one code for the person, one for the action and a pose per frame, so that "
                "people and actions can be combined anew. Columns: the person; rows: the action. The characters shown "
                "are combinations it was never trained on.",
                "data": "figures",
                "data_options": {"size": 32, "characters": (24, 0, 6) if quick else (96, 0, 16)},
                "options": {**PRESETS["cpu-demo"], **(shorter if quick else {})},
            }
        ]

    # ----- inside -------------------------------------------------------------------------------------------------

    def _clips(self, x: Any, mask: Any = None) -> tuple[Tensor, Tensor | None]:
        """Clips in any accepted form, checked; and their mask."""
        self._need_fit()
        if isinstance(x, Dataset):
            x = x.test if len(x.test) else x.valid
        if isinstance(x, Split | Mapping):
            tensors = x.tensors if isinstance(x, Split) else {k: torch.as_tensor(v) for k, v in x.items()}
            mask = tensors.get("mask") if mask is None else mask
            frames = self._frames(tensors)
        else:
            frames = check_frames(torch.as_tensor(x), self.schema)
        return frames, check_mask(mask, frames)


def frame_programs(model: nn.Module, guide: nn.Module) -> tuple[nn.Module, nn.Module]:
    """What runs in stage 1."""
    assert isinstance(model, VDSMModel)
    assert isinstance(guide, VDSMGuide)
    return FrameModel(model), FrameGuide(guide)


def latent_programs(model: nn.Module, guide: nn.Module) -> tuple[nn.Module, nn.Module]:
    """What runs in the warm start."""
    assert isinstance(model, VDSMModel)
    assert isinstance(guide, VDSMGuide)
    return LatentModel(model), LatentGuide(guide)


def check_frames(frames: Tensor, schema: Mapping[str, Any] | None = None) -> Tensor:
    """Refuse what is no batch of clips, or clips of another form.

    Raises:
        ShapeError: wrong axes, channels or size.
        DataError: no clips, or values outside [0, 1].
    """
    if frames.ndim != 5:
        raise ShapeError(f"frames have shape {tuple(frames.shape)}; expected five axes, (rows, T, C, H, W)")
    if frames.shape[2] not in (1, 3) and frames.shape[-1] in (1, 3):
        raise ShapeError(
            f"frames have shape {tuple(frames.shape)}: channels seem to be last. Move them: frames.movedim(-1, 2)"
        )
    if min(frames.shape) < 1:
        raise DataError(f"frames have shape {tuple(frames.shape)}; at least one clip of one frame is needed")
    if schema is not None:
        want = (schema["channels"], schema["size"], schema["size"])
        if tuple(frames.shape[2:]) != want:
            raise ShapeError(f"frames are {tuple(frames.shape[2:])} (C, H, W); this model was trained on {want}")
    if frames.dtype == torch.uint8:
        return frames
    if not frames.is_floating_point():
        raise DataError(f"frames hold {frames.dtype} values; give bytes (uint8), or floats in [0, 1]")
    if not bool(torch.isfinite(frames).all()) or bool((frames < 0).any()) or bool((frames > 1).any()):
        low, high = float(frames.min()), float(frames.max())
        raise DataError(f"frames hold values from {low:.4g} to {high:.4g}; expected [0, 1], or bytes (uint8)")
    return frames.float()


def check_mask(mask: Any, frames: Tensor) -> Tensor | None:
    """Refuse a mask that does not fit.

    Raises:
        ShapeError: another shape.
        DataError: not bool, or a clip without a known frame.
    """
    if mask is None:
        return None
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool:
        raise DataError(f"mask holds {mask.dtype} values; expected bool, True where a frame is known")
    if mask.shape != frames.shape[:2]:
        raise ShapeError(f"mask has shape {tuple(mask.shape)}; expected (rows, T) = {tuple(frames.shape[:2])}")
    if not bool(mask.any(1).all()):
        row = int((~mask.any(1)).nonzero()[0])
        raise DataError(f"mask: clip {row} has no known frame")
    return None if bool(mask.all()) else mask


def _mean_colour(frames: Tensor) -> list[float]:
    found = pixels(frames[:: max(1, len(frames) // 256)])
    assert found is not None
    return [float(v) for v in found.mean((0, 1, 3, 4))]


def _positive(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number from 1 on")


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode, then the mode as found."""
    before = [[m for m in module.modules() if m.training] for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for found in before:
            for m in found:
                m.training = True


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Random numbers of one's own, where a seed is given."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
