"""Mixture density networks for tables: averaged parameters, recalibrated widths, and the same answers in any units."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston import systems
from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.errors import ConfigError, TrainingWarning
from phlogiston.inference.query.evidence import Within
from phlogiston.models.mdn import MDN as Model
from phlogiston.models.mdn import PRIOR_ROWS, WIDTHS
from phlogiston.systems.mdn.config import Config, sizes
from phlogiston.systems.mdn.rows import parted, rows_held_out
from phlogiston.systems.mdn.system import MDN
from phlogiston.systems.mdn.training import MaximumLikelihood, Recalibrate

TINY: dict[str, Any] = {"preset": "table", "members": 4, "hidden": (16, 16), "bins": 8, "steps": 150}


def bent(n: int = 400, factor: float = 1.0, shift: float = 0.0, fresh: int = 1) -> Dataset:
    """A step and a bend, noise that varies; `fresh` seeds the validation rows alone."""
    parts = []
    for seed, size in ((0, n), (fresh, n), (2, 500)):
        rng = np.random.default_rng(seed)
        x = rng.uniform(-1, 1, (size, 2))
        noise = rng.normal(size=(size, 1)) * np.where(x[:, :1] > 0, 0.3, 0.05)
        y = (x[:, 1:] > 0.2) * 2.0 + np.abs(x[:, :1]) + noise
        parts.append(Split({"x": factor * x + shift, "y": factor * y + shift}, double=("x", "y")))
    return Dataset(*parts, Meta("made up"))


@pytest.fixture(scope="module")
def fitted() -> MDN:
    return MDN(**TINY).fit(bent(), progress="off")


def test_intervals_hold_what_they_say_on_fresh_rows(fitted: MDN) -> None:
    data = bent()
    assert abs(fitted.evaluate(data, ["coverage"])["coverage_90"].value - 0.9) < 0.06
    widths = fitted.network.widths
    assert float(widths.sum()) == pytest.approx(1.0)
    as_trained = MDN(**{**TINY, "recalibrate": False}).fit(data, progress="off")
    gain = fitted.log_prob(data.test).value - as_trained.log_prob(data.test).value
    prior = PRIOR_ROWS / (len(data.valid) + PRIOR_ROWS)  # what its made-up rows cost at most where nothing is amiss
    assert gain.mean() > math.log1p(-prior) - 2 * gain.std() / math.sqrt(len(gain))


def test_a_few_rows_do_not_narrow_intervals_for_good() -> None:
    """Eight rows that happen to lie near the middle: intervals keep tails as if two more rows lay farther out."""
    model = Model(1, members=2, ensemble="tabm", recalibrate=True).double()
    x = torch.zeros(8, 1, dtype=torch.float64)
    model.calibrate(x, model.predictive(x).mean + 1e-3)
    factors = torch.tensor(WIDTHS, dtype=torch.float64)
    assert float(model.widths[factors > 1].sum()) == pytest.approx(0.2 * 7 / 8, abs=0.02)
    assert float(model.widths[factors < 1].sum()) > 0.5


@pytest.mark.parametrize("preset", ["default", "table"])
def test_noise_is_not_learned_by_heart(preset: str) -> None:
    """Targets that inputs say next to nothing about, given as plain arrays: as good as their own normal distribution.

    Without rows held out, networks trained to the end gave new rows hundreds of nats less each.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(160, 10)), rng.normal(size=160)
    system = MDN(preset=preset).fit({"x": x[:120], "y": y[:120]}, progress="off")
    score = system.log_prob({"x": x[120:], "y": y[120:]}).mean()
    assert score.value > -0.5 * math.log(2 * math.pi * math.e) - 0.35 - 2 * (score.std_error or 0.0)


def test_rows_are_held_out_where_data_come_without_validation_rows() -> None:
    assert [rows_held_out(Config(), n) for n in (3, 40, 400, 2000)] == [0, 8, 50, 200]
    assert rows_held_out(Config(hold_out=0.25), 40) == 10
    assert rows_held_out(Config(weights="mean_field"), 400) == 0
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 1))
    kept, held = parted(Split({"x": x, "y": y}), Config())
    assert (len(kept), len(held)) == (48, 12)
    again = parted(Split({"x": np.repeat(x, 3, 0), "y": np.repeat(y, 3, 0)}), Config())
    rows = [{tuple(row.tolist()) for row in part.tensors["x"]} for part in again]
    assert not rows[0] & rows[1]
    assert sum(map(len, again)) == 180
    weighted = parted(Split({"x": x, "y": y, "weight": np.full(60, 3.0)}), Config())
    assert torch.equal(weighted[1].tensors["x"].repeat_interleave(3, 0), again[1].tensors["x"])


def test_widths_that_no_row_can_choose_are_told_and_stay_as_trained() -> None:
    with pytest.warns(TrainingWarning, match="no validation rows"):
        alone = MDN(**{**TINY, "steps": 5, "hold_out": 0.0}).fit(bent(60).train, progress="off")
    assert torch.equal(alone.network.widths, alone.network.own_widths())


