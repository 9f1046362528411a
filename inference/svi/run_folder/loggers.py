"""A run's records in the loggers of Lightning, too: CSV, TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from phlogiston.errors import ConfigError, unknown_name
from phlogiston.inference.svi.callbacks import State
from phlogiston.inference.svi.run_folder.metrics import NAME, read_metrics

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
_NEEDS = {"tensorboard": ("tensorboard",), "wandb": ("lightning", "wandb"), "mlflow": ("lightning", "mlflow")}


def check_logger(kind: str | None) -> None:
    """Refuse a logger before any work is done for it; None is none.

    Raises:
        UnknownNameError: no such logger.
        ConfigError: what it needs is not installed.
    """
    if kind is None:
        return
    if kind not in LOGGERS:
        raise unknown_name("logger", kind, LOGGERS)
    for package in _NEEDS.get(kind, ()):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f'--logger {kind} needs {package}, which is an extra: pip install "phlogiston[{kind}]"')


def callbacks(kind: str | None, run: Path, settings: dict[str, Any]) -> list[RecordsTo]:
    """The callback that a logger takes; none for TensorBoard, whose events every run folder holds anyway.

    Args:
        kind: one of `LOGGERS`, or None.
        run: the run folder.
        settings: of the run, for the logger's table of hyperparameters.

    Raises:
        UnknownNameError, ConfigError: see `check_logger`.
    """
    if kind is None:
        return []
    check_logger(kind)
    return [] if kind == "tensorboard" else [RecordsTo(kind, run, settings)]


class RecordsTo:
    """An engine callback that hands the records of a run to a Lightning logger, at each checkpoint and at the end.

    Args:
        kind: "csv", "wandb" or "mlflow".
        run: the run folder.
        settings: of the run.
    """

    def __init__(self, kind: str, run: Path, settings: dict[str, Any]) -> None:
        self.kind, self.run, self.settings = kind, run, settings
        self.told = 0
        self._logger: Any = None

    def on_checkpoint(self, state: State) -> None:
        """Hand over what is new."""
        if not state.leader:
            return
        if self._logger is None:
            self._logger = _made(self.kind, self.run)
            if self.kind != "csv":  # config.json has them
                self._logger.log_hyperparams(self.settings)
        for record in read_metrics(self.run / NAME):
            if record["step"] > self.told:
                values = {k: float(v) for k, v in record.items() if k != "step" and isinstance(v, int | float)}
                self._logger.log_metrics(values, step=record["step"])
                self.told = record["step"]
        self._logger.save()

    def on_end(self, state: State) -> None:
        """Hand over the rest."""
        self.on_checkpoint(state)
        if self._logger is not None:
            self._logger.finalize("success")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run need not tell again."""
        return {"told": self.told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after what was told."""
        self.told = int(state["told"])


def _made(kind: str, run: Path) -> Any:
    if kind == "csv":
        from lightning_fabric.loggers.csv_logs import CSVLogger

        return CSVLogger(root_dir=run, name="csv")
    from lightning.pytorch import loggers

    if kind == "wandb":
        return loggers.WandbLogger(project="phlogiston", name=run.name, save_dir=run)
    return loggers.MLFlowLogger(experiment_name="phlogiston", run_name=run.name, save_dir=str(run / "mlruns"))
