"""What a recurrent mixture density network costs: a training step, and one step in real time, against bare PyTorch.

    python -P -m pytest benchmarks/test_sequence.py -m bench -s

Process time on one thread, medians over interleaved rounds. Both sides have the same architecture and optimiser; the
hand-written side is what one would write without a library. The Keras layer's README reports 19 ms (`predict`) and
75 ms (`__call__`) for one step of a smaller LSTM 64 x 2.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.inference.svi.engine import fit
from phlogiston.models.generation import Stream
from phlogiston.models.sequence import MDNRNN
from phlogiston.systems.sequence.system import SequenceModel

ROUNDS = 9
KERAS = 0.019  # seconds per step, the faster of its two ways

pytestmark = [pytest.mark.bench, pytest.mark.usefixtures("one_thread")]


class ByHand(nn.Module):
    """A recurrent network with three linear heads over columns with independent normals, as tutorials write it."""

    def __init__(self, features: int, targets: int, hidden: int, layers: int, k: int) -> None:
        super().__init__()
        self.k, self.d = k, targets
        self.rnn = nn.LSTM(features, hidden, layers, batch_first=True)
        self.pi, self.mu, self.sigma = (
            nn.Linear(hidden, k),
            nn.Linear(hidden, k * targets),
            nn.Linear(hidden, k * targets),
        )

    def parts(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu = self.mu(h).unflatten(-1, (self.k, self.d))
        sigma = self.sigma(h).clamp(-7, 7).exp().unflatten(-1, (self.k, self.d)) + 1e-3
        return self.pi(h), mu, sigma

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pi, mu, sigma = self.parts(self.rnn(x)[0])
        z = (y.unsqueeze(-2) - mu) / sigma
        component = (-0.5 * z * z - sigma.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
        return -torch.logsumexp(pi.log_softmax(-1) + component, -1).mean()

    @torch.inference_mode()
    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, state = self.rnn(x.unsqueeze(1), state)
        pi, mu, sigma = self.parts(out[:, 0])
        k = torch.multinomial(pi.softmax(-1), 1)
        place = k.unsqueeze(-1).expand(-1, 1, self.d)
        value = torch.normal(mu.gather(1, place), sigma.gather(1, place)).squeeze(1)
        return value, state


def rounds(a: Callable[[], None], b: Callable[[], None], times: int) -> tuple[float, float, float]:
    """Seconds per call of both, and the median ratio of b to a, over interleaved rounds."""
    first, second = [], []
    for turn in range(ROUNDS + 2):
        marks = [time.process_time()]
        for call in (a, b):
            for _ in range(times):
                call()
            marks.append(time.process_time())
        if turn >= 2:  # the first rounds warm caches and allocator
            first.append((marks[1] - marks[0]) / times)
            second.append((marks[2] - marks[1]) / times)
    ratio = statistics.median(y / x for x, y in zip(first, second, strict=True))
    return statistics.median(first), statistics.median(second), ratio


def test_one_step_in_real_time_costs_little_more_than_bare_pytorch() -> None:
    model = MDNRNN(3, levels=[0, 1], positive=[2], hidden=256, layers=2, num_components=5).eval()
    hand = ByHand(model.num_features, 3, 256, 2, 5).eval()
    stream = Stream(model, model.start(1), 0)
    held: list[tuple[Tensor, Tensor] | None] = [None]
    x = torch.zeros(1, model.num_features)

    def bare() -> None:
        _, held[0] = hand.step(x, held[0])

    bare_time, ours, ratio = rounds(bare, lambda: (stream.step(), None)[1], 60)
    print(f"\none step, LSTM 256 x 2, batch 1: {1e3 * ours:.3f} ms, bare {1e3 * bare_time:.3f} ms, ratio {ratio:.3f}")
    assert ratio <= 1.3
    assert ours <= KERAS / 10


@pytest.mark.parametrize("grid", [0.0, 1e-3])
def test_a_training_step_costs_little_more_than_bare_pytorch(grid: float) -> None:
    """The same architecture trained by hand, without the features, units and carried state the engine's side has.

    With a grid the engine's side computes probabilities of cells, which the other side does not: shown, not judged.
    """
    steps, batch, time_steps = 6, 64, 50
    torch.manual_seed(0)
    x = torch.rand(512, time_steps, 3)
    data = Dataset(
        Split({"x": x, "length": torch.full((512,), time_steps)}), Split({"x": x[:0], "length": torch.zeros(0).long()}),
        Split({"x": x[:0], "length": torch.zeros(0).long()}), Meta("noise", columns=("x", "y", "dt")),
    )  # fmt: skip
    system = SequenceModel(hidden=256, layers=2, num_components=5, steps=steps, batch_size=batch, grid=grid)
    system.fit(data, progress="off")
    rows = system.prepare(data.train)
    net = ByHand(system.model.num_features, 3, 256, 2, 5)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    features = torch.rand(512, time_steps, system.model.num_features)

    def by_hand() -> None:
        for index in torch.randperm(512).split(batch)[:steps]:
            loss = net(features[index], x[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise RuntimeError("the loss is not finite")

    bare, ours, ratio = rounds(
        by_hand, lambda: (fit(system.model, None, rows, stages=system.stages(), progress="off"), None)[1], 1
    )
    scale = 1e3 / steps
    print(
        f"\ntraining step, T = 50, batch 64, grid {grid:g}: {scale * ours:.1f} ms, bare {scale * bare:.1f} ms, "
        f"ratio {ratio:.3f}"
    )
    if not grid:
        assert ratio <= 1.10
