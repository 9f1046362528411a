"""Files of a large collection that cannot be read: left out, counted and reported, as long as others can be read.

One truncated picture among thousands must not cost the other thousands, and must not vanish either: what is left out
is named in a warning and in `Meta.decisions`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from phlogiston.datasets.base import Decision
from phlogiston.errors import DataError, DataWarning, ShapeError

Result = TypeVar("Result")
_SHOWN = 5  # names in a message


class Skipped:
    """Counts what was read and what had to be left out.

    Args:
        what: what is counted, in the plural: `"pictures"`.

    Attributes:
        total: how many were tried.
        bad: name and reason of each one left out.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.total = 0
        self.bad: list[tuple[str, str]] = []
        self._first: DataError | ShapeError | None = None

    def read(self, name: str, function: Callable[..., Result], *arguments: Any) -> Result | None:
        """Call a reader; return None where it raises `DataError` or `ShapeError`, and remember why."""
        self.total += 1
        try:
            return function(*arguments)
        except (DataError, ShapeError) as error:
            self.leave_out(name, str(error))
            self._first = self._first or error
            return None

    def leave_out(self, name: str, why: str) -> None:
        """Count something that was read as unusable."""
        self.bad.append((name, why))

    def decisions(self) -> tuple[Decision, ...]:
        """Say what was left out, warning of it; nothing where all were read.

        Raises:
            DataError: nothing could be read; the first reader's own error.
        """
        if not self.bad:
            return ()
        if len(self.bad) >= self.total:
            if self.total == 1 and self._first is not None:
                raise self._first
            name, why = self.bad[0]
            raise DataError(f"none of the {self.total:,} {self.what} can be read. {name}: {why}") from self._first
        shown = "; ".join(f"{name} ({why})" for name, why in self.bad[:_SHOWN])
        more = f"; and {len(self.bad) - _SHOWN:,} more" if len(self.bad) > _SHOWN else ""
        text = f"{len(self.bad):,} of {self.total:,} {self.what} cannot be read and are left out: {shown}{more}"
        warnings.warn(text, DataWarning, stacklevel=3)
        return (Decision("skipped", text),)
