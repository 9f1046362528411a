"""The system of sequences: train, draw, answer, fill in, stream, save; and what it says of bad input."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.errors import ConfigError, DataError, EvidenceError, QueryWarning, ShapeError, UnknownNameError
from phlogiston.inference.query.evidence import Known, Near, Within
from phlogiston.inference.svi.sequences import Windows
from phlogiston.systems.sequence.rows import Mirrored
from phlogiston.systems.sequence.system import SequenceModel


def touches(rows: int, steps: int, seed: int) -> dict[str, Any]:
    """A finger that walks to the right at its own pace and taps every ten touches, recorded on a grid."""
    random = np.random.default_rng(seed)
    pace = random.uniform(0.005, 0.02, (rows, 1))
    x = np.clip(np.cumsum(pace + 0.001 * random.standard_normal((rows, steps)), 1), 0, 1)
    y = np.clip(0.5 + 0.05 * np.cumsum(0.1 * random.standard_normal((rows, steps)), 1), 0, 1)
    dt = 0.016 * np.exp(0.1 * random.standard_normal((rows, steps)))
    dt[:, 9::10] = 0.4
    dt[:, 0] = 0.0
    values = np.round(np.stack([x, y], -1) / 1e-3) * 1e-3
    length = random.integers(steps // 2, steps + 1, rows)
    out = np.concatenate([values, dt[..., None]], -1).astype(np.float32)
    for i, n in enumerate(length):
        out[i, n:] = 0
    return {"x": out, "length": length}


def dataset(rows: int = 80) -> datasets.Dataset:
    parts = [datasets.Split(touches(n, 40, seed)) for seed, n in enumerate((rows, 20, 20))]
    return datasets.Dataset(*parts, datasets.Meta(name="walk", columns=("x", "y", "dt")))


@pytest.fixture(scope="module")
def fitted() -> SequenceModel:
    with torch.random.fork_rng():
        return SequenceModel(
            hidden=16, layers=1, num_components=4, grid=1e-3, min_scale=1e-4, window=20, steps=150, batch_size=16,
            learning_rate=0.01,
        ).fit(dataset(), progress="off")  # fmt: skip


def test_it_learns_far_more_than_the_laws_of_single_steps(fitted: SequenceModel) -> None:
    data = dataset()
    found = fitted.evaluate(data, ["nats_per_step"])["nats_per_step"].value
    values = data.train.tensors["x"][data.train.tensors["x"].abs().sum(-1) > 0]
    flat = 0.0
    for column in range(3):  # the entropy of each column's histogram on the grid: the best that ignores time
        _, counts = np.unique(np.round(values[:, column].numpy() / 1e-3), return_counts=True)
        p = counts / counts.sum()
        flat -= float((p * np.log(p)).sum())
    assert found < flat - 2.0


def test_draws_repeat_with_the_seed_and_keep_to_the_limits(fitted: SequenceModel) -> None:
    a, b = fitted.sample(4, steps=30, seed=3), fitted.sample(6, steps=30, seed=3)
    torch.testing.assert_close(a["x"], b["x"][:4])
    for column, (low, high) in enumerate(fitted.schema["limits"]):
        assert float(a["x"][..., column].min()) >= low
        assert high is None or float(a["x"][..., column].max()) <= high
    long = fitted.sample(3, seconds=0.5, seed=0)
    for x, n in zip(long["x"], long["length"], strict=True):
        assert float(x[: int(n), 2].sum()) <= 0.5
        assert float(x[int(n) :].abs().sum()) == 0


def test_an_answer_goes_on_from_where_the_performance_ended(fitted: SequenceModel) -> None:
    data = dataset().test.tensors
    rows = [data["x"][i, : int(data["length"][i])].numpy() for i in range(6)]
    reply = fitted.respond(rows, seconds=0.3, seed=1)
    together = torch.stack([torch.tensor(abs(r["x"] - x[-1, 0])) for r, x in zip(
        [{"x": reply["x"][i, 0, 0].item()} for i in range(6)], rows, strict=True)])  # fmt: skip
    assert float(together.median()) < 0.1
    alone = fitted.respond(rows[2], seconds=0.3, seed=1)
    assert tuple(alone["x"].shape[::2]) == (1, 3)


def test_completing_rows_of_different_lengths_is_completing_each(fitted: SequenceModel) -> None:
    data = dataset().test.tensors
    x, length = data["x"][:3], torch.tensor([5, 12, 5])
    many = fitted.complete(x, length, steps=8, seed=2)["x"]
    one = fitted.complete(x[:1, :5], steps=8, seed=2)["x"]
    torch.testing.assert_close(many[0], one[0], rtol=1e-4, atol=1e-5)


def test_what_is_known_comes_back_and_all_known_is_exact(fitted: SequenceModel) -> None:
    data = dataset().test.tensors
    x = data["x"][0, :12].double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[5:7] = False
    mask[2, 1] = False
    answer = fitted.query({"x": Known(x, mask)}, num_samples=300, seed=0)
    assert tuple(answer.samples["x"].shape) == (300, 12, 3)
    assert bool((answer.samples["x"][:, mask] == x[mask]).all())
    assert float(answer.ess) > 10
    whole = fitted.query({"x": Known(x)}, num_samples=2, seed=0)
    exact = float(fitted.log_prob(data["x"][:1, :12], length=[12]).value)
    assert float(whole.log_evidence) == pytest.approx(exact, abs=0.05)


def test_equal_seeds_give_equal_answers_where_particles_die(fitted: SequenceModel) -> None:
    """A box excludes many particles; those that take their slots follow the seed, and torch's generator stays."""
    x = dataset().test.tensors["x"][0, :6]
    lower = torch.full_like(x, -math.inf)
    lower[-1, 0] = float(x[-1, 0])
    evidence = {"x": [Known(x, torch.arange(6).unsqueeze(1).expand(6, 3) < 5), Within(lower, math.inf)]}
    before = torch.get_rng_state()
    answers = [fitted.query(evidence, num_samples=100, seed=1).samples["x"] for _ in range(2)]
    assert torch.equal(*answers)
    assert torch.equal(before, torch.get_rng_state())


