"""VDSM's programs: bounds agree, chains are chains, masks hide, nothing explodes."""

from __future__ import annotations

import time
from typing import Any

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.guides.vdsm import FrameGuide, LatentGuide, VDSMGuide
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.handlers import scale_sites
from phlogiston.models.vdsm import VDSM, CodeMixture, FrameModel, LatentModel, active_steps
from phlogiston.networks.frame_encoder import pixels

K, Z, D, T = 3, 2, 4, 5


def pair(seed: int = 0, **options: Any) -> tuple[VDSM, VDSMGuide]:
    torch.manual_seed(seed)
    guide_options = {k: options.pop(k) for k in ("pose_guide", "pool", "share", "agreement") if k in options}
    model = VDSM(2, 8, K, Z, D, (6,), 8, **options).double()
    return model, VDSMGuide(model, (6,), 10, 8, encoder="strided", **guide_options).double()


def clips(n: int = 4, seed: int = 1, length: int = T) -> Tensor:
    return torch.rand(n, length, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def programs(stage: str, model: VDSM, guide: VDSMGuide, x: Tensor) -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    if stage == "frames":
        return FrameModel(model), FrameGuide(guide), {"frames": x}
    if stage == "codes":
        return LatentModel(model), LatentGuide(guide), {"encoded": guide.encode_frames(x).detach()}
    return model, guide, {"frames": x}


@pytest.mark.parametrize("stage", ["frames", "codes", "sequences"])
@pytest.mark.parametrize("chain", ["fused", "sites"])
def test_the_analytic_bound_has_the_mean_of_the_sampled_one_and_less_noise(stage: str, chain: Any) -> None:
    model, guide = pair(chain=chain)
    guide.eval()
    copies, rounds = 200, 12  # 2,400 draws for each of two clips
    m, g, batch = programs(stage, model, guide, clips(2).repeat(copies, 1, 1, 1, 1))
    batch["mask"] = torch.tensor([[True] * T, [True, False, True, False, False]]).repeat(copies, 1)
    head = next(p for n, p in g.named_parameters() if ("pose_head" if stage == "frames" else "dynamics_head") in n)
    losses, grads = {}, {}
    for kind in (Trace_ELBO, TraceMeanField_ELBO):
        torch.manual_seed(3)
        found = []
        for _ in range(rounds):
            loss = kind(max_plate_nesting=2).differentiable_loss(m, g, **batch)
            found.append((float(loss.detach()) / copies, torch.autograd.grad(loss, head)[0]))
        losses[kind] = torch.tensor([value for value, _ in found])
        grads[kind] = torch.stack([grad for _, grad in found])
    a, b = losses[Trace_ELBO], losses[TraceMeanField_ELBO]
    error = ((a.var() + b.var()) / rounds).sqrt()
    assert abs(float(a.mean() - b.mean())) < 4 * float(error)
    noise = {kind: float(grad.var(0).sum()) for kind, grad in grads.items()}
    assert noise[TraceMeanField_ELBO] < noise[Trace_ELBO]


def test_one_site_for_the_chain_is_the_chain_of_sites() -> None:
    """Under equal noise: the same draws, densities and divergences."""
    x, mask = clips(), torch.tensor([[True] * T] * 3 + [[True, True, False, False, False]])
    losses = {}
    for chain in ("fused", "sites"):
        model, guide = pair(chain=chain)
        guide.eval()
        for kind in (Trace_ELBO, TraceMeanField_ELBO):
            with same_noise():
                losses[chain, kind] = kind(max_plate_nesting=2).differentiable_loss(model, guide, x, mask).detach()
    for kind in (Trace_ELBO, TraceMeanField_ELBO):
        torch.testing.assert_close(losses["fused", kind], losses["sites", kind], rtol=1e-9, atol=1e-7)


class same_noise:
    """Noise by site and time instead of by the order of draws."""

    def __enter__(self) -> None:
        self.normal, self.randn = torch.normal, torch.randn

        def noise(*shape: Any, **_: Any) -> Tensor:
            size = torch.Size(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
            time_axis = len(size) >= 4 and size[-2:] == (T, Z)
            steps = T if time_axis else 1
            flat = torch.linspace(-1.5, 1.5, size[: -2 if time_axis else -1].numel() * size[-1], dtype=torch.float64)
            one = flat.reshape(*size[: -2 if time_axis else -1], size[-1])
            return torch.stack([one] * steps, -2) if time_axis else one

        torch.randn = noise  # type: ignore[assignment]
        self.standard = torch.distributions.normal._standard_normal
        torch.distributions.normal._standard_normal = lambda shape, dtype, device: noise(shape)  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        torch.randn = self.randn
        torch.distributions.normal._standard_normal = self.standard


@pytest.mark.parametrize("stage", ["frames", "sequences"])
def test_a_discrete_identity_is_summed_out(stage: str) -> None:
    model, guide = pair(identity="discrete")
    guide.eval()
    x = clips(3)
    m, g, batch = programs(stage, model, guide, x)
    with same_noise():
        found = TraceEnum_ELBO(max_plate_nesting=2).differentiable_loss(m, g, **batch).detach()
        trace = poutine.trace(g).get_trace(**batch)
    q = trace.nodes["identity"]["fn"].base_dist if hasattr(trace.nodes["identity"]["fn"], "base_dist") else None
    logits = guide.pool_identity(guide.encode_frames(x))[0]
    log_q = logits.log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for k in range(K):  # expectation under the guide by hand
        one = F.one_hot(torch.full((3, 1), k), K).double()
        fixed = {**{n: s["value"] for n, s in trace.nodes.items() if s["type"] == "sample" and n != "identity"}}
        with same_noise():
            joint = poutine.trace(
                poutine.condition(m, {"identity": one, **{n: v for n, v in fixed.items() if n not in ("data", "time")}})
            ).get_trace(**batch)
        joint.compute_log_prob()
        trace.compute_log_prob()
        gain = sum(
            s["log_prob"].reshape(3, -1).sum(-1)
            for n, s in joint.nodes.items()
            if s["type"] == "sample" and n not in ("data", "time")
        )
        cost = sum(
            s["log_prob"].reshape(3, -1).sum(-1)
            for n, s in trace.nodes.items()
            if s["type"] == "sample" and n not in ("data", "time", "identity")
        )
        total = total - (log_q[:, k].exp() * (gain - cost - log_q[:, k])).sum()
    assert q is None or q.logits.shape[-1] == K
    torch.testing.assert_close(found, total.detach(), rtol=1e-9, atol=1e-7)


def test_weights_apply_to_model_and_guide_alike_and_the_first_pose_is_no_exception() -> None:
    x = clips()
    for chain, names in (("fused", ["pose"]), ("sites", [f"pose_{t}" for t in range(T)])):
        model, guide = pair(chain=chain)
        guide.eval()
        elbo = TraceMeanField_ELBO(max_plate_nesting=2)
        parts = {}
        for weight in (0.0, 1.0, 3.0):
            with same_noise(), scale_sites(dict.fromkeys(names, weight)):
                parts[weight] = float(elbo.differentiable_loss(model, guide, x).detach())
        assert parts[3.0] - parts[0.0] == pytest.approx(3 * (parts[1.0] - parts[0.0]), rel=1e-6)
        with same_noise():
            trace = poutine.trace(guide).get_trace(x)
            model_trace = poutine.trace(poutine.replay(model, trace)).get_trace(x)
        by_hand = sum(
            torch.distributions.kl_divergence(trace.nodes[n]["fn"], model_trace.nodes[n]["fn"]).sum() for n in names
        )
        assert parts[1.0] - parts[0.0] == pytest.approx(float(by_hand.detach()), rel=1e-6)


def test_frames_that_are_not_known_have_no_influence() -> None:
    model, guide = pair()
    guide.eval()
    x = clips(2)
    mask = torch.tensor([[True, True, False, True, False], [True, True, True, False, False]])
    other = torch.where(mask[:, :, None, None, None], x, torch.rand_like(x))
    elbo = TraceMeanField_ELBO(max_plate_nesting=2)
    with same_noise():
        one, two = (elbo.differentiable_loss(model, guide, frames, mask).detach() for frames in (x, other))
    assert float(one) == float(two)
    model, guide = pair(chain="sites")
    guide.eval()
    with same_noise():
        short = elbo.differentiable_loss(model, guide, x[1:, :3]).detach()
        padded = elbo.differentiable_loss(model, guide, x[1:], mask[1:]).detach()
    torch.testing.assert_close(short, padded)  # a clip filled up to a common length is the clip


def test_active_steps_reach_to_the_last_known_frame() -> None:
    mask = torch.tensor([[True, False, True, False], [False, True, False, False]])
    assert active_steps(mask).tolist() == [[[True, True, True, False]], [[True, True, False, False]]]
    assert active_steps(None) is None


def test_clips_are_independent_of_each_other_and_permutation_permutes() -> None:
    model, guide = pair()
    guide.eval()
    x = clips(4)
    order = torch.tensor([3, 1, 0, 2])
    for one, two in zip(guide.read(guide.encode_frames(x)), guide.read(guide.encode_frames(x[order])), strict=True):
        torch.testing.assert_close(one[order], two)
    pose, who = torch.randn(4, T, Z).double(), torch.randn(4, K).double()
    torch.testing.assert_close(model.decode(pose, who)[order], model.decode(pose[order], who[order]))


def test_extreme_identities_stay_finite_in_loss_and_gradient() -> None:
    model, guide = pair()
    model.temperature = 10.0
    with torch.no_grad():
        guide.identity_loc.weight.mul_(1e3)
        guide.identity_loc.bias.fill_(1e3)
    elbo = TraceMeanField_ELBO(max_plate_nesting=2)
    loss = elbo.differentiable_loss(model, guide, clips())
    loss.backward()
    assert bool(torch.isfinite(loss.detach()))
    assert all(
        bool(torch.isfinite(p.grad).all()) for p in (*model.parameters(), *guide.parameters()) if p.grad is not None
    )


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli", "normal"])
@pytest.mark.parametrize("identity", ["continuous", "relaxed"])
def test_every_observation_and_identity_trains_every_parameter(likelihood: Any, identity: Any) -> None:
    model, guide = pair(likelihood=likelihood, identity=identity)
    elbo = TraceMeanField_ELBO(max_plate_nesting=2, num_particles=2, vectorize_particles=True)
    elbo.differentiable_loss(model, guide, clips()).backward()
    without = {n for n, p in (*model.named_parameters(), *guide.named_parameters()) if p.grad is None}
    unused = {"pose_head", "identity_head", "identity_loc", "identity_scale"}
    assert {n.split(".")[0] for n in without} <= unused if identity == "continuous" else True
    assert not any(n.startswith(("decoder", "transition", "run", "summary")) for n in without)
    assert ("noise" in dict(model.named_parameters())) == (likelihood == "normal")


def test_the_program_generates_what_it_is_told_and_can_be_conditioned() -> None:
    model, _ = pair()
    torch.manual_seed(0)
    trace = poutine.trace(model).get_trace(rows=3, length=7)
    assert trace.nodes["frames"]["value"].shape == (3, 7, 2, 8, 8)
    assert trace.nodes["pose"]["value"].shape == (3, 1, 7, Z)
    held = torch.randn(3, 1, D).double()
    fixed = poutine.trace(pyro.condition(model, {"dynamics": held})).get_trace(rows=3, length=7)
    assert torch.equal(fixed.nodes["dynamics"]["value"], held)
    assert float(trace.nodes["identity"]["fn"].base_dist.scale.max()) == pytest.approx(1 / K)
    assert float(trace.nodes["dynamics"]["fn"].base_dist.scale.max()) == pytest.approx(1 / D)


def test_chains_begin_near_a_random_walk() -> None:
    model, _ = pair()
    z = torch.randn(500, Z).double()
    loc, scale = model.transition(z, torch.randn(500, D).double() / D)
    drift = (loc - z).norm(dim=-1) / z.norm(dim=-1)
    assert float(drift.detach().median()) < 0.4
    assert float(scale.detach().min()) >= 1e-3


def test_smoothing_sees_the_clip_and_the_bottleneck_only_the_code() -> None:
    x, y = clips(2), clips(2, seed=9)
    for kind in ("bottleneck", "smoothing"):
        _, guide = pair(pose_guide=kind)
        dynamics = torch.randn(2, D).double()
        one, two = (guide.pose_chain(dynamics, T, guide.read(guide.encode_frames(c))[2]).means() for c in (x, y))
        assert torch.equal(one, two) == (kind == "bottleneck")
    with pytest.raises(ConfigError, match="clip itself"):
        guide.pose_chain(dynamics, T)


def test_pooling_by_product_knows_more_from_more_frames() -> None:
    for pool in ("mean", "product"):
        _, guide = pair(pool=pool)
        encoded = guide.encode_frames(clips(1)).detach()
        few, many = guide.pool_identity(encoded[:, :1]), guide.pool_identity(encoded[:, :1].expand(1, 9, -1))
        torch.testing.assert_close(few[0], many[0])
        ratio = float((many[1] / few[1]).mean().detach())
        assert ratio == pytest.approx(1 / 3 if pool == "product" else 1.0, rel=1e-6)


def test_the_identity_does_not_depend_on_the_order_of_frames() -> None:
    _, guide = pair()
    guide.eval()
    encoded = guide.encode_frames(clips())
    for a, b in zip(guide.pool_identity(encoded), guide.pool_identity(encoded[:, torch.randperm(T)]), strict=True):
        torch.testing.assert_close(a, b)


def test_in_training_the_identity_is_read_from_a_share_of_the_known_frames() -> None:
    _, guide = pair(share=0.5)
    encoded = guide.encode_frames(clips(310, length=6))
    mask = torch.ones(310, 6, dtype=torch.bool)
    mask[:10, 3:] = False
    chosen = guide._glimpse(encoded, mask)
    assert chosen is not None
    assert chosen.sum(1).tolist() == [2] * 10 + [3] * 300
    assert not bool((chosen & ~mask).any())
    assert float(chosen[10:].double().mean(0).min()) > 0.3  # every frame has its turn: 0.5 +- 0.03
    guide.eval()
    assert guide._glimpse(encoded, mask) is mask


def test_disagreement_about_the_identity_of_a_pair_is_paid_for() -> None:
    model, guide = pair(agreement=0.0)
    guide.eval()
    x, y = clips(2), clips(2, seed=5)
    program, proposal = FrameModel(model), FrameGuide(guide)
    losses = {}
    for weight in (0.0, 2.0):
        guide.agreement = weight
        for kind in (TraceMeanField_ELBO, Trace_ELBO):
            for who in (x, y):
                with same_noise():
                    loss = kind(max_plate_nesting=2).differentiable_loss(program, proposal, frames=x, who=who)
                losses[weight, kind, who is x] = float(loss.detach())
    gap = guide.pool_identity(guide.encode_frames(x))[0] - guide.pool_identity(guide.encode_frames(y))[0]
    cost = float((0.5 * 2.0 * (K * gap).square().sum()).detach())
    assert cost > 0
    for kind in (TraceMeanField_ELBO, Trace_ELBO):
        assert losses[2.0, kind, False] - losses[0.0, kind, False] == pytest.approx(cost, rel=1e-6)
        assert losses[2.0, kind, True] == pytest.approx(losses[0.0, kind, True], rel=1e-9)


def test_poses_come_from_the_frames_for_poses_and_identities_do_not() -> None:
    _, guide = pair()
    guide.eval()
    x, other = clips(3), clips(3, seed=7)
    for options in ({}, {"who": clips(3, seed=8)}):
        traces = []
        for posed in (x, other):
            with same_noise():
                traces.append(poutine.trace(FrameGuide(guide)).get_trace(x, posed=posed, **options))
        with same_noise():
            plain = poutine.trace(FrameGuide(guide)).get_trace(x, **options)
        one, two = traces
        torch.testing.assert_close(one.nodes["pose"]["value"], plain.nodes["pose"]["value"])
        torch.testing.assert_close(one.nodes["identity"]["value"], two.nodes["identity"]["value"])
        assert not torch.allclose(one.nodes["pose"]["value"], two.nodes["pose"]["value"])


def test_code_mixtures_draw_what_was_put_in() -> None:
    codes = CodeMixture(4, 2)
    with pytest.raises(ConfigError, match="aggregate"):
        codes.mixture()
    codes.set(torch.tensor([0.25, 0.75]), torch.tensor([[-5.0, 0.0], [5.0, 0.0]]), 0.1 * torch.eye(2).repeat(2, 1, 1))
    torch.manual_seed(0)
    drawn = codes.mixture().sample((4000,))
    assert float((drawn[:, 0] > 0).double().mean()) == pytest.approx(0.75, abs=0.03)
    assert float(drawn[:, 1].std()) == pytest.approx(0.1, abs=0.01)


def test_bytes_are_read_as_shares_of_255() -> None:
    assert pixels(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0.0, 0.2, 1.0])
    x = torch.rand(3)
    assert pixels(x) is x


def test_a_bound_of_vectorised_particles_is_the_mean_of_single_ones() -> None:
    model, guide = pair()
    guide.eval()
    x = clips(2)
    with same_noise():
        one = TraceMeanField_ELBO(max_plate_nesting=2).differentiable_loss(model, guide, x)
    torch.manual_seed(0)
    many = TraceMeanField_ELBO(max_plate_nesting=2, num_particles=200, vectorize_particles=True)
    value = float(many.differentiable_loss(model, guide, x).detach())
    torch.manual_seed(1)
    single = TraceMeanField_ELBO(max_plate_nesting=2)
    draws = torch.tensor([float(single.differentiable_loss(model, guide, x).detach()) for _ in range(200)])
    assert abs(value - float(draws.mean())) < 5 * float(draws.std()) * (2 / 200) ** 0.5
    assert bool(torch.isfinite(one.detach()))


@pytest.mark.slow
def test_a_step_of_twice_the_clips_takes_less_than_twice_as_long() -> None:
    torch.manual_seed(0)
    model = VDSM(3, 32, 12, 8, 8, (32, 16, 8))
    guide = VDSMGuide(model, (8, 8, 8), 32, 16, encoder="strided")
    program, proposal = FrameModel(model), FrameGuide(guide)
    elbo = objectives.make("mean_field")
    seconds = {}
    for n in (1, 8):
        x = torch.rand(n, 4, 3, 32, 32)
        best = float("inf")
        for _ in range(4):
            began = time.process_time()
            elbo.differentiable_loss(program, proposal, frames=x).backward()
            best = min(best, time.process_time() - began)
        seconds[n] = best
    assert seconds[8] < 0.7 * 8 * seconds[1]


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError):
        VDSM(3, 16, 0, 2, 2, (4, 4))
    with pytest.raises(ConfigError, match="share"):
        pair(share=0.0)
    with pytest.raises(ConfigError, match="frames"):
        pair()[1]()


def test_an_importance_weighted_bound_is_tighter() -> None:
    model, guide = pair()
    guide.eval()
    x = clips(3)
    torch.manual_seed(0)
    with torch.no_grad():
        few = torch.stack([objectives.IWAE(1, 2).log_weights(model, guide, frames=x)[0].mean() for _ in range(30)])
        many = objectives.IWAE(100, 3).log_weights(model, guide, frames=x)[0]
    bound = torch.logsumexp(many, 0).sub(torch.log(torch.tensor(100.0))).mean()
    assert float(bound) > float(few.mean())
    assert many.shape == (100, 3)
