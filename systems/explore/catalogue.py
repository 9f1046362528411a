"""Which runs a page offers, each with the panels that can ask it; a damaged one is named with what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phlogiston.errors import PhlogistonError, RunError
from phlogiston.files import identify
from phlogiston.systems import registry
from phlogiston.systems.explore.panels import panels_for
from phlogiston.systems.hub.address import shown
from phlogiston.systems.hub.fetch import local_folder
from phlogiston.systems.pretrained import shelf


@dataclass(frozen=True)
class Entry:
    """A run.

    Attributes:
        key: what the page calls it by.
        run: what `phlogiston.load` takes.
        system: name of its system; "" where it cannot be told.
        title: for people.
        panels: names of the panels that can ask it, the best one first.
        fault: what is wrong with it; "" where nothing is.
    """

    key: str
    run: str
    system: str
    title: str
    panels: tuple[str, ...]
    fault: str = ""

    def told(self) -> dict[str, Any]:
        """What the page is told of it."""
        return asdict(self)


def catalogue(runs: Sequence[str], below: str | Path = "runs") -> dict[str, Entry]:
    """Describe runs, without loading any.

    Args:
        runs: folders, addresses and names, as `phlogiston.load` takes them; where there are none, the trained systems
            that come with the package and those below a folder.
        below: that folder.

    Raises:
        RunError: there is nothing to show.
    """
    found = list(runs) or [*_below(Path(below)), *shelf.names()]
    if not found:
        raise RunError(f"there are no runs below {str(below)!r}; `phlogiston train SYSTEM` leaves one there. "
                       "Name others: `phlogiston explore RUN ...`")  # fmt: skip
    entries: dict[str, Entry] = {}
    for run in dict.fromkeys(found):
        entry = _entry(run, entries)
        entries[entry.key] = entry
    return entries


def _below(folder: Path) -> list[str]:
    """Every folder two levels deep that says it is a run, damaged ones included."""
    places = [folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*"))]
    return [str(place) for place in places if (place / "config.json").is_file()]


def _entry(run: str, taken: dict[str, Entry]) -> Entry:
    name = shown(run)
    named = "://" in name or (not Path(run).exists() and name in shelf.names())
    key = name if named else Path(name).name
    if key in taken:
        key = name
    whole = str(Path(run).resolve()) if Path(run).exists() else run
    try:
        folder = local_folder(run)
        config = registry.read_config(folder)
        system = identify(config, folder)
        registry.summary(system)
        own = config.get("config", config)
        panels = panels_for(system, own.get("schema") or {})
        data = (own.get("data") or {}).get("name")
    except (PhlogistonError, OSError) as error:
        return Entry(key, whole, "", key, (), " ".join(str(error).split()))
    fault = "" if panels else f"there is no panel for systems of the kind {system!r} yet; `phlogiston query` asks it"
    return Entry(key, whole, system, f"{system} · {Path(data).stem}" if data else system, panels, fault)
