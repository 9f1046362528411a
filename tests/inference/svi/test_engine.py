import copy
import random
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from inference_pairs import GaussianGuide, GlobalGuide, GlobalMean, LinearGaussian, flat, pair, rows
from pyro.infer import RenyiELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from phlogiston.errors import ConfigError, DataError, ShapeError, TrainingError, UnknownNameError
from phlogiston.inference.svi import objectives, schedules
from phlogiston.inference.svi.batches import Order
from phlogiston.inference.svi.engine import EarlyStopping, Stage, fit
from phlogiston.inference.svi.handlers import scale_sites


class Recorder:
    """Notes what the engine tells, by event."""

    def __init__(self, look: Any = lambda state: state.step) -> None:
        self.look = look
        self.seen: dict[str, list[Any]] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda state: self.seen.setdefault(name, []).append(self.look(state))


def test_training_reaches_the_evidence_of_a_linear_gaussian_pair() -> None:
    model, guide = pair()
    data = rows(count=500)
    evidence = [float(model.evidence(data["x"]).mean())]
    recipe = [
        Stage("coarse", 300, objective="elbo", learning_rate=3e-2),
        Stage("fine", 300, objective="mean_field", learning_rate=1e-2, schedules={"learning_rate": schedules.cosine()}),
    ]
    history = fit(model, guide, data, stages=recipe)
    evidence.append(float(model.evidence(data["x"]).mean()))
    covariance = torch.cov(data["x"].T)
    best = float(torch.distributions.MultivariateNormal(data["x"].mean(0), covariance).log_prob(data["x"]).mean())
    assert evidence[0] < best - 0.5  # an untrained model is far from it
    assert evidence[1] > best - 0.1
    assert history.loss[-1] == pytest.approx(-evidence[1], abs=0.15)  # the bound is nearly tight, in nats per datum
    assert history.steps[-1] == 600
    assert history.finished
    assert not history.interrupted


@pytest.mark.parametrize("batch_size", [7, 20, 60])
@pytest.mark.parametrize("kind", ["point", "global"])
def test_the_mean_loss_of_an_epoch_does_not_depend_on_the_batch_size(kind: str, batch_size: int) -> None:
    model, guide = pair(kind)
    data = rows(kind, 60)
    trace = pyro.poutine.trace(guide).get_trace(**data)
    expected = -pyro.poutine.trace(pyro.poutine.replay(model, trace=trace)).get_trace(**data).log_prob_sum() / 60
    steps = -(-60 // batch_size)
    # a vanishing learning rate keeps the parameters where they are
    history = fit(model, guide, data, stages=Stage("one epoch", steps, batch_size=batch_size, learning_rate=1e-12))
    assert history.loss[-1] == pytest.approx(expected.item(), rel=1e-5)


def test_global_terms_settle_at_the_posterior_mode_whatever_the_batch_size() -> None:
    data = rows("global", 40)
    for batch_size in (10, 40):
        model, guide = pair("global")
        model.shift.requires_grad_(False)
        stage = Stage(
            "map", 400, batch_size=batch_size, learning_rate=0.05, schedules={"learning_rate": schedules.cosine()}
        )
        fit(model, guide, data, stages=stage)
        mode = float((data["x"] - model.shift.item()).sum() / (len(data["x"]) + 1))
        assert guide.loc.item() == pytest.approx(mode, abs=5e-3)


def test_every_epoch_sees_every_row_once_and_shards_divide_each_batch() -> None:
    whole = Order(23, 5, seed=3, stage=0)
    shards = [Order(23, 5, 3, 0, rank, 3) for rank in range(3)]
    epochs = []
    for epoch in range(2):
        seen: list[int] = []
        for place in range(whole.per_epoch):
            index, size = whole.batch(epoch * whole.per_epoch + place)
            assert size == len(index) == (5 if place < 4 else 3)
            parts = [shard.batch(epoch * whole.per_epoch + place)[0].tolist() for shard in shards]
            assert sorted(row for part in parts for row in part) == sorted(index.tolist())
            seen += index.tolist()
        assert sorted(seen) == list(range(23))
        epochs.append(seen)
    assert epochs[0] != epochs[1]
    assert whole.batch(7)[0].tolist() == Order(23, 5, 3, 0).batch(7)[0].tolist()  # no state: any step, any time


class Forgetful(GaussianGuide):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)


def test_a_parameter_without_gradient_is_named_at_the_first_step() -> None:
    with pytest.raises(TrainingError, match=r"2 trainable parameters got no gradient.*guide\.unused\.weight"):
        fit(LinearGaussian(), Forgetful(), rows(), stages=Stage("a", 3))
    fit(LinearGaussian(), Forgetful(), rows(), stages=Stage("a", 3, trainable=("model.*", "guide.lo*")))


