"""Columns of two numbers, yes and no: their dependence on others is not smoothed over."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from phlogiston.distributions.cell_map import CellMap
from phlogiston.systems.drmm import system as drmm_system
from phlogiston.systems.drmm.system import DRMM

OPTIONS: dict[str, Any] = {"num_layers": 1, "num_components": 6, "steps": 200, "revive_every": 0}


def table(n: int = 1500) -> pandas.DataFrame:
    """An answer that depends on a group and on a number, and what it costs, 0 or 5."""
    random = np.random.default_rng(0)
    group = np.array(["a", "b", "c"])[random.integers(0, 3, n)]
    x = random.standard_normal(n)
    chance = np.where(group == "a", 0.9, np.where(group == "b", 0.1, (x > 0) * 0.8 + 0.1))
    answer = (random.random(n) < chance).astype(int)
    return pandas.DataFrame({"group": group, "x": x, "answer": answer, "cost": 5 * (random.random(n) < 0.3)})


@pytest.fixture(scope="module")
def system() -> DRMM:
    return DRMM(**OPTIONS).fit(table(), seed=0, progress="off")


def errors(system: DRMM) -> list[float]:
    """How far the probability of a yes given the group is off."""
    frame, found = table(), []
    for group in "abc":
        both = system.query("answer = 1", f"group = {group}", num_samples=2).log_evidence
        alone = system.query(f"group = {group}", num_samples=2).log_evidence
        share = frame["answer"][frame["group"] == group].mean()
        found.append(float((both - alone).exp()) - share)
    return found


def test_dependence_is_not_understated(system: DRMM, monkeypatch: pytest.MonkeyPatch) -> None:
    found = errors(system)
    assert max(map(abs, found)) < 0.035
    together = drmm_system.describe_cells
    monkeypatch.setattr(drmm_system, "describe_cells", lambda *a, apart, **k: together(*a, apart=False, **k))
    before = errors(DRMM(**OPTIONS).fit(table(), seed=0, progress="off"))
    assert before[0] < -0.035 < 0.035 < before[1]  # images that touch: drawn towards one another


def test_the_density_is_that_of_whole_cells_and_integrates_to_one(system: DRMM) -> None:
    values = [[0.0, 0.0], [0.0, 5.0], [1.0, 0.0], [1.0, 5.0]]
    x = {"x": [[0.0, *v] for v in values], "mask": [[False, True, True]] * 4}
    x = {key: np.array(value) for key, value in x.items()}
    density, mass = system.log_prob(x).value, system.log_prob(x, mass=True).value
    torch.testing.assert_close(density + math.log(5), mass)
    assert float(mass.exp().sum()) == pytest.approx(1.0, abs=5e-3)
    # anywhere in a cell, the same
    x["x"][:, 1] += 0.3
    torch.testing.assert_close(system.log_prob(x).value, density)
    one = system.query("answer = 1", "cost = 5", num_samples=2)
    assert one.method.startswith("exact")
    torch.testing.assert_close(one.log_evidence, mass[3])
    drawn = system.query("cost = 5", num_samples=300, seed=0, sort=True)
    rows = drawn.samples["x"]
    torch.testing.assert_close(drawn.details["log_prob"], system.log_prob(rows).value)


def test_rows_drawn_lie_on_the_two_values(system: DRMM) -> None:
    made = system.synthesize(2000, seed=0)
    assert set(made["answer"]) == {0, 1}
    assert set(made["cost"]) == {0, 5}
    assert made["cost"].eq(5).mean() == pytest.approx(0.3, abs=0.06)


def test_frames_with_shear_and_runs_from_before_have_no_gaps(system: DRMM) -> None:
    sheared = DRMM(**{**OPTIONS, "steps": 1, "frame": "tril"}).fit(table(), progress="off")
    assert not any(sheared.schema["cells"]["apart"])
    assert len(sheared.schema["cells"]["knots"][0]) == 3
    old = {key: value for key, value in system.schema["cells"].items() if key != "apart"}
    cells = CellMap.from_schema(old)
    assert cells is not None
    assert not bool(cells.apart.any())
    three = pandas.DataFrame({"x": np.arange(90) % 3, "y": np.arange(90) % 2})
    assert DRMM(**{**OPTIONS, "steps": 1}).fit(three, progress="off").schema["cells"]["apart"] == [False, True]
