"""Mixture density networks as a product: fit, ask, save, and say what is wrong with bad input."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.distributions.mixtures.full import FullMixture
from phlogiston.errors import ConfigError, DataError, EvidenceError, PhlogistonError, ShapeError, UnknownNameError
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, Within
from phlogiston.systems.mdn.config import PRESETS
from phlogiston.systems.mdn.system import MDN

TINY: dict[str, Any] = {"num_components": 3, "hidden": (8,), "steps": 30, "batch_size": 32, "check_every": 10}


def regression(n: int = 120, targets: int = 2, seed: int = 0) -> Dataset:
    """Correlated targets around a bent line, in awkward units."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)) * [3.0, 0.01] + [10.0, 0.0]
    noise = rng.normal(size=(n, targets)) @ np.tril(np.full((targets, targets), 0.8))
    y = np.sin(x[:, :1]) * 5 + noise + 100.0
    parts = [Split({"x": x[i], "y": y[i]}) for i in np.split(np.arange(n), [n * 2 // 3, n * 5 // 6])]
    return Dataset(parts[0], parts[1], parts[2], Meta("made up", columns=("a", "b")))


@pytest.fixture(scope="module")
def full() -> MDN:
    return MDN(**TINY, kind="full").fit(regression(), progress="off")


@pytest.fixture(scope="module")
def sine() -> tuple[MDN, Dataset]:
    data = datasets.load("arcsine", sizes=(1000, 200, 1000))
    return MDN(hidden=(20, 20), num_components=6, activation="tanh", steps=700, learning_rate=0.01).fit(
        data, progress="off"
    ), data


def test_it_covers_every_branch_where_a_mean_cannot(sine: tuple[MDN, Dataset]) -> None:
    system, data = sine
    found = system.evaluate(data)
    assert found["log_likelihood"].value > -1.6
    assert found["log_likelihood_of_truth"].value > found["log_likelihood"].value
    # a draw has the spread of the truth on top of its own: twice the variance, where the model is right
    assert found["mse_of_draw"].value == pytest.approx(2 * found["rmse"].value ** 2, rel=0.2)
    y = data.test.numpy("y")
    spread = -0.5 * math.log(2 * math.pi * math.e * found["rmse"].value ** 2)  # of a Gaussian around the mean
    assert found["log_likelihood"].value > spread + 1.0
    assert abs(found["coverage_90"].value - 0.9) < 0.06
    assert abs(found["coverage_hpd_90"].value - 0.9) < 0.06
    modes = system.predictive(np.array([[0.0]], dtype=np.float32)).modes()
    strong = modes.mask & (modes.log_density > modes.log_density[:, :1] - 3)
    assert int(strong.sum()) >= 3
    assert np.abs(y).max() < 10.6


def test_two_targets_are_followed_along_a_spiral() -> None:
    data = datasets.load("spiral", sizes=(600, 100, 400))
    system = MDN(preset="spiral", steps=300).fit(data, progress="off")
    found = system.evaluate(data, ["log_likelihood", "coverage"])
    y = data.test.tensors["y"].double()
    blind = torch.distributions.MultivariateNormal(y.mean(0), y.T.cov()).log_prob(y).mean()
    assert found["log_likelihood"].value > float(blind) + 1.0
    assert found["log_likelihood_of_truth"].value > found["log_likelihood"].value
    assert abs(found["coverage_hpd_90"].value - 0.9) < 0.08


def test_scores_samples_and_means_belong_to_one_distribution(full: MDN) -> None:
    data = regression()
    x = data.test.tensors["x"]
    mixture = full.predictive(x)
    assert isinstance(mixture, FullMixture)
    score = full.log_prob(data.test)
    torch.testing.assert_close(score.value, mixture.log_prob(data.test.tensors["y"]))
    assert score.kind == "exact"
    torch.testing.assert_close(full.log_prob(x, y=data.test.tensors["y"]).value, score.value)
    drawn = full.sample(4000, x=x, seed=1)["y"]
    assert drawn.shape == (4000, len(x), 2)
    assert bool(((drawn.mean(0) - full.predict(x)).abs() < 5.5 * mixture.variance.sqrt() / math.sqrt(4000)).all())
    assert torch.equal(full.sample(5, seed=3)["y"], full.sample(5, seed=3)["y"])
    still = full.sample(2, x=x, pi_temperature=0.0, sigma_temperature=0.0)["y"]
    assert torch.equal(still[0], still[1])


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "diag"},
        {"kind": "isotropic", "members": 3},
        {"kind": "bivariate"},
        {"kind": "factorised", "members": 2},
        {"kind": "factorised"},
        {"members": 3, "ensemble": "tabm", "bins": 4, "average": 0.9, "recalibrate": True},
        {"weights": "mean_field", "posterior_steps": 20, "weight_samples": 5},
        {"weights": "low_rank", "random": "last", "posterior_steps": 20, "weight_samples": 5, "rank": 2},
    ],
)
def test_every_variant_fits_answers_and_survives_a_round_trip(options: dict[str, Any], tmp_path: Path) -> None:
    data = regression()
    system = MDN(**{**TINY, **options}).fit(data, out=tmp_path / "run", progress="off", tensorboard=False)
    before = system.log_prob(data.test)
    assert bool(torch.isfinite(before.value).all())
    assert before.kind == ("estimate" if "weights" in options else "exact")
    for loaded in (systems.load(tmp_path / "run"), systems.load(system.save(tmp_path / "saved"))):
        assert torch.equal(loaded.log_prob(data.test).value, before.value)
        assert torch.equal(loaded.sample(4, seed=0)["y"], system.sample(4, seed=0)["y"])
    metrics = system.evaluate(data.test)
    names = {"log_likelihood", "rmse", "mse_of_draw", "crps", "coverage_90", "coverage_hpd_90", "pit_deviation"}
    assert names == set(metrics)
    assert "calibration" in system.figures(data)
    parts = system.uncertainty(data.test, draws=20)
    torch.testing.assert_close(parts.total, system.predictive(data.test).variance, rtol=1e-3, atol=1e-4)
    alone = options.get("members", 1) == 1 and "weights" not in options
    assert bool((parts.epistemic == 0).all()) == alone


