"""Does a pair treat every particle as it would treat it alone? One look before rows are scored.

Scores run many particles at once along one more leading axis. A program that mixes them (`w.sum()` over everything, an
`if` on a value) has right shapes and wrong densities there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample

from phlogiston.distributions.pyro_programs import RandomLayers
from phlogiston.errors import ConfigError

_TOGETHER = 7


@torch.no_grad()
def check_particles(
    model: Callable[..., Any], guide: Callable[..., Any], batch: Mapping[str, Any], nesting: int
) -> None:
    """Run a few particles of a pair together and one of them alone, and compare the log densities of every site.

    Raises:
        ConfigError: naming the first site at which they differ.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain: Any = poutine.trace(guide).get_trace(**batch)
        with pyro.plate("alone_particles", _TOGETHER, dim=-nesting - 1), RandomLayers(nesting):
            proposed: Any = poutine.trace(guide).get_trace(**batch)
            target: Any = poutine.trace(poutine.replay(model, trace=proposed)).get_trace(**batch)
        values: dict[str, Any] = {}
        for name, site in _latent(proposed).items():
            shape = plain.nodes[name]["value"].shape if name in plain.nodes else None
            if shape is None or site["value"].numel() != _TOGETHER * shape.numel():
                raise ConfigError(f"site {name!r} of the guide is not vectorised over particles.")
            values[name] = site["value"][-1].reshape(shape)
        drawn = {n: v for n, v in values.items() if type(_base(proposed.nodes[n]["fn"])).__name__ != "Delta"}
        rows: dict[str, Any] = {
            n: s["value"] for n, s in plain.nodes.items() if s["type"] == "sample" and site_is_subsample(s)
        }
        _compare("guide", proposed, poutine.condition(guide, {**rows, **drawn}), batch, list(values))
        own = [name for name, site in target.nodes.items() if site["type"] == "sample" and site["is_observed"]]
        own += [name for name in values if name in target.nodes]
        latent = {name: value for name, value in values.items() if name in target.nodes}
        _compare("model", target, poutine.condition(model, {**rows, **latent}), batch, own)


def _latent(trace: Any) -> dict[str, Any]:
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }


def _base(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _compare(which: str, together: Any, alone: Callable[..., Any], batch: Mapping[str, Any], names: list[str]) -> None:
    together.compute_log_prob()
    one, again = (poutine.trace(alone).get_trace(**batch) for _ in range(2))
    one.compute_log_prob()
    again.compute_log_prob()
    for name in names:
        if name not in one.nodes or name not in again.nodes or "_deterministic" in together.nodes[name]["infer"]:
            continue
        single, repeated = _total(one.nodes[name]["log_prob"]), _total(again.nodes[name]["log_prob"])
        among = torch.as_tensor(together.nodes[name]["log_prob"])
        among = among[-1] if among.dim() and len(among) == _TOGETHER else among
        spread = float(torch.as_tensor(one.nodes[name]["log_prob"]).double().abs().sum())
        if single != repeated:  # the program is random beyond its sites
            continue
        if abs(_total(among) - single) > 1e-3 * (1 + abs(single)) + 1e-5 * spread:
            raise ConfigError(
                f"site {name!r} of the {which} is not vectorised over particles: the log density of one among "
                f"{_TOGETHER} is {_total(among):.6g}, and {single:.6g} alone. Index and sum from the right (w[..., 0], "
                f"x.sum(-1)): scoring runs several particles at once, along one more leading axis."
            )


def _total(log_prob: Any) -> float:
    return float(torch.as_tensor(log_prob).double().sum())
