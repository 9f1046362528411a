"""The synthetic script: a pen that follows points smoothly, three hands, and a reader that knows shapes only."""

from __future__ import annotations

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.base import Array
from phlogiston.datasets.generated import pen, script
from phlogiston.datasets.generated.script_hands import HANDS, MANNERS
from phlogiston.datasets.readers import script_reader
from phlogiston.datasets.readers.sequences import strokes_of
from phlogiston.errors import DataError, UnknownNameError

# ---- the pen


def circle(radius: float, count: int = 36) -> Array:
    angle = np.linspace(0.0, 2 * np.pi, count + 1)
    return radius * np.column_stack([np.cos(angle), np.sin(angle)])


def follow(points: Array, spacing: float = 0.2, corners: tuple[int, ...] = ()) -> pen.Traced:
    corner, first = np.zeros(len(points), bool), np.zeros(len(points), bool)
    corner[list(corners)] = True
    first[0] = True
    return pen.trace(points, corner, first, spacing)


def test_between_points_it_is_the_spline_of_barry_and_goldman() -> None:
    """Their pyramid of linear interpolations with centripetal knots, written out."""
    p = np.array([[0.0, 0.0], [0.3, 1.0], [1.0, 0.8], [1.4, -0.2]])
    t = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1) ** 0.5)])

    def between(a: Array, b: Array, i: int, j: int, at: Array) -> Array:
        w = ((at - t[i]) / (t[j] - t[i]))[:, None]
        return (1 - w) * a + w * b

    at = np.linspace(t[1], t[2], pen._FINE + 1)
    a1, a2, a3 = (between(p[i], p[i + 1], i, i + 1, at) for i in range(3))
    expected = between(between(a1, a2, 0, 2, at), between(a2, a3, 1, 3, at), 1, 2, at)
    found, _ = pen._curve(p, np.arange(3))
    np.testing.assert_allclose(found[1], expected, atol=1e-12)


@pytest.mark.parametrize("radius", [0.25, 0.5, 0.8])
def test_it_slows_down_in_bends_by_the_third_root_of_the_curvature(radius: float) -> None:
    """On a circle the curvature is 1 / radius everywhere; at 2 the pen makes one step of the spacing."""
    points = follow(circle(radius), spacing=0.05).points
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), radius, rtol=2e-3)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    assert np.median(steps) == pytest.approx(0.05 * (2.0 * radius) ** (1 / 3), rel=0.02)


def test_corners_and_ends_are_sampled_and_what_lies_between_is_straight() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    traced = follow(points, corners=(1,))
    for point in points:
        assert np.linalg.norm(traced.points - point, axis=1).min() < 1e-9
    assert np.minimum(np.abs(traced.points[:, 1]), np.abs(traced.points[:, 0] - 1.0)).max() < 1e-9
    assert np.linalg.norm(follow(points).points - points[1], axis=1).min() < 0.2, "rounded without a corner"


def test_strokes_keep_to_themselves() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0], [0.6, 1.0], [2.0, 2.0], [2.0, 3.0]])
    first = np.array([True, False, True, False, True, False])
    traced = pen.trace(points, np.zeros(6, bool), first, 0.1)
    for k in range(3):
        own = traced.points[traced.stroke == k]
        np.testing.assert_allclose(own[[0, -1]], points[2 * k : 2 * k + 2], atol=1e-9)
    assert traced.nearest[[0, -1]].tolist() == [0, 5]


# ---- the script


def test_a_line_does_not_depend_on_how_many_were_asked_for() -> None:
    few, many = datasets.load("script", sizes=(3, 1, 1)), datasets.load("script", sizes=(9, 2, 2))
    for name, value in few.train.tensors.items():
        assert bool((value == many.train.tensors[name][:3]).all()), name


def test_every_point_belongs_to_a_letter_of_the_text_in_order() -> None:
    data = datasets.load("script", sizes=(40, 1, 1)).train.tensors
    for text, position, length in zip(data["text"], data["position"], data["length"], strict=True):
        place = position[: int(length)]
        assert bool((place.diff() >= 0).all())
        letters = [i for i, c in enumerate(text.tolist()) if c > 0]
        assert place.unique().tolist() == letters, "every letter is drawn, spaces are not"


