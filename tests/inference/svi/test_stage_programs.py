"""A stage may run other programs made of the pair's parts, on batches of its own making."""

from __future__ import annotations

import contextlib
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from inference_pairs import GaussianGuide, LinearGaussian
from torch import Tensor, nn

from phlogiston.inference.svi.engine import Stage, fit
from phlogiston.inference.svi.handlers import setting
from phlogiston.inference.svi.schedules import linear


class NoLatent(nn.Module):
    """x ~ N(b, 1): uses the pair's bias and nothing else."""

    def __init__(self, whole: LinearGaussian) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.whole.linear.bias, 1.0).to_event(1), obs=x)


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> None:
        """No latent site."""


def simpler(model: nn.Module, guide: nn.Module) -> tuple[nn.Module, nn.Module]:
    assert isinstance(model, LinearGaussian)
    return NoLatent(model), Nothing()


def rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"x": torch.randn(64, 3, generator=generator) + 5.0}


def test_a_stage_trains_the_pairs_parameters_through_another_program() -> None:
    model, guide = LinearGaussian(), GaussianGuide()
    before = {n: p.detach().clone() for n, p in (*model.named_parameters(), *guide.named_parameters())}
    stage = Stage("bias", 150, learning_rate=0.2, batch_size=64, trainable=("model.linear.bias",), programs=simpler)
    history = fit(model, guide, rows(), stages=stage, progress="off")
    torch.testing.assert_close(model.linear.bias.detach(), rows()["x"].mean(0), atol=0.05, rtol=0.0)
    for name, value in (*model.named_parameters(), *guide.named_parameters()):
        assert torch.equal(before[name], value.detach()) == (name != "linear.bias"), name
    assert history.finished
    assert stage.describe()["programs"] == "simpler"
    assert "transform" not in Stage("plain", 1).describe()


def test_a_transform_makes_the_batches_and_its_noise_belongs_to_the_step(tmp_path: Any) -> None:
    def shifted(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": batch["x"] + torch.randn(()) + 10.0}

    class Stop:
        def on_step(self, state: Any) -> None:
            if state.step == 12:
                raise KeyboardInterrupt

    def run(out: Any, callbacks: Any = ()) -> LinearGaussian:
        torch.manual_seed(1)
        model, guide = LinearGaussian(), GaussianGuide()
        stages = [
            Stage("bias", 10, batch_size=16, trainable=("model.linear.bias",), programs=simpler, transform=shifted),
            Stage("all", 10, batch_size=16, transform=shifted, objective="mean_field"),
        ]
        options: dict[str, Any] = {"out": out, "progress": "off", "tensorboard": False, "checkpoint_every": 4}
        fit(model, guide, rows(), stages=stages, callbacks=callbacks, **options)
        return model

    whole = run(None)
    with contextlib.suppress(KeyboardInterrupt):
        run(tmp_path / "run", [Stop()])
    resumed = run(tmp_path / "run")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    far = LinearGaussian()
    fit(far, GaussianGuide(), rows(), stages=Stage(
        "bias", 200, learning_rate=0.3, trainable=("model.linear.bias",), programs=simpler, transform=shifted
    ), progress="off")  # fmt: skip
    assert float(far.linear.bias.detach().mean()) > 13.0


def test_a_transform_may_ask_which_rows_its_batch_was_read_from() -> None:
    class Counting:
        takes_rows = True

        def __init__(self) -> None:
            self.sizes: set[int] = set()

        def __call__(self, batch: dict[str, Tensor], rows: Any) -> dict[str, Tensor]:
            self.sizes.add(len(rows))
            return batch

    transform = Counting()
    stage = Stage("all", 4, batch_size=16, transform=transform)
    valid = {"x": rows()["x"][:20]}
    fit(LinearGaussian(), GaussianGuide(), rows(), stages=stage, valid=valid, progress="off")
    assert transform.sizes == {64, 20}  # training and validation rows


def test_a_schedule_moves_a_setting_and_the_end_of_the_stage_puts_it_back() -> None:
    model, guide = LinearGaussian(), GaussianGuide()
    seen: list[float] = []

    class Look(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, **batch: Any) -> None:
            seen.append(model.scale)
            self.inner(**batch)

    stage = Stage(
        "all", 5, schedules={"noise.value": linear(1.0, 3.0)}, handlers={"noise": setting(model, "scale", 0.7)},
        programs=lambda m, g: (Look(m), g),
    )  # fmt: skip
    fit(model, guide, rows(), stages=stage, progress="off")
    assert seen[-5:] == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert model.scale == 0.7
