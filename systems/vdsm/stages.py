"""The stages VDSM is trained in, with their schedules and the programs each runs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from phlogiston.errors import ConfigError
from phlogiston.guides.vdsm import FrameGuide, LatentGuide, VDSMGuide
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.handlers import setting
from phlogiston.inference.svi.schedules import Schedule, constant, four_point, half_cosine, piecewise
from phlogiston.models.vdsm import VDSM as VDSMModel
from phlogiston.models.vdsm import FrameModel, LatentModel
from phlogiston.systems.vdsm.config import Config
from phlogiston.systems.vdsm.ties import stage_names
from phlogiston.systems.vdsm.training import Codes, DrawFrames, plain

FRAME_PARTS = ("decoder.*", "noise")  # of the model, what stage 1 trains
# of the guide
ENCODER_PARTS = (
    "encoder.*", "pose_head.*", "identity_head.*", "identity_loc.*", "identity_scale.*", "read_noise",
)  # fmt: skip


def stages(c: Config, model: VDSMModel, guide: VDSMGuide, length: int) -> list[Stage]:
    """Frames, and ties; then, on frozen parts, sequences: of codes, then of pixels; then everything, where configured.

    Args:
        c: the configuration.
        model, guide: the pair, not yet trained.
        length: frames of a training clip.

    Raises:
        ConfigError: every stage has 0 steps.
    """
    poses = ["pose"] if c.chain == "fused" else [f"pose_{t}" for t in range(length)]
    objective: Any = "mean_field"
    if c.identity == "discrete":
        objective = objectives.make("enum", max_plate_nesting=2)
    rate = partial(plateaus, c)
    tau = setting(model, "temperature", c.temperature[1])
    frames = [f"model.{part}" for part in FRAME_PARTS if not (part == "noise" and c.likelihood != "normal")]
    absent = {"identity_scale.*": c.identity != "continuous", "read_noise": not c.segments and not c.basis}
    if not model.blended:
        absent = {**absent, **dict.fromkeys(("identity_head.*", "identity_loc.*", "identity_scale.*"), True)}
    encoder = [f"guide.{part}" for part in ENCODER_PARTS if not absent.get(part)]
    chain = ["guide.summary.*", "guide.dynamics_head.*", "guide.run.*", "guide.before", "guide.from_pose.*"]
    chain += ["guide.from_state.*", "guide.step_loc.*", "guide.step_scale.*", "model.transition.*"]
    anneal = {
        "scale.dynamics": half_cosine(*c.dynamics_weight, c.epochs),
        **dict.fromkeys(
            (f"scale.{pose}" for pose in poses),
            four_point(*c.sequence_pose_weight, c.sequence_pose_places, c.curve, epochs=c.epochs),
        ),
    }
    codes = Codes(guide)
    result: list[Stage] = []
    if not c.stage1:
        first = Stage(
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
            transform=DrawFrames(c.frames_per_clip, c.identity_share, c.recolour, c.identity_frames == "others"),
        )  # fmt: skip
        result += [first, *(tie_stages(first, c.tie_steps) if c.tie_segments else ())]
    if c.warm_steps:
        result.append(
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
        result.append(
            Stage(
                "sequences", c.sequence_steps, objective, "adam", c.sequence_learning_rate, c.sequence_batch,
                tuple(chain), {"learning_rate": rate(c.sequence_steps), **anneal}, c.clip, transform=codes,
            )
        )  # fmt: skip
    if c.finetune_steps:
        result.append(
            Stage(
                "all", c.finetune_steps, objective, "adam", 0.1 * c.sequence_learning_rate, c.sequence_batch,
                ("*",), {"learning_rate": rate(c.finetune_steps)}, c.clip, transform=plain,
            )
        )  # fmt: skip
    if not result:
        raise ConfigError("there is nothing to train: every stage has 0 steps")
    return result


def tie_stages(first: Stage, steps: int) -> list[Stage]:
    """Stages that go on as the first one ends, in each of which a tie of segments is tried; `steps` in all."""
    ends = {key: constant(schedule(1.0)) for key, schedule in first.schedules.items()}
    return [replace(first, name=name, steps=count, schedules=ends) for name, count in stage_names(steps).items()]


def plateaus(config: Config, steps: int) -> Schedule:
    """A short rise, a plateau, and a lower plateau at the end; as factors of the stage's rate."""
    c = config
    rise = min(0.5, c.warmup / steps)
    points = [(0.0, 0.05 if rise else 1.0), (rise, 1.0)] if rise else [(0.0, 1.0)]
    if c.cooldown:
        points += [(1.0 - c.cooldown, 1.0), (1.0 - c.cooldown, c.cooldown_factor), (1.0, c.cooldown_factor)]
    return piecewise(points)


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
