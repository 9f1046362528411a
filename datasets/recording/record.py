"""Recording games: one after another, in several processes, or from a vector of environments.

Game number i depends on the seed, i and the policy alone, not on how many are recorded nor by how many processes. (In a
vector of environments it depends on the other games there, too: they share a clock.)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.recording import store
from phlogiston.datasets.recording.environment import Environment, GameSpec, game_spec, make, rescaled
from phlogiston.datasets.recording.policies import as_policy, begin, keeps
from phlogiston.datasets.recording.store import PlayedGames
from phlogiston.datasets.recording.vectors import play_vector
from phlogiston.errors import ConfigError, RunError

if TYPE_CHECKING:
    from phlogiston.datasets.base import Dataset

AT_ONCE = 16  # games a process plays before it hands them over


def record(
    env: Any,
    out: str | os.PathLike[str],
    *,
    episodes: int = 100,
    policy: Any = "random",
    skip: int = 1,
    cap: int = 0,
    crop: Sequence[int] | None = None,
    size: int = 64,
    grey: bool = False,
    key: str = "",
    render: bool = False,
    bins: int = 3,
    actions: Sequence[Any] | None = None,
    options: Mapping[str, Any] | None = None,
    jobs: int = 1,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """Record games of a Gymnasium environment into a folder.

    Args:
        env: id of the environment, such as "CartPole-v1" or "VizdoomTakeCover-v1"; the environment itself, also a
            vector of them; or a function that makes one.
        out: folder to make.
        episodes: games.
        policy: who plays: "random"; "sticky:0.7", the last action again with that probability, or any;
            "sticky:0.7:1,1,2", the same with a weight for every action; "module:name" or a function
            `(frame, generator) -> number of an action`.
        skip: how often each action is repeated; rewards are added up.
        cap: steps of the environment (skipped ones, too) after which a game is cut off; 0 leaves that to it.
        crop: rows from and to, columns from and to, in pixels of the observation.
        size: of the frames, pixels a side; 8, 16, 32, 64 or 128, or 0 where the pictures are of such a size.
        grey: record brightness alone.
        key: entry to take of an observation that is a dictionary; its only picture by default.
        render: record what the environment draws of itself, instead of its observation.
        bins: values along each axis of actions that are a box.
        actions: the actions to choose from, as the environment takes them, instead of all.
        options: of the environment.
        jobs: processes; the environment must be an id then.
        seed: of the games and of the policy.
        progress: called with the number of games recorded so far.

    Returns:
        The recording, as `phlogiston.datasets.load(out)` reads it.

    Raises:
        ConfigError: options or an environment that do not fit.
        RunError: the folder exists; nothing is touched.
    """
    from phlogiston import datasets

    path = Path(out)
    if path.exists():
        raise RunError(f"{path} exists already; choose another folder, nothing was written")
    if episodes < 1 or jobs < 1 or seed < 0:
        raise ConfigError(f"episodes={episodes}, jobs={jobs}, seed={seed}; expected 1, 1 and 0 or more")
    if jobs > 1 and not isinstance(env, str):
        raise ConfigError(f"jobs is {jobs}: for several processes give the environment as an id")
    given = {**(options or {}), **({"render_mode": "rgb_array"} if render and isinstance(env, str) else {})}
    made = make(env, given)
    try:
        spec = game_spec(
            env, made, given, key=key, crop=crop, size=size, grey=grey, render=render, skip=skip, cap=cap, bins=bins,
            actions=actions,
        )  # fmt: skip
        as_policy(policy, len(spec.actions))
        path.parent.mkdir(parents=True, exist_ok=True)
        with _whole(path) as folder:
            shape, played, spec = _record(made, spec, policy, episodes, jobs, seed, folder, progress)
            about = {**_about(spec, type(made).__name__, played, policy, seed), "limit": _limit(made, spec.cap)}
            store.write(folder, folder / "raw", shape, bool(spec.view.vector), played, about)
    finally:
        if made is not env:
            made.close()
    return datasets.load(path.absolute())


def _about(spec: GameSpec, title: str, played: PlayedGames, policy: Any, seed: int) -> dict[str, Any]:
    """What is said about a recording."""
    return {
        "title": spec.env or title,
        "games": len(played.lengths),
        "frames": sum(played.lengths),
        "policy": policy if isinstance(policy, str) else getattr(policy, "__name__", type(policy).__name__),
        "keep": keeps(policy),
        "seed": seed,
        "spec": spec.describe(),
    }


def _limit(made: Any, cap: int) -> int:
    """Steps of the environment after which it or `cap` cuts a game off; 0 where that is not known."""
    own = getattr(getattr(made, "spec", None), "max_episode_steps", None)
    known = [int(limit) for limit in (own, cap) if limit]
    return min(known, default=0)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A folder that is there under its name once it is complete, and not at all if it does not become so."""
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield folder
        folder.chmod(0o755)
        try:
            folder.rename(path)
        except OSError as error:
            raise RunError(f"{path} has come into being meanwhile; nothing was written there") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _record(
    made: Any,
    spec: GameSpec,
    policy: Any,
    episodes: int,
    jobs: int,
    seed: int,
    folder: Path,
    progress: Callable[[int], None] | None,
) -> tuple[tuple[int, ...], PlayedGames, GameSpec]:
    """Play all games; leave their frames in the file `raw`. Returns the shape of a frame, the games, and the spec."""
    shape: tuple[int, ...] = ()
    whole = PlayedGames([], [], [], [])
    low: Any = np.inf
    high: Any = -np.inf
    with open(folder / "raw", "wb") as raw:
        for frames, games in _batches(made, spec, policy, episodes, jobs, seed, folder):
            shape = frames.shape[1:]
            raw.write(np.ascontiguousarray(frames).data)
            whole.lengths.extend(games.lengths)
            whole.ended.extend(games.ended)
            whole.action.extend(games.action)
            whole.reward.extend(games.reward)
            if spec.view.vector:
                low, high = np.minimum(low, frames.min(0)), np.maximum(high, frames.max(0))
            if progress is not None:
                progress(len(whole.lengths))
    return shape, whole, rescaled(spec, low, high) if spec.view.vector else spec


