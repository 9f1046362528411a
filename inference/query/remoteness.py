"""A word about evidence that lies far outside everything a model knows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from phlogiston.errors import QueryWarning

FAR = 10.0
"""Standard deviations from everything a model knows from which on its answer is extrapolation."""


def warn_if_far(distances: Mapping[str, float], what: str = "query") -> None:
    """Warn about evidence that lies far outside everything the model knows, naming the worst.

    Args:
        distances: what is spoken about -> how many standard deviations it lies from the nearest the model knows.
        what: who answers.
    """
    far = sorted(((d, name) for name, d in distances.items() if d > FAR), reverse=True)
    if not far:
        return
    named = ", ".join(f"{name} ({d:.3g})" for d, name in far[:3]) + (f" and {len(far) - 3} more" if far[3:] else "")
    warnings.warn(
        f"{what}: the evidence lies far outside everything the model knows; distance in standard deviations: {named}. "
        "The answer is extrapolation: check the values and their units",
        QueryWarning,
        stacklevel=3,
    )
