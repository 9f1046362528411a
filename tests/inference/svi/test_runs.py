import json
from pathlib import Path
from typing import Any

import pytest
import torch
from inference_pairs import flat, pair, rows

from phlogiston.errors import RunError
from phlogiston.inference.svi import runs
from phlogiston.inference.svi.engine import Stage, fit
from phlogiston.inference.svi.run_folder.metrics import read_metrics


def train(out: Path, steps: int = 6, seed: int = 0, **options: Any) -> Any:
    model, guide = pair()
    stage = Stage("a", steps, **options.pop("stage", {}))
    history = fit(model, guide, rows(), stages=stage, out=out, seed=seed, log_every=2, **options)
    return flat(model, guide), history


def test_a_run_folder_holds_what_the_page_says(tmp_path: Path) -> None:
    _, history = train(tmp_path / "run", config={"latent": 2})
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"config.json", "environment.json", "metrics.jsonl", "checkpoints", "figures"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["config"] == {"latent": 2}
    assert config["stages"][0]["name"] == "a"
    assert config["seed"] == 0
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0] or environment["packages"]["torch"]
    assert {"python", "platform", "device", "threads", "seed", "command"} <= environment.keys()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [2, 4, 6]
    assert records == history.records
    assert history.run == tmp_path / "run"


def test_tensorboard_can_read_the_events(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, history = train(tmp_path / "run")
    events = event_accumulator.EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    scalars = events.Scalars("loss")
    assert [s.step for s in scalars] == [2, 4, 6]
    assert [s.value for s in scalars] == pytest.approx(history.loss.tolist(), rel=1e-6)


def test_without_tensorboard_events_nothing_else_changes(tmp_path: Path) -> None:
    train(tmp_path / "run", tensorboard=False)
    assert not list((tmp_path / "run").glob("events*"))


def test_a_folder_that_is_no_run_is_left_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"not empty and holds no run.*nothing was touched"):
        train(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file"):
        train(tmp_path / "thesis.tex")


def test_a_foreign_config_file_is_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(RunError):
        train(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RunError, match="not written by phlogiston"):
        train(tmp_path)
    assert (tmp_path / "config.json").read_text() == "[1, 2]"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"steps": 7}, r"stages\[0\].steps \(6 there, 7 here\)"),
        ({"config": {"latent": 3}}, r"config.latent"),
        ({"stage": {"learning_rate": 0.5}}, r"stages\[0\].learning_rate"),
    ],
)
def test_another_configuration_is_refused_by_name(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    train(tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=named):
        train(tmp_path / "run", **change)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_resume_says_whether_a_run_must_or_must_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run to resume"):
        train(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    train(tmp_path / "run", resume=False)
    with pytest.raises(RunError, match="resume=False"):
        train(tmp_path / "run", resume=False)
    train(tmp_path / "run", resume=True)


def test_a_finished_run_returns_at_once_with_its_parameters_and_history(tmp_path: Path) -> None:
    end, history = train(tmp_path / "run")
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "checkpoints").iterdir()}

    class Never:
        def on_step(self, state: Any) -> None:
            raise AssertionError("a finished run was trained again")

    again, second = train(tmp_path / "run", callbacks=[Never()])
    assert torch.equal(again, end)
    assert second.records == history.records
    assert second.finished
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "checkpoints").iterdir()}


def test_two_trainings_cannot_share_a_folder(tmp_path: Path) -> None:
    class Second:
        def on_step(self, state: Any) -> None:
            if state.step == 1:
                with pytest.raises(RunError, match="in use"):
                    train(tmp_path / "run")
                tried.append(1)

    tried: list[int] = []
    train(tmp_path / "run", callbacks=[Second()])
    assert tried
    train(tmp_path / "run")  # the lock is free again


def test_torn_and_repeated_lines_are_read_right(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines: list[dict[str, Any]] = [{"step": step, "loss": float(step)} for step in (1, 2, 3)]
    lines += [{"event": "resume", "step": 1}, {"step": 2, "loss": 2.5}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.5}]
    assert read_metrics(tmp_path / "none") == []


def test_a_new_record_does_not_stick_to_a_torn_line(tmp_path: Path) -> None:
    train(tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 7, "lo')
    run = runs.Run(tmp_path / "run", json.loads((tmp_path / "run" / "config.json").read_text()))
    run.record({"step": 8, "loss": float("nan")})
    run.close()
    assert read_metrics(path)[-1] == {"step": 8, "loss": None}


def test_a_run_killed_before_its_first_checkpoint_may_begin_again(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "figures").mkdir()
    (tmp_path / "config.json").write_text('{"format": 1, "half')
    end, _ = train(tmp_path)
    assert torch.equal(end, train(tmp_path)[0])
