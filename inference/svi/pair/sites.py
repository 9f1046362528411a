"""Sites: one run of a pair before training, to list its sites and to refuse what cannot work."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution, TorchDistributionMixin
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.poutine.util import site_is_subsample
from pyro.util import check_site_shape
from torch import Tensor, nn

from phlogiston.errors import ConfigError, unknown_name
from phlogiston.inference.svi.handlers import DATA_PLATE, in_data_plate, is_subsampled

ROW_INDEX = "row_index"  # the argument by which programs receive the numbers of a batch's rows


@dataclass(frozen=True)
class Site:
    """A sample site of a model or guide.

    Attributes:
        name: its name.
        program: `"model"` or `"guide"`.
        observed: True if its value came from the data.
        local: True if it lies inside the plate over data points.
        reparameterised: True if gradients pass through its samples.
        depth: number of batch axes its plates reach to, counted from the right.
        auxiliary: True for a site the guide draws for its own use, which the model has no counterpart of.
        enumerated: `"parallel"` or `"sequential"` if it is marked for enumeration, else None.
        kind: class of its distribution.
        subsampled: True if the plate over data points stands for more rows than the batch holds.
    """

    name: str
    program: str
    observed: bool
    local: bool
    reparameterised: bool
    depth: int
    auxiliary: bool = False
    enumerated: str | None = None
    kind: str = "distribution"
    subsampled: bool = False


def run_pair(model: nn.Module, guide: nn.Module, batch: dict[str, Tensor]) -> tuple[Any, Any]:
    """Return the traces of the model, run on the guide's values, and of the guide."""
    get_traces = getattr(poutine.unwrap(guide), "get_traces", None)
    if get_traces is not None:  # a guide that runs the model itself
        with poutine.trace() as whole:
            guide(**batch)
        traces = get_traces()
        for trace in traces:  # it leaves out which rows the plates hold
            if DATA_PLATE in whole.trace.nodes and DATA_PLATE not in trace.nodes:
                trace.add_node(DATA_PLATE, **whole.trace.nodes[DATA_PLATE])
        return traces
    guide_trace = poutine.trace(guide).get_trace(**batch)
    return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**batch), guide_trace


def inspect(
    model: nn.Module,
    guide: nn.Module,
    batch: dict[str, Tensor],
    trained: Iterable[nn.Module] | None = None,
    shapes: bool = False,
) -> list[Site]:
    """Run guide and model once, without gradients, and list their sites (deterministic ones left out).

    This also creates parameters that modules make at their first call.

    Args:
        model: the generative program.
        guide: the inference program.
        batch: what both are called with.
        trained: modules whose parameters are trained, where these two are not all.
        shapes: whether to refuse a site whose log-density has axes that no plate accounts for. Only this look can see
            all of them: with particles or enumeration on an axis further left Pyro no longer checks those to its right.

    Raises:
        ConfigError: if the plate over data points subsamples by itself: batches are the engine's work; if a parameter
            belongs to neither program; and for a site of the wrong shape.
    """
    out = []
    with torch.no_grad(), pyro.validation_enabled(False):
        model_trace, guide_trace = run_pair(model, guide, batch)
    modules = (model, guide) if trained is None else trained
    check_parameters([p for module in modules for p in module.parameters()], (model_trace, guide_trace))
    for program, trace in (("model", model_trace), ("guide", guide_trace)):
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site) or site["infer"].get("_deterministic"):
                continue
            partial = next((frame for frame in site["cond_indep_stack"] if is_subsampled(frame)), None)
            if partial is not None and not _by_row_index(trace, batch):
                raise ConfigError(
                    f"the plate {DATA_PLATE!r} of the {program} has size {partial.full_size} and draws {partial.size} "
                    f"rows itself. The engine makes the batches: declare pyro.plate({DATA_PLATE!r}, number of rows in "
                    f"the batch); or, for parameters with an entry per row, take {ROW_INDEX!r} and declare "
                    f"pyro.plate({DATA_PLATE!r}, number of all rows, subsample={ROW_INDEX})."
                )
            if shapes:
                _check_shape(site, program)
            infer = site["infer"]
            depth = max((-frame.dim for frame in site["cond_indep_stack"] if frame.dim is not None), default=0)
            out.append(
                Site(
                    name=name,
                    program=program,
                    observed=bool(site["is_observed"]),
                    local=in_data_plate(site),
                    reparameterised=_reparameterised(site),
                    depth=depth,
                    auxiliary=bool(infer.get("is_auxiliary")),
                    enumerated=infer.get("enumerate"),
                    kind=type(innermost(site["fn"])).__name__,
                    subsampled=partial is not None,
                )
            )
    return out


def _by_row_index(trace: Any, batch: dict[str, Tensor]) -> bool:
    """Say whether the plate over data points holds just the rows the engine chose."""
    index, plate = batch.get(ROW_INDEX), trace.nodes.get(DATA_PLATE)
    return index is not None and plate is not None and torch.equal(torch.as_tensor(plate["value"]), index)


