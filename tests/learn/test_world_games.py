"""World models of games that others made: recorded, dreamt, played, and doubted.

Every score stands beside those of chance, of the recording's policy, of the best blind sweep, of the same agent with
another game before its eyes, and of an agent that was trained in the game itself, in as many games as were recorded,
again with and without the blindfold; and beside what the same policy scores in the dream at temperature 1.
`make learn SYSTEM=world_games` runs all of them, `pytest tests/learn -m learn --timeout 0 -k cartpole` one; with
`--runs FOLDER` recordings and runs are kept, and gone on with.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from phlogiston import datasets
from phlogiston.datasets.base import Dataset
from phlogiston.models.dreaming import Rollouts, dream
from phlogiston.systems.world.config import PRESETS
from phlogiston.systems.world.system import WorldModel

from .recorder import Entry, cpu_time

pytestmark = pytest.mark.learn
Record = Callable[..., Entry]
Kept = Callable[[str, int], Path | None]
DREAMS = 256  # behind a score in the dream
OTHERS = {
    "random": "at random", "recorded": "the recording's policy", "blind": "best blind sweep",
    "blindfold": "the agent, another game before its eyes", "inside": "agent trained in the game",
    "inside-blindfold": "that one, another game before its eyes",
}  # fmt: skip


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
        others: that policies which see nothing, and agents of other temperatures, are judged by.
        must: least mean score, over seeds.
        gain: least factor over the recording's policy; 0 for none (scores below 0 have no factor).
        recall: least share of things of 3 to 5 pixels that are there in reconstructions; 0 for none.
        end_auc: the same of the area under the curve of ends.
        taus: temperatures to train further agents at, with the first seed.
        compared: games in which blind sweeps are compared; 0 for none.
        inside: options of training in the game, of recipes that train in the dream; by default an evolution of as many
            games as were recorded.
    """

    env: str
    episodes: int
    figure: str
    must: float
    recording: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    games: int = 100
    others: int = 100
    gain: float = 0.0
    recall: float = 0.0
    end_auc: float = 0.0
    taus: tuple[float, ...] = ()
    compared: int = 16
    inside: dict[str, Any] = field(default_factory=dict)


