"""Figures of merit and pictures of world models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Split
from phlogiston.errors import ConfigError
from phlogiston.evaluate.figures import ACCENT, INK, SOFT, new_figure
from phlogiston.evaluate.held_out import held_out
from phlogiston.evaluate.metric import Metric, from_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.systems.world.system import WorldModel

PLAYED = 128  # games, or dreams, behind a figure
SHOWN = 12  # frames in a strip
TAUS = (0.5, 1.0, 1.15, 1.3)


def evaluate(system: WorldModel, data: Any, wanted: set[str]) -> dict[str, Metric]:
    """See `WorldModel.evaluate`."""
    games = system.games(data)
    found: dict[str, Metric] = {}
    if "survival" in wanted:
        found.update(_survival(system))
    if "frames" in wanted:
        found["frame_error"] = _frame_error(system, games)
    if "memory" in wanted:
        found.update(_memory(system, games))
    if "log_likelihood" in wanted:
        found["log_likelihood"] = system.log_prob(games).mean()
    return found


def _valid(games: Mapping[str, Tensor]) -> Tensor:
    return torch.arange(games["action"].shape[1]) < games["length"].unsqueeze(1)


def _frame_error(system: WorldModel, games: Mapping[str, Tensor]) -> Metric:
    frames = games["frames"][_valid(games)].float() / 255.0
    frames = frames[:: max(1, len(frames) // 4096)]
    error = (system.reconstruct(frames) - frames).square().flatten(1).sum(1)
    plain = (frames - frames.mean(0)).square().flatten(1).sum(1)
    detail = {"unit": "squared error per frame, summed over pixels", "of the mean frame": float(plain.mean())}
    return from_rows(error.double(), "exact", higher_is_better=False, detail=detail)


@torch.no_grad()
def _memory(system: WorldModel, games: Mapping[str, Tensor]) -> dict[str, Metric]:
    from sklearn.metrics import roc_auc_score

    code = system.encode(games["frames"])["code_loc"]
    law, _ = system.model.laws(code, games["action"])
    follows = _valid(games)
    follows[:, 0] = False
    score = torch.where(follows, law.code.log_prob(code), 0.0).double().sum(1)
    steps = float(follows.sum())
    mean = -float(score.sum()) / steps
    spread = -score - mean * follows.sum(1)
    error = float(spread.square().sum().sqrt()) / steps
    found = {
        "code_nats_per_step": Metric(
            mean, error, len(score), "exact", False, {"of": "the locations of the encoder's codes"}
        )
    }
    end, truth = law.end[follows].sigmoid().numpy(), games["done"][follows].numpy()
    if 0 < truth.sum() < len(truth):
        detail = {"share of ends": float(truth.mean()), "share predicted": float(end.mean())}
        found["end_auc"] = Metric(float(roc_auc_score(truth, end)), None, int(truth.sum()), "exact", True, detail)
    return found


def _survival(system: WorldModel) -> dict[str, Metric]:
    found = {}
    unit = {"unit": "steps", "longest": system._most()}
    if system.schema["game"] is not None:
        for name, policy in (("survival", None), ("survival_random", "random")):
            if policy or system.player is not None:
                score = system.play(policy, PLAYED).score.double()
                found[name] = from_rows(score, "estimate", higher_is_better=None if policy else True, detail=unit)
    if system.player is not None:
        dreamt = {**unit, "tau": system.config.tau}
        score = system.dream(None, PLAYED).score.double()
        found["survival_dreamt"] = from_rows(score, "estimate", higher_is_better=None, detail=dreamt)
    return found


# ---- views


def split_of(data: Any) -> Any:
    """The split to show: held-out rows of a dataset; or the split itself."""
    from phlogiston.datasets.base import Dataset

    return held_out(data) if isinstance(data, Dataset) else data


def dreams(system: WorldModel, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Dreams of the player's."""
    return {"frames": system.sample(n, seed=seed)["frames"]}


