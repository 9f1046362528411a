"""The default structure: what cross-validation chooses predicts rows it has not seen, and copies do not deceive it."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris, load_wine, make_swiss_roll

import phlogiston
from phlogiston.systems.drmm.config import Structure
from phlogiston.systems.drmm.selection import CANDIDATES, SINGLE, WIDE
from phlogiston.systems.drmm.system import DRMM

QUICK: dict[str, Any] = {"progress": "off"}


def chosen(rows: Any, **options: Any) -> Structure:
    recipe = DRMM(steps=1, **options).fit(rows, **QUICK).recipe
    return Structure(**{field.name: getattr(recipe, field.name) for field in fields(Structure)})


@pytest.mark.parametrize("load", [load_iris, load_wine])
def test_a_small_table_gets_a_model_that_predicts_new_rows(load: Any) -> None:
    """Three layers of 16 components, far too many for 120 rows, miss some of them by several nats."""
    x = np.random.default_rng(0).permutation(load().data)
    train, fresh = x[:-30], x[-30:]
    system = DRMM().fit(train, **QUICK)
    large = DRMM(num_layers=3, num_components=16, steps=100).fit(train, **QUICK)
    assert (system.log_prob(fresh).value - large.log_prob(fresh).value).mean() > 1.0
    assert system.recipe.steps == Structure(1).steps


def test_a_curved_density_gets_more_components_than_a_straight_one() -> None:
    rng = np.random.default_rng(0)
    assert chosen(rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4))).paths <= 3
    assert chosen(make_swiss_roll(800, noise=0.3, random_state=0)[0]).paths >= 16


def test_copies_of_rows_do_not_pass_for_rows_not_seen() -> None:
    rows = np.random.default_rng(1).normal(size=(60, 3))
    once = chosen(rows)
    assert chosen(np.repeat(rows, 6, 0)).paths <= max(once.paths, 4)
    assert chosen({"x": rows, "weight": np.full(60, 6)}) == once


def test_units_and_the_rows_themselves_decide_and_nothing_else() -> None:
    rows = np.random.default_rng(2).normal(size=(150, 3)) ** 3
    assert chosen(rows) == chosen(rows) == chosen(rows * [1e-9, 1.0, 1e9] + 5.0)


def test_gaps_and_categories_are_taken_as_they_come() -> None:
    rng = np.random.default_rng(3)
    kind = rng.integers(0, 2, 200)
    rows = rng.normal(size=(200, 3)) + 3.0 * kind[:, None]
    rows[rng.random(rows.shape) < 0.2] = np.nan
    system = DRMM(steps=5).fit({"x": rows, "kind": kind}, **QUICK)
    answer = system.query({"kind": 1}, num_samples=2000, seed=0)
    assert float(answer.samples["x"][:, 0].mean()) == pytest.approx(3.0, abs=0.5)


def test_options_that_are_given_stay() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 2))
    system = DRMM(num_components=4, steps=5).fit(rows, **QUICK)
    assert (system.recipe.num_layers, system.recipe.num_components, system.recipe.frame) == (3, 4, "diag")
    assert DRMM(frame="tril", num_layers=1).fit(rows, steps=3, **QUICK).recipe.steps == 3


@pytest.mark.parametrize("rows", [2, 9])
def test_a_handful_of_rows_is_one_gaussian(rows: int) -> None:
    assert chosen(np.random.default_rng(0).normal(size=(rows, 2))) == SINGLE


def test_an_exact_guide_gets_no_more_paths_than_it_may_sum() -> None:
    rows = make_swiss_roll(800, noise=0.3, random_state=0)[0]
    assert chosen(rows, guide="exact", max_enum=64).paths <= 64


def test_many_columns_are_told_by_few_directions() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 80)) + 0.1 * rng.normal(size=(200, 80))
    found = chosen(rows)
    assert found.frame == "lowrank"
    assert found in WIDE


def test_the_choice_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    rows = load_iris().data
    system = DRMM().fit(rows, out=tmp_path / "run", **QUICK)
    again = DRMM().fit(rows, out=tmp_path / "run", **QUICK)
    loaded = phlogiston.load(system.save(tmp_path / "saved"))
    assert asdict(loaded.recipe) == asdict(again.recipe) == asdict(system.recipe)
    assert loaded.config.num_layers == "auto"
    assert loaded.recipe.num_layers in {c.num_layers for c in CANDIDATES}
    assert float(loaded.log_prob(rows).value.sum()) == float(system.log_prob(rows).value.sum())


def test_a_summary_tells_what_was_chosen() -> None:
    system = DRMM().fit(np.random.default_rng(0).normal(size=(40, 2)), **QUICK)
    assert f"num_components={system.recipe.num_components}" in str(system.summary())
