"""Summed densities equal the sums of Pyro's densities, values and gradients, whatever is broadcast."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from phlogiston.distributions.masked import MaskedBernoulli, MaskedNormal
from phlogiston.distributions.presampled import PreSampled
from phlogiston.distributions.stick_count import StickCount
from phlogiston.inference.svi.densities import is_reparameterised, kl_sum, log_prob_sum, stacked_log_probs

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4))
WIDE = st.sampled_from(["full", "row", "one"])


def parameter(shape: tuple[int, int], wide: str, seed: int) -> Tensor:
    size = {"full": shape, "row": shape[1:], "one": ()}[wide]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()


def site_of(fn: Any, value: Tensor, scale: float = 1.0) -> Any:
    def program() -> None:
        with poutine.scale(scale=scale):
            pyro.sample("x", fn, obs=value)

    return poutine.trace(program).get_trace().nodes["x"]


def assert_same(one: Tensor, other: Tensor, wrt: list[Tensor]) -> None:
    assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(
        torch.autograd.grad(one, wrt, retain_graph=True), torch.autograd.grad(other, wrt), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(SHAPES, WIDE, WIDE, st.booleans(), st.sampled_from([1.0, 2.5]))
def test_normal_sums_equal_pyros(shape: tuple[int, int], loc: str, scale: str, event: bool, weight: float) -> None:
    mean, log_scale = parameter(shape, loc, 0), parameter(shape, scale, 1)
    value = parameter(shape, "full", 2)
    fn = dist.Normal(mean, log_scale.exp()).expand(list(shape))
    fn = fn.to_event(1) if event else fn
    assert_same(log_prob_sum(site_of(fn, value, weight)), weight * fn.log_prob(value).sum(), [mean, log_scale, value])


@settings(deadline=None, max_examples=40)
@given(SHAPES, WIDE, st.booleans(), st.booleans())
def test_bernoulli_sums_equal_pyros(shape: tuple[int, int], wide: str, event: bool, by_probs: bool) -> None:
    logits = parameter(shape, wide, 3)
    fn = dist.Bernoulli(probs=logits.sigmoid()) if by_probs else dist.Bernoulli(logits=logits)
    fn = fn.expand(list(shape)).to_event(1) if event else fn.expand(list(shape))
    value = (parameter(shape, "full", 4) > 0).double()
    assert_same(log_prob_sum(site_of(fn, value)), fn.log_prob(value).sum(), [logits])


def test_values_that_broadcast_are_counted_as_often_as_pyro_counts_them() -> None:
    fn = dist.Normal(torch.zeros(5, 3), torch.ones(5, 3))
    value = torch.randn(3)
    assert torch.allclose(log_prob_sum(site_of(fn, value)), fn.log_prob(value).sum())
    wide = dist.Normal(torch.zeros(3), torch.ones(3))
    many = torch.randn(5, 3)
    assert torch.allclose(log_prob_sum(site_of(wide, many)), wide.log_prob(many).sum())


@pytest.mark.parametrize("mask", [True, False, torch.tensor([True, False, True])])
def test_masks_are_respected(mask: Any) -> None:
    fn = dist.Normal(torch.zeros(3), torch.ones(3))
    value = torch.randn(3)
    site = site_of(fn.mask(mask), value)
    assert torch.allclose(log_prob_sum(site), site["fn"].log_prob(value).sum())
    site = site_of(fn, value)
    site["mask"] = mask
    assert torch.allclose(log_prob_sum(site), torch.where(torch.as_tensor(mask), fn.log_prob(value), 0.0).sum())


def test_a_distribution_that_validates_still_refuses_bad_values() -> None:
    fn = dist.Bernoulli(logits=torch.zeros(2), validate_args=True)
    site = site_of(dist.Bernoulli(logits=torch.zeros(2)), torch.zeros(2))
    site["fn"], site["value"] = fn, torch.tensor([0.5, 0.0])
    with pytest.raises(ValueError, match="support"):
        log_prob_sum(site)


@settings(deadline=None, max_examples=40)
@given(SHAPES, WIDE, WIDE)
def test_summed_divergences_of_normals_equal_torchs(shape: tuple[int, int], loc: str, scale: str) -> None:
    wrt = [parameter(shape, loc, 5), parameter(shape, scale, 6), parameter(shape, scale, 7), parameter(shape, loc, 8)]
    p = dist.Normal(wrt[0], wrt[1].exp()).expand(list(shape)).to_event(1)
    q = dist.Normal(wrt[3], wrt[2].exp()).expand(list(shape)).to_event(1)
    ours = kl_sum(p, q)
    assert ours is not None
    assert_same(ours, kl_divergence(p, q).sum(), wrt)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("prior", [(5, 3), (3,), (1,), ()])
def test_divergences_from_priors_that_broadcast_equal_torchs_to_the_second_derivative(
    prior: tuple[int, ...], trained: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    wrt = [torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
    more = [torch.randn(prior, generator=generator, dtype=torch.float64).requires_grad_(trained) for _ in range(2)]
    wrt_all = wrt + (more if trained else [])

    def divergences() -> tuple[Tensor, Tensor]:
        pair = [dist.Normal(loc, log_scale.exp()) for loc, log_scale in (wrt, more)]
        ours = kl_sum(*pair)
        assert ours is not None
        pair = [dist.Normal(loc, log_scale.exp()) for loc, log_scale in (wrt, more)]
        return ours, kl_divergence(*pair).sum()

    assert_same(*divergences(), wrt_all)
    slopes = [torch.cat(torch.autograd.grad(whole, wrt, create_graph=True)) for whole in divergences()]
    assert_same(*[(slope**3).sum() for slope in slopes], wrt_all)


def test_pairs_without_a_rule_are_left_to_torch() -> None:
    normal = dist.Normal(torch.zeros(2), torch.ones(2))
    assert kl_sum(normal, dist.Laplace(torch.zeros(2), torch.ones(2))) is None
    assert kl_sum(normal, dist.Normal(torch.zeros(3, 2), torch.ones(3, 2))) is None


def test_only_draws_that_carry_the_whole_gradient_count_as_reparameterised() -> None:
    def latent(fn: Any) -> Any:
        return poutine.trace(lambda: pyro.sample("z", fn)).get_trace().nodes["z"]

    assert is_reparameterised(latent(dist.Normal(0.0, 1.0)))
    assert is_reparameterised(latent(dist.Normal(torch.zeros(2), 1.0).to_event(1)))
    assert not is_reparameterised(latent(dist.Bernoulli(0.5)))
    detached = dist.Normal(0.0, 1.0)
    detached.has_rsample = False
    assert not is_reparameterised(latent(detached))
    assert not is_reparameterised(latent(dist.Normal(0.0, 1.0).mask(torch.tensor(False))))


def _sites(kind: str) -> list[Any]:
    torch.manual_seed(0)
    mask = [torch.rand(3, 2, 1) < 0.6 for _ in range(3)]
    if kind == "normal":
        one = torch.randn(4)
        fns = [MaskedNormal(one, torch.rand(3, 2, 4) + 0.5, m, 2) for m in mask]
    elif kind == "one prior for all":
        one = torch.randn(4)
        fns = [MaskedNormal(one, one.exp(), m, 2) for m in mask]
    elif kind == "unlike priors":
        fns = [MaskedNormal(torch.randn(4), torch.rand(4) + 0.1, m, 2) for m in mask]
    elif kind == "coins":
        fns = [MaskedBernoulli(torch.randn(3, 2), m.squeeze(-1)) for m in mask]
    elif kind == "categories":
        fns = [dist.Categorical(logits=torch.randn(3, 4)) for _ in mask]
    elif kind == "counts":
        fns = [StickCount(torch.randn(3, 2), torch.randint(0, 3, (3,))) for _ in mask]
    else:
        bases = [MaskedNormal(torch.randn(3, 2, 4), torch.rand(4) + 0.1, m, 2) for m in mask]
        fns = [PreSampled(base, base.sample()) for base in bases]
    return [{"fn": fn, "value": fn.sample(), "mask": None, "scale": 1.0, "args": (), "kwargs": {}} for fn in fns]


@pytest.mark.parametrize(
    "kind", ["normal", "one prior for all", "unlike priors", "coins", "categories", "counts", "drawn before"]
)
def test_densities_computed_together_are_those_computed_one_by_one(kind: str) -> None:
    with pyro.validation_enabled(False):
        sites = _sites(kind)
        ((group, found),) = stacked_log_probs(sites)
        assert len(group) == 3
        torch.testing.assert_close(found, torch.stack([site["fn"].log_prob(site["value"]) for site in sites]))


def test_gradients_of_densities_computed_together_ignore_what_does_not_count() -> None:
    torch.manual_seed(0)
    masks = [torch.rand(3, 2, 1) < 0.6 for _ in range(3)]
    locs, values = ([torch.randn(3, 2, 4).double() for _ in masks] for _ in range(2))
    scales = [torch.rand(3, 2, 4).double() + 0.5 for _ in masks]
    one, wide = torch.randn(4).double(), torch.rand(4).double() + 0.5
    for loc, scale in ((locs, scales), ([one] * 3, [wide] * 3), ([locs[0], one, one], scales)):
        inputs = [t.requires_grad_() for t in {id(t): t for t in (*loc, *scale, *values)}.values()]
        fns = [MaskedNormal(*part, 2, validate_args=False) for part in zip(loc, scale, masks, strict=True)]
        weight = torch.rand(3, 3).double()
        apart = torch.stack([fn.log_prob(value) for fn, value in zip(fns, values, strict=True)])
        expected = torch.autograd.grad((weight * apart).sum(), inputs)
        with torch.no_grad():
            for tensor, mask in zip(values, masks, strict=True):
                tensor.masked_fill_(~mask, torch.nan)
        together = MaskedNormal.stack_log_prob(fns, values)
        assert together is not None
        torch.testing.assert_close(torch.autograd.grad((weight * together).sum(), inputs), expected)
        with torch.no_grad():
            for tensor, mask in zip(values, masks, strict=True):
                tensor.masked_fill_(~mask, 0.0)


def test_sites_that_differ_are_left_alone() -> None:
    with pyro.validation_enabled(False):
        masked, scaled, shaped = _sites("normal")
        masked["mask"], scaled["scale"] = torch.ones(3, dtype=torch.bool), 2.0
        other = MaskedNormal(torch.zeros(3, 2, 5), torch.ones(()), torch.ones(3, 2, 1, dtype=torch.bool), 2)
        other_site = {**shaped, "fn": other, "value": other.sample()}
        assert stacked_log_probs([masked, scaled, shaped, other_site]) == []
