"""The scikit-learn estimator keeps scikit-learn's contract, and is the same model as the system underneath."""

from __future__ import annotations

import copy
import dataclasses
import inspect

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.sklearn import SYSTEM_OPTIONS, DRMMDensity
from phlogiston.systems.drmm.config import Config

TINY = {"num_layers": 2, "num_components": 3, "steps": 10, "batch_size": 32}


def two_blobs(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = np.where(rng.random((n, 1)) < 0.3, [[-3.0, 0.0]], [[3.0, 1.0]])
    return centre + rng.normal(size=(n, 2)) * [1.0, 0.5]


@pytest.fixture(scope="module")
def fitted() -> DRMMDensity:
    return DRMMDensity(num_layers=1, num_components=2, steps=150, batch_size=128, frame="tril", random_state=0).fit(
        two_blobs(1000)
    )


@parametrize_with_checks([DRMMDensity(**TINY)])
def test_scikit_learns_own_checks_pass(estimator: DRMMDensity, check: object) -> None:
    check(estimator)


def test_parameters_have_the_defaults_of_the_system() -> None:
    given = {name: p.default for name, p in inspect.signature(DRMMDensity).parameters.items()}
    config = {field.name: field.default for field in dataclasses.fields(Config)}
    assert {name: given[name] for name in SYSTEM_OPTIONS} == {name: config[name] for name in SYSTEM_OPTIONS}
    assert set(given) - set(SYSTEM_OPTIONS) == {"random_state", "verbose"}


def test_it_finds_two_blobs_as_well_as_a_gaussian_mixture_does(fitted: DRMMDensity) -> None:
    rival = GaussianMixture(2, random_state=0).fit(two_blobs(1000))
    held_out = two_blobs(2000, seed=1)
    assert fitted.score(held_out) > rival.score(held_out) - 0.01
    assert fitted.score_kind_ == "exact"


def test_the_density_integrates_to_one_in_the_units_of_the_data(fitted: DRMMDensity) -> None:
    x, y = np.linspace(-10, 10, 301), np.linspace(-6, 6, 301)
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    mass = np.exp(fitted.score_samples(grid)).sum() * (x[1] - x[0]) * (y[1] - y[0])
    assert mass == pytest.approx(1.0, abs=1e-3)


def test_a_missing_value_is_integrated_out(fitted: DRMMDensity) -> None:
    y = np.linspace(-6, 6, 601)
    joint = fitted.score_samples(np.stack([np.full_like(y, 1.5), y], -1))
    (marginal,) = fitted.score_samples([[1.5, np.nan]])
    assert marginal == pytest.approx(np.log(np.exp(joint).sum() * (y[1] - y[0])), abs=1e-4)


def test_it_learns_from_rows_with_missing_values() -> None:
    rows, rng = two_blobs(1000), np.random.default_rng(1)
    rows[rng.random(rows.shape) < 0.3] = np.nan
    density = DRMMDensity(1, 2, steps=100, batch_size=128, random_state=0).fit(rows)
    assert density.score(two_blobs(1000, seed=2)) > -3.0  # one Gaussian reaches about -3.7


def test_shifting_and_scaling_the_data_shifts_the_scores_by_the_jacobian() -> None:
    rows = two_blobs(300)
    plain = DRMMDensity(**TINY, random_state=0).fit(rows)
    far = DRMMDensity(**TINY, random_state=0).fit(1e6 + 1e-2 * rows)  # single precision would see little of these
    difference = far.score_samples(1e6 + 1e-2 * rows) - plain.score_samples(rows)
    np.testing.assert_allclose(difference, 2 * np.log(1e2), atol=1e-2)


def test_rows_of_weight_zero_and_a_common_weight_change_nothing() -> None:
    rows = two_blobs(200)
    plain = DRMMDensity(**TINY, random_state=0).fit(rows)
    padded = np.concatenate([rows, np.full((50, 2), 99.0)])
    weighted = DRMMDensity(**TINY, random_state=0).fit(padded, sample_weight=[2.0] * 200 + [0.0] * 50)
    np.testing.assert_array_equal(weighted.score_samples(rows), plain.score_samples(rows))


def test_weights_move_the_density_to_the_rows_that_count() -> None:
    rows = two_blobs(600)
    left = (rows[:, 0] < 0).astype(float)
    weighted = DRMMDensity(1, 2, steps=200, random_state=0).fit(rows, sample_weight=1e-3 + left)
    assert weighted.sample(2000, random_state=0)[:, 0].mean() < -2.0  # 1.2 without weights, -3 in the limit


def test_samples_have_the_moments_of_the_data_and_follow_their_seed(fitted: DRMMDensity) -> None:
    sample = fitted.sample(20_000, random_state=3)
    np.testing.assert_allclose(sample.mean(0), two_blobs(1000).mean(0), atol=0.15)
    np.testing.assert_allclose(sample.std(0), two_blobs(1000).std(0), atol=0.15)
    np.testing.assert_array_equal(sample, fitted.sample(20_000, random_state=3))
    assert not np.array_equal(fitted.sample(5, random_state=1), fitted.sample(5, random_state=2))


def test_codes_tell_the_blobs_apart(fitted: DRMMDensity) -> None:
    codes = fitted.codes([[-3.0, 0.0], [-3.5, 0.1], [3.0, 1.0]])
    assert codes.shape == (3, 1)
    assert codes[0] == codes[1] != codes[2]


def test_a_constant_column_carries_no_density_and_must_agree() -> None:
    rows = two_blobs(200)
    plain = DRMMDensity(**TINY, random_state=0).fit(rows)
    wide = np.column_stack([rows, np.full(200, 0.1)])
    density = DRMMDensity(**TINY, random_state=0).fit(wide)
    np.testing.assert_allclose(density.score_samples(wide), plain.score_samples(rows))
    assert density.score_samples([[0.0, 0.0, 0.2]]) == -np.inf
    np.testing.assert_allclose(density.sample(4, random_state=0)[:, 2], 0.1)


def test_clones_and_copies_answer_alike_and_independently(fitted: DRMMDensity) -> None:
    rows = two_blobs(10)
    copied = copy.deepcopy(fitted)
    np.testing.assert_array_equal(copied.score_samples(rows), fitted.score_samples(rows))
    blank = clone(fitted)
    assert blank.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        blank.score_samples(rows)


def test_it_works_in_pipelines_and_grid_search() -> None:
    pipeline = make_pipeline(StandardScaler(), DRMMDensity(**TINY, random_state=0))
    search = GridSearchCV(pipeline, {"drmmdensity__num_layers": [1, 2]}, cv=2).fit(two_blobs(100))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_many_tuples_make_the_scores_lower_bounds() -> None:
    density = DRMMDensity(**TINY, max_enum=8, random_state=0).fit(two_blobs(60))
    assert density.score_kind_ == "lower bound"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"rows": np.ones((5, 2))}, DataError, "constant"),
        ({"rows": np.column_stack([np.arange(5.0), np.full(5, np.nan)])}, DataError, "column 1 of X holds no known"),
        ({"rows": np.array([[1.0, np.inf], [0.0, 1.0]])}, ValueError, "infinity"),
        ({"weight": [-1.0] + [1.0] * 99}, DataError, "negative in row 0"),
        ({"weight": np.zeros(100)}, DataError, "zero in every row"),
        ({"weight": [1.0]}, ShapeError, "each of the 100 rows"),
        ({"options": {"frame": "trill"}}, ConfigError, "frame"),
        ({"options": {"steps": 0}}, ConfigError, "steps"),
    ],
)
def test_bad_input_is_refused_in_words(change: dict, error: type[Exception], words: str) -> None:
    density = DRMMDensity(**(TINY | change.get("options", {})))
    with pytest.raises(error, match=words):
        density.fit(change.get("rows", two_blobs(100)), sample_weight=change.get("weight"))


def test_the_wrong_number_of_columns_is_refused(fitted: DRMMDensity) -> None:
    with pytest.raises(ValueError, match="X has 3 features, but DRMMDensity is expecting 2"):
        fitted.score_samples(np.zeros((4, 3)))
    with pytest.raises(ConfigError, match="n_samples must be at least 1"):
        fitted.sample(0)
