"""A deep residual mixture of columns on a grid: the density, its cells, questions, units, and what is saved."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import phlogiston
from phlogiston.errors import ConfigError, EvidenceError
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, Within
from phlogiston.inference.query.kinds.sum import Sum
from phlogiston.systems.drmm.system import DRMM

OPTIONS = {"num_layers": 2, "num_components": 3, "steps": 60, "revive_every": 0}


def table(n: int = 500) -> np.ndarray:
    """A count, the same rounded with noise, and a continuous column."""
    random = np.random.default_rng(0)
    count = random.poisson(1.0, n).astype(float)
    return np.stack([count, np.round(2 * count + random.standard_normal(n)), random.standard_normal(n) + count], 1)


@pytest.fixture(scope="module")
def system() -> DRMM:
    return DRMM(**OPTIONS).fit(table(), seed=0)


@pytest.fixture(scope="module")
def sheared() -> DRMM:
    return DRMM(**OPTIONS, frame="tril").fit(table()[:, :2], seed=0)


def cells_of(system: DRMM) -> list[np.ndarray]:
    """Edges of every cell that matters, by mapped column."""
    cells = system.model.cells
    result = []
    for start, step, knots in zip(cells.start, cells.step, cells.knots, strict=True):
        result.append(float(start) + float(step) * np.arange(-6, int((knots[knots < 1e300].max() - start) / step) + 8))
    return result


@pytest.mark.parametrize("frame", ["diag", "tril"])
def test_the_density_integrates_to_one(frame: str) -> None:
    fitted = DRMM(num_layers=1, num_components=3, steps=20, frame=frame).fit(table()[:, :1])
    edges = torch.linspace(-60, 60, 240_001).double()
    middle = (0.5 * (edges[1:] + edges[:-1])).unsqueeze(1)
    total = (fitted.log_prob(middle).value.exp() * edges.diff()).sum()
    assert float(total) == pytest.approx(1.0, abs=2e-4)


def test_the_columns_on_a_grid_are_found_and_the_option_switches_them_off(system: DRMM) -> None:
    assert system.model.cells.position.tolist() == [0, 1]
    assert DRMM(**OPTIONS, grid="off").fit(table(), steps=1).model.cells is None
    assert DRMM(**OPTIONS, grid=["x1"]).fit(table(), steps=1).model.cells.position.tolist() == [1]


def test_masses_of_all_cells_add_up_to_one_and_are_those_of_within(system: DRMM) -> None:
    counts = np.stack(np.meshgrid(np.arange(-5.0, 14), np.arange(-9.0, 25)), -1).reshape(-1, 2)
    rows = {"x": np.c_[counts, np.zeros(len(counts))], "mask": np.tile([True, True, False], (len(counts), 1))}
    mass = system.log_prob(rows, mass=True).value
    assert float(mass.exp().sum()) == pytest.approx(1.0, abs=2e-3)
    some = [int(np.flatnonzero((counts == cell).all(1))[0]) for cell in ((0, 1), (2, 3), (1, 4))]
    low, high = (torch.from_numpy(np.c_[counts[some] + side, [[np.inf * side]] * 3]) for side in (-0.5, 0.5))
    within = torch.stack([system.questions().log_evidence({"x": Within(a, b)}) for a, b in zip(low, high, strict=True)])
    torch.testing.assert_close(mass[some], within, rtol=1e-5, atol=1e-4)


def test_masses_need_independent_columns_within_a_path(sheared: DRMM) -> None:
    with pytest.raises(ConfigError, match="mass=True needs frame"):
        sheared.log_prob(table()[:5, :2], mass=True)


def test_a_known_value_on_a_grid_has_the_probability_of_its_cell(system: DRMM) -> None:
    ask = system.questions()
    masses = torch.stack([ask.log_evidence({"x": Known([float(k), 0.0, 0.0], [1, 0, 0])}) for k in range(5)])
    others = [system.query(text, num_samples=10).log_evidence.exp() for text in ("x0 < 0", "x0 > 4")]
    assert float(masses.exp().sum() + sum(others)) == pytest.approx(1.0, abs=1e-6)
    for k in (0, 2):
        low, high = (system.query(f"x0 {op} {k}", num_samples=10).log_evidence.exp() for op in (">=", ">"))
        assert float(masses[k].exp()) == pytest.approx(float(low - high), abs=1e-5)
        words = [system.query(text, num_samples=10) for text in (f"x0 = {k}", f"{k} <= x0 <= {k}")]
        for answer in words:
            assert answer.method.startswith("exact over")
            assert "middles" not in answer.method
            torch.testing.assert_close(answer.log_evidence, masses[k])


def test_answers_given_a_value_on_a_grid_are_those_of_draws_that_have_it(system: DRMM) -> None:
    x = system.sample(100_000, seed=0)["x"].double()
    for known in ({0: 0.0}, {0: 2.0, 1: 4.0}):
        inside = torch.stack([x[:, i] == value for i, value in known.items()]).all(0)
        value, mask = torch.zeros(3), torch.zeros(3)
        for i, v in known.items():
            value[i], mask[i] = v, 1
        count = int(inside.sum())
        answer = system.query({"x": Known(value, mask)}, num_samples=4000, seed=1)
        assert float(answer.log_evidence) == pytest.approx(math.log(count / len(x)), abs=5 / count**0.5)
        mine, theirs = answer.samples["x"][:, 2], x[inside, 2]
        error = float((mine.var() / len(mine) + theirs.var() / count).sqrt())
        assert float(mine.mean() - theirs.mean()) == pytest.approx(0.0, abs=5 * error)


def test_many_rows_of_known_values_are_answered_as_one_by_one(system: DRMM) -> None:
    rows = torch.from_numpy(table(12))
    mask = torch.ones_like(rows)
    mask[::2, 2], mask[1::3, 1], mask[2::3, 0] = 0, 0, 0
    one = torch.stack([system.questions().log_evidence({"x": Known(r, m)}) for r, m in zip(rows, mask, strict=True)])
    together = system.query({"x": Known(rows, mask)}, num_samples=2, seed=0)
    torch.testing.assert_close(together.log_evidence, one)
    torch.testing.assert_close(system.questions().conditional_log_prob({"x": Known(rows, mask)}, {}), one)
    scored = system.log_prob({"x": rows.numpy(), "mask": mask.bool().numpy()}, mass=True).value
    torch.testing.assert_close(one, scored, rtol=1e-4, atol=1e-3)


def test_sheared_paths_take_cells_by_their_middles_and_say_so(sheared: DRMM) -> None:
    row = torch.from_numpy(table(9))[:, :2]
    answer = sheared.query({"x": Known(row)}, num_samples=2)
    sorted_one = sheared.query({"x": Known(row[0])}, num_samples=2, sort=True)
    for each in (answer, sorted_one):
        assert each.method.endswith("known values on a grid by the middles of their cells")
        assert each.log_evidence_error is None
        assert each.details["log_evidence_error"] == "known values on a grid by the middles of their cells"
    torch.testing.assert_close(answer.log_evidence, sheared.log_prob(row.numpy()).value, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(sheared.questions().log_evidence({"x": Known(row)}), answer.log_evidence)
    part = sheared.questions().log_evidence({"x": Known(row[:3], [1, 0])})
    edges = torch.linspace(-80, 80, 64_001).double()
    for r in range(3):
        line = row[r].repeat(64_000, 1)
        line[:, 1] = 0.5 * (edges[1:] + edges[:-1])
        integral = (sheared.log_prob(line.numpy()).value.exp() * edges.diff()).sum().log()
        assert float(part[r]) == pytest.approx(float(integral), abs=2e-3)


@pytest.mark.parametrize("frame", ["diag", "tril"])
def test_the_probability_of_a_value_does_not_depend_on_its_unit(frame: str) -> None:
    x = table(300)
    options = {**OPTIONS, "frame": frame, "grid": ["x0", "x1"]}
    plain = DRMM(**options).fit(x, seed=0, steps=10)
    tenths = DRMM(**options).fit(x * [0.1, 0.25, 1.0], seed=0, steps=10)
    before, after = (s.query(q, num_samples=2).log_evidence for s, q in ((plain, "x0 = 2"), (tenths, "x0 = 0.2")))
    assert float(before) == pytest.approx(float(after), abs=1e-3)


@pytest.mark.parametrize("name", ["system", "sheared"])
def test_within_agrees_with_brute_force_and_samples_stay_inside(name: str, request: pytest.FixtureRequest) -> None:
    fitted: DRMM = request.getfixturevalue(name)
    x = fitted.sample(60_000, seed=0)["x"].double()
    width = x.shape[1]
    low, high = torch.full((width,), -np.inf).double(), torch.full((width,), np.inf).double()
    low[0], high[0], low[1], high[1] = 0.5, 2.5, -0.5, 1.5
    inside = ((x >= low) & (x <= high)).all(1)
    answer = fitted.query({"x": Within(low, high)}, num_samples=4000, seed=1)
    error = float(((1 - inside.double().mean()) / inside.sum()) ** 0.5)
    assert float(answer.log_evidence.exp()) == pytest.approx(float(inside.double().mean()), rel=5 * error + 0.02)
    drawn = answer.samples["x"]
    assert bool(((drawn >= low) & (drawn <= high)).all())
    spread = x[inside].std(0) / inside.sum() ** 0.5 + drawn.std(0) / 50
    assert bool(((drawn.mean(0) - x[inside].mean(0)).abs() < 5 * spread).all())


def test_half_spaces_go_by_importance_and_say_so(system: DRMM) -> None:
    x = system.sample(60_000, seed=0)["x"].double()
    a = torch.tensor([1.0, -1.0, 0.5]).double()
    obeys = x @ a - 1.5 >= 0
    answer = system.query({"x": HalfSpace(a, -1.5)}, num_samples=1000, seed=2)
    assert "inequalities over columns on a grid by importance" in answer.method
    assert bool((answer.samples["x"] @ a >= 1.5).all())
    share = float(obeys.double().mean())
    error = float(answer.log_evidence_error)
    assert 0 < error < 0.3
    assert float(answer.log_evidence) == pytest.approx(np.log(share), abs=5 * error)
    plain = system.query({"x": HalfSpace([0.0, 0.0, 1.0], -1.5)}, num_samples=10, seed=2)
    assert "importance" not in plain.method  # no mapped column is named
    one = system.query({"x": HalfSpace([2.0, 0.0, 0.0], -3.0)}, num_samples=10, seed=2)
    assert "importance" not in one.method  # an interval of one column
    box = torch.tensor([1.5, -np.inf, -np.inf]).double()
    direct = system.query({"x": Within(box, torch.full((3,), np.inf))}, num_samples=10, seed=2)
    torch.testing.assert_close(one.log_evidence, direct.log_evidence)
    known = {"x": [Known([1.0, 0.0, 0.0], [1, 0, 0]), HalfSpace([1.0, 0.0, 1.0], -3.0)]}
    assert "importance" not in system.query(known, num_samples=10, seed=2).method


def test_sums_over_mapped_columns_are_refused(system: DRMM) -> None:
    with pytest.raises(EvidenceError, match="a sum that names a column on a grid cannot be fixed exactly"):
        system.query({"x": Sum([1.0, 1.0, 0.0], 3.0)}, num_samples=10)


def test_near_is_a_normal_observation_on_the_mapped_scale(system: DRMM) -> None:
    model, near = system.questions().model, Near([1.2, 0.0, 0.0], [0.8, np.inf, np.inf])
    points = torch.tensor([[1.2, 0.0, 0.0], [2.0, 0.0, 0.0], [0.4, 0.0, 0.0]]).double()
    centre, above, below = model.coordinates(points)[:, 0]
    _, log_prior, means, sds = model.paths()
    variance = sds[:, 0] ** 2 + (0.5 * (above - below)) ** 2
    expected = (log_prior - 0.5 * ((centre - means[:, 0]) ** 2 / variance + (2 * np.pi * variance).log())).logsumexp(0)
    expected = expected + model.log_slope(points)[0, 0]
    torch.testing.assert_close(system.questions().log_evidence({"x": near}), expected)
    several = system.query({"x": Near([[1.2, 0.0, 0.0]] * 2, [0.8, np.inf, np.inf])}, num_samples=3, seed=0)
    torch.testing.assert_close(several.log_evidence, expected.expand(2))


def test_another_unit_changes_the_density_by_its_factor_alone() -> None:
    x = table(300)
    plain = DRMM(**OPTIONS, grid=["x0", "x1"]).fit(x, seed=0, steps=10)
    factor, shift = np.array([0.25, 8.0, 2.0]), np.array([100.0, -3.0, 5.0])
    other = DRMM(**OPTIONS, grid=["x0", "x1"]).fit(x * factor + shift, seed=0, steps=10)
    before, after = plain.log_prob(x).value, other.log_prob(x * factor + shift).value
    torch.testing.assert_close(after + float(np.log(factor).sum()), before, rtol=1e-4, atol=1e-3)


def test_a_row_far_outside_training_is_improbable_and_finite(system: DRMM) -> None:
    far = table(3)
    far[0, 0], far[1, 1], far[2] = 131.0, -131.0, [131.0, 131.0, 0.0]
    value = system.log_prob(far).value
    assert bool(torch.isfinite(value).all())
    assert bool((value < system.log_prob(table(200)).value.min()).all())


def test_maps_are_saved_with_the_run_and_runs_from_before_load(system: DRMM, tmp_path: Path) -> None:
    saved = system.save(tmp_path / "run")
    loaded = phlogiston.load(tmp_path / "run")
    assert torch.equal(loaded.log_prob(table()).value, system.log_prob(table()).value)
    assert torch.equal(loaded.sample(5, seed=1)["x"], system.sample(5, seed=1)["x"])
    del saved
    old = DRMM(**OPTIONS, grid="off").fit(table(), steps=2)
    old.schema.pop("cells")
    old.save(tmp_path / "old")
    before = phlogiston.load(tmp_path / "old")
    assert before.model.cells is None
    assert torch.equal(before.log_prob(table()).value, old.log_prob(table()).value)


def test_noise_is_redrawn_at_every_step_and_not_when_scoring(system: DRMM) -> None:
    fill = system.stages()[0].transform
    assert fill is not None
    batch = {"x": torch.from_numpy(table(50))}
    torch.manual_seed(0)
    first, second = fill(batch)["x"], fill(batch)["x"]
    assert not torch.equal(first[:, 0], second[:, 0])
    assert torch.equal(first[:, 2], batch["x"][:, 2])
    assert torch.equal(first[:, :2].round(), batch["x"][:, :2])
    assert torch.equal(system.log_prob(batch).value, system.log_prob(batch).value)


def test_samples_and_answers_lie_on_the_grid(system: DRMM) -> None:
    drawn = system.sample(200, seed=0)["x"]
    answers = [
        system.query(question, num_samples=100, seed=0).samples["x"]
        for question in ({}, "x0 >= 1", "x0 = 2", "x0 + x1 >= 3", {"x": Near([1.0, 0.0, 0.0], [1.0, np.inf, np.inf])})
    ]
    for x in (drawn, *answers):
        assert torch.equal(x[:, :2], x[:, :2].round())
        assert not torch.equal(x[:, 2], x[:, 2].round())


@pytest.mark.parametrize("name", ["system", "sheared"])
def test_bounds_are_about_the_values_of_the_grid(name: str, request: pytest.FixtureRequest) -> None:
    fitted: DRMM = request.getfixturevalue(name)
    x = fitted.sample(60_000, seed=3)["x"]
    two = (x[:, 0] >= 2).double().mean().log()
    for words in ("x0 >= 2", "x0 > 1", "x0 > 1.5", "1.2 <= x0", "1 < x0", "2*x0 - 2 > 0", "x0 >= 2.0000000000000001"):
        answer = fitted.query(words, num_samples=300, seed=0)
        assert float(answer.log_evidence) == pytest.approx(float(two), abs=0.05), words
        assert bool((answer.samples["x"][:, 0] >= 2).all())
    same = [
        fitted.query(words, num_samples=10, seed=0).log_evidence for words in ("x0 < 2", "x0 <= 1", "0.5 >= x0 - 1")
    ]
    torch.testing.assert_close(same[0], same[1])
    torch.testing.assert_close(same[0], same[2])
    assert float(same[0].exp() + two.exp()) == pytest.approx(1.0, abs=0.02)
    objects = {"x0": Within(2, np.inf)}
    torch.testing.assert_close(
        fitted.query(objects, num_samples=10, seed=0).log_evidence,
        fitted.query("x0 >= 2", num_samples=10, seed=0).log_evidence,
    )


def test_questions_between_the_values_of_a_grid_are_impossible_and_strict_sums_refused(system: DRMM) -> None:
    with pytest.raises(EvidenceError, match=r"no value on the grid of 'x0' lies between 1\.2 and 1\.7"):
        system.query("1.2 <= x0 <= 1.7", num_samples=10)
    with pytest.raises(EvidenceError, match="'x0' and 'x1' hold numbers on a grid: write >="):
        system.query("x0 + x1 > 3", num_samples=10)
    system.query("x0 + x2 > 3", num_samples=10, seed=0)  # a column of real numbers: the limit has no probability


def test_a_sum_of_counts_is_that_of_whole_numbers(system: DRMM) -> None:
    x = system.sample(60_000, seed=4)["x"]
    share = float((x[:, 0] + x[:, 1] >= 3).double().mean())
    answer = system.query("x0 + x1 >= 3", num_samples=4000, seed=5)
    assert float(answer.log_evidence) == pytest.approx(np.log(share), abs=5 * float(answer.log_evidence_error) + 0.02)
    assert bool((answer.samples["x"][:, :2].sum(1) >= 3).all())


def test_tenths_are_written_in_tenths_and_whole_numbers_as_such() -> None:
    random = np.random.default_rng(0)
    frame = pandas.DataFrame({"price": random.integers(3, 30, 400) / 10, "children": random.poisson(1.0, 400)})
    fitted = DRMM(num_layers=1, num_components=2, steps=10).fit(frame, seed=0, progress="off")
    made = fitted.synthesize(300, seed=0)
    assert made["children"].dtype == np.int64
    assert set(made["price"]) <= {round(k / 10, 1) for k in range(-100, 200)}
    assert fitted.query("price > 1.1", num_samples=200, seed=0).to_frame()["price"].min() == 1.2
    assert fitted.query("price >= 1.1", num_samples=200, seed=0).to_frame()["price"].min() == 1.1


def test_noise_that_belongs_to_the_data_stays() -> None:
    data = phlogiston.datasets.load("digits")
    fitted = DRMM(num_layers=1, num_components=2, steps=2).fit(data, seed=0, progress="off")
    assert not fitted.grids()
    x = fitted.sample(20, seed=0)["x"]
    assert not torch.equal(x, fitted.model.cells.rounded(x).round())
    assert torch.equal(fitted.model.rounded(x), x)


def test_where_nothing_is_known_and_paths_are_many_rows_are_drawn_from_the_model() -> None:
    x = np.c_[table(), np.full(500, 7.0)]
    many = DRMM(**OPTIONS, max_enum=4).fit({"x": x, "side": x[:, 0].astype(int) % 2}, seed=0, progress="off")
    answer = many.query(None, num_samples=4000, seed=3)
    assert answer.method == "drawn from the model"
    assert float(answer.ess) == 4000
    assert float(answer.log_evidence) == 0
    drawn, rows = answer.samples["x"], many.sample(4000, seed=4)["x"].double()
    assert bool((drawn[:, 3] == 7).all())
    spread = (drawn.var(0) + rows.var(0)).sqrt() / 4000**0.5
    assert bool(((drawn.mean(0) - rows.mean(0)).abs() <= 5 * spread).all())
    assert answer.samples["side"].unique().tolist() == [0, 1]
    again = many.query(None, num_samples=4000, seed=3)
    assert torch.equal(drawn, again.samples["x"])
