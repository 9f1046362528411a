"""Looking at Pyro programs from outside: what draws depend on, and which sites are points."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor


def is_delta(fn: Any) -> bool:
    """Say whether a distribution is a point mass, under whatever wrapping."""
    while not isinstance(fn, dist.Delta) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def draw_sites(
    program: Callable[..., Any], batch: Mapping[str, Any], names: Collection[str], seed: int = 0
) -> dict[str, Tensor]:
    """Run a program once under a seed and return some of its sites; the random state stays as it was."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        nodes: dict[str, Any] = poutine.trace(program).get_trace(**batch).nodes
    return {name: nodes[name]["value"] for name in names if name in nodes}


def sites_that_follow_data(program: Callable[..., Any], batch: Mapping[str, Any], names: Collection[str]) -> set[str]:
    """Find the sites whose draws change with the data although the random numbers stay the same.

    Args:
        program: a Pyro program, a guide for one.
        batch: its arguments; floating-point tensors are shifted, others filled with their first entry.
        names: the sites to look at.
    """
    plain = draw_sites(program, batch, names)
    found: set[str] = set()
    for key, value in batch.items():
        if not isinstance(value, Tensor) or value.numel() == 0 or value.dtype == torch.bool:
            continue
        changed = value + value.abs().mean() + 1 if value.is_floating_point() else value.flatten()[:1].expand_as(value)
        try:
            other = draw_sites(program, {**batch, key: changed}, names)
        except Exception:  # it looks at the data so closely that other data break it
            return set(names)
        found |= {name for name in plain if name not in other or not torch.equal(plain[name], other[name])}
    return found
