"""How far to trust a posterior: simulation-based calibration, on data drawn from the model itself.

Draw latents and data from the model; compute the posterior given the data; see where the true latents fall among its
draws. If the posterior is right, they fall uniformly (Cook, Gelman and Rubin, 2006; Talts, Betancourt, Simpson, Vehtari
and Gelman, *Validating Bayesian inference algorithms with simulation-based calibration*, 2018). A hump in the middle of
the histogram means a posterior too wide, a bowl one too narrow, a slope one that leans.

A posterior that ignores the data and returns the prior passes that test for every latent by itself. The joint density
log p(x, z) as one more quantity catches it (Modrák et al., 2023), so `check_guide` always adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from phlogiston.errors import ConfigError, DataError, ShapeError, unknown_name
from phlogiston.evaluate.calibration import pit
from phlogiston.evaluate.figures import array
from phlogiston.evaluate.importance import PARTICLES, per_row, plate_nesting, simulate
from phlogiston.evaluate.metric import Metric, from_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JOINT = "log joint"


@dataclass(frozen=True)
class Calibration:
    """Where true values fell among a posterior's draws.

    Attributes:
        ranks: quantity -> (repetitions,) normalised ranks in (0, 1), uniform if the posterior is right.
        draws: how many draws each rank was taken among.
        bins: of the histograms.
    """

    ranks: Mapping[str, np.ndarray]
    draws: int
    bins: int = 20

    @property
    def repetitions(self) -> int:
        """How many data sets (rows) were drawn."""
        return len(next(iter(self.ranks.values())))

    def p_values(self) -> dict[str, float]:
        """Return per quantity the p-value of uniformity: the smaller of a chi-square and a Kolmogorov test, doubled."""
        from scipy.stats import chisquare, kstest

        out = {}
        for name, ranks in self.ranks.items():
            p_shape = float(chisquare(self._counts(ranks)).pvalue)
            p_lean = float(kstest(ranks, "uniform").pvalue)
            out[name] = min(1.0, 2.0 * min(p_shape, p_lean))
        return out

    def p_value(self) -> float:
        """Return the p-value of all quantities together (Bonferroni)."""
        return min(1.0, min(self.p_values().values()) * len(self.ranks))

    def accepted(self, level: float = 0.005) -> bool:
        """Return whether nothing speaks against the posterior; a right one is refused with probability `level`."""
        return self.p_value() >= level

    def coverage(self, level: float = 0.9) -> dict[str, Metric]:
        """Return per quantity how often the posterior's central interval holds the true value."""
        if not 0.0 < level < 1.0:
            raise ConfigError(f"level is {level}; expected a probability between 0 and 1.")
        out = {}
        for name, ranks in self.ranks.items():
            share, n = float((np.abs(ranks - 0.5) <= level / 2).mean()), len(ranks)
            out[name] = from_share(share, n, None, {"level": level})
        return out

    def metrics(self, level: float = 0.9) -> dict[str, Metric]:
        """Return `sbc_p_value` of all quantities and `coverage` at a level, averaged over the latents."""
        p_values = self.p_values()
        worst = min(p_values, key=lambda name: p_values[name])
        inside = self.coverage(level)
        latents = [metric for name, metric in inside.items() if name != JOINT] or list(inside.values())
        share = sum(metric.value for metric in latents) / len(latents)
        error = max(metric.std_error or 0.0 for metric in latents)  # latents of one row are not independent
        detail = {"worst": worst, "quantities": len(p_values), "draws": self.draws}
        return {
            "sbc_p_value": Metric(self.p_value(), None, self.repetitions, "estimate", None, detail),
            "coverage": Metric(share, error, self.repetitions, "estimate", None, {"level": level, "draws": self.draws}),
        }

    def band(self, level: float = 0.99) -> tuple[float, float]:
        """Return the lowest and highest count of a bin that chance explains, for all bins of a histogram at once."""
        from scipy.stats import binom

        tail = (1.0 - level) / (2.0 * self.bins)
        low, high = binom.ppf([tail, 1.0 - tail], self.repetitions, 1.0 / self.bins)
        return float(low), float(high)

    def figure(self, most: int = 12) -> Figure:
        """Draw the rank histograms of the quantities that fit worst, with their 99 % bands."""
        from phlogiston.evaluate.figures import rank_histograms

        order = sorted(self.p_values().items(), key=lambda item: item[1])[:most]
        counts = {f"{name} (p = {p:.2g})": self._counts(self.ranks[name]) for name, p in order}
        bands = dict.fromkeys(counts, self.band())
        return rank_histograms(counts, bands, self.repetitions / self.bins, alt="rank histograms with 99 % bands")

    def _counts(self, ranks: np.ndarray) -> np.ndarray:
        return np.histogram(ranks, self.bins, (0.0, 1.0))[0]


