"""Validation losses that can be compared, and callbacks that compare them."""

from typing import Any

import pytest
import torch
from inference_pairs import pair, rows

from phlogiston.inference.svi import schedules
from phlogiston.inference.svi.callbacks import EarlyStopping, KeepBest
from phlogiston.inference.svi.engine import Stage, fit


def still(name: str, steps: int, **options: Any) -> Stage:
    """A stage that changes no parameter."""
    return Stage(name, steps, objective="mean_field", optimizer="sgd", learning_rate=1e-30, **options)


class Losses:
    """Notes validation losses and the weight of the latent that is in force around them."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_step(self, state: Any) -> None:
        self.seen.append((state.validate(), state.loss))


def test_a_weight_that_rises_does_not_change_the_validation_loss() -> None:
    """It is that of the stage's end: with the present weights, annealing would look like overfitting."""
    model, guide = pair()
    noted = Losses()
    annealed = still("a", 6, schedules={"scale.z": schedules.linear(0.0, 1.0)})
    fit(model, guide, rows(), stages=annealed, valid=rows(seed=9), callbacks=[noted], progress="off")
    plain = Losses()
    fit(model, guide, rows(), stages=still("a", 6), valid=rows(seed=9), callbacks=[plain], progress="off")
    assert [valid for valid, _ in noted.seen] == pytest.approx([plain.seen[0][0]] * 6)
    assert noted.seen[0][1] != pytest.approx(plain.seen[0][1])  # training has the weights of its step all the same
    assert noted.seen[-1][1] == pytest.approx(plain.seen[-1][1])


def test_early_stopping_does_not_take_annealing_for_overfitting() -> None:
    model, guide = pair()
    stage = Stage("a", 200, learning_rate=1e-3, schedules={"scale.z": schedules.linear(0.0, 1.0)})
    history = fit(
        model, guide, rows(), stages=stage, valid=rows(seed=9), callbacks=[EarlyStopping(2)], checkpoint_every=10,
        progress="off",
    )  # fmt: skip
    assert history.steps[-1] == 200


def test_records_hold_the_newest_loss_of_their_own_stage() -> None:
    model, guide = pair()
    stages = [Stage("easy", 8, schedules={"scale.x": schedules.constant(0.01)}), Stage("real", 8)]
    history = fit(
        model, guide, rows(), stages=stages, valid=rows(seed=9), log_every=1, checkpoint_every=4, progress="off"
    )
    told = [record.get("valid_loss") for record in history.records]
    assert [step for step, loss in enumerate(told, 1) if loss is None] == [1, 2, 3, 9, 10, 11]
    assert abs(told[11] - told[7]) > 1.0


def test_losses_of_different_stages_are_not_compared() -> None:
    """The first stage's loss lacks a term: it must not pass for the best there is."""
    model, guide = pair()
    before = {name: value.clone() for name, value in model.named_parameters()}
    easy = still("easy", 20, schedules={"scale.x": schedules.constant(0.01)})
    real = Stage("real", 200, learning_rate=1e-2)
    fit(model, guide, rows(), stages=[easy, real], valid=rows(seed=9), callbacks=[KeepBest()], progress="off")
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters())

    model, guide = pair()
    stopper = EarlyStopping(patience=3)
    history = fit(
        model, guide, rows(), stages=[easy, real], valid=rows(seed=9), callbacks=[stopper], checkpoint_every=10,
        progress="off",
    )  # fmt: skip
    assert history.steps[-1] > 60
