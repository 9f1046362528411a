"""Configuration of VDSM, the video model that separates identity, action and pose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from phlogiston.errors import ConfigError
from phlogiston.systems.limits import at_least, positive

SUMMARY = "video: who, which action and the pose per frame, without labels; swap, continue, fill in, invent clips"
PAPER = "Vowels, Camgoz, Bowden, VDSM: Unsupervised Video Disentanglement, CVPR 2021, arXiv 2103.07292"


@dataclass(frozen=True)
class Config:
    """Every option of the system.

    Attributes:
        experts: `K`, size of the identity code and number of decoders blended.
        pose: size of the pose of a frame.
        dynamics: size of the dynamics code of a clip.
        encoder: "blur" convolves at full size and halves without aliasing, "strided" halves by the convolution.
        encoder_widths: channels after each halving down to 4 x 4. Frames with more halvings repeat the last, those with
            fewer go without it.
        features: of an encoded frame.
        decoder_widths: channels from 4 x 4 up, without those of the frames. Frames with more doublings repeat the
            first, those with fewer go without it.
        bank: "full" decoders per expert, or "lowrank" changes of a common one.
        rank: of the changes.
        shared_layers: of the decoder, the first that all individuals share; 0: none, as published. The others are
            blended by the identity. Shared layers see the pose alone: it has to say where things are, and the identity
            what they look like, which is what keeps the action out of the identity where nothing else does.
        segments: parts of one colour each that frames are made of; 0: none, as published. The pose says where each is,
            the identity holds its colour, read from the clip by least squares. With `experts=1` that is all it holds;
            more experts blend the shapes.
        tie_segments: after stage 1, draw two segments in one colour where clips are then explained as well; see
            `systems.vdsm.ties`.
        tie_steps: of the stages in which that is tried.
        basis: pictures that frames are sums of, besides one that everybody shares; 0: none, as published. The pose
            makes the pictures, the identity holds by how much each counts, read from the clip by least squares. Takes
            the place of experts: `experts=1`.
        route: "grouped" or "gemm": how all clips are decoded at once.
        recurrent: units of the LSTMs.
        layers: of the LSTMs.
        dropout: between layers of the reading LSTM.
        transition: hidden units of the transition; as many as `recurrent` if 0.
        identity: "continuous" blends experts, "discrete" chooses one and is summed out, "relaxed" chooses one with
            gradients straight through.
        likelihood: of a pixel given its logit: "bernoulli", "continuous_bernoulli" or "normal" (given its mean's).
        chain: "fused": one site `pose` per clip, event (T, Z); "sites": `pose_0`, `pose_1`, ..., event (Z,) each.
        pose_guide: "bottleneck": poses are inferred from the dynamics code alone; "smoothing": from the clip, too.
        pool: how frames are pooled to the identity: "mean" averages locations and scales, "product" multiplies the
            frames' Gaussians, so that more frames say more.
        identity_share: in stage 1 the identity is read from a random share of the known frames, at least one, and all
            are explained with it, so that it cannot hold what differs between frames; from pairs it is read from so
            many frames of the partner instead.
        identity_frames: of clips without partners, the frames the identity is read from in stage 1: a share of the
            "drawn" ones, or as many "others" of the same clip. What is to help there has to be seen all through a clip.
        pair_within_group: read the identity from another clip of the same individual: weak supervision, for which the
            data have to say who is who (`group`). Labels are never used without it. None, in runs of earlier versions:
            no, in a new one.
        agreement: weight of a cost, in nats, for reading different identities from the two clips of a pair: half the
            squared distance of the locations in units of the prior's scale. Without it traces of the action too faint
            to matter to the decoder remain in the code.
        recolour: how strongly frames are recoloured at random before stage 1 reads poses from them, while identities
            are read from frames as they are and frames as they are have to be explained: what is known beforehand, that
            colours belong to who is seen and not to what they do. 0 for data of which it is not known.
        frames_per_clip: frames drawn per clip in stage 1; 0 for all.
        steps: of stage 1, frames and identities.
        batch_size: clips (or pairs) per step of stage 1.
        learning_rate: of stage 1.
        warm_steps: of the latent warm start of stage 2, without pixels.
        warm_batch: clips per step of it.
        warm_learning_rate: of it.
        sequence_steps: of stage 2 on pixels.
        sequence_batch: clips per step of it.
        sequence_learning_rate: of it.
        finetune_steps: of a joint stage 3 with everything trainable, all weights 1 and a tenth of the rate; 0 for none.
        warmup: steps over which each stage's rate rises.
        cooldown: last share of each stage with a lower rate.
        cooldown_factor: by how much.
        temperature: `tau` of the blend in stage 1: start, end, and the share of the stage the change takes. The end
            holds from then on.
        identity_weight: of the identity's divergence in stage 1: start, end, share. A clip's identity costs once what
            its frames gain together: where a quarter of them is drawn, a quarter is the right weight.
        pose_weight: of the poses' divergence in stage 1: four values.
        pose_places: where the two values in the middle lie, as shares of the stage.
        sequence_pose_weight: the same in stage 2: four values.
        sequence_pose_places: where its two values in the middle lie.
        dynamics_weight: of the dynamics' divergence in stage 2: start, end, share.
        curve: how the four values are joined: "quadratic", a spline that overshoots, as published, or "pchip".
        epochs: values of the schedules change once per so many equal parts of a stage; 0: at every step.
        stage1: a run folder (or saved system) whose frame encoder and decoder are taken instead of training stage 1.
        clip: largest gradient norm.
        judge_epochs: passes over the training clips of the judge that `evaluate` trains; 0: without a judge, unless one
            of its groups is requested.
        aggregate: components of the mixtures fitted to the training clips' codes, for `prior="aggregate"`; 0 for none.
    """

    experts: int = 12
    pose: int = 16
    dynamics: int = 16
    encoder: Literal["blur", "strided"] = "strided"
    encoder_widths: tuple[int, ...] = (24, 32, 48)
    features: int = 128
    decoder_widths: tuple[int, ...] = (96, 48, 24)
    bank: Literal["full", "lowrank"] = "full"
    rank: int = 4
    shared_layers: int = 0
    segments: int = 0
    tie_segments: bool = False
    tie_steps: int = 400
    basis: int = 0
    route: Literal["grouped", "gemm"] = "grouped"
    recurrent: int = 96
    layers: int = 1
    dropout: float = 0.0
    transition: int = 0
    identity: Literal["continuous", "discrete", "relaxed"] = "continuous"
    likelihood: Literal["bernoulli", "continuous_bernoulli", "normal"] = "bernoulli"
    chain: Literal["fused", "sites"] = "fused"
    pose_guide: Literal["bottleneck", "smoothing"] = "bottleneck"
    pool: Literal["mean", "product"] = "mean"
    identity_share: float = 0.5
    identity_frames: Literal["drawn", "others"] = "drawn"
    pair_within_group: bool | None = False
    agreement: float = 5.0
    recolour: float = 0.0
    frames_per_clip: int = 4
    steps: int = 3_200
    batch_size: int = 20
    learning_rate: float = 3e-3
    warm_steps: int = 1_500
    warm_batch: int = 64
    warm_learning_rate: float = 3e-3
    sequence_steps: int = 200
    sequence_batch: int = 16
    sequence_learning_rate: float = 1e-3
    finetune_steps: int = 0
    warmup: int = 20
    cooldown: float = 0.2
    cooldown_factor: float = 0.3
    temperature: tuple[float, float, float] = (3.0, 10.0, 0.4)
    identity_weight: tuple[float, float, float] = (0.05, 0.25, 1 / 3)
    pose_weight: tuple[float, float, float, float] = (8.0, 2.0, 1.0, 1.0)
    pose_places: tuple[float, float] = (0.1, 0.3)
    sequence_pose_weight: tuple[float, float, float, float] = (0.1, 0.4, 0.4, 1.0)
    sequence_pose_places: tuple[float, float] = (0.5, 0.8)
    dynamics_weight: tuple[float, float, float] = (0.1, 1.0, 1.0)
    curve: Literal["quadratic", "pchip"] = "pchip"
    epochs: int = 0
    stage1: str = ""
    clip: float = 5000.0
    judge_epochs: int = 80
    aggregate: int = 16

    def __post_init__(self) -> None:
        at_least(
            self, 1, "experts", "pose", "dynamics", "features", "rank", "recurrent", "layers", "batch_size",
            "warm_batch", "sequence_batch", "tie_steps",
        )  # fmt: skip
        at_least(self, 0 if self.stage1 else 1, "steps")
        at_least(
            self, 0, "warm_steps", "sequence_steps", "finetune_steps", "warmup", "epochs", "aggregate", "transition",
            "judge_epochs", "frames_per_clip", "agreement", "recolour", "shared_layers", "segments", "basis",
        )  # fmt: skip
        positive(self, "learning_rate", "warm_learning_rate", "sequence_learning_rate", "clip", "cooldown_factor")
        if not 0 < self.identity_share <= 1:
            raise ConfigError(f"identity_share must be above 0 and at most 1; got {self.identity_share}")
        if self.tie_segments and not self.segments:
            raise ConfigError("tie_segments needs segments; segments is 0")
        if not 0 <= self.cooldown < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(f"cooldown={self.cooldown}, dropout={self.dropout}; both must lie in [0, 1)")
        for name in ("temperature", "identity_weight", "dynamics_weight"):
            start, end, share = getattr(self, name)
            if min(start, end) < 0 or not 0 < share <= 1:
                raise ConfigError(f"{name} is {(start, end, share)}; expected two values from 0 on and a share up to 1")
        for name in ("pose_weight", "sequence_pose_weight"):
            if not min(getattr(self, name)) >= 0:
                raise ConfigError(f"{name} must not be negative; got {getattr(self, name)}")
        for name in ("pose_places", "sequence_pose_places"):
            first, second = getattr(self, name)
            if not 0 < first < second < 1:
                raise ConfigError(f"{name} must rise between 0 and 1; got {(first, second)}")
        for name in ("encoder_widths", "decoder_widths"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ConfigError(f"{name} needs at least one channel in every layer; got {getattr(self, name)}")


def down(widths: Sequence[int], size: int) -> tuple[int, ...]:
    """`encoder_widths` for frames of `size` pixels.

    Example:
        >>> down((24, 32, 48), 64), down((24, 32, 48), 16)
        ((24, 32, 48, 48), (24, 32))
    """
    halvings = max(1, int(math.log2(max(size, 8) / 4)))
    return (*widths, *[widths[-1]] * (halvings - len(widths)))[:halvings]


def up(widths: Sequence[int], size: int) -> tuple[int, ...]:
    """`decoder_widths` for frames of `size` pixels.

    Example:
        >>> up((96, 48, 24), 64), up((96, 48, 24), 16)
        ((96, 96, 48, 24), (48, 24))
    """
    return down(widths[::-1], size)[::-1]


# the sizes of the published program for frames of 64 pixels
_FULL: dict[str, Any] = {
    "encoder": "blur",
    "encoder_widths": (32, 32, 64, 64),
    "features": 256,
    "decoder_widths": (512, 256, 128, 64),
    "pose": 30,
    "dynamics": 50,
    "recurrent": 512,
    "layers": 3,
    "dropout": 0.2,
    "batch_size": 20,
    "sequence_batch": 20,
    "frames_per_clip": 0,
    "learning_rate": 1e-3,
    "sequence_learning_rate": 1e-3,
    "warm_steps": 0,
    "cooldown": 0.0,
    "identity_share": 1.0,
    "agreement": 0.0,
    "steps": 10_000,
    "sequence_steps": 10_000,
    "epochs": 200,
    "temperature": (1.0, 10.0, 0.5),
    "identity_weight": (0.1, 1.0, 1 / 3),
    "pose_weight": (30.0, 0.2, 0.4, 1.0),
    "pose_places": (0.5, 0.8),
    "curve": "quadratic",
}

# with another clip of the same individual to read the identity from, few frames of many individuals
PAIRS: dict[str, Any] = {
    "pair_within_group": True,
    "batch_size": 40,
    "frames_per_clip": 2,
    "identity_share": 1.0,
    "identity_weight": (0.025, 0.12, 1 / 3),
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # frames of 32 pixels, minutes on two cores
    "cpu-figures": {
        **PAIRS,
        "recolour": 1.0,
        "steps": 3_000,
        "cooldown": 0.3,
        "warm_steps": 2_500,
    },
    # frames made of segments of one colour each, unpaired, nothing told; three minutes on one core. A clip shows one
    # view: nothing ties the segments of a front to those of a profile, except that all grow from the same blobs while
    # poses are dear. At a weight of 8 they are cheap against pixels at once, and fronts may get other segments
    "cpu-segments": {
        "experts": 1,
        "segments": 7,
        "tie_segments": True,
        "likelihood": "normal",
        "decoder_widths": (96, 48, 32),
        "frames_per_clip": 2,
        "identity_share": 1.0,
        "identity_weight": (0.1, 0.1, 1.0),
        "agreement": 0.0,
        "pose_weight": (200.0, 20.0, 1.0, 1.0),
        "pose_places": (0.15, 0.4),
        "steps": 2_000,
        "cooldown": 0.3,
        "warm_steps": 1_500,
        "sequence_steps": 100,
    },
    # individuals of several shapes: frames of 32 pixels as sums of pictures, on pairs
    "cpu-basis": {
        **PAIRS,
        "experts": 1,
        "basis": 24,
        "pose": 20,
        "likelihood": "normal",
        "decoder_widths": (96, 64, 32),
        "agreement": 0.0,
        "batch_size": 16,
        "identity_weight": (0.1, 0.1, 1.0),
        "steps": 900,
        "cooldown": 0.3,
        "warm_steps": 600,
        "sequence_steps": 40,
    },
    # the same for frames of 64 pixels, half an hour on one core with 300 characters. A step of 16 clips takes three
    # times as long as one of 8; pictures too coarse for what differs leave it to the pose, as do poses of more numbers
    "cpu-basis-64": {
        **PAIRS,
        "experts": 1,
        "basis": 24,
        "pose": 8,
        "likelihood": "normal",
        "encoder_widths": (24, 32, 48, 64),
        "decoder_widths": (256, 192, 128, 32),
        "agreement": 0.0,
        "batch_size": 8,
        "learning_rate": 2e-3,
        "identity_weight": (0.1, 0.1, 1.0),
        "steps": 5_400,
        "cooldown": 0.4,
        "cooldown_factor": 0.15,
        "warm_steps": 600,
        "sequence_steps": 40,
    },
    # chains that continue for longer than the training clips: poses from the clip, what follows from the transitions.
    # Transitions are learned from inferred poses, and uncertainty about a pose damps the swings: poses have to be sharp
    "cpu-pendulum": {
        "pose_guide": "smoothing",
        "pose_weight": (8.0, 2.0, 0.25, 0.25),
        "steps": 800,
        "cooldown": 0.3,
        "warm_steps": 5_000,
        "sequence_steps": 200,
    },
    "cpu-sprites": {
        **PAIRS,
        "experts": 16,
        "pose": 20,
        "decoder_widths": (96, 64, 32),
        "steps": 3_200,
        "warm_steps": 1_000,
        "sequence_steps": 100,
        "judge_epochs": 6,
    },
    # a minute on one core: enough to see it, not to measure it
    "cpu-demo": {
        "steps": 300,
        "warm_steps": 150,
        "sequence_steps": 40,
        "batch_size": 32,
        "encoder_widths": (16, 24, 32),
        "decoder_widths": (64, 32, 16),
        "aggregate": 8,
        "judge_epochs": 0,
    },
    # what the paper's scripts set: 50 batches in each of 200 or 250 epochs
    "mug": {**_FULL, "experts": 15, "steps": 12_500, "epochs": 250},
    "sprites": {**_FULL, "experts": 40, "pair_within_group": True},
    # what the program's first description set
    "seed": {
        **_FULL,
        "experts": 15,
        "batch_size": 50,
        "frames_per_clip": 16,
        "learning_rate": 5e-4,
        "steps": 10_000,
        "sequence_steps": 5_000,
        "temperature": (1.0, 9.95, 1 / 3),
        "identity_weight": (0.01, 1.0, 0.5),
        "pose_weight": (30.0, 0.4, 0.4, 1.0),
        "sequence_pose_weight": (30.0, 0.8, 0.8, 1.0),
        "sequence_pose_places": (0.7, 0.8),
        "dynamics_weight": (0.1, 0.6, 1.0),
    },
}
PRESETS["figures"] = PRESETS["cpu-figures"]
PRESETS["pendulum"] = PRESETS["cpu-pendulum"]
