"""Linear probes: what can be read off a code with a straight line, against what guessing gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from phlogiston.errors import DataError, ShapeError
from phlogiston.evaluate.metric import Metric, from_share


def linear_probe(
    codes: Any, labels: Any, test_codes: Any, test_labels: Any, *, strength: float = 10.0, iterations: int = 2000
) -> dict[str, Metric]:
    """Fit multinomial logistic regression on standardised codes and score it on held-out ones.

    Args:
        codes: (n, d) latent codes, for instance posterior means.
        labels: (n,) classes; rows with -1 are skipped.
        test_codes: (m, d), of data the probe has not seen.
        test_labels: (m,).
        strength: inverse of the ridge penalty, scikit-learn's C.
        iterations: at most this many.

    Returns:
        `accuracy`, and `chance`: what naming the commonest training class every time would give on the same rows.

    Raises:
        ShapeError, DataError: arrays that do not fit, or a single class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _pair(codes, labels, "codes")
    test_x, test_y = _pair(test_codes, test_labels, "test_codes")
    if x.shape[1] != test_x.shape[1]:
        raise ShapeError(f"codes have {x.shape[1]} columns and test_codes {test_x.shape[1]}; they must agree.")
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise DataError("the labels have a single class; a probe needs at least two.")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=iterations))
    probe.fit(x, y)
    detail = {"classes": len(classes), "dimensions": x.shape[1], "n_train": len(x)}
    return {
        "accuracy": _share(probe.predict(test_x) == test_y, detail),
        "chance": _share(test_y == classes[counts.argmax()], {**detail, "by": "the commonest class"}),
    }


def _pair(codes: Any, labels: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(v.detach().cpu() if hasattr(v, "detach") else v) for v in (codes, labels))
    if x.ndim != 2 or y.shape != (len(x),):
        raise ShapeError(f"{name} have shape {x.shape} and labels {y.shape}; expected (n, d) and (n,).")
    if not np.isfinite(x).all():
        raise DataError(f"{name} hold NaN or infinite values.")
    known = y >= 0
    return x[known].astype(np.float64), y[known]


def _share(hits: np.ndarray, detail: Mapping[str, Any]) -> Metric:
    n = len(hits)
    if n == 0:
        raise DataError("no test row has a label.")
    share = float(np.mean(hits))
    return from_share(share, n, True, detail)