def test_only_parameters_that_match_move_and_their_flags_come_back() -> None:
    model, guide = pair()
    before = copy.deepcopy(guide.state_dict()), copy.deepcopy(model.state_dict())
    model.linear.bias.requires_grad_(False)
    fit(model, guide, rows(), stages=[Stage("a", 5, trainable=("model.*",)), Stage("b", 5, trainable="guide.loc.b?as")])
    torch.testing.assert_close(guide.loc.weight, before[0]["loc.weight"], rtol=0, atol=0)
    torch.testing.assert_close(model.linear.bias, before[1]["linear.bias"], rtol=0, atol=0)
    assert not torch.equal(guide.loc.bias, before[0]["loc.bias"])
    assert not torch.equal(model.linear.weight, before[1]["linear.weight"])
    assert guide.loc.weight.requires_grad
    assert not model.linear.bias.requires_grad
    with pytest.raises(UnknownNameError, match=r"Did you mean 'guide.loc.bias'"):
        fit(model, guide, rows(), stages=Stage("a", 1, trainable=("guide.loc.bia",)))


def test_schedules_drive_rate_sites_handlers_and_objective() -> None:
    model, guide = pair()
    mine = scale_sites({"x": 1.0})
    elbo: Any = objectives.make("free_bits", nats=1.0)
    stage = Stage(
        "a",
        5,
        objective=elbo,
        learning_rate=0.1,
        handlers={"mine": mine},
        schedules={
            "learning_rate": schedules.linear(1.0, 0.0),
            "scale.z": schedules.linear(0.0, 2.0),
            "mine.extra": schedules.linear(3.0, 7.0),
            "objective.nats": schedules.linear(0.0, 4.0),
        },
    )
    mine.extra = -1.0  # type: ignore[attr-defined]
    recorder = Recorder(lambda s: (s.optimizer.param_groups[0]["lr"], mine.extra, elbo.nats, s.stage_progress))  # type: ignore[attr-defined]
    fit(model, guide, rows(), stages=stage, callbacks=[recorder])
    rate, extra, nats, progress = (list(column) for column in zip(*recorder.seen["on_step"], strict=True))
    assert rate == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0])
    assert extra == pytest.approx([3, 4, 5, 6, 7])
    assert nats == pytest.approx([0, 1, 2, 3, 4])
    assert progress == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert (mine.extra, elbo.nats) == (-1.0, 1.0)  # type: ignore[attr-defined]


