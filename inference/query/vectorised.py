"""Is a program vectorised over particles? One look per question, before any answer is given.

Questions run model and guide under one more plate, to the left of all others. A program that mixes particles
(`weights @ inputs.T` without leading axes, a `sum()` over everything, `x[0]`, `len(z)`, an `if` on a value) gives
densities that are silently wrong there. So a few particles are run together and then each alone, in the program as its
author wrote it: shapes, sites and every site's log density must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from phlogiston.distributions.pyro_programs import count_rows_once
from phlogiston.errors import ConfigError, PhlogistonError
from phlogiston.inference.query.numerical_faults import retried
from phlogiston.inference.query.program import Program
from phlogiston.inference.query.proposals import LastSite, first_line
from phlogiston.inference.query.restriction import sum_per_particle

_ADVICE = (
    "A question runs several particles at once, along one more leading axis: index and sum from the right (w[..., 0], "
    "x.sum(-1), (X * w).sum(-1) for X @ w), declare independent entries in plates or by to_event, and "
    "use no `if`, len() or float() on a latent value."
)


@torch.no_grad()
def check_vectorised(program: Program) -> None:
    """Compare a few particles run together with each of them alone.

    Deterministic sites that differ are noted in `program.mixed`: nothing but themselves depends on them.

    Raises:
        ConfigError: naming the first site at which they differ, and how.
    """
    with torch.random.fork_rng():
        n = _unlike([*program.shapes.values(), *(v.shape for v in program.deterministic.values())])
        last = LastSite()
        try:
            with last:
                guide_trace, trace, _, _ = retried(lambda: program.traces(n, only_known=True))
        except PhlogistonError:
            raise
        except Exception as error:
            raise ConfigError(
                f"the program cannot run for several particles at once: it fails {last.where()}: {first_line(error)}. "
                f"{_ADVICE}"
            ) from error
        if guide_trace is not None:
            _check_guide(program, guide_trace, n)
        _check_model(program, trace, n)


def _unlike(shapes: list[torch.Size]) -> int:
    """A number of particles that is no axis of any site, so that mixed up axes show."""
    taken = {size for shape in shapes for size in shape}
    return next(n for n in (7, 11, 13, 17, 19, 23, 29, 31) if n not in taken or n == 31)


def _some(n: int) -> tuple[int, ...]:
    return 0, n // 2, n - 1


def _check_guide(program: Program, trace: Any, n: int) -> None:
    proposal = program.proposal
    own = (*proposal.drawn, *proposal.auxiliary)
    for name in (*own, *proposal.driven):
        _check_shape(program, "guide", name, trace.nodes[name], n)
    for k in _some(n):
        values = {name: trace.nodes[name]["value"][k].reshape(program.shapes[name]) for name in own}
        noise = {name: value[k] for name, value in _noise(trace).items() if name not in values and len(value) == n}
        alone = _Alone(proposal.guide, proposal.batch, noise | values, trace)
        for name in (*own, *proposal.driven):
            _compare("guide", name, trace.nodes[name], alone, k, n)
        for name in proposal.driven:
            value = trace.nodes[name]["value"][k].reshape(program.shapes[name])
            if not _close(value, alone.trace.nodes[name]["value"]):
                raise ConfigError(
                    f"site {name!r} of the guide is not vectorised over particles: its value for a particle among {n} "
                    f"is not the one it has alone. {_ADVICE}"
                )


def _noise(trace: Any) -> dict[str, Tensor]:
    """Auxiliary draws without a density of their own: a particle's other sites follow from them."""
    return {
        name: site["value"]
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and site["infer"].get("is_auxiliary") and site["value"].dim() > 0
    }


def _check_model(program: Program, trace: Any, n: int) -> None:
    sites = program.sample_sites(trace)
    for name, site in sites:
        _check_shape(program, "model", name, site, n)
    for k in _some(n):
        values = {
            name: site["value"][k].reshape(program.shapes[name])
            for name, site in sites
            if name in program.sites and name not in program.computed
        }
        alone = _Alone(program.model, program.batch, values, trace)
        extra = [name for name, _ in program.sample_sites(alone.trace) if name not in trace.nodes]
        if extra:
            raise ConfigError(
                f"the model comes to site {extra[0]!r} for a particle alone, but not for several at once: which sites "
                f"there are must not depend on values. {_ADVICE}"
            )
        for name, site in sites:
            _compare("model", name, site, alone, k, n)
        for name in program.deterministic:
            value = program.spread(trace.nodes[name]["value"], name, n)
            if value is None or not _close(value[k], alone.trace.nodes[name]["value"]):
                program.mixed.add(name)


def _close(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.allclose(one.double(), two.double(), rtol=1e-3, atol=1e-4, equal_nan=True)


def _check_shape(program: Program, which: str, name: str, site: Any, n: int) -> None:
    batch, axes = site["fn"].batch_shape, program.nesting + 1
    if len(batch) != axes or batch[0] != n:
        expected = f"{n}{', ...' if program.nesting else ','}"
        raise ConfigError(
            f"site {name!r} of the {which} is not vectorised over particles: for {n} of them its batch shape is "
            f"{tuple(batch)}, expected ({expected}) with {axes} axes. {_ADVICE}"
        )
    if name in program.shapes and site["value"].numel() != n * program.shapes[name].numel():
        raise ConfigError(
            f"site {name!r} of the {which} is not vectorised over particles: for {n} of them its value has shape "
            f"{tuple(site['value'].shape)}, for one {tuple(program.shapes[name])}. {_ADVICE}"
        )


class _Alone:
    """A program as its author wrote it, at given values, with the rows that plates chose."""

    def __init__(self, program: Any, batch: Mapping[str, Any], values: dict[str, Tensor], together: Any) -> None:
        rows = {
            name: site["value"]
            for name, site in together.nodes.items()
            if site["type"] == "sample" and site_is_subsample(site)
        }
        self.program, self.batch = ConditionMessenger({**rows, **values})(program), batch
        self.trace = self.run()

    def run(self) -> Any:
        """Trace the program."""
        with pyro.validation_enabled(False):
            trace = poutine.trace(self.program).get_trace(**self.batch)
            count_rows_once(trace)
            trace.compute_log_prob()
        return trace


def _total(site: Any) -> float:
    return float(torch.as_tensor(site["log_prob"]).double().sum())


def _compare(which: str, name: str, site: Any, alone: _Alone, k: int, n: int) -> None:
    if name not in alone.trace.nodes:
        raise ConfigError(
            f"the {which} comes to site {name!r} for several particles at once, but not for one alone: which sites "
            f"there are must not depend on values. {_ADVICE}"
        )
    node = alone.trace.nodes[name]
    one, among = _total(node), float(sum_per_particle(site["log_prob"], n)[k])
    spread = float(torch.as_tensor(node["log_prob"]).double().abs().sum())
    if among == one or (among != among and one != one) or abs(among - one) <= 1e-3 * (1.0 + abs(one)) + 1e-5 * spread:
        return
    again = alone.run().nodes.get(name)
    if again is None or _total(again) != one:
        return  # the program is random beyond its sites: there is nothing to compare
    raise ConfigError(
        f"site {name!r} of the {which} is not vectorised over particles: the log density of a particle among {n} is "
        f"{among:.6g}, and {one:.6g} alone. {_ADVICE}"
    )