def rank(
    truth: Mapping[str, Any],
    draws: Mapping[str, Any],
    log_weights: Any | None = None,
    *,
    bins: int | None = None,
    seed: int = 0,
) -> Calibration:
    """Rank true values among posterior draws.

    Args:
        truth: name -> (n, ...), one row per repetition; every entry becomes a quantity of its own.
        draws: name -> (draws, n, ...).
        log_weights: (draws, n), of weighted draws.
        bins: of the histograms; 20, or fewer where there are fewer than 100 repetitions.
        seed: of the breaking of ties.

    Raises:
        ShapeError: the two do not fit.
        DataError: nothing to rank.
    """
    ranks: dict[str, np.ndarray] = {}
    number = 0
    for name, value in truth.items():
        if name not in draws:
            raise unknown_name("quantity among the draws", name, draws)
        y, x = array(value), array(draws[name])
        if x.shape[1:] != y.shape or y.ndim == 0:
            raise ShapeError(f"{name!r}: truth has shape {y.shape} and draws {x.shape}; expected (draws, *truth).")
        y, x, number = y.reshape(len(y), -1), x.reshape(len(x), len(y), -1), len(x)
        for i in range(y.shape[1]):
            label = name if y.shape[1] == 1 else f"{name}[{i}]"
            ranks[label] = pit(x[:, :, i], y[:, i], log_weights, seed=seed + i)
    if not ranks:
        raise DataError("there is nothing to rank: no latents.")
    n = len(next(iter(ranks.values())))
    return Calibration(ranks, number, bins or max(2, min(20, n // 5)))


def check_guide(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: Mapping[str, Any],
    *,
    draws: int = 99,
    repeats: int = 1,
    sites: Sequence[str] | None = None,
    plate: str = "data",
    seed: int = 0,
) -> Calibration:
    """Check a guide as the posterior of its model, on data drawn from the model.

    Args:
        model: a Pyro program whose rows are independent, `model(**batch)`.
        guide: its guide.
        batch: gives the number of rows and everything no site observes; 200 rows or more in all make a useful test.
        draws: from the guide, per row.
        repeats: how often to draw as many rows as the batch has.
        sites: latents to compare; all the two have in common if not given.
        plate: name of the plate over rows.
        seed: of everything.

    Returns:
        The ranks of every entry of every latent, and of the joint density.

    Raises:
        ConfigError: no latents in common, or latents outside the plate.
    """
    if draws < 9 or repeats < 1:
        raise ConfigError(f"draws is {draws} and repeats {repeats}; at least 9 and 1 are needed.")
    truths: list[dict[str, np.ndarray]] = []
    posteriors: list[dict[str, np.ndarray]] = []
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(repeats):
            drawn, latents = simulate(model, batch)
            nesting = plate_nesting(model, guide, drawn)
            true = poutine.trace(poutine.condition(model, data=latents)).get_trace(**drawn)
            with pyro.plate(PARTICLES, draws, dim=-nesting - 1):
                proposed = poutine.trace(guide).get_trace(**drawn)
                scored = poutine.trace(poutine.replay(model, trace=proposed)).get_trace(**drawn)
            shared = [name for name in latents if name in proposed.nodes and (sites is None or name in sites)]
            if not shared:
                raise ConfigError(f"guide and model share no latents to compare ({', '.join(latents) or 'none'}).")
            # latents the guide leaves to the model are no part of what is checked
            joint = [n for n in true.nodes if n in proposed.nodes or n not in latents]
            truths.append({name: _rows_first(true, name, plate, nesting)[0] for name in shared})
            posteriors.append({name: _rows_first(proposed, name, plate, nesting) for name in shared})
            truths[-1][JOINT] = _density(true, joint, plate, nesting)[0]
            posteriors[-1][JOINT] = np.broadcast_to(
                _density(scored, joint, plate, nesting), (draws, len(truths[-1][JOINT]))
            )
    names = truths[0].keys()
    return rank(
        {name: np.concatenate([t[name] for t in truths]) for name in names},
        {name: np.concatenate([p[name] for p in posteriors], axis=1) for name in names},
        seed=seed,
    )


def check_query(
    ask: Callable[[dict[str, Any]], Any],
    model: Callable[..., Any],
    batch: Mapping[str, Any],
    sites: Sequence[str],
    *,
    seed: int = 0,
) -> Calibration:
    """Check any way of answering questions: the same test, row by row, with weighted draws.

    Args:
        ask: function of one row (a batch of 1, drawn from the model) that returns its posterior: an answer with
            `samples` (name -> (draws, ...)) and `log_weights` (draws,) or None, or a dict of such samples.
        model: the program the data are drawn from.
        batch: gives the number of rows to draw, one question each.
        sites: names of latents, or of entries of the batch, to compare in the answers.
        seed: of the data.

    Raises:
        UnknownNameError: an answer lacks a site, or the model does.
    """
    drawn, latents = simulate(model, batch, seed)
    rows = len(next(value for value in drawn.values() if isinstance(value, Tensor)))
    known = {**{k: v for k, v in drawn.items() if isinstance(v, Tensor)}, **latents}
    for name in sites:
        if name not in known:
            raise unknown_name("latent of the model", name, known)
    ranks: dict[str, list[float]] = {}
    number = 0
    for i in range(rows):
        row = {k: v[i : i + 1] if isinstance(v, Tensor) and v.ndim else v for k, v in drawn.items()}
        answer = ask(row)
        samples = getattr(answer, "samples", answer)
        weights = getattr(answer, "log_weights", None)
        for name in sites:
            if name not in samples:
                raise unknown_name("quantity of the answer", name, samples)
            truth = array(known[name][i]).reshape(-1)
            draws = array(samples[name]).reshape(-1, len(truth))
            number = len(draws)
            for entry, value in enumerate(truth):
                label = name if len(truth) == 1 else f"{name}[{entry}]"
                w = None if weights is None else array(weights).reshape(-1)
                at = pit(draws[:, entry : entry + 1], np.array([value]), w, seed=seed + i)
                ranks.setdefault(label, []).append(float(at[0]))
    bins = max(2, min(20, rows // 5))
    return Calibration({name: np.array(values) for name, values in ranks.items()}, number, bins)


def _rows_first(trace: Any, name: str, plate: str, nesting: int) -> np.ndarray:
    """Return a site's values as (particles or 1, rows, everything else)."""
    site = trace.nodes[name]
    dims = [frame.dim for frame in site["cond_indep_stack"] if frame.name == plate]
    if not dims:
        raise ConfigError(f"site {name!r} is outside the plate {plate!r} over rows; it cannot be ranked row by row.")
    value, event = site["value"], site["fn"].event_dim
    batch_axes = value.ndim - event
    value = value.reshape((1,) * (nesting + 1 - batch_axes) + tuple(value.shape))
    rows = nesting + 1 + dims[0]
    value = value.movedim(rows, 1)
    return value.reshape(value.shape[0], value.shape[1], -1).double().cpu().numpy()


def _density(trace: Any, names: Sequence[str], plate: str, nesting: int) -> np.ndarray:
    """Return the log density of some sites together, (particles or 1, rows)."""
    trace.compute_log_prob()
    total = torch.zeros(())
    for name in names:
        site = trace.nodes[name]
        if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample":
            total = total + per_row(name, site, plate, nesting)
    return total.cpu().numpy()
