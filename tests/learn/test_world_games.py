"""World models of games that others made, and of one where memory matters: recorded, dreamt, played, and doubted.

Every score stands beside those of chance, of the recording's policy, of the best blind sweep, of the same agent with
another game before its eyes, and of an agent that was trained in the game itself, in as many games as were recorded.
`make learn SYSTEM=world_games` runs all of them, `pytest tests/learn -m learn --timeout 0 -k cartpole` one; with
`--runs FOLDER` recordings and runs are kept, and gone on with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset
from phlogiston.systems.world.agent import TrainedAgent
from phlogiston.systems.world.system import WorldModel

from .recorder import Entry

pytestmark = pytest.mark.learn
Record = Callable[..., Entry]
Kept = Callable[[str, int], Path | None]
TAUS = (0.5, 1.0, 1.15, 1.3)


@dataclass(frozen=True)
class Recipe:
    """How a game is learned.

    Attributes:
        env: id of the environment.
        episodes: games recorded.
        recording: further options of `datasets.record`.
        options: of the system.
        figure: what a score is.
        games: that an agent is judged by.
        must: least mean score, over seeds.
        gain: least factor over the recording's policy; 0 for none (scores below 0 have no factor).
        recall: least share of things of 3 to 5 pixels that are there in reconstructions; 0 for none.
        end_auc: the same of the area under the curve of ends.
    """

    env: str
    episodes: int
    figure: str
    must: float
    recording: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    games: int = 100
    gain: float = 0.0
    recall: float = 0.0
    end_auc: float = 0.0


COVER: dict[str, Any] = {"policy": "sticky:0.7", "skip": 4, "cap": 2_100, "crop": (90, 154, 0, 320), "jobs": 2}
SEEING: dict[str, Any] = {"code": 32, "hidden": 128, "noise": 0.1, "rare": 0.5, "free_bits": 0.2, "window": 128}
RACING: dict[str, Any] = {"policy": "sticky:0.8", "skip": 4, "size": 32, "cap": 1_000, "jobs": 2}
SMALL: dict[str, Any] = {"code": 4, "hidden": 48, "features": 64, "noise": 0.02, "frame_steps": 1_000, "steps": 1_000}
RECIPES = {
    "take-cover-32": Recipe(
        "VizdoomTakeCover-v1", 600, "ticks survived, mean of 100 games of at most 2,100", 600.0,
        {**COVER, "size": 32},
        {**SEEING, "max_steps": 525, "frame_steps": 4_000, "steps": 2_000, "rounds": 2, "round_games": 200},
        gain=1.7, recall=0.7, end_auc=0.92,
    ),
    "take-cover-64": Recipe(
        "VizdoomTakeCover-v1", 600, "ticks survived, mean of 100 games of at most 2,100", 600.0,
        {**COVER, "size": 64},
        {**SEEING, "max_steps": 525, "frame_steps": 3_000, "frame_batch": 16, "steps": 2_000},
        gain=1.7, recall=0.7, end_auc=0.92,
    ),
    "carracing-discrete": Recipe(
        "CarRacing-v3", 200, "reward, mean of 20 tracks", 300.0,
        {**RACING, "options": {"continuous": False}}, {**SEEING, "frame_steps": 3_000, "steps": 2_000, "rounds": 2},
        games=20,
    ),
    "carracing-continuous": Recipe(
        "CarRacing-v3", 200, "reward, mean of 20 tracks", 300.0,
        {**RACING, "actions": [[0, 0.5, 0], [-0.6, 0.1, 0], [0.6, 0.1, 0], [0, 0, 0.4], [0, 0, 0]]},
        {**SEEING, "frame_steps": 3_000, "steps": 2_000, "rounds": 2}, games=20,
    ),
    "cartpole": Recipe(
        "CartPole-v1", 400, "steps, mean of 100 games of at most 200", 195.0, {}, {**SMALL, "max_steps": 200},
        gain=2.0,
    ),
    "acrobot": Recipe(
        "Acrobot-v1", 200, "reward, mean of 100 games of at most 500 steps", -200.0, {"policy": "sticky:0.7"}, SMALL
    ),
}  # fmt: skip


def recorded(recipe: Recipe, folder: Path, seed: int) -> Dataset:
    """The recording, made where it is not there."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        return datasets.record(recipe.env, folder, episodes=recipe.episodes, seed=seed, **recipe.recording)
    return datasets.load(folder)


