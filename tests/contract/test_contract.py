"""Every system keeps the contract that `phlogiston.testing` spells out; each clause is a test of its own."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.inference.svi.parallel import make_fabric
from phlogiston.networks.occupied import Occupied
from phlogiston.testing import CLAUSES, Fitted, StepCounts

from .device_steps import DeviceSteps

# data and options: small enough that a fit takes a second or two; the clauses ask nothing of its quality
SMALL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "drmm": (
        "digits",
        {},
        {"num_layers": 2, "num_components": 4, "steps": 20, "batch_size": 64, "beam": 3},
    ),
    "mdn": (
        "arcsine",
        {"sizes": (200, 20, 20)},
        {"num_components": 3, "hidden": (8,), "steps": 30, "batch_size": 32, "check_every": 10},
    ),
    "sequence": (
        "script",
        {"sizes": (60, 10, 10), "letters": (1, 1)},
        {"hidden": 12, "layers": 1, "num_components": 3, "steps": 10, "batch_size": 10},
    ),
    "sketch": (
        "script",
        {"sizes": (60, 10, 10), "letters": (1, 1)},
        {"latent": 4, "hidden": 12, "encoder_hidden": 8, "num_components": 3, "steps": 10, "batch_size": 10},
    ),
    "handwriting": (
        "script",
        {"sizes": (60, 10, 10), "letters": (1, 2)},
        {"hidden": 12, "windows": 2, "num_components": 3, "steps": 10, "batch_size": 10},
    ),
    "sqair": (
        "moving_digits",
        {"sizes": (16, 4, 3), "frames": 4},
        {"steps": 3, "lengths": (2, 3), "shares": (0.5, 0.5), "batch_size": 4, "hidden": 32, "memory": 16},
    ),
    "vdsm": (
        "figures",
        {"characters": (3, 0, 2), "size": 16, "frames": 5},
        {
            "experts": 4, "pose": 3, "dynamics": 5, "encoder_widths": (6, 6), "features": 16, "decoder_widths": (8, 6),
            "recurrent": 8, "steps": 6, "batch_size": 6, "warm_steps": 4, "sequence_steps": 4, "warmup": 2,
            "aggregate": 2,
        },
    ),
    "scene": (
        "courts",
        {"sizes": (16, 4, 9), "views": 8, "size": 16},
        {
            "nodes": "both", "bins": 8, "values": 4, "code": 8, "encoder": (6, 8), "steps_between": 2, "grid": 4,
            "hidden": 6, "latent": 2, "whole": 0, "layers": 2, "width": 12, "blocks": 1, "context": 4, "queries": 2,
            "batch_size": 4, "draft_steps": 3, "steps": 3,
        },
    ),
    "world": (
        "dodge",
        {"sizes": (24, 4, 6), "limit": 30},
        {
            "widths": (8, 8), "features": 16, "code": 4, "hidden": 12, "frame_steps": 12, "steps": 6, "frame_batch": 8,
            "batch_size": 8, "generations": 2, "population": 4, "rollouts": 2, "noise": 0.1,
        },
    ),
}  # fmt: skip

COUNTS: dict[str, StepCounts] = {}
STEPS: dict[str, DeviceSteps] = {}
HOST_DECIDES = {"scene": "Tensor.item() cannot be called on meta tensors in scene_memory.py"}
"""Systems whose shapes depend on data, and the one number that is read: a scene's lattice has the size it needs."""


@cache
def fitted(name: str) -> Fitted:
    data, loading, options = SMALL[name]
    counts = COUNTS[name] = StepCounts()
    rows = datasets.load(data, **loading)
    with DeviceSteps() as STEPS[name]:
        system = systems.get(name)(dict(options)).fit(rows, seed=0, progress="off", callbacks=[counts])
    return Fitted(system, rows, dict(options))


def test_every_system_is_held_to_the_contract() -> None:
    assert sorted(SMALL) == list(systems.names())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_step_of_training_waits_for_loss_and_gradient_and_nothing_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "sqair":  # what accelerators do; on a CPU it counts the objects, for which there is nothing to wait
        data, loading, options = SMALL[name]
        monkeypatch.setattr(Occupied, "gathers", False)
        COUNTS[name] = StepCounts()
        kind = systems.get(name)({**options, "steps": 2, "lengths": (2,), "shares": (1.0,), "decay_to": 1.0})
        with DeviceSteps() as STEPS[name]:
            kind.fit(datasets.load(data, **loading), seed=0, progress="off", callbacks=[COUNTS[name]])
    else:
        fitted(name)
    for stage, fault in STEPS[name].faults.items():
        assert fault == HOST_DECIDES.get(name, ""), f"stage {stage!r}: {fault}"
    for stage, gradients in STEPS[name].gradients.items():
        assert gradients is None or gradients[0] == gradients[1] > 0, f"stage {stage!r}: no gradient without data"
    assert COUNTS[name].stages
    for stage, count in COUNTS[name].stages.items():
        assert sum(count.waits.values()) <= 2, f"stage {stage!r} reads numbers of tensors: {dict(count.waits)}"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need an accelerator")
@pytest.mark.parametrize("name", ["drmm", "mdn", "sequence", "vdsm"])
def test_a_step_is_captured_as_a_cuda_graph(name: str) -> None:
    data, loading, options = SMALL[name]
    with DeviceSteps(graphs=True) as steps:
        fabric = make_fabric(accelerator="cuda")
        systems.get(name)(dict(options)).fit(datasets.load(data, **loading), seed=0, progress="off", fabric=fabric)
    assert steps.faults
    assert set(steps.faults.values()) == {""}, steps.faults


@pytest.mark.parametrize("clause", sorted(CLAUSES))
@pytest.mark.parametrize("name", sorted(SMALL))
def test_contract(name: str, clause: str) -> None:
    CLAUSES[clause](fitted(name))