COVER: dict[str, Any] = {"policy": "sticky:0.7", "skip": 4, "cap": 2_100, "crop": (90, 154, 0, 320), "jobs": 2}
# nothing, right, left, gas, brake, as the discrete game has them: who turns and brakes as often as drives gets nowhere
RACING: dict[str, Any] = {
    "policy": "sticky:0.3:.5,1,1,2,.25", "skip": 6, "size": 32, "grey": True, "crop": (0, 84, 0, 96), "jobs": 2,
}  # fmt: skip
# with those of the recording's policy, four times as many, and those of the last choice: 640 games
IMPROVED: dict[str, Any] = {"method": "improve", "generations": 9, "population": 48}
SMALL: dict[str, Any] = {"code": 4, "hidden": 48, "features": 64, "noise": 0.02, "frame_steps": 1_000, "steps": 1_000}
RECIPES = {
    "take-cover-32": Recipe(
        "VizdoomTakeCover-v1", 600, "ticks survived, mean of games of at most 2,100", 600.0,
        {**COVER, "size": 32},
        PRESETS["take-cover"],
        others=32, gain=1.7, recall=0.7, end_auc=0.92, taus=(0.5, 1.0, 1.15, 1.3), inside=IMPROVED,
    ),
    "take-cover-64": Recipe(
        "VizdoomTakeCover-v1", 600, "ticks survived, mean of games of at most 2,100", 600.0,
        {**COVER, "size": 64},
        {**PRESETS["take-cover"], "frame_batch": 16},
        others=32, gain=1.7, recall=0.7, end_auc=0.92, inside=IMPROVED,
    ),
    "carracing-discrete": Recipe(
        "CarRacing-v3", 100, "reward, mean of 20 tracks", 300.0,
        {**RACING, "options": {"continuous": False}}, PRESETS["racing"],
        games=20, others=20, compared=0,
    ),
    "carracing-continuous": Recipe(
        "CarRacing-v3", 100, "reward, mean of 20 tracks", 300.0,
        {**RACING, "actions": [[0, 0, 0], [0.6, 0, 0], [-0.6, 0, 0], [0, 0.2, 0], [0, 0, 0.8]]},
        PRESETS["racing"], games=20, others=20, compared=0,
    ),
    "cartpole": Recipe(
        "CartPole-v1", 400, "steps, mean of 100 games of at most 200", 195.0, {},
        # games at random end long before the cart has come far: what happens there is learned in the second round
        {**SMALL, "max_steps": 200, "rounds": 2}, gain=2.0,
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


def judge(recipe: Recipe, system: WorldModel, seed: int) -> dict[str, tuple[float, float | None]]:
    """Scores in the game and in the dream, at temperature 1, of whoever was not trained."""
    world = system.model
    chance = system.play("uniform", recipe.others, seed=seed), system.dream("uniform", DREAMS, tau=1.0, seed=seed)
    folded = system.play(None, recipe.games, seed=seed, blindfold=True)
    found: dict[str, tuple[float, float | None]] = {
        "random": (mean(chance[0]), mean(chance[1])),
        "recorded": (system.schema["recorded_score"], mean(system.dream("random", DREAMS, tau=1.0, seed=seed))),
        "blindfold": (mean(folded), None),
    }
    if recipe.compared:
        sweep, blind = system.play_blind(recipe.compared, recipe.others, seed=seed)
        asleep = dream(world.eval(), sweep.begin(), DREAMS, system.longest, seed=seed)
        found["blind"] = mean(blind), mean(asleep)
    return found


def mean(rollouts: Rollouts) -> float:
    return float(rollouts.score.mean())


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_game_is_learned_from_a_recording_and_played_with_open_eyes(
    name: str, record: Record, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gymnasium", reason="games need phlogiston[games]")
    if name.startswith("take"):
        pytest.importorskip("vizdoom", reason="take cover needs phlogiston[games]")
    if name.startswith("carracing"):
        pytest.importorskip("Box2D", reason="CarRacing needs phlogiston[games]")
    monkeypatch.chdir(tmp_path)  # some games leave files where they are started
    recipe = RECIPES[name]

    def entry(what: str, title: str, group: str = "games", **fields: Any) -> Entry:
        return record(
            "world", f"{group}/{name}/{what}", title=f"{name}: {title}",
            **{"figure": recipe.figure, "n_test": recipe.games, **fields},
        )  # fmt: skip

    agent = entry("agent", OTHERS["inside"] if "inside" in recipe.options else "agent from the dream", must=recipe.must)
    beside = set(OTHERS) - ({"inside"} & set(recipe.options)) - (set() if recipe.compared else {"blind"})
    beside -= set() if recipe.inside else {"inside-blindfold"}
    others = {
        w: entry(w, title, n_test=recipe.others if w in ("random", "recorded", "blind") else recipe.games)
        for w, title in OTHERS.items() if w in beside
    }  # fmt: skip
    taus = {tau: entry(f"{tau:g}", f"{tau:g}", "tau-games", tau=tau, n_test=recipe.others) for tau in recipe.taus}
    for line in taus.values():
        line.seeds = line.seeds[:1]  # an agent for each takes as long as the first
    share, area = "share of things of 3 to 5 pixels", "area under the curve, is this frame the end"
    seen = entry("recall", "small bright things seen", "sight", kind="estimate", figure=share, must=recipe.recall)
    ends = entry("ends", "foreseeing the end", "sight", kind="exact", figure=area, must=recipe.end_auc)
    told: dict[str, list[float]] = defaultdict(list)

    def measure(line: Entry, seed: int, game: float, dreamt: float | None, seconds: float | None = None) -> None:
        with line.measure(seed) as run:
            run.value, run.cpu_seconds = game, seconds
            if dreamt is not None:
                told[line.name].append(dreamt)
                line.fields["dream"] = fmean(told[line.name])

    def trained_anew(line: Entry, seed: int, system: WorldModel, tau: float = 1.0, **options: Any) -> Any:
        began = cpu_time()
        own = system.config.tau == tau and not options
        found = system.agent if own else system.train_agent(seed=seed, tau=tau, **options)
        seconds, games = cpu_time() - began, line.fields["n_test"]
        played, dreamt = system.play(found, games, seed=seed), system.dream(found, DREAMS, tau=tau, seed=seed)
        measure(line, seed, mean(played), mean(dreamt), seconds)
        return found

    for seed in agent.seeds:
        with agent.measure(seed) as run:
            data, system, folder = trained(recipe, name, seed, kept, tmp_path)
            run.stop(folder)
            run.value = mean(system.play(None, recipe.games, seed=seed))
            told["agent"].append(mean(system.dream(None, DREAMS, tau=1.0, seed=seed)))
            agent.fields["dream"] = fmean(told["agent"])
        for what, (game, dreamt) in judge(recipe, system, seed).items():
            measure(others[what], seed, game, dreamt)
        found = system.evaluate(data, ["memory", "bright"]) if recipe.recall or recipe.end_auc else {}
        for line, metric, bar in ((seen, "bright_recall_3_5", recipe.recall), (ends, "end_auc", recipe.end_auc)):
            if bar:
                measure(line, seed, found[metric].value, None)
        if "inside" in others:
            evolved = {"generations": max(1, recipe.episodes // system.config.population), "rollouts": 1}
            own = trained_anew(others["inside"], seed, system, inside="game", **(recipe.inside or evolved))
            if recipe.inside:
                folded = system.play(own, recipe.games, seed=seed, blindfold=True)
                measure(others["inside-blindfold"], seed, mean(folded), None)
        for tau, line in taus.items():
            if seed in line.seeds:
                trained_anew(line, seed, system, tau)
    for line in (agent, *([seen] if recipe.recall else []), *([ends] if recipe.end_auc else [])):
        line.check()
    assert not recipe.gain or agent.mean >= recipe.gain * others["recorded"].mean
