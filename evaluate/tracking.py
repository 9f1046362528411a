"""Tracking: MOTA, MOTP, IDF1, identity switches, fragmentations and counts.

Bernardin and Stiefelhagen, *Evaluating multiple object tracking performance: the CLEAR MOT metrics*, 2008; Ristani et
al., *Performance measures and a data set for multi-target, multi-camera tracking*, 2016 (IDF1). Frame by frame, a pair
of object and track that matched last and still may match stays together; the rest is matched with the least distance
among the largest possible numbers of pairs.

A frame is a dict of identity -> box (x, y, width, height), or identity -> point (x, y) when distances of centres count.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate.metric import Metric, from_rows

Frame = Mapping[Hashable, Sequence[float]]
Video = Sequence[Frame]


@dataclass
class Counts:
    """What happened in one video; videos add up.

    Attributes:
        frames: number of frames.
        objects: true objects, summed over frames.
        tracked: tracked objects, summed over frames.
        matches: pairs of the two.
        misses: true objects without a track.
        false_alarms: tracks without an object.
        switches: objects whose track changed its identity.
        fragmentations: objects lost and found again.
        distance: summed over matches.
        identity_matches: pairs under the one best assignment of identities to identities over the whole video.
        right_counts: frames in which the numbers of objects agree.
    """

    frames: int = 0
    objects: int = 0
    tracked: int = 0
    matches: int = 0
    misses: int = 0
    false_alarms: int = 0
    switches: int = 0
    fragmentations: int = 0
    distance: float = 0.0
    identity_matches: int = 0
    right_counts: int = 0
    events: list[str] = field(default_factory=list)

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def figures(self) -> dict[str, float]:
        """Return the figures of merit of these counts."""
        nan = math.nan
        objects, both = self.objects, self.objects + self.tracked
        return {
            "mota": 1.0 - (self.misses + self.false_alarms + self.switches) / objects if objects else nan,
            "motp": self.distance / self.matches if self.matches else nan,
            "idf1": 2.0 * self.identity_matches / both if both else nan,
            "id_switches": self.switches / objects if objects else nan,
            "fragmentations": self.fragmentations / objects if objects else nan,
            "count_accuracy": self.right_counts / self.frames if self.frames else nan,
        }


_BETTER = {
    "mota": True,
    "motp": False,
    "idf1": True,
    "id_switches": False,
    "fragmentations": False,
    "count_accuracy": True,
}


def track_metrics(
    truth: Sequence[Video], tracked: Sequence[Video], *, measure: str = "iou", threshold: float | None = None
) -> dict[str, Metric]:
    """Score tracks of several videos against the truth.

    Args:
        truth: one list of frames per video.
        tracked: the same; identities need not be the same ones.
        measure: `"iou"` (distance 1 - intersection over union of boxes) or `"centre"` (distance of centres, in the
            unit of the coordinates).
        threshold: pairs farther apart cannot match; 0.5 for `iou`, 5 for `centre` if not given.

    Returns:
        `mota`, `motp` (mean *distance* of matches: lower is better), `idf1`, `id_switches` and `fragmentations` per
        true object and frame, `count_accuracy`. Error bars by the jackknife over videos. `detail` holds the counts.

    Raises:
        ShapeError: other numbers of videos or frames.
        DataError: no objects at all, or boxes that are none.
        ConfigError: an unknown measure.
    """
    if len(truth) != len(tracked):
        raise ShapeError(f"truth has {len(truth)} videos and tracked {len(tracked)}; they must agree.")
    parts = [count(a, b, measure=measure, threshold=threshold) for a, b in zip(truth, tracked, strict=True)]
    total = sum(parts, Counts())
    if total.objects == 0:
        raise DataError("the truth holds no objects; there is nothing to track.")
    names = ("frames", "objects", "tracked", "matches", "misses", "false_alarms", "switches", "fragmentations")
    detail = {
        **{name: getattr(total, name) for name in names},
        "measure": measure,
        "threshold": _limit(measure, threshold),
        "videos": len(parts),
    }
    errors = _jackknife(parts, total)
    return {
        name: Metric(value, errors.get(name), total.objects, "estimate", _BETTER[name], detail)
        for name, value in total.figures().items()
    }


def count(truth: Video, tracked: Video, *, measure: str = "iou", threshold: float | None = None) -> Counts:
    """Count matches, misses, false alarms and switches of one video; arguments as for `track_metrics`."""
    if len(truth) != len(tracked):
        raise ShapeError(f"truth has {len(truth)} frames and tracked {len(tracked)}; they must agree.")
    limit, distance = _limit(measure, threshold), _MEASURES[measure]
    out = Counts(frames=len(truth))
    partner: dict[Hashable, Hashable] = {}  # the track that followed an object last
    together: Counter[tuple[Hashable, Hashable]] = Counter()
    followed: dict[Hashable, list[bool]] = {}
    for time, (real, estimated) in enumerate(zip(truth, tracked, strict=True)):
        objects, tracks = list(real), list(estimated)
        out.objects += len(objects)
        out.tracked += len(tracks)
        out.right_counts += len(objects) == len(tracks)
        apart = distance(_boxes(real, measure, time), _boxes(estimated, measure, time))
        allowed = apart <= limit
        together.update((objects[i], tracks[j]) for i, j in np.argwhere(allowed))
        pairs = _keep_old(objects, tracks, partner, allowed)
        pairs += _match_rest(pairs, apart, allowed)
        for i, j in pairs:
            if partner.get(objects[i], tracks[j]) != tracks[j]:
                out.switches += 1
                out.events.append(f"frame {time}: object {objects[i]} goes from {partner[objects[i]]} to {tracks[j]}")
            partner[objects[i]] = tracks[j]
            out.distance += float(apart[i, j])
        out.matches += len(pairs)
        out.misses += len(objects) - len(pairs)
        out.false_alarms += len(tracks) - len(pairs)
        matched = {i for i, _ in pairs}
        for i, name in enumerate(objects):
            followed.setdefault(name, []).append(i in matched)
    out.fragmentations = sum(_gaps(seen) for seen in followed.values())
    out.identity_matches = _identity_matches(together)
    return out


def frames_of(boxes: Any, present: Any) -> list[dict[Hashable, list[float]]]:
    """Turn padded arrays into frames; the slot is the identity.

    Args:
        boxes: (time, slots, 4) or (time, slots, 2).
        present: (time, slots), true where the slot holds an object.
    """
    places, there = np.asarray(boxes, dtype=np.float64), np.asarray(present)
    if places.ndim != 3 or there.shape != places.shape[:2]:
        raise ShapeError(
            f"boxes have shape {places.shape}, present {there.shape}; expected (time, slots, 4), (time, slots)."
        )
    return [
        {slot: frame[slot].tolist() for slot in np.flatnonzero(seen)}
        for frame, seen in zip(places, there > 0, strict=True)
    ]


def count_accuracy(true_counts: Any, counts: Any, log_weights: Any | None = None) -> Metric:
    """Return how often the inferred number of objects is right.

    Args:
        true_counts: (rows, time).
        counts: (rows, time), or (particles, rows, time) from a posterior.
        log_weights: (particles, rows) of the particles; equal if not given.

    Returns:
        Mean over frames of the posterior probability of the true number; the error bar is over rows.
    """
    true, inferred = np.asarray(true_counts), np.asarray(counts)
    if inferred.ndim == true.ndim:
        inferred = inferred[None]
    if true.ndim != 2 or inferred.shape[1:] != true.shape:
        raise ShapeError(
            f"true_counts have shape {true.shape} and counts {inferred.shape}; expected ([particles,] rows, time)."
        )
    right = (inferred == true).astype(np.float64)
    if log_weights is None:
        share = right.mean(0)
    else:
        weights = np.asarray(log_weights, dtype=np.float64)
        if weights.shape != inferred.shape[:2]:
            raise ShapeError(
                f"log_weights have shape {weights.shape}; expected (particles, rows), {inferred.shape[:2]}."
            )
        weights = np.exp(weights - weights.max(0))
        share = ((weights / weights.sum(0))[..., None] * right).sum(0)
    return from_rows(share.mean(1), "estimate", True, {"frames": int(true.size)})


def _limit(measure: str, threshold: float | None) -> float:
    if measure not in _MEASURES:
        raise ConfigError(f"measure is {measure!r}; choose from {', '.join(_MEASURES)}.")
    return {"iou": 0.5, "centre": 5.0}[measure] if threshold is None else float(threshold)


def _boxes(frame: Frame, measure: str, time: int) -> np.ndarray:
    """Return the boxes (n, 4) or points (n, 2) of a frame, checked."""
    if not frame:
        return np.zeros((0, 4 if measure == "iou" else 2))
    rows = np.array(list(frame.values()), dtype=np.float64).reshape(len(frame), -1)
    if rows.shape[1] not in ((4,) if measure == "iou" else (2, 4)):
        raise DataError(f"frame {time} holds {rows.shape[1]} numbers per object; expected x, y, width, height.")
    if not np.isfinite(rows).all() or (rows.shape[1] == 4 and (rows[:, 2:] < 0).any()):
        raise DataError(f"frame {time} holds a box that is not finite or has a negative size.")
    return rows if measure == "iou" or rows.shape[1] == 2 else rows[:, :2] + rows[:, 2:] / 2.0


def _overlap_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return 1 - intersection over union, (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(-1)
    union = a[:, None, 2:].prod(-1) + b[None, :, 2:].prod(-1) - shared
    return 1.0 - np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _centre_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "iou": _overlap_distance,
    "centre": _centre_distance,
}


def _keep_old(
    objects: list[Hashable], tracks: list[Hashable], partner: Mapping[Hashable, Hashable], allowed: np.ndarray
) -> list[tuple[int, int]]:
    """Return the pairs that were together last and still may be."""
    column = {name: j for j, name in enumerate(tracks)}
    pairs, taken = [], set()
    for i, name in enumerate(objects):
        j = column.get(partner[name]) if name in partner else None
        if j is not None and j not in taken and allowed[i, j]:
            pairs.append((i, j))
            taken.add(j)
    return pairs


def _match_rest(pairs: list[tuple[int, int]], apart: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    """Match what is left: as many pairs as possible, at the least total distance."""
    from scipy.optimize import linear_sum_assignment

    rows = [i for i in range(apart.shape[0]) if i not in {p[0] for p in pairs}]
    columns = [j for j in range(apart.shape[1]) if j not in {p[1] for p in pairs}]
    if not rows or not columns:
        return []
    free = np.ix_(rows, columns)
    # a forbidden pair costs more than any number of allowed ones together
    finite = apart[free][allowed[free]]
    forbidden = (float(finite.max()) if finite.size else 1.0) * (min(len(rows), len(columns)) + 1) + 1.0
    chosen = linear_sum_assignment(np.where(allowed[free], apart[free], forbidden))
    return [(rows[i], columns[j]) for i, j in zip(*chosen, strict=True) if allowed[free][i, j]]


def _gaps(seen: list[bool]) -> int:
    """Count how often an object is lost between its first and its last match."""
    if True not in seen:
        return 0
    last = len(seen) - 1 - seen[::-1].index(True)
    return sum(before and not after for before, after in itertools.pairwise(seen[: last + 1]))


def _identity_matches(together: Mapping[tuple[Hashable, Hashable], int]) -> int:
    from scipy.optimize import linear_sum_assignment

    if not together:
        return 0
    objects = {name: i for i, name in enumerate(dict.fromkeys(pair[0] for pair in together))}
    tracks = {name: j for j, name in enumerate(dict.fromkeys(pair[1] for pair in together))}
    table = np.zeros((len(objects), len(tracks)))
    for (a, b), frames in together.items():
        table[objects[a], tracks[b]] = frames
    return int(table[linear_sum_assignment(-table)].sum())


def _jackknife(parts: Sequence[Counts], total: Counts) -> dict[str, float]:
    """Return each figure's standard error from leaving out one video at a time."""
    if len(parts) < 2:
        return {}
    names = [name for name in Counts.__dataclass_fields__ if name != "events"]
    without = [
        Counts(**{name: getattr(total, name) - getattr(part, name) for name in names}).figures() for part in parts
    ]
    n = len(parts)
    out = {}
    for name in without[0]:
        values = np.array([figures[name] for figures in without])
        out[name] = float(math.sqrt((n - 1) / n * ((values - values.mean()) ** 2).sum()))
    return out
