"""Which trained systems come with the package, and where: nothing here loads torch, and nothing is ever written there.

Each is a folder `weights/<system>/<name>/` as `System.push_to_hub` publishes it: `config.json`,
`parameters.safetensors`, `metrics.json`, `checksums.json` and its card, `README.md`.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from phlogiston.errors import RunError

WEIGHTS = Path(__file__).resolve().parent / "weights"


def names() -> tuple[str, ...]:
    """The trained systems, such as `drmm/poses`, sorted."""
    return tuple(sorted(path.parent.relative_to(WEIGHTS).as_posix() for path in WEIGHTS.glob("*/*/config.json")))


def find(run: str | Path) -> Path | None:
    """The folder of a trained system by its name, or by its path; None for any other run.

    A file or folder of the user's that has the same name comes first.

    Raises:
        RunError: a name that is nearly that of a trained system, and no path.
    """
    path = Path(run)
    if path.exists():
        inside = path.resolve()
        return inside if inside.parent.parent == WEIGHTS else None
    text, known = path.as_posix(), names()
    if text in known:
        return WEIGHTS / text
    near = difflib.get_close_matches(text, known, n=1, cutoff=0.75)
    kinds = {name.partition("/")[0] for name in known}
    if near or (text.count("/") == 1 and text.partition("/")[0] in kinds):
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise RunError(f"there is no run {text!r}.{hint} Trained systems in the package: {', '.join(known)}.")
    return None


def keep_out(folder: str | Path) -> None:
    """Refuse a folder among these as a place to write to.

    Raises:
        RunError: it is one, or lies in one; nothing is touched.
    """
    place = Path(folder).resolve()
    if place == WEIGHTS or WEIGHTS in place.parents:
        raise RunError(
            f"{folder} lies in the package, among the trained systems that come with it; choose another folder, "
            "nothing was written"
        )


def holds(run: str | Path) -> bool:
    """Whether a run is one of these, so that nothing may be written into its folder."""
    try:
        return find(run) is not None
    except RunError:
        return False