def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    data = regression()
    options: dict[str, Any] = {**TINY, "members": 2, "steps": 60}

    class Stop:
        def on_step(self, state: Any) -> None:
            if state.step == 25:
                raise KeyboardInterrupt

    whole = MDN(options).fit(data, progress="off", checkpoint_every=10)
    with pytest.raises(KeyboardInterrupt):
        MDN(options).fit(data, out=tmp_path, callbacks=[Stop()], progress="off", checkpoint_every=10, tensorboard=False)
    resumed = MDN(options).fit(data, out=tmp_path, progress="off", checkpoint_every=10, tensorboard=False)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_members_keep_their_best_parameters_on_validation_rows() -> None:
    data = regression(60)
    options: dict[str, Any] = {**TINY, "members": 3, "steps": 400, "hidden": (50, 50), "learning_rate": 0.02}
    kept = MDN(options).fit(data, progress="off")
    last = MDN(options).fit(Dataset(data.train, data.valid.select(slice(0, 0)), data.test, data.meta), progress="off")

    def loss(system: MDN) -> torch.Tensor:
        return -system.members(data.valid).log_prob(data.valid.tensors["y"]).mean(-1)

    assert bool((loss(kept) < loss(last)).all()), "four hundred fast steps on forty rows overfit"


def test_patience_ends_training_early() -> None:
    system = MDN({**TINY, "steps": 2000, "patience": 3, "learning_rate": 0.05}).fit(regression(60), progress="off")
    assert system.history.records[-1]["step"] < 2000