def games(system: WorldModel, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Games that the player plays outside; the last frame stays."""
    return {"frames": hold(system.play(None, n, seed=seed, keep=True))}


def foretell(system: WorldModel, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Held-out games beside dreams that share their first frames and everything done: two films per game."""
    real, dreamt = continuations(system, split, n, seed)
    return {"frames": torch.stack([real, dreamt], 1).flatten(0, 1)}


def reconstruct(system: WorldModel, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Held-out games beside the same from their codes."""
    real = system.games(split)["frames"][:n, :32].float() / 255.0
    return {"frames": torch.stack([real, system.reconstruct(real)], 1).flatten(0, 1)}


View = Callable[..., dict[str, Tensor]]
VIEWS: Mapping[str, View] = {f.__name__: f for f in (dreams, games, foretell, reconstruct)}


def hold(found: Any) -> Tensor:
    """Frames of rollouts, the last one repeated behind the end."""
    assert found.frames is not None
    place = torch.arange(found.frames.shape[1])
    last = torch.minimum(place, found.length.unsqueeze(1) - 1)
    index = last.reshape(*last.shape, 1, 1, 1).expand(found.frames.shape)
    return found.frames.gather(1, index)


@torch.no_grad()
def continuations(
    system: WorldModel, split: Any, n: int, seed: int, known: int = 4, steps: int = 32
) -> tuple[Tensor, Tensor]:
    """Held-out games, and dreams that go on from their first frames with the same actions: (n, T, C, H, W) each."""
    rows = system.games(split)
    order = rows["length"].argsort(descending=True, stable=True)[:n]
    steps = min(steps, int(rows["length"][order].min()))
    frames = rows["frames"][order, :steps].float() / 255.0
    code = system.encode(frames)["code_loc"]
    generator = torch.Generator().manual_seed(seed)
    state = system.model.start(len(order))
    path = []
    for t in range(steps):
        now = code[:, t] if t < known else system.model.law(state).code.draw(generator=generator)
        path.append(now)
        state = system.model.observe(state, now, rows["action"][order, t])
    return frames, system._render(torch.stack(path, 1))


# ---- figures


def figures(system: WorldModel, data: Any) -> dict[str, Figure]:
    """See `WorldModel.figures`."""
    split = split_of(data)
    if not len(split):
        raise ConfigError("there are no games to show")
    found = {"a game, and a dream that begins like it": dream_figure(system, split)}
    if system.player is not None and system.player.curve:
        found["what a player learned in the dream"] = player_figure(system)
    return found


def dream_figure(system: WorldModel, split: Any, seed: int = 3) -> Figure:
    """Strips: a held-out game above the dream that shares its first frames and its actions; twice."""
    known = 4
    real, dreamt = continuations(system, split, 2, seed, known)
    steps = real.shape[1]
    shown = np.unique(np.linspace(known - 1, steps - 1, SHOWN).astype(int))
    alt = "two held-out games as strips of frames, each above a dream that shares its first frames and its moves"
    figure = new_figure(0.75 * len(shown) + 1.0, 0.8 * 2 * len(real) + 0.5, alt)
    axes = figure.subplots(2 * len(real), len(shown), squeeze=False)
    for g in range(len(real)):
        for k, film in enumerate((real[g], dreamt[g])):
            for j, t in enumerate(shown):
                place = axes[2 * g + k, j]
                picture = np.moveaxis(film[t].numpy(), 0, -1)
                place.imshow(picture if picture.shape[-1] == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=1)
                place.set(xticks=[], yticks=[])
                for side in place.spines.values():
                    side.set(color=ACCENT if k and t >= known else SOFT, linewidth=1.2 if k else 0.6)
                if g == 0 and k == 0:
                    place.set_title(f"{t}", fontsize=8)
            axes[2 * g + k, 0].set_ylabel("dream" if k else "game", fontsize=8)
    return figure


def player_figure(system: WorldModel) -> Figure:
    """Left: how long players lasted in the dream, generation by generation. Right: how long they last in the game."""
    player = system.player
    assert player is not None
    playable = system.schema["game"] is not None
    alt = "survival of players over generations of evolution in the dream, and of the last one in the game itself"
    figure = new_figure(8.0 if playable else 4.5, 3.0, alt)
    places = figure.subplots(1, 2 if playable else 1, squeeze=False)[0]
    mean, best = (np.array(v) for v in zip(*player.curve, strict=True))
    steps = np.arange(1, len(mean) + 1)
    places[0].plot(steps, best, color=SOFT, linewidth=1.0, label="best of the population")
    places[0].plot(steps, mean, color=ACCENT, linewidth=1.6, label="mean of the population")
    places[0].set(xlabel="generation", ylabel="steps survived in the dream", ylim=(0, None))
    places[0].legend(frameon=False, fontsize=8)
    if playable:
        for policy, colour, label in (("random", SOFT, "at random"), (None, INK, "player from the dream")):
            score = system.play(policy, PLAYED).score.numpy()
            time = np.arange(system._most())
            left = (score[:, None] > time).mean(0)  # whoever lasts to the limit never leaves
            name = f"{label}: mean {score.mean():.0f}"
            places[1].step(time, left, where="post", color=colour, linewidth=1.6, label=name)
        places[1].set(xlabel="steps in the game itself", ylabel="share still playing", ylim=(0, 1.02), xlim=(0, None))
        places[1].legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1.0, 0.57))
    return figure
