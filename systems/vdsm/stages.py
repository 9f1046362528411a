"""The stages VDSM is trained in, with their schedules and the programs each runs, and stage 1 of another run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from phlogiston.errors import ConfigError, RunError
from phlogiston.guides.vdsm import FrameGuide, LatentGuide, VDSMGuide
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.handlers import setting
from phlogiston.inference.svi.schedules import Schedule, four_point, half_cosine, piecewise
from phlogiston.models.vdsm import VDSM as VDSMModel
from phlogiston.models.vdsm import FrameModel, LatentModel
from phlogiston.systems.vdsm.config import Config
from phlogiston.systems.vdsm.training import Clips, Codes, DrawFrames, plain

if TYPE_CHECKING:
    from phlogiston.systems.vdsm.system import VDSM

FRAME_PARTS = ("decoder.*", "noise")  # of the model, what stage 1 trains
ENCODER_PARTS = ("encoder.*", "pose_head.*", "identity_head.*", "identity_loc.*", "identity_scale.*")  # of the guide


def stages(system: VDSM, parts: list[Clips]) -> list[Stage]:
    """Frames; then, on frozen parts, sequences: first of codes, then of pixels; then everything, if asked for.

    Args:
        system: built, not yet trained.
        parts: every set of clips it will see.

    Raises:
        ConfigError: every stage has 0 steps.
    """
    c = system.config
    poses = ["pose"] if c.chain == "fused" else [f"pose_{t}" for t in range(system.schema["length"])]
    objective: Any = "mean_field"
    if c.identity == "discrete":
        objective = objectives.make("enum", max_plate_nesting=2)
    rate = partial(plateaus, c)
    tau = setting(system.model, "temperature", c.temperature[1])
    frames = [f"model.{part}" for part in FRAME_PARTS if not (part == "noise" and c.likelihood != "normal")]
    encoder = [f"guide.{p}" for p in ENCODER_PARTS if not (p[:14] == "identity_scale" and c.identity != "continuous")]
    chain = ["guide.summary.*", "guide.dynamics_head.*", "guide.run.*", "guide.before", "guide.from_pose.*"]
    chain += ["guide.from_state.*", "guide.step_loc.*", "guide.step_scale.*", "model.transition.*"]
    anneal = {
        "scale.dynamics": half_cosine(*c.dynamics_weight, c.epochs),
        **dict.fromkeys(
            (f"scale.{pose}" for pose in poses),
            four_point(*c.sequence_pose_weight, c.sequence_pose_places, c.curve, epochs=c.epochs),
        ),
    }
    codes = Codes(system.guide, parts)
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


def plateaus(config: Config, steps: int) -> Schedule:
    """A short rise, a plateau, and a lower plateau at the end; as factors of the stage's rate."""
    c = config
    rise = min(0.5, c.warmup / steps)
    points = [(0.0, 0.05 if rise else 1.0), (rise, 1.0)] if rise else [(0.0, 1.0)]
    if c.cooldown:
        points += [(1.0 - c.cooldown, 1.0), (1.0 - c.cooldown, c.cooldown_factor), (1.0, c.cooldown_factor)]
    return piecewise(points)


def adopt(system: VDSM, run: str | Path) -> None:
    """Take frame encoder and decoder from another VDSM.

    Args:
        system: built; the parts are put into it.
        run: a run folder, or what `save` wrote.

    Raises:
        RunError: not a VDSM, or one of another form; the message says what differs.
    """
    from phlogiston import systems
    from phlogiston.systems.vdsm.system import VDSM

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
    pairs = [(n, other.schema[n], system.schema[n]) for n in ("channels", "size")]
    pairs += [(n, getattr(other.config, n), getattr(system.config, n)) for n in names]
    pairs += [("temperature", other.config.temperature[1], system.config.temperature[1])]
    for name, theirs, ours in pairs:
        if theirs != ours:
            raise RunError(f"stage1={str(run)!r} has {name} {theirs}, this configuration {ours}; they must agree")
    for own, given, parts in (
        (system.model, other.model, FRAME_PARTS), (system.guide, other.guide, ENCODER_PARTS),
    ):  # fmt: skip
        state = {k: v for k, v in given.state_dict().items() if k.split(".")[0] in {p.split(".")[0] for p in parts}}
        own.load_state_dict(state, strict=False)


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
