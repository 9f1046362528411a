"""A search for options: spaces, the trials it draws, pruning, going on after a stop, several processes, the command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("optuna", reason="a search needs the extra phlogiston[sweep]")

from phlogiston import datasets, systems
from phlogiston.cli.main import main
from phlogiston.errors import ConfigError, PhlogistonError, RunError, RunMismatchError
from phlogiston.systems.sweep import study as studies
from phlogiston.systems.sweep.space import axes, read_space
from phlogiston.systems.sweep.study import Study, sweep
from phlogiston.systems.sweep.trials import load_rows, run_trial

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
    "num_components": {"low": 2, "high": 6, "step": 2},
    "hidden": [[8], [8, 8]],
    "batch_size": 32,
}
SMALL: dict[str, Any] = {"data": "arcsine", "data_options": {"sizes": "[60, 20, 20]"}, "steps": 20, "progress": "off"}


def shown(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())


# ---- spaces


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("learning_rat = [0.1]", "learning_rate"),
        ("learning_rate = { lo = 1, high = 2 }", "low"),
        ("learning_rate = { low = 0.1 }", "learning_rate has no 'high'"),
        ("learning_rate = { low = 0.1, high = 0.01 }", "learning_rate: low is 0.1"),
        ("learning_rate = { low = 0.0, high = 0.1, log = true }", "learning_rate: low is 0.0"),
        ("learning_rate = { low = 'a', high = 0.1 }", "learning_rate: low is 'a'"),
        ("learning_rate = { low = nan, high = 0.1 }", "learning_rate: low is nan"),
        ("learning_rate = { low = 0.1, high = 0.2, log = 1 }", "learning_rate: log is 1"),
        ("learning_rate = { low = -0.1, high = 0.1 }", "learning_rate = -0.1"),
        ("num_components = { low = 2, high = 8, step = 0.5 }", "num_components: step is 0.5"),
        ("num_components = { low = 2.5, high = 8 }", "num_components = 2.5"),
        ("num_components = []", "num_components has no choices"),
        ("num_components = [2, 2]", "num_components names a choice twice"),
        ("batch_size = 'many'\nnum_components = [2]", "batch_size"),
        ("batch_size = 32", "nothing to search"),
        ("learning_rate = ", "no TOML"),
        ("a = " + "[" * 9000, "nested too deeply"),
    ],
)
def test_a_bad_space_names_the_key(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "space.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        axes(read_space(file), "mdn", {})
    assert named in str(error.value)


def test_what_is_searched_may_not_be_set_too() -> None:
    with pytest.raises(ConfigError, match="num_components is searched"):
        axes({"num_components": [2, 3]}, "mdn", {"num_components": 4})


# ---- searching


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search nothing was done to."""
    folder = tmp_path_factory.mktemp("sweeps") / "whole"
    sweep("mdn", SPACE, trials=3, out=folder, **SMALL)
    return folder


def test_the_best_trial_is_the_one_of_the_lowest_validation_loss_and_a_run_like_any_other(whole: Path) -> None:
    told = shown(whole)
    assert told["complete"] == 3
    trials = {trial["value"]: trial for trial in told["trials"]}
    assert told["value"] == min(trials)
    best = trials[told["value"]]
    assert told["best"] == str(whole / "trials" / f"{best['trial']:04d}")
    assert told["options"] == best["options"]
    for trial in told["trials"]:
        options = trial["options"]
        assert 1e-3 <= options["learning_rate"] <= 1e-1
        assert options["num_components"] in (2, 4, 6)
        assert options["hidden"] in ([8], [8, 8])
    system = systems.load(told["best"])
    assert system.config.batch_size == 32
    assert system.config.num_components == best["options"]["num_components"]
    valid = datasets.load("arcsine", sizes=(60, 20, 20)).valid
    assert -float(system.log_prob(valid).value.mean()) == pytest.approx(told["value"], abs=0.05)  # but for the prior
    assert (whole / "sweep.png").stat().st_size > 1000


def test_a_search_that_was_stopped_goes_on_with_the_trial_it_was_at(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stopped"
    report, count = Study.report, 0

    def stopped(self: Study, trial: Any, at: int, value: float) -> bool:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return report(self, trial, at, value)

    monkeypatch.setattr(Study, "report", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep("mdn", SPACE, trials=3, out=folder, **SMALL)
    monkeypatch.undo()
    with (folder / "journal.log").open("a") as file:
        file.write('{"op_code": 6, "wor')  # what a kill may leave of a line
    told = sweep("mdn", trials=3, out=folder, resume=True, progress="off")
    assert (told["complete"], told["failed"]) == (3, 0)
    before, after = shown(whole)["trials"], shown(folder)["trials"]
    assert after[:2] == before[:2]
    for number in ("0000", "0001"):
        pairs = (systems.load(root / "trials" / number).model.state_dict() for root in (whole, folder))
        assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in pairs), strict=True))


