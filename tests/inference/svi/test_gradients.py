"""Which parameters get a gradient is judged over a window of steps, once per stage, and remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from phlogiston.errors import TrainingError
from phlogiston.inference import Stage, fit
from phlogiston.inference.svi import checkpoints
from phlogiston.inference.svi.pair.gradients import Received


class SemiSupervised(nn.Module):
    """x ~ N(mean, 1) on every row; a label ~ Bernoulli(share) where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(()))
        self.logit = nn.Parameter(torch.zeros(()))
        self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x: Tensor, label: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.mean, 1.0), obs=x)
        known = label >= 0
        if known.any():
            with pyro.plate("labelled", int(known.sum())):
                pyro.sample("label", dist.Bernoulli(logits=self.logit), obs=label[known])


class Cut:
    """Ends a run in a step, as a kill would."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, state: Any) -> None:
        if state.step == self.at:
            raise KeyboardInterrupt


def rows(count: int = 40, labelled: int = 4) -> dict[str, Tensor]:
    x = torch.randn(count, generator=torch.Generator().manual_seed(1))
    label = torch.where(torch.arange(count) < labelled, 1.0, -1.0)
    label[: labelled // 4] = 0.0
    return {"x": x, "label": label}


def test_rare_labels_train_whatever_the_draw_and_whenever_the_run_is_killed(tmp_path: Path) -> None:
    recipe = Stage("all", 12, batch_size=4, learning_rate=0.1)
    quiet: dict[str, Any] = {"progress": "off", "tensorboard": False, "checkpoint_every": 1}
    for seed in range(3):
        whole = SemiSupervised()
        fit(whole, None, rows(), stages=recipe, seed=seed, progress="off")
        for at in (2, 7):
            folder = tmp_path / f"{seed}-{at}"
            with pytest.raises(KeyboardInterrupt):
                fit(SemiSupervised(), None, rows(), stages=recipe, seed=seed, out=folder, callbacks=[Cut(at)], **quiet)
            again = SemiSupervised()
            fit(again, None, rows(), stages=recipe, seed=seed, out=folder, **quiet)
            assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_stage_for_the_labels_alone_reaches_their_share() -> None:
    model = SemiSupervised()
    recipe = Stage("labels", 600, batch_size=4, learning_rate=0.05, trainable=("model.logit",))
    fit(model, None, rows(40, 8), stages=recipe, progress="off")
    assert model.logit.sigmoid().item() == pytest.approx(0.75, abs=0.05)  # six of eight
    assert model.mean.item() == 0.0


def test_a_parameter_that_never_gets_one_is_refused_by_name_after_the_window() -> None:
    steps: list[int] = []
    callback = type("Count", (), {"on_step": lambda self, state: steps.append(state.step)})()
    with pytest.raises(TrainingError, match=r"1 trainable parameters got no gradient in 100 steps: model\.logit"):
        fit(SemiSupervised(), None, rows(40, 0), stages=Stage("all", 500), callbacks=[callback], progress="off")
    assert len(steps) == 99


def test_a_stage_shorter_than_the_window_is_judged_at_its_end() -> None:
    with pytest.raises(TrainingError, match=r"stage 'short'.*in 5 steps: model\.logit"):
        fit(SemiSupervised(), None, rows(40, 0), stages=Stage("short", 5), progress="off")
    recipe = Stage("short", 5, trainable=("model.logit",))
    with pytest.raises(TrainingError, match="the loss depends on no trainable parameter"):
        fit(SemiSupervised(), None, rows(40, 0), stages=recipe, progress="off")


def test_a_resumed_run_does_not_begin_the_window_again(tmp_path: Path) -> None:
    recipe = Stage("all", 500)
    quiet: dict[str, Any] = {"progress": "off", "tensorboard": False, "checkpoint_every": 10}
    for at in (45, 85):
        with pytest.raises(KeyboardInterrupt):
            fit(SemiSupervised(), None, rows(40, 0), stages=recipe, out=tmp_path / "r", callbacks=[Cut(at)], **quiet)
    state = checkpoints.read_state(checkpoints.find(tmp_path / "r"))
    assert state["gradients"] == {"steps": 80, "lacking": ["model.logit"]}
    with pytest.raises(TrainingError, match="in 100 steps"):
        fit(SemiSupervised(), None, rows(40, 0), stages=recipe, out=tmp_path / "r", **quiet)


def test_the_window_is_a_pass_over_the_data_within_limits() -> None:
    lonely = nn.Parameter(torch.zeros(()))
    for per_epoch, window in ((1, 100), (300, 300), (10**6, 1000)):
        received = Received("stage", {"a": lonely}, per_epoch)
        for _ in range(window - 1):
            received.note()
        state = json.loads(json.dumps(received.state_dict()))
        other = Received("stage", {"a": lonely}, per_epoch)
        other.load_state_dict(state)
        with pytest.raises(TrainingError, match=f"in {window} steps: a"):
            other.note()
