"""Sites: one look at a pair before training, to learn which sites there are and to refuse what cannot work."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from phlogiston.errors import ConfigError, unknown_name
from phlogiston.inference.handlers import DATA_PLATE, in_data_plate


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
    """

    name: str
    program: str
    observed: bool
    local: bool
    reparameterised: bool
    depth: int


def inspect(model: nn.Module, guide: nn.Module, batch: dict[str, Tensor]) -> list[Site]:
    """Run guide and model once, without gradients, and list their sites (deterministic ones left out).

    This also creates parameters that modules make at their first call.

    Raises:
        ConfigError: if the plate over data points subsamples by itself: batches are the engine's work.
    """
    out = []
    with torch.no_grad(), pyro.validation_enabled(False):
        get_traces = getattr(poutine.unwrap(guide), "get_traces", None)
        if get_traces is not None:  # a guide that runs the model itself
            guide(**batch)
            model_trace, guide_trace = get_traces()
        else:
            guide_trace = poutine.trace(guide).get_trace(**batch)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**batch)
    for program, trace in (("model", model_trace), ("guide", guide_trace)):
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site) or site["infer"].get("_deterministic"):
                continue
            for frame in site["cond_indep_stack"]:
                if frame.name == DATA_PLATE and frame.full_size not in (None, frame.size):
                    raise ConfigError(
                        f"the plate {DATA_PLATE!r} of the {program} has size {frame.full_size} and draws "
                        f"{frame.size} rows itself. The engine makes the batches: declare "
                        f"pyro.plate({DATA_PLATE!r}, number of rows in the batch)."
                    )
            free = bool(getattr(site["fn"], "has_rsample", False))
            depth = max((-frame.dim for frame in site["cond_indep_stack"] if frame.dim is not None), default=0)
            out.append(Site(name, program, bool(site["is_observed"]), in_data_plate(site), free, depth))
    return out


def check_plate(sites: list[Site]) -> None:
    """Refuse a pair none of whose sites lies inside the plate over data points.

    Raises:
        ConfigError: if so.
    """
    if sites and not any(site.local for site in sites if site.program == "model"):
        raise ConfigError(
            f"no site of the model lies inside a plate named {DATA_PLATE!r} (its sites: "
            f"{', '.join(s.name for s in sites if s.program == 'model')}), so the loss per data point cannot be told. "
            f"Put the sites of each data point under `with pyro.plate({DATA_PLATE!r}, number of rows):`."
        )


def check_names(wanted: Collection[str], sites: list[Site], where: str) -> None:
    """Refuse names that are no site of model or guide.

    Raises:
        UnknownNameError: naming the nearest site.
    """
    known = {site.name for site in sites}
    for name in wanted:
        if name not in known:
            raise unknown_name(f"site in {where}", name, known)