def test_targets_may_be_columns_of_a_table_and_categories_inputs() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 200)
    table = np.column_stack([rng.normal(size=200), label * 10.0 + rng.normal(size=200) * 0.1]).astype(np.float32)
    split = Split({"x": table, "group": label})
    data = Dataset(
        split, split.select(slice(0, 0)), split, Meta("t", columns=("u", "v"), categorical={"group": ("a", "b", "c")})
    )
    system = MDN({**TINY, "steps": 300, "learning_rate": 0.02}).fit(data, progress="off")
    assert system.schema["targets"] == ["v"]
    assert float((system.predict(data)[:, 0] - torch.as_tensor(table[:, 1])).abs().mean()) < 1.0
    without = {"x": table[:5, :1], "group": label[:5]}
    torch.testing.assert_close(system.predict(without), system.predict(data)[:5])
    named = MDN({**TINY, "target": ("u",)}).fit(data, progress="off")
    assert named.schema["targets"] == ["u"]
    with pytest.raises(UnknownNameError, match="target column"):
        MDN({**TINY, "target": ("w",)}).fit(data, progress="off")
    assert MDN(TINY).fit(table, progress="off").schema["targets"] == ["x1"]


def test_targets_on_a_grid_are_scored_and_drawn_on_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 1))
    y = np.round(x + rng.normal(size=(150, 1)))
    data = Dataset(*(Split({"x": x[i], "y": y[i]}) for i in np.split(np.arange(150), [100, 120])), Meta("g"))
    system = MDN({**TINY, "grid": 1.0}).fit(data, progress="off")
    score = system.log_prob(data.test)
    assert bool((score.value <= 0).all())
    drawn = system.sample(50)["y"]
    assert torch.equal(drawn, drawn.round())
    found = system.evaluate(data)
    assert "cells of width 1" in found["log_likelihood"].detail["unit"]


# ---- bad and extreme input


@pytest.mark.parametrize("members", [1, 2])
def test_constant_targets_duplicated_rows_and_one_row_work(members: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    options = {**TINY, "members": members}
    for rows in (
        {"x": x, "y": np.full((40, 1), 7.0)},
        {"x": np.repeat(x[:1], 40, 0), "y": np.repeat(x[:1, :1], 40, 0)},
        {"x": x[:1], "y": x[:1, :1]},
        {"x": x, "y": x[:, :1]},
    ):
        system = MDN(options).fit(rows, progress="off")
        assert bool(torch.isfinite(system.log_prob(rows).value).all())
        assert bool(torch.isfinite(system.predict(rows)).all())
        assert all(math.isfinite(m.value) for m in system.evaluate(rows).values())


def test_scales_ten_million_to_one_do_not_matter() -> None:
    data = regression()
    factor = torch.tensor([1e7, 1.0])
    wide = Dataset(
        *(Split({"x": s.tensors["x"] * factor, "y": s.tensors["y"]}) for s in (data.train, data.valid, data.test)),
        data.meta,
    )
    plain, scaled = (MDN(TINY).fit(d, progress="off").log_prob(d.test).value.mean() for d in (data, wide))
    assert float(plain) == pytest.approx(float(scaled), abs=0.02)
    units = {"x": data.train.tensors["x"], "y": data.train.tensors["y"] * torch.tensor([1e7, 1e-3])}
    score = MDN(TINY).fit(units, progress="off").log_prob(units).value.mean()
    same = MDN(TINY).fit({"x": units["x"], "y": data.train.tensors["y"]}, progress="off").log_prob(data.train)
    assert float(score) == pytest.approx(float(same.value.mean()) - math.log(1e4), abs=0.02)


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        ({"x": np.array([[0.0], [np.nan]]), "y": np.zeros((2, 1))}, DataError, "missing input in row 1"),
        ({"x": np.zeros((2, 1)), "y": np.array([[0.0], [np.inf]])}, DataError, "infinite value in row 1"),
        ({"x": np.zeros((2, 1)), "y": np.zeros((3, 1))}, ShapeError, "'y' has 3 rows, 'x' has 2"),
        ({"x": np.zeros((0, 1)), "y": np.zeros((0, 1))}, DataError, "empty"),
        ({"y": np.zeros((2, 1))}, DataError, "expected one called 'x'"),
        ({"x": np.zeros((2, 1)), "y": np.array([[0.0], [np.nan]])}, DataError, "'y' is missing in row 1"),
        ({"x": np.zeros((2, 1)), "y": np.array(["a", "b"])}, DataError, "'y' holds text"),
        ({"x": np.zeros((2, 1)), "y": np.zeros((2, 1, 1))}, ShapeError, r"\(rows, targets\)"),
        ({"x": np.zeros((2, 1))}, DataError, "one column only"),
        ({"x": np.zeros((2, 2)), "y": np.zeros((2, 1)), "mask": np.eye(2) > 0}, DataError, "missing input in row 0"),
    ],
)
def test_unusable_data_are_refused_in_words(rows: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        MDN(TINY).fit(rows, progress="off")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"members": 0}, "members must be at least 1"),
        ({"min_scale": 0.0}, "min_scale must be positive"),
        ({"weights": "mean_field", "members": 2}, "exclude each other"),
        ({"weights": "mean_field", "patience": 2}, "patience"),
        ({"kind": "full", "grid": 1.0}, "independent coordinates"),
        ({"hidden": (0,)}, "at least one unit"),
        ({"warmup": 1.0}, "warmup"),
        ({"kind": "fully"}, "kind"),
        ({"componnents": 3}, "num_components"),
    ],
)
def test_impossible_options_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MDN(**options)


