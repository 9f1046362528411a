"""World model as a product: it learns a game from recordings, dreams, trains agents, answers, and refuses bad input."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from phlogiston import datasets, systems
from phlogiston.cli.main import app
from phlogiston.datasets.base import Dataset
from phlogiston.errors import (
    ConfigError,
    DataError,
    DataWarning,
    EvidenceError,
    PhlogistonWarning,
    RunError,
    ShapeError,
    UnknownNameError,
)
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Within
from phlogiston.systems import workflow
from phlogiston.systems.world import report as world_report
from phlogiston.systems.world.agent import TrainedAgent, free_path
from phlogiston.systems.world.system import WorldModel

TINY: dict[str, Any] = {
    "widths": (8, 8), "features": 16, "code": 4, "hidden": 12, "frame_steps": 12, "steps": 6, "frame_batch": 8,
    "batch_size": 8, "generations": 2, "population": 4, "rollouts": 2, "noise": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.load("dodge", sizes=(24, 4, 6), limit=30)


@pytest.fixture(scope="module")
def run(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "run"
    WorldModel(TINY).fit(data, out=folder, progress="off")
    return folder


@pytest.fixture(scope="module")
def tiny(run: Path) -> WorldModel:
    found = systems.load(run)
    assert isinstance(found, WorldModel)
    return found


# ---- learning


@pytest.fixture(scope="module")
def learned() -> WorldModel:
    """Some fifteen seconds of one core."""
    games = datasets.load("dodge", sizes=(300, 10, 40), limit=40)
    options = {"code": 8, "hidden": 48, "frame_steps": 320, "steps": 120, "generations": 0}
    return WorldModel(options).fit(games, progress="off")


def test_it_sees_the_ball_foresees_the_end_and_predicts_codes(learned: WorldModel) -> None:
    games = datasets.load("dodge", sizes=(1, 1, 60), limit=40)
    found = learned.evaluate(games, ["frames", "memory"])
    plain = found["frame_error"].detail["of the mean frame"]
    assert found["frame_error"].value < 0.4 * plain, (
        "the mean frame shows no ball; an encoder that misses it is no better"
    )
    assert found["end_auc"].value > 0.9
    share = found["end_auc"].detail
    assert share["share predicted"] == pytest.approx(share["share of ends"], rel=0.5)


def test_it_knows_left_from_right(learned: WorldModel) -> None:
    rows = learned.games(datasets.load("dodge", sizes=(1, 1, 60), limit=40))
    code = learned.encode(rows["frames"])["code_loc"]
    valid = torch.arange(41) < rows["length"].unsqueeze(1)
    with torch.no_grad():
        right, wrong = (
            learned.model.predict_all(code, a)[0].code.log_prob(code) for a in (rows["action"], 2 - rows["action"])
        )
    gain = torch.where(valid, right - wrong, 0.0).sum(1).double()
    assert float(gain.mean()) > 3 * float(gain.std()) / 60**0.5


# ---- verbs


def test_training_leaves_two_stages_and_a_player(run: Path, tiny: WorldModel) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {r["stage"] for r in records} == {"frames", "memory"}
    agent = tiny.agent
    assert agent is not None
    assert len(agent.curve) == 2
    assert float(agent.weights.abs().max()) > 0


def test_each_stage_leaves_the_others_parameters_alone(data: Dataset) -> None:
    states = []
    for steps in (1, 4):
        system = WorldModel({**TINY, "steps": steps, "generations": 0}).fit(data, progress="off")
        states.append({**system.model.state_dict(), **{f"guide.{k}": v for k, v in system.guide.state_dict().items()}})
    vision = [name for name in states[0] if name.startswith(("decoder", "guide"))]
    assert all(torch.equal(states[0][name], states[1][name]) for name in vision)
    assert not torch.equal(states[0]["head.0.weight"], states[1]["head.0.weight"])


def test_saved_and_loaded_it_dreams_the_same(tiny: WorldModel, tmp_path: Path) -> None:
    again = systems.load(tiny.save(tmp_path / "copy"))
    for name, value in tiny.sample(3, steps=5, seed=1).items():
        assert torch.equal(value, again.sample(3, steps=5, seed=1)[name]), name
    with pytest.raises(RunError, match="exists already"):
        tiny.save(tmp_path / "copy")


def test_a_run_goes_on_where_it_was_stopped_player_and_all(data: Dataset, run: Path, tmp_path: Path) -> None:
    class Stop:
        def on_step(self, state: Any) -> None:
            if state.step == 14:
                raise KeyboardInterrupt

    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        WorldModel(TINY).fit(data, out=part, callbacks=[Stop()], progress="off")
    WorldModel(TINY).fit(data, out=part, progress="off")
    whole, resumed = systems.load(run), systems.load(part)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_dreams_hold_their_last_frame_and_say_where_they_ended(tiny: WorldModel) -> None:
    found = tiny.sample(40, steps=25, tau=1.0, seed=2)
    frames, length, done = found["frames"], found["length"], found["done"]
    assert frames.shape[2:] == (1, 16, 16)
    assert 0 <= float(frames.min()) <= float(frames.max()) <= 1
    for row in range(40):
        n = int(length[row])
        assert bool((frames[row, n:] == frames[row, n - 1]).all())
        assert not bool(done[row, : n - 1].any())
    with torch.no_grad():
        tiny.model.head[-1].bias[-1] += 20.0
        sure = tiny.sample(5, steps=25, seed=2)
        tiny.model.head[-1].bias[-1] -= 20.0
    assert sure["length"].tolist() == [2] * 5
    assert bool(sure["done"][:, -1].all())


def test_dreaming_many_players_at_once(tiny: WorldModel) -> None:
    size = len(tiny.agent.weights)  # type: ignore[union-attr]
    found = tiny.dream(torch.randn(5, size), 6, tau=1.3, max_steps=9, seed=0)
    assert found.score.shape == (30,)
    assert bool((found.score >= 1).all())
    assert bool((found.score <= 9).all())


def test_players_meet_the_same_games(tiny: WorldModel) -> None:
    agent = tiny.agent
    assert agent is not None
    twice = tiny.play(torch.stack([agent.weights, agent.weights]), 10)
    assert torch.equal(twice.score[:10], twice.score[10:])
    assert torch.equal(twice.score[:10], tiny.play(agent, 10).score)


def test_practising_in_the_game_itself_pays(tiny: WorldModel, tmp_path: Path) -> None:
    """With the game for a judge evolution needs no good model, only to be able to count."""
    found = tiny.train_agent(inside="game", looks="h", generations=2, population=4, rollouts=2, out=tmp_path / "p.json")
    kept = TrainedAgent.load(tmp_path / "p.json")
    assert torch.equal(kept.weights, found.weights)
    assert (kept.looks, kept.inside, kept.curve) == ("h", "game", found.curve)
    assert torch.equal(tiny.play(tmp_path / "p.json", 6).score, tiny.play(found, 6).score)
    again = tiny.train_agent(inside="game", looks="h", generations=2, population=4, rollouts=2)
    assert torch.equal(again.weights, found.weights)
    with pytest.raises(RunError, match="exists already"):
        tiny.train_agent(generations=1, out=tmp_path / "p.json")


def test_players_beside_a_run_get_a_free_name(tmp_path: Path) -> None:
    assert free_path(tmp_path).name == "player-1.json"
    TrainedAgent(torch.zeros(3)).save(free_path(tmp_path))
    assert free_path(tmp_path).name == "player-2.json"
    with pytest.raises(RunError, match="exists already"):
        TrainedAgent(torch.zeros(3)).save(tmp_path / "players" / "player-1.json")


def test_frames_come_back_from_their_codes(tiny: WorldModel, data: Dataset) -> None:
    frames = data.test.tensors["frames"][:2, :5]
    codes = tiny.encode(frames)
    assert codes["code_loc"].shape == (2, 5, 4)
    assert bool((codes["code_scale"] > 0).all())
    again = tiny.reconstruct(frames)
    assert again.shape == frames.shape
    torch.testing.assert_close(again, tiny.model.picture(codes["code_loc"]).detach())


def test_evaluation_reports_and_views(tiny: WorldModel, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_report, "PLAYED", 16)
    found = tiny.evaluate(data)
    assert set(found) == {
        "frame_error", "code_nats_per_step", "end_auc", "survival", "survival_random", "survival_dreamt",
    }  # fmt: skip
    assert all(math.isfinite(metric.value) for metric in found.values())
    assert "log_likelihood" in tiny.evaluate({k: v[:2] for k, v in data.test.tensors.items()}, ["log_likelihood"])
    pictures = tiny.figures(data)
    assert "what an agent learned" in pictures
    assert all(figure.get_label() for figure in pictures.values())
    for name, view in tiny.views().items():
        assert view(tiny, data.test, 2, 0)["frames"].dim() == 5, name


# ---- asking


def test_known_entries_come_back_and_constraints_hold(tiny: WorldModel, data: Dataset) -> None:
    rows = tiny.games(data)
    seen = rows["frames"][0, :6].double() / 255.0
    mask = torch.ones(6, 1, 16, 16, dtype=torch.bool)
    mask[3, 0, :8] = False
    evidence = {
        "frames": [Known(seen, mask), Within(torch.zeros(9, 1, 16, 16), torch.full((9, 1, 16, 16), 1.2))],
        "action": [Known(rows["action"][0, :6]), OneOf({0, 1, 2})],
        "done": Known([0.0] * 6),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhlogistonWarning)
        answer = tiny.query(evidence, num_samples=40, steps=9, seed=0)
    frames = answer.samples["frames"]
    assert frames.shape == (40, 9, 1, 16, 16)
    assert torch.equal(frames[:, :6][:, mask], seen[mask].expand(40, -1))
    assert float(frames[:, 3, 0, :8].min()) >= 0
    assert bool((answer.samples["action"][:, :6] == rows["action"][0, :6]).all())
    assert not bool(answer.samples["done"][:, :6].any())
    assert bool(torch.isfinite(answer.log_weights).all())
    assert answer.log_evidence is not None
    assert math.isfinite(float(answer.log_evidence))


def test_a_games_score_is_its_own(tiny: WorldModel, data: Dataset) -> None:
    games = tiny.games(data)
    score = tiny.log_prob(games, num_particles=8).value
    for rows in ([5, 3, 1, 0, 2, 4], [2], [4, 4]):
        again = tiny.log_prob({name: value[rows] for name, value in games.items()}, num_particles=8).value
        torch.testing.assert_close(again, score[rows], rtol=1e-4, atol=1e-3)
    assert not torch.equal(tiny.log_prob(games, num_particles=8, seed=1).value, score)


def test_errors_of_scores_are_there_for_every_game_or_for_none(
    tiny: WorldModel, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    games = tiny.games(data)
    errors = tiny.log_prob(games, num_particles=32).std_error
    assert errors is not None
    assert errors.shape == (6,)
    assert bool((errors > 0).all())
    assert tiny.log_prob(games, num_particles=31).std_error is None
    known = iter([torch.tensor(1.0), None, *[torch.tensor(1.0)] * 4])
    monkeypatch.setattr("phlogiston.systems.world.query.spread_error", lambda _: next(known))
    score = tiny.log_prob(games, num_particles=32)
    assert score.value.shape == (6,)
    assert score.std_error is None


def test_other_ways_to_answer_are_refused_by_name(tiny: WorldModel) -> None:
    with pytest.raises(UnknownNameError, match=r"query method 'hmc'.*auto, smc"):
        tiny.query(method="hmc")
    asked = [tiny.query({"done": Known([0.0, 0.0])}, ["done"], 50, method=m, seed=0) for m in ("auto", "smc")]
    assert torch.equal(asked[0].log_weights, asked[1].log_weights)


def test_the_evidence_of_a_whole_game_is_its_log_probability(tiny: WorldModel, data: Dataset) -> None:
    rows = tiny.games(data)
    shortest = int(rows["length"].argmin())
    rows = {name: value[shortest : shortest + 1] for name, value in rows.items()}
    n = int(rows["length"])
    evidence = {
        "frames": Known(rows["frames"][0, :n].double() / 255.0),
        "action": Known(rows["action"][0, :n]),
        "done": Known(rows["done"][0, :n].double()),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhlogistonWarning)
        asked = [float(tiny.query(evidence, num_samples=150, seed=s).log_evidence) for s in range(3)]
    scored = [float(tiny.log_prob(rows, num_particles=150, seed=s).value) for s in range(3)]
    spread = max(max(asked) - min(asked), max(scored) - min(scored), 1.0)
    assert sum(asked) / 3 == pytest.approx(sum(scored) / 3, abs=2 * spread)


def test_the_filter_is_unbiased_where_the_answer_is_known_in_closed_form(tiny: WorldModel) -> None:
    # the chance that a game lasts two more frames: an average over dreams, and one question
    question = {"done": Known([0.0, 0.0, 0.0])}
    found = tiny.query(question, ask=["done"], num_samples=4000, seed=1)
    lasted = (tiny.dream("random", 4000, tau=1.0, max_steps=2, seed=2).ended.logical_not()).double()
    error = float(lasted.std()) / 4000**0.5
    # dreams keep actions for a while, the question draws them anew: of no weight in two frames
    assert float(found.log_evidence.exp()) == pytest.approx(float(lasted.mean()), abs=4 * error + 0.01)  # type: ignore[union-attr]


def test_soft_pixels_agree_with_the_density_of_a_sum(tiny: WorldModel) -> None:
    one = torch.full((1, 1, 16, 16), math.inf)
    one[0, 0, 8, 8] = 0.3
    answer = tiny.query({"frames": Near(torch.full((1, 1, 16, 16), 0.2), one)}, num_samples=1500, seed=0)
    with torch.no_grad():
        mean = tiny.model.picture(tiny.model.predict(tiny.model.start(1)).code.sample((20_000,))[:, 0])[
            :, 0, 8, 8
        ].double()
    density = torch.distributions.Normal(mean, math.hypot(0.1, 0.3))
    exact = density.log_prob(torch.tensor(0.2).double()).logsumexp(0) - math.log(20_000)
    assert float(answer.log_evidence) == pytest.approx(float(exact), abs=0.03)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({"frame": Known(0.0)}, "Did you mean 'frames'|site"),
        ({"frames": Known(torch.zeros(3, 16, 16))}, "one game"),
        ({"frames": Known(torch.zeros(3, 1, 8, 8))}, "expected"),
        ({"frames": HalfSpace(torch.ones(256), 0.0)}, "half-spaces|entries"),
        ({"action": Known([0.0, 7.0])}, "0 to 2"),
        ({"action": [OneOf({0}), Known([1.0])]}, "none is left"),
        ({"action": Near(0.0, 1.0)}, "Known or OneOf"),
        ({"done": Known([1.0])}, "first frame"),
        ({"done": [Known([0.0, 1.0]), Known([0.0, 0.0])]}, "frame 1"),
        ({"done": Known([0.0, 0.5])}, "whole number"),
    ],
)
def test_malformed_questions_are_refused(tiny: WorldModel, evidence: dict[str, Any], words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        tiny.query(evidence, num_samples=10, steps=4, seed=0)


def test_nothing_is_known_behind_the_end(tiny: WorldModel) -> None:
    frames, mask = torch.zeros(4, 1, 16, 16), torch.zeros(4, 1, 16, 16)
    mask[3] = 1
    with pytest.raises(EvidenceError, match="frame 3"):
        tiny.query({"frames": Known(frames, mask), "done": Known([0.0, 1.0], [1, 1])}, num_samples=20, seed=0)


# ---- bad input


def changed(data: Dataset, **tensors: Any) -> dict[str, Any]:
    return {**data.train.tensors, **tensors}


def test_games_of_another_form_are_refused(tiny: WorldModel, data: Dataset) -> None:
    rows = data.train.tensors
    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ShapeError, "'frames'", {"x": torch.zeros(3, 2)}),
        (ShapeError, "five axes", changed(data, frames=rows["frames"][:, 0])),
        (ShapeError, "channels seem to be last", changed(data, frames=rows["frames"].movedim(2, -1))),
        (ShapeError, "action has shape", changed(data, action=rows["action"][:, 1:])),
        (DataError, "whole numbers", changed(data, action=rows["action"].float())),
        (DataError, "has 3 actions", changed(data, action=rows["action"] + 2)),
        (DataError, "length", changed(data, length=torch.ones(24, dtype=torch.long))),
        (DataError, "goes on after its end", changed(data, done=torch.ones(24, 31, dtype=torch.bool))),
        (DataError, "expected \\[0, 1\\]", changed(data, frames=rows["frames"].float())),
    ]
    for error, words, games in wrong:
        with pytest.raises(error, match=words):
            tiny.log_prob(games)
    with pytest.raises(ShapeError, match="trained on"):
        tiny.encode(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ShapeError, match="square"):
        WorldModel(TINY).fit(changed(data, frames=rows["frames"][..., :8]), progress="off")


def test_options_out_of_range_are_refused(tiny: WorldModel) -> None:
    for options, words in (({"noise": 0.0}, "noise"), ({"population": 3}, "population"), ({"warmup": 1.0}, "warmup")):
        with pytest.raises(ConfigError, match=words):
            WorldModel(options)
    with pytest.raises(UnknownNameError, match="value of inside"):
        tiny.train_agent(inside="school")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="population"):
        tiny.train_agent(population=2)
    with pytest.raises(ConfigError, match="tau"):
        tiny.dream(tau=-1.0)
    with pytest.raises(ShapeError, match="controllers"):
        tiny.dream(torch.zeros(2, 3))
    with pytest.raises(RunError, match="no agent"):
        tiny.play("nowhere.json")


def test_a_game_of_ones_own_can_be_dreamt_but_not_played(data: Dataset) -> None:
    own = {name: value[:, :12] if value.dim() > 1 else value for name, value in data.train.tensors.items()}
    own["length"] = own["length"].clamp(max=12)
    own["done"] = own["done"] & (torch.arange(12) == own["length"].unsqueeze(1) - 1)
    with pytest.warns(DataWarning, match="no game ends"):
        system = WorldModel({**TINY, "frame_steps": 2, "steps": 2}).fit(own, progress="off")
    assert system.sample(2, seed=0)["frames"].shape[1] <= 12
    with pytest.raises(ConfigError, match="pass one"):
        system.play()
    assert "survival" not in system.evaluate(own, ["survival"])
    found = system.play("random", 5, game=system.dream_game(), max_steps=6)
    assert found.score.shape == (5,)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "x"}', '{"format": "phlogiston world player 1"}'])
def test_files_that_hold_no_player_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"as an agent|expected an object, an agent"):
        TrainedAgent.load(path)


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "player-1.json"
    path.write_text(
        '{"format": "phlogiston world player 1", "weights": [0.5, -1.0], "looks": "z", "inside": "game", "tau": 1.3, '
        '"ends": "rule", "curve": [[3.0, 5.0]]}'
    )
    agent = TrainedAgent.load(path)
    assert agent.weights.tolist() == [0.5, -1.0]
    assert (agent.looks, agent.inside, agent.tau, agent.ends, agent.curve) == ("z", "game", 1.3, "rule", [(3.0, 5.0)])


# ---- the command line


def test_the_command_trains_a_player_and_dreams_with_it(run: Path, tmp_path: Path) -> None:
    options = {"generations": "1", "population": "4", "rollouts": "1", "max_steps": "5"}
    sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(app, ["practise", str(run), *sets, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert Path(told["out"]) == run / "players" / "player-1.json"
    assert told["generations"] == 1
    video = tmp_path / "dream.gif"
    call = ["sample", str(run), "-n", "2", "--set", "steps=4", "--set", f"player={told['out']}", "--out", str(video)]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert video.stat().st_size > 100


def test_other_systems_have_no_dream_to_practise_in(tmp_path: Path) -> None:
    small = datasets.load("swissroll", n=200)
    folder = tmp_path / "drmm"
    systems.get("drmm")(num_components=4, num_layers=1, steps=2).fit(small, out=folder, progress="off")
    with pytest.raises(ConfigError, match="dreams no games"):
        workflow.practise(folder)
