"""Systems asked in words, by column: the same answers as by site, and refusals that name the nearest column."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import phlogiston as ph
from phlogiston.errors import EvidenceError
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.mdn.system import MDN


@pytest.fixture(scope="module")
def table() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    age = rng.normal(40, 10, 300)
    return {
        "age": age,
        "body mass": 70 + 0.3 * (age - 40) + rng.normal(size=300),
        "grade": np.where(age > 40, "A", "B"),
    }


@pytest.fixture(scope="module")
def drmm(table: dict[str, np.ndarray]) -> DRMM:
    return DRMM(num_layers=1, num_components=3, steps=40).fit(table, progress="off")


def test_words_and_objects_have_one_answer(drmm: DRMM) -> None:
    said = drmm.query("age >= 40", "body mass in [60, 80]", {"grade": "A"}, num_samples=200, seed=0)
    same = drmm.query({"x": ph.Within([40, 60], [np.inf, 80]), "grade": 0}, None, 200, seed=0)
    named = drmm.query({"age": ph.Within(lower=40)}, {"body mass": [60, 80], "grade": {"A"}}, num_samples=200, seed=0)
    listed = drmm.query(["age >= 40", "60 <= body mass <= 80; grade = A"], ["x"], 200, seed=0)
    for other in (same, named, listed):
        assert torch.equal(said.samples["x"], other.samples["x"])
        assert torch.equal(said.log_weights, other.log_weights)
    assert list(listed.samples) == ["x"]


def test_unknown_columns_come_with_the_nearest(drmm: DRMM) -> None:
    for question in ("body mas >= 3", {"body mas": 3}):
        with pytest.raises(EvidenceError, match="Did you mean 'body mass'"):
            drmm.query(question)


def test_explain_tells_what_is_known_and_what_is_sampled(drmm: DRMM, capsys: pytest.CaptureFixture[str]) -> None:
    drmm.explain("age >= 40", {"grade": "B", "body mass": 71})
    assert capsys.readouterr().out.splitlines() == ["body mass = 71", "age >= 40", "grade = B", "sampled: age"]


def test_a_categorical_input_is_a_known_one(table: dict[str, np.ndarray]) -> None:
    system = MDN(target=["body mass"], steps=20).fit(table, progress="off")
    words = system.query("age = 30", "grade = B", num_samples=50, seed=0)
    by_site = system.query({"x": [30.0, 0.0, 1.0]}, num_samples=50, seed=0)
    assert torch.equal(words.samples["y"], by_site.samples["y"])
    boxed = system.query("age = 30", "grade = B", "body mass >= 68", num_samples=50, seed=0)
    assert bool((boxed.samples["y"] >= 68).all())
    with pytest.raises(EvidenceError, match="'grade' is an input"):
        system.query("age = 30", "grade in {A, B}")
