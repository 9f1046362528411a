"""Records of a run in other loggers: every one once, also over a resume, and refused by name before any work."""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from phlogiston.errors import ConfigError
from phlogiston.inference.svi.run_folder.loggers import callbacks
from phlogiston.inference.svi.run_folder.metrics import read_metrics
from phlogiston.systems.drmm.system import DRMM

ROWS = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, Any] = {"num_layers": 1, "num_components": 2, "batch_size": 16}


def fit(run: Path, kind: str, steps: int = 20) -> None:
    told = callbacks(kind, run, {"system": "drmm"})
    DRMM(**SMALL, steps=steps).fit(ROWS, out=run, callbacks=told, progress="off", log_every=5, checkpoint_every=10)


def test_csv_holds_every_record(tmp_path: Path) -> None:
    fit(tmp_path / "run", "csv")
    (path,) = (tmp_path / "run" / "csv").rglob("metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [int(row["step"]) for row in rows] == [record["step"] for record in records] == [5, 10, 15, 20]
    assert [float(row["loss"]) for row in rows] == [record["loss"] for record in records]


@pytest.mark.parametrize(("kind", "name"), [("wandb", "WandbLogger"), ("mlflow", "MLFlowLogger")])
def test_services_are_told_through_lightnings_loggers(
    tmp_path: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packages are stood in for: what is tested is what reaches the logger's own interface."""
    heard: list[Any] = []

    class Logger:
        def __init__(self, **options: Any) -> None:
            heard.append(options)

        def log_hyperparams(self, settings: Any) -> None:
            heard.append(settings)

        def log_metrics(self, values: dict[str, float], step: int) -> None:
            heard.append((step, values["loss"]))

        def save(self) -> None: ...

        def finalize(self, status: str) -> None:
            heard.append(status)

    loggers = types.SimpleNamespace(**{name: Logger})
    for module, content in (
        ("lightning", types.ModuleType("lightning")),
        ("lightning.pytorch", types.SimpleNamespace(loggers=loggers)),
        (kind, types.ModuleType(kind)),
    ):
        monkeypatch.setitem(sys.modules, module, content)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    fit(tmp_path / "run", kind)
    assert {"run", "mine"} >= {heard[0].get("name", heard[0].get("run_name"))}
    assert heard[1] == {"system": "drmm"}
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [h for h in heard if isinstance(h, tuple)] == [(r["step"], r["loss"]) for r in records]
    assert heard[-1] == "success"


def test_what_is_not_there_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="unknown logger 'wandbb'"):
        callbacks("wandbb", tmp_path, {})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for kind in ("wandb", "mlflow", "tensorboard"):
        with pytest.raises(ConfigError, match=rf'pip install "phlogiston\[{kind}\]"'):
            callbacks(kind, tmp_path, {})
    assert callbacks(None, tmp_path, {}) == []
