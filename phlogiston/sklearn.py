"""Estimators for those who live in scikit-learn: pipelines, grid search and cross-validation over phlogiston's systems.

They follow scikit-learn's conventions to the letter (`sklearn.utils.estimator_checks.check_estimator` passes): options
in the constructor, what was learned in attributes ending in `_`, NaN for a missing value. Importing this module loads
scikit-learn; torch is loaded by the first `fit`.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.mdn_sklearn import MDNRegressor, filled

__all__ = ["DRMMDensity", "MDNRegressor"]

# constructor parameters that are options of the system under the same name, with the same default
SYSTEM_OPTIONS = (
    "num_layers",
    "num_components",
    "frame",
    "prior",
    "beam",
    "max_enum",
    "steps",
    "batch_size",
    "learning_rate",
    "parameter_prior",
)


class DRMMDensity(DensityMixin, BaseEstimator):
    """Density estimation with a deep residual mixture model: `num_components ** num_layers` Gaussians that share parts.

    Use it where `GaussianMixture` needs more components than the rows can support, or where values are missing: a NaN
    is integrated out, in `fit` and when scoring alike.

    Parameters mirror the options of the system (`phlogiston systems drmm` lists all of them; those not here keep their
    defaults).

    Args:
        num_layers: layers of the mixture. While it, `num_components` and `frame` are all "auto", cross-validation
            chooses them; where any is given, the others are 3, 16 and "diag". `system_.recipe` tells the choice.
        num_components: components of each layer.
        frame: what a layer may do to the next one's coordinates: `"shift"`, `"iso"` (also scales), `"diag"` (scales
            each column) or `"tril"` (shears, too; for correlated columns).
        prior: distribution of the component paths, `"autoregressive"` or `"latent_class"`.
        beam: paths kept per row in training.
        max_enum: log-densities are exact up to this many paths, lower bounds beyond.
        steps: optimiser steps; "auto" for 3,000, fewer where a structure was chosen that needs no more.
        batch_size: rows per step.
        learning_rate: of Adam.
        parameter_prior: whether tables and scales are kept near their start, against overfitting.
        random_state: int, `RandomState` or None; of initialisation and training.
        verbose: whether to show a progress bar on a terminal.

    Attributes:
        system_: the fitted `phlogiston.systems.drmm.DRMM`, which offers more verbs, in the units of `X`.
        location_: ndarray (n_features,), the columns' means.
        scale_: ndarray (n_features,), the columns' standard deviations; 1 where a column never varies.
        score_kind_: `"exact"` or `"lower bound"`: what `score_samples` returns.
        n_features_in_: columns seen in `fit`.
        feature_names_in_: their names, where `X` had names.

    Columns that never vary carry no density. A row that contradicts one of them scores minus infinity. Masked arrays
    are arrays with missing values.

    `sklearn.base.clone` and `copy.deepcopy` work. To keep a fitted model on disk without pickling, save `system_` with
    its own `save`.

    Example:
        >>> import numpy as np
        >>> from phlogiston.sklearn import DRMMDensity
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> density = DRMMDensity(num_layers=1, num_components=2, steps=50, random_state=0).fit(X)
        >>> density.score_samples(X[:3]).shape
        (3,)
        >>> density.sample(5, random_state=0).shape
        (5, 2)

    References:
        Hämäläinen and Solin, Deep Residual Mixture Models, arXiv 2006.12063.
    """

    def __init__(
        self,
        num_layers: int | Literal["auto"] = "auto",
        num_components: int | Literal["auto"] = "auto",
        *,
        frame: str = "auto",
        prior: str = "autoregressive",
        beam: int = 8,
        max_enum: int = 65_536,
        steps: int | Literal["auto"] = "auto",
        batch_size: int = 256,
        learning_rate: float = 0.01,
        parameter_prior: bool = True,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.num_layers = num_layers
        self.num_components = num_components
        self.frame = frame
        self.prior = prior
        self.beam = beam
        self.max_enum = max_enum
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.parameter_prior = parameter_prior
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        """Missing values are welcome."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Learn the density of rows.

        Args:
            X: (n_samples, n_features); NaN where a value is missing.
            y: ignored.
            sample_weight: (n_samples,), how much each row counts, 0 or more; a weight of 0 leaves the row out.

        Returns:
            The estimator itself.

        Raises:
            DataError: infinite entries, weights that are negative or all zero, a column without any value, or no column
                that varies.
            ConfigError: an option out of range.
        """
        from phlogiston.datasets.base import Dataset, Meta, Split
        from phlogiston.systems.drmm.system import DRMM

        X = filled(X)
        rows = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2)
        weight = _check_weight(sample_weight, len(rows))
        rows, weight = rows[weight > 0], weight[weight > 0]
        known = ~np.isnan(rows)
        if not known.any(0).all():
            raise DataError(f"column {int(known.any(0).argmin())} of X holds no known value; leave it out")

        system = DRMM({name: getattr(self, name) for name in SYSTEM_OPTIONS})
        data = _tensors(rows)
        if weight.min() < weight.max():
            data["weight"] = weight
        train = Split(data, double=("x",))
        names = getattr(self, "feature_names_in_", [f"x{i}" for i in range(rows.shape[1])])
        empty = train.select(slice(0, 0))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        dataset = Dataset(train, empty, empty, Meta("arrays", columns=tuple(map(str, names))))
        self.system_ = system.fit(dataset, seed=seed, progress="auto" if self.verbose else "off")
        self.location_, self.scale_ = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
        schema = self.system_.schema
        self.location_[self.system_.varying], self.scale_[self.system_.varying] = schema["location"], schema["scale"]
        for i, value in schema["constant"].items():
            self.location_[int(i)] = value
        # Rows are scored in double precision, so that a row's score does not depend on the rows beside it.
        self.system_.model.double()
        exact = self.system_.model.num_paths <= self.max_enum
        self.score_kind_ = "exact" if exact else "lower bound"
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log-density of each row, in nats, with respect to the units of `X`.

        Args:
            X: (n_samples, n_features); NaN where a value is missing, which is integrated out.

        Returns:
            (n_samples,); `score_kind_` says whether these are exact or lower bounds.
        """
        rows = self._rows(X)
        return np.asarray(self.system_.log_prob(rows).value.double().numpy())

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean log-density of the rows, in nats per row: higher is better, as model selection expects it.

        Args:
            X: (n_samples, n_features).
            y: ignored.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> NDArray[np.float64]:
        """Draw rows.

        Args:
            n_samples: how many.
            random_state: int, `RandomState` or None; the same int gives the same rows.

        Returns:
            (n_samples, n_features), in the units of the `X` that was fitted.

        Raises:
            ConfigError: `n_samples` below 1.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ConfigError(f"n_samples must be at least 1; got {n_samples}")
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        return np.asarray(self.system_.sample(n_samples, seed=seed)["x"].double().numpy())

    def codes(self, X: ArrayLike) -> NDArray[np.int64]:
        """Most probable component of each layer for each row: a hierarchical cluster label.

        Not called `predict`, because a row has one label per layer, and the first ones group what the later ones split.

        Args:
            X: (n_samples, n_features); NaN where a value is missing.

        Returns:
            (n_samples, num_layers), entries in 0 ... num_components - 1.
        """
        rows = self._rows(X)
        return np.asarray(self.system_.codes(rows).numpy())

    def _rows(self, X: ArrayLike) -> Any:
        from phlogiston.datasets.base import Split

        check_is_fitted(self)
        rows = validate_data(self, filled(X), dtype=np.float64, ensure_all_finite="allow-nan", reset=False)
        return Split(_tensors(rows), double=("x",))


def _tensors(rows: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Rows as the system takes them: with a mask where values are missing."""
    known = ~np.isnan(rows)
    return {"x": rows} if known.all() else {"x": np.where(known, rows, 0.0), "mask": known}


def _check_weight(sample_weight: ArrayLike | None, n: int) -> NDArray[np.float64]:
    """Row weights as an array (n,), ones where none are given."""
    if sample_weight is None:
        return np.ones(n)
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n, float(sample_weight))
    weight = np.asarray(check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"))
    if weight.shape != (n,):
        raise ShapeError(f"sample_weight has shape {weight.shape}; expected one number for each of the {n} rows of X")
    if weight.min() < 0:
        raise DataError(f"sample_weight is negative in row {int(weight.argmin())}; weights must be 0 or more")
    if weight.max() == 0:
        raise DataError("sample_weight is zero in every row; at least one weight must be positive")
    return weight