def test_a_scheduled_site_weight_reaches_the_loss() -> None:
    losses = {}
    for weight in (0.0, 1.0, 2.0):
        model, guide = pair("point")
        stage = Stage("a", 1, batch_size=60, schedules={"scale.z": schedules.constant(weight)})
        losses[weight] = fit(model, guide, rows(), stages=stage).loss[-1]
    assert losses[2.0] - losses[1.0] == pytest.approx(losses[1.0] - losses[0.0], rel=1e-4)
    assert losses[1.0] != losses[0.0]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"schedules": {"scale.zz": schedules.constant(1.0)}}, "Did you mean 'z'"),
        ({"handlers": {"h": scale_sites({"y": 1.0})}}, "unknown site"),
        ({"schedules": {"objective.natz": schedules.constant(1.0)}, "objective": objectives.FreeBits()}, "nats"),
    ],
)
def test_unknown_sites_and_attributes_are_reported_with_the_nearest(stage: Any, message: str) -> None:
    model, guide = pair()
    with pytest.raises(UnknownNameError, match=message):
        fit(model, guide, rows(), stages=Stage("a", 1, **stage))


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"clip": -1.0},
        {"sequence_length": 0},
        {"optimizer": "adma"},
        {"objective": "elob"},
        {"schedules": {"rate": schedules.constant(1.0)}},
        {"schedules": {"learning_rate": 3.0}},
        {"handlers": {"scale": scale_sites({})}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_stage_refuses_values_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Stage(**{"name": "a", "steps": 3, **options})


class Sequences:
    """Rows with a tensor whose axis 1 is time."""

    sequences = frozenset({"x"})

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        return {"x": torch.ones(12, 9, 2)[index], "y": torch.ones(12, 9)[index]}


class Shapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def forward(self, x: Tensor, y: Tensor) -> None:
        self.seen.append((tuple(x.shape), tuple(y.shape)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc, 1.0).expand(x.shape[1:]).to_event(2), obs=x)


def test_sequences_are_cut_on_their_time_axis_and_other_tensors_are_not() -> None:
    model = Shapes()
    fit(model, None, Sequences(), stages=[Stage("a", 1, sequence_length=3), Stage("b", 1, batch_size=5)])
    assert model.seen[1] == ((12, 3, 2), (12, 9))
    assert model.seen[-1] == ((5, 9, 2), (5, 9))


def test_two_instances_in_one_process_both_learn_alike() -> None:
    (m1, g1), (m2, g2) = pair(), pair()
    start = flat(m1, g1)
    fit(m1, g1, rows(), stages=Stage("a", 20))
    fit(m2, g2, rows(), stages=Stage("a", 20))
    assert not torch.equal(flat(m1, g1), start)
    assert torch.equal(flat(m1, g1), flat(m2, g2))
    assert len(pyro.get_param_store()) == 0


def test_autoguides_make_their_parameters_late_and_keep_them_apart() -> None:
    finals = []
    for shift in (0.0, 5.0):
        model = GlobalMean()
        with pyro.settings.context(module_local_params=True):
            guide = AutoNormal(model)
        data = {"x": rows("global")["x"] + shift}
        fit(model, guide, data, stages=Stage("a", 300, learning_rate=0.05, trainable=("guide.*",)))
        finals.append(guide.locs.m.item())
    assert finals[1] - finals[0] > 3.0
    assert len(pyro.get_param_store()) == 0


def test_the_world_is_left_as_it_was_found() -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    import signal

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    flags = pyro.settings.get()
    model, guide = pair()
    guide.eval()
    fit(model, guide, rows(), stages=Stage("a", 3))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert pyro.settings.get() == flags
    assert model.training
    assert not guide.training


def test_the_callers_random_state_does_not_matter_and_the_seed_does() -> None:
    ends = []
    for noise, seed in ((1, 0), (2, 0), (1, 1)):
        model, guide = pair()
        torch.manual_seed(noise)
        fit(model, guide, rows(), stages=Stage("a", 10, batch_size=16), seed=seed)
        ends.append(flat(model, guide))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


class WithBaseline(nn.Module):
    """A custom objective with a parameter of its own."""

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.inner = objectives.make("elbo")(model, guide)
        self.offset = nn.Parameter(torch.tensor(1.0))

    def forward(self, **batch: Tensor) -> Tensor:
        return self.inner(**batch) + len(batch["x"]) * self.offset**2


class Bare(WithBaseline):
    """Another one."""


def test_a_custom_objective_brings_its_own_parameters() -> None:
    model, guide = pair()
    recorder = Recorder(lambda s: len(s.optimizer.param_groups[0]["params"]))
    fit(model, guide, rows(), stages=Stage("a", 3, objective=WithBaseline), callbacks=[recorder])
    assert recorder.seen["on_stage"] == [6]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", lambda p, lr: torch.optim.Adagrad(p, lr=lr)])
def test_every_optimiser_lowers_the_loss(optimizer: Any) -> None:
    model, guide = pair()
    history = fit(model, guide, rows(), stages=Stage("a", 100, optimizer=optimizer, learning_rate=1e-2), log_every=10)
    assert history.loss[-1] < history.loss[0] - 0.3


def test_clipping_bounds_the_step() -> None:
    model, guide = pair()
    start = flat(model, guide)
    fit(model, guide, rows(), stages=Stage("a", 1, optimizer="sgd", learning_rate=1.0, clip=0.01))
    assert float((flat(model, guide) - start).norm()) == pytest.approx(0.01, rel=1e-3)


def test_callbacks_are_told_everything_in_order_and_may_add_metrics() -> None:
    model, guide = pair()
    recorder = Recorder()

    class Adds:
        def on_step(self, state: Any) -> None:
            state.metrics["double"] = 2.0 * state.step

    stages = [Stage("a", 4), Stage("b", 3)]
    history = fit(model, guide, rows(), stages=stages, callbacks=[recorder, Adds()], checkpoint_every=3)
    assert recorder.seen == {
        "on_start": [0],
        "on_stage": [0, 4],
        "on_step": [1, 2, 3, 4, 5, 6, 7],
        "on_stage_end": [4, 7],
        "on_checkpoint": [3, 4, 6, 7],
        "on_end": [7],
    }
    assert [r["double"] for r in history.records] == [8.0, 14.0]
    with pytest.raises(ConfigError, match="none of the methods"):
        fit(model, guide, rows(), stages=stages, callbacks=[object()])


def test_callbacks_see_the_objective_of_each_stage_and_the_validation_rows() -> None:
    seen = []

    class Looks:
        def on_stage(self, state: Any) -> None:
            seen.append((type(state.objective), len(state.valid)))

    model, guide = pair()
    stages = [Stage("a", 2, objective=WithBaseline), Stage("b", 2, objective=Bare)]
    fit(model, guide, rows(), stages=stages, valid=rows(seed=9), callbacks=[Looks()])
    assert seen == [(WithBaseline, len(rows(seed=9)["x"])), (Bare, len(rows(seed=9)["x"]))]


def test_early_stopping_ends_training_when_validation_gets_no_better() -> None:
    model, guide = pair()
    stage = Stage("a", 1000, optimizer="sgd", learning_rate=1e-12)
    stopper = EarlyStopping(patience=3, least=1e-6)
    history = fit(model, guide, rows(), stages=stage, valid=rows(seed=9), callbacks=[stopper], checkpoint_every=10)
    assert history.steps[-1] == 40  # the first checkpoint sets the mark, three more do not beat it
    assert history.interrupted
    assert "valid_loss" in history.records[-1]
    with pytest.raises(ConfigError, match="valid="):
        fit(model, guide, rows(), stages=stage, callbacks=[EarlyStopping()], checkpoint_every=1)


def test_validation_does_not_disturb_training() -> None:
    ends = []
    for valid in (None, rows(seed=9)):
        model, guide = pair()
        fit(model, guide, rows(), stages=Stage("a", 20), valid=valid, checkpoint_every=2)
        ends.append(flat(model, guide))
    assert torch.equal(*ends)


class NoPlate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(self.loc, 1.0), obs=x)


