"""Tables of VDSM: figures of merit by one protocol on held-out clips, pictures, views and example queries.

1. A judge is trained on real training clips only; its own accuracy on real held-out clips comes first.
2. Consistency: does the judge say of a regenerated clip what the labels (and it itself) say of the real one?
3. Swap: the person of clip j in the action of clip i must have the attributes of j and the action of i.
4. Samples from the prior: how certain the judge is (intra-entropy), how varied they are (inter-entropy).
5. Probes: what a linear classifier reads from each code, and the level of chance.
6. Fréchet distance between features of the judge, real against regenerated and against sampled clips.
7. Reconstruction error above the entropy of the grey targets, which no model can go below.

All but the error and the log-likelihood need a dataset with labels; the log-likelihood is computed on request. With
`judge_epochs=0` in the configuration no judge is trained unless one of its groups is requested.
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
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.query.evidence import Known
from phlogiston.networks.frame_encoder import pixels
from phlogiston.systems.evaluation import Evaluation
from phlogiston.systems.vdsm.pictures import VIEWS, samples_figure, strips_figure, swap_figure
from phlogiston.systems.vdsm.system import VDSM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXAMPLE_QUERIES", "FIGURES", "METRICS", "ON_REQUEST", "VIEWS"]

DYNAMIC = "action"  # the label that belongs to the dynamics; all others belong to the identity
JUDGE = JudgeConfig(
    epochs=80, batch_size=32, widths=(24, 48, 64), features=96, learning_rate=3e-3, halving="stride", over_time="mean",
    gamma=0.5, glimpse=0.5,
)  # fmt: skip


def labels_of(system: VDSM, split: Split) -> dict[str, Tensor]:
    """Labels of clips by factor: every categorical column of the data."""
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


# ----- what the metrics share -------------------------------------------------------------------------------------


def _clips(e: Evaluation[VDSM]) -> tuple[Tensor, Tensor | None]:
    """Frames and mask of the clips to score."""
    return e.once("clips", lambda: e.system.clips(e.rows))


def _labelled(e: Evaluation[VDSM], group: str, judged: bool = True) -> Dataset | None:
    """The data set, if a group of metrics that needs labels (and `judged`, a judge) is to be computed.

    Raises:
        ConfigError: the group was requested, and the data have no labels.
    """
    if e.dataset is None or not labels_of(e.system, e.rows):
        if group in e.requested:
            raise ConfigError(f"{group} needs a dataset with labels in training and held-out rows")
        return None
    return e.dataset if group in e.requested or e.system.config.judge_epochs or not judged else None


def _judge(e: Evaluation[VDSM], data: Dataset) -> Judge:
    config = replace(JUDGE, epochs=e.system.config.judge_epochs or JUDGE.epochs)
    return e.once("judge", lambda: judge_of_clips(data, labels_of(e.system, data.train), config))


def _regenerated(e: Evaluation[VDSM]) -> Tensor:
    return e.once("regenerated", lambda: e.system.reconstruct(e.rows))


def _sampled(e: Evaluation[VDSM]) -> dict[str, Tensor]:
    """At least 200 clips from each prior."""
    n = max(len(_clips(e)[0]), 200)
    priors: tuple[Any, ...] = ("standard", "aggregate") if e.system.config.aggregate else ("standard",)
    return e.once("sampled", lambda: {p: e.system.sample(n, prior=p, seed=e.seed)["frames"] for p in priors})


# ----- metrics ----------------------------------------------------------------------------------------------------


def log_likelihood(e: Evaluation[VDSM]) -> dict[str, Metric]:
    """Lower bound on the log density of clips, nats per known frame."""
    frames, mask = _clips(e)
    score = e.once("score", lambda: e.system.log_prob(e.rows, seed=e.seed))
    known = frames.shape[1] if mask is None else mask.sum(1)
    detail = {"unit": "nats per frame", "samples": 50}
    return {"log_likelihood": from_rows(score.value / known, "lower bound", True, detail)}


def judge(e: Evaluation[VDSM]) -> dict[str, Metric]:
    """Accuracy of the judge on real clips, and what it says of regenerated ones."""
    data = _labelled(e, "judge")
    if data is None:
        return {}
    judged, again = _judge(e, data), _regenerated(e)
    accuracy = judged.accuracy(again, labels_of(e.system, e.rows))
    return {
        **{f"judge_{name}": metric for name, metric in judged.held_out.items()},
        **{f"regenerated_{name}": metric for name, metric in accuracy.items()},
        **{f"consistency_{name}": metric for name, metric in judged.consistency(_clips(e)[0], again).items()},
    }


def swap(e: Evaluation[VDSM]) -> dict[str, Metric]:
    """Swap with a donor drawn at random for every clip: whose attributes, and which action, the judge sees."""
    data = _labelled(e, "swap")
    if data is None:
        return {}
    frames, labels = _clips(e)[0], labels_of(e.system, e.rows)
    donor = torch.randperm(len(frames), generator=torch.Generator().manual_seed(e.seed))
    made = e.system.swap(frames[donor], frames)
    expected = {name: (label if name == DYNAMIC else label[donor]) for name, label in labels.items()}
    results = {f"swap_{name}": metric for name, metric in _judge(e, data).accuracy(made, expected).items()}
    judged = _judge(e, data).predict(made)
    right = torch.stack([judged[name] == expected[name] for name in expected if name != DYNAMIC]).all(0)
    results["swap_whole_identity"] = from_rows(right.double(), "estimate", True)
    return results


def rollout(e: Evaluation[VDSM]) -> dict[str, Metric]:
    """Does the action last when the prior's transitions run on from the first pose?"""
    data, labels = _labelled(e, "rollout"), labels_of(e.system, e.rows)
    if data is None or DYNAMIC not in labels:
        return {}
    made = e.system.rollout(e.rows, _clips(e)[0].shape[1])
    return {f"rollout_{DYNAMIC}": _judge(e, data).accuracy(made, {DYNAMIC: labels[DYNAMIC]})[DYNAMIC]}


