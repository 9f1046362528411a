"""What the shell offers after a Tab: names of systems, presets, data, options, run folders. It loads no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
from pathlib import Path
from typing import Annotated

import typer


def systems(incomplete: str) -> list[tuple[str, str]]:
    """Systems, with what they are."""
    from phlogiston import systems

    return [(name, systems.summary(name)) for name in systems.names() if name.startswith(incomplete)]


def presets(incomplete: str) -> list[str]:
    """Presets of the system that was typed before."""
    from phlogiston import systems

    with contextlib.suppress(Exception):  # a Tab never complains
        return [name for name in systems.presets(_system()) if name.startswith(incomplete)]
    return []


def options(incomplete: str) -> list[tuple[str, str]]:
    """`--set` of the system that was typed before: its options with their defaults."""
    from phlogiston import systems

    with contextlib.suppress(Exception):
        fields = dataclasses.fields(systems.config(_system()))
        return [(f"{f.name}=", f"default {f.default}") for f in fields if f.name.startswith(incomplete)]
    return []


def data(incomplete: str) -> list[tuple[str, str]]:
    """Registered data, and files and folders that begin so."""
    from phlogiston import datasets

    named = [(name, datasets.info(name).title) for name in datasets.names() if name.startswith(incomplete)]
    return [*named, *((path, "") for path in _paths(incomplete))]


def runs(incomplete: str) -> list[str]:
    """Run folders: those that begin so, or folders on the way to them; and the trained systems in the package."""
    from phlogiston.systems.pretrained import shelf

    found = _paths(incomplete, folders=True) or [
        str(path.parent) for path in Path("runs").glob("*/config.json") if str(path.parent).startswith(incomplete)
    ]
    return found + [name for name in shelf.names() if incomplete and name.startswith(incomplete)]


Run = Annotated[
    Path, typer.Argument(autocompletion=runs, help="A run folder, a trained system (drmm/poses), or hf://user/name.")
]
"""The argument of every command that takes a trained system."""


def columns(incomplete: str) -> list[str]:
    """Columns, and categorical columns with their values, of the run that was typed before."""
    from phlogiston import systems

    with contextlib.suppress(Exception):
        run = next(word for word in map(_run, _words()) if (word / "config.json").is_file())
        content = systems.read_config(run)
        schema = content.get("config", content)["schema"]
        names = [*(schema.get("columns") or ()), *(schema.get("targets") or ())]
        labels = [f"{name} = {label}" for name, own in (schema.get("categorical") or {}).items() for label in own]
        return [_escaped(name) for name in dict.fromkeys([*names, *labels]) if name.startswith(incomplete)]
    return []


def _escaped(name: str) -> str:
    """A name with spaces as one word: bash inserts it as it is, other shells quote by themselves."""
    typed = os.environ.get("COMP_WORDS")
    if typed is None:
        return name
    try:
        shlex.split(typed)
    except ValueError:  # inside a quote
        return name
    return re.sub(r"([^\w.,/+=-])", r"\\\1", name)


def _words() -> list[str]:
    """The words typed so far; the shells' own variables hold them."""
    typed = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    try:
        return shlex.split(typed)
    except ValueError:  # a quote that is not closed yet
        return typed.split()


def _run(word: str) -> Path:
    """The folder that a word stands for, if it is a run at all."""
    from phlogiston.systems.pretrained import shelf

    return shelf.WEIGHTS / word if word in shelf.names() else Path(word)


def _system() -> str:
    """The system among the words typed so far."""
    from phlogiston import systems

    return next((word for word in _words() if word in systems.names()), "")


def _paths(incomplete: str, folders: bool = False) -> list[str]:
    start = Path(incomplete or ".")
    place = start if incomplete.endswith("/") or not incomplete else start.parent
    with contextlib.suppress(OSError):
        found = (place / path.name for path in sorted(place.iterdir()) if not path.name.startswith("."))
        return [str(path) for path in found if str(path).startswith(incomplete) and (path.is_dir() or not folders)]
    return []
