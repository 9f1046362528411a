"""Commands in words: what to type to get what a report shows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phlogiston import datasets, systems
from phlogiston.errors import PhlogistonError
from phlogiston.systems.options import validate_options


def train_command(
    system: str, data: str, data_options: Mapping[str, Any], options: Mapping[str, Any], seed: int = 0
) -> str:
    """The `phlogiston train` that makes a run again; options at their defaults are left out.

    Args:
        system: its name.
        data: a registered name, or a path.
        data_options: options of the data.
        options: options of the system.
        seed: of the run.
    """
    chosen, default = (dataclasses.asdict(validate_options(system, given)) for given in (options, {}))
    own = {name: value for name, value in chosen.items() if value != default[name]}
    usual = datasets.info(data).options if data in datasets.names() else {}
    given = {k: v for k, v in data_options.items() if v is not None and _plain(v) != _plain(usual.get(k))}
    words = ["phlogiston", "train", system, "--data", data]
    for flag, values in (("--data-set", given), ("--set", own)):
        words += [word for name, value in values.items() for word in (flag, f"{name}={_text(value)}")]
    return shlex.join([*words, *(["--seed", str(seed)] if seed else [])])


def commands_behind(
    run: Path,
    data: str | None,
    metrics: Sequence[str] | None,
    data_options: Mapping[str, str],
    out: Path | None,
    split: str | None,
) -> dict[str, str]:
    """The commands behind a report of a run: this evaluation, and the training, where the run says how it was made."""
    words = ["phlogiston", "evaluate", str(run), *(["--data", data] if data else [])]
    words += [word for key, value in data_options.items() for word in ("--data-set", f"{key}={value}")]
    for flag, value in (("--split", split), ("--metrics", ",".join(metrics or ())), ("--out", out)):
        words += [flag, str(value)] if value else []
    made = {"This page": shlex.join(words)}
    content = systems.read_config(run)
    own = content.get("config", content)
    source = own.get("data") or {}
    if source.get("name") is not None:
        options = (source.get("options") or {}, own.get("options") or {})
        with contextlib.suppress(PhlogistonError):  # options of an older version, which no command takes today
            made["The run"] = train_command(own["system"], source["name"], *options, content.get("seed", 0))
    return made


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str).replace("null", "none")
