"""Runs a pair once and keeps its sites: what every bound begins with, many times a second.

The traces are those of Pyro's trace and replay. What is left out on the way: a messenger per site, copies of traces,
the site of a plate that holds all its rows, and the expansion of distributions that have the shape of their plates
already or get their values from the guide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine import plate_messenger, runtime
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.plate_messenger import PlateMessenger
from pyro.poutine.subsample_messenger import SubsampleMessenger, _Subsample
from pyro.poutine.trace_struct import Trace
from torch.distributions.utils import _standard_normal

from phlogiston.inference.svi.densities import NOISE, broadcasts
from phlogiston.inference.svi.handlers import PerDatum, ScaleSites, Setting, WeightDepths


class _Record(Messenger):
    """Pyro's trace and replay messengers in one: half the calls per site.

    Args:
        replayed: the trace whose values latent sites take, or None.
        draws: whether Normals may be drawn here, so that their noise is known; not where a handler that may want to
            do something else lies outside.

    Attributes:
        trace: the sites.
        plates: names of the sites at which plates chose some of their rows, to be replayed.
    """

    def __init__(self, replayed: Any = None, draws: bool = False) -> None:
        super().__init__()
        self.trace = Trace(graph_type="flat")
        self._known = {} if replayed is None else replayed.nodes
        self._draws = draws
        self.plates: list[str] = []

    def _process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        earlier = self._known.get(msg["name"])
        if earlier is None:
            if msg["value"] is None and not msg["done"]:
                self._draw(msg)
            return
        if earlier["type"] != "sample" or earlier["is_observed"]:
            raise RuntimeError(f"site {msg['name']} must be sampled in trace")
        msg["done"] = True
        msg["value"] = earlier["value"]
        msg["infer"] = earlier["infer"]

    def _draw(self, msg: Any) -> None:
        """Draw what is drawn here as Pyro would; the rest is left to it."""
        fn = msg["fn"]
        if _is_whole(fn):
            msg["value"] = torch.arange(fn.size, device=fn.device)
        elif self._draws and _is_normal(fn) and fn.has_rsample and not (msg["args"] or msg["kwargs"]):
            base = fn.base_dist if type(fn) is dist.Independent else fn
            noise = _standard_normal(base.loc.shape, dtype=base.loc.dtype, device=base.loc.device)
            msg["value"] = base.loc + noise * base.scale
            msg[NOISE] = noise

    def _postprocess_message(self, msg: Any) -> None:
        kind = msg["type"]
        if kind == "sample":
            if msg["infer"].get("_do_not_trace") or _is_whole(msg["fn"]):
                return  # in a whole plate there is nothing to replay, and no density
            if type(msg["fn"]) is _Subsample:
                self.plates.append(msg["name"])
        elif kind != "param":
            return
        self.trace.add_node(msg["name"], **msg)


def _is_whole(fn: Any) -> bool:
    """Say whether a site's distribution is the choice of all rows of a plate."""
    return type(fn) is _Subsample and not fn.use_cuda and (fn.subsample_size is None or fn.subsample_size >= fn.size)


def _is_normal(fn: Any) -> bool:
    """Say whether a distribution is Pyro's Normal itself, with or without `to_event`."""
    return type(fn) is dist.Normal or (type(fn) is dist.Independent and type(fn.base_dist) is dist.Normal)


class _Fits(BroadcastMessenger):
    """Pyro's expansion of a site to its plates, where it is needed.

    It is not where a distribution has their shape already, nor where a Normal gets its value from the guide: densities
    and divergences broadcast.
    """

    given: ClassVar[Mapping[str, Any]] = {}  # the guide's sites while the model runs

    @staticmethod
    def _pyro_sample(msg: Any) -> None:
        fn = msg["fn"]
        if isinstance(fn, TorchDistributionMixin):
            if _fills(fn.batch_shape, msg["cond_indep_stack"]):
                return
            given = _Fits.given.get(msg["name"])
            if given is not None and _is_normal(fn) and not msg["is_observed"]:
                whole = given["fn"].shape()
                if _fills(given["fn"].batch_shape, msg["cond_indep_stack"]) and broadcasts(fn.shape(), whole):
                    return
        BroadcastMessenger._pyro_sample(msg)


def _fills(shape: torch.Size, plates: Any) -> bool:
    """Say whether a batch shape has the size of every plate on its axis."""
    for frame in plates:
        dim = frame.dim
        if dim is not None and frame.size != -1 and (len(shape) < -dim or shape[dim] != frame.size):
            return False
    return True


_PLAIN = {PlateMessenger, pyro.plate, _Record, ScaleSites, PerDatum, Setting, WeightDepths}
"""Messengers that do nothing to the rows a plate holds."""
_PYROS_ROWS = SubsampleMessenger.__dict__["_subsample"]


def _rows_of_plate(
    name: str,
    size: Any = None,
    subsample_size: Any = None,
    subsample: Any = None,
    use_cuda: Any = None,
    device: Any = None,
) -> tuple[Any, Any, Any]:
    """Pyro's choice of the rows of a plate; without a site where all are held and nobody could choose otherwise."""
    if (
        subsample is None
        and use_cuda is None
        and type(size) is int
        and size > 0
        and (subsample_size is None or subsample_size == size)
        and _PLAIN.issuperset(map(type, runtime._PYRO_STACK))
    ):
        return size, size, torch.arange(size, device=device)
    result: tuple[Any, Any, Any] = _PYROS_ROWS(name, size, subsample_size, subsample, use_cuda, device)
    return result


_LEAN_ROWS = staticmethod(_rows_of_plate)


def run_pair(model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Run guide, then model on the guide's values; return both traces without the sites of plates.

    The same as tracing a replay, without the copies that `poutine.trace(...).get_trace` makes. The Normals of a model
    that get their values from the guide may have less than the shape of their plates.
    """
    in_guide = _Record(draws=_PLAIN.issuperset(map(type, runtime._PYRO_STACK)))
    plates: Any = plate_messenger
    rows: Any = SubsampleMessenger
    before, plates.BroadcastMessenger = plates.BroadcastMessenger, _Fits
    rows._subsample = _LEAN_ROWS
    try:
        with in_guide:
            guide(*args, **kwargs)
        _Fits.given = in_guide.trace.nodes
        with _Record(in_guide.trace) as in_model:
            model(*args, **kwargs)
    finally:
        plates.BroadcastMessenger = before
        rows._subsample = _PYROS_ROWS
        _Fits.given = {}
    for record in (in_model, in_guide):
        for name in record.plates:
            record.trace.remove_node(name)
    return in_model.trace, in_guide.trace