def samples(e: Evaluation[VDSM]) -> dict[str, Metric]:
    """How certain the judge is of clips from each prior, and how varied they are."""
    data = _labelled(e, "samples")
    if data is None:
        return {}
    return {
        f"{prior}_{name}": metric
        for prior, drawn in _sampled(e).items()
        for name, metric in _judge(e, data).entropies(drawn).items()
    }


def fvd(e: Evaluation[VDSM]) -> dict[str, Metric]:
    """Fréchet distances of clips from each prior and of regenerated clips to real ones."""
    data = _labelled(e, "fvd")
    if data is None:
        return {}
    made = {**_sampled(e), "regenerated": _regenerated(e)}
    return {f"fvd_{name}": frechet_distance(_judge(e, data), _clips(e)[0], clips) for name, clips in made.items()}


def error(e: Evaluation[VDSM]) -> dict[str, Metric]:
    """Cross-entropy of reconstructions above the floor, nats per value, and squared error, by mode."""
    results = {}
    frames, mask = _clips(e)
    target = pixels(frames)
    assert target is not None
    weight = torch.ones(frames.shape[:2]) if mask is None else mask.float()
    floor = entropy_floor(frames)
    made = {"frame": e.system.reconstruct(e.rows, "frame"), "sequence": _regenerated(e)}
    for mode, clips in made.items():
        means = clips.clamp(1e-6, 1 - 1e-6)
        cross = F.binary_cross_entropy(means, target, reduction="none").mean((2, 3, 4))
        rows = ((cross - floor) * weight).sum(1) / weight.sum(1)
        detail = {"unit": "nats per value above the entropy of the targets", "floor": float(floor.mean())}
        results[f"excess_{mode}"] = from_rows(rows, "estimate", False, detail)
        squared = ((means - target).square().mean((2, 3, 4)) * weight).sum(1) / weight.sum(1)
        results[f"mse_{mode}"] = from_rows(squared, "estimate", False)
    return results


def probes(e: Evaluation[VDSM]) -> dict[str, Metric]:
    """Probe identity, dynamics and the time-averaged pose for every label, and give the level of chance."""
    data = _labelled(e, "probes", judged=False)
    if data is None:
        return {}
    codes = {part: e.system.encode(rows) for part, rows in (("train", data.train), ("test", e.rows))}
    for code in codes.values():
        code["pose_mean"] = code["pose_loc"].mean(1)
    results: dict[str, Metric] = {}
    chance: dict[str, Metric] = {}
    for name, key in (("identity", "identity_loc"), ("dynamics", "dynamics_loc"), ("pose", "pose_mean")):
        for factor, label in labels_of(e.system, e.rows).items():
            probed = linear_probe(codes["train"][key], data.train.tensors[factor], codes["test"][key], label)
            results[f"probe_{name}_{factor}"] = probed["accuracy"]
            chance[f"chance_{factor}"] = probed["chance"]
    return {**results, **chance}


def entropy_floor(frames: Tensor) -> Tensor:
    """Least cross-entropy any Bernoulli can have on grey targets, nats per value, (rows, T)."""
    x = pixels(frames)
    assert x is not None
    return (torch.special.entr(x) + torch.special.entr(1.0 - x)).mean((2, 3, 4))


def frechet_distance(judge: Judge, real: Tensor, made: Tensor) -> Metric:
    """Fréchet distance between the judge's features of as many real and made clips."""
    n = min(len(real), len(made))
    features = []
    for clips in (real[:n], made[:n]):
        rows = clips if clips.dtype == torch.uint8 else (clips.clamp(0, 1) * 255).round().to(torch.uint8)
        with torch.inference_mode():
            features.append(torch.cat([judge(block) for block in rows.split(200)]).clone())
    value = frechet_from_features(*features)
    return Metric(value, frechet_std_error(features[0], features[1]), n, "estimate", False, judge.describe())


METRICS = {
    "error": error,
    "probes": probes,
    "judge": judge,
    "swap": swap,
    "rollout": rollout,
    "samples": samples,
    "fvd": fvd,
    "log_likelihood": log_likelihood,
}
ON_REQUEST = {"log_likelihood"}


# ----- pictures and questions -------------------------------------------------------------------------------------


def who_times_how(e: Evaluation[VDSM]) -> Figure:
    """People (top row, framed) in the actions of others (left column, framed): whoever stands in a column should be the
    person at its top, doing what the row does. None of the pictures inside the frames was ever seen.
    """
    return swap_figure(e.system, e.rows)


def strips(e: Evaluation[VDSM]) -> Figure:
    """Clips over time, and below each what the model makes of it: with a pose read off every frame, from the code of
    the action alone, by its own dynamics from the first pose, and from the first half. All should keep the person and
    go on with the action.
    """
    return strips_figure(e.system, e.rows)


def invented(e: Evaluation[VDSM]) -> Figure:
    """Clips that nobody filmed, one a row: each should show one person throughout, in a smooth action."""
    return samples_figure(e.system)


FIGURES = {
    "who times how": who_times_how,
    "clips and what is made of them": strips,
    "invented clips": invented,
}
LOSS_UNIT = "nats per clip"


def who_is_seen(e: Evaluation[VDSM]) -> tuple[str, Answer]:
    """Clips of one person, all else left open."""
    who = e.system.encode(e.rows)["identity_loc"][0]
    return "who is seen", e.system.query({"identity": Known(who)}, ask=["frames"], num_samples=8, seed=e.seed)


EXAMPLE_QUERIES = [who_is_seen]
