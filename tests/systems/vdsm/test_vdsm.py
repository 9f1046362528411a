"""VDSM as a product: fit in stages, take clips apart, put them together, and say what is wrong with bad input."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset, Split
from phlogiston.errors import ConfigError, DataError, PhlogistonError, RunError, ShapeError, TrainingWarning
from phlogiston.inference.query.evidence import Known, Within
from phlogiston.systems.mdn.system import MDN
from phlogiston.systems.vdsm.config import PRESETS
from phlogiston.systems.vdsm.system import VDSM
from phlogiston.systems.vdsm.training import Codes

TINY: dict[str, Any] = {
    "experts": 4, "pose": 3, "dynamics": 5, "encoder_widths": (6, 6), "features": 16, "decoder_widths": (8, 6),
    "recurrent": 8, "steps": 6, "batch_size": 6, "warm_steps": 4, "sequence_steps": 4, "warmup": 2, "aggregate": 2,
}  # fmt: skip
QUIET: dict[str, Any] = {"progress": "off", "tensorboard": False}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.load("figures", characters=(3, 0, 2), size=16, frames=5)


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> VDSM:
    return VDSM(TINY).fit(data, **QUIET)


def test_every_verb_gives_clips(fitted: VDSM, data: Dataset) -> None:
    x = data.test.tensors["frames"][:4]
    n, length = len(x), x.shape[1]
    made = {
        "frames": fitted.reconstruct(x, "frame"),
        "sequence": fitted.reconstruct(x),
        "sampled": fitted.reconstruct(x, samples=True),
        "swap": fitted.swap(x, x.flip(0)),
        "rollout": fitted.rollout(x, length),
        "sample": fitted.sample(n, seed=1)["frames"],
        "standard": fitted.sample(n, prior="standard", chain="prior")["frames"],
    }
    for name, clips in made.items():
        assert clips.shape == x.shape, name
        assert bool(((clips >= 0) & (clips <= 1)).all()), name
    assert fitted.generate(x, 11).shape[1] == 11
    assert fitted.predict(x[:, :2], 7).shape == (n, 7, 3, 16, 16)
    assert fitted.swap_grid(x).shape == (n, n, *x.shape[1:])
    score = fitted.log_prob(x, num_particles=3)
    assert score.kind == "lower bound"
    assert score.value.shape == (n,)


@pytest.mark.parametrize("masked", [False, True])
def test_a_clips_score_is_its_own(fitted: VDSM, data: Dataset, masked: bool) -> None:
    x = data.test.tensors["frames"][:4]
    mask = torch.arange(x.shape[1]) < torch.tensor([[5], [2], [3], [4]]) if masked else None
    order = torch.tensor([2, 3, 1, 0])
    score = fitted.log_prob(x, mask=mask, num_particles=3).value
    again = fitted.log_prob(x[order], mask=None if mask is None else mask[order], num_particles=3).value
    torch.testing.assert_close(again, score[order], rtol=1e-4, atol=1e-3)
    alone = fitted.log_prob(x[1:2], mask=None if mask is None else mask[1:2], num_particles=3).value
    torch.testing.assert_close(alone, score[1:2], rtol=1e-4, atol=1e-3)
    assert not torch.equal(fitted.log_prob(x, mask=mask, num_particles=3, seed=1).value, score)


def test_swapping_with_oneself_is_reconstruction_and_twice_gives_the_codes_back(fitted: VDSM, data: Dataset) -> None:
    x = data.test.tensors["frames"][:4]
    torch.testing.assert_close(fitted.swap(x, x), fitted.reconstruct(x))
    grid = fitted.swap_grid(x)
    for i in range(4):
        torch.testing.assert_close(grid[i, i], fitted.reconstruct(x)[i], rtol=1e-4, atol=1e-5)
    # swapping codes is exact bookkeeping: the person of j in the action of i, swapped back, is i as reconstructed
    order = torch.tensor([2, 3, 1, 0])
    torch.testing.assert_close(fitted.swap(x[order], x)[order.argsort()], fitted.swap(x, x[order.argsort()]))


def test_generation_begins_with_the_reconstruction_and_goes_on(fitted: VDSM, data: Dataset) -> None:
    x = data.test.tensors["frames"][:3]
    torch.testing.assert_close(fitted.generate(x, 9)[:, :5], fitted.reconstruct(x))
    one = fitted.predict(x[:, :3], 6)
    torch.testing.assert_close(fitted.predict(x[:, :3], 4), one[:, :4])
    a, b = (fitted.predict(x, 4, samples=True, seed=s) for s in (1, 2))
    assert not torch.equal(a, b)
    assert torch.equal(a, fitted.predict(x, 4, samples=True, seed=1))


def test_missing_frames_have_no_influence_and_known_ones_come_back(fitted: VDSM, data: Dataset) -> None:
    x = data.test.tensors["frames"][:2]
    mask = torch.tensor([[True, False, True, True, False], [True, True, True, True, True]])
    other = torch.where(mask[:, :, None, None, None], x, torch.randint(0, 255, x.shape, dtype=torch.uint8))
    filled = fitted.infill(x, mask)
    torch.testing.assert_close(filled, fitted.infill(other, mask))
    assert torch.equal(filled[mask], (x.float() / 255.0)[mask])
    for name, code in fitted.encode(x, mask).items():
        known = code if not name.startswith("pose") else code * mask.unsqueeze(-1)
        again = fitted.encode(other, mask)[name]
        torch.testing.assert_close(known, again if not name.startswith("pose") else again * mask.unsqueeze(-1))
    # a clip filled up to a common length has the codes of the clip
    short = fitted.encode(x[:1, :3])["dynamics_loc"]
    tail = torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(fitted.encode(x[:1], tail)["dynamics_loc"], short)


def test_codes_do_not_depend_on_the_company(fitted: VDSM, data: Dataset) -> None:
    x = data.test.tensors["frames"]
    whole, alone = fitted.encode(x), fitted.encode(x[7:8])
    for name, code in alone.items():
        torch.testing.assert_close(whole[name][7:8], code, rtol=1e-4, atol=1e-5)


def test_a_fixed_factor_stays_and_the_other_varies(fitted: VDSM, data: Dataset) -> None:
    code = fitted.encode(data.test.tensors["frames"][:1])
    same_person = fitted.sample(5, identity=code["identity_loc"][0], seed=0)
    assert bool((same_person["identity"] == code["identity_loc"][0]).all())
    assert len(same_person["dynamics"].unique(dim=0)) == 5
    same_action = fitted.sample(5, dynamics=code["dynamics_loc"][0], seed=0)
    assert len(same_action["identity"].unique(dim=0)) == 5
    with pytest.raises(ShapeError, match="identity"):
        fitted.sample(3, identity=torch.zeros(2))
    assert fitted.sample(2, length=12)["frames"].shape[1] == 12
    with pytest.raises(ConfigError, match="standard"):
        fitted.sample(2, prior="standart")  # type: ignore[arg-type]


def test_it_saves_loads_and_resumes_bit_for_bit(data: Dataset, tmp_path: Path) -> None:
    class Stop:
        def on_step(self, state: Any) -> None:
            if state.step == 9:  # in the middle of the warm start
                raise KeyboardInterrupt

    every: dict[str, Any] = {**QUIET, "checkpoint_every": 3}
    whole = VDSM(TINY).fit(data, **every)
    with pytest.raises(KeyboardInterrupt):
        VDSM(TINY).fit(data, out=tmp_path / "run", callbacks=[Stop()], **every)
    resumed = VDSM(TINY).fit(data, out=tmp_path / "run", **every)
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    x = data.test.tensors["frames"][:2]
    for loaded in (systems.load(tmp_path / "run"), systems.load(whole.save(tmp_path / "saved"))):
        assert isinstance(loaded, VDSM)
        assert torch.equal(loaded.reconstruct(x), whole.reconstruct(x))
        assert torch.equal(loaded.sample(3, seed=0)["frames"], whole.sample(3, seed=0)["frames"])


def test_stage_two_leaves_the_frame_parts_alone_bit_for_bit(data: Dataset) -> None:
    seen: dict[str, dict[str, Tensor]] = {}

    class Watch:
        def on_stage(self, state: Any) -> None:
            both = {**state.model.state_dict(), **{f"guide.{k}": v for k, v in state.guide.state_dict().items()}}
            seen[state.stage.name] = {k: v.clone() for k, v in both.items()}
            self.model, self.guide = state.model, state.guide

        def on_end(self, state: Any) -> None:
            seen["end"] = {**state.model.state_dict(), **{f"guide.{k}": v for k, v in state.guide.state_dict().items()}}
            frozen = [*state.model.decoder.parameters(), *state.guide.encoder.parameters()]
            assert all(p.grad is None for p in frozen)

    VDSM(TINY).fit(data, callbacks=[Watch()], **QUIET)
    frozen = ("decoder", "guide.encoder", "guide.pose_head", "guide.identity")
    for name, value in seen["codes"].items():
        changed = not torch.equal(value, seen["end"][name])
        if name.startswith(frozen):
            assert not changed, name
        elif "codes" not in name:
            assert changed, name
        before = not torch.equal(seen["frames"][name], value)
        assert before == name.startswith(frozen), name


def test_stage_two_takes_a_chosen_stage_one_and_refuses_a_wrong_one(
    fitted: VDSM, data: Dataset, tmp_path: Path
) -> None:
    first = fitted.save(tmp_path / "first")
    second = VDSM({**TINY, "stage1": str(first), "sequence_steps": 2}).fit(data, **QUIET)
    for a, b in zip(second.model.decoder.parameters(), fitted.model.decoder.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RunError, match="experts 4, this configuration 5"):
        VDSM({**TINY, "stage1": str(first), "experts": 5}).fit(data, **QUIET)
    larger = datasets.load("figures", characters=(2, 0, 1), size=32, frames=3)
    wide = {**TINY, "stage1": str(first), "encoder_widths": (6, 6, 6), "decoder_widths": (8, 8, 6)}
    with pytest.raises(RunError, match=r"size 16.*32"):
        VDSM(wide).fit(larger, **QUIET)
    other = MDN(steps=2, hidden=(4,)).fit({"x": np.zeros((20, 2)), "y": np.arange(20.0)[:, None]}, **QUIET)
    with pytest.raises(RunError, match="mdn"):
        VDSM({**TINY, "stage1": str(other.save(tmp_path / "other"))}).fit(data, **QUIET)
    with pytest.raises(RunError):
        VDSM({**TINY, "stage1": str(tmp_path / "nothing")}).fit(data, **QUIET)


@pytest.mark.parametrize(
    "options",
    [
        {"identity": "discrete"},
        {"identity": "relaxed"},
        {"pose_guide": "smoothing"},
        {"pool": "product"},
        {"chain": "sites"},
        {"likelihood": "normal"},
        {"likelihood": "continuous_bernoulli"},
        {"bank": "lowrank", "route": "gemm"},
        {"recolour": 0.7},
        {"encoder": "blur", "layers": 2, "dropout": 0.1, "finetune_steps": 2},
        {"pair_within_group": True, "frames_per_clip": 0, "epochs": 6, "curve": "quadratic"},
        {"shared_layers": 2, "identity_frames": "others"},
        {"segments": 3, "experts": 1, "likelihood": "normal", "identity_share": 1.0},
        {"basis": 3, "experts": 1, "chain": "sites", "identity_share": 1.0},
        {"segments": 3, "experts": 2, "shared_layers": 2, "pair_within_group": True, "recolour": 0.5},
        {"warm_steps": 0, "aggregate": 0},
    ],
)
def test_every_variant_trains_and_takes_clips_apart(options: dict[str, Any], data: Dataset, tmp_path: Path) -> None:
    system = VDSM({**TINY, **options}).fit(data, **QUIET)
    x = data.test.tensors["frames"][:2]
    made = system.reconstruct(x)
    assert bool(torch.isfinite(made).all())
    again = systems.load(system.save(tmp_path / "saved"))
    assert isinstance(again, VDSM)
    assert torch.equal(again.reconstruct(x), made)


def test_a_clip_that_is_not_finite_is_survived_and_refused_at_the_door(data: Dataset) -> None:
    x = data.train.tensors["frames"].float() / 255.0
    x[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(PhlogistonError, match="NaN"):
        VDSM(TINY).fit({"frames": x}, **QUIET)

    class Poison:
        done = False

        def on_step(self, state: Any) -> None:
            if state.step == 2 and not self.done:
                self.done = True
                state.model.decoder.first.bias.data.fill_(float("nan"))

    with pytest.warns(TrainingWarning):
        system = VDSM(TINY).fit(data, callbacks=[Poison()], **QUIET)
    assert system.history is not None
    assert system.history.skipped >= 3
    assert all(bool(torch.isfinite(p).all()) for p in system.model.parameters())


@pytest.mark.parametrize(
    ("clips", "error", "word"),
    [
        (np.zeros((3, 4, 16, 16), np.uint8), ShapeError, "five axes"),
        (np.zeros((3, 4, 16, 16, 3), np.uint8), ShapeError, "channels seem to be last"),
        (np.zeros((3, 4, 3, 16, 20), np.uint8), ShapeError, "square"),
        (np.full((3, 4, 3, 16, 16), 1.5, np.float32), DataError, r"\[0, 1\]"),
        (np.zeros((3, 4, 3, 16, 16), np.int64), DataError, "uint8"),
        (np.zeros((0, 4, 3, 16, 16), np.uint8), DataError, "at least one"),
    ],
)
def test_what_is_no_batch_of_clips_is_refused(clips: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        VDSM(TINY).fit(clips, **QUIET)


def test_clips_of_another_form_and_masks_that_do_not_fit_are_refused(fitted: VDSM, data: Dataset) -> None:
    x = data.test.tensors["frames"][:2]
    with pytest.raises(ShapeError, match="trained on"):
        fitted.encode(torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="trained on"):
        fitted.encode(torch.zeros(2, 4, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="mask"):
        fitted.encode(x, torch.ones(2, 9, dtype=torch.bool))
    with pytest.raises(DataError, match="bool"):
        fitted.encode(x, torch.ones(2, 5))
    with pytest.raises(DataError, match="clip 1 has no known frame"):
        fitted.encode(x, torch.tensor([[True] * 5, [False] * 5]))
    with pytest.raises(ShapeError, match="row by row"):
        fitted.swap(x, x[:1])
    with pytest.raises(ConfigError, match="horizon"):
        fitted.predict(x, 0)
    with pytest.raises(ConfigError, match="mask"):
        fitted.infill(x, None)
    with pytest.raises(ConfigError, match="frame"):
        fitted.reconstruct(x, "picture")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="frames"):
        VDSM(TINY).fit({"x": np.zeros((3, 4))}, **QUIET)
    with pytest.raises(ConfigError, match="labels"):
        fitted.evaluate(Split({"frames": x}), ["judge"])
    with pytest.raises(PhlogistonError, match="not fitted"):
        VDSM(TINY).encode(x)


@pytest.mark.parametrize(
    "options",
    [
        {"experts": 0},
        {"pose_places": (0.8, 0.5)},
        {"temperature": (1.0, 10.0, 0.0)},
        {"identity_share": 0.0},
        {"steps": 0},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        VDSM(options)


def test_presets_are_whole_and_the_published_sizes_are_what_they_were() -> None:
    for name in PRESETS:
        VDSM(preset=name)
    assert {"mug", "sprites", "seed", "figures", "pendulum", "cpu-figures", "cpu-pendulum"} <= set(PRESETS)
    system = VDSM(preset="mug")
    system.schema = {"channels": 3, "size": 64, "length": 20, "mean": [0.5] * 3, "paired": False, "categorical": {}}
    system.build()
    decoder = sum(p.numel() for p in system.model.decoder.parameters())
    assert decoder == pytest.approx(46.9e6, rel=0.01)


def test_ragged_clips_are_trained_on_with_a_mask(data: Dataset) -> None:
    mask = torch.ones(27, 5, dtype=torch.bool)
    mask[::3, 3:] = False
    tensors = {"frames": data.train.tensors["frames"], "mask": mask, "group": data.train.tensors["group"]}
    fill = data.train.tensors["frames"].clone()
    fill[~mask] = 77
    one = VDSM(TINY).fit(tensors, **QUIET)
    two = VDSM(TINY).fit({**tensors, "frames": fill}, **QUIET)
    # the mean colour looks at every pixel once, to start from; nothing else may
    one.schema["mean"] = two.schema["mean"]
    assert one.history is not None
    assert two.history is not None
    x = data.test.tensors["frames"][:2]
    assert float((one.reconstruct(x) - two.reconstruct(x)).abs().max()) < 0.1


def test_questions_are_answered_with_what_is_known_in_place(fitted: VDSM, data: Dataset) -> None:
    answer = fitted.query({"identity": Known([0.3, 0.0, 0.0, 0.0], [1, 0, 0, 0])}, num_samples=8, seed=0)
    assert answer.samples["identity"].shape == (8, 4)
    assert bool((answer.samples["identity"][:, 0] == 0.3).all())
    assert answer.samples["frames"].shape == (8, 5, 3, 16, 16)
    clip = data.test.tensors["frames"][0]
    with pytest.warns(UserWarning, match="effective"):
        found = fitted.query(
            {"dynamics": Within([0.0] * 5, [9.0] * 5)}, ["identity", "dynamics", "pose"], 50,
            batch={"frames": clip, "mask": torch.tensor([True, True, True, False, False])}, seed=0,
        )  # fmt: skip
    assert found.samples["pose"].shape == (50, 5, 3)
    assert bool((found.samples["dynamics"] >= 0).all())
    with pytest.raises(ShapeError, match="one clip"):
        fitted.query({}, batch={"frames": data.test.tensors["frames"][:2]})


def test_views_are_videos_and_codes_are_arrays(fitted: VDSM, data: Dataset, tmp_path: Path) -> None:
    for name, view in fitted.views().items():
        laid = view(fitted, data.test, 4, 0)
        if name == "codes":
            assert {"blend", "dynamics_loc", "regenerated", "invented", "action", "group"} <= set(laid)
            assert all(len(value) == 4 for value in laid.values())
        else:
            video = laid["frames"]
            assert video.ndim == 5, name
            assert video.shape[0] == 1
            assert video.shape[2] == 3
    run = tmp_path / "run"
    VDSM(TINY).fit(data, out=run, **QUIET)
    from phlogiston.systems import export, workflow

    for suffix in ("gif", "png", "mp4"):
        out = tmp_path / f"grid.{suffix}"
        export.write(out, workflow.show(run, "swap_grid", 3))
        assert out.stat().st_size > 100
    with pytest.raises(ConfigError, match="swap_grid"):
        workflow.show(run, "swap_gird")


def test_one_array_of_clips_is_accepted_and_not_kept_in_the_fitted_system(data: Dataset) -> None:
    clips = data.train.tensors["frames"]
    system = VDSM(TINY).fit(clips, **QUIET)
    test = data.test.tensors["frames"][:4]
    assert set(system.evaluate(test)) == {"excess_frame", "mse_frame", "excess_sequence", "mse_sequence"}
    assert torch.equal(
        system.log_prob(test, num_particles=2).value, system.log_prob({"frames": test}, num_particles=2).value
    )
    parameters = sum(p.numel() * 4 for module in (system.model, system.guide) for p in module.parameters())
    # a copy holds parameters and history, twice over at most, but no clip
    assert len(pickle.dumps(system)) < 2 * parameters + clips.numel() // 2


def test_it_can_be_fitted_again_on_clips_of_another_form(data: Dataset) -> None:
    system = VDSM(TINY)  # whose widths are for 16 pixels
    for size in (8, 16, 32):
        clips = data.train.tensors["frames"][:6].repeat_interleave(2, -1).repeat_interleave(2, -2)[..., :size, :size]
        system.fit(clips, **QUIET)
        assert system.reconstruct(clips).shape == clips.shape


def test_codes_of_training_and_validation_clips_are_their_own(fitted: VDSM, data: Dataset) -> None:
    codes = Codes(fitted.guide, chunk=2)
    assert codes.takes_rows
    for split in (data.train, data.test):
        clips = fitted.prepare(split)
        index = torch.tensor([3, 0])
        with torch.no_grad():
            expected = fitted.guide.encode_frames(clips.frames[index])
        torch.testing.assert_close(codes(clips[index], clips)["encoded"], expected, rtol=1e-4, atol=1e-5)


def test_evaluation_and_figures_are_complete(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path))
    fitted = VDSM({**TINY, "judge_epochs": 1}).fit(data, **QUIET)
    found = fitted.evaluate(data)
    for name in ("excess_frame", "excess_sequence", "judge_action", "regenerated_top", "consistency_hair", "swap_skin",
                 "rollout_action", "standard_kl", "aggregate_inter_entropy_top", "probe_dynamics_action",
                 "probe_pose_legs", "chance_action", "fvd_regenerated"):  # fmt: skip
        assert name in found, name
    assert found["probe_identity_top"].value >= 0.0
    assert set(fitted.evaluate(data.test)) == {"excess_frame", "mse_frame", "excess_sequence", "mse_sequence"}
    assert {"who times how", "clips and what is made of them", "invented clips"} <= set(fitted.figures(data))
    assert {"fvd_standard", "fvd_aggregate", "fvd_regenerated"} == set(fitted.evaluate(data, ["fvd"]))
    nats = fitted.evaluate(data.test, ["log_likelihood"])["log_likelihood"]
    assert nats.kind == "lower bound"


def test_demo_recipes_are_valid_and_fit_their_data() -> None:
    for quick in (False, True):
        for recipe in VDSM.demo(quick):
            system = VDSM(recipe["options"])
            assert len(system.config.encoder_widths) == np.log2(recipe["data_options"]["size"] / 4)
            assert set(recipe["data_options"]) <= set(datasets.info(recipe["data"]).options)


def test_who_is_who_is_used_only_on_request_and_asking_needs_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (12, 3, 3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "clips.npz", frames=frames, identity=np.arange(12) // 2)
    yours = datasets.load(tmp_path / "clips.npz", valid=0, test=0)
    for rows in (yours, datasets.load("figures", characters=(2, 0, 1), size=16)):
        assert "group" in rows.train.tensors
        for asked in (None, False, True):
            system = VDSM(pair_within_group=asked)
            system.schema = system.describe(rows.train, rows.meta)
            assert system.prepare(rows.train).paired is (asked is True)
    told = {name for name, options in PRESETS.items() if options.get("pair_within_group")}
    assert told == {"cpu-figures", "figures", "cpu-basis", "cpu-basis-64", "cpu-sprites", "sprites"}
    with pytest.raises(ConfigError, match="pair_within_group=True needs data that say who is who"):
        VDSM(TINY, pair_within_group=True).fit({"frames": frames}, **QUIET)
