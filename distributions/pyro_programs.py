"""Examining Pyro programs from outside: what draws depend on, and which sites are points; running layers whose weights
are random for many particles at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.overrides import TorchFunctionMode


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
        names: the sites to examine.
    """
    plain = draw_sites(program, batch, names)
    result: set[str] = set()
    for key, value in batch.items():
        if not isinstance(value, Tensor) or value.numel() == 0 or value.dtype == torch.bool:
            continue
        changed = value + value.abs().mean() + 1 if value.is_floating_point() else value.flatten()[:1].expand_as(value)
        try:
            other = draw_sites(program, {**batch, key: changed}, names)
        except Exception:  # it depends on the data so much that other data break it
            return set(names)
        result |= {name for name in plain if name not in other or not torch.equal(plain[name], other[name])}
    return result


def count_rows_once(trace: Any) -> None:
    """Take back the factor by which plates over some of their rows scale densities up to all of them.

    Training wants the loss of all rows; a query is about the rows given.

    Args:
        trace: of a program, before its densities are computed; changed in place.
    """
    for site in trace.nodes.values():
        if site["type"] == "sample":
            for frame in site["cond_indep_stack"]:
                if frame.full_size and frame.size > 0 and frame.full_size != frame.size:
                    site["scale"] = site["scale"] * frame.size / frame.full_size


class RandomLayers(TorchFunctionMode):
    """Lets linear layers whose weights a program draws (`PyroSample`) take those of many particles at once.

    Under a plate of particles such a weight has shape (particles, 1, ..., 1, out, in), with a one for each of the
    program's own plates; `torch.nn.functional.linear` has two axes. Inputs are (..., in), the axes before the last
    those of the plates, with or without particles.

    Args:
        nesting: how many batch axes the program's own plates take.
    """

    def __init__(self, nesting: int) -> None:
        super().__init__()
        self.nesting = nesting

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace linear layers with batches of weights; everything else runs as it is."""
        given = kwargs or {}
        if func is torch.nn.functional.linear:
            values = dict(zip(("input", "weight", "bias"), args, strict=False)) | given
            if values["weight"].dim() == self.nesting + 3:
                return self._linear(values["input"], values["weight"], values.get("bias"))
        return func(*args, **given)

    def _linear(self, value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        axes = self.nesting + 1
        # batch axes of the input, filled up from the left, then one axis that the matrix product consumes
        wide = value.reshape(*(1,) * (axes + 1 - value.dim()), *value.shape).unsqueeze(-2)
        result = (wide @ weight.transpose(-1, -2)).squeeze(-2)
        if bias is None:
            return result
        return result + bias.reshape(*(1,) * (axes + 1 - bias.dim()), *bias.shape)