def test_missing_steps_are_filled_with_what_later_steps_demand(fitted: SequenceModel) -> None:
    """The gap's average lies on the line between its ends; what would be drawn without the later steps does not."""
    data = dataset().test.tensors
    x = data["x"][1, :20].double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[10:14] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)  # few of the paths drawn lead to where the gap ends
        answer = fitted.query({"x": Known(x, mask)}, num_samples=1500, seed=1)
    middle = float(answer.mean("x")[12, 0])
    straight = float(x[9, 0] + (x[14, 0] - x[9, 0]) * 3 / 5)
    assert middle == pytest.approx(straight, abs=0.02)


def test_the_probability_of_evidence_is_unbiased(fitted: SequenceModel) -> None:
    """A box on one column of the second step: the filter agrees with plain simulation."""
    low, high = torch.full((2, 3), -math.inf), torch.full((2, 3), math.inf)
    low[1, 0], high[1, 0] = 0.0, 0.3
    answer = fitted.query({"x": Within(low, high)}, num_samples=4000, seed=0)
    with torch.inference_mode():
        state = fitted.model.start(4000)
        generator = torch.Generator().manual_seed(5)
        for _ in range(2):
            law, state = fitted.model.predict(state)
            value = law.values.place(
                torch.rand(4000, 4, generator=generator), torch.randn(4000, 3, generator=generator)
            )
            state = fitted.model.observe(state, value)
    share = float(((value[:, 0] >= 0) & (value[:, 0] <= 0.3)).double().mean())
    assert float(answer.log_evidence.exp()) == pytest.approx(share, abs=0.03)
    assert bool((answer.samples["x"][:, 1, 0] <= 0.3).all())


def test_soft_values_pull(fitted: SequenceModel) -> None:
    mean, sd = torch.zeros(3, 3), torch.full((3, 3), math.inf)
    mean[2, 0], sd[2, 0] = 0.7, 0.2
    answer = fitted.query({"x": Near(mean, sd)}, num_samples=3000, seed=0)
    free = fitted.query({}, num_samples=3000, steps=3, seed=0)
    assert float(answer.mean("x")[2, 0]) > float(free.mean("x")[2, 0]) + 0.05


@pytest.mark.parametrize(
    ("evidence", "word"),
    [
        ({"q": 1.0}, "q"),
        ({"x": Known(torch.zeros(4, 2))}, "expected"),
        ({"x": Within(torch.full((2, 3), 2.0), torch.full((2, 3), 3.0))}, "satisf|impossible"),
    ],
)
def test_impossible_questions_say_why(fitted: SequenceModel, evidence: Any, word: str) -> None:
    with pytest.raises(EvidenceError, match=word):
        fitted.query(evidence, num_samples=50, seed=0)


def test_streaming_hears_and_answers(fitted: SequenceModel) -> None:
    x = dataset().test.tensors["x"][0, :10]
    stream = fitted.stream(seed=4)
    for value in x:
        _, score = stream.filter(value)
        assert math.isfinite(score)
    later = fitted.stream(fitted.model.consume(fitted.model.start(1), x.unsqueeze(0)), seed=4)
    torch.testing.assert_close(stream.step(), later.step(), rtol=1e-3, atol=1e-4)


