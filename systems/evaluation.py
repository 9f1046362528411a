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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from phlogiston.datasets.base import Dataset, Split
from phlogiston.evaluate.metric import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def loss(evaluation: Evaluation[Any]) -> Figure | None:
    """The loss over training, stage by stage. It should fall and flatten out; where validation rows are drawn and rise
    while training rows fall, the model has learned rows by heart.
    """
    from phlogiston.evaluate.figures import loss_curve

    history = evaluation.system.history
    return None if history is None else loss_curve(history.records, unit=evaluation.system.loss_unit())


COMMON_FIGURES: dict[str, FigureFunction] = {"loss": loss}
