"""Runs a pair once and keeps its sites: what every bound begins with, many times a second.

The traces are those of Pyro's trace and replay. What is left out on the way: a messenger per site, copies of traces,
and the expansion of distributions that have the shape of their plates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine import plate_messenger
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample


class _Record(Messenger):
    """Pyro's trace and replay messengers in one: half the calls per site.

    Args:
        replayed: the trace whose values latent sites take, or None.
    """

    def __init__(self, replayed: Any = None) -> None:
        super().__init__()
        self.trace = Trace(graph_type="flat")
        self._known = {} if replayed is None else replayed.nodes

    def _process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        earlier = self._known.get(msg["name"])
        if earlier is None:
            if msg["value"] is None and _is_whole(msg["fn"]):
                msg["value"] = torch.arange(msg["fn"].size, device=msg["fn"].device)
            return
        if earlier["type"] != "sample" or earlier["is_observed"]:
            raise RuntimeError(f"site {msg['name']} must be sampled in trace")
        msg["done"] = True
        msg["value"] = earlier["value"]
        msg["infer"] = earlier["infer"]

    def _postprocess_message(self, msg: Any) -> None:
        kind = msg["type"]
        if kind == "sample":
            if msg["infer"].get("_do_not_trace") or _is_whole(msg["fn"]):
                return  # in a whole plate there is nothing to replay, and no density
        elif kind != "param":
            return
        self.trace.add_node(msg["name"], **msg)


def _is_whole(fn: Any) -> bool:
    """Say whether a site's distribution is the choice of all rows of a plate."""
    return type(fn) is _Subsample and not fn.use_cuda and (fn.subsample_size is None or fn.subsample_size >= fn.size)


class _Fits(BroadcastMessenger):
    """Pyro's expansion of a site to its plates, which leaves alone what has their shape already."""

    @staticmethod
    def _pyro_sample(msg: Any) -> None:
        fn = msg["fn"]
        if isinstance(fn, TorchDistributionMixin):
            shape = fn.batch_shape
            for frame in msg["cond_indep_stack"]:
                dim = frame.dim
                if dim is not None and frame.size != -1 and (len(shape) < -dim or shape[dim] != frame.size):
                    break
            else:
                return
        BroadcastMessenger._pyro_sample(msg)


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    """Let plates use `_Fits`; its results are Pyro's, so other threads may meet it."""
    plates: Any = plate_messenger
    before = plates.BroadcastMessenger
    plates.BroadcastMessenger = _Fits
    try:
        yield
    finally:
        plates.BroadcastMessenger = before


def run_pair(model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Run guide, then model on the guide's values; return both traces without the sites of plates.

    The same as tracing a replay, without the copies that `poutine.trace(...).get_trace` makes.
    """
    with _fitting():
        with _Record() as in_guide:
            guide(*args, **kwargs)
        with _Record(in_guide.trace) as in_model:
            model(*args, **kwargs)
    for trace in (in_model.trace, in_guide.trace):
        for name in [n for n, site in trace.nodes.items() if site_is_subsample(site)]:
            trace.remove_node(name)
    return in_model.trace, in_guide.trace