def _batches(
    made: Any, spec: GameSpec, policy: Any, episodes: int, jobs: int, seed: int, folder: Path
) -> Iterator[tuple[Array, PlayedGames]]:
    """Frames and games, some at a time, in order."""
    if hasattr(made, "num_envs"):
        yield from play_vector(made, spec, policy, episodes, seed)
        return
    if jobs == 1:
        chooses = as_policy(policy, len(spec.actions))
        game = Environment(made, spec)
        for number in range(episodes):
            yield play_one(game, chooses, number, seed)
        return
    groups = [range(i, min(i + AT_ONCE, episodes)) for i in range(0, episodes, AT_ONCE)]
    # a fresh process each: a copy of this one would share its threads and open environments
    with ProcessPoolExecutor(min(jobs, len(groups)), mp_context=get_context("spawn")) as pool:
        count = len(groups)
        results = pool.map(_play_group, [spec] * count, [policy] * count, groups, [seed] * count, [folder] * count)
        for path, games in results:
            frames: Array = np.load(path)
            yield frames, games
            path.unlink()


def _play_group(spec: GameSpec, policy: Any, numbers: range, seed: int, folder: Path) -> tuple[Path, PlayedGames]:
    """Play some games in a process of their own; frames go through a file."""
    game, chooses = _opened(spec), as_policy(policy, len(spec.actions))
    parts = [play_one(game, chooses, number, seed) for number in numbers]
    path = folder / f"part-{numbers.start}.npy"
    np.save(path, np.concatenate([frames for frames, _ in parts]))
    games = [part for _, part in parts]
    return path, PlayedGames(
        [n for g in games for n in g.lengths],
        [e for g in games for e in g.ended],
        [a for g in games for a in g.action],
        [r for g in games for r in g.reward],
    )


_OPEN: list[Environment] = []  # of this process, which is one of a recording; opening may take as long as ten games


def _opened(spec: GameSpec) -> Environment:
    """The environment of this process, opened once and closed with it."""
    if not _OPEN:
        made = make(spec.env, spec.options)
        Finalize(None, made.close, exitpriority=1)
        _OPEN.append(Environment(made, spec))
    return _OPEN[0]


def play_one(game: Environment, policy: Any, number: int, seed: int) -> tuple[Array, PlayedGames]:
    """Play one game to its end: its frames (length, ...), and what was done and gained."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, number, 1]))
    frames = [game.reset(seed_of(seed, number))]
    begin(policy)
    actions: list[int] = []
    rewards = [0.0]
    ended = over = False
    while not over:
        actions.append(chosen(policy(frames[-1], generator), len(game.spec.actions)))
        frame, reward, ended, over = game.step(actions[-1])
        frames.append(frame)
        rewards.append(reward)
    return np.stack(frames), PlayedGames([len(frames)], [ended], [*actions, 0], rewards)


def chosen(action: Any, actions: int) -> int:
    """Check what a policy chose.

    Raises:
        ConfigError: no action.
    """
    if not 0 <= int(action) < actions:
        raise ConfigError(f"the policy chose action {int(action)}; expected 0 to {actions - 1}")
    return int(action)


def seed_of(seed: int, number: int) -> int:
    """The seed that an environment is reset with for one game of a recording."""
    return int(np.random.SeedSequence([seed, number, 0]).generate_state(1)[0])
