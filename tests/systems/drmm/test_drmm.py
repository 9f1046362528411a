"""DRMM as a product: it learns, scores, samples, saves, loads, and says what is wrong with bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.datasets.base import Split
from phlogiston.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    PhlogistonError,
    RunError,
    ShapeError,
    UnknownNameError,
)
from phlogiston.evaluate.metric import Metric
from phlogiston.systems.drmm.start import start
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.drmm.training import DeadComponents

TINY = {"num_layers": 2, "num_components": 4, "steps": 30, "batch_size": 64, "beam": 3}


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centre = 4 * torch.randint(0, 3, (600, 1), generator=generator).float()
    return torch.cat([centre, -centre], -1) + 0.3 * torch.randn(600, 2, generator=generator)


@pytest.fixture(scope="module")
def fitted(rows: torch.Tensor) -> DRMM:
    return DRMM(TINY, frame="tril").fit(rows)


def test_it_learns_the_noisy_swissroll_to_within_a_tenth_of_a_nat() -> None:
    data = datasets.load("swissroll", sizes=(3000, 0, 250))
    system = DRMM(preset="swissroll", steps=500).fit(data)
    x = data.test.numpy()
    truth, reached = data.meta.truth(x).mean(), float(system.log_prob(data.test).value.mean())
    fool = torch.distributions.MultivariateNormal(
        torch.tensor(x.mean(0)), torch.tensor(np.cov(x.T), dtype=torch.float)
    ).log_prob(data.test.tensors["x"])
    assert truth - 0.2 < reached <= truth + 0.1
    assert float(fool.mean()) < truth - 1.0  # what a single Gaussian gets
    assert system.history.skipped == 0


def test_it_learns_labels_with_half_of_them_missing() -> None:
    data = datasets.load("digits", valid=0)
    tensors = dict(data.train.tensors)
    tensors["label"] = torch.where(torch.arange(len(data.train)) % 2 == 0, tensors["label"], -1)
    system = DRMM(preset="digits", steps=150).fit(Split(tensors))
    metrics = system.evaluate(data)
    assert metrics["accuracy_label"].value > 0.8  # 0.89 +- 0.016 with 397 rows; guessing: 0.1
    assert metrics["precision"].value > 0.3


@pytest.mark.parametrize("frame", ["shift", "iso", "diag", "tril", "lowrank"])
@pytest.mark.parametrize("guide", ["beam", "exact", "autoregressive"])
def test_every_frame_and_guide_trains(frame: str, guide: str, rows: torch.Tensor) -> None:
    def from_anywhere(**options: float) -> DRMM:  # EM alone would explain three clusters as well as can be
        system = DRMM(TINY, frame=frame, guide=guide, **options)
        system.initialise = lambda train, seed: None  # type: ignore[method-assign]
        return system.fit(rows)

    before, after = from_anywhere(steps=1, learning_rate=1e-9), from_anywhere()
    assert after.log_prob(rows).value.mean() > before.log_prob(rows).value.mean()


@pytest.mark.parametrize("prior", ["autoregressive", "latent_class"])
def test_every_prior_trains_and_samples(prior: str, rows: torch.Tensor) -> None:
    system = DRMM(TINY, prior=prior, frame="tril", steps=100).fit(rows)
    x = system.sample(2000, seed=1)["x"]
    nearest = torch.cdist(x, torch.tensor([[0.0, 0.0], [4.0, -4.0], [8.0, -8.0]])).min(-1).values
    assert (nearest < 1.5).double().mean() > 0.9


def test_two_instances_in_one_process_both_move(rows: torch.Tensor) -> None:
    first, second = DRMM(TINY).fit(rows), DRMM(TINY).fit(rows * 2 + 1)
    start = DRMM(TINY, steps=1, learning_rate=1e-9)
    for system, data in ((first, rows), (second, rows * 2 + 1)):
        begun = start.fit(data)
        moved = [
            not torch.equal(p, q) for p, q in zip(system.model.parameters(), begun.model.parameters(), strict=True)
        ]
        assert all(moved)


def test_same_seed_same_parameters_another_seed_others(rows: torch.Tensor) -> None:
    one, same, other = (DRMM(TINY).fit(rows, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(p, q) for p, q in zip(one.model.parameters(), same.model.parameters(), strict=True))
    assert not torch.equal(one.model.layers[0].mean, other.model.layers[0].mean)


def test_log_prob_says_what_it_is(fitted: DRMM, rows: torch.Tensor) -> None:
    exact = fitted.log_prob(rows)
    beam = fitted.log_prob(rows, method="beam", width=1)
    draws = fitted.log_prob(rows[:100], method="importance", num_particles=400)
    assert (exact.kind, beam.kind, draws.kind) == ("exact", "lower bound", "estimate")
    assert (beam.value <= exact.value + 1e-5).all()
    assert beam.value.mean() < exact.value.mean()
    off = (draws.value - exact.value[:100]).abs() / (draws.std_error + 1e-4)
    assert off.quantile(0.9) < 3  # tuples never drawn leave single rows low, as any importance estimate does
    assert fitted.log_prob(rows, method="beam", width=4).kind == "exact"  # nothing is dropped
    assert not torch.equal(fitted.log_prob(rows, depth=1).value, exact.value)


@pytest.mark.parametrize("masked", [False, True])
def test_an_importance_score_is_the_rows_own(fitted: DRMM, rows: torch.Tensor, masked: bool) -> None:
    x = rows[:30]
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.3 if masked else None
    score = fitted.log_prob(x, mask=mask, method="importance", num_particles=20)
    for some in (list(range(29, -1, -1)), [3], [5, 5]):
        again = fitted.log_prob(
            x[some], mask=None if mask is None else mask[some], method="importance", num_particles=20
        )
        torch.testing.assert_close(again.value, score.value[some], rtol=1e-5, atol=1e-4)
    assert not torch.equal(
        fitted.log_prob(x, mask=mask, method="importance", num_particles=20, seed=1).value, score.value
    )


def test_small_chunks_change_nothing(fitted: DRMM, rows: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted.log_prob(rows).value
    monkeypatch.setattr("phlogiston.systems.drmm.scoring.MAX_FLOATS", 100)
    torch.testing.assert_close(fitted.log_prob(rows).value, whole)


def test_the_density_integrates_to_one_in_the_datas_own_units(fitted: DRMM) -> None:
    x, y = torch.linspace(-4, 12, 401), torch.linspace(-12, 4, 401)
    grid = torch.cartesian_prod(x, y)
    total = fitted.log_prob(grid).value.double().exp().sum() * (x[1] - x[0]) * (y[1] - y[0])
    assert float(total) == pytest.approx(1.0, abs=1e-3)


def test_columns_with_many_features_keep_the_beam_below_the_exact_value() -> None:
    x = torch.randn(300, 40) * torch.linspace(0.1, 3, 40)
    system = DRMM(TINY, num_layers=3, frame="diag").fit(x)
    exact, beam = system.log_prob(x).value, system.log_prob(x, method="beam", width=2).value
    assert (beam <= exact + 1e-3).all()
    mask = torch.rand(x.shape) > 0.3
    masked = system.log_prob(x, mask=mask).value
    narrow = system.log_prob(x, mask=mask, method="beam", width=2).value
    assert (narrow <= masked + 1e-3).all()


def test_constant_columns_are_set_aside_and_put_back(rows: torch.Tensor) -> None:
    constant = torch.full((len(rows), 1), 7.0)
    x = torch.cat([rows[:, :1], constant, rows[:, 1:]], -1)
    system, plain = DRMM(TINY).fit(x), DRMM(TINY).fit(rows)
    torch.testing.assert_close(system.log_prob(x).value, plain.log_prob(rows).value)
    assert (system.sample(5)["x"][:, 1] == 7.0).all()
    wrong = x.clone()
    wrong[0, 1] = 8.0
    value = system.log_prob(wrong).value
    assert value[0] == -torch.inf
    assert torch.isfinite(value[1:]).all()


def test_missing_entries_are_integrated_out_in_training_and_scoring(rows: torch.Tensor) -> None:
    mask = torch.rand(rows.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    holey = torch.where(mask, rows, torch.zeros(()))
    system = DRMM(TINY, frame="tril", steps=100).fit({"x": holey, "mask": mask})
    assert system.log_prob(rows).value.mean() > -4.0  # one Gaussian: about -5.0
    marginal = system.log_prob(rows[:1], mask=torch.tensor([[True, False]])).value
    line = torch.linspace(-14, 6, 2001)
    points = torch.stack([rows[0, 0].expand_as(line), line], -1)
    integral = (system.log_prob(points).value.double().exp().sum() * (line[1] - line[0])).log()
    assert float(integral) == pytest.approx(float(marginal), abs=1e-3)


def test_codes_and_responsibilities_agree(fitted: DRMM, rows: torch.Tensor) -> None:
    shares, codes = fitted.responsibilities(rows), fitted.codes(rows)
    for l, share in enumerate(shares):
        torch.testing.assert_close(share.sum(-1), torch.ones(len(rows)))
        certain = share.max(-1).values > 0.9
        assert (share.argmax(-1) == codes[:, l])[certain].all()


def test_predict_proba_is_bayes_rule_over_the_joint() -> None:
    x = torch.randn(200, 2)
    system = DRMM(TINY).fit({"x": x, "kind": (x[:, 0] > 0).long()})
    probability = system.predict_proba("kind", x[:20])
    joint = torch.stack(
        [
            system.log_prob({"x": x[:20], "kind": torch.full((20,), k, dtype=torch.long)}, joint=True).value
            for k in (0, 1)
        ],
        -1,
    )
    torch.testing.assert_close(probability.double(), joint.softmax(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(joint.logsumexp(-1), system.log_prob(x[:20]).value, atol=1e-5, rtol=1e-5)


def test_noise_mean_returns_the_tuples_means(fitted: DRMM) -> None:
    x = fitted.sample(500, noise="mean", seed=0)["x"]
    assert len(torch.unique(x.round(decimals=4), dim=0)) <= 16


def test_sampling_with_a_seed_repeats_and_leaves_the_callers_stream_alone(fitted: DRMM) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two = fitted.sample(4, seed=1)["x"], fitted.sample(4, seed=1)["x"]
    assert torch.equal(one, two)
    assert torch.equal(torch.rand(3), expected)


def test_saving_and_loading_is_bit_equal(fitted: DRMM, rows: torch.Tensor, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    loaded = systems.load(tmp_path / "model")
    assert isinstance(loaded, DRMM)
    assert loaded.config == fitted.config
    assert torch.equal(loaded.log_prob(rows).value, fitted.log_prob(rows).value)
    with pytest.raises(RunError, match="exists already"):
        fitted.save(tmp_path / "model")


def test_a_run_folder_loads_and_resumes(rows: torch.Tensor, tmp_path: Path) -> None:
    out = tmp_path / "run"
    system = DRMM(TINY).fit(rows, out=out)
    loaded = systems.load(out)
    assert torch.equal(loaded.log_prob(rows).value, system.log_prob(rows).value)
    again = DRMM(TINY).fit(rows, out=out)
    assert torch.equal(again.log_prob(rows).value, system.log_prob(rows).value)
    with pytest.raises(RunError):
        DRMM(TINY, num_components=5).fit(rows, out=out)
    with pytest.raises(RunError):
        DRMM(TINY).fit(rows, out=out, resume=False)


@pytest.mark.parametrize("damage", ["truncate", "alter"])
def test_a_damaged_checkpoint_is_refused(damage: str, fitted: DRMM, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "model")
    file = folder / "parameters.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    else:
        content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError):
        systems.load(folder)


def test_the_run_config_is_plain_json(fitted: DRMM, tmp_path: Path) -> None:
    content = json.loads((fitted.save(tmp_path / "m") / "config.json").read_text())
    assert content["system"] == "drmm"
    assert content["options"]["num_components"] == 4


def test_select_keeps_the_candidate_with_the_best_validation_figure() -> None:
    data = datasets.load("swissroll", sizes=(800, 200, 10))
    best = DRMM.select(data, [{**TINY, "steps": 1}, {**TINY, "steps": 200, "frame": "tril"}])
    assert best.config.frame == "tril"
    assert [round(v, 6) for _, v in best.selection] == sorted(round(v, 6) for _, v in best.selection)


def test_evaluate_gives_metrics_with_their_kind(fitted: DRMM, rows: torch.Tensor) -> None:
    metrics = fitted.evaluate(rows)
    assert set(metrics) == {"log_likelihood", "log_likelihood_depth_1", "precision", "recall", "f1"}
    assert all(isinstance(m, Metric) for m in metrics.values())
    assert metrics["log_likelihood"].kind == "exact"
    assert metrics["log_likelihood"].n == len(rows)
    assert set(fitted.evaluate(rows, ["log_likelihood"])) == {"log_likelihood"}


def test_categories_that_look_like_codes_are_scored_as_they_are() -> None:
    x = torch.randn(90, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kinds = [str(1 + int(value > 0) + int(value > 1)) for value in x[:, 0].tolist()]  # codes 0, 1, 2 of "1", "2", "3"
    system = DRMM(TINY, num_layers=2, steps=20).fit({"x": x, "kind": kinds})
    metrics = system.evaluate({"x": x, "kind": kinds})
    labels = system.schema["categorical"]["kind"]
    hits = [labels[code] == kind for code, kind in zip(system.predict_proba("kind", x).argmax(-1), kinds, strict=True)]
    assert metrics["accuracy_kind"].value == sum(hits) / 90
    depth = system.log_prob({"x": x, "kind": kinds}, depth=1).value.mean()
    assert metrics["log_likelihood_depth_1"].value == pytest.approx(float(depth))


def test_rows_to_evaluate_are_read_with_the_categories_of_training() -> None:
    x = 1e6 + torch.randn(80, 2, dtype=torch.float64)  # float32 would round these to sixteenths
    kinds = ["low" if value else "high" for value in (x[:, 0] < 1e6).tolist()]
    system = DRMM(TINY, steps=20).fit({"x": x, "kind": kinds})
    some = kinds.index("low"), kinds.index("low", kinds.index("low") + 1)  # one category only: its code must not change
    rows = {"x": x[list(some)], "kind": [kinds[i] for i in some]}
    metrics = system.evaluate(rows)
    code = system.schema["categorical"]["kind"].index("low")
    hits = system.predict_proba("kind", rows["x"]).argmax(-1) == code
    assert metrics["accuracy_kind"].value == float(hits.double().mean())
    assert metrics["log_likelihood"].value == pytest.approx(float(system.log_prob(rows["x"]).value.mean()), abs=1e-9)
    with pytest.raises(DataError, match="middle"):
        system.evaluate({**rows, "kind": ["low", "middle"]})


def test_figures_are_drawn_for_planes_images_and_tables(fitted: DRMM, rows: torch.Tensor) -> None:
    assert {"density", "questions"} <= set(fitted.figures(rows))
    digits = datasets.load("digits")
    assert {"samples", "completion"} <= set(DRMM(TINY, steps=5).fit(digits).figures(digits))
    assert "columns" in DRMM(TINY, steps=5).fit(torch.randn(100, 3)).figures(torch.randn(50, 3))


def test_dead_components_come_back(rows: torch.Tensor) -> None:
    def shares(revive_every: int) -> torch.Tensor:
        system = DRMM(TINY, num_layers=1, num_components=6, steps=200, revive_every=revive_every)
        system.initialise = lambda train, seed: _bury(system, train, seed)  # type: ignore[method-assign]
        return system.fit(rows).responsibilities(rows)[0].mean(0)

    def _bury(system: DRMM, train: Split, seed: int) -> None:
        start(system.model, train.tensors["x"], seed=seed)
        with torch.no_grad():
            system.model.layers[0].mean[0] = 100.0

    assert shares(0)[0] < 1e-6
    assert shares(20)[0] > 1e-3


def test_dead_component_state_survives_a_round_trip() -> None:
    one, two = DeadComponents(), DeadComponents()
    one.revived = 4
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert two.revived == 4


def test_em_starts_close() -> None:
    x = datasets.load("swissroll").train.tensors["x"][:2000]
    started = DRMM(preset="swissroll", steps=1, learning_rate=1e-9).fit(x)
    random = DRMM(preset="swissroll", steps=1, learning_rate=1e-9)
    random.initialise = lambda train, seed: None  # type: ignore[method-assign]
    assert started.log_prob(x).value.mean() > random.fit(x).log_prob(x).value.mean() + 1.0


def test_columns_that_are_linear_in_others_do_not_stop_a_full_covariance() -> None:
    x = datasets.load("jumper", sizes=(2000, 0, 0)).train.tensors["x"]  # every height is the last one plus the speed
    system = DRMM(frame="tril", num_layers=2, num_components=64, steps=2, batch_size=32, beam=2).fit(x)
    assert system.log_prob(x[:20]).value.isfinite().all()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (torch.tensor([[1.0, torch.nan], [2.0, torch.nan]]), DataError, "column 'x1' has no known entry"),
        (torch.tensor([[1.0, torch.inf], [2.0, 1.0]]), DataError, "inf"),
        (torch.zeros(0, 2), DataError, "no rows|empty|at least one"),
        (torch.zeros(5), ShapeError, "rows, features"),
        (torch.ones(5, 2), DataError, "constant"),
        ("swissroll", ConfigError, "load it first"),
        ({"y": torch.zeros(5, 2)}, DataError, "'x'"),
    ],
    ids=["nan", "inf", "empty", "one axis", "all constant", "a name", "no x"],
)
def test_bad_data_is_refused_before_any_work(data: object, error: type[PhlogistonError], words: str) -> None:
    with pytest.raises(error, match=words):
        DRMM(TINY).fit(data)


@pytest.mark.parametrize("constant", [False, True])
def test_one_varying_column_trains_with_full_covariances(constant: bool) -> None:
    x = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    data = torch.cat([x, torch.full((300, 1), 7.0)], 1) if constant else x
    options = {"num_layers": 1, "num_components": 2, "steps": 60}
    scores = [DRMM(options, frame=frame).fit(data).log_prob(data).mean().value for frame in ("diag", "tril")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)  # with one column both frames are the same model


def test_fewer_rows_than_components_works() -> None:
    system = DRMM(TINY, num_components=8, frame="tril").fit(torch.randn(5, 2))
    assert torch.isfinite(system.log_prob(torch.randn(3, 2)).value).all()


def test_duplicated_rows_and_huge_scale_differences_work() -> None:
    x = torch.randn(50, 2).repeat(4, 1) * torch.tensor([1e-4, 1e4])
    assert torch.isfinite(DRMM(TINY, frame="tril").fit(x).log_prob(x).value).all()


def test_the_wrong_number_of_columns_is_told(fitted: DRMM) -> None:
    with pytest.raises(ShapeError, match=r"x has 3 columns; this model was fitted on 2"):
        fitted.log_prob(torch.zeros(4, 3))
    with pytest.raises(ShapeError):
        fitted.log_prob(torch.zeros(4, 2), mask=torch.ones(4, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_layrs": 3}, UnknownNameError, "num_layers"),
        ({"frame": "diagonal"}, ConfigError, "frame"),
        ({"num_layers": 0}, ConfigError, "num_layers must be at least 1"),
        ({"num_layers": "three"}, ConfigError, "num_layers"),
        ({"learning_rate": -1}, ConfigError, "learning_rate must be positive"),
        ({"guide": "exact", "num_layers": 9}, ConfigError, "max_enum"),
        ({"prior": "latent_class", "prior_order": 1}, ConfigError, "prior_order"),
    ],
)
def test_bad_options_are_refused(options: dict, error: type[PhlogistonError], words: str) -> None:
    with pytest.raises(error, match=words):
        DRMM(**options)


def test_text_options_become_numbers() -> None:
    assert DRMM(learning_rate="3e-4", num_layers="2").config.learning_rate == pytest.approx(3e-4)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.sample(0),
        lambda s: s.sample(3, depth=9),
        lambda s: s.sample(3, noise="loud"),
        lambda s: s.log_prob(torch.zeros(1, 2), depth=0),
        lambda s: s.log_prob(torch.zeros(1, 2), method="guess"),
        lambda s: s.log_prob(torch.zeros(1, 2), method="importance", num_particles=0),
        lambda s: s.query(method="hmc"),
        lambda s: s.predict_proba("label", torch.zeros(1, 2)),
        lambda s: s.evaluate(torch.zeros(9, 2), ["fidd"]),
    ],
)
def test_bad_questions_are_refused(call: object, fitted: DRMM) -> None:
    with pytest.raises(ConfigError):
        call(fitted)


def test_an_unfitted_system_says_so() -> None:
    with pytest.raises(PhlogistonError, match="not fitted"):
        DRMM().sample(3)


def test_unknown_systems_and_presets_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'drmm'"):
        systems.get("drm")
    with pytest.raises(UnknownNameError, match="swissroll"):
        DRMM(preset="swisroll")


def test_every_preset_is_valid() -> None:
    for name in systems.presets("drmm"):
        assert DRMM(preset=name).config is not None


def test_demo_recipes_train_and_show_every_application() -> None:
    pictures: set[str] = set()
    for recipe in DRMM.demo(quick=True):
        smaller = {"sizes": (600, 0, 50)} if "sizes" in recipe["data_options"] else {}
        data = datasets.load(recipe["data"], **{**recipe["data_options"], **smaller})
        system = DRMM({**recipe["options"], "steps": 3, "num_layers": 1}).fit(data)
        assert system.evaluate(data, ["log_likelihood"])["log_likelihood"].n == len(data.test)
        pictures |= set(system.figures(data))
    assert {"questions", "completion", "kinematics", "flights"} <= pictures
