"""Distributions with entries that do not count, and counts by breaking a stick."""

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phlogiston.distributions.masked import MaskedBernoulli, MaskedNormal
from phlogiston.distributions.stick_count import StickCount
from phlogiston.errors import ShapeError


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_masked_normal_is_the_normal_of_the_entries_that_count(seed: int, flags: list[bool]) -> None:
    torch.manual_seed(seed)
    loc, scale, value = torch.randn(5, 3, 4).double(), torch.rand(5, 3, 4).double() + 0.1, torch.randn(5, 3, 4).double()
    mask = torch.tensor(flags).unsqueeze(-1)
    law = MaskedNormal(loc, scale, mask, 2)
    wanted = dist.Normal(loc, scale).log_prob(value)[:, flags].sum((1, 2))
    torch.testing.assert_close(law.log_prob(value), wanted)
    drawn = law.rsample()
    assert drawn.shape == (5, 3, 4)
    assert (drawn[:, [not f for f in flags]] == 0).all()


def test_one_scale_for_all_takes_a_faster_way_to_the_same_number() -> None:
    loc, value, scale = torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.tensor(0.3)
    fast = MaskedNormal(loc, scale, None, 2).log_prob(value)
    torch.testing.assert_close(fast, dist.Normal(loc, scale).to_event(2).log_prob(value))
    batch = MaskedNormal(loc, scale, None, 2).expand((7, 3))
    assert batch.log_prob(value).shape == (7, 3)
    assert batch.rsample().shape == (7, 3, 4, 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_stands_in_an_empty_place_touches_neither_value_nor_gradient(bad: float) -> None:
    loc = torch.tensor([[0.5, 1.0], [bad, bad]], requires_grad=True)
    scale = torch.tensor([[1.0, 2.0], [bad, 0.0]], requires_grad=True)
    logits = torch.tensor([0.3, bad], requires_grad=True)
    there = torch.tensor([True, False])
    normal: Any = MaskedNormal(loc, scale, there.unsqueeze(-1), 2)
    value = torch.tensor([[0.0, 0.0], [bad, 7.0]])
    coins = MaskedBernoulli(logits, there)
    total = normal.log_prob(value) + coins.log_prob(torch.tensor([1.0, 0.0])) + normal.rsample().sum()
    total.backward()
    assert torch.isfinite(total)
    for parameter in (loc, scale, logits):
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert (parameter.grad[1] == 0).all()
        assert (parameter.grad[0] != 0).any()


def test_masked_coins_show_tails_for_certain() -> None:
    law = MaskedBernoulli(torch.tensor([50.0, 50.0, 0.0]), torch.tensor([True, False, True]))
    drawn = law.sample(torch.Size([200]))
    assert (drawn[:, 0] == 1).all()
    assert (drawn[:, 1] == 0).all()
    assert 60 < drawn[:, 2].sum() < 140
    assert law.log_prob(torch.tensor([1.0, 1.0, 0.0])) == -math.inf
    assert not law.has_rsample
    with pytest.raises(ShapeError):
        MaskedNormal(torch.zeros(3), torch.ones(3), None, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 4))
def test_the_stick_is_used_up_whatever_the_capacity(seed: int, steps: int, room: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(steps).double()
    law = StickCount(logits, torch.tensor(min(room, steps)))
    chance = law.log_prob(torch.arange(steps + 1)).exp()
    assert float(chance.sum()) == pytest.approx(1.0)
    assert (chance[min(room, steps) + 1 :] == 0).all()
    p = torch.sigmoid(logits)
    for n in range(min(room, steps) + 1):
        ends = 1.0 if n == min(room, steps) else 1 - p[n]
        assert float(chance[n]) == pytest.approx(float(p[:n].prod() * ends))


def test_counts_are_drawn_as_often_as_they_are_probable() -> None:
    law = StickCount(torch.tensor([[1.0, -0.5, 2.0], [math.nan, 0.0, 0.0]]), torch.tensor([2, 0]))
    drawn = law.sample(torch.Size([20_000]))
    share = torch.stack([(drawn[:, 0] == n).double().mean() for n in range(4)])
    torch.testing.assert_close(share, law.log_probs()[0].exp().double(), atol=0.015, rtol=0)
    assert (drawn[:, 1] == 0).all()
    assert law.log_prob(torch.tensor([0, 0]))[1] == 0.0
