"""Metrics, scores, reports and pictures: what a reader sees is complete, legible and in one file."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from phlogiston.errors import ConfigError, DataError, RunError, ShapeError
from phlogiston.evaluate import figures, image_figures
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.evaluate.report import Report, compare_runs, read_metrics, svg, write_metrics
from phlogiston.evaluate.score import Score


class Page(HTMLParser):
    """Checks that tags nest, and collects attributes."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def full_report() -> Report:
    picture = figures.loss_curve([{"step": i, "loss": 4.0 - i} for i in (1, 2, 3)])
    return Report("A <run>", "What & why.").section(
        "Fit",
        "First.\n\nSecond.",
        metrics={"log_likelihood": Metric(-2.9, 0.012, 1000, "exact", True, {"unit": "nats per row"})},
        figures={"loss over time": picture},
        tables={"sizes": [{"layer": 1, "width": 16}, {"layer": 2, "note": "<b>"}]},
    )


def test_the_page_holds_everything_and_needs_nothing_else(tmp_path: Path) -> None:
    path = full_report().write(tmp_path / "new" / "report.html")
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r'(?:src|href)="(?!data:image/svg\+xml;base64,|#)', html)
    assert list(path.parent.iterdir()) == [path], "no temporary file is left"
    for told in ("-2.900 ± 0.012", "1000", "exact", "nats per row", "A &lt;run&gt;", "What &amp; why.", "&lt;b&gt;"):
        assert told in html


def test_pictures_have_alternative_text_and_tables_have_headers() -> None:
    page = Page(full_report().html())
    (image,) = page.all("img")
    assert image["alt"] == "loss in nats per datum over the steps of training"
    assert {box.get("tabindex") for box in page.all("div") if box.get("class") == "wide"} == {"0"}, "keys scroll them"
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_is_legible_in_light_and_dark_and_on_paper() -> None:
    html = full_report().html()
    schemes = re.findall(r":root \{([^}]*)\}", html)
    assert len(schemes) == 3
    assert "@media print" in html
    assert "prefers-color-scheme: dark" in html
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
        for text in ("ink", "soft", "accent"):
            for ground in ("paper", "card"):
                light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


GROUNDS = ("#ffffff", "#1d2026")  # of pictures, in light and in dark


def test_colours_of_pictures_are_legible_on_light_and_on_dark() -> None:
    """Graphical objects need a contrast of 3 with what is beside them (WCAG 1.4.11)."""
    html = full_report().html()
    assert all(f"--card: {ground}" in html for ground in GROUNDS)
    for colour in (figures.INK, figures.ACCENT, figures.SOFT):
        for ground in GROUNDS:
            light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3.0, (colour, ground)


def test_a_figure_becomes_a_picture_whose_black_turns_light_in_dark_mode() -> None:
    figure = figures.new_figure(3.0, 2.0, "a line")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="black")
    axes.text(0, 0, "white words", color="white")
    picture = svg(figure).decode()
    ElementTree.fromstring(picture)
    assert "@media screen and (prefers-color-scheme: dark)" in picture
    assert "stroke: currentColor" in picture
    assert not re.search(r"(?:stroke|fill): #000000", picture), "black that does not turn"
    assert picture.count("#ffffff") == 1, "the ground is transparent; words on a dark picture stay white"
    assert axes.get_facecolor() == (1.0, 1.0, 1.0, 1.0), "the caller's figure is as it was"


def test_captions_failures_and_the_command_are_told() -> None:
    picture = image_figures.image_grid(np.zeros((2, 4, 4)))
    report = Report("x", made={"This page": "phlogiston evaluate runs/a --data 'b c'"})
    html = report.section(
        "s", figures={"grid": picture}, captions={"grid": "Look at <these>."}, failed="drawing failed: no"
    ).html()
    assert "<b>Grid.</b> Look at &lt;these&gt;." in html
    assert 'class="failed">drawing failed: no<' in html
    assert "How this was made" in html
    assert "phlogiston evaluate runs/a --data &#39;b c&#39;" in html
    Page(html)


def test_pictures_may_be_files_and_what_is_none_is_refused(tmp_path: Path) -> None:
    image_figures.image_grid(np.zeros((2, 4, 4))).savefig(tmp_path / "grid.png")
    html = Report("x").section("s", figures={"a grid": tmp_path / "grid.png"}).html()
    assert Page(html).all("img")[0]["alt"] == "a grid"
    with pytest.raises(DataError, match="neither PNG"):
        Report("x").section("s", figures={"a": b"plain text"})
    with pytest.raises(DataError, match="cannot read"):
        Report("x").section("s", figures={"a": tmp_path / "no.png"})


