"""Noise that belongs to rows: a function of the row alone, and as random as noise should be."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from phlogiston.inference.svi.row_noise import normal, row_keys, uniform

ROWS = torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(0))


def unsigned(value: int) -> int:
    return value & (2**64 - 1)


def splitmix(state: int) -> int:
    """SplitMix64's finaliser in plain Python."""
    state = unsigned((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9)
    state = unsigned((state ^ (state >> 27)) * 0x94D049BB133111EB)
    return state ^ (state >> 31)


@pytest.mark.parametrize("key", [0, 1, -1, 2**62, -(2**63)])
def test_numbers_are_those_of_splitmix64(key: int) -> None:
    found = uniform(torch.tensor([key]), 4, stream=2, dtype=torch.float64)[0]
    start = splitmix(unsigned(key + 3 * 0x94D049BB133111EB))
    wanted = [splitmix(unsigned(start + i * 0x9E3779B97F4A7C15)) >> 12 for i in range(1, 5)]
    assert found.tolist() == [(word + 0.5) / 2**52 for word in wanted]


def test_a_rows_noise_depends_on_the_row_alone() -> None:
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    keys = row_keys(ROWS, seed=3)
    assert torch.equal(row_keys(ROWS[order], seed=3), keys[order])
    assert torch.equal(torch.cat([row_keys(row[None], seed=3) for row in ROWS]), keys)
    assert torch.equal(row_keys(ROWS.double(), seed=3), keys)
    valid = torch.arange(9) < torch.randint(1, 6, (40, 1), generator=torch.Generator().manual_seed(2))
    padded = torch.cat([ROWS, torch.zeros(40, 4, 3)], 1)
    other = torch.where(valid.unsqueeze(-1), padded, 7.0)
    assert torch.equal(row_keys(padded, valid=valid), row_keys(other, valid=valid))
    assert torch.equal(row_keys(padded, valid=valid), row_keys(padded[:, :5], valid=valid[:, :5]))
    assert torch.equal(row_keys(torch.zeros(1, 2)), row_keys(-torch.zeros(1, 2)))
    few, many = normal(keys[:7], 3, stream=1), normal(keys, 3, stream=1)
    assert torch.equal(few, many[:7])


def test_different_rows_and_seeds_have_different_noise() -> None:
    near = ROWS[:1].repeat(15, 1, 1)
    near.view(15, -1)[torch.arange(15), torch.arange(15)] += 1e-6
    swapped = ROWS[:1].flip(1)
    keys = torch.cat([row_keys(near), row_keys(swapped), row_keys(ROWS[:1], seed=1), row_keys(ROWS[:1, :4])])
    assert len(keys.unique()) == len(keys)


def test_noise_is_uniform_and_normal_and_independent() -> None:
    """By Kolmogorov and Smirnov, and by correlations of rows, entries and streams; all seeds are fixed."""
    keys = row_keys(torch.arange(400.0).unsqueeze(1))
    draws = uniform(keys, 50)
    assert float(draws.min()) > 0
    assert float(draws.max()) < 1
    assert stats.kstest(draws.flatten().numpy(), "uniform").pvalue > 1e-3
    z = normal(keys, 50)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    other = normal(keys, 50, stream=1)
    for a, b in ((z[:-1], z[1:]), (z[:, :-1], z[:, 1:]), (z, other), (z, normal(row_keys(keys.double()[:, None]), 50))):
        assert abs(float((a * b).mean())) < 5 / (a.numel() ** 0.5)
