"""Jumper: the flights obey the game's rules, and `violation` measures how far others are from doing so."""

from __future__ import annotations

import numpy as np
import pytest

from phlogiston import datasets
from phlogiston.datasets.generated import jumper
from phlogiston.errors import DataError, ShapeError


def test_every_step_of_the_data_is_a_jump_or_a_fall() -> None:
    x = jumper.draw(3000, seed=1)
    y, v = jumper.heights(x), jumper.speeds(x)
    assert np.abs(np.diff(y, axis=1) - v[:, 1:]).max() < 1e-12
    jumped = np.isclose(v[:, 1:], 0.06, atol=1e-12)
    assert np.allclose(np.diff(v, axis=1)[~jumped], -0.01)
    assert jumper.violation(x).max() < 1e-12


def test_agents_always_jump_near_the_floor_never_near_the_ceiling_and_otherwise_at_their_rate() -> None:
    x = jumper.draw(20_000)
    before, jumped = jumper.heights(x)[:, :-1], np.isclose(jumper.speeds(x)[:, 1:], 0.06, atol=1e-12)
    # a fall from 0.07 looks like a jump; speeds never exceed 0.06 after the first step
    assert jumped[before < jumper.FLOOR].all()
    assert not jumped[before > jumper.CEILING].any()
    between = (before >= jumper.FLOOR) & (before <= jumper.CEILING)
    assert jumped[between].mean() == pytest.approx(0.11, abs=5 * (0.11 * 0.89 / between.sum()) ** 0.5)


def test_the_start_is_uniform_within_its_ranges() -> None:
    x = jumper.draw(20_000)
    for column, low, high in ((0, 0.1, 0.9), (jumper.STEPS, -0.05, 0.05)):
        share = (x[:, column] - low) / (high - low)
        assert 0 <= share.min() < share.max() <= 1
        assert np.histogram(share, 4, (0, 1))[0] / len(x) == pytest.approx(0.25, abs=0.016)


def test_the_first_rows_do_not_depend_on_how_many_were_asked_for_and_parts_differ() -> None:
    assert jumper.draw(7, seed=3).tobytes() == jumper.draw(1001, seed=3)[:7].tobytes()
    assert not np.allclose(jumper.draw(7, part="test"), jumper.draw(7))
    assert datasets.load("jumper", sizes=(9, 1, 1)).train.numpy().shape == (9, 64)


def test_violation_takes_the_nearer_of_the_two_updates() -> None:
    flight = np.zeros(64)
    flight[32:] = -0.01 * np.arange(32)
    flight[:32] = np.cumsum(flight[32:])
    assert jumper.violation(flight) == pytest.approx(0.0, abs=1e-12)
    moved = flight.copy()
    moved[31] += 0.003  # the last height alone: one of 31 steps is off
    assert jumper.violation(moved) == pytest.approx(0.003 / 31)
    jump = flight.copy()
    jump[63], jump[31] = 0.06, flight[30] + 0.06
    assert jumper.violation(jump) == pytest.approx(0.0, abs=1e-12)
    assert jumper.violation(np.stack([flight, moved])).shape == (2,)


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="three numbers"):
        datasets.load("jumper", sizes=(1, 2))
    with pytest.raises(ShapeError, match=r"\(3, 32\)"):
        jumper.violation(np.zeros((3, 32)))