def test_a_comparison_marks_the_best_and_all_that_tie_with_it() -> None:
    runs = {
        "a": {"fid": Metric(3.0, 0.1, 100, "estimate", False), "size": Metric(5, n=1)},
        "b": {"fid": Metric(3.1, 0.1, 100, "estimate", False), "size": Metric(9, n=1)},
        "c": {"fid": Metric(9.0, 0.1, 100, "estimate", False)},
    }
    page = Page(Report("x").comparison("Compared", runs).html())
    cells = [attributes.get("class") for attributes in page.all("td")]
    assert cells == ["number best", "number best", "number", "number", "number", "number"]
    mixed = {"a": {"ll": Metric(-3, 0.1, 9, "exact", True)}, "b": {"ll": Metric(-2, 0.1, 9, "lower bound", True)}}
    assert "best" not in str(Page(Report("x").comparison("c", mixed).html()).all("td"))
    with pytest.raises(DataError):
        Report("x").comparison("c", {})


def test_runs_are_compared_from_their_metrics_files(tmp_path: Path) -> None:
    for name, value in (("one", -3.0), ("two", -2.0)):
        metrics = {"log_likelihood": Metric(value, 0.1, 100, "exact", True)}
        write_metrics(tmp_path / name / "metrics.json", metrics, run=name, data="swissroll")
    html = compare_runs([tmp_path / "one", tmp_path / "two"]).html()
    assert "-2.00 ± 0.10" in html
    assert json.loads((tmp_path / "one" / "metrics.json").read_text())["data"] == "swissroll"
    with pytest.raises(RunError, match="does not exist"):
        compare_runs([tmp_path / "three"])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as metrics"):
        read_metrics(tmp_path / "bad.json")


def test_metrics_survive_json_even_when_not_finite() -> None:
    for metric in (Metric(1.5, 0.1, 7, "lower bound", True, {"k": 3}), Metric(-math.inf, None, 2), Metric(0.0)):
        text = json.dumps(metric.to_json(), allow_nan=False)
        assert Metric.from_json(json.loads(text)) == metric
    with pytest.raises(DataError, match="not a metric"):
        Metric.from_json({"value": 1})


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-2.90031, 0.0121, "-2.900 ± 0.012"),
        (12345.6, 210.0, "12346 ± 210"),
        (0.5, None, "0.5"),
        (0.5, 0.0, "0.5"),
        (math.inf, None, "inf"),
        (1e-6, 2e-8, "0.000001000 ± 0.000000020"),
        (-3.14e-11, 1.5e-12, "-3.1e-11 ± 1.5e-12"),
    ],
)
def test_metrics_are_written_with_the_digits_they_deserve(value: float, error: float | None, text: str) -> None:
    assert Metric(value, error).text() == text


def test_malformed_metrics_and_scores_are_refused() -> None:
    with pytest.raises(ConfigError, match="lower bound"):
        Metric(1.0, kind="guess")
    with pytest.raises(DataError):
        Metric(1.0, -0.1)
    with pytest.raises(DataError, match="row 1 is nan"):
        Score(torch.tensor([0.0, math.nan]))
    with pytest.raises(ShapeError):
        Score(torch.zeros(2, 2))
    with pytest.raises(ShapeError):
        Score(torch.zeros(2), "estimate", torch.zeros(3))
    with pytest.raises(DataError, match="no rows"):
        Score(torch.zeros(0)).mean()
    with pytest.raises(DataError, match="no rows"):
        from_rows([])


def test_the_mean_log_likelihood_states_its_error_and_counts_impossible_rows() -> None:
    value = torch.tensor([-1.0, -2.0, -3.0, -6.0])
    metric = Score(value, "lower bound", torch.full((4,), 0.2)).mean()
    assert metric.value == -3.0
    assert metric.std_error == pytest.approx(float(value.std()) / 2)
    assert metric.detail["monte_carlo_std_error"] == pytest.approx(0.1)
    assert (metric.n, metric.kind, metric.higher_is_better) == (4, "lower bound", True)
    impossible = Score(torch.tensor([-1.0, -math.inf])).mean()
    assert impossible.value == -math.inf
    assert impossible.detail["impossible_rows"] == 1


def test_bits_per_dimension_of_uniform_eight_bit_pixels_are_eight() -> None:
    features = 12
    score = Score(torch.zeros(5))  # density 1 on the unit cube
    metric = score.bits_per_dimension(features, bin_width=1 / 256)
    assert metric.value == pytest.approx(8.0)
    assert Score(torch.zeros(5), "lower bound").bits_per_dimension(features, 1 / 256).kind == "upper bound"
    with pytest.raises(ConfigError):
        score.bits_per_dimension(0)


def normal(points: np.ndarray) -> np.ndarray:
    return -0.5 * (points**2).sum(1) - math.log(2 * math.pi)


