"""The evidence vocabulary, its files and its human form."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phlogiston.errors import EvidenceError
from phlogiston.inference.query import evidence as ev
from phlogiston.inference.query import files
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Within
from phlogiston.inference.query.text import parse

COLUMNS = {"x": ["x", "y", "sepal length"]}
LABELS = {"label": ["cat", "dog", "3", "8"]}


def read(*statements: str) -> dict[str, Any]:
    return parse(list(statements), COLUMNS, LABELS)


def test_equality_is_known_and_leaves_the_rest_unknown() -> None:
    (known,) = read("x = 2.5", "`sepal length` == -1")["x"]
    assert known.value.tolist() == [2.5, 0.0, -1.0]
    assert known.mask.tolist() == [True, False, True]


def test_chained_comparison_is_a_box() -> None:
    (box,) = read("0.1 <= x <= 0.4", "y > 1", "x >= 0.2")["x"]
    assert box.lower.tolist() == [0.2, 1.0, -math.inf]
    assert box.upper.tolist() == [0.4, math.inf, math.inf]


def test_linear_inequality_is_a_half_space() -> None:
    (half,) = read("2*x - y >= 0.3", "(x + 2*y)/2 <= 1 - 3*x")["x"]
    assert half.a.tolist() == [[2.0, -1.0, 0.0], [-3.5, -1.0, 0.0]]
    assert half.b.tolist() == [-0.3, 1.0]


def test_soft_statements_scale_with_their_coefficient() -> None:
    (near,) = read("2*x ~ 5 +- 0.1", "y ~ 1 ± 2")["x"]
    assert near.mean.tolist() == [2.5, 1.0, 0.0]
    assert near.sd.tolist() == [0.05, 2.0, math.inf]


def test_two_soft_statements_about_one_column_both_count() -> None:
    first, second = read("x ~ 1 +- 1", "x ~ 2 +- 0.5")["x"]
    assert (first.mean[0], second.mean[0]) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("statement", "want"),
    [
        ("label in {3, 8}", (2, 3)),
        ("label in [cat, dog]", (0, 1)),
        ("label not in {cat}", (1, 2, 3)),
        ("label != 'cat'", (1, 2, 3)),
        ("label in {0, cat, dog}", (0, 1)),
    ],
)
def test_categories_go_by_name_or_number(statement: str, want: tuple[int, ...]) -> None:
    (piece,) = read(statement)["label"]
    assert isinstance(piece, OneOf)
    assert piece.values == want


def test_a_single_category_is_known() -> None:
    (piece,) = read("label = dog")["label"]
    assert isinstance(piece, Known)
    assert piece.value == 1


def test_entries_go_by_number_and_statements_by_semicolon() -> None:
    found = parse("x[1] <= 2; x[0] = 1\n", {"x": ["a", "b"]})["x"]
    assert [p.kind for p in found] == ["known", "within"]


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("z >= 1", "unknown column 'z'"),
        ("`sepal lenght` >= 1", "Did you mean 'sepal length'"),
        ("x * y >= 1", "not linear"),
        ("x ** 2 >= 1", "only numbers|not linear"),
        ("__import__('os').system('true') >= 1", "only numbers"),
        ("x >=", "cannot be read"),
        ("x + 1", "expected a comparison"),
        ("x / 0 >= 1", "division by zero"),
        ("x + y ~ 1 +- 1", "exactly one column"),
        ("1 <= 2", "no column"),
        ("x != 1", "only =, <=, >="),
        ("x ~ 1", "mean \\+- sd"),
        ("x ~ 1 +- -1", "positive"),
        ("label >= 1", "categorical"),
        ("label in {cow}", "unknown value of 'label'"),
        ("label + x >= 1", "categorical"),
        ("x[7] >= 1", "entries 0 to 2"),
        ("1e999 <= x", "finite"),
        ("x in {1, 2}", "only =, <=, >="),
        ("True <= x", "only numbers"),
    ],
)
def test_statements_that_mean_nothing_say_why(statement: str, says: str) -> None:
    with pytest.raises(EvidenceError, match=says) as caught:
        read(statement)
    assert statement in str(caught.value)


def test_contradictions_between_statements_are_found() -> None:
    for statements in (["x = 1", "x = 2"], ["x >= 2", "x <= 1"], ["label = cat", "label = dog"]):
        with pytest.raises(EvidenceError):
            read(*statements)


def test_object_form_reads_columns_boxes_and_statements() -> None:
    data = {
        "x": 1.5,
        "y": [None, 4],
        "sepal length": {"near": 2, "sd": 0.5, "min": 0},
        "label": ["cat", 8],
        "where": ["2*x >= y"],
    }
    found = parse(data, COLUMNS, LABELS)
    assert [p.kind for p in found["x"]] == ["known", "near", "within", "halfspace"]
    assert found["x"][2].upper.tolist() == [math.inf, 4.0, math.inf]
    assert found["label"][0].values == (0, 3)


def test_a_row_with_nulls_is_partially_known() -> None:
    (known,) = parse({"pose": [1.0, None, 3.0]}, {"pose": ["a", "b", "c"]})["pose"]
    assert known.mask.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "data", [{"x": "three"}, {"x": True}, {"y": [1, 2, 3]}, {"x": {"near": 1}}, {"x": {"nera": 1}}, {"q": 1}, 7, [3]]
)
def test_malformed_objects_are_refused(data: Any) -> None:
    with pytest.raises(EvidenceError):
        parse(data, COLUMNS, LABELS)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_either_parses_or_raises_our_error(text: str) -> None:
    with contextlib.suppress(EvidenceError):
        parse(text, COLUMNS, LABELS)


PIECES = {
    "x": (
        Known([1.0, float("nan"), 3.0], [1, 0, 1]),
        Near([0.0, 1.0, 2.0], [1.0, math.inf, 2.0], weight=0.5),
        Within([0.0, -math.inf, -math.inf], [1.0, 2.0, math.inf]),
        HalfSpace([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]], [0.5, -1.0]),
    ),
    "label": (OneOf({3, 1}),),
}


@pytest.mark.parametrize("ending", ["json", "npz"])
def test_files_bring_back_what_was_saved(ending: str, tmp_path: Path) -> None:
    path = files.save(tmp_path / f"question.{ending}", PIECES)
    back = files.load(path)
    assert list(back) == list(PIECES)
    for name, pieces in PIECES.items():
        for want, got in zip(pieces, back[name], strict=True):
            assert type(got) is type(want)
            for field, value in want.arrays().items():
                assert np.array_equal(got.arrays()[field], value), (name, field)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_saved_json_is_strict_json() -> None:
    text = json.dumps(ev.to_json(PIECES), allow_nan=False)
    assert ev.from_json(json.loads(text))["label"][0].values == (1, 3)


def test_plain_arrays_in_npz_are_a_question(tmp_path: Path) -> None:
    path = tmp_path / "plain.npz"
    np.savez(path, x=np.array([1.0, np.nan]), x_lower=np.array([-np.inf, 0.0]), label=np.array(3))
    found = files.load(path)
    assert [p.kind for p in found["x"]] == ["known", "within"]
    assert found["x"][0].mask.tolist() == [True, False]
    assert found["label"][0].value == 3


@pytest.mark.parametrize("name", ["missing.json", "broken.json", "broken.npz", "pickled.npz"])
def test_unreadable_files_raise_our_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.npz").write_bytes(b"PK broken")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    with pytest.raises(EvidenceError, match=name.replace(".", r"\.")):
        files.load(tmp_path / name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Known([1.0, math.nan]),
        lambda: Known([1.0, math.nan], [1, 1]),
        lambda: Known([1.0, 2.0], [1, 0, 1]),
        lambda: Known([1.0], [2.0]),
        lambda: Known("cat", None) and Known(object()),
        lambda: Near(0.0, 0.0),
        lambda: Near(0.0, -1.0),
        lambda: Near(math.inf, 1.0),
        lambda: Near([0.0, 1.0], [1.0, 1.0, 1.0]),
        lambda: Near(0.0, 1.0, weight=-1),
        lambda: Within(1.0, 0.0),
        lambda: Within(math.inf, math.inf),
        lambda: Within(math.nan, 1.0),
        lambda: HalfSpace([[1.0, 2.0]], [1.0, 2.0]),
        lambda: HalfSpace(1.0),
        lambda: HalfSpace([math.inf, 1.0]),
        lambda: OneOf([]),
        lambda: OneOf([1.5]),
        lambda: Within(1j, 2),
    ],
)
def test_malformed_pieces_are_refused_on_the_spot(make: Any) -> None:
    with pytest.raises(EvidenceError):
        make()


def test_unknown_entries_may_hold_anything() -> None:
    known = Known([1.0, math.nan, math.inf], [True, False, False])
    assert torch.isfinite(known.value).all()


def test_normalise_reads_plain_values_and_names_the_nearest_site() -> None:
    found = ev.normalise({"x": 2.0, "label": {3}, "y": [1.0, 2.0]})
    assert [type(p[0]) for p in found.values()] == [Known, OneOf, Known]
    with pytest.raises(EvidenceError, match="Did you mean 'label'"):
        ev.normalise({"lable": 3}, sites=["x", "label"])
    with pytest.raises(EvidenceError):
        ev.normalise([1.0])  # type: ignore[arg-type]


def test_infinite_weight_is_plainly_hard() -> None:
    assert Within(0.0, 1.0, weight=math.inf).weight == 1.0
