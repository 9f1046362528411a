from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from inference_pairs import GaussianGuide, LinearGaussian, flat, pair, rows
from torch import Tensor

from phlogiston.errors import TrainingError, TrainingWarning
from phlogiston.inference.svi import schedules
from phlogiston.inference.svi.checkpoints import load_parameters
from phlogiston.inference.svi.engine import Stage, fit
from phlogiston.inference.svi.policy import Policy, first_bad_site
from phlogiston.inference.svi.run_folder.metrics import read_metrics


class Broken(LinearGaussian):
    """The linear-Gaussian model whose weights are not a number at chosen calls."""

    def __init__(self, bad: Any) -> None:
        super().__init__()
        self.bad = bad
        self.calls = 0
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear.reset_parameters()

    def forward(self, x: Tensor) -> None:
        self.calls += 1
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = self.linear(z)
            if self.bad(self.calls):
                loc = loc * torch.tensor(float("nan"))
            pyro.sample("x", dist.Normal(loc, self.scale).to_event(1), obs=x)


def test_one_bad_step_is_skipped_and_counted(tmp_path: Path) -> None:
    model, guide = Broken(lambda call: call == 5), pair()[1]
    history = fit(model, guide, rows(), stages=Stage("a", 20), out=tmp_path / "run")
    assert history.skipped == 1
    assert history.rollbacks == 0
    assert torch.isfinite(flat(model, guide)).all()
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["skipped"] == 1


@pytest.mark.parametrize("out", [True, False], ids=["run folder", "in memory"])
def test_three_bad_steps_in_a_row_go_back_with_half_the_rate(tmp_path: Path, out: bool) -> None:
    # the first call is the look at the sites; the diagnosis costs a fourth bad one
    model, guide = Broken(lambda call: 15 <= call <= 18), pair()[1]
    rates: list[tuple[int, float]] = []

    class Watch:
        def on_step(self, state: Any) -> None:
            rates.append((state.step, state.optimizer.param_groups[0]["lr"]))

    with pytest.warns(
        TrainingWarning, match=r"first bad: site 'x' of the model: its parameter 'loc' is NaN.*Back to step 10"
    ):
        history = fit(
            model,
            guide,
            rows(),
            stages=Stage("a", 30, learning_rate=0.01),
            out=tmp_path / "run" if out else None,
            checkpoint_every=10,
            callbacks=[Watch()],
        )
    assert history.rollbacks == 1
    assert history.skipped == 3
    assert rates[0] == (1, 0.01)
    assert rates[-1] == (30, 0.005)
    assert [step for step, _ in rates].count(11) == 2
    assert torch.isfinite(flat(model, guide)).all()
    assert history.steps.tolist() == [30]


def test_losses_that_stay_bad_end_the_run_name_the_site_and_restore_the_last_good_state(tmp_path: Path) -> None:
    model, guide = Broken(lambda call: call > 11), pair()[1]
    good = []

    class Watch:
        def on_checkpoint(self, state: Any) -> None:
            good.append(flat(state.model, state.guide))

    with (
        pytest.warns(TrainingWarning, match="Back to step 10"),
        pytest.raises(TrainingError, match=r"site 'x' of the model: its parameter 'loc' is NaN.*20 steps were skipped"),
    ):
        fit(model, guide, rows(), stages=Stage("a", 50), out=tmp_path / "run", checkpoint_every=10, callbacks=[Watch()])
    assert torch.equal(flat(model, guide), good[-1])
    assert torch.isfinite(good[-1]).all()


def test_bad_data_at_the_very_first_step_are_named_too() -> None:
    model, guide = pair()
    data = rows()
    data["x"][:] = float("nan")
    with (
        pytest.warns(TrainingWarning),
        pytest.raises(TrainingError, match=r"first bad: site 'z' of the guide: its parameter 'loc' is NaN"),
    ):
        fit(model, guide, data, stages=Stage("a", 50))


def test_an_infinite_gradient_with_a_finite_loss_is_not_applied() -> None:
    class Cliff(LinearGaussian):
        def forward(self, x: Tensor) -> None:
            super().forward(x)
            # finite value, infinite slope
            pyro.factor("cliff", (self.linear.bias[0] * 0.0).abs().sqrt())

    model, guide = Cliff(), GaussianGuide()
    start = flat(model, guide)
    with pytest.warns(TrainingWarning), pytest.raises(TrainingError, match=r"gradient of 'model\.linear\.bias' is"):
        fit(model, guide, rows(), stages=Stage("a", 50))
    assert torch.equal(flat(model, guide), start)


def test_parameters_blown_up_by_an_update_are_never_taken_for_a_good_state(tmp_path: Path) -> None:
    model, guide = pair()
    blow = schedules.piecewise([(0.0, 1.0), (0.5, 1.0), (0.5, 1e38), (1.0, 1e38)])
    stage = Stage("a", 21, optimizer="sgd", learning_rate=1e3, clip=1e-3, schedules={"learning_rate": blow})
    with pytest.warns(TrainingWarning, match="Back to step 10"), pytest.raises(TrainingError, match="not finite"):
        fit(model, guide, rows(), stages=stage, out=tmp_path / "run", checkpoint_every=1)
    assert torch.isfinite(flat(model, guide)).all()
    load_parameters(tmp_path / "run", model, guide)
    assert torch.isfinite(flat(model, guide)).all()


def test_errors_that_have_nothing_to_do_with_numbers_pass_through() -> None:
    class Wrong(LinearGaussian):
        def forward(self, x: Tensor) -> None:
            super().forward(x)
            if self.training and torch.is_grad_enabled():
                raise ValueError("wrong, but finite")

    with pytest.raises(ValueError, match="wrong, but finite"):
        fit(Wrong(), GaussianGuide(), rows(), stages=Stage("a", 3))


def test_the_first_bad_site_is_the_first_in_the_order_of_the_programs() -> None:
    model, guide = pair()
    data = rows(count=4)
    assert first_bad_site(model, guide, data) is None
    with torch.no_grad():
        model.linear.bias.fill_(float("inf"))
    assert first_bad_site(model, guide, data) == "site 'x' of the model: its parameter 'loc' is infinite"
    with torch.no_grad():
        guide.log_scale[0] = float("nan")
    assert first_bad_site(model, guide, data) == "site 'z' of the guide: its parameter 'scale' is NaN"
    model, guide = pair()
    data["x"][2, 0] = float("inf")
    guide.loc = torch.nn.Identity()
    guide.forward = lambda x: pyro.sample("z", dist.Normal(torch.zeros(4, 2), 1.0).to_event(1))
    assert first_bad_site(model, guide, data) == "site 'x' of the model: the observed value is infinite"


def test_the_policy_forgets_after_an_interval_without_bad_steps() -> None:
    policy = Policy()
    for _ in range(19):
        assert policy.bad() in ("skip", "rollback")
    policy.checkpoint()  # this interval was not clean
    assert policy.window == 19
    policy.good()
    policy.checkpoint()
    assert policy.window == 0
    assert [policy.bad() for _ in range(3)] == ["skip", "skip", "rollback"]
    for _ in range(16):
        policy.bad()
    assert policy.bad() == "stop"
