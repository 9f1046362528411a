"""Each verb does what it says, prints one JSON object with `--json`, and never overwrites anything silently."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.cli import main
from phlogiston.systems import export, workflow

Command = Callable[..., Any]
SMALL = ["--set", "num_layers=2", "--set", "num_components=4", "--data-set", "n=700"]


# ---- systems and data


def test_only_the_verb_that_is_asked_for_is_built() -> None:
    verbs = [str(command.name) for command in main.app.registered_commands]
    assert len(verbs) == len(set(verbs)) > 10
    for verb in (*verbs, "data"):
        one = main._only([verb, "--help"])
        assert [c.name for c in (*one.registered_commands, *one.registered_groups)] == [verb]
    for arguments in ([], ["--version"], ["trian"]):
        assert main._only(arguments) is main.app


def test_systems_lists_all_and_shows_every_documented_option_of_one(command: Command) -> None:
    assert set(command("systems", "--json").json["systems"]) == set(systems.names())
    for name in systems.names():
        shown = command("systems", name, "--json").json
        assert shown["presets"].keys() == systems.presets(name).keys()
        assert all(option["about"] for option in shown["options"].values())
        assert name in command("systems", name).out


def test_data_list_and_info_agree_with_the_registry(command: Command) -> None:
    listed = {entry["name"]: entry for entry in command("data", "list", "--json").json["data"]}
    assert tuple(listed) == datasets.names()
    for name in datasets.names():
        about = command("data", "info", name, "--json").json
        assert about["rows"] == listed[name]["rows"]
        assert about["options"].keys() == datasets.info(name).options.keys()
        assert about["licence"] in command("data", "info", name).out


def test_data_info_tells_every_decision_with_the_option_that_changes_it(command: Command, tmp_path: Path) -> None:
    rows = "".join(f"2024-01-{d:02d};{d},5;{'?' if d == 9 else d * 1000};{'uv'[d % 2]}\n" for d in range(1, 29))
    (tmp_path / "mine.csv").write_text("when;price;2020;kind\n" + rows.replace(";7000;", ";7e13;"))
    told = {
        (d["topic"], d["option"]): d["found"] for d in command("data", "info", "mine.csv", "--json").json["decisions"]
    }
    assert told["fields", "delimiter=|"] == "separated by semicolon"
    assert told["header", "header=false"] == "the first line holds names"
    assert "days since 1970-01-01" in told["dates", "categorical=when"]
    assert told["numbers", "decimal=."] == "column 'price': decimal mark ','"
    assert told["range", "categorical=price"] == "price: 1.5 to 28.5, 28 different"
    assert "1 of 84 entries" in told["missing", ""]
    assert "column '2020', row 6: 7e+13" in told["wild", ""]
    assert "column 'kind': text, 2 categories" in told["labels", "columns=when"]
    printed = command("data", "info", "mine.csv").out
    assert all(found in printed for found in told.values())
    changed = command("data", "info", "mine.csv", "--set", "categorical=when", "--json").json
    assert changed["columns"] == ["price", "2020"]


def test_data_info_tells_what_was_found_in_a_file_of_the_users(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b,kind\n1,2,u\n3,?,v\n5,6,u\n7,8,u\n")
    found = command("data", "info", "mine.csv", "--set", "valid=0", "--set", "test=1", "--json").json
    assert found["rows"] == {"train": 3, "valid": 0, "test": 1}
    assert found["columns"] == ["a", "b"]
    assert found["categorical"] == {"kind": ["u", "v"]}
    assert "kind" in command("data", "info", "mine.csv").out


@pytest.mark.parametrize(
    ("name", "options"),
    [("swissroll", ["n=70"]), ("digits", []), ("poses", ["sizes=[50,0,0]"]), ("table.csv", ["valid=0", "test=0"])],
)
def test_preview_draws_every_kind_of_data(command: Command, tmp_path: Path, name: str, options: list[str]) -> None:
    (tmp_path / "table.csv").write_text("a,b,kind\n1,2,u\n3,4,v\n")
    sets = [part for option in options for part in ("--set", option)]
    done = command("data", "preview", name, *sets, "--json").json
    picture = iio.imread(done["out"])
    assert picture.shape[0] > 300
    assert picture[..., :3].std() > 5  # something is drawn
    again = command("data", "preview", name, *sets)
    assert again.code == 2
    assert "--force" in again.err
    assert command("data", "preview", name, *sets, "--force").code == 0


def test_get_has_nothing_to_fetch_for_built_in_data(command: Command) -> None:
    assert command("data", "get", "digits", "--json").json == {"name": "digits", "folder": None}


def test_get_checks_files_that_are_there(command: Command, test_data: Callable[[str], Path]) -> None:
    folder = test_data("mnist")
    assert command("data", "get", "mnist", "--root", folder, "--json").json["folder"] == str(folder)


# ---- train


def test_train_leaves_a_fresh_run_folder_and_tells_where(command: Command) -> None:
    first = command("train", "drmm", *SMALL, "--steps", 6, "--json").json
    assert first.keys() == {"run", "system", "data", "steps", "seconds", "loss"}
    assert (first["run"], first["system"], first["data"], first["steps"]) == (
        str(Path("runs/drmm-swissroll-1")),
        "drmm",
        "swissroll",
        6,
    )
    assert np.isfinite(first["loss"])
    second = command("train", "drmm", *SMALL, "--steps", 6)
    assert second.out == str(Path("runs/drmm-swissroll-2")) + "\n"
    config = systems.read_config("runs/drmm-swissroll-2")["config"]
    assert config["options"]["num_layers"] == 2
    assert config["options"]["steps"] == 6
    assert config["data"]["options"]["n"] == 700


def test_options_go_over_the_preset(command: Command) -> None:
    run = command("train", "drmm", "--preset", "swissroll", *SMALL, "--set", "frame=iso", "--steps", 3).out.strip()
    options = systems.read_config(run)["config"]["options"]
    assert (options["frame"], options["num_components"], options["steps"]) == ("iso", 4, 3)


def test_an_existing_folder_is_refused_unless_resumed_and_nothing_in_it_is_touched(
    command: Command, tmp_path: Path
) -> None:
    run = command("train", "drmm", *SMALL, "--steps", 6, "--seed", 3, "--out", "mine").out.strip()
    before = {p: p.read_bytes() for p in sorted(Path(run).rglob("*")) if p.is_file()}
    refused = command("train", "drmm", *SMALL, "--steps", 6, "--out", run)
    assert refused.code == 2
    assert "--resume" in refused.err
    assert before == {p: p.read_bytes() for p in sorted(Path(run).rglob("*")) if p.is_file()}
    # with --resume alone the settings are those of the run
    assert command("train", "drmm", "--out", run, "--resume", "--json").json["steps"] == 6
    other = command("train", "drmm", "--out", run, "--resume", "--seed", 4)
    assert other.code == 1
    assert "another configuration" in other.err
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "page.txt").write_text("mine")
    assert command("train", "drmm", *SMALL, "--out", "diary").code == 2
    assert os.listdir("diary") == ["page.txt"]


def test_an_interrupted_run_goes_on_to_the_same_parameters(command: Command, tmp_path: Path) -> None:
    arguments = ["train", "drmm", *SMALL, "--steps", "600", "--out"]
    program = "from phlogiston.__main__ import main; main()"
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # it is resumed in this process
    process = subprocess.Popen([sys.executable, "-P", "-c", program, *arguments, "cut"], cwd=tmp_path, env=threads)
    try:
        while not (tmp_path / "cut" / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    done = command("train", "drmm", "--out", "cut", "--resume", "--json").json
    whole = command(*arguments, "whole", "--json").json
    assert done["steps"] == whole["steps"] == 600
    drawn = [command("sample", run, "--out", f"{run}.npz").code for run in ("cut", "whole")]
    assert drawn == [0, 0]
    a, b = (np.load(f"{run}.npz", allow_pickle=False)["x"] for run in ("cut", "whole"))
    assert a.tobytes() == b.tobytes()


def test_a_csv_of_the_users_is_trained_on_and_found_again_from_elsewhere(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    with open("mine.csv", "w", newline="") as file:
        rows = [[f"{a:.3f}", f"{b:.3f}" if a > -1 else "", "uv"[int(a > 0)]] for a, b in rng.normal(size=(60, 2))]
        csv.writer(file).writerows([["a", "b", "kind"], *rows])
    run = command("train", "drmm", "--data", "mine.csv", *SMALL[:4], "--steps", 5).out.strip()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    scored = command("evaluate", tmp_path / run, "--metrics", "log_likelihood", "--json").json
    assert scored["data"] == str(tmp_path / "mine.csv")
    assert scored["metrics"]["log_likelihood"]["n"] == 12
    command("sample", tmp_path / run, "-n", 7, "--out", "drawn.csv")
    with open("drawn.csv", newline="") as file:
        header, *drawn = list(csv.reader(file))
    assert header == ["a", "b", "kind"]
    assert len(drawn) == 7
    assert {row[2] for row in drawn} <= {"u", "v"}
    (tmp_path / "mine.csv").unlink()
    gone = command("evaluate", tmp_path / run)
    assert gone.code == 2
    assert "--data" in gone.err


# ---- sample


def test_equal_seeds_give_equal_samples_and_files_are_never_overwritten_silently(
    command: Command, trained: Path
) -> None:
    arguments = ["sample", trained, "-n", 5, "--out"]
    told = command(*arguments, "a.npz", "--seed", 1, "--json").json
    assert told == {"run": str(trained), "n": 5, "seed": 1, "out": "a.npz"}
    command(*arguments, "b.npz", "--seed", 1), command(*arguments, "c.npz", "--seed", 2)
    a, b, c = (dict(np.load(f"{name}.npz", allow_pickle=False)) for name in "abc")
    assert a["x"].shape == (5, 64)
    assert a["label"].shape == (5,)
    assert a["columns"][0] == "pixel_0_0"
    assert (a["x"] == b["x"]).all()
    assert (a["x"] != c["x"]).any()
    kept = Path("a.npz").read_bytes()
    assert command(*arguments, "a.npz", "--seed", 2).code == 2
    assert Path("a.npz").read_bytes() == kept
    assert command(*arguments, "a.npz", "--seed", 2, "--force").code == 0
    assert (np.load("a.npz", allow_pickle=False)["x"] == c["x"]).all()
    assert sorted(os.listdir()) == ["a.npz", "b.npz", "c.npz"]


@pytest.mark.parametrize("suffix", [".png", ".gif", ".mp4", ".csv"])
def test_samples_are_written_in_the_form_the_suffix_asks_for(command: Command, trained: Path, suffix: str) -> None:
    out = command("sample", trained, "-n", 9, "--out", f"nine{suffix}").out.strip()
    if suffix == ".csv":
        table = datasets.load(out, valid=0, test=0, categorical="label")
        assert len(table.train) == 9
        return
    content = iio.imread(out, **({"plugin": "pyav"} if suffix == ".mp4" else {}))
    frames = content if suffix != ".png" else content[None]
    assert len(frames) == (1 if suffix == ".png" else 9)
    assert 128 <= frames.shape[1] <= 260


def test_options_of_sample_are_checked_by_name(command: Command, trained: Path) -> None:
    assert command("sample", trained, "--set", "depth=1", "--out", "a.npz").code == 0
    wrong = command("sample", trained, "--set", "dept=1", "--out", "b.npz")
    assert wrong.code == 2
    assert "Did you mean 'depth'" in wrong.err
    assert not Path("b.npz").exists()


def test_videos_are_laid_side_by_side_and_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    video = np.zeros((3, 4, 5, 7, 3))
    video[:] = np.array([0.0, 0.1, 1.0, 0.2])[:, None, None, None]  # equal neighbours would be one frame of a gif
    export.write(tmp_path / "v.gif", export.Samples({"frames": video}))
    frames = iio.imread(tmp_path / "v.gif")
    assert len(frames) == 4
    assert frames[2].mean() > 2 * frames[1].mean()
    export.write(tmp_path / "v.mp4", export.Samples({"frames": video}))
    export.write(tmp_path / "v.png", export.Samples({"frames": video}))
    assert iio.imread(tmp_path / "v.png").shape == (15, 28, 3)


# ---- evaluate, runs, demo


def test_evaluate_leaves_metrics_and_a_report_that_needs_no_other_file(command: Command) -> None:
    run = Path(command("train", "drmm", *SMALL, "--steps", 20).out.strip())
    told = command("evaluate", run, "--json").json
    assert told.keys() == {"run", "data", "metrics"}
    assert all(metric.keys() == {"value", "std_error", "n", "kind"} for metric in told["metrics"].values())
    assert told["metrics"]["log_likelihood"]["n"] == 200
    assert told["metrics"]["log_likelihood"]["value"] < told["metrics"]["log_likelihood_of_truth"]["value"]
    written = json.loads((run / "metrics.json").read_text())
    assert written["metrics"].keys() == told["metrics"].keys()
    page = (run / "report.html").read_text()
    assert "data:image/svg+xml" in page
    assert f"phlogiston evaluate {run} --json" not in page
    assert f"phlogiston evaluate {run}<" in page
    assert "phlogiston train drmm --data swissroll" in page
    assert 'src="http' not in page
    text = command("evaluate", run, "--metrics", "log_likelihood").out
    assert text.splitlines()[-1] == str(run / "report.html")
    assert command("evaluate", run, "--metrics", "log_likelyhood").code == 2
    other = command("evaluate", run, "--data", "sierpinski", "--metrics", "log_likelihood", "--json").json
    assert other["data"] == "sierpinski"


def test_runs_shows_each_run_with_its_figures_and_passes_over_other_folders(command: Command, tmp_path: Path) -> None:
    run = command("train", "drmm", *SMALL, "--steps", 5).out.strip()
    command("evaluate", run, "--metrics", "log_likelihood")
    command("train", "drmm", *SMALL, "--steps", 7)
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "config.json").write_text("{broken")
    (tmp_path / "runs" / "notes").mkdir()
    told = command("runs", "--json").json["runs"]
    assert [(r["system"], r["data"], r["steps"]) for r in told] == [("drmm", "swissroll", 5), ("drmm", "swissroll", 7)]
    assert [list(r["metrics"]) for r in told] == [["log_likelihood"], []]
    assert "not evaluated" in command("runs").out
    (tmp_path / "empty").mkdir()
    assert "no runs" in command("runs", "empty").out


def test_demo_writes_one_report_goes_on_where_it_stopped_and_spares_other_folders(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipes(quick: bool = False) -> list[dict[str, Any]]:
        options = {"num_layers": 1, "num_components": 4, "steps": 5}
        recipe = {"title": "A roll", "text": "A story.", "data": "swissroll", "data_options": {"n": 700}}
        return [{**recipe, "options": options}]

    monkeypatch.setattr(systems.get("drmm"), "demo", recipes)
    monkeypatch.setattr(workflow.systems, "names", lambda: ("drmm",))
    done = command("demo", "--quick", "--out", "show")
    report = Path(done.out.splitlines()[-1])
    assert report == Path("show/report.html")
    assert "A story." in report.read_text()
    assert "[1/1] A roll" in done.err
    trained = (tmp_path / "show" / "a-roll-quick" / "metrics.jsonl").stat().st_mtime_ns
    again = command("demo", "--quick", "--out", "show", "--json").json
    assert again == {"report": str(report), "runs": [str(Path("show/a-roll-quick"))]}
    assert (tmp_path / "show" / "a-roll-quick" / "metrics.jsonl").stat().st_mtime_ns == trained
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "report.html").write_text("mine")
    refused = command("demo", "--out", "diary")
    assert refused.code == 2
    assert (tmp_path / "diary" / "report.html").read_text() == "mine"


def test_a_section_of_the_demo_that_fails_is_reported_and_the_others_are_made(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipes(quick: bool = False) -> list[dict[str, Any]]:
        options = {"num_layers": 1, "num_components": 4, "steps": 3}
        recipe = {"text": "A story.", "data": "swissroll", "data_options": {"n": 300}, "options": options}
        return [{"title": "Bad", **recipe, "ask": [["x0 <= no"]]}, {"title": "Good", **recipe}]

    monkeypatch.setattr(systems.get("drmm"), "demo", recipes)
    monkeypatch.setattr(workflow.systems, "names", lambda: ("drmm", "mdn"))
    monkeypatch.setattr(systems.get("mdn"), "demo", lambda quick=False: [])
    done = command("demo", "--quick", "--out", "show")
    assert done.code == 1
    page = Path(done.out.splitlines()[-1]).read_text()
    assert done.err.splitlines()[0] == "show/report.html grows with every section", "told before any work"
    assert "failed while asking" in done.err
    assert "This section failed while asking" in page
    assert page.count("<h2>Good</h2>") == 1
    assert page.count("log_likelihood_of_truth") == 2, "what was computed before the failure is shown"
    assert "Traceback" in Path("show/bad-quick.error.txt").read_text()
    assert "need longer to show what they can: mdn." in page
    assert json.loads(command("demo", "--quick", "--out", "show", "--json").out)["failed"].keys() == {"Bad"}


@pytest.mark.filterwarnings("default::phlogiston.errors.RunWarning")
def test_pictures_that_fail_cost_no_figures_of_merit(
    command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no canvas")

    monkeypatch.setattr(systems.get("drmm"), "figures", broken)
    done = command("evaluate", trained, "--out", "scores")
    assert done.code == 0
    assert "ValueError: no canvas" in done.err
    assert "log_likelihood" in json.loads(Path("scores/metrics.json").read_text())["metrics"]
    assert "The pictures could not be drawn: ValueError: no canvas" in Path("scores/report.html").read_text()


def test_evaluate_keeps_an_earlier_report_and_says_so(command: Command, trained: Path) -> None:
    arguments = ["evaluate", trained, "--metrics", "log_likelihood"]
    first = command(*arguments, "--out", "scores", "--json").json
    assert first["out"] == "scores"
    assert sorted(os.listdir("scores")) == ["metrics.json", "report.html"]
    page = Path("scores/report.html").read_text()
    again = command(*arguments, "--out", "scores")
    assert "kept: scores/metrics-1.json, scores/report-1.html" in again.err
    assert Path("scores/report-1.html").read_text() == page
    assert command(*arguments, "--out", "scores", "--force").err == ""
    assert sorted(os.listdir("scores")) == ["metrics-1.json", "metrics.json", "report-1.html", "report.html"]
    assert "kept: scores/metrics-2.json" in command(*arguments, "--out", "scores").err


def test_what_could_not_be_written_is_refused_before_the_work(
    command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("phlogiston.files.os.fsync", full)
    monkeypatch.setattr("phlogiston.systems.workflow.score", None)  # the work, which never begins
    for arguments in (["evaluate", trained], ["sample", trained, "--out", "a.npz"]):
        refused = command(*arguments)
        assert refused.code == 1
        assert "No space left on device" in refused.err
        assert "nothing was computed" in refused.err
    assert os.listdir() == []