def test_every_picture_is_drawn_and_says_what_it_shows(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(300, 2))
    drawn = {
        "depths": figures.density_depths(data, [data, data], [normal, normal], truth=normal, columns=("a", "b")),
        "matrix": figures.histogram_matrix(data, data * 2, columns=("a", "b")),
        "grid": image_figures.image_grid(torch.rand(7, 3, 5, 6), titles=list("abcdefg")),
        "grids": image_figures.image_grids({"real": torch.rand(5, 4, 4), "drawn": torch.rand(5, 4, 4, 3)}),
        "rows": image_figures.image_rows([("a", torch.rand(3, 4, 5)), ("b", torch.rand(2, 3, 4, 5))], titles="xyz")[0],
        "columns": image_figures.image_columns([("a", torch.rand(3, 4, 5)), ("b", torch.rand(3, 4, 5))]),
        "loss": figures.loss_curve([{"step": i, "loss": 1.0 / (i + 1)} for i in range(300)]),
        "curves": figures.curves([1, 2], {"a": [1.0, 2.0]}, ylabel="nats"),
        "curve": figures.interval_curve([1, 10], [0.0, 1.0], [0.1, 0.1], reference=1.2),
        "ranks": figures.rank_histograms({"z": [3, 9, 30]}, {"z": (2, 20)}, 14),
    }
    for name, figure in drawn.items():
        assert figure.get_label()
        figure.savefig(tmp_path / f"{name}.png", dpi=40)


def test_the_loss_has_a_panel_per_stage_with_validation_rows_and_without_what_is_not_finite() -> None:
    records = [{"step": i, "stage": "a" if i < 5 else "b", "loss": float(i)} for i in range(9)]
    records[2]["loss"] = math.nan
    for i, value in ((4, 9.0), (5, 9.0), (7, 3.5), (8, 3.5)):
        records[i]["valid_loss"] = value  # a record repeats the last validation
    drawn = figures.loss_curve(records, unit="nats per clip")
    first, second = drawn.axes
    assert [list(line.get_xdata()) for line in first.lines] == [[0, 1, 3, 4], [4]]
    assert [list(line.get_xdata()) for line in second.lines] == [[5, 6, 7, 8], [7]]
    assert first.get_ylabel() == "loss, nats per clip"
    assert figures.loss_curve(records[:2]) is None, "two points are no curve"


def test_a_histogram_shows_data_and_samples_as_shares_of_their_own() -> None:
    axes = figures.new_figure(2, 2, "x").subplots()
    figures.histogram(axes, [0.5, 1.5, math.nan, 1.6, 0.2], [0.5], bins=2, limits=(0.0, 2.0))
    assert [bar.get_height() for bar in axes.patches[:2]] == [0.5, 0.5]
    assert [text.get_text() for text in axes.legend().get_texts()] == ["data", "samples"]


def test_rows_of_pictures_hold_what_was_given_in_order() -> None:
    first, second = np.random.default_rng(0).random((3, 4, 5)), np.random.default_rng(1).random((2, 3, 4, 5))
    _, axes = image_figures.image_rows([("real", first), ("made", second)], titles=["a", "b", "c"])
    assert axes.shape == (2, 3)
    assert [line[0].get_ylabel() for line in axes] == ["real", "made"]
    assert [panel.get_title() for panel in axes[0]] == ["a", "b", "c"]
    np.testing.assert_allclose(axes[0, 1].images[0].get_array(), first[1])
    np.testing.assert_allclose(axes[1, 1].images[0].get_array(), np.moveaxis(second[1], 0, -1))
    assert not axes[1, 2].images


def test_density_panels_show_the_density_on_one_scale() -> None:
    data = np.random.default_rng(0).normal(size=(300, 2))
    figure = figures.density_depths(data, [data], [normal], truth=normal)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 2
    assert {image.get_clim() for image in images} == {images[0].get_clim()}
    assert images[0].get_array().max() == pytest.approx(1 / (2 * math.pi), rel=0.01)


def test_pictures_of_malformed_arrays_are_refused() -> None:
    with pytest.raises(ShapeError):
        image_figures.image_grid(np.zeros((3, 4)))
    with pytest.raises(ShapeError):
        figures.density_depths(np.zeros((5, 3)), [np.zeros((5, 2))], [normal])
    with pytest.raises(ShapeError):
        figures.density_depths(np.zeros((5, 2)), [], [normal])
    with pytest.raises(ShapeError):
        figures.density_depths(np.eye(5, 2), [np.zeros((5, 2))], [lambda x: np.zeros((len(x), 1))])
    with pytest.raises(ShapeError):
        figures.histogram_matrix(np.zeros((5, 2)), np.zeros((5, 3)))
    with pytest.raises(ShapeError):
        figures.curves([1, 2], {"a": [1.0]}, ylabel="nats")
    with pytest.raises(DataError):
        image_figures.image_grids({})