def test_questions_to_the_wrong_rows_are_refused(full: MDN) -> None:
    with pytest.raises(ShapeError, match="3 columns"):
        full.predict(np.zeros((2, 3)))
    with pytest.raises(ShapeError, match="no targets"):
        full.log_prob(np.zeros((2, 2)))
    with pytest.raises(ShapeError, match="fitted on 2"):
        full.log_prob(np.zeros((2, 2)), y=np.zeros((2, 3)))
    with pytest.raises(ConfigError, match="n is 0"):
        full.sample(0)
    with pytest.raises(UnknownNameError, match="metric"):
        full.evaluate(regression(), ["loglik"])
    with pytest.raises(PhlogistonError, match="not fitted"):
        MDN().predict(np.zeros((2, 2)))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_and_demo_recipes_are_valid(name: str) -> None:
    assert MDN(preset=name).config
    for quick in (True, False):
        for recipe in MDN.demo(quick):
            MDN(recipe["options"])
            datasets.load(recipe["data"], **recipe["data_options"])


def test_pictures_tell_branches_and_ignorance_apart() -> None:
    data = datasets.load("arcsine", sizes=(100, 20, 100))
    alone = MDN(TINY).fit(data, progress="off").figures(data)
    several = MDN({**TINY, "members": 2}).fit(data, progress="off").figures(data)
    assert set(alone) - {"training"} == {"answers", "calibration"}
    assert set(several) - {"training"} == {"answers", "where the uncertainty comes from", "calibration"}
    one = regression(targets=1)
    assert "predictions" in MDN(TINY).fit(one, progress="off").figures(one)
    assert all(f.get_label() for f in several.values())


# ---- queries


def test_known_targets_condition_the_others_exactly(full: MDN) -> None:
    x = [10.0, 0.0]
    mixture = full.predictive(np.array([x], dtype=np.float32))[0]
    answer = full.query({"x": x, "y": Known([101.0, 0.0], [1, 0])}, num_samples=8000, seed=0)
    assert answer.method == "exact"
    conditional = mixture.condition({0: 101.0})
    assert bool((answer.samples["y"][:, 0] == 101.0).all())
    assert bool((answer.samples["x"] == torch.tensor(x, dtype=torch.double)).all())
    want = mixture.marginal(0).log_prob(torch.tensor([101.0]))
    assert float(answer.log_evidence) == pytest.approx(float(want), abs=1e-4)
    error = 5 * float(conditional.variance.sqrt()) / math.sqrt(8000)
    assert float(answer.mean("y")[1]) == pytest.approx(float(conditional.mean), abs=error)


