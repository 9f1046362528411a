"""Parameters with an entry per data point: right in full batch and by row number, refused where they go by position.

In all tests z_i ~ N(0, 1) and x_i | z_i ~ N(z_i, 0.1), so that z_i | x_i ~ N(x_i / 1.01, 0.01 / 1.01).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGaussian,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalMessenger,
    AutoStructured,
)
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.inference import Stage, fit
from phlogiston.inference.svi.batches import Order

N = 22
X = torch.randn(N, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def forward(self, x: Tensor, row_index: Tensor | None = None, id: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)


class PerRow(nn.Module):
    """A location for each row, chosen by `choose`."""

    def __init__(self, entries: int, choose: Callable[..., Tensor]) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(entries))
        self.log_scale = nn.Parameter(torch.tensor(-1.0))
        self.choose = choose

    def forward(self, x: Tensor, row_index: Tensor | None = None, id: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            loc = self.choose(self.loc, x=x, row_index=row_index, id=id)
            pyro.sample("z", dist.Normal(loc, self.log_scale.exp()))


class Amortised(nn.Module):
    """A network as wide as the batch, with dropout: nothing in it belongs to a row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 1))
        self.shared = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, row_index: Tensor | None = None, id: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x[:, None])[:, 0] + self.shared.mean(), 0.1))


def recipe(batch_size: int, steps: int = 3, rate: float = 0.05) -> list[Stage]:
    return [Stage("coarse", steps, learning_rate=rate, batch_size=batch_size)]


def positions(loc: Tensor, x: Tensor, **_: Any) -> Tensor:
    return loc[: len(x)]


def numbers(loc: Tensor, row_index: Tensor, **_: Any) -> Tensor:
    return loc[row_index]


GUIDES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "AutoNormal": AutoNormal,
    "AutoDiagonalNormal": AutoDiagonalNormal,
    "AutoDelta": AutoDelta,
    "AutoStructured": AutoStructured,
    "AutoGaussian": AutoGaussian,
    "own": lambda model: PerRow(N, positions),
}


@pytest.mark.parametrize("name", GUIDES)
def test_in_full_batch_every_row_finds_its_posterior_and_a_killed_run_goes_on(name: str, tmp_path: Path) -> None:
    class Cut:
        def on_step(self, state: Any) -> None:
            if state.step == 130:
                raise KeyboardInterrupt

    def train(out: Path, **more: Any) -> nn.Module:
        model = Model()
        guide = GUIDES[name](model)
        stages = [*recipe(N, 120, 0.1), Stage("fine", 80, learning_rate=0.01, batch_size=1000)]
        quiet = {"progress": "off", "tensorboard": False, "checkpoint_every": 50}
        fit(model, guide, {"x": X}, stages=stages, out=out, **quiet, **more)
        return guide

    guide = train(tmp_path / "whole")
    found = guide.loc if name == "own" else guide.median(X)["z"]
    assert (found.detach() - X / 1.01).abs().max().item() < 0.1  # one posterior standard deviation
    assert (found.detach() - X / 1.01).abs().mean().item() < 0.04
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", callbacks=[Cut()])
    again = train(tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(guide.parameters(), again.parameters(), strict=True))


def test_by_row_number_minibatches_do_as_well_the_short_last_one_included() -> None:
    seen: list[Tensor] = []

    def choose(loc: Tensor, x: Tensor, row_index: Tensor, **_: Any) -> Tensor:
        assert torch.equal(X[row_index], x)
        seen.append(row_index)
        return loc[row_index]

    guide = PerRow(N, choose)
    stages = [*recipe(5, 400, 0.1), Stage("fine", 300, learning_rate=0.01, batch_size=5)]
    fit(Model(), guide, {"x": X}, stages=stages, progress="off")
    assert {len(index) for index in seen} == {5, 2}
    assert (guide.loc.detach() - X / 1.01).abs().max().item() < 0.1


def two(model: nn.Module) -> nn.Module:
    out = AutoGuideList(model)
    out.append(AutoNormal(pyro.poutine.block(model, expose=["z"])))
    return out


@pytest.mark.parametrize("size", [1, 2, 7, N - 1])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (AutoNormal, "'z'"),
        (AutoDiagonalNormal, "'z'"),
        (AutoDelta, "'z'"),
        (AutoMultivariateNormal, "'z'"),
        (AutoStructured, "'z'"),
        (AutoGaussian, "'z'"),
        (two, "'z'"),
        (AutoNormalMessenger, r"guide\.locs\.z_unconstrained"),
        (lambda model: PerRow(N, positions), r"guide\.loc"),
        (lambda model: PerRow(N, lambda loc, **_: loc), r"guide\.loc"),
    ],
)
def test_by_position_minibatches_are_refused_by_name(size: int, make: Any, name: str) -> None:
    if size == 1 and name != "'z'":
        pytest.skip("one row: a parameter of one entry may as well be shared")
    model = Model()
    with pytest.raises(ConfigError, match=rf"stage 'coarse'.*{name}.*batch.*row_index.*batch_size={N}"):
        fit(model, make(model), {"x": X}, stages=recipe(size), progress="off")


@pytest.mark.parametrize("size", [2, 3, 16])
def test_an_own_parameter_as_long_as_the_batch_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=r"guide\.loc"):
        fit(Model(), PerRow(size, positions), {"x": X}, stages=recipe(size), progress="off")


@pytest.mark.parametrize("size", [1, 2, 7, N - 1])
def test_what_belongs_to_no_position_is_let_through(size: int) -> None:
    data = {"x": X, "id": torch.arange(N)}
    for guide in (
        Amortised(size),
        Amortised(N),
        PerRow(N, numbers),
        PerRow(N, lambda loc, id, **_: loc[id]),  # looked up by a column of the data
        PerRow(size, lambda loc, x, **_: loc.mean() + 0 * x),
        AutoNormalMessenger(Model(), amortized_plates=("data",)),
    ):
        fit(Model(), guide, data, stages=recipe(size), progress="off")