def test_it_saves_loads_and_exports(fitted: SequenceModel, tmp_path: Path) -> None:
    fitted.save(tmp_path / "saved")
    again = systems.load(tmp_path / "saved")
    data = dataset()
    assert torch.equal(again.log_prob(data).value, fitted.log_prob(data).value)
    program = fitted.export(tmp_path / "step.pt2")
    assert (tmp_path / "step.pt2").stat().st_size > 1000
    assert program is not None
    with pytest.raises(ConfigError, match="exists"):
        fitted.export(tmp_path / "step.pt2")


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    """The state carried from window to window is part of what is resumed."""

    class Break:
        def on_step(self, state: Any) -> None:
            if state.step == 7:
                raise RuntimeError("the power is gone")

    options: dict[str, Any] = {"hidden": 8, "layers": 1, "num_components": 3, "window": 10, "steps": 12}
    data = dataset(30)
    engine: dict[str, Any] = {"progress": "off", "checkpoint_every": 5}
    whole = SequenceModel(**options).fit(data, out=tmp_path / "whole", **engine)
    with pytest.raises(RuntimeError, match="power"):
        SequenceModel(**options).fit(data, out=tmp_path / "parts", callbacks=[Break()], **engine)
    rest = SequenceModel(**options).fit(data, out=tmp_path / "parts", **engine)
    for a, b in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_sequence_to_one_learns_the_same_law() -> None:
    """Trained on last steps alone, its loss is the likelihood of one step, and it predicts as well as it should."""
    data = dataset()
    options: dict[str, Any] = {
        "hidden": 16, "layers": 1, "num_components": 4, "grid": 1e-3, "min_scale": 1e-4, "learning_rate": 0.01,
    }  # fmt: skip
    begun = SequenceModel(**options, steps=1).fit(data, progress="off")
    system = SequenceModel(**options, predict="last", window=10, batch_size=128, steps=120).fit(data, progress="off")
    scores = [m.evaluate(data, ["nats_per_step"])["nats_per_step"].value for m in (begun, system)]
    assert scores[1] < scores[0] - 2.0
    loss = system.stages()[0].objective(system.model, None)
    x, length = data.train.tensors["x"][:4], data.train.tensors["length"][:4]
    law, _ = system.model.predictions(x)
    each = law.log_prob(x)[torch.arange(4), length - 1]
    torch.testing.assert_close(loss.train()(x, length), -each.sum(), rtol=1e-4, atol=1e-3)
    with pytest.raises(ConfigError, match="predict"):
        SequenceModel(predict="some")


def test_a_screen_has_borders_and_devices_have_lattices(fitted: SequenceModel, tmp_path: Path) -> None:
    """Told of both, a model scores better, keeps what it draws inside by itself, and still fills gaps and exports."""
    data = dataset()
    for part in (data.train, data.valid, data.test):
        part.tensors["x"][..., :2] = (part.tensors["x"][..., :2] * 200).round() / 200
    options: dict[str, Any] = {
        "hidden": 16, "layers": 1, "num_components": 4, "grid": 1e-3, "min_scale": 1e-4, "window": 20, "steps": 60,
        "batch_size": 16, "learning_rate": 0.01,
    }  # fmt: skip
    plain = SequenceModel(**options).fit(data, progress="off")
    told = SequenceModel(**options, bounds=(0.0, 1.0), lattices=(200,)).fit(data, progress="off")
    scores = [m.evaluate(data, ["nats_per_step"])["nats_per_step"].value for m in (plain, told)]
    assert scores[1] < scores[0] - 0.5
    drawn = told.sample(10, steps=60, seed=0)
    assert float(drawn["clipped"].max()) <= 1 / 60 + 1e-6, "only the first time, which the data put at 0"
    x = data.test.tensors["x"][0, :12].double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[11] = False
    mask[11, 0] = True  # of the last touch one coordinate is known
    answer = told.query({"x": Known(x, mask)}, num_samples=200, seed=0)
    assert float(answer.ess) > 20
    y = answer.samples["x"][:, 11, 1]
    assert 0.0 <= float(y.min()) < float(y.max()) <= 1.0
    told.save(tmp_path / "saved")
    assert torch.equal(systems.load(tmp_path / "saved").log_prob(data).value, told.log_prob(data).value)
    with pytest.raises(DataError, match="bounds"):
        told.log_prob(np.full((5, 3), 1.5))