def test_slant_is_what_it_says() -> None:
    """An upright l leans by the slant: from its foot to its top, x changes by slant times the height."""
    for slant in (-0.3, 0.0, 0.4):
        row, _ = script.write("l", slant=slant)
        points = np.cumsum(row[:, :2], 0)
        top, middle = points[0], points[2]
        assert (top - middle)[0] / -(top - middle)[1] == pytest.approx(slant, abs=1e-6)


def test_words_of_the_cursive_hand_are_joined_and_those_of_the_others_are_not() -> None:
    """Only dots and bars lift the pen; after one it comes back to where the letter ended."""
    counts = {hand: len(strokes_of(script.write("hello world", hand=hand)[0])) for hand in HANDS}
    assert counts == {"print": 10, "cursive": 2, "round": 10}
    hit = strokes_of(script.write("hit", hand="cursive")[0])
    assert len(hit) == 4, "h and i, the dot, the way to t and t, the bar"
    np.testing.assert_allclose(hit[2][0], hit[0][-1], atol=1e-9)


def test_the_hands_differ_as_they_say() -> None:
    """Round letters are wider for their height than printed ones; cursive leans most; sizes of letters are theirs."""
    extent = {}
    for hand in HANDS:
        points = np.cumsum(script.write("o", hand=hand)[0][:, :2], 0)
        extent[hand] = np.ptp(points, axis=0)
    assert extent["round"][1] == pytest.approx(MANNERS["round"].size, rel=0.05)
    assert extent["print"][1] == pytest.approx(1.0, rel=0.05)
    assert extent["round"][0] / extent["round"][1] > 1.3 * extent["print"][0] / extent["print"][1]
    only = datasets.load("script", sizes=(6, 1, 1), hands=("cursive",)).train
    assert set(only.numpy("hand").tolist()) == {HANDS.index("cursive")}
    assert only.numpy("style")[:, 0].min() > 0.29
    with pytest.raises(UnknownNameError, match="cursiv"):
        datasets.load("script", sizes=(1, 1, 1), hands=("cursiv",))
    with pytest.raises(DataError, match="hands is empty"):
        datasets.load("script", sizes=(1, 1, 1), hands=())


@pytest.mark.parametrize("hand", ["print", "round"])
def test_bends_are_sampled_closely_enough_to_look_round(hand: str) -> None:
    """From point to point the way around an o turns by less than 35 degrees, nearly everywhere."""
    step = np.diff(strokes_of(script.write("o", hand=hand)[0])[0], axis=0)
    turn = np.abs(np.angle(np.exp(1j * np.diff(np.arctan2(step[:, 1], step[:, 0])))))
    assert np.degrees(np.quantile(turn, 0.9)) < 35


# ---- the reader


def test_the_reader_reads_what_was_written_and_in_which_hand() -> None:
    data = datasets.load("script", sizes=(18, 1, 1)).train
    found, hands, slants = [], [], []
    for x, text, length in zip(data.numpy(), data.tensors["text"], data.tensors["length"], strict=True):
        true = "".join(script.ALPHABET[c] for c in text.tolist() if c >= 0)
        read = script_reader.reading(x, int(length))
        found.append(script_reader.recovered(read.text, true))
        hands.append(read.hand)
        slants.append(read.slant)
    assert np.mean(found) > 0.95
    assert hands == [HANDS[i] for i in data.numpy("hand")]
    np.testing.assert_allclose(slants, data.numpy("style")[:, 0], atol=0.2)


def test_the_reader_does_not_read_what_was_not_written() -> None:
    """Shuffled points are no letters."""
    data = datasets.load("script", sizes=(12, 1, 1)).train
    random = np.random.default_rng(0)
    found = []
    for x, text, length in zip(data.numpy(), data.tensors["text"], data.tensors["length"], strict=True):
        true = "".join(script.ALPHABET[c] for c in text.tolist() if c >= 0)
        found.append(script_reader.recovered(script_reader.read(random.permutation(x[: int(length)])), true))
    assert np.mean(found) < 0.4


def test_a_character_outside_the_alphabet_is_named() -> None:
    with pytest.raises(DataError, match=r"'\?' at position 2"):
        script.encode("he?lo")
    with pytest.raises(DataError, match="empty"):
        script.encode("")
