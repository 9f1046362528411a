"""Traces of a pair run in one pass are those of Pyro's trace and replay, to the bit."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine import plate_messenger
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from phlogiston.inference.svi.densities import NOISE, broadcasts, log_prob_sum
from phlogiston.inference.svi.handlers import scale_sites
from phlogiston.inference.svi.pair.record import run_pair


class Shapes(nn.Module):
    """Sites whose distributions have the shape of their plates, less than it, or ones in it; nested and subsampled."""

    def __init__(self, guide: bool) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.linspace(-1.0, 1.0, 4))
        self.guide = guide

    def forward(self, x: Tensor) -> None:
        total = pyro.sample("total", dist.Normal(self.loc.sum(), 1.0))
        with pyro.plate("rows", 4, dim=-1):
            pyro.sample("full", dist.Normal(self.loc, 1.0))
            pyro.sample("one", dist.Normal(self.loc[:1], 1.0))
            pyro.sample("none", dist.Normal(total, 1.0))
            pyro.sample("wide", dist.Normal(self.loc.new_zeros(1, 3), 1.0).to_event(1))
            with pyro.plate("columns", 3, dim=-2):
                pyro.sample("half", dist.Normal(self.loc, 1.0))
                pyro.sample("whole", dist.Normal(self.loc.expand(3, 4), 1.0))
        with pyro.plate("some", 10, subsample_size=4) as index:
            pyro.sample("chosen", dist.Normal(self.loc, 1.0))
            if not self.guide:
                pyro.sample("x", dist.Normal(self.loc, 1.0), obs=x[index])


def test_traces_are_those_of_trace_and_replay() -> None:
    model, guide = Shapes(guide=False), Shapes(guide=True)
    x = torch.arange(10.0)
    with pyro.validation_enabled(False):
        torch.manual_seed(3)
        ours: Any = run_pair(model, guide, (x,), {})
        torch.manual_seed(3)
        in_guide = poutine.trace(guide).get_trace(x)
        in_model = poutine.trace(poutine.replay(model, trace=in_guide)).get_trace(x)
    for mine, theirs in zip(ours, (in_model, in_guide), strict=True):
        mine.compute_log_prob()
        theirs.compute_log_prob()
        plates = {"rows", "columns", "some", "_INPUT", "_RETURN"}
        assert list(mine.nodes) == [name for name in theirs.nodes if name not in plates]
        for name, site in mine.nodes.items():
            assert torch.equal(site["value"], theirs.nodes[name]["value"])
            assert torch.equal(site["log_prob"], theirs.nodes[name]["log_prob"])
            whole = theirs.nodes[name]["fn"].batch_shape
            assert site["fn"].batch_shape == whole or (mine is ours[0] and broadcasts(site["fn"].batch_shape, whole))
            assert log_prob_sum(site).item() == pytest.approx(site["log_prob"].sum().item(), rel=1e-5)
            assert site["cond_indep_stack"] == theirs.nodes[name]["cond_indep_stack"]
            assert site["scale"] == theirs.nodes[name]["scale"]


def test_a_shape_that_does_not_fit_its_plate_is_refused_as_in_pyro() -> None:
    def model() -> None:
        with pyro.plate("rows", 4):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

    with pyro.validation_enabled(False), pytest.raises(ValueError, match=r"Shape mismatch inside plate\('rows'\)"):
        run_pair(model, lambda: None, (), {})
    plates: Any = plate_messenger
    assert plates.BroadcastMessenger is BroadcastMessenger  # what was put in its place for the run is gone


def test_rows_of_a_whole_plate_are_numbered() -> None:
    seen = []

    def program() -> None:
        with pyro.plate("rows", 4) as index:
            seen.append(index)

    run_pair(program, program, (), {})
    assert all(torch.equal(index, torch.arange(4)) for index in seen)


def drawn() -> None:
    with pyro.plate("rows", 4):
        pyro.sample("z", dist.Normal(torch.arange(3.0), torch.tensor(2.0)).to_event(1))


def test_the_noise_of_a_normal_is_known_where_only_weights_lie_outside() -> None:
    with scale_sites({"z": 2.0}):
        _, trace = run_pair(drawn, drawn, (), {})
    site = trace.nodes["z"]
    torch.testing.assert_close((site["value"] - torch.arange(3.0)) / 2.0, site[NOISE])


class _Shifted(Messenger):
    """Another distribution in place of a site's, and other rows in place of a plate's."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "rows":
            msg["value"] = torch.tensor([3, 1, 0, 2])
        elif msg["value"] is None:
            msg["fn"] = dist.Normal(torch.full((4, 3), 1e3), 1.0).to_event(1)


def test_a_handler_outside_may_replace_distributions_and_rows() -> None:
    seen = []

    def program() -> None:
        with pyro.plate("rows", 4) as index:
            seen.append(index)
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    with _Shifted():
        _, trace = run_pair(program, program, (), {})
    assert trace.nodes["z"]["value"].min() > 900
    assert NOISE not in trace.nodes["z"]
    assert all(index.tolist() == [3, 1, 0, 2] for index in seen)


def test_a_site_of_the_guide_with_less_than_the_models_plates_is_counted_as_often_as_in_pyro() -> None:
    def model() -> None:
        with pyro.plate("rows", 4):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    def guide() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    with pyro.validation_enabled(False):
        in_model, _ = run_pair(model, guide, (), {})
    site = in_model.nodes["z"]
    assert log_prob_sum(site).item() == pytest.approx(4 * dist.Normal(0.0, 1.0).log_prob(site["value"]).item())
