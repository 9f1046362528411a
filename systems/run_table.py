"""A table of run folders, for whoever looks at many runs at once: one damaged run does not hide the others."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from phlogiston import systems
from phlogiston.errors import RunError, RunWarning
from phlogiston.files import identify, read_json
from phlogiston.inference.svi.run_folder.headers import FOLDER
from phlogiston.inference.svi.run_folder.metrics import read_metrics
from phlogiston.inference.svi.run_folder.readers import progress_of


def runs(folder: str | Path) -> list[dict[str, Any]]:
    """Describe the runs below a folder (and the folder itself, if it is one), two levels deep.

    Returns:
        For each: `run`, `system`, `data`, `steps` done by its newest checkpoint, the last step `recorded` in its
        metrics, `total` steps it was to do, whether it is `finished`, `loss` as recorded last before the checkpoint,
        and `metrics` (name -> value) where evaluated.
    """
    top = Path(folder)
    places = [top, *sorted(top.glob("*")), *sorted(top.glob("*/*"))]
    found = []
    for place in places:
        if not (place / "config.json").is_file():
            continue
        try:
            config = systems.read_config(place)
            system = identify(config, place)
        except RunError as error:
            if (place / FOLDER).is_dir():
                warnings.warn(f"{error}. The run is left out.", RunWarning, stacklevel=2)
            continue  # a folder of somebody else's
        data = config.get("config", config).get("data") or {}
        records = read_metrics(place / "metrics.jsonl")
        progress = progress_of(place)
        step = None if progress is None else progress.step
        kept = [record for record in records if step is not None and record["step"] <= step]
        found.append(
            {
                "run": str(place),
                "system": system,
                "data": data.get("name") if isinstance(data.get("name"), str) else None,
                "steps": step,
                "recorded": records[-1]["step"] if records else None,
                "total": None if progress is None else progress.steps,
                "finished": progress is not None and progress.finished,
                "loss": kept[-1].get("loss") if kept else None,
                "metrics": _headline(place / "metrics.json"),
            }
        )
    return found


def _headline(path: Path) -> dict[str, float]:
    """Return the first three figures of a metrics.json, {} where there is none."""
    try:
        content = read_json(path)["metrics"]
        return {name: float(entry["value"]) for name, entry in list(content.items())[:3]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}