def trained(recipe: Recipe, name: str, seed: int, kept: Kept, tmp_path: Path) -> tuple[Dataset, WorldModel, Path]:
    """The recording, the system trained on it, and its run; one that is kept is gone on with, or loaded."""
    folder = kept(name, seed) or Path(tempfile.mkdtemp(dir=tmp_path)) / name
    data = recorded(recipe, folder.with_name(f"{name}-games-{seed}"), seed)
    system = WorldModel(recipe.options).fit(data, seed=seed, out=folder, progress="off")
    return data, system, folder


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_game_is_learned_from_a_recording_and_played_with_open_eyes(
    name: str, record: Record, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gymnasium", reason="games need phlogiston[games]")
    if name.startswith("take"):
        pytest.importorskip("vizdoom", reason="take cover needs phlogiston[games]")
    monkeypatch.chdir(tmp_path)  # some games leave files where they are started
    recipe = RECIPES[name]

    def entry(what: str, title: str, **fields: Any) -> Entry:
        return record("world", f"games/{name}/{what}", title=title, figure=recipe.figure, **fields)

    agent = entry("agent", f"{name}: agent from the dream", must=recipe.must, n_test=recipe.games)
    others = {
        what: entry(what, f"{name}: {title}", n_test=recipe.games)
        for what, title in {
            "random": "at random", "recorded": "the recording's policy", "blind": "best blind sweep",
            "blindfold": "the agent, another game before its eyes", "inside": "agent trained in the game",
        }.items()
    }  # fmt: skip
    seen = record("world", f"games/{name}/recall", title=f"{name}: small bright things seen", kind="estimate",
                  figure="share of things of 3 to 5 pixels")  # fmt: skip
    ends = record("world", f"games/{name}/ends", title=f"{name}: foreseeing the end", kind="exact",
                  figure="area under the curve, is this frame the end")  # fmt: skip
    for seed in agent.seeds:
        with agent.measure(seed) as run:
            data, system, folder = trained(recipe, name, seed, kept, tmp_path)
            run.stop(folder)
            run.value = float(system.play(None, recipe.games, seed=seed).score.mean())
        scores = {
            "random": system.play("random", recipe.games, seed=seed).score,
            "blind": system.play_blind(16, recipe.games, seed=seed)[1].score,
            "blindfold": system.play(None, recipe.games, seed=seed, blindfold=True).score,
        }
        for what, score in scores.items():
            with others[what].measure(seed) as run:
                run.value = float(score.mean())
        with others["recorded"].measure(seed) as run:
            run.value = system.schema["recorded_score"]
        with others["inside"].measure(seed) as run:
            generations = max(1, recipe.episodes // system.config.population)
            inside = system.train_agent(inside="game", seed=seed, generations=generations, rollouts=1)
            run.stop()
            run.value = float(system.play(inside, recipe.games, seed=seed).score.mean())
        found = system.evaluate(data, ["memory", "bright"])
        if recipe.recall:
            with seen.measure(seed) as run:
                run.value = found["bright_recall_3_5"].value
        if recipe.end_auc:
            with ends.measure(seed) as run:
                run.value = found["end_auc"].value
    agent.check()
    assert not recipe.gain or agent.mean >= recipe.gain * others["recorded"].mean
    assert not recipe.recall or seen.mean >= recipe.recall
    assert not recipe.end_auc or ends.mean >= recipe.end_auc


@pytest.mark.parametrize("name", list(RECIPES))
def test_dream_and_game_at_several_temperatures(
    name: str, record: Record, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gymnasium", reason="games need phlogiston[games]")
    if name.startswith("take"):
        pytest.importorskip("vizdoom", reason="take cover needs phlogiston[games]")
    monkeypatch.chdir(tmp_path)
    recipe = RECIPES[name]
    lines = {
        tau: record("world", f"games/{name}/tau/{tau:g}", title=f"{name}: tau {tau:g}", figure=recipe.figure,
                    n_test=recipe.games)
        for tau in TAUS
    }  # fmt: skip
    told: dict[float, list[float]] = {tau: [] for tau in TAUS}
    for seed in lines[TAUS[0]].seeds:
        _, system, _ = trained(recipe, name, seed, kept, tmp_path)
        for tau, line in lines.items():
            with line.measure(seed) as run:
                own = system.agent if tau == system.config.tau else system.train_agent(tau=tau, seed=seed)
                run.stop()
                run.value = float(system.play(own, recipe.games, seed=seed).score.mean())
                told[tau].append(float(system.dream(own, 256, tau=tau, seed=seed).score.mean()))
                line.fields["dream"] = sum(told[tau]) / len(told[tau])


HIDDEN = "steps survived in the game, mean of 256 games of at most 200; balls are hidden over 8 of 16 rows"


def test_where_balls_are_hidden_an_agent_without_memory_is_clearly_worse(record: Record, kept: Kept) -> None:
    data = datasets.load("dodge", hidden=8)
    lines = {
        looks: record("world", f"hidden/{looks}", title=title, figure=HIDDEN, n_test=256)
        for looks, title in (("zh", "agent, sees code and memory"), ("z", "agent, sees the code alone"))
    }
    for seed in lines["zh"].seeds:
        folder = kept("dodge-hidden", seed)
        if folder is not None and (folder / "finished").is_file():
            system = systems.load(folder)
        else:
            system = WorldModel(generations=0).fit(data, seed=seed, out=folder, progress="off")
            if folder is not None:
                (folder / "finished").touch()
        assert isinstance(system, WorldModel)
        for looks, line in lines.items():
            with line.measure(seed) as run:
                found: TrainedAgent = system.train_agent(looks=looks, generations=40, seed=seed)
                run.stop()
                run.value = float(system.play(found, 256, seed=seed).score.mean())
    assert lines["z"].mean < 0.8 * lines["zh"].mean, "without memory an agent is clearly worse"