def check_particles(model: nn.Module, guide: nn.Module, batch: dict[str, Tensor], depth: int) -> None:
    """Refuse a pair that goes wrong when many particles run at once, as a plate left of all others.

    A program that counts its axes from the left, or adds axes of its own, then mixes particles with rows: the shapes
    still broadcast, and neither Pyro nor the loss gives it away.

    Args:
        model: the generative program.
        guide: the inference program.
        batch: what both are called with.
        depth: how many plate axes the pair has.

    Raises:
        ConfigError: naming the first site whose log-density has another shape than particles and plates give it.
    """
    sizes = {size for value in batch.values() for size in value.shape}
    count = next(n for n in range(2, len(sizes) + 3) if n not in sizes)  # no axis of the data can pass for particles
    many = pyro.plate("num_particles_vectorized", count, dim=-1 - depth)
    with torch.no_grad(), pyro.validation_enabled(False):
        if hasattr(poutine.unwrap(guide), "get_traces"):
            return
        guide_trace = poutine.trace(many(guide)).get_trace(**batch)
        model_trace = poutine.trace(poutine.replay(many(model), trace=guide_trace)).get_trace(**batch)
    for program, trace in (("model", model_trace), ("guide", guide_trace)):
        for site in trace.nodes.values():
            if site["type"] != "sample" or site_is_subsample(site) or (site["infer"] or {}).get("_deterministic"):
                continue
            _check_shape(site, program)


def check_parameters(own: Iterable[nn.Parameter], traces: Iterable[Any] = ()) -> int:
    """Refuse parameters that programs use and that belong to neither of them: nothing would train or save them.

    Args:
        own: the parameters of model and guide.
        traces: of the two, where a `PyroModule` that is nobody's attribute shows.

    Returns:
        How many parameters Pyro's global store holds (those of `pyro.module`, all of them the modules' own).

    Raises:
        ConfigError: naming the first one, and what to write instead.
    """
    known = {id(parameter) for parameter in own}
    stored = pyro.get_param_store()
    for name, value in stored.named_parameters():
        if id(value) in known:
            continue
        head, _, tail = name.partition("$$$")
        if tail:
            raise ConfigError(
                f"the parameter {tail!r} of pyro.module({head!r}, ...) is no parameter of model or guide, so that fit "
                f"neither trains nor saves it. Make the module an attribute of the program that uses it: "
                f"`self.{head} = ...` in its __init__."
            )
        raise ConfigError(
            f"pyro.param({name!r}) lives in Pyro's global store, where fit neither trains nor saves it. Make it an "
            "attribute of model or guide: an nn.Parameter, or `self.name = pyro.nn.PyroParam(value, constraint)` in a "
            "pyro.nn.PyroModule."
        )
    for name, site in ((name, site) for trace in traces for name, site in trace.nodes.items()):
        value = getattr(site.get("value"), "unconstrained", lambda site=site: site.get("value"))()
        if site["type"] == "param" and isinstance(value, nn.Parameter) and id(value) not in known:
            raise ConfigError(
                f"{name!r} is a parameter of a PyroModule that is no attribute of model or guide, so that fit neither "
                "trains nor saves it. Assign the module itself to an attribute, or a list of them as an nn.ModuleList."
            )
    return len(stored)


def innermost(fn: Any) -> Any:
    """Return the distribution inside the wrappers that plates, masks and `to_event` put around it."""
    while isinstance(fn, dist.Independent | dist.MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return fn


def _reparameterised(site: Any) -> bool:
    """Say whether the gradient of a draw passes through its value alone, with no score-function term left over."""
    fn = site["fn"]
    if not getattr(fn, "has_rsample", False):
        return False
    own = getattr(type(innermost(fn)), "score_parts", TorchDistributionMixin.score_parts)
    if own is TorchDistributionMixin.score_parts:
        return True
    with torch.no_grad():  # a sampler with rejections: partly reparameterised
        return is_identically_zero(fn.score_parts(site["value"]).score_function)


def _check_shape(site: Any, program: str) -> None:
    """Refuse a site whose log-density has an axis that belongs to no plate."""
    with torch.no_grad():
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        log_prob = scale_and_mask(log_prob, site["scale"], site["mask"])
    try:
        whole: Any = {**site, "log_prob": log_prob}
        check_site_shape(whole, 1000)  # beyond any axis: nothing is left unchecked
    except ValueError as error:
        plates = {frame.name: frame.size for frame in site["cond_indep_stack"] if frame.dim is not None}
        inside = ", ".join(f"{name!r} ({size})" for name, size in plates.items()) or "none"
        if "num_particles_vectorized" in plates:
            raise ConfigError(
                f"site {site['name']!r} of the {program}: with {plates['num_particles_vectorized']} particles at once "
                f"its log-density has shape {tuple(log_prob.shape)}, which particles and plates do not account for: "
                f"{inside}. The program must leave axes further left alone (count axes from the right: "
                "`(x * w).sum(-1)`, not `x @ w.T`); or set vectorize_particles=False where the objective offers it."
            ) from error
        raise ConfigError(
            f"site {site['name']!r} of the {program}: its log-density has shape {tuple(log_prob.shape)}, which its "
            f"plates do not account for: {inside}. Put the site under `with pyro.plate({DATA_PLATE!r}, number of "
            "rows):`, under one plate per batch axis, or make the axes part of one event with .to_event(n)."
        ) from error


def check_plate(sites: list[Site]) -> None:
    """Refuse a pair none of whose sites lies inside the plate over data points.

    Raises:
        ConfigError: if so.
    """
    if sites and not any(site.local for site in sites if site.program == "model"):
        raise ConfigError(
            f"no site of the model lies inside a plate named {DATA_PLATE!r} (its sites: "
            f"{', '.join(s.name for s in sites if s.program == 'model')}), so the loss per data point is undefined. "
            f"Put the sites of each data point under `with pyro.plate({DATA_PLATE!r}, number of rows):`."
        )


def check_names(names: Collection[str], sites: list[Site], where: str) -> None:
    """Refuse names that are no site of model or guide.

    Raises:
        UnknownNameError: naming the nearest site.
    """
    known = {site.name for site in sites}
    for name in names:
        if name not in known:
            raise unknown_name(f"site in {where}", name, known)
