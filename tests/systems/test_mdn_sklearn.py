"""`MDNRegressor` keeps scikit-learn's contract, and answers with distributions in the units of the data."""

from __future__ import annotations

import copy
import dataclasses
import inspect

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from phlogiston.errors import ConfigError
from phlogiston.mdn_sklearn import MDN_OPTIONS
from phlogiston.sklearn import MDNRegressor
from phlogiston.systems.mdn.config import Config

TINY = {"num_components": 2, "hidden": (8,), "steps": 25, "batch_size": 32}


def two_branches(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The target is plus or minus the input: its mean is never right."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(1, 3, size=(n, 1))
    return x, np.where(rng.random(n) < 0.5, 1.0, -1.0) * x[:, 0] + 0.1 * rng.normal(size=n)


@pytest.fixture(scope="module")
def fitted() -> MDNRegressor:
    options = {"num_components": 3, "hidden": (20,), "steps": 700, "learning_rate": 0.02}
    return MDNRegressor(**options, random_state=0).fit(*two_branches(600))


@parametrize_with_checks([MDNRegressor(**TINY), MDNRegressor(**TINY, members=2, early_stopping=False)])
def test_scikit_learns_own_checks_pass(estimator: MDNRegressor, check: object) -> None:
    check(estimator)


def test_parameters_have_the_defaults_of_the_system() -> None:
    given = {name: p.default for name, p in inspect.signature(MDNRegressor).parameters.items()}
    config = {field.name: field.default for field in dataclasses.fields(Config)}
    assert {name: given[name] for name in MDN_OPTIONS} == {name: config[name] for name in MDN_OPTIONS}


def test_it_finds_both_branches_where_the_mean_is_between(fitted: MDNRegressor) -> None:
    X, y = two_branches(500, seed=1)
    truth = np.log(0.5 / (0.1 * np.sqrt(2 * np.pi))) - 0.5
    assert fitted.score(X, y) > truth - 0.25
    assert np.abs(fitted.predict(X)).max() < 1.0, "the mean is between the branches"
    modes = fitted.predict_dist([[2.0]]).modes()
    strong = modes.points[0, :, 0][modes.mask[0]].sort().values
    assert strong[[0, -1]].tolist() == pytest.approx([-2.0, 2.0], abs=0.15)
    draws = fitted.sample([[2.0]], n_samples=2000, random_state=0)[:, 0]
    assert ((np.abs(np.abs(draws) - 2.0) < 0.6).mean()) > 0.9
    inside = fitted.predict_interval(X)[:, 0]
    assert ((inside[:, 0] < y) & (y < inside[:, 1])).mean() > 0.85


def test_densities_are_in_the_units_of_the_targets(fitted: MDNRegressor) -> None:
    X, y = two_branches(600)
    options = fitted.get_params()
    wide = MDNRegressor(**options).fit(1e7 * X + 1e9, 1e-3 * y + 50.0)
    np.testing.assert_allclose(
        wide.log_prob(1e7 * X + 1e9, 1e-3 * y + 50.0), fitted.log_prob(X, y) + np.log(1e3), atol=0.3
    )


def test_several_targets_keep_their_dependence() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1))
    y = np.column_stack([x[:, 0], -x[:, 0]]) + rng.normal(size=(400, 1))
    model = MDNRegressor(1, kind="full", hidden=(10,), steps=400, learning_rate=0.02, random_state=0).fit(x, y)
    covariance = model.predict_dist([[0.0]]).covariance[0]
    assert float(covariance[0, 1]) / float(covariance.diagonal().prod().sqrt()) > 0.9
    assert model.predict(x).shape == (400, 2)
    assert model.sample(x, 3).shape == (3, 400, 2)
    given = model.predict_dist([[0.0]]).condition({0: 1.0})
    assert float(given.mean[0]) == pytest.approx(1.0, abs=0.3)


def test_clones_copies_pipelines_and_grid_search_work(fitted: MDNRegressor) -> None:
    X, y = two_branches(60)
    np.testing.assert_array_equal(copy.deepcopy(fitted).predict(X), fitted.predict(X))
    with pytest.raises(NotFittedError):
        clone(fitted).predict(X)
    pipeline = make_pipeline(StandardScaler(), MDNRegressor(**TINY, random_state=0))
    assert np.isfinite(cross_val_score(pipeline, X, y, cv=2)).all()
    search = GridSearchCV(
        MDNRegressor(**TINY, random_state=0),
        {"num_components": [1, 3]},
        cv=2,
    ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_early_stopping_uses_fewer_steps() -> None:
    X, y = two_branches(200)
    options = {**TINY, "steps": 2000, "learning_rate": 0.05}
    short = MDNRegressor(**options, patience=3, random_state=0).fit(X, y)
    assert short.n_iter_ < 2000
    assert MDNRegressor(**TINY, early_stopping=False, patience=3, random_state=0).fit(X, y).n_iter_ == 25


def test_bad_options_are_refused_in_words(fitted: MDNRegressor) -> None:
    X, y = two_branches(30)
    with pytest.raises(ConfigError, match="validation_fraction"):
        MDNRegressor(**TINY, validation_fraction=1.5).fit(X, y)
    with pytest.raises(ConfigError, match="num_components"):
        MDNRegressor(0).fit(X, y)
    with pytest.raises(ValueError, match="at least one non-zero"):
        MDNRegressor(**TINY).fit(X, y, sample_weight=np.zeros(30))
    with pytest.raises(ConfigError, match="n_samples"):
        fitted.sample(X, 0)
    assert fitted.predict_dist(X).loc.dtype == torch.double
