"""History: what a training run leaves in memory, and the running means it is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phlogiston import cards


@dataclass
class Interval:
    """Sums over the steps since the last record.

    Attributes:
        total: loss summed over rows, nats.
        norms: gradient norms summed over steps.
        rows: rows seen.
        steps: steps done.
        began: seconds of training when the interval began.
    """

    total: float = 0.0
    norms: float = 0.0
    rows: int = 0
    steps: int = 0
    began: float = 0.0

    def add(self, loss: float, norm: float, rows: int) -> None:
        """Count a step with this loss per row and gradient norm."""
        self.total += loss * rows
        self.norms += norm
        self.rows += rows
        self.steps += 1

    @property
    def loss(self) -> float:
        """Mean loss per row, nats."""
        return self.total / self.rows

    def summary(self, seconds: float) -> dict[str, float]:
        """Return mean loss per row, mean gradient norm, and rows per second."""
        rate = self.rows / max(1e-9, seconds - self.began)
        return {"loss": self.loss, "grad_norm": self.norms / self.steps, "rate": rate}


@dataclass
class History:
    """What happened while training.

    Attributes:
        records: one dictionary per logging interval: `step`, `stage`, `loss` (nats per data point, mean over the
            interval), `grad_norm`, `rate` (rows per second), `learning_rate`, `seconds`, `skipped`, and what callbacks
            added.
        seconds: time spent in training steps, over all starts of the run.
        skipped: steps left out because loss or gradient was not finite.
        rollbacks: returns to an earlier state.
        run: the run folder, or None.
        interrupted: True if a callback ended training before its last step.
        finished: True once training is over.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    skipped: int = 0
    rollbacks: int = 0
    run: Path | None = None
    interrupted: bool = False
    finished: bool = False

    def __len__(self) -> int:
        return len(self.records)

    def column(self, key: str) -> npt.NDArray[np.float64]:
        """Return one entry of all records, NaN where a record lacks it."""
        values = [r.get(key) for r in self.records]
        return np.array([np.nan if v is None else float(v) for v in values], dtype=np.float64)

    @property
    def loss(self) -> npt.NDArray[np.float64]:
        """Loss of each record, nats per data point."""
        return self.column("loss")

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Steps done at each record."""
        return np.array([r["step"] for r in self.records], dtype=np.int64)

    def _repr_html_(self) -> str:
        steps = int(self.steps[-1]) if len(self) else 0
        state = "finished" if self.finished else "ended by a callback" if self.interrupted else "not finished"
        told: list[tuple[str, Any]] = [("steps", f"{steps:,}, {state}"), ("time", f"{self.seconds:,.1f} s")]
        if len(self):
            told += [
                (name.replace("_", " "), f"{value:.4g} nats per data point") for name, value in self.last().items()
            ]
        if self.skipped or self.rollbacks:
            told.append(("not finite", f"{self.skipped} steps left out, {self.rollbacks} returns to an earlier state"))
        if self.run is not None:
            told.append(("run folder", str(self.run)))
        return cards.card("History", "", cards.facts(told), self.curve())

    def last(self) -> dict[str, float]:
        """Return `loss`, and `valid_loss` where there is one, of the last record, nats per data point."""
        record = self.records[-1]
        return {name: float(record[name]) for name in ("loss", "valid_loss") if record.get(name) is not None}

    def curve(self) -> str:
        """Return the loss over the steps as a small picture for notebooks, SVG; "" where there is no line to draw."""
        parts: dict[str, float] = {}
        for record in self.records:
            parts.setdefault(str(record.get("stage", "")), float(record["step"]))
        lines = [(self.steps, self.loss)]
        valid = self.column("valid_loss")
        if np.isfinite(valid).any():
            lines.append((self.steps, valid))
        label = "loss over the steps" + ("; orange: of validation rows" if len(lines) > 1 else "")
        return cards.curve(lines, parts.items(), label)