def test_a_stage_begins_with_the_widths_of_training() -> None:
    model = Model(2, members=2, ensemble="tabm", recalibrate=True)
    model.widths.fill_(1 / len(model.widths))
    state = SimpleNamespace(stage=SimpleNamespace(name="fit"), model=model, step=5, total=5, valid=())
    Recalibrate("fit").on_stage(state)  # training is over: nothing is touched
    assert not torch.equal(model.widths, model.own_widths())
    state.step = 3
    Recalibrate("fit").on_stage(state)
    assert torch.equal(model.widths, model.own_widths())


def test_the_average_is_exponential() -> None:
    model = Model(2, hidden=(3,), members=2, ensemble="tabm")
    objective = MaximumLikelihood(model)
    values = [model.net.weights[0].detach().clone()]
    objective.average(0.0)
    for decay in (0.75, 0.5):
        values.append(torch.randn_like(values[0]))
        model.net.weights[0].data.copy_(values[-1])
        objective.average(decay)
    objective.keep_average()
    objective.restore()
    torch.testing.assert_close(model.net.weights[0].data, 0.375 * values[0] + 0.125 * values[1] + 0.5 * values[2])


@pytest.mark.parametrize(("factor", "shift"), [(1e-20, 0.0), (1e20, 0.0), (3.7, 100.0)])
def test_units_change_nothing(fitted: MDN, factor: float, shift: float) -> None:
    other = MDN(**TINY).fit(bent(factor=factor, shift=shift), progress="off")
    gap = other.log_prob(bent(factor=factor, shift=shift).test).value + math.log(factor)
    torch.testing.assert_close(gap, fitted.log_prob(bent().test).value, rtol=0, atol=1e-4)


def test_queries_answer_from_the_recalibrated_density(fitted: MDN) -> None:
    at = torch.tensor([[0.5, 0.1]]).double()
    predictive = fitted.predictive(at)
    answer = fitted.query({"x": at[0].tolist(), "y": Within([0.2], [0.6])}, num_samples=4000, seed=0)
    grid = torch.linspace(0.2, 0.6, 4001).double()
    density = predictive.log_prob(grid.reshape(-1, 1, 1)).exp().squeeze(-1)
    mass = torch.trapezoid(density, grid)
    assert float(answer.log_evidence) == pytest.approx(float(mass.log()), abs=1e-4)
    mean = float(torch.trapezoid(density * grid, grid) / mass)
    assert float(answer.mean("y")) == pytest.approx(mean, abs=5 * 0.12 / math.sqrt(4000))


@pytest.mark.parametrize(
    ("rows", "batch_size", "bins"), [(1, 32, 32), (1_300, 32, 32), (3_000, 128, 32), (7_750, 256, 64), (10**6, 256, 64)]
)
def test_sizes_grow_with_rows_unless_they_are_given(rows: int, batch_size: int, bins: int) -> None:
    assert sizes(MDN(preset="table").config, rows) == {"batch_size": batch_size, "bins": bins}
    assert sizes(MDN(preset="table", bins=5).config, rows) == {"batch_size": batch_size}


def test_weights_are_counted_as_rows_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1_200, 1))
    rows = {"x": np.repeat(x, 3, 0), "y": np.repeat(x, 3, 0)}
    weighted = {"x": x, "y": x, "weight": np.full(1_200, 3.0)}
    tiny: dict[str, Any] = {"preset": "table", "members": 2, "hidden": (4,), "steps": 2, "recalibrate": False}
    found = [MDN(**tiny).fit(data, progress="off") for data in (rows, weighted)]
    assert [one.schema["sizes"] for one in found] == [{"batch_size": 128, "bins": 32}] * 2
    assert found[0].network.edges.shape == (1, 33)
    found[0].save(tmp_path / "saved")
    again = systems.load(tmp_path / "saved")
    assert torch.equal(again.predict(x[:5]), found[0].predict(x[:5]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bins": -1}, "bins must not be negative"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": "many"}, "batch_size"),
        ({"ensemble": "tabm"}, "members >= 2"),
        ({"ensemble": "tabm", "members": 4, "hidden": ()}, "hidden layer"),
        ({"average": 1.0}, "below 1"),
        ({"average": 0.9, "patience": 3}, "without patience"),
        ({"recalibrate": True, "kind": "factorised"}, "factorised"),
        ({"recalibrate": True, "weights": "mean_field"}, "point estimates"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MDN(**options)


@pytest.mark.parametrize("event", ["on_step", "on_checkpoint"])
def test_a_stop_that_was_asked_for_leaves_the_average_recalibrated(event: str, tmp_path: Path) -> None:
    """Both callbacks must do their work, whichever of the engine's events the stop comes from."""
    last: dict[str, torch.Tensor] = {}

    def stop(self: Any, state: Any) -> None:
        last.update({name: value.detach().clone() for name, value in state.model.named_parameters()})
        if state.step == 60:
            state.request_stop()

    stops = type("Stops", (), {event: stop})()
    out = {"out": tmp_path / "run", "tensorboard": False, "checkpoint_every": 60}
    stopped = MDN(**{**TINY, "average": 0.5}).fit(bent(), callbacks=[stops], progress="off", **out)
    assert stopped.history.interrupted
    moved = [bool((value != last[name]).any()) for name, value in stopped.model.named_parameters()]
    assert all(moved), "the parameters of the last step, not the average, are in place"
    assert not torch.equal(stopped.network.widths, stopped.network.own_widths())
    test = bent().test
    assert torch.equal(systems.load(tmp_path / "run").log_prob(test).value, stopped.log_prob(test).value)
