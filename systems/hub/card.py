"""The card of a published system: what it is, what it learned from and how, its figures, and what they leave open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from phlogiston import datasets, systems
from phlogiston.errors import PhlogistonError
from phlogiston.evaluate.metric import Metric
from phlogiston.systems.commands import train_command

_NO_LICENCE = "No licence of the weights is stated here; it is for whoever publishes them to add one."
_TRAINING = {
    "parameters": "Parameters",
    "steps": "Optimiser steps",
    "seconds": "Seconds of training",
    "seed": "Seed",
}


def card(
    system: str,
    config: Mapping[str, Any],
    address: str,
    *,
    trained_on: str,
    figures: Mapping[str, Metric],
    training: Mapping[str, Any],
    text: str = "",
    limits: Sequence[str] = (),
    licence: str = "",
) -> str:
    """Write the README of a repository.

    Args:
        system: its name.
        config: the `config.json` beside it: `options`, and `data` with `name` and `options`.
        address: what `phlogiston.load` takes: `hf://user/name`, or a name in the package.
        trained_on: the data in words.
        figures: figures of merit, as evaluated.
        training: `parameters`, `steps`, `seconds`, `seed` and `unfinished` (in words), each where it is known; others,
            words -> value, follow them.
        text: a sentence on what this one does, beside the summary of all systems of its kind.
        limits: further ones, each a sentence.
        licence: of the weights, a sentence; if it is not given, the card says that none is stated.
    """
    head = f"---\nlibrary_name: phlogiston\ntags:\n- phlogiston\n- pyro\n- {json.dumps(system)}\n---\n"
    parts = [
        f"# {address.removeprefix('hf://')}",
        systems.summary(system),
        *([text] if text else []),
        f"System `{system}` of phlogiston. Paper: {systems.paper(system)}",
        f'```python\nimport phlogiston as ph\n\nsystem = ph.load("{address}")\n```',
        "The files are safetensors and JSON. Their checksums are verified whenever the system is loaded.",
        f"## Data\n\n{_data(config['data'], trained_on)}",
        f"## Recipe\n\n{_recipe(system, config, training)}",
        f"## Figures\n\n{_figures(figures)}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in [*limits, *_limits(figures, training)]),
        f"## Licence\n\n{licence or _NO_LICENCE}",
    ]
    return head + "\n" + "\n\n".join(parts) + "\n"


def _text(value: object) -> str:
    """One line that Markdown takes as text."""
    line = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in line)


def _data(data: Mapping[str, Any], trained_on: str) -> str:
    lines = [_text(trained_on or data["name"] or "Data given in memory; they have no name") + "."]
    if data["name"] in datasets.names():
        info = datasets.info(data["name"])
        lines.append(f"Registered as `{data['name']}`; licence of the data: {_text(info.licence)}.")
    return " ".join(lines)


def _recipe(system: str, config: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    data, options = config["data"], config["options"]
    lines = []
    if data["name"] in datasets.names():
        try:
            command = train_command(system, data["name"], data["options"], options, training.get("seed") or 0)
            lines.append(f"```bash\n{command}\n```")
        except PhlogistonError:  # options of a plug-in, say, which no command takes
            pass
    told = {_TRAINING.get(key, key): value for key, value in training.items() if key != "unfinished"}
    said = {name: f"{value:,}" if isinstance(value, int | float) else _text(value) for name, value in told.items()}
    lines.append("\n".join(f"- {name}: {text}" for name, text in said.items() if told[name] is not None))
    lines.append(f"Options:\n\n```json\n{json.dumps(options, indent=2, default=str)}\n```")
    return "\n\n".join(lines)


def _figures(figures: Mapping[str, Metric]) -> str:
    if not figures:
        return "None: the system was not evaluated before it was published."
    rows = "\n".join(f"| {_text(name)} | {_text(metric.text())} |" for name, metric in figures.items())
    return f"On held-out rows, each with one standard error where it has one:\n\n| figure | value |\n|---|---|\n{rows}"


def _limits(figures: Mapping[str, Metric], training: Mapping[str, Any]) -> list[str]:
    found = ["It knows rows like those it was trained on; answers about others are extrapolation."]
    if training.get("unfinished"):
        found.insert(0, f"Training was not over ({_text(training['unfinished'])}).")
    if any(metric.kind != "exact" for metric in figures.values()):
        found.append("Figures marked as bounds or estimates are not exact.")
    found.append("Answers that rest on few effective samples say so: look at them before trusting one.")
    return found
