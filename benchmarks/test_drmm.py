"""What DRMM costs: a training step against the same loss by hand, and sampling.

    python -P -m pytest benchmarks/test_drmm.py -m bench -s

Process time on one thread, medians over interleaved rounds.
"""

from __future__ import annotations

import math
import shutil
import statistics
import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from phlogiston import datasets
from phlogiston.inference.svi.engine import fit
from phlogiston.systems.drmm.system import DRMM

from .rows import Rows

STEPS, ROUNDS, BATCH, WIDTH, K = 150, 7, 256, 8, 16
OPTIONS = {"num_layers": 3, "num_components": K, "frame": "diag", "beam": WIDTH, "parameter_prior": False}

pytestmark = [pytest.mark.bench, pytest.mark.usefixtures("one_thread")]


def loss_by_hand(p: dict[str, Tensor], x: Tensor, weight: float) -> Tensor:
    """Nested beam loss of three `diag` layers with an autoregressive prior, nothing but tensors."""
    n = len(x)
    u = ((x - p["location"]) / p["scale"]).unsqueeze(1)
    base = x.new_zeros(n, 1)
    codes: list[Tensor] = []
    terms = []
    for l in range(3):
        logits = p[f"bias{l}"]
        for j, code in enumerate(codes):
            logits = logits + torch.nn.functional.embedding(code, p[f"table{l}{j}"])
        w = torch.exp(-p[f"log_scale{l}"].clamp(min=math.log(1e-3)))
        r = (u.unsqueeze(2) - p[f"mean{l}"]) * w
        log_det = w.log().sum(-1)
        score = base.unsqueeze(-1) + logits.log_softmax(-1) + log_det
        joint = (score - 0.5 * (r.square().sum(-1) + 2 * math.log(2 * math.pi))).flatten(1)
        terms.append(joint.logsumexp(-1))
        if l < 2:
            best = joint.detach().topk(min(WIDTH, joint.shape[1]), -1, sorted=False).indices
            parent, code = best.div(K, rounding_mode="floor"), best % K
            codes = [c.gather(1, parent) for c in codes] + [code]
            base = score.expand(n, -1, K).flatten(1).gather(1, best)
            u = r.flatten(1, 2).gather(1, best.unsqueeze(-1).expand(-1, -1, 2))
    jacobian = -p["scale"].log().sum()
    return -(terms[2] + weight * (terms[0] + terms[1]) + (1 + 2 * weight) * jacobian).sum()


def hand_parameters(system: DRMM) -> dict[str, Tensor]:
    model = system.model
    p = {"location": model.location.float(), "scale": model.scale.float()}
    for l, frame in enumerate(model.layers):
        p[f"mean{l}"], p[f"log_scale{l}"] = frame.mean, frame.log_scale
        p[f"bias{l}"] = model.prior.bias[l]
        for j in range(l):
            p[f"table{l}{j}"] = model.prior.tables[f"{l}_{j}"]
    return {k: v.detach().clone().requires_grad_(k not in ("location", "scale")) for k, v in p.items()}


def train_by_hand(p: dict[str, Tensor], x: Tensor, steps: int) -> None:
    parameters = [v for v in p.values() if v.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.01, fused=True)
    for step in range(steps):
        progress = step / steps
        optimizer.param_groups[0]["lr"] = 0.01 * (1.0 if progress < 0.5 else 2 - 2 * progress)
        batch = x[torch.randint(len(x), (BATCH,))]
        optimizer.zero_grad(set_to_none=True)
        (loss_by_hand(p, batch, 1.0 - 0.9 * progress) / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()


def test_a_training_step_costs_at_most_a_quarter_more_than_by_hand() -> None:
    data = datasets.load("swissroll")
    x = data.train.tensors["x"]
    system = DRMM(OPTIONS, steps=STEPS, batch_size=BATCH).fit(data, steps=STEPS, progress="off")
    p = hand_parameters(system)
    collapsed, _ = system.training_pair()
    stage = system.stages()[0]
    beam = system.model.find(x[:BATCH], width=WIDTH)
    ours = -(beam.nested[:, -1] + 0.5 * beam.nested[:, :-1].sum(-1) + 2 * system.model.log_jacobian()).sum()
    torch.testing.assert_close(loss_by_hand(p, x[:BATCH], 0.5), ours, rtol=1e-5, atol=1e-2)  # the same loss
    hand, engine = [], []
    for turn in range(ROUNDS + 1):
        began = time.process_time()
        train_by_hand(p, x, STEPS)
        middle = time.process_time()
        fit(collapsed, None, data.train, stages=stage, progress="off")
        ended = time.process_time()
        if turn:
            hand.append((middle - began) / STEPS * 1e3)
            engine.append((ended - middle) / STEPS * 1e3)
    ratio = statistics.median(e / h for e, h in zip(engine, hand, strict=True))
    print(
        f"\nDRMM diag 3x16, beam {WIDTH}, batch {BATCH}: by hand {statistics.median(hand):.2f} ms, "
        f"engine {statistics.median(engine):.2f} ms a step, ratio {ratio:.3f}, "
        f"{1e3 / statistics.median(engine):.0f} steps/s"
    )
    assert ratio <= 1.25


def test_sampling_speed() -> None:
    system = DRMM(preset="swissroll", num_layers=3, steps=20).fit(datasets.load("swissroll"), progress="off")
    print()
    for n in (1_000, 10_000, 100_000):
        times = []
        for _ in range(30):
            began = time.process_time()
            system.sample(n)
            times.append(time.process_time() - began)
        print(f"tril 3x16, {n:>7} rows a call: {n / statistics.median(times) / 1e6:6.2f} million rows per CPU second")
    rows = []
    for layers in (1, 2, 3, 4, 5):
        deep = DRMM(OPTIONS, num_layers=layers, steps=2).fit(datasets.load("swissroll"), progress="off")
        began = time.process_time()
        for _ in range(10):
            deep.model.draw(deep.model.draw_paths(10_000))
        rows.append((layers, (time.process_time() - began) / 10 * 1e3))
    print("layer by layer, 10,000 rows: " + ", ".join(f"{layers} layers {ms:.1f} ms" for layers, ms in rows))
    # each layer past the first (a single table look-up) costs about the same
    assert rows[4][1] < 3 * 5 / 2 * rows[1][1]


def test_a_compiled_training_step(row: Rows) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("needs a C++ compiler")
    data = datasets.load("swissroll")
    systems = {on: DRMM(OPTIONS, compile=on).fit(data, steps=2, progress="off") for on in (False, True)}

    def train(on: bool) -> None:
        stage = replace(systems[on].stages()[0], steps=200)
        fit(systems[on].training_pair()[0], None, data.train, stages=stage, progress="off")

    row(
        "drmm/compiled",
        work="200 training steps of a DRMM, `diag` 3x16, batch 256, with `compile=true` once it is compiled",
        ours=lambda: train(True),
        alternative=lambda: train(False),
        against="without",
        bar=0.5,
        rounds=7,
    )
