"""The recorder of the full recipes: complete entries only, others kept, files never half-written."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .recorder import Entry, cpu_time, merge

ROOT = Path(__file__).resolve().parents[2]


def entry(path: Path, name: str = "density/roll", seeds: tuple[int, ...] = (0, 1), **fields: object) -> Entry:
    return Entry(path / "toy.json", "toy", name, seeds, **fields)


def fill(made: Entry, *values: float) -> Entry:
    for seed, value in zip(made.seeds, values, strict=True):
        with made.measure(seed) as run:
            run.value = value
    return made


def stored(path: Path) -> dict:
    return json.loads((path / "toy.json").read_text(encoding="utf-8"))


def test_a_finished_entry_holds_values_mean_error_and_what_made_it(tmp_path: Path) -> None:
    fill(entry(tmp_path, title="roll", must=-3.0, steps=100), -2.0, -1.0)
    content = stored(tmp_path)
    (one,) = content["entries"]
    assert content["system"] == "toy"
    assert one["values"] == {"0": -2.0, "1": -1.0}
    assert one["mean"] == -1.5
    assert one["std_error"] == pytest.approx(0.5)
    assert (one["title"], one["must"], one["steps"], one["command"]) == ("roll", -3.0, 100, "make learn SYSTEM=toy")
    assert {"python", "torch", "pyro-ppl"} <= set(one["versions"])
    assert one["machine"].endswith("CPU")
    assert content["date"] == one["date"]


def test_nothing_is_written_before_the_last_seed(tmp_path: Path) -> None:
    fill(entry(tmp_path), -1.0, -1.0)
    before = (tmp_path / "toy.json").read_bytes()
    again = entry(tmp_path)
    with again.measure(0) as run:
        run.value = -9.0
    assert (tmp_path / "toy.json").read_bytes() == before


def test_an_entry_replaces_its_own_kind_in_place_and_keeps_the_others(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        fill(entry(tmp_path, name), 0.0, 0.0)
    fill(entry(tmp_path, "b"), 5.0, 5.0)
    assert [(e["name"], e["mean"]) for e in stored(tmp_path)["entries"]] == [("a", 0.0), ("b", 5.0), ("c", 0.0)]


def test_a_missed_bar_fails_after_the_figure_was_recorded(tmp_path: Path) -> None:
    made = fill(entry(tmp_path, must=0.0), -2.0, -1.0)
    with pytest.raises(AssertionError, match=r"does not reach 0\.0"):
        made.check()
    assert stored(tmp_path)["entries"][0]["mean"] == -1.5
    fill(entry(tmp_path, must=0.0, higher_is_better=False), -2.0, -1.0).check()


def test_an_unmeasured_seed_fails_the_check(tmp_path: Path) -> None:
    made = entry(tmp_path)
    with made.measure(0) as run:
        run.value = 1.0
    with pytest.raises(AssertionError, match=r"seeds \[1\] were not measured"):
        made.check()


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused(tmp_path: Path, value: float | None) -> None:
    made = entry(tmp_path, seeds=(0,))
    with pytest.raises(ValueError, match="not a finite number"), made.measure(0) as run:
        run.value = value
    assert not (tmp_path / "toy.json").exists()


def test_the_clock_counts_processor_time_and_stops_when_told(tmp_path: Path) -> None:
    def work(seconds: float) -> None:
        end = cpu_time() + seconds
        while cpu_time() < end:
            sum(range(1000))

    made = entry(tmp_path, seeds=(0,))
    with made.measure(0) as run:
        work(0.1)
        run.stop()
        work(0.2)
        run.value = 0.0
    assert 0.09 < run.cpu_seconds < 0.2
    with made.measure(0) as rest:  # a kept run, gone on with twice
        rest.stop(tmp_path)
        rest.began -= 10.0
        rest.stop(tmp_path)
        rest.value = 0.0
    assert 10.0 <= rest.cpu_seconds < 10.5


def test_a_field_of_the_recorders_own_cannot_be_passed(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="mean is computed"):
        entry(tmp_path, mean=3.0)


def test_a_figure_that_json_cannot_hold_leaves_the_file_alone(tmp_path: Path) -> None:
    fill(entry(tmp_path), 1.0, 1.0)
    before = (tmp_path / "toy.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        fill(entry(tmp_path, baselines={"broken": float("nan")}), 1.0, 1.0)
    assert (tmp_path / "toy.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy.json"]


def test_a_file_of_another_system_is_refused(tmp_path: Path) -> None:
    fill(entry(tmp_path), 1.0, 1.0)
    with pytest.raises(ValueError, match="results of 'toy', not of 'other'"):
        merge(tmp_path / "toy.json", "other", {"name": "x"})


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    threads = [threading.Thread(target=fill, args=(entry(tmp_path, f"e{i}"), float(i), float(i))) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(e["mean"] for e in stored(tmp_path)["entries"]) == [float(i) for i in range(12)]


RECIPE = """
import pytest

@pytest.mark.learn
def test_toy(record, seeds):
    entry = record("toy", "density/roll", must=0.0)
    for seed in entry.seeds:
        with entry.measure(seed) as run:
            run.value = float(seed)
    entry.check()
"""


def test_the_fixture_and_its_options_work_in_a_run_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = --import-mode=importlib\nmarkers =\n    learn: full recipe\n"
    )
    folder = tmp_path / "tests" / "learn"
    folder.mkdir(parents=True)
    for name in ("conftest.py", "recorder.py"):
        (folder / name).write_text((Path(__file__).parent / name).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_toy.py").write_text(RECIPE)
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "tests/learn",
        "-q",
        "-p",
        "no:cacheprovider",
        "--results",
        tmp_path,
    ]
    done = subprocess.run([*command, "--seeds", "3,5"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stored(tmp_path)["entries"][0]["values"] == {"3": 3.0, "5": 5.0}
    done = subprocess.run([*command, "--seeds", "three"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "takes whole numbers" in done.stdout + done.stderr