class Subsampling(nn.Module):
    """Pyro's own way: the plate is over all rows, and holds those of the batch. `m` is shared, and has a prior."""

    def forward(self, x: Tensor, row_index: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", N, subsample=row_index):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)


class Plain(nn.Module):
    def forward(self, x: Tensor, row_index: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)


class PlainPoint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(()))
        self.z = nn.Parameter(torch.zeros(N))

    def forward(self, x: Tensor, row_index: Tensor) -> None:
        pyro.sample("m", dist.Delta(self.m))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(self.z[row_index]))


def plates(x: Tensor, row_index: Tensor) -> Any:
    return pyro.plate("data", N, subsample=row_index)


@pytest.mark.parametrize("size", [5, N])
def test_autoguides_over_a_subsampled_plate_train_by_row_number_and_count_every_row_once(size: int) -> None:
    model = Subsampling()
    guide = AutoDelta(model, init_loc_fn=lambda site: torch.zeros(site["fn"].shape()), create_plates=plates)
    point = PlainPoint()
    stages = recipe(size, 60, 0.1)
    first = fit(model, guide, {"x": X}, stages=stages, progress="off", log_every=10)
    second = fit(Plain(), point, {"x": X}, stages=stages, progress="off", log_every=10)
    assert first.loss == pytest.approx(second.loss, rel=1e-5)
    assert torch.allclose(guide.z, point.z, atol=1e-5)
    assert torch.allclose(guide.m, point.m, atol=1e-5)


@pytest.mark.parametrize("auto", [AutoNormal, AutoNormalMessenger])
def test_autoguides_over_a_subsampled_plate_find_every_rows_posterior(auto: Any) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor, row_index: Tensor) -> None:
            with pyro.plate("data", N, subsample=row_index):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 0.1), obs=x)

    model = Model()
    guide = AutoNormal(model, create_plates=plates) if auto is AutoNormal else auto(model)
    stages = [*recipe(8, 250, 0.1), Stage("fine", 250, learning_rate=0.01, batch_size=8)]
    fit(model, guide, {"x": X}, stages=stages, progress="off")
    assert (guide.locs.z.detach() - X / 1.01).abs().max().item() < 0.1


def test_a_plate_that_draws_rows_itself_is_refused() -> None:
    class Draws(nn.Module):
        def forward(self, x: Tensor, row_index: Tensor) -> None:
            with pyro.plate("data", N, subsample_size=5):
                pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ConfigError, match=r"draws 5 rows itself.*subsample=row_index"):
        fit(Draws(), AutoNormal(Draws()), {"x": X}, stages=recipe(5), progress="off")


def test_parameters_of_the_model_are_looked_at_too() -> None:
    class Offsets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(N))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.offset[: len(x)], 1.0), obs=x)

    fit(Offsets(), None, {"x": X}, stages=recipe(N), progress="off")
    with pytest.raises(ConfigError, match=r"model\.offset"):
        fit(Offsets(), None, {"x": X}, stages=recipe(7), progress="off")


def test_validation_rows_have_no_parameters_of_their_own() -> None:
    for guide in (AutoNormal(Model()), PerRow(N, positions)):
        with pytest.raises(ConfigError, match="Leave valid out"):
            fit(Model(), guide, {"x": X}, stages=recipe(N), valid={"x": X}, progress="off")
    for size in (5, N):
        with pytest.raises(ConfigError, match=r"row_index.*Leave valid out"):
            fit(Ask(), PerRow(N, numbers), {"x": X}, stages=recipe(size), valid={"x": X}, progress="off")
    fit(Deaf(), DeafGuide(), {"x": X}, stages=recipe(N), valid={"x": X}, progress="off")


class Ask(Model):
    pass


class Deaf(nn.Module):
    def forward(self, x: Tensor) -> None:
        Model.forward(self, x)  # type: ignore[arg-type]


class DeafGuide(Amortised):
    def __init__(self) -> None:
        super().__init__(N)

    def forward(self, x: Tensor) -> None:
        super().forward(x)


def test_one_program_that_does_not_take_row_index_is_named() -> None:
    with pytest.raises(ConfigError, match="the guide takes 'row_index', so the model must take it"):
        fit(Deaf(), PerRow(N, numbers), {"x": X}, stages=recipe(5), progress="off")
    with pytest.raises(ConfigError, match="the model takes 'row_index', so the guide must take it"):
        fit(Model(), DeafGuide(), {"x": X}, stages=recipe(5), progress="off")
    fit(Model(), AutoNormal(Model()), {"x": X}, stages=recipe(N), progress="off")  # takes what its model takes


def test_a_column_of_that_name_is_the_callers() -> None:
    seen: list[Tensor] = []

    def choose(loc: Tensor, row_index: Tensor, **_: Any) -> Tensor:
        seen.append(row_index)
        return loc[row_index]

    data = {"x": X, "row_index": torch.arange(N).flip(0)}
    fit(Model(), PerRow(N, choose), data, stages=recipe(N), progress="off")
    assert all(torch.equal(index, data["row_index"]) for index in seen[:1] + seen[-1:])


def test_full_batches_keep_the_order_and_others_do_not() -> None:
    for size in (N, N + 5):
        order = Order(N, size, seed=1, stage=0)
        assert all(order.batch(step)[0].tolist() == list(range(N)) for step in range(3))
    assert Order(N, N - 1, seed=1, stage=0).batch(0)[0].tolist() != list(range(N - 1))
