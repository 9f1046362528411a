"""Speed of VDSM against the same model written the straightforward way, of equal widths, within one run.

The rival decodes clip by clip and blends its banks by summing, keeps one sample site per clip, and encodes the clips
again at every step of stage 2, whose gradients also reach the frozen parts: as published, in our words.
"""

from __future__ import annotations

import copy
import resource
import statistics
import time
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn

from phlogiston.guides.vdsm import FrameGuide, VDSMGuide
from phlogiston.inference.svi import objectives
from phlogiston.models.vdsm import VDSM, FrameModel

pytestmark = pytest.mark.bench


class Looped(nn.Module):
    """Model and guide with a Python loop over clips and frames; the parts (and widths) are ours.

    Args:
        model: ours.
        guide: ours.
        sequences: whether poses form a chain (stage 2).
    """

    def __init__(self, model: VDSM, guide: VDSMGuide, sequences: bool) -> None:
        super().__init__()
        self.m, self.g, self.sequences = model, copy.deepcopy(guide), sequences
        self.g.encoder.layout = torch.contiguous_format  # as pictures come

    def decode_one(self, pose: Tensor, identity: Tensor) -> Tensor:
        """One clip: blend every bank expert by expert, then decode."""
        w = torch.softmax(self.m.temperature * identity, -1)
        decoder = self.m.decoder
        banks = (decoder.first, *decoder.layers)
        mixed = [
            (
                sum(w[k] * b.weight[k] for k in range(len(w))).reshape(b.shape),
                sum(w[k] * b.bias[k] for k in range(len(w))),
            )
            for b in banks
        ]
        x = torch.cat([pose, w.expand(len(pose), -1)], -1) @ mixed[0][0] + mixed[0][1]
        x = x.reshape(len(pose), -1, 4, 4)
        for weight, bias in mixed[1:]:
            x = F.conv_transpose2d(F.leaky_relu(x, decoder.slope), weight, bias, stride=2, padding=1)
        return x

    def model(self, frames: Tensor) -> None:
        for i, clip in enumerate(frames):
            identity = pyro.sample(f"identity_{i}", self.m.identity_prior())
            path = []
            if self.sequences:
                dynamics = pyro.sample(f"dynamics_{i}", self.m.dynamics_prior())
            for t in range(len(clip)):
                if self.sequences and path:
                    loc, scale = self.m.transition(path[-1], dynamics)
                    law = dist.Normal(loc, scale).to_event(1)
                else:
                    law = dist.Normal(torch.zeros(self.m.pose), 1.0).to_event(1)
                path.append(pyro.sample(f"pose_{i}_{t}", law))
            logits = self.decode_one(torch.stack(path), identity)
            for t in range(len(clip)):
                pyro.sample(f"frames_{i}_{t}", self.m.likelihood(logits[t]), obs=clip[t])

    def guide(self, frames: Tensor) -> None:
        g = self.g
        for i, clip in enumerate(frames):
            encoded = g.encode_frames(clip).unsqueeze(0)
            loc, scale = (v[0] for v in g.pool_identity(encoded))
            pyro.sample(f"identity_{i}", dist.Normal(loc, scale).to_event(1))
            if not self.sequences:
                for t in range(len(clip)):
                    loc, scale = encoded[0, t, : g.pose], encoded[0, t, g.pose : 2 * g.pose]
                    pyro.sample(f"pose_{i}_{t}", dist.Normal(loc, scale).to_event(1))
                continue
            loc, scale, _ = (v[0] for v in g.read(encoded))
            dynamics = pyro.sample(f"dynamics_{i}", dist.Normal(loc, scale).to_event(1))
            chain = g.pose_chain(dynamics, len(clip))
            loc, scale = chain.first
            for t in range(len(clip)):
                pose = pyro.sample(f"pose_{i}_{t}", dist.Normal(loc, scale).to_event(1))
                if t + 1 < len(clip):
                    loc, scale = (v[0] for v in chain.step(pose.unsqueeze(0), slice(t + 1, t + 2)))


