"""`phlogiston systems`: what there is, and what can be set."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Annotated, Any

import typer

from phlogiston.cli import complete
from phlogiston.cli.output import columns, emit


def systems(
    name: Annotated[
        str | None,
        typer.Argument(autocompletion=complete.systems, help="Show this system's options, defaults and presets."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the systems, or show the options of one.

    \b
    Examples:
      phlogiston systems
      phlogiston systems drmm
    """
    from phlogiston import systems
    from phlogiston.systems.pretrained.recipes import told

    trained = {known: text for known, text in told().items() if name in (None, known.partition("/")[0])}
    listed = "\n\ntrained systems that come along, for every command that takes a RUN:\n"
    listed = listed + columns([("  " + known, text) for known, text in trained.items()]) if trained else ""
    if name is None:
        found = {known: systems.summary(known) for known in systems.names()}
        emit(as_json, {"systems": found, "trained": trained}, columns(list(found.items())) + listed)
        return
    kind = systems.config(name)
    about = _field_notes(kind)
    fields = [(f.name, _kind(f), _default(f), about.get(f.name, "")) for f in dataclasses.fields(kind)]
    presets = systems.presets(name)
    content = {
        "system": name,
        "summary": systems.summary(name),
        "paper": systems.paper(name),
        "options": {f: {"type": kind, "default": default, "about": text} for f, kind, default, text in fields},
        "presets": presets,
        "trained": trained,
    }
    chosen = [
        (key, ", ".join(f"{k}={v}" for k, v in values.items()) or "the defaults") for key, values in presets.items()
    ]
    emit(
        as_json,
        content,
        f"{name}: {systems.summary(name)}\n{systems.paper(name)}\n\noptions (--set key=value):\n"
        + columns([("  " + f, default, text) for f, _, default, text in fields])
        + "\n\npresets (--preset name):\n"
        + columns([("  " + key, text) for key, text in chosen])
        + listed,
    )


def _kind(field: Any) -> str:
    return field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))


def _default(field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else "(required)"


def _field_notes(kind: type[Any]) -> dict[str, str]:
    """Read the `Attributes:` section of a configuration's docstring: field -> text."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
