"""How CPU time and memory of a training step grow with what a user may enlarge, against what theory says.

python -P -m pytest benchmarks/test_growth.py -m bench -q -s

An exponent is the slope of a line fitted to the logarithms. Memory is what the step keeps for its backward pass, in
bytes of distinct tensors, which no other process disturbs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

from phlogiston import datasets
from phlogiston.models.drmm import DRMM, CollapsedDRMM
from phlogiston.models.sequence import MDNRNN
from phlogiston.systems.scene.system import Scene
from phlogiston.systems.sqair.system import SQAIR

from .rows import Rows, cpu_seconds, shown

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore")]
SLACK = 0.15

Step = Callable[[], Tensor]


def kept_bytes(loss: Step) -> int:
    """Bytes that a loss keeps for its gradients."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = loss()  # held, so that no storage is used twice
    assert value.requires_grad
    return sum(kept.values())


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def record(row: Rows, name: str, what: str, sizes: Sequence[int], losses: Sequence[Step], theory: float) -> None:
    """One row for the time of loss and gradient, one for the memory."""
    with pyro.validation_enabled(False):
        times = [cpu_seconds([lambda loss=loss: loss().backward()], 4)[0] for loss in losses]
        memory = [kept_bytes(loss) for loss in losses]
    over = f"{what}, {' / '.join(map(str, sizes))}"
    row.figure(
        f"growth/{name}", f"growth exponent of the CPU time of a step in {over}", exponent(sizes, times),
        theory + SLACK, " / ".join(map(shown, times)), f"theory: {theory:g}",
    )  # fmt: skip
    row.figure(
        f"growth/{name}-memory", f"growth exponent of the memory of a step in {over}", exponent(sizes, memory),
        theory + SLACK, " / ".join(f"{m / 2**20:.3g} MiB" for m in memory), f"theory: {theory:g}",
    )  # fmt: skip


def drmm(rows: int = 64, features: int = 16, components: int = 16, after: int = 2) -> Step:
    torch.manual_seed(0)
    program = CollapsedDRMM(DRMM(features, 1 + after, components, "diag"), 8)
    x = torch.randn(rows, features)

    def loss() -> Tensor:
        trace = pyro.poutine.trace(program).get_trace(x=x)
        return -trace.log_prob_sum()

    return loss


@pytest.mark.parametrize(
    ("argument", "what", "sizes"),
    [
        ("rows", "the batch of a DRMM", (256, 512, 1024, 2048)),
        ("features", "D of a DRMM", (64, 128, 256, 512)),
        ("components", "K of a DRMM", (16, 32, 64, 128)),
        ("after", "the layers of a DRMM after the first, which has no beam before it", (2, 4, 8)),
    ],
)
def test_drmm(row: Rows, argument: str, what: str, sizes: Sequence[int]) -> None:
    record(row, f"drmm-{argument}", what, sizes, [drmm(**{argument: size}) for size in sizes], 1.0)


def test_steps_of_a_sequence(row: Rows) -> None:
    torch.manual_seed(0)
    model, sizes = MDNRNN(2, num_components=5), (32, 64, 128, 256)

    def of(steps: int) -> Step:
        x = torch.randn(16, steps, 2)
        length = torch.full((16,), steps)

        def loss() -> Tensor:
            trace = pyro.poutine.trace(model).get_trace(x=x, length=length)
            return -trace.log_prob_sum()

        return loss

    record(row, "sequence-steps", "T of a sequence", sizes, [of(steps) for steps in sizes], 1.0)


def sqair(slots: int = 3, particles: int = 5) -> Step:
    videos = datasets.load("moving_digits", sizes=(8, 2, 2), frames=3)
    system = SQAIR(steps=1, slots=slots, lengths=(3,), shares=(1.0,), batch_size=4).fit(videos, progress="off")
    x = videos.train.tensors["x"][:8].float()
    if videos.train.tensors["x"].dtype == torch.uint8:
        x = x / 255

    def loss() -> Tensor:
        with pyro.plate("particles", particles, dim=-3):
            guide = pyro.poutine.trace(system.guide).get_trace(x=x)
            model = pyro.poutine.trace(pyro.poutine.replay(system.model, trace=guide)).get_trace(x=x)
        return guide.log_prob_sum() - model.log_prob_sum()

    return loss


@pytest.mark.parametrize(
    ("argument", "what", "sizes"),
    [("slots", "the slots of SQAIR", (2, 4, 8)), ("particles", "the particles of SQAIR", (4, 8, 16))],
)
def test_sqair(row: Rows, argument: str, what: str, sizes: Sequence[int]) -> None:
    record(row, f"sqair-{argument}", what, sizes, [sqair(**{argument: size}) for size in sizes], 1.0)


def test_views_of_a_scene(row: Rows) -> None:
    data = datasets.load("courts", sizes=(8, 2, 4), views=8, size=16)
    options: dict[str, Any] = {"steps": 1, "draft_steps": 1, "batch_size": 2, "context": 4, "queries": 2}
    model, sizes = Scene(**options).fit(data, progress="off").model, (16, 32, 64, 128)
    generator = torch.Generator().manual_seed(0)

    def of(views: int) -> Step:
        images = torch.rand(2, views, 3, 16, 16, generator=generator)
        poses = torch.rand(2, views, 6, generator=generator) - 0.5

        def loss() -> Tensor:
            state = model.observe(images, poses, None, torch.zeros(2, 2), torch.ones(2, dtype=torch.long))
            return sum(codes.square().sum() for codes in state.codes)  # type: ignore[return-value]

        return loss

    record(row, "scene-views", "the views of a scene", sizes, [of(views) for views in sizes], 1.0)