def median_seconds(step: Callable[[], object], rounds: int = 5) -> float:
    step()
    found = []
    for _ in range(rounds):
        began = time.process_time()
        step()
        found.append(time.process_time() - began)
    return statistics.median(found)


def pair(size: int, widths: tuple[int, ...]) -> tuple[VDSM, VDSMGuide]:
    torch.manual_seed(0)
    model = VDSM(3, size, 15, 30, 50, widths, 128)
    guide = VDSMGuide(model, tuple(32 for _ in widths), 256, 128, 1, "blur", share=1.0)
    return model, guide


CASES = {"32 pixels": (32, (128, 64, 32)), "64 pixels": (64, (128, 96, 64, 32))}


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_stage_1_is_twice_as_fast_as_looped(case: str) -> None:
    model, guide = pair(*CASES[case])
    frames = torch.rand(20, 8, 3, model.size, model.size)
    looped, elbo = Looped(model, guide, False), Trace_ELBO()
    program, proposal, ours = FrameModel(model), FrameGuide(guide), objectives.make("mean_field", max_plate_nesting=2)
    with pyro.validation_enabled(False):
        slow = median_seconds(lambda: elbo.differentiable_loss(looped.model, looped.guide, frames).backward(), 3)
        fast = median_seconds(lambda: ours.differentiable_loss(program, proposal, frames=frames).backward(), 3)
    print(f"\nstage 1, {case}: looped {slow:.3f} s, ours {fast:.3f} s, ratio {slow / fast:.1f}")
    assert slow / fast >= 2.0


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_stage_2_is_five_times_as_fast_as_looped(case: str) -> None:
    model, guide = pair(*CASES[case])
    frames = torch.rand(20, 8, 3, model.size, model.size)
    looped, elbo = Looped(model, guide, True), TraceEnum_ELBO(max_plate_nesting=0)
    ours = objectives.make("mean_field", max_plate_nesting=2)
    with pyro.validation_enabled(False):
        slow = median_seconds(lambda: elbo.differentiable_loss(looped.model, looped.guide, frames).backward(), 3)
        encoded = guide.encode_frames(frames).detach()
        for part in (model.decoder, guide.encoder, guide.pose_head, guide.identity_head, guide.identity_loc):
            part.requires_grad_(False)
        fast = median_seconds(
            lambda: ours.differentiable_loss(model, guide, frames=frames, encoded=encoded).backward(), 3
        )
    print(f"\nstage 2, {case}: looped {slow:.3f} s, ours {fast:.3f} s, ratio {slow / fast:.1f}")
    assert slow / fast >= 5.0


def test_the_peak_of_memory_stays_near_that_of_the_loop() -> None:
    """Each formulation in a process of its own: what the largest step adds to the resident size."""
    import multiprocessing as mp

    context = mp.get_context("spawn")
    peaks = {}
    for kind in ("nothing", "looped", "ours"):
        queue = context.Queue()
        process = context.Process(target=_peak, args=(kind, queue))
        process.start()
        peaks[kind] = queue.get(timeout=200)
        process.join()
    added = {kind: peaks[kind] - peaks["nothing"] for kind in ("looped", "ours")}
    print(f"\nmemory of a step of stage 1: looped {added['looped']:.0f} MB, ours {added['ours']:.0f} MB")
    assert added["ours"] <= 1.5 * added["looped"]


def _peak(kind: str, queue: object) -> None:
    torch.set_num_threads(1)
    model, guide = pair(*CASES["64 pixels"])
    frames = torch.rand(20, 8, 3, 64, 64)
    with pyro.validation_enabled(False):
        for _ in range(2):
            if kind == "looped":
                looped = Looped(model, guide, False)
                Trace_ELBO().differentiable_loss(looped.model, looped.guide, frames).backward()
            elif kind == "ours":
                elbo = objectives.make("mean_field", max_plate_nesting=2)
                elbo.differentiable_loss(FrameModel(model), FrameGuide(guide), frames=frames).backward()
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # type: ignore[attr-defined]
