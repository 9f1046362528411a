"""Recorded games, as `phlogiston data record` and `datasets.record` write them; pass the folder, not a name.

    datasets.record("CartPole-v1", "games", episodes=600)
    datasets.load("games")
    datasets.load("games", more=("played-by-agent",))           several recordings of one game

Frames stay on disk; validation and test games, a bounded number of them, are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.datasets.base import Dataset, Decision, Info, part_rows, recorded, stream
from phlogiston.errors import DataError

if TYPE_CHECKING:
    from phlogiston.datasets.recording.store import RecordedGames

INFO = Info(
    name="recorded_games",
    title="recorded games: frames, actions, rewards and ends; pass the folder instead of a name",
    kind="yours",
    licence="yours",
    rows="yours",
    shape="frames x C x size x size, or vectors; an action and a reward each",
    notes="`phlogiston data record` makes them, of any Gymnasium environment. Frames stay on disk.",
)
HELD = 64
"""Most games of the validation and of the test part, which are read into memory."""


def accepts(data: Any) -> bool:
    """Say whether data of the user's are a recording."""
    return isinstance(data, str | PathLike) and (Path(data).expanduser() / "recording.json").is_file()


@recorded()
def load(
    root: str | PathLike[str] | None = None,
    *,
    data: str | PathLike[str] | None = None,
    more: Sequence[str] = (),
    valid: float = 0.0,
    test: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Open a recording.

    Args:
        root: folder that relative paths start from.
        data: folder of the recording.
        more: folders of further recordings of the same game, all of which are trained on.
        valid: share of the games for validation, of which at most 64 are used.
        test: the same for testing.
        seed: of the division.

    Returns:
        `frames` uint8 (games, T, C, H, W), or floats in [0, 1] of vectors (H = C = 1); `action` int64, `reward`
        float32 and `done` bool (games, T); `length` int64 (games,). Training games stay on disk; a batch of them is
        filled up with zeros.

    Raises:
        DataError: no recording, or shares that leave nothing to train on.
    """
    from phlogiston.datasets.recording.store import RecordedGames, Recording

    if data is None:
        raise DataError("no data given. Pass the folder of a recording instead of a name: datasets.load('games').")
    if not (0 <= valid < 1 and 0 <= test < 1):
        raise DataError(f"valid={valid}, test={test}; shares from 0 to below 1 are expected.")
    place = Path(root or ".").expanduser()
    paths = [place / Path(path).expanduser() for path in (data, *more)]
    recordings = [Recording(path) for path in paths]
    first = len(recordings[0])
    held = [min(HELD, math.ceil(share * first) if first > 2 else 0) for share in (valid, test)]
    part_rows(first, valid=held[0], test=held[1], what=repr(str(data)))
    order = stream(seed, "recorded_games").permutation(first)
    parts = np.split(order, [first - sum(held), first - held[1]])
    whole = RecordedGames(recordings)
    added = np.arange(first, len(whole.games))
    train = whole.select(np.concatenate([np.sort(parts[0]), added]))
    splits = (train, *(whole.select(np.sort(part)).split(slice(None)) for part in parts[1:]))
    about = recordings[0].about
    options = {"data": str(data), "more": [str(path) for path in more]}
    title = f"{about.get('title', 'games')}, played by {about.get('policy', 'somebody')}"
    return Dataset.of(INFO, splits, options, name=str(paths[0]), title=title, decisions=_decisions(whole))  # type: ignore[arg-type]


def _decisions(games: RecordedGames) -> tuple[Decision, ...]:
    spec, rewards = games.spec, games.recordings[0].reward
    ended = float(games.ended.mean())
    frames = "vectors" if spec.view.vector else "pictures"
    return (
        Decision("frames", f"{int(games.lengths.sum()):,} {frames} {games.shape}; games of {games.lengths.min()} to "
                 f"{games.lengths.max()}, {games.lengths.mean():.0f} on average"),
        Decision("actions", f"{len(spec.actions)}: {spec.actions[:8]}{' ...' * (len(spec.actions) > 8)}, each "
                 f"repeated {spec.skip} times"),
        Decision("ends", f"{ended:.0%} of the games came to an end; the others were cut off at a limit"),
        Decision("rewards", f"{rewards.min():g} to {rewards.max():g}, {rewards.mean():.3g} per frame"),
    )  # fmt: skip