class OwnSubsample(NoPlate):
    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", 60, subsample_size=5) as index:
            pyro.sample("x", dist.Normal(self.loc, 1.0), obs=x[index])


def test_pairs_whose_loss_per_datum_cannot_be_told_are_refused() -> None:
    data = rows("global")
    with pytest.raises(ConfigError, match="no site of the model lies inside a plate named 'data'"):
        fit(NoPlate(), None, data, stages=Stage("a", 1))
    with pytest.raises(ConfigError, match="has size 60 and draws 5 rows itself"):
        fit(OwnSubsample(), None, data, stages=Stage("a", 1))
    model, guide = pair("sampled")
    with pytest.raises(ConfigError, match=r"needs reparameterised guide sites; 'k' is a Categorical"):
        fit(model, guide, data, stages=Stage("a", 1, objective=RenyiELBO()))


def test_bad_arguments_are_named() -> None:
    model, guide = pair()
    stage = Stage("a", 1)
    with pytest.raises(DataError, match="data: there is no row"):
        fit(model, guide, {"x": torch.zeros(0, 3)}, stages=stage)
    with pytest.raises(DataError, match="data: a Tensor"):
        fit(model, guide, torch.zeros(3, 3), stages=stage)
    with pytest.raises(ShapeError, match="differ in their first dimension"):
        fit(model, guide, {"x": torch.zeros(3, 3), "y": torch.zeros(2)}, stages=stage)
    with pytest.raises(ConfigError, match="guide: a function"):
        fit(model, lambda x: None, rows(), stages=stage)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least one Stage"):
        fit(model, guide, rows(), stages=[])
    with pytest.raises(ConfigError, match="resume='yes'"):
        fit(model, guide, rows(), stages=stage, resume="yes")
    with pytest.raises(ConfigError, match="give out="):
        fit(model, guide, rows(), stages=stage, resume=True)
    with pytest.raises(ConfigError, match="log_every=0"):
        fit(model, guide, rows(), stages=stage, log_every=0)
    with pytest.raises(UnknownNameError, match="progress style"):
        fit(model, guide, rows(), stages=stage, progress="loud")


def test_json_progress_prints_one_line_per_record_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    model, guide = pair()
    fit(model, guide, rows(), stages=Stage("a", 100), progress="json")
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.err.splitlines()]
    assert [line["step"] for line in lines] == [50, 100]
    assert captured.out == ""
    assert {"stage", "loss", "grad_norm", "learning_rate", "rate", "seconds", "skipped"} <= lines[0].keys()


def test_the_bar_runs_off_a_terminal_too(capsys: pytest.CaptureFixture[str]) -> None:
    model, guide = pair()
    fit(model, guide, rows(), stages=Stage("a", 20), progress="bar")
    assert "20/20" in capsys.readouterr().err
    fit(model, guide, rows(), stages=Stage("a", 20))  # "auto" stays quiet here
    assert capsys.readouterr().err == ""


def test_a_guide_point_of_a_global_site_trains_with_the_right_weight() -> None:
    model, guide = GlobalMean(), GlobalGuide(point=False)
    history = fit(model, guide, rows("global", 50), stages=Stage("a", 50, objective="mean_field", learning_rate=0.05))
    assert np.isfinite(history.loss).all()