def test_what_a_search_refuses(whole: Path, tmp_path: Path) -> None:
    for wrong, error, text in (
        ({"space": {**SPACE, "batch_size": 64}, "resume": True, "out": whole}, RunMismatchError, "batch_size"),
        ({"space": SPACE, "out": whole, **SMALL}, ConfigError, "exists already"),
        ({"resume": True, "out": tmp_path}, RunError, "holds no search"),
        ({"resume": True}, ConfigError, "--out"),
        ({}, ConfigError, "needs a space"),
        ({"space": SPACE, "trials": 0}, ConfigError, "trials=0"),
        ({"space": SPACE, **SMALL, "data_options": {"sizes": "[60, 0, 20]"}}, ConfigError, "no validation rows"),
    ):
        with pytest.raises(PhlogistonError, match=text) as found:
            sweep("mdn", **dict(wrong))  # type: ignore[arg-type]
        assert isinstance(found.value, error)
    with pytest.raises(ConfigError, match="not of drmm"):
        sweep("drmm", resume=True, out=whole)


def test_trials_that_all_fail_end_the_search_with_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise RunError("the moon is full")

    monkeypatch.setattr(studies, "run_trial", failing)
    with pytest.raises(RunError, match="first 3 trials failed, the last one so: the moon is full"):
        sweep("mdn", SPACE, trials=9, out=tmp_path / "s", **SMALL)
    assert shown(tmp_path / "s")["failed"] == 3


def opened(folder: Path, prune: bool = True) -> Study:
    folder.mkdir()
    settings: Mapping[str, Any] = {"system": "mdn", "options": {}, "space": SPACE, "seed": 0, "prune": prune}
    return Study(folder, settings, 1)


def test_a_trial_above_the_median_of_five_is_pruned_but_not_in_its_first_fifth_nor_at_its_end(tmp_path: Path) -> None:
    for name, prune in (("a", True), ("b", False)):
        search = opened(tmp_path / name, prune)
        for i in range(5):
            trial = search.study.ask()
            search.options(trial)
            assert not any(search.report(trial, at, 1.0 + i) for at in (100, 500, 1000))  # the first are never pruned
            search.finish(trial, 1.0 + i, False)
        late, soon = search.study.ask(), search.study.ask()
        assert not search.report(late, 100, 9.0)
        assert search.report(late, 500, 9.0) is prune  # the median is 3
        assert not search.report(soon, 500, 2.5)
        assert not search.report(soon, 1000, 9.0)
        search.finish(late, 9.0, pruned=prune)
        search.finish(soon, float("nan"), False)
        assert search.counts() == {"complete": 5 + (not prune), "pruned": int(prune), "failed": 1}
        assert search.best().value == 1.0
        search.lock.release()


def test_two_jobs_train_as_one_does_and_outlive_a_worker_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phlogiston.systems.sweep.workers import Worker

    begin, killed = Worker.begin, []

    def struck(self: Worker, search: Any, trial: Any) -> None:
        begin(self, search, trial)
        if not killed:
            killed.append(trial.number)
            self.process.kill()

    monkeypatch.setattr(Worker, "begin", struck)
    folder = tmp_path / "two"
    told = sweep("mdn", SPACE, trials=2, jobs=2, out=folder, **SMALL)
    assert (told["complete"], told["failed"]) == (1, 1)
    by_number = {trial["trial"]: trial for trial in shown(folder)["trials"]}
    assert "signal 9" in by_number[killed[0]]["error"]
    settings = json.loads((folder / "sweep.json").read_text())
    number, trial = next((n, t) for n, t in by_number.items() if t["state"] == "complete")
    options = {"batch_size": 32, **trial["options"]}
    value, _ = run_trial(settings, load_rows(settings), options, tmp_path / "alone", lambda at, loss: False)
    assert value == trial["value"]
    pairs = (systems.load(p).model.state_dict() for p in (folder / "trials" / f"{number:04d}", tmp_path / "alone"))
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in pairs), strict=True))


def test_the_command_prints_the_best_run_and_one_line_for_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.toml").write_text("num_components = [2, 3]\n")
    words = ["sweep", "mdn", "--space", "space.toml", "--data", "arcsine", "--data-set", "sizes=[60, 20, 20]"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--steps", "4", "--trials", "2"])
    said = capsys.readouterr()
    assert left.value.code == 0
    assert said.out.strip().startswith("sweeps/mdn-arcsine-1/trials/000")
    assert said.err.count("trial ") >= 2
    with pytest.raises(SystemExit) as left:
        main(["sweep", "mdn", "--resume", "--out", "sweeps/mdn-arcsine-1", "--trials", "2", "--json"])
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out)["complete"] == 2
    Path("space.toml").write_text("num_component = [2, 3]\n")
    with pytest.raises(SystemExit) as left:
        main(words)
    said = capsys.readouterr()
    assert left.value.code == 2
    assert said.err.count("\n") == 1
    assert "Did you mean 'num_components'?" in said.err
