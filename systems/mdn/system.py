"""Mixture density networks as a product: regression that answers with a whole distribution.

    data = phlogiston.datasets.load("arcsine")
    system = MDN(preset="arcsine").fit(data)
    y = system.predictive(x)              a mixture: y.mean, y.quantile(0.9), y.interval(0.9, "hpd"), y.modes(), ...
    system.sample(100, x=x)["y"]          draws, (100, rows, targets)
    system.log_prob(data.test).mean()     nats per row, in the data's own units
    system.uncertainty(x)                 the part of the variance that is noise, and the part that is ignorance

`members=5` trains a deep ensemble as one batch, `weights="mean_field"` a Bayesian network; both answer alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.datasets.base import Meta, Split
from phlogiston.datasets.containers import frame_kind, plain
from phlogiston.datasets.weights import written_out
from phlogiston.distributions.mixtures.base import Mixture
from phlogiston.distributions.mixtures.diagonal import FactorisedMixture
from phlogiston.distributions.mixtures.joint import JointMixture
from phlogiston.distributions.mixtures.members import Uncertainty, merge, uncertainty
from phlogiston.errors import ConfigError
from phlogiston.evaluate.score import Score
from phlogiston.evaluate.weights import mean_and_error
from phlogiston.guides.mdn import LowRankGuide, MeanFieldGuide
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.handlers import scale_sites
from phlogiston.inference.svi.optimizers import OPTIMIZERS
from phlogiston.inference.svi.schedules import cosine, warmup
from phlogiston.models.mdn import MDN as MDNModel
from phlogiston.models.mdn import BayesianMDN
from phlogiston.systems.base import Role, System
from phlogiston.systems.calls import drawn_seed, seeded
from phlogiston.systems.mdn import rows as mdn_rows
from phlogiston.systems.mdn.config import PRESETS, sizes
from phlogiston.systems.mdn.config import Config as MDNConfig
from phlogiston.systems.mdn.query import MDNQuery
from phlogiston.systems.mdn.training import Averaging, KeepBest, Recalibrate
from phlogiston.systems.options import from_config
from phlogiston.systems.table_rows import fitting_rows
from phlogiston.systems.tables.tabular import Imputes
from phlogiston.systems.words import in_words

if TYPE_CHECKING:
    from phlogiston.inference.query.answer import Answer

CHUNK = 4096


class MDN(Imputes, System):
    """Mixture density network; options in `systems.mdn.config.Config`.

    Data need inputs `x` (rows, features) and targets `y` (rows, targets); where there is no `y`, the columns
    `config.target` of `x` (by default the last one) are the targets. Categorical streams become inputs, one column per
    label.

    Example:
        >>> from phlogiston import datasets
        >>> data = datasets.load("arcsine", sizes=(200, 50, 50))
        >>> system = MDN(steps=20).fit(data)
        >>> tuple(system.sample(3, x=data.test.tensors["x"])["y"].shape)
        (3, 50, 1)
        >>> system.log_prob(data.test).kind
        'exact'
    """

    name: ClassVar[str] = "mdn"
    HEEDS: ClassVar[tuple[str, ...]] = ("mask", "weight", "length")  # a length is a label like others
    DOUBLE: ClassVar[tuple[str, ...]] = ("x", "y")
    Config: ClassVar[type] = MDNConfig
    config: MDNConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def _coerced(self, data: Any, whole: bool = False) -> tuple[Any, Split | None, Meta | None]:
        """Data taken apart; without validation rows, some of the training rows become them."""
        train, valid, meta = super()._coerced(data, whole)
        if isinstance(train, Split) and len(train) and not whole and (valid is None or not len(valid)):
            kept, held = mdn_rows.parted(train, self.config)
            return (kept, held, meta) if len(held) else (train, valid, meta)
        return train, valid, meta

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Columns and targets, their locations and scales, labels of categorical inputs, and sizes that rows decide."""
        schema = mdn_rows.describe(train.tensors, meta, self.config.target)
        weight = train.tensors.get("weight")
        return schema | {"sizes": sizes(self.config, len(train) if weight is None else float(weight.sum()))}

    def prepare(self, split: Split, role: Role = "train") -> Split:
        """Inputs, targets and row weights, as the programs take them; rows with wild cells are left out."""
        schema = self.schema
        tensors = {"x": mdn_rows.inputs(schema, split.tensors), "y": mdn_rows.targets(schema, split.tensors)}
        if "weight" in split.tensors:
            tensors["weight"] = split.tensors["weight"]
        rows = Split(tensors, double=self.DOUBLE)
        keep = mdn_rows.tame(schema, tensors["x"], tensors["y"])
        return written_out(rows if bool(keep.all()) else rows.select(keep))

    def read_rows(self, data: Any) -> Split:
        """Rows in every form `fit` takes, with the categories of training; target columns may be absent."""
        targets = [self.schema["columns"][i] for i in self.schema["target"] or ()]
        return Split(fitting_rows(self, data, optional=targets), double=self.DOUBLE)

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """The network, and for random weights the program and the guide around it."""
        c, schema = self.config, self.schema
        network = from_config(
            MDNModel,
            c,
            features=len(schema["x"]["location"]),
            targets=len(schema["y"]["location"]),
            members=c.members if c.members > 1 else None,
            grid=c.grid or None,
            bins=self._size("bins", c.bins),
        )
        for side in ("x", "y"):
            for part in ("location", "scale"):
                getattr(network, f"{side}_{part}").copy_(torch.tensor(schema[side][part], dtype=torch.double))
        network.inputs = torch.zeros(schema.get("kept", 0), network.features, dtype=torch.float64)
        self.model, self.guide = network, None
        if c.weights != "point":
            self.model = from_config(BayesianMDN, c, network=network)
            kind = MeanFieldGuide if c.weights == "mean_field" else LowRankGuide
            self.guide = from_config(kind, c, model=self.model)

    @property
    def network(self) -> MDNModel:
        """The network itself, also behind random weights."""
        self._need_fit()
        model: MDNModel = self.model.network if isinstance(self.model, BayesianMDN) else self.model
        return model

    def initialise(self, train: Split, seed: int) -> None:
        """Components that cover the targets; a sample of the inputs kept."""
        rows = train.tensors
        self.model.initialise(rows["y"], seed, rows["x"])
        if self.guide is not None:
            self.guide.start_at({name: self.model.point_value(name).detach() for name in self.guide.shapes})
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        kept = rows["x"][order[: self.config.keep_inputs]]
        self.schema["kept"] = len(kept)
        self.network.inputs = kept.double()

    def generating(self) -> dict[str, Any]:
        """The arguments with which `model` generates one row: it has no distribution of inputs."""
        return {"x": torch.zeros(1, len(self.schema["x"]["location"]))}

    def step_options(self) -> dict[str, int]:
        """The options that count optimiser steps, stage by stage."""
        posterior = {} if self.config.weights == "point" else {"posterior_steps": self.config.posterior_steps}
        return {"steps": self.config.steps, **posterior}

    def _size(self, name: str, given: int | str) -> int:
        """An option that may be "auto", as the training rows decided it."""
        return int(self.schema["sizes"][name] if given == "auto" else given)

    def stages(self) -> list[Stage]:
        """Maximum likelihood under a one-cycle schedule; for random weights a second stage for the posterior."""
        c = self.config
        batch_size = self._size("batch_size", c.batch_size)
        decay = partial(OPTIMIZERS["adamw"], weight_decay=c.weight_decay)
        stages = [
            Stage(
                "fit",
                c.steps,
                KeepBest.make,
                lambda parameters, rate: decay(parameters, lr=rate),
                c.learning_rate,
                batch_size,
                ("*",) if self.guide is None else ("guide.loc.*", "model.*"),
                {"learning_rate": warmup(c.warmup, cosine(1.0, 0.0), 0.05)},
                c.clip,
            )
        ]
        if self.guide is not None:
            name = "mean_field" if c.weights == "mean_field" else "elbo"
            sites = [f"net.{weight}" for weight in self.guide.shapes]
            sites += ["net_weights"] if c.weights == "low_rank" else []
            bound = objectives.make(name, num_particles=c.particles, vectorize_particles=c.particles > 1)
            stages.append(
                Stage(
                    "posterior",
                    c.posterior_steps,
                    bound,
                    "adam",
                    c.learning_rate,
                    batch_size,
                    ("guide.*", "model.*"),
                    {"learning_rate": warmup(c.warmup, cosine(1.0, 0.0), 0.05)},
                    c.clip,
                    handlers={"divergence": scale_sites(dict.fromkeys(sites, c.kl_weight))},
                )
            )
        return stages

    def callbacks(self) -> list[Any]:
        """Validation rows choose each member's best parameters, or how wide components are after averaging, or both."""
        c = self.config
        last: list[Any] = [Recalibrate("fit")] if c.recalibrate else []
        return [
            Averaging(c.average, c.check_every, "fit") if c.average else KeepBest(c.check_every, c.patience, "fit"),
            *last,
        ]

    # ----- verbs --------------------------------------------------------------------------------------------------

    def members(self, x: Any, *, seed: int = 0) -> Mixture:
        """Return each member's distribution of the targets: batch (members, rows), in the data's units.

        Members are the networks of an ensemble, `config.weight_samples` draws of random weights, or the one network.

        Args:
            x: (rows, features), or a split, dict or dataset that holds them.
            seed: of the weights' draws.
        """
        self._need_fit()
        return self.members_at(self._inputs(x), seed)

    def members_at(self, inputs: Tensor, seed: int = 0, num_particles: int | None = None) -> Mixture:
        """The same for inputs as the network takes them.

        Args:
            inputs: float64 (rows, features), categories as one column per label.
            seed: of the weights' draws.
            num_particles: draws of random weights; `config.weight_samples` by default.
        """
        with torch.no_grad():
            if isinstance(self.model, BayesianMDN):
                generator = torch.Generator().manual_seed(seed)
                weights = self.guide.draw(num_particles or self.config.weight_samples, generator)
                return self.model.network.likelihood(inputs, weights)
            likelihood: Mixture = self.model.likelihood(inputs)
            return likelihood if self.model.members is not None else likelihood.unsqueeze(-2)

    def predictive(self, x: Any, *, seed: int = 0) -> JointMixture | FactorisedMixture:
        """The distribution of the targets at each row of inputs: batch (rows,), in the data's units.

        Args:
            x: as in `members`.
            seed: of the weights' draws, where they are random.

        Returns:
            A member of the mixture family: ask it for `mean`, `quantile`, `interval`, `modes`, `condition`, ...
        """
        self._need_fit()
        return self.predictive_at(self._inputs(x), seed)

    def predictive_at(self, inputs: Tensor, seed: int = 0) -> JointMixture | FactorisedMixture:
        """The same for inputs as the network takes them; see `members_at`."""
        members = self.members_at(inputs, seed)
        if isinstance(members, FactorisedMixture) and members.batch_shape[0] == 1:
            return members[0]
        return merge(members)

    def predict(self, x: Any) -> Tensor:
        """Mean of the targets: (rows, targets)."""
        self._need_fit()
        means = torch.cat([self.predictive_at(part).mean for part in self._inputs(x).split(CHUNK)])
        return means.to(mdn_rows.precision(self.schema, "y"))

    def uncertainty(self, x: Any, draws: int = 200, seed: int = 0) -> Uncertainty:
        """Split the predictive uncertainty about y into noise (aleatoric) and ignorance of the network (epistemic).

        The epistemic part is disagreement between members: a single network with point weights has none.

        Args:
            x: as in `members`.
            draws: of each member, for the mutual information.
            seed: of the draws.
        """
        generator = torch.Generator().manual_seed(seed)
        return uncertainty(self.members(x, seed=seed), draws, generator)

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        x: Any = None,
        pi_temperature: float = 1.0,
        sigma_temperature: float = 1.0,
    ) -> dict[str, Tensor]:
        """Draw targets.

        Args:
            n: how many; for each row of `x`, if given.
            seed: of this call; None draws from torch's generator.
            x: inputs; None draws `n` of the training inputs kept with the model, one target each.
            pi_temperature: divides logits; 0 takes the most probable component.
            sigma_temperature: multiplies variances; 0 returns means of components.

        Returns:
            `x` and `y`, in the precision of the data that were fitted: (n, features) and (n, targets), or with inputs
            given (rows, features) and (n, rows, targets).

        Raises:
            ConfigError: n below 1, or no inputs given and none kept.
        """
        self._need_fit()
        n = at_least("n", n, 1)
        own = x is None
        if own and not len(self.network.inputs):
            raise ConfigError("this model keeps no training inputs (keep_inputs=0); give x")
        with seeded(seed):
            rows = self.network.inputs[torch.randint(len(self.network.inputs), (n,))] if own else self._inputs(x)
            options: dict[str, Any] = {"pi_temperature": pi_temperature, "sigma_temperature": sigma_temperature}
            parts = [self.predictive_at(p).draw(() if own else (n,), **options) for p in rows.split(CHUNK)]
            y = torch.cat(parts, 0 if own else 1)
        y = mdn_rows.grid(self.schema["targets"], self.grids()).rounded(y)
        return {"x": rows.to(mdn_rows.precision(self.schema, "x")), "y": y.to(mdn_rows.precision(self.schema, "y"))}

    def log_prob(self, data: Any, *, seed: int = 0, num_particles: int | None = None, y: Any = None) -> Score:
        """Log density of targets given inputs, in nats and in the data's units.

        Args:
            data: a dataset (its held-out rows), split or mapping with inputs and targets; or the inputs alone.
            seed: of the weights' draws, where they are random.
            num_particles: how many draws of random weights; `config.weight_samples` by default.
            y: targets (rows, targets), where `data` are the inputs alone.

        Returns:
            Scores (rows,): exact; an estimate where weights are random, with standard errors from the spread between
            the weights' draws, which all rows share. With `config.grid` the log probability of the grid's cell,
            otherwise the log density.

        Raises:
            ConfigError: num_particles below 1.
        """
        self._need_fit()
        if num_particles is not None:
            at_least("num_particles", num_particles, 1)
        rows = self.read_rows(data) if y is None else self._with_targets(data, y)
        inputs, targets = mdn_rows.inputs(self.schema, rows.tensors), mdn_rows.targets(self.schema, rows.tensors)
        random = isinstance(self.model, BayesianMDN)
        values, errors = [], []
        for part, goal in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):
            mixture = self.members_at(part, seed, num_particles) if random else self.predictive_at(part)
            value = self._density(mixture, goal)
            if random:
                one_draw = len(value) == 1
                value, error = mean_and_error(value)  # over the draws of the weights
                errors += [] if one_draw else [error]
            values.append(value)
        std_error = torch.cat(errors) if errors else None
        weight = rows.tensors.get("weight")
        return Score(
            torch.cat(values), "estimate" if random else "exact", std_error, weight, frame_kind(data) or "pandas"
        )

    @torch.no_grad()
    def _density(self, mixture: Any, targets: Tensor) -> Tensor:
        grid = self.config.grid
        value: Tensor = mixture.interval_log_prob(targets, grid) if grid else mixture.log_prob(targets)
        return value

    @in_words
    @wraps(MDNQuery.ask, assigned=())
    def query(self, evidence: Any = None, *args: Any, **options: Any) -> Answer:
        """Sample targets (and inputs) given evidence about either.

        Any subset of the targets may be known, boxed, nearly known or bounded by half-spaces; inputs may be known,
        `Near` something, or unknown. See `systems.mdn.query` for how, and `inference.query.evidence` for the words.

        Args:
            evidence: about `x` and `y`; several rows are several questions.
            ask: sites to return; both by default.
            num_samples: samples per row of evidence.
            method: `"auto"` conditions in closed form where it can, and draws inputs where they are not all known;
                `"exact"` refuses evidence that has no closed form.
            seed: of this call; None draws from torch's generator.
            num_particles: inputs drawn where they are not all known; as many as samples, at least 500, by default.

        Raises:
            EvidenceError: malformed or impossible evidence, or evidence that `method="exact"` cannot answer.
            UnknownNameError: no such method.
        """
        self._need_fit()
        network = self.network
        seed = options.get("seed")
        weights_seed = drawn_seed(seed)
        random = isinstance(self.model, BayesianMDN)
        answerer = MDNQuery(
            lambda inputs: self.predictive_at(inputs, weights_seed),
            network.features,
            network.targets,
            network.inputs,
            self.config.weight_samples if random else 1,
            self.vocabulary()[0],
            self.grids(),
        )
        return answerer.ask(mdn_rows.with_categories(self.schema, evidence), *args, **options)

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Names evidence may be written in: inputs as `x` (labels of categories one by one), targets as `y`."""
        self._need_fit()
        names: dict[str, Sequence[str]] = {
            "x": tuple(mdn_rows.input_names(self.schema)),
            "y": tuple(self.schema["targets"]),
        }
        return names, dict(self.schema["categorical"])

    def grids(self) -> dict[str, tuple[float, float]]:
        """Targets that lie on a grid: one of its values, and the step."""
        step, names = self.config.grid, self.schema["targets"]
        found = [(0.0, step)] * len(names) if step else self.schema.get("grids") or [None] * len(names)
        return {name: (grid[0], grid[1]) for name, grid in zip(names, found, strict=True) if grid is not None}

    @classmethod
    def demo(cls, quick: bool = False) -> list[dict[str, Any]]:
        """The inverse sine, by one network and by a Bayesian one on few rows."""
        return [
            {
                "title": "Several right answers: the inverse sine",
                "text": "One input has up to five answers. A network trained on squared error would answer with their "
                "mean, which is none of them; this one answers with a mixture that covers every branch.",
                "data": "arcsine",
                "data_options": {"sizes": (2550, 450, 2000)},
                "trained": "mdn/arcsine",
                "ask": [["x = 0"], ["x = 0", "y >= 0"], ["x ~ 0 +- 2"]],
                "next": [("phlogiston sample RUN -n 2000 --out draws.png", "draws in the plane")],
                "options": {**PRESETS["arcsine"], "steps": 3_000},
            },
            {
                "title": "Uncertainty of the network itself: 150 rows",
                "text": "The weights are random here. Where there are no data the networks drawn from the posterior "
                "disagree: more data would remove that part of the uncertainty.",
                "data": "arcsine",
                "data_options": {"sizes": (150, 0, 200 if quick else 400)},
                "ask": [["x = 0"], ["x = 25"]],
                "options": {
                    **PRESETS["bayesian"],
                    "weight_samples": 10 if quick else 40,
                    "steps": 200 if quick else 1_000,
                    "posterior_steps": 200 if quick else 3_000,
                },
            },
        ]

    # ----- inside -------------------------------------------------------------------------------------------------

    def _with_targets(self, inputs: Any, y: Any) -> Split:
        given = plain("y", y, "the targets given").numbers("y", "the targets given")
        targets = given[:, None] if given.ndim == 1 else given
        return Split({**self.read_rows(inputs).tensors, "y": targets}, double=self.DOUBLE)

    def _inputs(self, x: Any) -> Tensor:
        """Inputs in any accepted form, as the network takes them."""
        return mdn_rows.inputs(self.schema, self.read_rows(x).tensors)