def test_boxes_and_half_spaces_on_targets_are_met_by_every_sample(full: MDN) -> None:
    x = np.array([[10.0, 0.0]], dtype=np.float32)
    mixture = full.predictive(x)[0]
    mean = mixture.mean.tolist()
    low, high = [mean[0], -math.inf], [mean[0] + 2.0, mean[1]]
    answer = full.query({"x": x[0].tolist(), "y": Within(low, high)}, num_samples=2000, seed=0)
    y = answer.samples["y"]
    assert bool(((y >= torch.tensor(low)) & (y <= torch.tensor(high))).all())
    want = float(mixture.log_prob_in_box(torch.tensor(low), torch.tensor(high)))
    assert float(answer.log_evidence) == pytest.approx(want, abs=0.05)
    plane = HalfSpace([1.0, -1.0], 0.0)
    answer = full.query({"x": x[0].tolist(), "y": plane}, num_samples=500, seed=0)
    assert bool((answer.samples["y"][:, 0] >= answer.samples["y"][:, 1]).all())


def test_uncertain_inputs_average_over_their_distribution(sine: tuple[MDN, Dataset]) -> None:
    system, _ = sine
    answer = system.query({"x": Near(11.0, 1.5)}, num_samples=4000, seed=0)
    x = torch.linspace(11 - 7.5, 11 + 7.5, 601).unsqueeze(1)
    weight = torch.distributions.Normal(11.0, 1.5).log_prob(x[:, 0]).softmax(0)
    want = float((weight * system.predict(x)[:, 0]).sum())
    assert float(answer.mean("y")) == pytest.approx(want, abs=0.25)  # standard error 0.05 of the draws, 0.04 of inputs
    assert float(answer.variance("x").sqrt()) == pytest.approx(1.5, abs=0.15)
    assert "inputs drawn" in answer.method


def test_targets_speak_about_uncertain_inputs(sine: tuple[MDN, Dataset]) -> None:
    system, data = sine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few of the inputs drawn explain the target: that is the point
        answer = system.query({"y": 0.0}, ["x"], num_samples=2000, seed=0)
        boxed = system.query({"x": Within(-20.0, 20.0), "y": Within(-0.1, 0.1)}, num_samples=2000, seed=0)
    assert float(answer.mean("x")) == pytest.approx(0.0, abs=0.6)  # 7 sin(0) + 0
    assert float(answer.variance("x").sqrt()) < 3.0
    x = torch.linspace(-20, 20, 4001).unsqueeze(1)
    mass = system.predictive(x).log_prob_in_box(torch.tensor([-0.1]), torch.tensor([0.1])).exp()
    assert float(boxed.mean("x")) == pytest.approx(float((mass * x[:, 0]).sum() / mass.sum()), abs=1.0)
    assert float(boxed.log_evidence) == pytest.approx(float(mass.mean().log()), abs=0.3)
    assert bool((boxed.samples["y"].abs() <= 0.1).all())
    assert len(data.train) == 1000


def test_the_exact_method_refuses_what_has_no_closed_form(sine: tuple[MDN, Dataset], full: MDN) -> None:
    system, _ = sine
    evidence = {"x": [0.0], "y": Within(-1.0, 1.0)}
    exact, auto = (system.query(evidence, num_samples=20, method=method, seed=0) for method in ("exact", "auto"))
    assert exact.method == "exact"
    assert torch.equal(exact.samples["y"], auto.samples["y"])
    with pytest.raises(EvidenceError, match=r"inputs drawn.*use method='auto'"):
        system.query({"x": Near(0.0, 1.0)}, num_samples=20, method="exact", seed=0)
    boxed = {"x": [10.0, 0.0], "y": Within([98.0, 98.0], [103.0, 103.0])}
    with pytest.raises(EvidenceError, match="sequential conditioning"):
        full.query(boxed, num_samples=20, method="exact", seed=0)
    with pytest.raises(UnknownNameError, match=r"unknown query method 'hmc'.*auto, exact"):
        system.query(evidence, method="hmc")


def test_inputs_drawn_are_counted_by_num_particles(sine: tuple[MDN, Dataset]) -> None:
    system, _ = sine
    answer = system.query({"x": Near(11.0, 1.5)}, num_samples=20, num_particles=700, seed=0)
    assert "given 700 inputs drawn" in answer.method
    with pytest.raises(ConfigError, match="num_particles is 0"):
        system.query(num_particles=0)


