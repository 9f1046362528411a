"""The deep residual mixture model as a product: fit a density on rows, then score, sample and explain them.

    system = DRMM(frame="tril", num_layers=2).fit(phlogiston.datasets.load("swissroll"))
    system.log_prob(x).value          nats per row, exact while the paths can be counted
    system.sample(1000)["x"]          rows; `depth=1` from the mixture truncated after the first layer
    system.codes(x)                   the most probable path of each row

Columns that never vary carry no density: the system sets them aside, checks them when scoring, and puts them back when
sampling. Densities are with respect to the columns that do vary, in the data's own units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from phlogiston.arrays import at_least
from phlogiston.datasets.base import Meta, Split
from phlogiston.datasets.containers import frame_kind
from phlogiston.datasets.frames import Rows
from phlogiston.datasets.grid import describe_cells
from phlogiston.datasets.standardise import standardise, tell_wild
from phlogiston.datasets.weights import written_out
from phlogiston.distributions.cell_map import CellMap
from phlogiston.errors import ConfigError, DataError, ShapeError, unknown_name
from phlogiston.evaluate.score import Score
from phlogiston.guides.drmm import AutoregressiveGuide, BeamGuide, ExactGuide
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.handlers import scale_sites, weight_depths
from phlogiston.inference.svi.schedules import hold_then, linear
from phlogiston.models.drmm import DRMM as DRMMModel
from phlogiston.models.drmm import CollapsedDRMM, label_site
from phlogiston.networks.beam import Beam
from phlogiston.systems.base import Role, System
from phlogiston.systems.calls import seeded
from phlogiston.systems.drmm.config import STEPS, fixed
from phlogiston.systems.drmm.config import Config as DRMMConfig
from phlogiston.systems.drmm.demo import recipes
from phlogiston.systems.drmm.query import DRMMQuery
from phlogiston.systems.drmm.scoring import cell_densities, cell_masses, chunks, importance, varying_columns
from phlogiston.systems.drmm.selection import choose
from phlogiston.systems.drmm.start import start
from phlogiston.systems.drmm.steps import careful_adam
from phlogiston.systems.drmm.training import DeadComponents, DepthMonitor
from phlogiston.systems.options import from_config
from phlogiston.systems.table_rows import categories, fitting_rows
from phlogiston.systems.tables.tabular import Imputes
from phlogiston.systems.words import in_words

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer


class DRMM(Imputes, System):
    """Deep residual mixture model; options in `systems.drmm.config.Config`.

    Example:
        >>> import torch
        >>> rows = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> system = DRMM(num_layers=1, num_components=2, steps=20).fit(rows)
        >>> system.log_prob(rows[:5]).kind
        'exact'
        >>> tuple(system.sample(10)["x"].shape)
        (10, 2)
    """

    name: ClassVar[str] = "drmm"
    HEEDS: ClassVar[tuple[str, ...]] = ("mask", "weight", "length")  # a length is a label like others
    DOUBLE: ClassVar[tuple[str, ...]] = ("x",)
    Config = DRMMConfig
    config: DRMMConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Columns, their location and scale, which never vary, and the categories of each categorical column."""
        tensors = train.tensors
        if "x" not in tensors or tensors["x"].ndim != 2:
            raise ShapeError(
                "DRMM needs continuous columns: a tensor 'x' of shape (rows, features) in the training data"
            )
        if not len(train):
            raise DataError("x has no rows; DRMM needs at least one to fit")
        x, mask, weight = tensors["x"], tensors.get("mask"), tensors.get("weight")
        columns = list(meta.columns) if meta is not None and meta.columns else [f"x{i}" for i in range(x.shape[1])]
        precision = "float32" if x.dtype == torch.float32 else "float64"
        standard = standardise(
            x.double().numpy(),
            None if mask is None else mask.numpy(),
            None if weight is None else weight.numpy(),
            columns,
            precision,
        )
        varies = ~standard.constant
        known = _within(x, mask, standard.limits)
        if not varies.any():
            raise DataError("every column of x is constant: there is no density to learn")
        tell_wild(standard.wild, columns, left_out="these cells")
        schema = {
            "columns": columns,
            "constant": {str(i): float(standard.location[i]) for i in standard.constant.nonzero()[0]},
            "location": standard.location[varies].tolist(),
            "scale": standard.scale[varies].tolist(),
            "precision": precision,
            "limits": {str(i): list(limits) for i, limits in standard.limits.items()},
            "categorical": categories(tensors, meta, "DRMM"),
            "image_shape": list(meta.image_shape) if meta is not None and meta.image_shape else None,
        }

        @cache
        def cells(apart: bool) -> Any:
            return describe_cells(
                x.double().numpy()[:, varies],
                [name for name, used in zip(columns, varies, strict=True) if used],
                self.config.grid,
                None if known is None else known.numpy()[:, varies],
                None if weight is None else weight.numpy(),
                {} if meta is None else meta.cells,
                apart=apart,
            )

        def described(recipe: DRMMConfig) -> dict[str, Any]:
            return {**schema, "cells": cells(recipe.frame not in ("tril", "lowrank"))}

        chosen = choose(type(self), self.config, train, described, self._progress)
        return {**described(replace(self.config, **chosen)), "chosen": chosen}

    @property
    def recipe(self) -> DRMMConfig:
        """The configuration with what was chosen from the training rows in place of "auto"."""
        return replace(self.config, **self.schema.get("chosen", {}))

    def step_options(self) -> dict[str, int]:
        """Optimiser steps; before the data are known, those of a structure that is given."""
        steps = self.recipe.steps
        return {"steps": STEPS if steps == "auto" else steps}

    @property
    def varying(self) -> list[int]:
        """Positions of the columns that carry density."""
        return varying_columns(self.schema)

    def prepare(self, split: Split, role: Role = "train") -> Split:
        """The varying columns, masks, weights and categorical columns; wild cells are missing."""
        keep, x = self.varying, split.tensors["x"]
        limits = {int(i): limit for i, limit in self.schema.get("limits", {}).items()}
        known = _within(x, split.tensors.get("mask"), limits)
        batch: dict[str, Tensor] = {"x": x[:, keep] if x.is_floating_point() else x[:, keep].double()}
        if known is not None and not bool(known.all()):
            batch["mask"] = known[:, keep]
        if "weight" in split.tensors:
            batch["weight"] = split.tensors["weight"]
        for name in self.schema["categorical"]:
            if name in split.tensors:
                batch[label_site(name)] = split.tensors[name].to(torch.int64)
        return written_out(Split(batch, double=self.DOUBLE))

    def read_rows(self, data: Any) -> Split:
        """Read rows as `fit` takes them, with the categories of training."""
        return Split(fitting_rows(self, data), double=self.DOUBLE)

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """The generative program, the guide the configuration names, and the collapsed program training runs on."""
        c = self.recipe
        self.model = from_config(
            DRMMModel,
            c,
            features=len(self.schema["location"]),
            categorical={name: len(labels) for name, labels in self.schema["categorical"].items()},
            sites="layers" if c.guide == "autoregressive" else "path",
            cells=CellMap.from_schema(self.schema.get("cells")),
        )
        self.model.location.copy_(torch.tensor(self.schema["location"], dtype=torch.float64))
        self.model.scale.copy_(torch.tensor(self.schema["scale"], dtype=torch.float64))
        if c.guide == "exact":
            self.guide = ExactGuide(self.model, max_enum=c.max_enum)
        elif c.guide == "beam":
            self.guide = BeamGuide(self.model, width=c.beam)
        else:
            self.guide = AutoregressiveGuide(self.model)
        width = None if c.guide == "exact" else c.beam
        self._collapsed = from_config(CollapsedDRMM, c, model=self.model, width=width)

    def training_pair(self) -> tuple[nn.Module, nn.Module | None]:
        """The collapsed program, which needs no guide, or the sampled pair for the autoregressive guide."""
        return (self.model, self.guide) if self.config.guide == "autoregressive" else (self._collapsed, None)

    def initialise(self, train: Split, seed: int) -> None:
        """K-means and EM, layer by layer (see `systems.drmm.start.start`)."""
        t = train.tensors
        streams = self.model.labels(t)
        x = t["x"] if self.model.cells is None else self.model.cells.redraw(t["x"])
        start(self.model, x, t.get("mask"), streams, t.get("weight"), seed, float(self.recipe.pooling))

    def stages(self) -> list[Stage]:
        """One stage: constant learning rate, then linear to zero, while the truncated depths' weight falls."""
        c = self.recipe
        common: dict[str, Any] = {
            "name": "train",
            "steps": c.steps,
            "optimizer": self._adam,
            "learning_rate": c.learning_rate,
            "batch_size": c.batch_size,
            "clip": c.clip,
        }
        schedules: dict[str, Any] = {"learning_rate": hold_then(linear(1.0, 0.0), hold=0.5)}
        streams = [label_site(name) for name in self.schema["categorical"]]
        handlers: dict[str, Any] = {}
        if streams and c.stream_weight != 1.0:
            handlers["streams"] = scale_sites(dict.fromkeys(streams, c.stream_weight))
        if fixed(c).num_layers > 1 and c.guide != "autoregressive":
            depth_weights: dict[str, float | Tensor] = dict.fromkeys(("x", *streams), c.depth_weight)
            handlers["depths"] = weight_depths(depth_weights)
            schedules["depths.weight"] = linear(c.depth_weight, c.final_depth_weight)
        objective = "enum" if c.guide == "autoregressive" else "elbo"
        if self.schema.get("cells"):
            common["transform"] = self._fill_cells
        return [Stage(objective=objective, handlers=handlers, schedules=schedules, **common)]

    def _adam(self, parameters: list[Tensor], learning_rate: float) -> torch.optim.Optimizer:
        """Adam that narrow components survive (see `systems.drmm.steps.careful_adam`)."""
        return careful_adam(self.model.frames, parameters, learning_rate)

    def _fill_cells(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch whose columns on a grid lie anywhere in their cells, anew at each step."""
        return {**batch, "x": self.model.cells.redraw(batch["x"])}

    def callbacks(self) -> list[Any]:
        """Revival of unused components, and a record of each depth's density."""
        if self.config.guide == "autoregressive":
            return []
        watch: list[Any] = [DepthMonitor(width=self.config.beam)]
        if self.config.revive_every:
            watch.append(DeadComponents(every=self.config.revive_every, width=self.config.beam))
        return watch

    # ----- verbs --------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        depth: int | None = None,
        noise: Literal["model", "mean"] = "model",
    ) -> Rows:
        """Draw rows.

        Args:
            n: how many.
            seed: of this call; None draws from torch's generator.
            depth: draw from the mixture truncated after this many layers; all by default.
            noise: `"mean"` returns the paths' means, without their Gaussian noise.

        Returns:
            `x` (n, features), in the precision of the data that were fitted and with constant columns in place, and
            int64 (n,) per categorical column.

        Raises:
            ConfigError: n below 1, or a depth the model does not have.
        """
        self._need_fit()
        n = at_least("n", n, 1)
        self._check_depth(depth)
        if noise not in ("model", "mean"):
            raise unknown_name("noise", noise, ("model", "mean"))
        with seeded(seed), torch.no_grad():
            # dtype in, dtype out; models from before it was written down had seen float32
            precision = getattr(torch, self.schema.get("precision", "float32"))
            out = {"x": torch.empty(n, len(self.schema["columns"]), dtype=precision)}
            out |= {name: torch.empty(n, dtype=torch.int64) for name in self.schema["categorical"]}
            start = 0
            for codes, x in self.model.generate_parts(n, depth, noise=noise == "model"):
                rows = slice(start, start := start + len(x))
                out["x"][rows] = self._insert(self.model.rounded(x))
                for name in self.schema["categorical"]:
                    probs = self.model.stream_logits(name, codes).softmax(-1)
                    out[name][rows] = torch.multinomial(probs, 1).squeeze(-1)
        return Rows(out, self.names())

    def log_prob(
        self,
        data: Any,
        *,
        seed: int = 0,
        num_particles: int = 256,
        mask: Any = None,
        depth: int | None = None,
        method: Literal["auto", "exact", "beam", "importance"] = "auto",
        width: int | None = None,
        joint: bool = False,
        mass: bool = False,
    ) -> Score:
        """Log density of rows, in nats, at the numbers given and in their units.

        Where columns are on a grid the density is that of numbers anywhere in the cells: it integrates to one, and its
        mean over rows whose cells were filled with uniform noise, plus the log volume of a cell, is a lower bound on
        the log probability of the cells themselves, which `mass=True` gives.

        Args:
            data: a dataset (its held-out rows), split, mapping of arrays or data frame, or one array (rows, features).
            seed: of `"importance"`.
            num_particles: paths drawn per row by `"importance"`.
            mask: bool like `x`, True where known; unknown entries are integrated out.
            depth: density after this many layers; all by default.
            method: `"exact"` sums every path, `"beam"` the best ones (a lower bound), `"importance"` averages paths
                drawn layer by layer (an estimate with a standard error). `"auto"` is exact up to `config.max_enum`
                paths, a beam beyond.
            width: paths kept by the beam; four times the training beam by default.
            joint: include the categorical columns given beside x: log p(x, y).
            mass: score the cells that a row lies in instead of the point: the log probability of its columns on a grid,
                together with the log density of the others. Exact, for frames without shear and paths that can be
                counted.

        Returns:
            The scores (rows,) and what kind they are. A row that contradicts a constant column scores -inf.

        Raises:
            ShapeError: the wrong number of columns.
            ConfigError: a depth the model does not have, too many paths for `"exact"`, or no masses in closed form.
        """
        self._need_fit()
        self._check_depth(depth)
        method = self._method_of_masses(method) if mass else method
        at_least("num_particles", num_particles, 1)
        paths = math.prod(self.model.sizes[:depth])
        if method == "auto":
            method = "exact" if paths <= self.config.max_enum else "beam"
        if method not in ("exact", "beam", "importance"):
            raise unknown_name("method", method, ("auto", "exact", "beam", "importance"))
        if method == "exact" and paths > self.config.max_enum:
            raise ConfigError(f"{paths} paths are more than max_enum={self.config.max_enum}; use method='beam'")
        if method == "importance" and joint:
            raise ConfigError("method='importance' scores x alone; use 'exact' or 'beam' with joint=True")
        tensors = fitting_rows(self, data, mask)
        values, errors = [], []
        width = {"exact": None, "beam": width or 4 * self.config.beam, "importance": num_particles}[method]
        with torch.no_grad():
            for rows, agrees in chunks(self.model, self.schema, tensors, width, depth):
                known = rows.get("mask")
                labels = {k: rows[k] for k in self.schema["categorical"] if k in rows} if joint else None
                if mass:
                    value = cell_masses(self.model, rows["x"], known, labels, depth)
                elif method == "exact" and self.model.cells is not None and bool(self.model.cells.apart.any()):
                    value = cell_densities(self.model, rows["x"], known, labels, depth)
                elif method == "importance":
                    value, error = importance(self.model, rows["x"], known, depth, num_particles, seed)
                    errors.append(error)
                else:
                    beam = self.model.find(rows["x"], width=width, mask=known, depth=depth, streams=labels)
                    value = beam.nested[:, -1] + sum(n[:, -1] for n in beam.nested_streams.values())
                    value = value.double() + self.model.log_jacobian(known, rows["x"])
                values.append(torch.where(agrees, value.double(), -math.inf))
        kind = {"exact": "exact", "beam": "lower bound", "importance": "estimate"}[method]
        if method == "beam" and width is not None and width >= math.prod(self.model.sizes[:depth][:-1]):
            kind = "exact"  # a beam as wide as there are prefixes drops nothing
        spread = torch.cat(errors) if errors else None
        return Score(torch.cat(values), kind, spread, tensors.get("weight"), frame_kind(data) or "pandas")

    @torch.no_grad()
    def responsibilities(self, x: Any, *, mask: Any = None) -> list[Tensor]:
        """Posterior probability of each component, layer by layer: one (rows, K_l) per layer."""
        self._need_fit()
        parts: list[list[Tensor]] = [[] for _ in self.model.sizes]
        for beam in self._beams(x, mask):
            posterior = beam.log_posterior().exp()
            for l, k in enumerate(self.model.sizes):
                share = posterior.new_zeros(len(posterior), k)
                parts[l].append(share.scatter_add_(1, beam.codes[..., l], posterior))
        return [torch.cat(p) for p in parts]

    @torch.no_grad()
    def codes(self, x: Any, *, mask: Any = None) -> Tensor:
        """The most probable path of each row: int64 (rows, L)."""
        out = []
        for beam in self._beams(x, mask):
            best = beam.log_joint.argmax(-1)[:, None, None].expand(-1, 1, beam.codes.shape[-1])
            out.append(beam.codes.gather(1, best).squeeze(1))
        return torch.cat(out)

    @torch.no_grad()
    def predict_proba(self, stream: str, x: Any, *, mask: Any = None) -> Tensor:
        """Probability of each category given x: (rows, V).

        Raises:
            UnknownNameError: no such column.
        """
        self._need_fit()
        if stream not in self.schema["categorical"]:
            raise unknown_name("categorical column", stream, self.schema["categorical"])
        out = []
        for beam in self._beams(x, mask):
            log_probs = beam.log_posterior().unsqueeze(-1) + beam.stream_logits[stream]
            out.append(log_probs.logsumexp(1).exp())
        return torch.cat(out)

    def _beams(self, x: Any, mask: Any) -> Iterator[Beam]:
        """The paths of rows, chunk by chunk: all of them where they can be counted."""
        self._need_fit()
        width = None if self.model.num_paths <= self.config.max_enum else 4 * self.config.beam
        for rows, _ in chunks(self.model, self.schema, fitting_rows(self, x, mask), width, None):
            yield self.model.find(rows["x"], width=width, mask=rows.get("mask"))

    @in_words
    @wraps(DRMMQuery.ask, assigned=())
    def query(self, *args: Any, **options: Any) -> Answer:
        """Sample any variables given any others, soft priors, boxes and inequalities.

        Exact over component paths while they can be enumerated, SMC over the layers beyond: the generic methods
        `"importance"` and `"hmc"` have nothing to add. Arguments, returns and errors are those of
        `systems.drmm.query.DRMMQuery.ask`.

        Example:
            >>> import torch
            >>> from phlogiston.inference.query.evidence import HalfSpace, Within
            >>> rows = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
            >>> system = DRMM(num_layers=1, num_components=2, steps=20).fit(rows)
            >>> answer = system.query({"x": [Within([0.0, -9.0], [1.0, 9.0]), HalfSpace([1.0, -1.0], 0.0)]}, seed=0)
            >>> bool((answer.samples["x"][:, 0] >= answer.samples["x"][:, 1]).all())
            True
        """
        return self.questions().ask(*args, **options)

    def questions(self) -> DRMMQuery:
        """The trained density as something to ask: `ask`, `log_evidence`, `conditional_log_prob`, `predict_proba`."""
        self._need_fit()
        key = tuple((p.data_ptr(), p._version) for p in self.model.parameters())
        if self._questions is None or self._questions[0] != key:
            questions = DRMMQuery(
                self.model,
                columns=self.schema["columns"],
                constant={int(i): value for i, value in self.schema["constant"].items()},
                precision=self.schema.get("precision", "float32"),
                categorical=self.schema["categorical"],
                max_enum=self.config.max_enum,
            )
            self._questions = (key, questions)
        return self._questions[1]

    _questions: tuple[Any, DRMMQuery] | None = None

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """The noisy Swiss roll, the digits, poses of a body, and flights."""
        return recipes()

    # ----- inside -------------------------------------------------------------------------------------------------

    def grids(self) -> dict[str, tuple[float, float]]:
        """Columns whose values lie on a grid, noise being no part of the data: one of the values, and the step."""
        cells = self.schema.get("cells")
        if not cells:
            return {}
        names = [name for i, name in enumerate(self.schema["columns"]) if str(i) not in self.schema["constant"]]
        told = zip(*(cells[key] for key in ("columns", "start", "step", "filled")), strict=True)
        return {names[j]: (start + 0.5 * step, step) for j, start, step, filled in told if not filled}

    def _method_of_masses(self, method: str) -> Literal["exact"]:
        if self.model.frames[-1].mixes or method not in ("auto", "exact"):
            raise ConfigError(
                f"mass=True needs frame 'shift', 'iso' or 'diag' and method 'exact'; got frame {self.recipe.frame!r} "
                f"and method {method!r}"
            )
        return "exact"

    def _check_depth(self, depth: int | None) -> None:
        if depth is not None and not 1 <= depth <= self.model.num_layers:
            raise ConfigError(f"depth must be between 1 and num_layers={self.model.num_layers}; got {depth}")

    def _insert(self, x: Tensor) -> Tensor:
        """Put the constant columns back: (..., varying) -> (..., features)."""
        if not self.schema["constant"]:
            return x
        full = x.new_empty(*x.shape[:-1], len(self.schema["columns"]))
        full[..., self.varying] = x
        for i, value in self.schema["constant"].items():
            full[..., int(i)] = value
        return full


def _within(x: Tensor, known: Tensor | None, limits: Mapping[int, Sequence[float]]) -> Tensor | None:
    """The mask of known entries without those beyond their column's limits; None where everything is known."""
    if limits:
        known = torch.ones_like(x, dtype=torch.bool) if known is None else known.clone()
        for i, (low, high) in limits.items():
            known[:, i] &= (x[:, i] >= low) & (x[:, i] <= high)
    return known
