"""Questions to a system in words: what `query` is given is read with the system's names before it is answered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from phlogiston.arrays import at_least
from phlogiston.datasets.frames import KINDS, Names
from phlogiston.datasets.moments import is_date, zone_of
from phlogiston.errors import EvidenceError
from phlogiston.systems.calls import checked_seed

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer


class InWords:
    """What a system understands of questions; `vocabulary` gives the names."""

    schema: dict[str, Any]

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Names evidence may be written in: site -> its columns, and categorical site -> its categories."""
        raise NotImplementedError(f"{type(self).__name__} must define vocabulary()")

    def names(self) -> Names:
        """What this system's columns are called, and the kind of data frame that it was fitted on."""
        columns, categories = self.vocabulary()
        frame = self.schema.get("frame") or "pandas"
        units = self.schema.get("units") or {}
        whole = [name for name, grid in self.grids().items() if all(value == round(value) for value in grid)]
        steps = self.schema.get("steps") or {}
        return Names(columns, categories, units, frame if frame in KINDS else "pandas", frozenset(whole), steps)

    def question(self, *evidence: Any) -> dict[str, Any]:
        """Read what `query` takes: site -> evidence.

        Raises:
            EvidenceError: what cannot be read; an unknown name comes with the nearest one.
        """
        from phlogiston.inference.query.evidence import Evidence
        from phlogiston.inference.query.text import question

        columns, categories = self.vocabulary()
        if len(evidence) == 1 and isinstance(evidence[0], Mapping):
            sites = columns.keys() - categories.keys() - {name for names in columns.values() for name in names}
            if evidence[0].keys() <= sites and all(isinstance(value, Evidence) for value in evidence[0].values()):
                return {site: (value,) for site, value in evidence[0].items()}  # nothing is in words
        return question(evidence, columns, categories, self.dates(), self.grids())

    def explain(self, *evidence: Any) -> None:
        """Print what `query` understands of a question: what is known, statement by statement, and what is sampled."""
        from phlogiston.inference.query import explain

        columns, categories = self.vocabulary()
        given = self.question(*evidence)
        print("\n".join(explain.explained(given, columns, categories, self.dates())))
        sampled = explain.unmentioned(given, columns, categories)
        print(f"sampled: {explain.listed(sampled) if sampled else 'nothing, all is known'}")

    def dates(self) -> dict[str, str]:
        """Columns that hold dates, as days since 1970-01-01, and the time zones of these ("" for none)."""
        return {name: zone_of(unit) for name, unit in (self.schema.get("units") or {}).items() if is_date(unit)}

    def grids(self) -> dict[str, tuple[float, float]]:
        """Columns whose values lie on a grid, as far as the system knows: one of the values, and the step."""
        return {}


def in_words(query: Callable[..., Answer]) -> Callable[..., Answer]:
    """Let a system's `query` take statements and columns by name, any number of them, beside evidence by site.

        system.query("age >= 40", "label in {3, 8}", num_samples=500)
        system.query({"age": 50, "income": [2000, None]}, "2*x0 - x1 >= 0.3")

    The method itself sees one mapping of sites to evidence. After the first argument a text or a mapping is more
    evidence; a list is `ask`, and a number after it `num_samples`.
    """

    @functools.wraps(query)
    def asked(self: InWords, *evidence: Any, **options: Any) -> Answer:
        for name in ("num_samples", "num_particles", "seed"):
            if type(options.get(name)) not in (int, type(None)):
                options[name] = checked_seed(options[name]) if name == "seed" else at_least(name, options[name], 1)
        given = [options.pop("evidence")] if "evidence" in options else []
        rest = list(evidence)
        while rest and (not given or isinstance(rest[0], str | Mapping)):
            given.append(rest.pop(0))
        if all(item is None for item in given):
            return replace(query(self, None, *rest, **options), names=self.names())
        asked_for = self.question(*given)
        try:
            return replace(query(self, asked_for, *rest, **options), names=self.names())
        except EvidenceError as error:
            raise _with_columns(self, error, asked_for) from error

    return asked


def _with_columns(system: InWords, error: EvidenceError, asked_for: Mapping[str, Any]) -> EvidenceError:
    """An error about an unknown site that names the columns, too."""
    from phlogiston.inference.query.evidence import unknown_message

    columns, categories = system.vocabulary()
    for name in asked_for:
        if f"unknown site {name!r}" in str(error) and name not in columns and name not in categories:
            names = [*(n for own in columns.values() for n in own), *categories]
            if names:
                return EvidenceError(unknown_message("site or column", name, [*names, *columns]))
    return error
