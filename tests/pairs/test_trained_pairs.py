"""Bring your own pair: what every Pyro user knows, trained by `fit` to the right answer, killed and resumed, loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from all_pairs import CASES, case_of, recipe, train
from pair_case import loss_of, train_with_svi
from torch import Tensor

from phlogiston.inference import load_parameters


@pytest.fixture(autouse=True)
def _own_store() -> Iterator[None]:
    with pyro.get_param_store().scope():
        yield


def parameters(model: Any, guide: Any) -> dict[str, Tensor]:
    modules = {"model": model, **({} if guide is None else {"guide": guide})}
    return {f"{p}.{n}": v.detach().clone() for p, m in modules.items() for n, v in m.state_dict().items()}


@pytest.mark.parametrize("name", CASES)
def test_fit_reaches_what_the_closed_form_or_pyros_svi_reaches(name: str) -> None:
    case = case_of(name)
    model, guide = train(case, recipe(case))
    if case.truth is not None:
        case.truth(model, guide)
    if case.elbo is not None:
        ours = loss_of(case, model, guide)
        assert ours < loss_of(case, *train_with_svi(case)) + case.margin


class PowerCut:
    """Ends training at a step, without a word to the engine."""

    def on_step(self, state: Any) -> None:
        if state.step == 8:
            raise RuntimeError("power cut")


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_goes_on_bit_for_bit_and_loads_into_a_fresh_pair(name: str, tmp_path: Path) -> None:
    case = case_of(name)
    stage = recipe(case, 12)
    whole = parameters(*train(case, stage))
    with pytest.raises(RuntimeError, match="power cut"):
        train(case, stage, tmp_path / "run", [PowerCut()])
    resumed = parameters(*train(case, stage, tmp_path / "run"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    model, guide = case.pair(seed=5)
    load_parameters(tmp_path / "run", model, guide)
    if guide is not None:
        guide(**case.data)  # some guides make their parameters at the first call
    loaded = parameters(model, guide)
    assert loaded.keys() == whole.keys()
    assert all(torch.equal(loaded[key], whole[key]) for key in whole)
