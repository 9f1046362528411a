"""Evidence far outside everything a model knows brings a warning that names it, in any units; other brings none."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from phlogiston.distributions.gaussian_evidence import ConditionedMixture
from phlogiston.distributions.linear_constraints import LinearEvidence
from phlogiston.distributions.mixtures.diagonal import DiagMixture
from phlogiston.errors import QueryWarning
from phlogiston.inference.query.answer import warn_if_far
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, Within
from phlogiston.models.drmm import DRMM
from phlogiston.systems.drmm.query import DRMMQuery
from phlogiston.systems.mdn.query import MDNQuery

INF = math.inf


def drmm(unit: float = 1.0, frame: str = "tril", **options: Any) -> DRMMQuery:
    torch.manual_seed(0)
    model = DRMM(3, 2, 3, frame=frame)  # type: ignore[arg-type]
    with torch.no_grad():
        for f in model.frames:
            f.mean.normal_()
        model.location.copy_(torch.tensor([5.0, -1.0, 0.0]) * unit)
        model.scale.copy_(torch.tensor([2.0, 1.0, 0.5]) * unit)
    return DRMMQuery(model, columns=["age", "income", "height"], **options)


def far(unit: float) -> dict[str, Any]:
    return {
        "known": Known([1e9 * unit, 0, 0], [1, 0, 0]),
        "soft": Near([80.0 * unit, 0, 0], [0.5 * unit, INF, INF]),
        "box": Within([400.0 * unit, -INF, -INF], [500.0 * unit, INF, INF]),
    }


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e5])
@pytest.mark.parametrize("frame", ["diag", "tril"])
@pytest.mark.parametrize("kind", ["known", "soft", "box"])
def test_a_column_far_away_is_named_in_any_units(kind: str, frame: str, unit: float) -> None:
    with pytest.warns(QueryWarning, match=r"far outside everything .*column 'age'"):
        drmm(unit, frame).ask({"x": far(unit)[kind]}, num_samples=50, seed=0)


def test_grown_tuples_and_other_questions_warn_too() -> None:
    evidence = {"x": far(1.0)["known"]}
    with pytest.warns(QueryWarning, match="column 'age'"):
        drmm(max_enum=2).ask(evidence, num_samples=50, seed=0)
    with pytest.warns(QueryWarning, match="column 'age'"):
        drmm().log_evidence(evidence)
    with pytest.warns(QueryWarning, match="inequality 0"):
        drmm().ask({"x": HalfSpace([0.0, 1.0, 1.0], -300.0)}, num_samples=50, seed=0)


def test_values_that_never_go_together_are_far_although_each_is_ordinary() -> None:
    model = DRMM(2, 1, 1, frame="tril")
    with torch.no_grad():
        frame = model.frames[0]
        frame.mean.zero_()
    query = DRMMQuery(model)
    every = query.paths.find(query.compile({}, 0), "auto", 10, None)
    factors = torch.tensor([[[1.0, 0.0], [1.0, 0.01]]], dtype=torch.float64)
    nothing = LinearEvidence.nothing(2)
    e = LinearEvidence(
        torch.tensor([True, True]), torch.tensor([1.5, -1.5]).double(), nothing.lower, nothing.upper,
        nothing.box_weight, nothing.rows,
    )  # fmt: skip
    found = ConditionedMixture(every.log_prior, torch.zeros(1, 2).double(), factors, e).remoteness()
    assert found.entries.max() < 2
    assert found.together.item() == pytest.approx(math.sqrt((1.5**2 + 300.0**2) / 2))


def test_ordinary_evidence_raises_no_alarm() -> None:
    query = drmm()
    torch.manual_seed(1)
    codes, x = query.model.generate(300)
    del codes
    with warnings.catch_warnings():
        warnings.simplefilter("error", QueryWarning)
        query.log_evidence({"x": Known(x)})
        query.log_evidence({"x": Near(x, torch.tensor([1e-3, 1.0, INF]))})
        # six standard deviations out is improbable, not unheard of
        query.ask({"x": Within([5.0 + 2 * 6, -INF, -INF], INF)}, num_samples=200, seed=0)
        query.ask({"x": HalfSpace([1.0, 1.0, 1.0], 0.0)}, num_samples=200, seed=0)


def mdn() -> MDNQuery:
    def predict(x: torch.Tensor) -> DiagMixture:
        loc = torch.stack([x, -x], 1)
        return DiagMixture(torch.zeros(len(x), 2), loc, torch.full_like(loc, 0.5))

    inputs = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    return MDNQuery(predict, 1, 1, inputs, names={"x": ["dose"], "y": ["effect"]})


def test_inputs_and_targets_far_away_are_named() -> None:
    with pytest.warns(QueryWarning, match="input 'dose'"):
        mdn().ask({"x": 1e4}, num_samples=50, seed=0)
    with pytest.warns(QueryWarning, match="target 'effect'"):
        mdn().ask({"x": 0.0, "y": 1e9}, num_samples=50, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", QueryWarning)
        mdn().ask({"x": Within(-3.0, 3.0)}, num_samples=50, seed=0)
        mdn().ask({"x": 0.0, "y": 2.5}, num_samples=50, seed=0)


def test_the_worst_are_named_and_the_others_counted() -> None:
    with pytest.warns(QueryWarning, match=r"b \(40\), e \(30\), a \(20\) and 1 more"):
        warn_if_far({"a": 20.0, "b": 40.0, "c": 9.0, "d": 11.0, "e": 30.0})
