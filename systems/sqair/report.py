"""The tables of a SQAIR's report, `METRICS`, `FIGURES` and `EXAMPLE_QUERIES`: see `systems.evaluation`.

Groups of metrics; truth that is needed: `count` (videos, frames), `boxes` (videos, frames, objects, 4), `present`
(videos, frames, objects), `label` (videos, objects)::

    log_likelihood   the importance-weighted bound, nats per frame
    bound            the bound, log p(x | z), divergence, and the density of an empty picture, nats per frame
    count            accuracy of the posterior, of its mode, and of connected components: frame by frame, by the median
                     and by the maximum over time; over-counts; calibration
    tracking         MOTA, IDF1, identity switches per object and frame, share of matched objects, centre error, and the
                     shares of crossing pairs, and of objects hidden for some frames, that keep their identities
    prediction       errors of predicted centres, beside those of objects that stay where they are
    addition         the sum of the digits read off the sum of their codes
    places           the least energy of a slot that claims to hold an object
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.evaluate.tracking import Frame, count_accuracy, track_metrics
from phlogiston.inference.query.answer import Answer
from phlogiston.models.sqair import SQAIRModel
from phlogiston.networks.spatial import pixel_boxes
from phlogiston.systems.calls import seeded
from phlogiston.systems.evaluation import Evaluation, FigureFunction, MetricFunction
from phlogiston.systems.sqair import pictures, posterior
from phlogiston.systems.sqair.identities import CROSSING, HIDDEN, LONGEST, NEAR, crossings, hidings
from phlogiston.systems.sqair.posterior import Posterior
from phlogiston.systems.sqair.system import SQAIR
from phlogiston.systems.sqair.videos import checked, components, scaled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_PARTICLES = 5  # per video
BATCH = 64  # videos at a time
OBSERVED = 5  # frames seen before a prediction


# ---- what several groups need ----------------------------------------------------------------------------------------


def _videos(e: Evaluation[SQAIR]) -> Tensor:
    return e.once("videos", lambda: e.system.videos(e.rows))


def _posteriors(e: Evaluation[SQAIR]) -> list[Posterior]:
    """Posteriors of the videos, some at a time."""

    def compute() -> list[Posterior]:
        model, guide = e.system.model, e.system.guide
        with seeded(e.seed):
            batches = posterior.batches(_videos(e), None, BATCH)
            return [posterior.run(model, guide, x, NUM_PARTICLES, canvas=False) for x, _ in batches]

    return e.once("posteriors", compute)


# ---- metrics ---------------------------------------------------------------------------------------------------------


def log_likelihood(e: Evaluation[SQAIR]) -> dict[str, Metric]:
    """Importance-weighted bound, nats per frame."""
    return {"log_likelihood": _per_frame(e, torch.cat([p.bound() for p in _posteriors(e)]), "lower bound", True)}


def bound(e: Evaluation[SQAIR]) -> dict[str, Metric]:
    """The bound with its terms, and the density of the videos if nothing were there."""
    results = _posteriors(e)
    expected = torch.cat([(p.weights * p.log_likelihood).sum(0) for p in results]).double()
    mean = torch.cat([(p.weights * p.log_weights).sum(0) for p in results]).double()
    return {
        **log_likelihood(e),
        "log_likelihood_given_latents": _per_frame(e, expected, "estimate", True),
        "divergence": _per_frame(e, expected - mean, "estimate", False),
        "log_likelihood_of_nothing": _per_frame(
            e, posterior.log_prob_of_nothing(e.system.model, _videos(e)), "exact", None
        ),
    }


def _per_frame(e: Evaluation[SQAIR], value: Tensor, kind: Any, higher: bool | None) -> Metric:
    frames = _videos(e).shape[1]
    detail = {"unit": "nats per frame", "particles": NUM_PARTICLES, "frames": frames}
    return from_rows(value.double() / frames, kind, higher, detail)


# ---- pictures and questions ------------------------------------------------------------------------------------------


def _shown(e: Evaluation[SQAIR], number: int) -> Tensor:
    """The first of the videos worth showing."""
    x = _videos(e)
    return x[e.once("interesting", lambda: pictures.interesting(e.system, x, 4))[:number]]


def tracked(e: Evaluation[SQAIR]) -> Figure:
    """Videos above what the model renders of them. Every object should have one box, of one colour from its first frame
    to its last, and its rendering should look like it.
    """
    return pictures.tracked(e.system, _shown(e, 4))


def glimpses(e: Evaluation[SQAIR]) -> Figure:
    """One video taken apart: below the frames and their rendering what each slot draws, with the probability p that it
    holds an object. Each should draw one whole object; slots that stay empty are left out.
    """
    return pictures.glimpses(e.system, _shown(e, 1))


def predicted(e: Evaluation[SQAIR]) -> Figure | None:
    """Videos whose first frames were seen, above two futures that the model thinks possible (dashed boxes): objects
    should keep their shape and go on as they moved, and turn back at the border.
    """
    return pictures.predicted(e.system, _shown(e, 3), OBSERVED) if _videos(e).shape[1] > OBSERVED else None


def samples(e: Evaluation[SQAIR]) -> Figure:
    """Videos that the model invents, one a row: objects should look like those above and glide."""
    return pictures.samples(e.system, min(_videos(e).shape[1], 10))


FIGURES: dict[str, FigureFunction] = {
    "tracked": tracked,
    "glimpses": glimpses,
    "predicted": predicted,
    "samples": samples,
}
LOSS_UNIT = "nats per video"


def _births_given_frames(e: Evaluation[SQAIR]) -> tuple[str, Answer]:
    evidence = {"x": _videos(e)[0, :2]}
    answer = e.system.query(evidence, ["t0/births"], 50, seed=e.seed)
    return "two frames; how many objects are there at first?", answer


def _frames_given_births(e: Evaluation[SQAIR]) -> tuple[str, Answer]:
    answer = e.system.query({"t0/births": 2}, ["x"], 20, frames=2, seed=e.seed)
    return "two objects, nothing else", answer


EXAMPLE_QUERIES = [_births_given_frames, _frames_given_births]


# ---- how they are computed -------------------------------------------------------------------------------------------


def count(e: Evaluation[SQAIR]) -> dict[str, Metric]:
    """How well objects are counted, beside counts without learning; {} without true counts."""
    truth = e.rows.tensors.get("count")
    if truth is None:
        return {}
    results, x = _posteriors(e), _videos(e)
    truth = truth.long() if truth.ndim == 2 else truth.long().unsqueeze(1).expand(-1, x.shape[1])
    most = int(max(results[0].presence.shape[-1], int(truth.max())))
    chance = torch.cat([p.count_probability(most) for p in results]).double()  # (R, T, most + 1)
    right = chance.gather(-1, truth.unsqueeze(-1)).squeeze(-1)
    over = torch.cumsum(chance.flip(-1), -1).flip(-1)
    more = torch.cat([over[..., 1:], torch.zeros_like(over[..., :1])], -1).gather(-1, truth.unsqueeze(-1)).squeeze(-1)
    frames = {"frames": int(truth.numel())}
    commonest = torch.mode(truth.flatten()).values
    model = e.system.model
    fixed = model.picture.detach() if model.background == "static" else None
    counted = torch.from_numpy(count_components(x, fixed))
    median, maximum = whole_videos(counted)
    return {
        "count_accuracy": from_rows(right.mean(1), "estimate", True, frames),
        "count_accuracy_map": from_rows((chance.argmax(-1) == truth).double().mean(1), "estimate", True, frames),
        "over_count": from_rows(more.mean(1), "estimate", False, frames),
        "count_calibration": _calibration(chance, truth),
        "count_accuracy_commonest": from_rows((truth == commonest).double().mean(1), "exact", None, frames),
        "count_accuracy_components": count_accuracy(truth, counted),
        "count_accuracy_components_median": count_accuracy(truth, median),
        "count_accuracy_components_maximum": count_accuracy(truth, maximum),
    }


def _calibration(chance: Tensor, truth: Tensor) -> Metric:
    """Expected calibration error of the most probable count, over ten bins."""
    top, guess = chance.max(-1)
    right = (guess == truth).double()
    bins = (top * 10).long().clamp(max=9)
    error = 0.0
    for b in range(10):
        chosen = bins == b
        if bool(chosen.any()):
            share = float(chosen.double().mean())
            error += share * abs(float(right[chosen].mean()) - float(top[chosen].mean()))
    return Metric(error, None, int(truth.numel()), "estimate", False, {"bins": 10})


def count_components(x: Tensor, ground: Tensor | None = None) -> np.ndarray:
    """Count without learning: connected regions of at least 8 pixels that are brighter than 0.2, or differ by more from
    a fixed background (channels, height, width), (R, T).
    """
    shown = scaled(checked(x))
    frames = (shown if ground is None else (shown - ground).abs()).amax(2).numpy()
    return np.array([[len(components(frame)) for frame in video] for video in frames])


def whole_videos(counted: Tensor) -> tuple[Tensor, Tensor]:
    """One count per video, for each of its frames: the median and the maximum over frames, both (R, T).

    The median of an even number of frames lies between the two in the middle, a half rounded up: objects that touch
    are counted as one, so that counts err downwards. (`Tensor.median` takes the lower of the two.)
    """
    median = torch.quantile(counted.double(), 0.5, dim=1, keepdim=True)
    maximum = counted.amax(1, keepdim=True)
    return (median + 0.5).floor().to(counted.dtype).expand_as(counted), maximum.expand_as(counted)


def truth_frames(tensors: dict[str, Tensor]) -> list[list[Frame]]:
    """True boxes by identity, as tracking metrics take them: x, y (of the outer corner), width, height."""
    boxes, present = tensors["boxes"].double(), tensors["present"]
    shown = torch.stack([boxes[..., 1] - 0.5, boxes[..., 0] - 0.5, boxes[..., 3], boxes[..., 2]], -1)
    return [_frames(b, p, None) for b, p in zip(shown.numpy(), present.numpy(), strict=True)]


def _frames(boxes: np.ndarray, present: np.ndarray, ids: np.ndarray | None) -> list[Frame]:
    return [
        {
            int(j if ids is None else ids[t, j]): boxes[t, j].tolist()
            for j in np.flatnonzero(present[t])
        }
        for t in range(len(boxes))
    ]  # fmt: skip


def tracking(e: Evaluation[SQAIR]) -> dict[str, Metric]:
    """How well objects are followed; {} without true boxes."""
    system, tensors = e.system, e.rows.tensors
    if not {"boxes", "present"} <= tensors.keys():
        return {}
    tracked: list[list[Frame]] = []
    generator = torch.Generator().manual_seed(0)
    for part in _posteriors(e):
        chosen = part.pick(generator)
        boxes = posterior.boxes(system.model, chosen["where"], chosen["presence"]).double().numpy()
        ids, there = chosen["ids"].numpy(), chosen["presence"].numpy()
        tracked += [_frames(b, p, i) for b, p, i in zip(boxes, there, ids, strict=True)]
    real = truth_frames(tensors)
    figures = track_metrics(real, tracked, measure="centre", threshold=NEAR)
    counts = figures["mota"].detail
    out = {name: figures[name] for name in ("mota", "idf1", "id_switches")}
    out["centre_error"] = figures["motp"]
    share = counts["matches"] / max(counts["objects"], 1)
    out["matched"] = Metric(share, None, counts["objects"], "estimate", True, counts)
    met = [kept for a, b in zip(real, tracked, strict=True) for kept in crossings(a, b)]
    if met:
        detail = {"unit": "pairs that kept their identities", "near": CROSSING}
        out["crossings_kept"] = from_rows(np.array(met, float), "estimate", True, detail)
    if "visible" in tensors:
        shares = tensors["visible"].numpy()
        came_back = [kept for a, b, v in zip(real, tracked, shares, strict=True) for kept in hidings(a, b, v)]
        if came_back:
            detail = {"unit": "objects that kept their identity while hidden", "visible": HIDDEN, "frames": LONGEST}
            out["hidden_kept"] = from_rows(np.array(came_back, float), "estimate", True, detail)
    return out


def prediction(e: Evaluation[SQAIR], seen: int = OBSERVED, num_samples: int = 10) -> dict[str, Metric]:
    """Centre errors of predicted objects by horizon, beside those of objects that stay where they were last.

    Objects are matched to the truth in the last observed frame, within `NEAR` pixels; the prediction is the mean over
    samples of the centre. {} without true boxes, or where nothing is left to predict.
    """
    system, x, tensors = e.system, _videos(e), e.rows.tensors
    if not {"boxes", "present"} <= tensors.keys() or x.shape[1] <= seen:
        return {}
    horizon = min(5, x.shape[1] - seen)
    boxes, present = tensors["boxes"], tensors["present"]
    truth = torch.stack([boxes[..., 1] + (boxes[..., 3] - 1) / 2, boxes[..., 0] + (boxes[..., 2] - 1) / 2], -1)
    moved: dict[int, list[Tensor]] = {h: [] for h in range(1, horizon + 1)}
    still: dict[int, list[Tensor]] = {h: [] for h in range(1, horizon + 1)}
    with seeded(e.seed):
        for start in range(0, len(x), BATCH):
            part = x[start : start + BATCH, :seen]
            result = posterior.run(system.model, system.guide, part, NUM_PARTICLES, canvas=False)
            state, _ = posterior.resampled(result, 1)
            many = state.map(lambda t: t.expand(num_samples, *t.shape[1:]))
            _, states = posterior.extend(system.model, many, horizon, births=False)
            centres = torch.stack([_centres(system.model, s.where) for s in states], 2)  # (S, R, horizon, N, 2)
            weight = torch.stack([s.presence for s in states], 2).unsqueeze(-1)
            mean = (centres * weight).sum(0) / weight.sum(0).clamp(min=1e-6)
            last, there = _centres(system.model, state.where[0]), state.presence[0] > 0
            real, real_there = truth[start : start + BATCH], present[start : start + BATCH]
            apart = (last.unsqueeze(2) - real[:, seen - 1].unsqueeze(1)).norm(dim=-1)  # (R, N, M)
            apart = torch.where(there.unsqueeze(2) & real_there[:, seen - 1].unsqueeze(1), apart, torch.inf)
            nearest, which = apart.min(-1)
            rows, slots = (nearest <= NEAR).nonzero(as_tuple=True)
            objects = which[rows, slots]
            for h in range(1, horizon + 1):
                goal = real[rows, seen - 1 + h, objects]
                moved[h].append((mean[rows, h - 1, slots] - goal).norm(dim=-1))
                still[h].append((last[rows, slots] - goal).norm(dim=-1))
    out = {}
    for h in sorted({1, horizon}):
        detail = {"unit": "pixels", "observed": seen, "samples": num_samples}
        if sum(map(len, moved[h])) == 0:
            continue
        out[f"prediction_error_{h}"] = from_rows(torch.cat(moved[h]), "estimate", False, detail)
        out[f"prediction_error_{h}_stay_put"] = from_rows(torch.cat(still[h]), "estimate", None, detail)
    return out


def _centres(model: SQAIRModel, where: Tensor) -> Tensor:
    boxes = pixel_boxes(where, *model.shape[1:], model.span)
    return boxes[..., :2] + boxes[..., 2:] / 2.0


def addition(e: Evaluation[SQAIR]) -> dict[str, Metric]:
    """Sum of the digits read off the sum of codes: fit on half of the videos, scored on the rest, all frames voting.

    {} without labels, or with too few videos to fit and test a probe.
    """
    from sklearn.neural_network import MLPClassifier

    label = e.rows.tensors.get("label")
    if label is None or len(e.rows) < 64:
        return {}
    codes, total = [], torch.where(label >= 0, label, 0).sum(-1).numpy()
    generator = torch.Generator().manual_seed(0)
    for part in _posteriors(e):
        chosen = part.pick(generator)
        there = chosen["presence"].unsqueeze(-1)
        codes.append(torch.cat([(chosen["what"] * there).sum(2), there.sum(2)], -1))
    features = torch.cat(codes).numpy()  # (R, T, features + 1)
    half, frames = len(features) // 2, features.shape[1]
    probe = MLPClassifier((128,), max_iter=200, random_state=0, alpha=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopping at max_iter is meant
        probe.fit(features[:half].reshape(half * frames, -1), np.repeat(total[:half], frames))
    chance = probe.predict_proba(features[half:].reshape(-1, features.shape[-1]))
    votes = chance.reshape(len(features) - half, frames, -1)
    single = probe.classes_[votes.argmax(-1)] == total[half:, None]
    voted = probe.classes_[votes.mean(1).argmax(-1)] == total[half:]
    classes, counts = np.unique(total[:half], return_counts=True)
    guess = total[half:] == classes[counts.argmax()]
    detail = {"videos_for_fitting": half}
    return {
        "addition_accuracy": from_rows(single.mean(1), "estimate", True, detail),
        "addition_accuracy_voted": from_rows(voted, "estimate", True, detail),
        "addition_chance": from_rows(guess, "exact", None, detail),
    }


def places(e: Evaluation[SQAIR]) -> dict[str, Metric]:
    """Least energy that an occupied slot draws in each video: near zero where it holds nothing to be seen."""
    model = e.system.model
    out = []
    for part in _posteriors(e):
        chosen = part.pick(best=True)
        with torch.no_grad():
            glimpse = model.decode(chosen["what"].reshape(-1, model.features))
            energy = glimpse.square().flatten(1).sum(1).reshape(chosen["presence"].shape)
        energy = torch.where(chosen["presence"] > 0, energy, torch.inf).flatten(1).amin(1)
        out.append(energy[torch.isfinite(energy)])
    flat = torch.cat(out)
    detail = {"unit": "pixel energy of present places"}
    return {"smallest_place_energy": from_rows(flat if len(flat) else torch.zeros(1), "estimate", None, detail)}


METRICS: dict[str, MetricFunction] = {
    "log_likelihood": log_likelihood,
    "bound": bound,
    "count": count,
    "tracking": tracking,
    "prediction": prediction,
    "addition": addition,
    "places": places,
}
