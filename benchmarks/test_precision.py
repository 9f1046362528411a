"""What bf16 networks, and pictures laid out channels last, do to a training step on a CPU.

    python -P -m pytest benchmarks/test_precision.py -m bench -s

Ours is what training does by default.
"""

from __future__ import annotations

import time

import pytest
import torch

from phlogiston.inference.svi.parallel import make_fabric
from phlogiston.networks.frame_encoder import FrameEncoder

from . import training
from .rows import Rows, shown

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("system", sorted(training.SIZES))
def test_networks_in_bf16(row: Rows, system: str) -> None:
    half = {"threads": 1, "fabric": make_fabric(precision="bf16-mixed", accelerator="cpu")}
    ours, other = training.seconds(system, [{"threads": 1}, half], time.process_time)
    row.figure(
        f"precision/bf16-{system}",
        f"a training step of {system} at its default size, networks in float32, the default",
        ours / other,
        1.0,
        shown(ours),
        f"in bf16 (`--precision bf16-mixed`): {shown(other)}",
    )


def test_pictures_channels_last(row: Rows) -> None:
    """The convolutions of VDSM's encoder, forth and back; it is what uses the layout."""
    encoder = FrameEncoder(3, 32, (32, 64, 128), 64)
    frames = torch.rand(160, 3, 32, 32)

    def step() -> None:
        encoder(frames).sum().backward()

    def plain() -> None:
        encoder.layout = torch.contiguous_format
        step()
        encoder.layout = torch.channels_last

    row(
        "precision/channels-last",
        work="VDSM's encoder, forth and back, 160 frames of 32 x 32, channels last",
        ours=step,
        alternative=plain,
        against="channels first",
        bar=1.0,
        rounds=5,
    )
