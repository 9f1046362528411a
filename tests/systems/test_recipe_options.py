"""Options of recipes and programs do what their descriptions say; none is there for nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset, Split
from phlogiston.errors import DataError
from phlogiston.guides.sqair_parts import Frame
from phlogiston.inference.svi.stages import Stage
from phlogiston.models.sqair_state import Dynamics, State
from phlogiston.networks.experts import Bank
from phlogiston.systems.base import System
from phlogiston.systems.world.rows import GameRows

# data, and options that make the programs small: nothing here is trained
SMALL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "drmm": ("digits", {}, {"num_layers": 2, "num_components": 3}),
    "mdn": ("arcsine", {"sizes": (60, 20, 20)}, {"hidden": (8,), "weights": "mean_field"}),
    "sequence": ("script", {"sizes": (20, 8, 8), "letters": (1, 1)}, {"hidden": 8, "layers": 1, "num_components": 3}),
    "sketch": (
        "script",
        {"sizes": (20, 8, 8), "letters": (1, 1)},
        {"latent": 4, "hidden": 8, "encoder_hidden": 8, "plan": 3, "plan_steps": 2, "alone_steps": 2},
    ),
    "handwriting": ("script", {"sizes": (20, 8, 8), "letters": (1, 1)}, {"hidden": 8, "windows": 2}),
    "sqair": (
        "moving_digits", {"sizes": (12, 4, 4)},
        {"hidden": 16, "memory": 8, "lengths": (2, 3), "shares": (0.5, 0.5)},
    ),
    "vdsm": (
        "figures",
        {"characters": (3, 0, 2), "size": 16, "frames": 4},
        {"experts": 3, "encoder_widths": (6, 6), "features": 8, "decoder_widths": (8, 6), "finetune_steps": 2},
    ),
    "scene": (
        "courts",
        {"sizes": (8, 4, 9), "views": 12, "size": 16},
        {"bins": 4, "values": 4, "encoder": (6, 8), "grid": 4, "hidden": 6, "width": 8, "blocks": 1},
    ),
    "world": ("dodge", {"sizes": (12, 4, 4), "limit": 20}, {"widths": (8, 8), "features": 8, "code": 3, "hidden": 8}),
}  # fmt: skip


@cache
def data_of(name: str) -> Dataset:
    data, loading, _ = SMALL[name]
    return datasets.load(data, **loading)


def built(name: str, **options: Any) -> System:
    """A system with its programs, as they are before the first step."""
    data = data_of(name)
    system = systems.get(name)({**SMALL[name][2], **options})
    train = data.train.narrowed(system.DOUBLE)
    system.schema = system.describe(train, data.meta)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system.build()
        system.initialise(system.prepare(train, "train"), 0)
    return system


def stages(name: str, **options: Any) -> list[Stage]:
    return built(name, **options).stages()


# ----- the recipes ------------------------------------------------------------------------------------------------

# option -> the attribute of stages that it scales, and of which; of all where none are named
SCALED = [
    *((name, "clip", "clip", ()) for name in SMALL),
    *((name, "batch_size", "batch_size", ()) for name in SMALL if name not in ("vdsm", "world")),
    *((name, "learning_rate", "learning_rate", ()) for name in SMALL if name not in ("vdsm", "world")),
    ("world", "frame_batch", "batch_size", ("frames",)),
    ("world", "batch_size", "batch_size", ("memory",)),
    ("world", "frame_learning_rate", "learning_rate", ("frames",)),
    ("world", "learning_rate", "learning_rate", ("memory",)),
    ("vdsm", "batch_size", "batch_size", ("frames",)),
    ("vdsm", "warm_batch", "batch_size", ("codes",)),
    ("vdsm", "sequence_batch", "batch_size", ("sequences", "all")),
    ("vdsm", "learning_rate", "learning_rate", ("frames",)),
    ("vdsm", "warm_learning_rate", "learning_rate", ("codes",)),
    ("vdsm", "sequence_learning_rate", "learning_rate", ("sequences", "all")),
]


@pytest.mark.parametrize(("name", "option", "attribute", "where"), SCALED)
def test_an_option_doubles_what_it_sets_in_its_stages_alone(
    name: str, option: str, attribute: str, where: tuple[str, ...]
) -> None:
    before = stages(name)
    value = getattr(systems.config(name)(), option)
    after = stages(name, **{option: 2 * value})
    assert [stage.name for stage in before] == [stage.name for stage in after]
    assert not set(where) - {stage.name for stage in before}
    for one, other in zip(before, after, strict=True):
        factor = 2 if not where or one.name in where else 1
        assert getattr(other, attribute) == pytest.approx(factor * getattr(one, attribute))


@pytest.mark.parametrize("name", ["mdn", "sequence", "sketch", "handwriting", "world", "scene"])
def test_rates_peak_after_the_warmup(name: str) -> None:
    for stage in stages(name, warmup=0.25):
        rate = stage.schedules["learning_rate"]
        assert rate(0.25) == pytest.approx(1.0)
        assert rate(0.0) < rate(0.1) < rate(0.2) < 1.0


def test_weights_along_a_recipe_are_those_of_the_options() -> None:
    last = stages("sketch", beta=0.8, beta_start=0.2, beta_warmup=0.4)[-1].schedules["scale.z"]
    assert [last(p) for p in (0.0, 0.2, 0.4, 1.0)] == pytest.approx([0.2, 0.5, 0.8, 0.8])
    for stage in stages("vdsm", cooldown=0.2, cooldown_factor=0.125):
        assert [stage.schedules["learning_rate"](p) for p in (0.79, 0.81, 1.0)] == pytest.approx([1.0, 0.125, 0.125])
    assert stages("world", end_share=7.0)[1].schedules["scale.done"](0.3) == 7.0


def test_a_colder_posterior_weighs_its_divergence_less() -> None:
    system = built("mdn", kl_weight=0.25)
    full, quarter = poutine.trace(system.guide), poutine.trace(system.stages()[1].handlers["divergence"](system.guide))
    values = []
    for traced in (full, quarter):
        pyro.set_rng_seed(0)
        values.append(traced.get_trace().log_prob_sum().item())
    assert values[1] == pytest.approx(0.25 * values[0])


def test_prior_samples_weigh_in_the_loss_of_scenes_as_told() -> None:
    system = built("scene", spread_weight=0.0, prior_share=1.0, layers=1)
    index = torch.arange(4)
    torch.manual_seed(0)
    batch = system.prepare(data_of("scene").train)[index]
    losses = []
    for weight in (0.0, 1.0, 2.0):
        objective: Any = built("scene", spread_weight=0.0, prior_share=1.0, prior_weight=weight).stages()[-1].objective
        torch.manual_seed(1)
        losses.append(objective(system.model, system.guide)(**batch).item())
    assert losses[1] > losses[0]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_so_many_frames_are_drawn_from_every_game() -> None:
    stage = stages("world", frames_per_game=5)[0]
    assert stage.transform is not None
    rows = GameRows(data_of("world").train.tensors)
    assert stage.transform(rows[torch.arange(3)], rows)["frames"].shape[:2] == (3, 5)


def test_nats_of_a_frame_are_free_by_the_entry_of_its_code() -> None:
    objective: Any = stages("world", free_bits=0.7, code=3)[0].objective
    assert objective.nats == pytest.approx(2.1)


# ----- the programs -----------------------------------------------------------------------------------------------


def scales(name: str, min_scale: float) -> Tensor:
    """Standard deviations of the components of the first step."""
    model = built(name, min_scale=min_scale).model
    with torch.no_grad():
        if name == "world":
            return model.predict(model.start(1)).code.scale
        state = model.start(1, torch.zeros(1, 2, dtype=torch.long)) if name == "handwriting" else model.start(1)
        return model.predict(state)[0].values.base.component_scales()


@pytest.mark.parametrize("name", ["sequence", "sketch", "handwriting", "world"])
def test_components_are_no_narrower_than_allowed(name: str) -> None:
    torch.manual_seed(0)
    narrow = scales(name, 0.2)
    torch.manual_seed(0)
    torch.testing.assert_close(scales(name, 0.5), narrow + 0.3)


def test_sizes_of_layers_are_those_of_the_options() -> None:
    assert built("sketch", inputs=11).model.enter.out_features == 11
    model = built("vdsm", bank="lowrank", rank=2, transition=13).model
    assert model.transition.gate[0].out_features == 13
    assert {bank.left.shape[-1] for bank in model.modules() if isinstance(bank, Bank)} == {2}
    assert built("mdn", keep_inputs=7).model.network.inputs.shape == (7, 1)


def test_columns_are_levels_or_offsets_as_told() -> None:
    data = Split({"x": torch.rand(4, 9, 2).cumsum(1)})
    kinds: dict[str, tuple[list[str], list[str]]] = {}
    for key, options in {"usual": {}, "offsets": {"relative": False}, "named": {"positive": ("x1",)}}.items():
        schema = systems.get("sequence")(options).describe(data, None)
        kinds[key] = schema["levels"], schema["positive"]
    assert kinds == {"usual": (["x0", "x1"], []), "offsets": ([], []), "named": (["x0"], ["x1"])}


def test_times_are_no_shorter_than_allowed() -> None:
    data = Split({"x": 0.01 + torch.rand(4, 9, 1)})
    system = systems.get("sequence")(positive=("x0",), min_interval=0.9, hidden=4, layers=1, num_components=2)
    system.schema = system.describe(data, None)
    system.build()
    times = system.sample(8, seed=0, steps=5)["x"]
    assert float(times.min()) == pytest.approx(0.9)  # without the limit there would be shorter ones


def test_offsets_get_noise_of_the_width_of_a_unit_and_validation_is_cut_short() -> None:
    data = data_of("sequence")
    plain, noisy = (
        built("sequence", dequantise=width).prepare(data.train)[torch.arange(4)]["x"] for width in (0.0, 0.5)
    )
    gap = (noisy - plain)[..., :2]
    assert 0.2 < float(gap.abs().max()) <= 0.25
    assert bool((noisy[..., 2] == plain[..., 2]).all())
    assert built("sequence", valid_length=6).prepare(data.valid, "valid")[torch.arange(4)]["x"].shape[1] == 6


def test_a_scene_begins_at_its_corner() -> None:
    with pytest.raises(DataError, match="corner"):
        built("scene", corner=0.1)


def test_the_evidence_decides_on_objects_within_the_freedom_of_the_network() -> None:
    system = built("sqair", freedom=1.5, least_energy=0.125, std=0.4)
    assert float(system.model.std) == pytest.approx(0.4, rel=1e-5)
    parts = system.guide.parts
    assert float(parts.threshold) == pytest.approx(0.125 * system.schema["energy"], rel=1e-5)
    last = [layer for layer in parts.stay.modules() if isinstance(layer, nn.Linear)][-1]
    x = data_of("sqair").train.tensors["x"][:, :2]
    logits = []
    for push in (0.0, 50.0, -50.0):
        torch.nn.init.constant_(last.bias, push)
        pyro.set_rng_seed(0)
        site = poutine.trace(system.guide).get_trace(x=x).nodes["t1/presence"]
        logits.append(site["fn"].base.logits)
    there = logits[1] != 0
    assert bool(there.any())
    torch.testing.assert_close((logits[1] - logits[2])[there], torch.full_like(logits[1][there], 3.0))
    assert bool((logits[1] - logits[0])[there].le(1.5 + 1e-5).all())


def test_a_second_pass_finds_an_object_that_went_beyond_the_reach() -> None:
    found = []
    for passes in (1, 2):
        system = built("sqair", reach=2, passes=passes)
        parts, model = system.guide.parts, system.model
        for parameter in parts.follow.parameters():
            nn.init.zeros_(parameter)  # the matching alone
        frame = torch.zeros(1, 1, 50, 50)
        frame[..., 20:28, 16:24] = 1.0
        size, centre = 8 / 50, torch.tensor([15.5, 23.5])  # where it was: 4 pixels further left
        where = torch.cat([torch.tensor([size, size]).logit(), (2 * centre / 49 - 1).atanh()]).reshape(1, 1, 4)
        where = where.expand(1, 3, 4)
        what, memory = torch.zeros(1, 3, model.features), torch.zeros(1, 3, 8)
        glimpse, presence = torch.ones(1, 3, 1, *model.glimpse), torch.tensor([[1.0, 0.0, 0.0]])
        ids, born = torch.tensor([[0, -1, -1]]), torch.tensor([1])
        before = State(presence, where, what, glimpse, memory, 0 * where, ids, born, frame, None, 0)
        dynamics = Dynamics(presence, where, 0 * where + 1, what, what + 1, memory)
        noise = torch.zeros(1, 6, 5 + model.features)
        kept = parts.propagate(Frame(frame, torch.Size([1]), before, dynamics, None, noise, None, None))
        found.append(24.5 * (kept.where_params[0][0, 0, 2].tanh() + 1).item())
    assert found[0] == pytest.approx(17.5, abs=0.6)  # as far as one search reaches
    assert found[1] == pytest.approx(19.5, abs=0.6)
