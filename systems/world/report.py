"""Metrics, figures, views and example queries of world models, as tables; see `systems.evaluation`.

Groups of metrics, and what they give::

    survival          survival, survival_random (where the game is at hand), survival_dreamt: what an agent scores, by
                      default the steps it lasts
    frames            frame_error: squared error per frame, summed over pixels, beside that of the mean frame
    memory            code_nats_per_step; end_auc, where some frames are ends and some are not
    log_likelihood    log_likelihood, nats per game; on request
    bright            bright_recall, of small bright things in frames; on request
    sight             survival, survival_blindfold, survival_blind (the best blind sweep), survival_random and
                      survival_recorded: what the agent owes to its eyes; on request
    temperatures      survival_dreamt_TAU, of the same agent in dreams of several temperatures; on request
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Split
from phlogiston.errors import DataWarning
from phlogiston.evaluate.figures import ACCENT, INK, SOFT, new_figure
from phlogiston.evaluate.image_figures import frame, image_rows
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.query.evidence import Known
from phlogiston.models.dreaming import Rollouts
from phlogiston.systems.evaluation import Evaluation, MetricFunction, held_out_log_likelihood
from phlogiston.systems.world import judging, videos
from phlogiston.systems.world.system import WorldModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAYED = 128  # games, or dreams, behind a figure
TAUS = (0.5, 1.0, 1.15, 1.3)
OUTSIDE = 16  # the same of games that are played one by one in an environment
SHOWN = 12  # frames in a strip


# ---- metrics


def survival(e: Evaluation[WorldModel]) -> dict[str, Metric]:
    """What agents score, in the game itself and in the dream: steps they last, or the sum of rewards."""
    system = e.system
    results = {}
    unit = {"unit": "steps" if system.model.each == 1 and system.model.rewards is None else "reward",
            "longest": system.limit}  # fmt: skip
    if system.playable:
        for name, policy in (("survival", None), ("survival_random", "random")):
            if policy or system.agent is not None:
                score = system.play(policy, _played(system)).score.double()
                results[name] = from_rows(score, "estimate", higher_is_better=None if policy else True, detail=unit)
    if system.agent is not None:
        detail = {**unit, "longest": system.longest, "tau": system.config.tau}
        score = system.dream(None, PLAYED).score.double()
        results["survival_dreamt"] = from_rows(score, "estimate", higher_is_better=None, detail=detail)
        if "survival" in results:
            chance = from_rows(system.dream("random", PLAYED).score.double(), "estimate", higher_is_better=None)
            _compare(results, chance)
    return results


def _compare(results: Mapping[str, Metric], chance: Metric) -> None:
    """Say so where an agent gains far less in the game than it does in its dream.

    Args:
        results: scores of the agent and of the recording's policy in the game, and of the agent in its dream.
        chance: score of the recording's policy in that dream.
    """
    agent, lucky, dreamt = (results[n] for n in ("survival", "survival_random", "survival_dreamt"))
    promised, kept = dreamt.value - chance.value, agent.value - lucky.value
    error = sum((m.std_error or 0.0) ** 2 for m in (agent, lucky, dreamt, chance)) ** 0.5
    if 0.5 * promised - kept > 3 * error:
        warnings.warn(
            f"in its dream the agent scores {promised:+.4g} relative to the recording's policy, in the game "
            f"{kept:+.4g}: it makes use of what is wrong in the dream. Train on its own games, too (rounds=2), or "
            "in a dream of a higher temperature (tau)",
            DataWarning,
            stacklevel=3,
        )


def frames(e: Evaluation[WorldModel]) -> dict[str, Metric]:
    """How far frames are from their reconstructions."""
    games = _games(e)
    shown = games["frames"][_valid(games)].float() / 255.0
    shown = shown[:: max(1, len(shown) // 4096)]
    error = (e.system.reconstruct(shown) - shown).square().flatten(1).sum(1)
    plain = (shown - shown.mean(0)).square().flatten(1).sum(1)
    detail = {"unit": "squared error per frame, summed over pixels", "of the mean frame": float(plain.mean())}
    return {"frame_error": from_rows(error.double(), "exact", higher_is_better=False, detail=detail)}


@torch.no_grad()
def memory(e: Evaluation[WorldModel]) -> dict[str, Metric]:
    """How well the memory predicts the next code, and the end."""
    from sklearn.metrics import roc_auc_score

    games = _games(e)
    code = e.system.encode(games["frames"])["code_loc"]
    prediction, _ = e.system.model.predict_all(code, games["action"])
    follows = _valid(games)
    follows[:, 0] = False
    score = torch.where(follows, prediction.code.log_prob(code), 0.0).double().sum(1)
    steps = float(follows.sum())
    mean = -float(score.sum()) / steps
    spread = -score - mean * follows.sum(1)
    error = float(spread.square().sum().sqrt()) / steps
    detail = {"of": "the locations of the encoder's codes"}
    results = {"code_nats_per_step": Metric(mean, error, len(score), "exact", False, detail)}
    end, truth = prediction.end[follows].sigmoid().numpy(), games["done"][follows].numpy()
    if 0 < truth.sum() < len(truth):
        shares = {"share of ends": float(truth.mean()), "share predicted": float(end.mean())}
        results["end_auc"] = Metric(float(roc_auc_score(truth, end)), None, int(truth.sum()), "exact", True, shares)
    return results


def bright(e: Evaluation[WorldModel]) -> dict[str, Metric]:
    """How many small bright things, such as balls of fire, are there again in reconstructions, by their size."""
    games = _games(e)
    shown = games["frames"][_valid(games)]
    if e.system.schema.get("vector"):
        return {}
    shown = shown[:: max(1, len(shown) // 2048)].float() / 255.0
    found = judging.small_bright(shown.numpy(), e.system.reconstruct(shown).numpy())
    results = {}
    for (low, high), (count, there) in found.items():
        if count:
            share = there / count
            error = (share * (1 - share) / count) ** 0.5
            detail = {"pixels": f"{low} to {high}", "frames": len(shown)}
            results[f"bright_recall_{low}_{high}"] = Metric(share, error, count, "estimate", True, detail)
    return results


def sight(e: Evaluation[WorldModel]) -> dict[str, Metric]:
    """What an agent owes to its eyes: its score beside that of chance, of the best blind sweep, and blindfolded."""
    system = e.system
    if not system.playable or system.agent is None:
        return {}
    count, steps = _played(system), system.limit
    results = {}
    for name, policy, options in (
        ("survival", None, {}), ("survival_blindfold", None, {"blindfold": True}), ("survival_random", "uniform", {}),
    ):  # fmt: skip
        score = system.play(policy, count, **options).score.double()  # type: ignore[arg-type]
        results[name] = from_rows(score, "estimate", higher_is_better=None if options or policy else True)
    sweep, blind = system.play_blind(max(8, count // 4), count)
    detail = {"actions": list(sweep.actions), "hold": sweep.hold, "longest": steps}
    results["survival_blind"] = from_rows(blind.score.double(), "estimate", higher_is_better=None, detail=detail)
    if "recorded_score" in system.schema:
        recorded = Metric(system.schema["recorded_score"], None, 1, "exact", None, {"of": "the recording's policy"})
        results["survival_recorded"] = recorded
    return results


def temperatures(e: Evaluation[WorldModel]) -> dict[str, Metric]:
    """The same agent in dreams of several temperatures."""
    if e.system.agent is None:
        return {}
    return {
        f"survival_dreamt_{tau:g}": from_rows(
            e.system.dream(None, PLAYED, tau=tau).score.double(), "estimate", higher_is_better=None
        )
        for tau in TAUS
    }


def _played(system: WorldModel) -> int:
    return PLAYED if system.schema["game"] is not None else OUTSIDE


def _games(e: Evaluation[WorldModel]) -> dict[str, Tensor]:
    return e.once("games", lambda: e.system.games(e.rows))


def _valid(games: Mapping[str, Tensor]) -> Tensor:
    return torch.arange(games["action"].shape[1]) < games["length"].unsqueeze(1)


METRICS: dict[str, MetricFunction] = {
    "survival": survival,
    "frames": frames,
    "memory": memory,
    "log_likelihood": held_out_log_likelihood,
    "bright": bright,
    "sight": sight,
    "temperatures": temperatures,
}
ON_REQUEST = {"log_likelihood", "bright", "sight", "temperatures"}


# ---- views


def dreams(system: WorldModel, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Dreams in which the trained agent acts."""
    return {"frames": system.sample(n, seed=seed)["frames"]}


