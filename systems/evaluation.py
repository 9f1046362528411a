"""What metrics and figures are computed from: a system, held-out rows, a seed, and what was computed on the way.

The module `report` of a system's package holds tables, not methods:

    METRICS = {"log_likelihood": log_likelihood, "accuracy": accuracy}     # group -> function(evaluation) -> metrics
    FIGURES = {"samples": samples}                                         # name -> function(evaluation) -> figure
    LOSS_UNIT = "nats per drawing"                                         # of the loss curve that every system gets
    VIEWS = {"swap": swap}                                                 # what `phlogiston show` lays out
    ON_REQUEST = {"log_likelihood"}                                        # groups left out unless they are named

`System.evaluate` and `System.figures` go through them. The docstring of a function in FIGURES is its caption in
reports: what is drawn, and what to look for. A metric or a figure for every system is an entry of COMMON_METRICS or
COMMON_FIGURES here.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from phlogiston.datasets.base import Dataset, Split
from phlogiston.errors import unknown_name
from phlogiston.evaluate.held_out import held_out
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.shown import Figures, Metrics
from phlogiston.inference.svi.isolation import OnThreads
from phlogiston.systems.tables.alignment import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.inference.query.answer import Answer

S = TypeVar("S")
T = TypeVar("T")


@dataclass(eq=False)
class Evaluation(Generic[S]):
    """One call of `evaluate` or `figures`.

    Attributes:
        system: the fitted system.
        rows: the rows to score on.
        data: what was passed in; a `Dataset` where training rows are needed too.
        seed: of whatever is drawn.
        requested: the groups of metrics that were named, empty where none was: a group that does not apply to the data
            returns {} then, and refuses when it was named.
    """

    system: S
    rows: Split
    data: Any = None
    seed: int = 0
    requested: frozenset[str] = frozenset()
    _results: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def dataset(self) -> Dataset | None:
        """The whole data set, where one was passed."""
        return self.data if isinstance(self.data, Dataset) else None

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """Return what `compute` gives, computed once per name: metrics share renderings and codes."""
        if name not in self._results:
            self._results[name] = compute()
        result: T = self._results[name]
        return result


MetricFunction = Callable[[Evaluation[Any]], Mapping[str, Metric]]
FigureFunction = Callable[[Evaluation[Any]], "Figure | None"]  # None: does not apply


def held_out_log_likelihood(evaluation: Evaluation[Any]) -> dict[str, Metric]:
    """Mean log density of held-out rows in nats, with its standard error over rows."""
    score = evaluation.once("score", lambda: evaluation.system.log_prob(evaluation.rows, seed=evaluation.seed))
    return {"log_likelihood": score.mean()}


COMMON_METRICS: dict[str, MetricFunction] = {"log_likelihood": held_out_log_likelihood}


def training(evaluation: Evaluation[Any]) -> Figure | None:
    """The loss over training, stage by stage. It should fall and flatten out; where validation rows are drawn and rise
    while training rows fall, the model has learned rows by heart.
    """
    from phlogiston.evaluate.figures import loss_curve

    history = evaluation.system.history
    return None if history is None else loss_curve(history.records, unit=evaluation.system.loss_unit())


COMMON_FIGURES: dict[str, FigureFunction] = {"training": training}


class Reported(OnThreads):
    """What a system says of itself: metrics, pictures and examples, from the tables of its module `report`."""

    name: ClassVar[str]
    schema: dict[str, Any]
    scored: Mapping[str, Metric] | None = None  # what `evaluate` gave last

    if TYPE_CHECKING:

        def _need_fit(self) -> None: ...

        def read_rows(self, data: Any) -> Split: ...

    @classmethod
    def _table(cls, name: str) -> Any:
        """A table of the module `report` of the system's package; empty where it has none."""
        module = f"{cls.__module__.rpartition('.')[0]}.report"
        if not cls.__module__.endswith(".system") or importlib.util.find_spec(module) is None:
            return {}
        return getattr(importlib.import_module(module), name, {})

    @classmethod
    def metrics(cls) -> dict[str, MetricFunction]:
        """Groups of figures of merit that `evaluate` can compute: those of every system, and the system's own."""
        own = cls._table("METRICS")  # a common group that is listed there too keeps its position in that list
        return {**{name: compute for name, compute in COMMON_METRICS.items() if name not in own}, **own}

    def evaluate(self, data: Any, metrics: Sequence[str] | None = None) -> Metrics:
        """Score the trained system on held-out rows.

        Args:
            data: a dataset (its test rows, else its validation rows), a split, or a mapping of arrays.
            metrics: groups, some of `metrics()`; by default all that apply to the data and take no extra minutes.

        Returns:
            Figures by name; a group may hold several.

        Raises:
            UnknownNameError: no such group.
            DataError: a dataset without held-out rows, or rows that do not fit.
        """
        self._need_fit()
        table = self.metrics()
        for name in metrics or ():
            if name not in table:
                raise unknown_name(f"metric of {self.name}", name, table)
        evaluation = self._evaluation(data, metrics or ())
        results = Metrics()
        for name, compute in table.items():
            if name in metrics if metrics else name not in self._table("ON_REQUEST"):
                results.update(compute(evaluation))
        self.scored = results
        return results

    def figures(self, data: Any, *, names: Sequence[str] | None = None) -> Figures:
        """Draw the pictures that explain what was learned: name -> figure. A notebook shows them with their captions.

        Args:
            data: as for `evaluate`.
            names: some of `captions()`; by default all that apply to the data.

        Raises:
            UnknownNameError: no such picture.
        """
        self._need_fit()
        table = self._figure_table()
        for name in names or ():
            if name not in table:
                raise unknown_name(f"picture of {self.name}", name, table)
        evaluation = self._evaluation(data)
        drawn = {name: draw(evaluation) for name, draw in table.items() if names is None or name in names}
        kept = {name: figure for name, figure in drawn.items() if figure is not None}  # None: does not apply
        return Figures(kept, self.captions())

    @classmethod
    def captions(cls) -> dict[str, str]:
        """What to look for in each picture of `figures`, in a sentence or two."""
        return {name: " ".join((inspect.getdoc(draw) or "").split()) for name, draw in cls._figure_table().items()}

    @classmethod
    def _figure_table(cls) -> dict[str, FigureFunction]:
        """The system's own pictures, then those of every system that it does not draw in its own way."""
        own = cls._table("FIGURES")
        return {**own, **{name: draw for name, draw in COMMON_FIGURES.items() if name not in own}}

    @classmethod
    def loss_unit(cls) -> str:
        """The unit of the loss during training, for the axis of its curve."""
        return cls._table("LOSS_UNIT") or "nats per row"

    def views(self) -> dict[str, Any]:
        """What `phlogiston show` can lay out: name -> function (system, held-out split, n, seed) -> tensors by name."""
        return dict(self._table("VIEWS"))

    def example_queries(self, data: Any) -> list[tuple[str, Answer]]:
        """Questions a report shows, in words, with their answers: one or two that only a trained model can answer."""
        self._need_fit()
        evaluation = self._evaluation(data)
        return [question(evaluation) for question in self._table("EXAMPLE_QUERIES")]

    def baselines(self, data: Any) -> Metrics:
        """What simpler methods reach on held-out data, for the figures of merit that `evaluate` leaves alone."""
        evaluation = self._evaluation(data)
        return Metrics({k: v for compute in self._table("BASELINES").values() for k, v in compute(evaluation).items()})

    def _evaluation(self, data: Any, requested: Sequence[str] = ()) -> Evaluation[Self]:
        data = aligned(self.schema, data) if isinstance(data, Dataset) else data
        rows = held_out(data) if isinstance(data, Dataset) else self.read_rows(data)
        return Evaluation(self, rows, data, requested=frozenset(requested))
