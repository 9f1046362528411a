"""The regression sources: exact conditional densities, and the usual splits of the UCI tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.fetched import uci
from phlogiston.datasets.generated import arcsine, spiral
from phlogiston.errors import DataError, ShapeError, UnknownNameError


def test_the_inverse_density_integrates_to_one_over_the_targets() -> None:
    y = np.linspace(-10.5, 10.5, 20_001)
    for noise_sd in (0.1, 1.0, 3.0):
        for x in (-12.0, 0.0, 3.3, 11.0):
            density = np.exp(arcsine.true_log_prob(y, np.full_like(y, x), noise_sd))
            assert np.trapezoid(density, y) == pytest.approx(1.0, abs=1e-5)


def test_the_inverse_density_is_zero_outside_and_follows_bayes_inside() -> None:
    assert arcsine.true_log_prob(np.array([10.6]), np.array([5.0])) == -np.inf
    y = np.array([-3.0, 2.0])
    x = np.array([1.0, 1.0])
    likelihood = -0.5 * (x - arcsine.curve(y)) ** 2
    found = arcsine.true_log_prob(y, x)
    assert found[0] - found[1] == pytest.approx(likelihood[0] - likelihood[1])


def test_a_perfect_model_of_the_inverse_scores_the_known_figure() -> None:
    data = datasets.load("arcsine")
    assert data.meta.conditional_truth is not None
    score = data.meta.conditional_truth(data.test.numpy("y"), data.test.numpy("x"))
    assert score.mean() == pytest.approx(-1.298, abs=0.05)  # standard error 0.011


def test_forward_is_the_same_rows_swapped_with_the_plain_normal_density() -> None:
    inverse, forward = (datasets.load("arcsine", direction=d, sizes=(50, 5, 5)) for d in ("inverse", "forward"))
    assert np.array_equal(inverse.train.numpy("x"), forward.train.numpy("y"))
    y, x = forward.test.numpy("y"), forward.test.numpy("x")
    want = -0.5 * (y[:, 0] - arcsine.curve(x[:, 0].astype(float))) ** 2 - 0.5 * np.log(2 * np.pi)
    assert forward.meta.conditional_truth(y, x) == pytest.approx(want, abs=1e-6)


def test_spiral_targets_have_the_density_they_say() -> None:
    data = datasets.load("spiral")
    score = data.meta.conditional_truth(data.test.numpy("y"), data.test.numpy("x"))
    assert score.mean() == pytest.approx(-(1 + np.log(2 * np.pi)), abs=0.1)  # entropy of the noise; sd 0.022
    back = datasets.load("spiral", reverse=True)
    assert back.meta.conditional_truth is None
    assert np.array_equal(back.train.numpy("x"), data.train.numpy("y"))


@pytest.mark.parametrize(
    "draw",
    [
        lambda n: arcsine.draw(n, seed=3)[0],
        lambda n: spiral.draw(n, seed=3)[1],
        lambda n: datasets.load("arcsine", sizes=(n, 1, 1)).train.numpy("y"),
        lambda n: datasets.load("spiral", sizes=(n, 1, 1)).train.numpy("y"),
    ],
)
def test_the_first_rows_do_not_depend_on_how_many_were_asked_for(draw: Any) -> None:
    assert draw(7).tobytes() == draw(1001)[:7].tobytes()


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("arcsine", {"noise_sd": 0.0}, DataError, "must be positive"),
        ("arcsine", {"sizes": (1, 2)}, DataError, "three numbers"),
        ("arcsine", {"direction": "inversed"}, UnknownNameError, "inverse"),
        ("spiral", {"noise_sd": -1.0}, DataError, "must be positive"),
        ("spiral", {"sizes": (1, -2, 3)}, DataError, "three numbers"),
        ("uci", {"table": "yatch"}, UnknownNameError, "yacht"),
        ("uci", {"split": 20}, DataError, "0 ... 19"),
        ("uci", {"valid": 1.5}, DataError, "share"),
    ],
)
def test_impossible_options_are_refused_in_words(
    name: str, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        datasets.load(name, **options)


def test_densities_refuse_other_shapes() -> None:
    with pytest.raises(ShapeError, match=r"expected \(rows,\)"):
        arcsine.true_log_prob(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ShapeError, match=r"\(rows, 2\)"):
        spiral.true_log_prob(np.zeros((3, 3)), np.zeros(3))
    with pytest.raises(DataError, match=r"from 0\.05"):
        arcsine.true_log_prob(np.zeros(3), np.zeros(3), 0.01)


def test_uci_tables_are_read_from_npz_and_csv_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(308, 6)), rng.normal(size=(308, 1))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "a" / "yacht.npz", x=x, y=y)
    np.savetxt(tmp_path / "b" / "yacht.csv", np.hstack([x, y]), delimiter=",")
    one, two = (datasets.load("uci", root=tmp_path / where, table="yacht", split=3) for where in "ab")
    assert (len(one.train), len(one.valid), len(one.test)) == (249, 28, 31)
    np.testing.assert_allclose(one.test.numpy(), two.test.numpy(), rtol=1e-6)
    assert one.meta.columns[-1] == "froude"
    whole = np.concatenate([part.numpy("y") for part in (one.train, one.valid, one.test)])
    np.testing.assert_allclose(np.sort(whole[:, 0]), np.sort(y[:, 0]), rtol=1e-6)


def test_a_missing_or_wrong_uci_table_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="UCI Machine Learning Repository"):
        datasets.load("uci", root=tmp_path, table="energy")
    np.savez(tmp_path / "energy.npz", x=np.zeros((5, 8)), y=np.zeros(5))
    with pytest.raises(DataError, match=r"\(768, 8\)"):
        datasets.load("uci", root=tmp_path, table="energy")
    np.savez(tmp_path / "yacht.npz", x=np.zeros((5, 8)))
    with pytest.raises(DataError, match="no array 'y'"):
        datasets.load("uci", root=tmp_path, table="yacht")


@pytest.mark.parametrize("table", sorted(uci.TABLES))
def test_the_usual_splits_are_met_exactly(table: str, test_data: Callable[[str], Path]) -> None:
    folder = test_data("uci_regression")
    with np.load(folder / f"{table}.npz") as content:
        given = content["test_index"]
    for split in (0, 1, 9):
        assert set(uci.split_rows(uci.TABLES[table].rows, split)[1]) == set(given[split])
    data = datasets.load("uci", root=folder, table=table, split=2)
    assert len(data.test) == given.shape[1]