@pytest.mark.parametrize(
    "options",
    [{"bounds": (1.0, 0.0), "grid": 0.1}, {"bounds": (0.0, 1.0)}, {"lattices": (600,)},
     {"lattices": (0,), "bounds": (0.0, 1.0), "grid": 0.1}],
)  # fmt: skip
def test_bounds_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"bounds|lattices"):
        SequenceModel(**options)


def test_bad_sequences_are_refused(fitted: SequenceModel) -> None:
    with pytest.raises(ShapeError, match="2 columns"):
        fitted.log_prob(np.zeros((5, 2)))
    with pytest.raises(DataError, match="sequence 1 is empty"):
        fitted.log_prob(np.zeros((2, 5, 3)), length=[3, 0])
    with pytest.raises(DataError, match="finite"):
        fitted.log_prob(np.full((5, 3), np.nan))
    with pytest.raises(DataError, match="at most"):
        fitted.sequences(np.zeros((1, 100, 3)), most=50)
    with pytest.raises(ConfigError, match="n is 0"):
        fitted.sample(0)
    with pytest.raises(ConfigError, match="temperature"):
        fitted.sample(1, steps=2, pi_temperature=-1.0)
    with pytest.raises(UnknownNameError, match="levels"):
        SequenceModel(levels=("z",)).fit(dataset(5))
    with pytest.raises(UnknownNameError, match="metric"):
        fitted.evaluate(dataset(), ["nll"])


def test_pictures_are_drawn(fitted: SequenceModel) -> None:
    figures = fitted.figures(dataset())
    assert {"performances", "intervals", "training"} <= set(figures)
    assert all(figure.get_label() for figure in figures.values())


def test_the_baseline_without_memory_scores_a_random_walk_at_its_entropy() -> None:
    """Steps of a walk are independent and normal: one normal of steps is all there is, a mixture gains nothing."""
    random = np.random.default_rng(0)
    x = 0.5 + np.cumsum(0.05 * random.standard_normal((60, 100, 1)), 1)
    splits = [datasets.Split({"x": part.astype(np.float32), "length": np.full(20, 100)}) for part in np.split(x, 3)]
    walk = datasets.Dataset(*splits, datasets.Meta(name="walk", columns=("x",)))
    system = SequenceModel(hidden=4, layers=1, num_components=3, grid=1e-3, steps=1).fit(walk, progress="off")
    found = system.baselines(walk)
    entropy = math.log(0.05 * math.sqrt(2 * math.pi * math.e) / 1e-3)
    for metric in found.values():
        assert metric.value == pytest.approx(entropy, abs=0.1)


def test_mirror_images_are_learned_from_like_sequences_of_their_own() -> None:
    """Windows of four images of two sequences, in order, each followed by its own next window; times stay."""
    own = touches(2, 40, 0)
    x, length = torch.as_tensor(own["x"]), torch.as_tensor(own["length"])
    mirrored = Mirrored(x, length, 15, [0, 1], (0.0, 1.0))
    plain = Windows(x, length, 15)
    assert len(mirrored) == 4 * len(plain)
    assert mirrored.mean_length == plain.mean_length
    every = mirrored[torch.arange(len(mirrored))]
    assert len({tuple(place) for place in every["place"].tolist()}) == len(mirrored)
    base = plain[torch.arange(len(plain))]
    for image, signs in enumerate(((1, 1), (-1, 1), (1, -1), (-1, -1))):
        part = every["x"][image * len(plain) : (image + 1) * len(plain)]
        for column, sign in enumerate(signs):
            expected = base["x"][..., column] if sign > 0 else 1.0 - base["x"][..., column]
            torch.testing.assert_close(part[..., column], expected)
        torch.testing.assert_close(part[..., 2], base["x"][..., 2])
    order = mirrored.arrange(torch.Generator().manual_seed(0), 4)
    assert sorted(torch.cat(order).tolist()) == list(range(len(mirrored)))


def test_mirroring_is_for_levels_with_bounds() -> None:
    with pytest.raises(ConfigError, match="mirror needs bounds"):
        SequenceModel(mirror=("x",))
    system = SequenceModel(mirror=("dt",), grid=1e-3, bounds=(0.0, 1.0), steps=1)
    with pytest.raises(UnknownNameError, match="level in mirror"):
        system.fit(dataset(), progress="off")
    system = SequenceModel(mirror=("x", "y"), grid=1e-3, bounds=(0.0, 1.0), steps=2, hidden=4, layers=1)
    assert math.isfinite(float(system.fit(dataset(), progress="off").log_prob(dataset().test).value.mean()))
