"""What a notebook shows of data, systems, answers and figures: well-formed, harmless, and the objects' own numbers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest
import torch

import phlogiston as ph
from phlogiston import cards
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.score import Score
from phlogiston.inference.svi.history import History

HOSTILE = '</td></table><script>alert("1")</script>&amp;\x1b[2J\u202e <img src=x onerror=alert(2)>'
LABEL = "<svg onload=alert(3)>"


def parsed(html: str) -> ElementTree.Element:
    """Parse HTML as strict XML, and see that nothing in it acts."""
    tree = ElementTree.fromstring(html.replace("xlink:href", "href"))
    for element in tree.iter():
        tag = element.tag.rpartition("}")[2]
        assert tag not in ("script", "iframe", "object", "link"), tag
        assert not [name for name in element.attrib if name.startswith("on")]
        assert tag != "img" or element.attrib["src"].startswith("data:image/png;base64,")
    return tree


def rows(tree: ElementTree.Element) -> dict[str, list[str]]:
    """First cell of each table row -> the texts of the others; the texts inside pictures left out."""
    found = {}
    for row in tree.iter("tr"):
        cells = ["".join(cell.itertext()) if cell.find("svg") is None else "" for cell in row]
        found[cells[0]] = cells[1:]
    return found


@pytest.fixture(scope="module")
def frame() -> pandas.DataFrame:
    rng = np.random.default_rng(0)
    a = rng.normal(100.0, 10.0, 200)
    made = pandas.DataFrame({HOSTILE: a, "b": 2 * a + rng.normal(0.0, 1.0, 200)})
    made["day"] = pandas.Timestamp("2024-03-01") + pandas.to_timedelta(rng.integers(0, 100, 200), "D")
    made["kind"] = np.where(a > 100, LABEL, "plain")
    made.loc[:9, "b"] = np.nan
    return made


@pytest.fixture(scope="module")
def data(frame: pandas.DataFrame) -> ph.datasets.Dataset:
    return ph.datasets.load(frame)


@pytest.fixture(scope="module")
def run(data: ph.datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("runs") / "one"
    system = ph.DRMM(num_layers=1, num_components=3, steps=60).fit(data, out=folder, progress="off", log_every=10)
    return system, folder


def every_card(system: Any, data: Any) -> Iterator[Any]:
    yield data
    yield data.train
    yield system
    yield system.summary()
    yield system.history
    yield system.log_prob(data)
    yield (metrics := system.evaluate(data, ["log_likelihood"]))
    yield metrics["log_likelihood"]
    yield (answer := system.query({HOSTILE: [90, None]}, num_samples=50, seed=0))
    yield system.query({HOSTILE: np.array([90.0, 110.0])}, num_samples=50, seed=0)
    yield answer.resampled(10)


@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_every_card_is_well_formed_and_names_from_files_are_text(run: tuple[Any, Path], data: Any) -> None:
    shown = [parsed(thing._repr_html_()) for thing in every_card(run[0], data)]
    named = [tree for tree in shown if 'alert("1")' in "".join(tree.itertext())]
    assert len(named) >= 5
    assert all("\\x1b[2J\\u202e" in "".join(tree.itertext()) for tree in named)
    assert sum(LABEL in "".join(tree.itertext()) for tree in shown) >= 4


def test_data_show_ranges_gaps_and_counts(data: Any) -> None:
    told = rows(parsed(data._repr_html_()))
    b = data.train.numpy()[:, 1][data.train.numpy("mask")[:, 1]]
    least, middle, most, missing = told["b"][1:5]
    np.testing.assert_allclose([float(least), float(middle), float(most)], [b.min(), np.median(b), b.max()], rtol=1e-3)
    assert int(missing) == len(data.train) - len(b) > 0
    assert told["day"][1] == str(
        (data.train.numpy()[:, 2].min() * 86400).astype("datetime64[s]").astype("datetime64[D]")
    )
    counts = np.bincount(data.train.numpy("kind"))
    labels = data.meta.categorical["kind"]
    assert {label: int(told[label][0]) for label in labels} == dict(zip(labels, counts.tolist(), strict=True))
    assert told["x"][0] == "(140, 3)"
    assert told["rows"][0].startswith("140 to train, 20 for validation, 40 to test")


def test_rows_that_stay_on_disk_are_not_read_for_a_card(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(500, 2)))
    data = ph.datasets.load("stream", data=tmp_path / "x.npy")
    data.train.source.read = None  # type: ignore[attr-defined]
    assert "Streamed(400 rows" in "".join(parsed(data._repr_html_()).itertext())


def test_an_answer_shows_its_own_estimates(run: tuple[Any, Path]) -> None:
    system = run[0]
    answer = system.query({HOSTILE: [95, None]}, num_samples=400, seed=0)
    told = rows(parsed(answer._repr_html_()))
    low, middle, high = answer.quantile("x", torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64))[:, 1].tolist()
    assert float(told["b"][0]) == pytest.approx(middle, rel=1e-3)
    assert [float(v) for v in told["b"][1].split(" to ")] == pytest.approx([low, high], rel=1e-3)
    share = float(answer.weights[answer.samples["kind"] == 0].sum())
    assert float(told[system.schema["categorical"]["kind"][0]][0]) == pytest.approx(share, abs=6e-4)
    assert told["method"] == [answer.method]
    assert told["worth"][0].startswith("400 independent samples of 400")
    assert float(told["log evidence"][0].split()[0]) == pytest.approx(float(answer.log_evidence), rel=1e-3)
    assert told["day"][0][:4] in ("2024", "2023")


def test_an_answer_to_several_rows_has_a_line_for_each(run: tuple[Any, Path]) -> None:
    answer = run[0].query({"b": np.array([180.0, 200.0, 220.0])}, num_samples=60, seed=0)
    told = rows(parsed(answer._repr_html_()))
    for r in range(3):
        assert float(told[str(r)][1]) == pytest.approx(180.0 + 20 * r)  # b is known
        assert float(told[str(r)][0].split()[0]) == pytest.approx(float(answer.quantile("x", 0.5)[r, 0]), rel=1e-3)
    assert answer.row(1).to_frame().columns.tolist() == answer.to_frame().columns.drop("row").tolist()


def test_a_poor_answer_says_so() -> None:
    weights = torch.full((100,), -50.0)
    weights[0] = 0.0
    poor = ph.Answer({"x": torch.randn(100, 1)}, weights, torch.tensor(-1.0), None, "importance", torch.tensor(1.0))
    told = rows(parsed(poor._repr_html_()))
    assert "poor" in told["worth"][0]
    assert told["log evidence"] == ["-1 nats, without an error bar"]


def test_figures_of_merit_show_value_error_and_size() -> None:
    metric = Metric(0.91234, 0.0123, 100, "lower bound", True, {"unit": "<nats>"})
    tree = parsed(metric._repr_html_())
    assert [*rows(tree)[""]] == [metric.text(), "100", "lower bound", "higher is better", "unit: <nats>"]
    score = Score(torch.tensor([-1.0, -2.0, -3.0]), "exact")
    assert rows(parsed(score._repr_html_()))["mean"] == ["-2.00 ± 0.58 (n = 3, exact) nats per row"]
    parsed(Score(torch.zeros(0), "exact")._repr_html_())


def test_a_histogram_counts_weights() -> None:
    tree = parsed(cards.histogram([0.0, 0.0, 24.0, np.nan, 12.5], [1.0, 1.0, 4.0, 9.0, 0.0]))
    heights = [float(bar.attrib["height"]) for bar in tree.iter("rect")]
    assert len(heights) == cards.BINS
    assert heights[0] == pytest.approx(14.0)
    assert heights[-1] == pytest.approx(28.0)
    assert sum(heights) == pytest.approx(42.0)
    assert cards.histogram([np.nan]) == ""
    parsed(cards.histogram([3.0, 3.0]))


def test_a_curve_goes_through_its_points() -> None:
    tree = parsed(cards.curve([([0, 50, 100], [4.0, 2.0, 2.0]), ([50, 100], [np.nan, 3.0])], [("a", 0), ("b", 50)]))
    line = [tuple(map(float, pair.split(","))) for pair in next(tree.iter("polyline")).attrib["points"].split()]
    assert [x for x, _ in line] == [60.0, 237.5, 415.0]
    assert line[0][1] == 10.0
    assert line[1][1] == line[2][1] == 125.0
    assert len(list(tree.iter("polyline"))) == 1, "one point makes no line"
    assert {"a", "b"} <= {text.text for text in tree.iter("text")}
    assert cards.curve([([1], [2.0])]) == ""


def test_a_history_shows_its_last_record() -> None:
    records = [{"step": 10 * i, "loss": 5.0 - i, "valid_loss": 6.0 - i, "stage": "s"} for i in range(1, 5)]
    told = rows(parsed(History(records, 2.5, skipped=3)._repr_html_()))
    assert told["steps"] == ["40, not finished"]
    assert told["loss"] == ["1 nats per data point"]
    assert told["valid loss"] == ["2 nats per data point"]
    assert told["not finite"][0].startswith("3 steps")
    parsed(History()._repr_html_())


def test_a_system_shows_its_summary(run: tuple[Any, Path], data: Any) -> None:
    system, folder = run
    found = system.evaluate(data, ["log_likelihood"])
    told = rows(parsed(system._repr_html_()))
    assert told["parameters"] == [f"{system.count_parameters():,}"]
    assert told["z"] == ["PathPrior", "(1,)", "data (1)"]
    assert told["x"] == ["ResidualNormal", "(3,)", "data (1)"]
    assert told["train"] == ["60"]
    assert told["log likelihood"][0] == found["log_likelihood"].text()
    assert f"60 steps, loss {system.history.loss[-1]:.4f}" in told["trained"][0]
    text = str(system.summary())
    assert "site x" in text
    assert "140 rows, 20 for validation" in text
    loaded = ph.load(folder)
    again = rows(parsed(loaded._repr_html_()))
    for name in ("parameters", "x", "train", "trained"):
        assert again[name] == told[name], name
    assert loaded.scored is None
    np.testing.assert_array_equal(loaded.history.loss, system.history.loss)


def test_a_system_that_is_not_fitted_shows_its_options() -> None:
    told = rows(parsed(ph.DRMM(num_layers=5)._repr_html_()))
    assert told["options"] == ["num_layers=5"]
    assert "not fitted" in told[""][0]


def test_a_program_that_needs_data_costs_a_summary_its_sites_alone(run: tuple[Any, Path]) -> None:
    system = copy.deepcopy(run[0])
    system.model = torch.nn.Identity()
    assert "site " not in str(system.summary())
    parsed(system._repr_html_())


def test_pictures_display_themselves(run: tuple[Any, Path], data: Any) -> None:
    system = run[0]
    drawn = system.figures(data, names=["training"])
    one = parsed(drawn["training"]._repr_html_())
    assert drawn._repr_html_().count("<polyline") == drawn["training"]._repr_html_().count("<polyline")

    text = "".join(one.itertext())
    assert system.captions()["training"] in text
    assert not list(one.iter("style")), "a style inside would be one for the whole page"
    pickle.loads(pickle.dumps(drawn["training"]))


def test_a_large_picture_is_shown_as_pixels(monkeypatch: pytest.MonkeyPatch, run: tuple[Any, Path], data: Any) -> None:
    from phlogiston.evaluate import shown

    monkeypatch.setattr(shown, "LARGEST", 10)
    tree = parsed(run[0].figures(data, names=["training"])._repr_html_())
    assert next(tree.iter("img")).attrib["alt"]
