"""Figures of merit of VDSM, by one protocol on held-out clips.

1. A judge is trained on real training clips only; its own accuracy on real held-out clips comes first.
2. Consistency: does the judge say of a regenerated clip what the labels (and it itself) say of the real one?
3. Swap: the person of clip j in the action of clip i must have the attributes of j and the action of i.
4. Samples from the prior: sure (intra-entropy), varied (inter-entropy), and their difference.
5. Probes: what can be read off each code along a straight line, beside what guessing gives.
6. Fréchet distance between features of the judge, real against regenerated and against sampled clips.
7. Reconstruction error above the entropy of the grey targets, which no model can go below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from phlogiston.datasets.base import Dataset, Split
from phlogiston.errors import ConfigError
from phlogiston.evaluate.frechet import frechet_from_features, frechet_std_error
from phlogiston.evaluate.held_out import held_out
from phlogiston.evaluate.judge import Judge, JudgeConfig, train_judge
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.evaluate.probe import linear_probe
from phlogiston.networks.frame_encoder import pixels
from phlogiston.systems.vdsm.pictures import split_of

if TYPE_CHECKING:
    from phlogiston.systems.vdsm.system import VDSM

ALL = ("judge", "error", "swap", "rollout", "samples", "probes", "fvd")
DYNAMIC = "action"  # the label that belongs to the dynamics; all others belong to the identity
JUDGE = JudgeConfig(
    epochs=80, batch_size=32, widths=(24, 48, 64), features=96, learning_rate=3e-3, halving="stride", over_time="mean",
    gamma=0.5, glimpse=0.5,
)  # fmt: skip


def labels_of(system: VDSM, split: Split) -> dict[str, Tensor]:
    """Labels of clips by factor: every categorical stream the data name."""
    return {name: split.tensors[name] for name in system.schema["categorical"] if name in split.tensors}


def judge_of_clips(data: Dataset, factors: Mapping[str, Tensor], config: JudgeConfig = JUDGE) -> Judge:
    """Train (or take from the cache) the judge of a data set of clips.

    Args:
        data: with labels in training and test rows.
        factors: the labels of the training rows.
        config: of the judge.
    """
    held = held_out(data)
    return train_judge(
        data.train.tensors["frames"],
        dict(factors),
        held.tensors["frames"],
        {name: held.tensors[name] for name in factors},
        config=config,
        data=data.meta.name,
    )


def evaluate(system: VDSM, data: Any, metrics: set[str] | None) -> dict[str, Metric]:
    """See `VDSM.evaluate`."""
    held = split_of(data)
    labels = labels_of(system, held)
    can_judge = isinstance(data, Dataset) and bool(labels)
    usual = set(ALL) if system.config.judge_epochs else {"error", "probes"}
    wanted = metrics or (usual if can_judge else {"error"})
    needy = wanted - {"error", "log_likelihood"}
    if needy and not can_judge:
        raise ConfigError(f"{sorted(needy)[0]} needs a dataset with labels in training and held-out rows")
    found: dict[str, Metric] = {}
    frames, mask = system._clips(held)
    if "error" in wanted:
        found.update(errors(system, frames, mask))
    if "probes" in wanted:
        found.update(probes(system, data, held))
    if needy - {"probes"}:
        judging = replace(JUDGE, epochs=system.config.judge_epochs or JUDGE.epochs)
        judge = judge_of_clips(data, labels_of(system, data.train), judging)
        again = system.reconstruct(held)
        if "judge" in wanted:
            found.update({f"judge_{name}": metric for name, metric in judge.held_out.items()})
            found.update({f"regenerated_{name}": m for name, m in judge.accuracy(again, labels).items()})
            found.update({f"consistency_{name}": m for name, m in judge.consistency(frames, again).items()})
        if "swap" in wanted:
            found.update(swaps(system, frames, labels, judge))
        if "rollout" in wanted and DYNAMIC in labels:
            made = system.rollout(held, frames.shape[1])
            found[f"rollout_{DYNAMIC}"] = judge.accuracy(made, {DYNAMIC: labels[DYNAMIC]})[DYNAMIC]
        if "samples" in wanted:
            for prior in ("standard", "aggregate") if system.config.aggregate else ("standard",):
                drawn = system.sample(max(len(frames), 200), prior=prior, seed=0)["frames"]
                found.update({f"{prior}_{name}": m for name, m in judge.entropies(drawn).items()})
                if "fvd" in wanted:
                    found[f"fvd_{prior}"] = fvd(judge, frames, drawn)
        if "fvd" in wanted:
            found["fvd_regenerated"] = fvd(judge, frames, again)
    if "log_likelihood" in wanted:
        score = system.log_prob({"frames": frames, **({} if mask is None else {"mask": mask})})
        known = frames.shape[1] if mask is None else mask.sum(1)
        detail = {"unit": "nats per frame", "samples": 50}
        found["log_likelihood"] = from_rows(score.value / known, "lower bound", True, detail)
    return found


def entropy_floor(frames: Tensor) -> Tensor:
    """Least cross-entropy any Bernoulli can have on grey targets, nats per value, (rows, T)."""
    x = pixels(frames)
    assert x is not None
    return (torch.special.entr(x) + torch.special.entr(1.0 - x)).mean((2, 3, 4))


def errors(system: VDSM, frames: Tensor, mask: Tensor | None) -> dict[str, Metric]:
    """Cross-entropy of reconstructions above the floor, nats per value, and squared error, by mode."""
    found = {}
    target = pixels(frames)
    assert target is not None
    weight = torch.ones(frames.shape[:2]) if mask is None else mask.float()
    floor = entropy_floor(frames)
    for mode in ("frame", "sequence"):
        made = system.reconstruct({"frames": frames, **({} if mask is None else {"mask": mask})}, mode).clamp(
            1e-6, 1 - 1e-6
        )
        cross = F.binary_cross_entropy(made, target, reduction="none").mean((2, 3, 4))
        rows = ((cross - floor) * weight).sum(1) / weight.sum(1)
        detail = {"unit": "nats per value above the entropy of the targets", "floor": float(floor.mean())}
        found[f"excess_{mode}"] = from_rows(rows, "estimate", False, detail)
        squared = ((made - target).square().mean((2, 3, 4)) * weight).sum(1) / weight.sum(1)
        found[f"mse_{mode}"] = from_rows(squared, "estimate", False)
    return found


def swaps(system: VDSM, frames: Tensor, labels: Mapping[str, Tensor], judge: Judge) -> dict[str, Metric]:
    """Swap with a donor drawn at random for every clip: whose attributes, and which action, the judge sees."""
    donor = torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))
    made = system.swap(frames[donor], frames)
    wanted = {name: (label if name == DYNAMIC else label[donor]) for name, label in labels.items()}
    found = {f"swap_{name}": metric for name, metric in judge.accuracy(made, wanted).items()}
    judged = judge.predict(made)
    right = torch.stack([judged[name] == wanted[name] for name in wanted if name != DYNAMIC]).all(0)
    found["swap_whole_identity"] = from_rows(right.double(), "estimate", True)
    return found


def probes(system: VDSM, data: Dataset, held: Split) -> dict[str, Metric]:
    """Probe identity, dynamics and the time-averaged pose for every label, and give the level of chance."""
    codes = {part: system.encode(rows) for part, rows in (("train", data.train), ("test", held))}
    for found in codes.values():
        found["pose_mean"] = found["pose_loc"].mean(1)
    out: dict[str, Metric] = {}
    chance: dict[str, Metric] = {}
    for code, key in (("identity", "identity_loc"), ("dynamics", "dynamics_loc"), ("pose", "pose_mean")):
        for name, label in labels_of(system, held).items():
            probed = linear_probe(codes["train"][key], data.train.tensors[name], codes["test"][key], label)
            out[f"probe_{code}_{name}"] = probed["accuracy"]
            chance[f"chance_{name}"] = probed["chance"]
    return {**out, **chance}


def fvd(judge: Judge, real: Tensor, made: Tensor) -> Metric:
    """Fréchet distance between the judge's features of as many real and made clips."""
    n = min(len(real), len(made))
    features = []
    for clips in (real[:n], made[:n]):
        rows = clips if clips.dtype == torch.uint8 else (clips.clamp(0, 1) * 255).round().to(torch.uint8)
        with torch.inference_mode():
            features.append(torch.cat([judge(block) for block in rows.split(200)]).clone())
    value = frechet_from_features(*features)
    return Metric(value, frechet_std_error(features[0], features[1]), n, "estimate", False, judge.describe())