def games(system: WorldModel, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Games that the trained agent plays outside; the last frame stays."""
    return {"frames": hold(system.play(None, n, seed=seed, keep=True))}


def foretell(system: WorldModel, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Held-out games beside dreams that share their first frames and everything done: two videos per game."""
    real, dreamt = continuations(system, split, n, seed)
    return {"frames": torch.stack([real, dreamt], 1).flatten(0, 1)}


def reconstruct(system: WorldModel, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Held-out games beside the same from their codes."""
    real = system.games(split)["frames"][:n, :32].float() / 255.0
    return {"frames": torch.stack([real, system.reconstruct(real)], 1).flatten(0, 1)}


def beside(system: WorldModel, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Games the trained agent plays, each beside a dream it plays: the score so far, and above each frame a bar as long
    as it is probable that this is the end.
    """
    return videos.beside(system, n, seed)


View = Callable[..., dict[str, Tensor]]
VIEWS: Mapping[str, View] = {f.__name__: f for f in (dreams, games, foretell, reconstruct, beside)}


def hold(rollouts: Rollouts) -> Tensor:
    """Frames of rollouts, the last one repeated behind the end."""
    assert rollouts.frames is not None
    step = torch.arange(rollouts.frames.shape[1])
    last = torch.minimum(step, rollouts.length.unsqueeze(1) - 1)
    index = last.reshape(*last.shape, 1, 1, 1).expand(rollouts.frames.shape)
    return rollouts.frames.gather(1, index)


@torch.no_grad()
def continuations(
    system: WorldModel, split: Split, n: int, seed: int, known: int = 4, steps: int = 32
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
        now = code[:, t] if t < known else system.model.predict(state).code.draw(generator=generator)
        path.append(now)
        state = system.model.observe(state, now, rows["action"][order, t])
    return frames, system.render(torch.stack(path, 1))


# ---- figures


def dream_figure(system: WorldModel, split: Split, seed: int = 3) -> Figure:
    """Strips: a held-out game above the dream that shares its first frames and its actions; twice."""
    known = 4
    real, dreamt = continuations(system, split, 2, seed, known)
    steps = real.shape[1]
    shown = np.unique(np.linspace(known - 1, steps - 1, SHOWN).astype(int)).tolist()
    alt = "two held-out games as strips of frames, each above a dream that shares its first frames and its moves"
    rows = [(label, clips[g, shown]) for g in range(len(real)) for label, clips in (("game", real), ("dream", dreamt))]
    figure, axes = image_rows(rows, titles=[f"{t}" for t in shown], size=0.55, alt=alt)
    for (i, j), panel in np.ndenumerate(axes):
        frame(panel, ACCENT if i % 2 and shown[j] >= known else SOFT, 1.2 if i % 2 else 0.6)
    return figure


def agent_figure(system: WorldModel) -> Figure:
    """Left: how well agents did while they learned, by generation. Right: how long the last one lasts in the game."""
    agent = system.agent
    assert agent is not None
    playable = system.playable
    where = f"in the {agent.inside}"
    alt = f"scores of agents over generations of learning {where}, and survival of the last one in the game itself"
    figure = new_figure(7.5 if playable else 4.5, 3.0, alt)
    panels = figure.subplots(1, 2 if playable else 1, squeeze=False)[0]
    mean, best = (np.array(v) for v in zip(*agent.curve, strict=True))
    steps = np.arange(1, len(mean) + 1)
    panels[0].plot(steps, best, color=SOFT, linewidth=1.0, label="best of the population")
    panels[0].plot(steps, mean, color=ACCENT, linewidth=1.6, label="mean of the population")
    panels[0].set(
        xlabel="generation",
        ylabel=f"score {where}" if system.model.rewards else f"steps survived {where}",
        ylim=(min(0.0, float(mean.min())), None),
    )
    panels[0].legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    if playable:
        for policy, colour, label in (("random", SOFT, "at random"), (None, INK, f"agent from the {agent.inside}")):
            score = system.play(policy, _played(system)).length.numpy() - 1
            time = np.arange(system.limit)
            left = (score[:, None] > time).mean(0)  # whoever lasts to the limit never leaves
            name = f"{label}: mean {score.mean():.0f}"
            panels[1].step(time, left, where="post", color=colour, linewidth=1.6, label=name)
        panels[1].set(xlabel="steps in the game itself", ylabel="share still playing", ylim=(0, 1.02), xlim=(0, None))
        panels[1].legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return figure


def dream(e: Evaluation[WorldModel]) -> Figure:
    """A held-out game above a dream that begins with its first frames (grey) and then goes on by itself, with the same
    moves (orange frames; numbers are steps). The dream should stay sharp and follow the game for a while.
    """
    return dream_figure(e.system, e.rows)


def learning(e: Evaluation[WorldModel]) -> Figure | None:
    """Left how well agents did where they learned, dream or game, generation by generation. Right how long
    the last one lasts in the game itself: its curve should lie well above that of moves at random.
    """
    agent = e.system.agent
    return agent_figure(e.system) if agent is not None and agent.curve else None


def played(e: Evaluation[WorldModel]) -> Figure | None:
    """The trained agent in the game itself and in a dream, over its last frames (above each the score so far), and how
    probable the memory holds it that a frame is the end (bars). The bars should stay low until the end is there.
    The command phlogiston show RUN beside --out beside.gif shows the whole as a video.
    """
    if e.system.agent is None:
        return None
    shown = videos.clips(e.system, 1, 3)
    count = min(SHOWN, *(len(frames) for _, frames, _, _ in shown))
    alt = "the last frames of a game and of a dream, with bars for the probability of the end"
    figure = new_figure(0.62 * count + 0.6, 1.25 * len(shown), alt)
    grid = figure.subplots(2 * len(shown), count, squeeze=False, height_ratios=[3, 1] * len(shown))
    for row, (name, frames, end, score) in enumerate(shown):
        for column in range(count):
            t = len(frames) - count + column
            picture, bar = grid[2 * row, column], grid[2 * row + 1, column]
            picture.imshow(frames[t])
            picture.set_title(f"{score[t]:.0f}", fontsize=7, color=SOFT)
            bar.bar([0], [end[t]], color=ACCENT)
            bar.set(xlim=(-0.6, 0.6), ylim=(0, 1))
            for panel in (picture, bar):
                panel.set_xticks([])
                panel.set_yticks([])
        grid[2 * row, 0].set_ylabel(name, fontsize=8)
    return figure


FIGURES = {
    "the agent in the game and in a dream": played,
    "a game, and a dream that begins like it": dream,
    "what an agent learned": learning,
}


# ---- example queries


def what_comes_next(e: Evaluation[WorldModel]) -> tuple[str, Answer]:
    """Eight frames into a game."""
    games = _games(e)
    seen = games["frames"][0, :8].float() / 255.0
    evidence = {"frames": Known(seen), "action": Known(games["action"][0, :8])}
    answer = e.system.query(evidence, ask=["frames", "done"], num_samples=100, steps=16, seed=0)
    return "what comes after eight frames", answer


EXAMPLE_QUERIES = [what_comes_next]
