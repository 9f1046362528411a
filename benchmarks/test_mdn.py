"""What a mixture density network's training step costs, against bare PyTorch, and against the Keras layer where it is.

    python -P -m pytest benchmarks/test_mdn.py -m bench -s

Process time on one thread, medians over interleaved rounds. Both sides have the same architecture, batch size, fused
optimiser, one-cycle schedule and clipping; the hand-written side is what one would write without a library.
"""

from __future__ import annotations

import importlib
import math
import statistics
import time

import pytest
import torch
from torch import Tensor, nn

from phlogiston import datasets
from phlogiston.inference.svi.engine import fit
from phlogiston.systems.mdn.system import MDN

ROUNDS = 9

pytestmark = [pytest.mark.bench, pytest.mark.usefixtures("one_thread")]


class ByHand(nn.Module):
    """A body with three linear heads, as tutorials write it."""

    def __init__(self, hidden: int, k: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.pi, self.mu, self.sigma = (nn.Linear(hidden, k) for _ in range(3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.body(x)
        sigma = nn.functional.softplus(self.sigma(h)) + 1e-3
        z = (y - self.mu(h)) / sigma
        component = -0.5 * z * z - sigma.log() - 0.5 * math.log(2 * math.pi)
        return -torch.logsumexp(self.pi(h).log_softmax(-1) + component, -1).mean()


def train_by_hand(net: ByHand, x: Tensor, y: Tensor, steps: int, batch: int) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, fused=True, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps + 1)
    step = 0
    while True:
        for rows in torch.randperm(len(x)).split(batch):
            if step == steps:
                return
            loss = net(x[rows], y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            if not math.isfinite(loss.item()):
                raise RuntimeError("the loss is not finite")
            step += 1


def measure(hidden: int, k: int, batch: int, rows: int, steps: int) -> tuple[float, float, float]:
    """Milliseconds per step by hand and with the engine, and the median ratio of the rounds."""
    data = datasets.load("arcsine", sizes=(rows, 0, 1))
    x, y = data.train.tensors["x"], data.train.tensors["y"]
    net = ByHand(hidden, k)
    options = {"hidden": (hidden, hidden), "activation": "tanh", "num_components": k, "steps": steps}
    system = MDN(**options, batch_size=batch, weight_decay=0.0)
    hand, engine = [], []
    for turn in range(ROUNDS + 2):
        began = time.process_time()
        train_by_hand(net, (x - x.mean()) / x.std(), (y - y.mean()) / y.std(), steps, batch)
        middle = time.process_time()
        if turn == 0:
            system.fit(data, progress="off")  # builds the pair; later rounds train it only, as the other side does
        else:
            fit(system.model, None, system.prepare(data.train), stages=system.stages(), progress="off")
        ended = time.process_time()
        if turn >= 2:  # the first rounds warm caches and allocator
            hand.append((middle - began) / steps * 1e3)
            engine.append((ended - middle) / steps * 1e3)
    ratio = statistics.median(e / h for e, h in zip(engine, hand, strict=True))
    return statistics.median(hand), statistics.median(engine), ratio


def test_a_step_of_the_engine_costs_at_most_15_percent_more_than_by_hand() -> None:
    print(f"\n{'body':<12}{'K':>4}{'batch':>8}{'by hand, ms':>14}{'engine, ms':>14}{'ratio':>8}")
    ratios = []
    for hidden, k, batch, steps in ((15, 10, 128, 400), (128, 20, 512, 60)):
        hand, engine, ratio = measure(hidden, k, batch, 2550, steps)
        print(f"{f'{hidden}-{hidden}':<12}{k:>4}{batch:>8}{hand:>14.2f}{engine:>14.2f}{ratio:>8.3f}")
        ratios.append(ratio)
    assert max(ratios) <= 1.15


def test_five_members_as_one_batch_cost_less_than_five_networks() -> None:
    data = datasets.load("arcsine", sizes=(1000, 0, 1))
    seconds = {}
    for members in (1, 5):
        rounds = []
        for _ in range(4):
            began = time.process_time()
            MDN(members=members, steps=300).fit(data, progress="off")
            rounds.append(time.process_time() - began)
        seconds[members] = statistics.median(rounds[1:])
    print(
        f"\none network {seconds[1]:.2f} s, five as one batch {seconds[5]:.2f} s: {seconds[5] / seconds[1]:.2f} times"
    )
    assert seconds[5] < 4 * seconds[1]


def test_the_same_validation_nll_comes_three_times_sooner_than_with_the_keras_layer() -> None:
    try:
        keras_mdn, keras = importlib.import_module("keras_mdn_layer"), importlib.import_module("keras")
    except ImportError:
        pytest.skip("keras-mdn-layer is not installed; this comparison needs it and keras")
    data = datasets.load("arcsine")
    x, y = (data.train.numpy(name) for name in "xy")
    vx, vy = (data.valid.numpy(name) for name in "xy")
    model = keras.Sequential(
        [
            keras.layers.Input((1,)),
            keras.layers.Dense(15, activation="relu"),
            keras.layers.Dense(15, activation="relu"),
            keras_mdn.MDN(1, 10),
        ]
    )
    model.compile(loss=keras_mdn.get_mixture_loss_func(1, 10), optimizer=keras.optimizers.Adam())
    began = time.process_time()
    history = model.fit(x, y, batch_size=128, epochs=200, validation_data=(vx, vy), verbose=0)
    theirs, target = time.process_time() - began, min(history.history["val_loss"])
    for steps in (250, 500, 1000, 2000, 4000):  # the fewest steps that reach what 200 of their epochs reach
        began = time.process_time()
        system = MDN(preset="paper", steps=steps).fit(data, progress="off")
        ours = time.process_time() - began
        reached = -float(system.log_prob(data.valid).value.mean())
        if reached <= target:
            break
    print(f"\nKeras: {target:.3f} in {theirs:.1f} s; here: {reached:.3f} in {ours:.1f} s: {theirs / ours:.1f} times")
    assert reached <= target
    assert theirs / ours >= 3
