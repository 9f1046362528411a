"""Regressions by slider, and pictures that are painted: as `System.query` answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import phlogiston as ph
from phlogiston import datasets


def test_the_density_follows_the_slider_and_the_map(visit: Callable, explore_runs: dict[str, Path]) -> None:
    system = ph.load(explore_runs["arcsine"])
    visitor = visit()
    visitor.open("arcsine")
    slider = visitor.page.locator("input[type=range]")
    slider.focus()
    for _ in range(3):
        visitor.page.keyboard.press("ArrowRight")
    visitor.settle()
    visitor.drag(".holder", (0.3, 0.5), (0.4, 0.5))
    answer = visitor.settle()
    x = float(answer["said"][0].removeprefix("x = "))
    own = system.query(f"x = {x}", num_samples=1000, seed=0)
    assert answer["columns"]["y"]["median"] == pytest.approx(float(own.quantile("y", 0.5)), rel=1e-9)
    assert torch.equal(visitor.repeated(answer).samples["y"], own.samples["y"])
    mixture = system.predictive(torch.tensor([[x]]))
    drawn = answer["densities"]["y"]
    assert drawn["branches"] == pytest.approx(
        mixture.modes().points[0, :, 0][mixture.modes().mask[0]].tolist(), rel=1e-5
    )
    # the regions hold nine tenths of the samples
    y = own.samples["y"][:, 0].numpy()
    inside = sum(((a <= y) & (y <= b)).mean() for a, b in drawn["regions"])
    assert inside == pytest.approx(0.9, abs=0.05)
    assert f"{len(drawn['branches'])} branch" in visitor.page.inner_text("#branches")
    assert float(slider.input_value()) == pytest.approx(x, abs=0.1)


def test_the_question_is_asked_the_other_way_round(visit: Callable, explore_runs: dict[str, Path]) -> None:
    visitor = visit()
    visitor.open("arcsine")
    visitor.page.get_by_label("Free x").click()
    visitor.drag("[data-column=y]", (0.4, 0.9), (0.5, 0.9))
    answer = visitor.settle()
    assert answer["said"][0].startswith("y = ")
    assert answer["densities"] == {}
    own = ph.load(explore_runs["arcsine"]).query(answer["said"][0], num_samples=1000, seed=0)
    assert answer["columns"]["x"]["median"] == pytest.approx(float(own.quantile("x", 0.5)), rel=1e-9)
    assert answer["log_evidence"] == pytest.approx(float(own.log_evidence), rel=1e-9)


def test_painted_pixels_are_completed_and_the_label_follows(visit: Callable, explore_runs: dict[str, Path]) -> None:
    system = ph.load(explore_runs["digits"])
    visitor = visit()
    visitor.open("digits")
    visitor.drag("#paint", (0.31, 0.06), (0.31, 0.44))  # ink, down the third column
    visitor.page.get_by_role("button", name="paper").click()
    visitor.drag("#paint", (0.94, 0.06), (0.94, 0.2))
    visitor.page.fill("#samples", "400")
    visitor.page.press("#samples", "Enter")
    answer = visitor.settle()
    own = visitor.repeated(answer)
    known = answer["python"].count("Known")
    assert known == 1
    assert answer["log_evidence"] == pytest.approx(float(own.log_evidence), rel=1e-9)
    assert answer["mean"] == pytest.approx(own.mean("x").tolist(), abs=1e-5)
    share = own.weights.new_zeros(10).index_add_(0, own.samples["label"], own.weights)
    assert answer["categories"]["label"] == pytest.approx(share.tolist())
    sd = np.asarray(answer["sd"]).reshape(8, 8)
    assert (sd[:4, 2] == 0).all()  # what is known is certain
    assert (sd[:2, 7] == 0).all()
    assert (sd[4:, 3] > 0).all()

    visitor.page.get_by_role("button", name="nothing known").click()
    visitor.page.get_by_label("Upper half of held-out picture 1", exact=True).click()
    answer = visitor.settle()
    seen = datasets.load("digits").test[:1]["x"][0].double()
    mask = torch.arange(64) < 32
    own = system.query({"x": ph.Known(seen, mask)}, num_samples=400, seed=0)
    assert answer["log_evidence"] == pytest.approx(float(own.log_evidence), abs=0.01)  # pixels came in five decimals
    assert answer["mean"] == pytest.approx(own.mean("x").tolist(), abs=0.01)


def test_pictures_are_painted_by_keyboard(visit: Callable) -> None:
    visitor = visit()
    visitor.open("digits")
    visitor.page.focus("#paint")
    for key in ("ArrowDown", "ArrowRight", " "):
        visitor.page.keyboard.press(key)
    assert visitor.page.inner_text("#said") is not None
    answer = visitor.settle()
    assert np.flatnonzero(np.asarray(answer["sd"]) == 0).tolist() == [9]


def test_pixels_that_are_not_there_are_named(served: object) -> None:
    for known in ({"64": 1.0}, {"-1": 1.0}, {"a": 1.0}, {"3": "x"}, {"3": True}):
        assert "pixel" in served.ask("digits", "digits", {"known": known})["error"]  # type: ignore[attr-defined]
