"""Whether identities last: through meetings of two objects, and through frames in which an object cannot be seen."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from phlogiston.evaluate.tracking import Frame

NEAR = 5.0  # pixels within which a track matches an object
CROSSING = 10.0  # pixels between centres within which two objects are on top of each other
HIDDEN = 0.1  # share of an object below which it counts as hidden
SHOWN = 0.5  # share from which on it is seen well enough to say who follows it
LONGEST = 5  # hidden frames through which an identity should last


def _follower(real: Frame, tracked: Frame, name: Hashable) -> Hashable | None:
    """The identity of the nearest track, within twice `NEAR`."""
    x, y, w, h = real[name]
    near = [
        (float(np.hypot(b[0] + b[2] / 2 - x - w / 2, b[1] + b[3] / 2 - y - h / 2)), track)
        for track, b in tracked.items()
    ]
    distance, track = min(near, default=(np.inf, None), key=lambda pair: pair[0])
    return track if distance <= 2 * NEAR else None


def crossings(real: Sequence[Frame], tracked: Sequence[Frame]) -> list[bool]:
    """For each time two objects meet and part again, whether both keep their identities through it.

    They meet while their centres are within `CROSSING` pixels; what counts is who followed them in the last frame
    before and the first one after. An object that nobody follows there has not kept its identity.
    """
    out = []
    names = sorted({name for frame in real for name in frame}, key=str)
    for one, other in itertools.combinations(names, 2):
        apart: list[bool | None] = []
        for frame in real:
            if one in frame and other in frame:
                a, b = np.array(frame[one]), np.array(frame[other])
                apart.append(bool(np.linalg.norm(a[:2] + a[2:] / 2 - b[:2] - b[2:] / 2) > CROSSING))
            else:
                apart.append(None)
        before: int | None = None
        for time, state in enumerate(apart):
            if state is None:
                before = None
            elif state:
                if before is not None and time > before + 1:
                    pairs = [
                        (_follower(real[before], tracked[before], n), _follower(real[time], tracked[time], n))
                        for n in (one, other)
                    ]
                    out.append(all(a is not None and a == b for a, b in pairs))
                before = time
    return out


def hidings(real: Sequence[Frame], tracked: Sequence[Frame], visible: Any) -> list[bool]:
    """For each time an object is hidden and shows again, whether it keeps its identity through it.

    It is hidden in frames in which less than `HIDDEN` of it is visible, and there are 1 .. `LONGEST` of these between
    two frames in which `SHOWN` of it is; what counts is who follows it in these two. An object that nobody follows
    there has not kept its identity.

    Args:
        real: true boxes of each frame by identity, the column of `visible`.
        tracked: boxes of each frame by the identity found.
        visible: (frames, objects), share of each object that is visible.
    """
    shares = np.asarray(visible, dtype=np.float64)
    out = []
    for column in range(shares.shape[1]):
        name: Hashable = column
        before: int | None = None
        hidden = 0
        for time, frame in enumerate(real):
            if name not in frame:
                before, hidden = None, 0
            elif shares[time, column] < HIDDEN:
                hidden += 1
            elif shares[time, column] >= SHOWN:
                if before is not None and 1 <= hidden <= LONGEST:
                    first, last = (_follower(real[t], tracked[t], name) for t in (before, time))
                    out.append(first is not None and first == last)
                before, hidden = time, 0
    return out
