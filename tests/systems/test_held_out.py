"""Figures say what they are of: held-out rows and no others, and how far the run had come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset
from phlogiston.errors import DataError
from phlogiston.evaluate.held_out import held_out, held_out_part
from phlogiston.evaluate.report import compare_runs
from phlogiston.inference.svi.run_folder.readers import progress_of
from phlogiston.systems import run_table

SMALL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "drmm": ("swissroll", {"sizes": (60, 10, 10)}, {"steps": 2}),
    "mdn": ("arcsine", {"sizes": (60, 10, 10)}, {"steps": 2, "hidden": (4,)}),
    "sequence": ("script", {"sizes": (12, 4, 4), "letters": (1, 1)}, {"steps": 2, "hidden": 4}),
    "sketch": ("script", {"sizes": (12, 4, 4), "letters": (1, 1)}, {"steps": 2, "hidden": 4, "latent": 0}),
    "handwriting": ("script", {"sizes": (12, 4, 4), "letters": (1, 1)}, {"steps": 2, "hidden": 4}),
    "scene": ("courts", {"sizes": (6, 3, 3), "views": 6, "size": 16}, {
        "nodes": "hub", "bins": 4, "values": 2, "code": 4, "encoder": (4,), "grid": 4, "hidden": 4, "latent": 1,
        "layers": 0, "width": 6, "blocks": 1, "context": 3, "queries": 1, "batch_size": 2, "draft_steps": 2, "steps": 1,
    }),
    "vdsm": ("figures", {"characters": (3, 0, 2), "size": 16, "frames": 4}, {
        "experts": 2, "pose": 2, "dynamics": 2, "encoder_widths": (4, 4), "features": 8, "decoder_widths": (4, 4),
        "recurrent": 4, "steps": 2, "batch_size": 4, "warm_steps": 1, "sequence_steps": 1, "warmup": 1, "aggregate": 1,
    }),
    "sqair": ("moving_digits", {"sizes": (8, 2, 2)}, {
        "steps": 2, "lengths": (2,), "shares": (1.0,), "batch_size": 4, "hidden": 8, "memory": 4,
    }),
    "world": ("dodge", {"sizes": (6, 2, 2), "limit": 12}, {
        "widths": (4, 4), "features": 8, "code": 2, "hidden": 4, "frame_steps": 1, "steps": 1, "frame_batch": 4,
        "batch_size": 4, "generations": 0,
    }),
}  # fmt: skip


def fitted(name: str) -> tuple[Any, Dataset]:
    source, options, config = SMALL[name]
    data = datasets.load(source, **options)
    return systems.get(name)(config).fit(data, progress="off", tensorboard=False), data


def all_training(data: Dataset, valid: bool = False) -> Dataset:
    nothing = data.train.select(slice(0, 0))
    return Dataset(data.train, data.valid if valid else nothing, nothing, data.meta)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_training_rows_are_never_scored_as_held_out_ones(name: str) -> None:
    system, data = fitted(name)
    whole = all_training(data)
    for verb in (system.evaluate, system.figures, system.log_prob):
        with pytest.raises(DataError, match="no held-out rows"):
            verb(whole)


def test_test_rows_come_before_validation_rows() -> None:
    data = datasets.load("swissroll", sizes=(50, 20, 10))
    assert (held_out(data), held_out_part(data)) == (data.test, "test")
    some = all_training(data, valid=True)
    assert (held_out(some), held_out_part(some)) == (data.valid, "validation")
    with pytest.raises(DataError, match=r"all 50 are training rows.*test=0\.2"):
        held_out(all_training(data))


class Stop:
    def on_step(self, state: Any) -> None:
        if state.step == 4:
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("default::phlogiston.errors.RunWarning")
def test_an_unfinished_run_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from phlogiston.cli.main import main

    data = datasets.load("swissroll", sizes=(60, 10, 10))
    run = tmp_path / "runs" / "mine"
    with pytest.raises(KeyboardInterrupt):
        systems.get("drmm")(steps=8).fit(data, out=run, progress="off", callbacks=[Stop()], checkpoint_every=3)
    progress = progress_of(run)
    assert progress is not None
    assert (progress.step, progress.steps, progress.finished) == (3, 8, False)
    (told,) = run_table.runs(tmp_path / "runs")
    assert (told["steps"], told["total"], told["finished"]) == (3, 8, False)

    def printed(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            main([*arguments])
        assert not left.value.code
        return capsys.readouterr().out

    assert "3 of 8, unfinished" in printed("runs", str(tmp_path / "runs"))
    assert "unfinished run: step 3 of 8" in printed("evaluate", str(run), "--metrics", "log_likelihood")
    result = json.loads(printed("evaluate", str(run), "--metrics", "log_likelihood", "--json"))
    assert (result["finished"], result["step"], result["steps"]) == (False, 3, 8)
    assert "rows" not in result  # test rows
    shown = printed("evaluate", str(run), "--metrics", "log_likelihood", "--data-set", "sizes=[60, 10, 0]")
    assert "no test rows: scored on validation rows" in shown
    assert "10 validation rows" in (run / "report.html").read_text()
    printed("evaluate", str(run), "--metrics", "log_likelihood")
    assert "unfinished: step 3 of 8" in (run / "report.html").read_text()
    assert "unfinished, scored at step 3 of 8" in compare_runs([run]).html()
    systems.get("drmm")(steps=8).fit(data, out=run, progress="off", checkpoint_every=3)
    (told,) = run_table.runs(tmp_path / "runs")
    assert (told["steps"], told["finished"]) == (8, True)
    assert ", unfinished" not in printed("runs", str(tmp_path / "runs"))
    finished = json.loads(printed("evaluate", str(run), "--metrics", "log_likelihood", "--json"))
    assert set(finished) == {"run", "data", "metrics"}
    assert "unfinished:" not in (run / "report.html").read_text()
