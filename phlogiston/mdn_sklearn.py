"""`MDNRegressor`: mixture density networks as a scikit-learn estimator.

Import it from `phlogiston.sklearn`. Importing loads scikit-learn; torch is loaded by the first `fit`.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from phlogiston.errors import ConfigError

MDN_OPTIONS = (
    "num_components",
    "kind",
    "hidden",
    "activation",
    "members",
    "min_scale",
    "steps",
    "batch_size",
    "learning_rate",
    "weight_decay",
)
"""Constructor parameters that are options of the system under the same name, with the same default."""

MOST_REPEATS = 100
"""Whole-number weights up to this become repeated rows."""


class MDNRegressor(RegressorMixin, BaseEstimator):
    """Regression that predicts a whole distribution: several right answers, and calibrated intervals.

    Parameters mirror the options of the system (`phlogiston systems mdn` lists all of them; those not here keep their
    defaults). Inputs and targets are standardised inside, in double precision; densities, draws and intervals are in
    the units of `y`.

    Args:
        num_components: components of each mixture; 1 is a network with a mean and a variance.
        kind: what a component may look like: `"diag"`, `"isotropic"`, `"bivariate"`, `"full"` or `"factorised"`.
        hidden: widths of the hidden layers.
        activation: `"silu"`, `"tanh"`, `"relu"` or `"gelu"`.
        members: networks trained side by side and averaged; 5 is a good choice below some 2,000 rows.
        min_scale: smallest standard deviation of a component, in standard deviations of the target.
        steps: optimiser steps.
        batch_size: rows per step.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        early_stopping: whether to set rows aside, keep each member's best parameters on them, and stop when none
            improves for `patience` evaluations.
        validation_fraction: share of the rows set aside; in (0, 1).
        patience: evaluations (every 50 steps) without improvement that end training; 0 trains to the end and keeps
            the best.
        random_state: int, `RandomState` or None; of the rows set aside, initialisation and training.
        verbose: whether to show a progress bar on a terminal.

    Attributes:
        system_: the fitted `phlogiston.systems.mdn.MDN`, which offers more verbs, in the units of `X` and `y`.
        x_location_, x_scale_: ndarray (n_features,), what inputs are standardised with; scale 1 where one never varies.
        y_location_, y_scale_: ndarray (n_targets,), the same for targets.
        n_iter_: optimiser steps done.
        n_features_in_: columns seen in `fit`.
        feature_names_in_: their names, where `X` had names.

    Example:
        >>> import numpy as np
        >>> from phlogiston.sklearn import MDNRegressor
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(200, 1))
        >>> y = np.where(rng.random(200) < 0.5, 1.0, -1.0) * X[:, 0]
        >>> model = MDNRegressor(num_components=2, steps=100, random_state=0).fit(X, y)
        >>> model.sample([[1.0]], n_samples=3, random_state=0).shape
        (3, 1)
        >>> model.predict_dist([[1.0]]).modes().points.shape
        torch.Size([1, 2, 1])

    References:
        Bishop, Mixture Density Networks, 1994.
    """

    def __init__(
        self,
        num_components: int = 5,
        *,
        kind: str = "diag",
        hidden: tuple[int, ...] = (50, 50),
        activation: str = "silu",
        members: int = 1,
        min_scale: float = 0.01,
        steps: int = 3_000,
        batch_size: int = 128,
        learning_rate: float = 0.005,
        weight_decay: float = 0.001,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        patience: int = 0,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.num_components = num_components
        self.kind = kind
        self.hidden = hidden
        self.activation = activation
        self.members = members
        self.min_scale = min_scale
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        """Several targets are allowed; few steps make poor scores."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.regressor_tags.poor_score = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn the distribution of targets given inputs.

        Args:
            X: (n_samples, n_features).
            y: (n_samples,) or (n_samples, n_targets).
            sample_weight: (n_samples,), how much each row counts; a weight of 0 leaves the row out, whole numbers
                repeat it.

        Returns:
            The estimator itself. The order of the rows makes no difference.

        Raises:
            ConfigError: an option out of range.
            ValueError: missing or infinite entries, or arrays that do not fit together.
        """
        from phlogiston.datasets.base import Dataset, Meta, Split
        from phlogiston.systems.mdn.system import MDN

        if not 0 < self.validation_fraction < 1:
            raise ConfigError(f"validation_fraction is {self.validation_fraction}; it must lie between 0 and 1")
        X, y = filled(X), filled(y)
        rows, targets = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        self._one_column = np.ndim(targets) == 1
        targets = np.asarray(targets, dtype=np.float64).reshape(len(rows), -1)
        weight = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        index = _counted(rows, targets, weight)
        rows, targets, weight = rows[index], targets[index], weight[index]
        if _whole(weight):
            weight = np.ones(len(rows))  # they have become repetitions
        options = {name: getattr(self, name) for name in MDN_OPTIONS}
        options["hidden"] = tuple(self.hidden)
        system = MDN({**options, "patience": self.patience if self.early_stopping else 0})

        random = check_random_state(self.random_state)
        data = {"x": rows, "y": targets}
        if weight.min() < weight.max():
            data["weight"] = weight / weight.mean()
        order = random.permutation(len(rows))
        aside = min(round(self.validation_fraction * len(rows)), len(rows) - 1) if self.early_stopping else 0
        parts = [{name: value[index] for name, value in data.items()} for index in np.split(order, [aside])]
        valid, train = (Split(part, double=("x", "y")) for part in parts)
        seed = int(random.randint(2**31 - 1))
        empty = train.select(slice(0, 0))
        dataset = Dataset(train, valid if aside else empty, empty, Meta("arrays"))
        self.system_ = system.fit(dataset, seed=seed, progress="auto" if self.verbose else "off")
        for side in ("x", "y"):
            for part in ("location", "scale"):
                setattr(self, f"{side}_{part}_", np.array(self.system_.schema[side][part]))
        history = self.system_.history
        self.n_iter_ = int(history.records[-1]["step"]) if history is not None and history.records else self.steps
        # rows are answered in double precision, so that an answer does not depend on the rows beside it
        self.system_.model.double()
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Mean of the predicted distribution: (n_samples,) or (n_samples, n_targets).

        Where there are several right answers the mean may be none of them: see `predict_dist` and `sample`.
        """
        mean = self.predict_dist(X).mean.numpy()
        return np.asarray(mean[:, 0] if self._one_column else mean)

    def predict_dist(self, X: ArrayLike) -> Any:
        """The predicted distribution at each row, in the units of `y`.

        Returns:
            A member of `phlogiston.distributions`' mixture family, batch (n_samples,), event (n_targets,), in float64:
            `.quantile(0.9)`, `.interval(0.9, "hpd")`, `.modes()`, `.cdf(y)`, `.crps(y)`, `.condition({0: value})`, ...
        """
        import torch

        check_is_fitted(self)
        rows = validate_data(self, filled(X), dtype=np.float64, reset=False)
        return self.system_.predictive_at(torch.from_numpy(np.array(rows)))  # a copy: rows may be read-only

    def predict_interval(self, X: ArrayLike, p: float = 0.9) -> NDArray[np.float64]:
        """Central intervals that hold each target with probability `p`: (n_samples, n_targets, 2)."""
        interval = self.predict_dist(X).interval(p)
        return np.concatenate([interval.lower.numpy(), interval.upper.numpy()], -1)

    def sample(self, X: ArrayLike, n_samples: int = 1, random_state: Any = None) -> NDArray[np.float64]:
        """Draw targets at each row: (n_samples, rows) or (n_samples, rows, n_targets).

        Raises:
            ConfigError: `n_samples` below 1.
        """
        import torch

        if n_samples < 1:
            raise ConfigError(f"n_samples must be at least 1; got {n_samples}")
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        drawn = self.predict_dist(X).draw((n_samples,), generator=torch.Generator().manual_seed(seed)).numpy()
        return np.asarray(drawn[..., 0] if self._one_column else drawn)

    def log_prob(self, X: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Log density of targets given inputs, in nats, in the units of `y`: (n_samples,)."""
        import torch

        predicted = self.predict_dist(X)
        targets = torch.as_tensor(np.asarray(filled(y), dtype=np.float64)).reshape(predicted.batch_shape[0], -1)
        return np.asarray(predicted.log_prob(targets).numpy())

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Mean log density of targets given inputs, in nats per row: higher is better, as model selection wants it.

        Not the coefficient of determination, which judges means only: where there are several right answers the best
        model may have a poor one. `sklearn.metrics.r2_score(y, model.predict(X))` computes it.
        """
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        return float(np.average(self.log_prob(X, y), weights=weights))


def _whole(weight: NDArray[np.float64]) -> bool:
    """Whether weights are counts small enough to be written out."""
    return bool((weight == np.round(weight)).all() and weight.max() <= MOST_REPEATS)


def _counted(rows: NDArray[np.float64], targets: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.int64]:
    """Row numbers in an order that depends on the rows' values alone, each as often as its whole-number weight says."""
    order = np.lexsort(np.column_stack([weight, targets, rows]).T)
    return np.repeat(order, weight[order].astype(np.int64)) if _whole(weight) else order[weight[order] > 0]


def filled(values: Any) -> Any:
    """Masked arrays as arrays with NaN where they are masked; anything else as it is."""
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.filled(values.astype(np.float64), np.nan)
    return values