def test_random_weights_are_scored_with_as_many_draws_as_asked_for() -> None:
    data = regression(60)
    options = {**TINY, "weights": "mean_field", "posterior_steps": 20}
    system = MDN(options, weight_samples=3).fit(data, progress="off")
    few, many = system.log_prob(data.test), system.log_prob(data.test, num_particles=400)
    assert few.std_error is not None
    assert many.std_error is not None
    assert float(many.std_error.mean()) < 0.5 * float(few.std_error.mean())  # sqrt(3 / 400) is 0.09
    own = MDN({**options, "weight_samples": 400}).fit(data, progress="off")  # trained alike: predictions alone differ
    torch.testing.assert_close(own.log_prob(data.test).value, many.value)
    assert system.log_prob(data.test, num_particles=1).std_error is None
    with pytest.raises(ConfigError, match="num_particles is 0"):
        system.log_prob(data.test, num_particles=0)


def test_several_rows_are_several_questions(full: MDN) -> None:
    answer = full.query({"x": np.array([[10.0, 0.0], [12.0, 0.01]])}, num_samples=50, seed=0)
    assert answer.samples["y"].shape == (50, 2, 2)


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        ({"z": 1.0}, "unknown site"),
        ({"x": Known([1.0, 0.0], [1, 0])}, "input 'b' has no distribution"),
        ({"x": HalfSpace([1.0, 0.0])}, "define no distribution"),
        ({"x": [1.0, 2.0, 3.0]}, "3 entries"),
        ({"x": Within([0.0, 0.0], [1.0, math.inf])}, "input 'b' has no distribution"),
        ({"x": [10.0, 0.0], "y": [Within(0.0, 1.0), Within(2.0, 3.0)]}, "impossible"),
    ],
)
def test_questions_without_an_answer_say_why(full: MDN, evidence: dict[str, Any], words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        full.query(evidence)


def test_evidence_can_be_written_in_the_columns_names(full: MDN) -> None:
    sites, categories = full.vocabulary()
    assert sites == {"x": ("a", "b"), "y": ("y0", "y1")}
    assert categories == {}


@pytest.fixture(scope="module")
def counts() -> MDN:
    random = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": random.normal(size=600), "kids": random.poisson(2.0, 600)})
    return MDN(target=["kids"], num_components=8, steps=400).fit(frame, seed=0, progress="off")


def test_targets_on_a_grid_are_answered_and_bounded_on_it(counts: MDN) -> None:
    assert counts.grids() == {"kids": (0.0, 1.0)}
    drawn = counts.sample(4000, seed=0, x=[[0.0]])["y"].double()
    assert torch.equal(drawn, drawn.round())
    assert counts.query("a = 0", num_samples=20, seed=0).to_frame()["kids"].dtype == np.int64
    share = float((drawn >= 2).double().mean())
    asked = [counts.query("a = 0", words, num_samples=200, seed=0) for words in ("kids >= 2", "kids > 1", "1.5 < kids")]
    for answer in asked:
        assert float(answer.log_evidence.exp()) == pytest.approx(share, abs=5 * 0.5 / 4000**0.5)
        assert bool((answer.samples["y"] >= 2).all())
    below = counts.query("a = 0", "kids < 2", num_samples=10, seed=0)
    assert float(below.log_evidence.exp() + asked[0].log_evidence.exp()) == pytest.approx(1.0, abs=1e-6)
    between = counts.query("-1 <= a <= 1", "kids > 2", num_samples=100, seed=0)  # inputs drawn
    assert bool((between.samples["y"] >= 3).all())
    with pytest.raises(EvidenceError, match=r"no value on the grid of 'kids' lies between 1\.2 and 1\.7"):
        counts.query("a = 0", "1.2 <= kids <= 1.7")


def test_targets_of_real_numbers_lie_on_no_grid() -> None:
    x = np.random.default_rng(0).normal(size=(300, 2))
    fitted = MDN(num_components=2, steps=5).fit(x, progress="off")
    assert fitted.grids() == {}
    y = fitted.sample(50, seed=0)["y"]
    assert not torch.equal(y, y.round())
