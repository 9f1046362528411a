"""Rows to validate on may be given to every system in every form, and are what those of a `Dataset` are."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from phlogiston import systems
from phlogiston.datasets.base import Dataset
from phlogiston.errors import ConfigError, PhlogistonError
from phlogiston.inference.svi.callbacks import EarlyStopping

from .test_contract import SMALL, fitted

QUIET: dict[str, Any] = {"seed": 0, "progress": "off", "steps": 8, "checkpoint_every": 2}


def losses(system: Any) -> list[float]:
    return [r["valid_loss"] for r in system.history.records if "valid_loss" in r]


def few(name: str) -> tuple[Any, Dataset]:
    """The class of a system and some of its rows, with validation rows."""
    whole = fitted(name).data
    rest = whole.test.select(slice(0, 0))
    some = dataclasses.replace(
        whole, train=whole.train.select(slice(0, 12)), valid=whole.test.select(slice(0, 6)), test=rest
    )
    return systems.get(name), some


@pytest.mark.parametrize("name", sorted(SMALL))
def test_rows_that_are_given_are_those_of_a_dataset(name: str) -> None:
    kind, data = few(name)
    options = dict(fitted(name).options)
    want = kind(options).fit(data, **QUIET)
    assert losses(want)
    without = dataclasses.replace(data, valid=data.valid.select(slice(0, 0)))
    arrays = {key: value.numpy() for key, value in data.valid.tensors.items()}
    for given in (data.valid, arrays):
        found = kind(options).fit(without, valid=given, **QUIET)
        assert losses(found) == losses(want)
        assert found.trained_on == want.trained_on
        for key, value in want.model.state_dict().items():
            assert torch.equal(found.model.state_dict()[key], value), key
    other = kind(options).fit(data, valid=data.train, **QUIET)
    assert losses(other) != losses(want), "they take the place of those of a Dataset"


@pytest.mark.parametrize("name", sorted(SMALL))
def test_rows_that_cannot_be_validated_on_are_refused_before_any_work(name: str) -> None:
    kind, data = few(name)
    with pytest.raises(ConfigError, match="valid is a Dataset"):
        kind(dict(fitted(name).options)).fit(data.train, valid=data, **QUIET)
    with pytest.raises(PhlogistonError):
        kind(dict(fitted(name).options)).fit(data.train, valid={"z": torch.zeros(3, 2)}, **QUIET)
    with pytest.raises(ConfigError, match="'valid' is no option"):
        kind(valid=data.valid)


def test_training_on_arrays_stops_by_rows_that_are_given() -> None:
    kind, data = few("mdn")
    system = kind(dict(fitted("mdn").options), learning_rate=1e-9)
    system.fit(data.train, valid=data.valid, callbacks=[EarlyStopping(1, least=1.0)], **{**QUIET, "steps": 40})
    assert system.history.steps[-1] < 40


def test_candidates_are_compared_on_rows_that_are_given() -> None:
    kind, data = few("drmm")
    tried = [{**SMALL["drmm"][2], "steps": 2}, {**SMALL["drmm"][2], "steps": 12}]
    best = kind.select(data.train, tried, valid=data.valid, seed=0, progress="off")
    figures = [figure for _, figure in best.selection]
    assert float(best.log_prob(data.valid).mean().value) == max(figures)
    with pytest.raises(ConfigError, match="needs validation rows"):
        kind.select(data.train, tried)


@pytest.mark.parametrize(("name", "options"), [("drmm", {}), ("mdn", {"target": "height"})])
def test_a_frame_is_read_with_the_categories_and_columns_of_training(name: str, options: dict[str, Any]) -> None:
    draws = np.random.default_rng(0)
    frame = pd.DataFrame({"height": draws.normal(size=60), "weight": draws.normal(size=60), "kind": list("abc") * 20})
    few = frame.iloc[:10].replace({"kind": {"a": "c"}})  # without one of the categories, and in another order
    kind = systems.get(name)
    small = {**SMALL[name][2], **options}
    want = kind(small).fit(frame, valid=few, **QUIET)
    found = kind(small).fit(frame, valid=few[["kind", "weight", "height"]], **QUIET)
    assert losses(found) == losses(want) != []
    with pytest.raises(PhlogistonError, match="kind"):
        kind(small).fit(frame, valid=frame.replace({"kind": {"a": "d"}}), **QUIET)
    with pytest.raises(PhlogistonError, match=r"height|validation rows"):
        kind(small).fit(frame, valid=frame[["weight", "kind"]], **QUIET)
