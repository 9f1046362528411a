"""The full recipe of world models: a game learned from recordings, agents trained in the dream, judged outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phlogiston import datasets, systems
from phlogiston.systems.world.agent import TrainedAgent
from phlogiston.systems.world.system import WorldModel

from .recorder import Entry, Measured

pytestmark = pytest.mark.learn
Record = Callable[..., Entry]
Kept = Callable[[str, int], Path | None]

GAMES = 256  # that an agent is judged by
TAUS = (0.5, 1.0, 1.15, 1.3)
FIGURE = "steps survived in the game, mean of 256 games of at most 200"
PLAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "zh": ("player from the dream, sees code and memory", {}),
    "z": ("player from the dream, sees the code alone", {"looks": "z"}),
    "h": ("player from the dream, sees the memory alone", {"looks": "h"}),
}


def watch(seed: int, folder: Path | None, **options: Any) -> WorldModel:
    """V and M of the game with some options; a run that is there already is used again."""
    if folder is not None and (folder / "finished").is_file():
        found = systems.load(folder)
        assert isinstance(found, WorldModel)
        return found
    system = WorldModel(generations=0).fit(datasets.load("dodge", **options), seed=seed, out=folder, progress="off")
    if folder is not None:
        (folder / "finished").touch()
    return system


def trained(system: WorldModel, folder: Path | None, name: str, run: Measured, **options: Any) -> TrainedAgent:
    """An agent, kept beside the run together with the time it took."""
    path = None if folder is None else folder / "players" / f"{name}.json"
    if path is not None and path.is_file():
        run.cpu_seconds = float(path.with_suffix(".seconds").read_text())
        return TrainedAgent.load(path)
    agent = system.train_agent(generations=40, out=path, **options)
    run.stop()
    if path is not None:
        path.with_suffix(".seconds").write_text(str(run.cpu_seconds))
    return agent


def test_world_models_teach_a_game_they_have_only_dreamt(record: Record, kept: Kept) -> None:
    data = datasets.load("dodge")
    ends = record(
        "world", "memory/ends", title="foreseeing the end", figure="area under the curve, is this frame the end",
        kind="exact", must=0.95, n_test=len(data.test),
    )  # fmt: skip
    frames = record(
        "world", "frames/error", title="frames from their codes", figure="squared error per frame, summed over pixels",
        kind="exact", higher_is_better=False, n_test=len(data.test),
    )  # fmt: skip
    random = record("world", "survival/random", title="random player", figure=FIGURE, n_test=GAMES)
    players = {
        name: record("world", f"survival/{name}", title=title, figure=FIGURE, n_test=GAMES)
        for name, (title, _) in PLAYERS.items()
    }
    taus = {
        tau: record("world", f"tau/{tau:g}", title=f"{tau:g}", figure=FIGURE, n_test=GAMES, tau=tau) for tau in TAUS
    }
    dreamt: dict[str, list[float]] = {}
    for seed in ends.seeds:
        folder = kept("dodge", seed)
        with ends.measure(seed) as run, frames.measure(seed) as same:
            system = watch(seed, folder)
            run.stop(folder)
            same.stop()
            found = system.evaluate(data, ["frames", "memory"])
            run.value, same.value = found["end_auc"].value, found["frame_error"].value
            c = system.config
            size = sum(p.numel() for m in (system.model, system.guide) for p in m.parameters())
            ends.fields["configuration"] = frames.fields["configuration"] = (
                f"code {c.code}, LSTM {c.hidden}, K = {c.num_components}, {size:,} parameters"
            )
            ends.fields["steps"] = c.frame_steps + c.steps
            frames.fields["baselines"] = {"the mean frame": found["frame_error"].detail["of the mean frame"]}
        with random.measure(seed) as run:
            run.value = float(system.play("random", GAMES, seed=seed).score.mean())
            dreamt.setdefault("random", []).append(
                float(system.dream("random", GAMES, tau=1.0, seed=seed).score.mean())
            )
            random.fields["dream"] = sum(dreamt["random"]) / len(dreamt["random"])
        for name, (_, options) in PLAYERS.items():
            with players[name].measure(seed) as run:
                player = trained(system, folder, name, run, seed=seed, **options)
                run.value = float(system.play(player, GAMES, seed=seed).score.mean())
                dreamt.setdefault(name, []).append(float(system.dream(player, GAMES, seed=seed).score.mean()))
                players[name].fields["dream"] = sum(dreamt[name]) / len(dreamt[name])
        for tau, entry in taus.items():
            with entry.measure(seed) as run:
                # the player of the configuration is the one of this temperature
                name = "zh" if tau == system.config.tau else f"tau-{tau:g}"
                player = trained(system, folder, name, run, seed=seed, tau=tau)
                run.value = float(system.play(player, GAMES, seed=seed).score.mean())
                score = float(system.dream(player, GAMES, tau=tau, seed=seed).score.mean())
                dreamt.setdefault(f"{tau:g}", []).append(score)
                entry.fields["dream"] = sum(dreamt[f"{tau:g}"]) / len(dreamt[f"{tau:g}"])
    for entry in (ends, frames, random, *players.values(), *taus.values()):
        entry.save()  # once more, with what was added last
    ends.check()
    assert players["zh"].mean >= 2.5 * random.mean, "a player who never saw the game survives 2.5 times a random one"
    orderly, noisy = (taus[tau] for tau in (min(taus), max(taus)))
    promised = [float(entry.fields["dream"]) - entry.mean for entry in (orderly, noisy)]
    assert promised[1] < promised[0], "a dream that is too orderly promises more than the game gives"


HIDDEN = "steps survived in the game, mean of 256 games of at most 200; balls are hidden over 8 of 16 rows"


def test_where_balls_are_hidden_an_agent_without_memory_is_clearly_worse(record: Record, kept: Kept) -> None:
    lines = {
        looks: record("world", f"hidden/{looks}", title=PLAYERS[looks][0], figure=HIDDEN, n_test=GAMES)
        for looks in ("zh", "z")
    }
    dreamt: dict[str, list[float]] = {looks: [] for looks in lines}
    for seed in lines["zh"].seeds:
        folder = kept("dodge-hidden", seed)
        system = watch(seed, folder, hidden=8)
        for looks, line in lines.items():
            with line.measure(seed) as run:
                agent = trained(system, folder, looks, run, looks=looks, seed=seed)
                run.value = float(system.play(agent, GAMES, seed=seed).score.mean())
                dreamt[looks].append(float(system.dream(agent, GAMES, seed=seed).score.mean()))
                line.fields["dream"] = sum(dreamt[looks]) / len(dreamt[looks])
    assert lines["z"].mean < 0.8 * lines["zh"].mean, "without memory an agent is clearly worse"
