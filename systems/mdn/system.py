"""Mixture density networks as a product: regression that answers with a whole distribution.

    data = phlogiston.datasets.load("arcsine")
    system = MDN(preset="arcsine").fit(data)
    y = system.predictive(x)              a mixture: y.mean, y.quantile(0.9), y.interval(0.9, "hpd"), y.modes(), ...
    system.sample(100, x=x)["y"]          draws, (100, rows, targets)
    system.log_prob(data.test).mean()     nats per row, in the data's own units
    system.uncertainty(x)                 what noise explains, and what ignorance

`members=5` trains a deep ensemble as one batch, `weights="mean_field"` a Bayesian network; both answer alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from phlogiston.datasets.base import Meta, Split
from phlogiston.datasets.containers import plain
from phlogiston.datasets.weights import written_out
from phlogiston.distributions.mixtures.base import Mixture
from phlogiston.distributions.mixtures.factorised import FactorisedMixture
from phlogiston.distributions.mixtures.joint import JointMixture
from phlogiston.distributions.mixtures.members import Uncertainty, merge, uncertainty
from phlogiston.errors import ConfigError
from phlogiston.evaluate.metric import Metric
from phlogiston.evaluate.score import Score
from phlogiston.evaluate.weights import mean_and_error
from phlogiston.guides.mdn import LowRankGuide, MeanFieldGuide
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.engine import Stage
from phlogiston.inference.svi.handlers import scale_sites
from phlogiston.inference.svi.schedules import cosine, warmup
from phlogiston.models.mdn import MDN as MDNModel
from phlogiston.models.mdn import BayesianMDN
from phlogiston.systems.base import Role, System, coerce
from phlogiston.systems.mdn import rows as mdn_rows
from phlogiston.systems.mdn.config import PRESETS
from phlogiston.systems.mdn.config import Config as MDNConfig
from phlogiston.systems.mdn.training import KeepBest, MaximumLikelihood
from phlogiston.systems.table_rows import fitting_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHUNK = 4096


class MDN(System):
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
    DOUBLE: ClassVar[tuple[str, ...]] = ("x", "y")
    Config: ClassVar[type] = MDNConfig
    config: MDNConfig

    # ----- data ---------------------------------------------------------------------------------------------------

    def describe(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """Columns and targets, their locations and scales, and the labels of categorical inputs."""
        return mdn_rows.describe(train.tensors, meta, self.config.target)

    def _inputs(self, tensors: dict[str, Tensor]) -> Tensor:
        return mdn_rows.inputs(self.schema, tensors)

    def _targets(self, tensors: dict[str, Tensor]) -> Tensor:
        return mdn_rows.targets(self.schema, tensors)

    def prepare(self, split: Split, role: Role = "train") -> Split:
        """Inputs, targets and row weights, as the programs take them; rows with wild cells are left out."""
        tensors = {"x": self._inputs(split.tensors), "y": self._targets(split.tensors)}
        if "weight" in split.tensors:
            tensors["weight"] = split.tensors["weight"]
        rows = Split(tensors, double=self.DOUBLE)
        keep = mdn_rows.tame(self.schema, tensors["x"], tensors["y"])
        return written_out(rows if bool(keep.all()) else rows.select(keep))

    # ----- training -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        """The network, and for random weights the program and the guide around it."""
        c, schema = self.config, self.schema
        network = MDNModel(
            len(schema["x"]["location"]),
            len(schema["y"]["location"]),
            c.num_components,
            c.kind,
            c.hidden,
            c.activation,
            c.members if c.members > 1 else None,
            c.scale,
            c.min_scale,
            c.grid or None,
        )
        for side in ("x", "y"):
            for part in ("location", "scale"):
                getattr(network, f"{side}_{part}").copy_(torch.tensor(schema[side][part], dtype=torch.double))
        network.inputs = torch.zeros(schema.get("kept", 0), network.features, dtype=torch.float64)
        self.model, self.guide = network, None
        if c.weights != "point":
            self.model = BayesianMDN(network, c.random, c.prior_sd)
            kind = MeanFieldGuide if c.weights == "mean_field" else partial(LowRankGuide, rank=c.rank)
            self.guide = kind(self.model, init_scale=c.init_scale)

    @property
    def network(self) -> MDNModel:
        """The network itself, also behind random weights."""
        self._need_fit()
        model: MDNModel = self.model.network if isinstance(self.model, BayesianMDN) else self.model
        return model

    def initialise(self, train: Split, seed: int) -> None:
        """Components that cover the targets; a sample of the inputs kept."""
        rows = train.tensors
        self.model.initialise(rows["y"], seed)
        if self.guide is not None:
            self.guide.start_at({name: self.model._own(name).detach() for name in self.guide.shapes})
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        kept = rows["x"][order[: self.config.keep_inputs]]
        self.schema["kept"] = len(kept)
        self.network.inputs = kept.double()
        self._keeper = None
        if self._valid is not None:
            c = self.config
            self._keeper = KeepBest(dict(self.prepare(self._valid).tensors), c.check_every, c.patience, "fit")

    def fit(self, data: Any, **options: Any) -> Self:
        """Train on data; see `System.fit`. Validation rows choose each member's best parameters."""
        _, valid, _ = coerce(data, self.DOUBLE)
        self._valid = valid if valid is not None and len(valid) else None
        try:
            return super().fit(data, **options)
        finally:
            self._keeper = self._valid = None

    _valid: Split | None = None
    _keeper: KeepBest | None = None

    def stages(self) -> list[Stage]:
        """Maximum likelihood under a one-cycle schedule; for random weights a second stage for the posterior."""
        c = self.config
        objective: Callable[[nn.Module, nn.Module], nn.Module] = MaximumLikelihood  # type: ignore[assignment]
        if self._keeper is not None:
            objective = self._keeper.make
        decay = partial(torch.optim.AdamW, weight_decay=c.weight_decay, fused=True)
        found = [
            Stage(
                "fit",
                c.steps,
                objective,
                lambda parameters, rate: decay(parameters, lr=rate),
                c.learning_rate,
                c.batch_size,
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
            found.append(
                Stage(
                    "posterior",
                    c.posterior_steps,
                    bound,
                    "adam",
                    c.learning_rate,
                    c.batch_size,
                    ("guide.*", "model.*"),
                    {"learning_rate": warmup(c.warmup, cosine(1.0, 0.0), 0.05)},
                    c.clip,
                    handlers={"divergence": scale_sites(dict.fromkeys(sites, c.kl_weight))},
                )
            )
        return found

    def callbacks(self) -> list[Any]:
        """Keeping the best parameters, where there are validation rows."""
        return [] if self._keeper is None else [self._keeper]

    # ----- verbs --------------------------------------------------------------------------------------------------

    def members(self, x: Any, *, seed: int = 0) -> Mixture:
        """What each member says: batch (members, rows), in the data's units.

        Members are the networks of an ensemble, `config.weight_samples` draws of random weights, or the one network.

        Args:
            x: (rows, features), or a split, dict or dataset that holds them.
            seed: of the weights' draws.
        """
        self._need_fit()
        return self._members(self._rows(x), seed)

    def _members(self, rows: Tensor, seed: int = 0) -> Mixture:
        """The same for inputs as the network takes them, (rows, features)."""
        with torch.no_grad():
            if isinstance(self.model, BayesianMDN):
                generator = torch.Generator().manual_seed(seed)
                weights = self.guide.draw(self.config.weight_samples, generator)
                return self.model.network.likelihood(rows, weights)
            found: Mixture = self.model.likelihood(rows)
            return found if self.model.members is not None else found.unsqueeze(-2)

    def predictive(self, x: Any, *, seed: int = 0) -> JointMixture | FactorisedMixture:
        """The distribution of the targets at each row of inputs: batch (rows,), in the data's units.

        Args:
            x: as in `members`.
            seed: of the weights' draws, where they are random.

        Returns:
            A member of the mixture family: ask it for `mean`, `quantile`, `interval`, `modes`, `condition`, ...
        """
        self._need_fit()
        return self._predictive(self._rows(x), seed)

    def _predictive(self, rows: Tensor, seed: int = 0) -> JointMixture | FactorisedMixture:
        found = self._members(rows, seed)
        if isinstance(found, FactorisedMixture) and found.batch_shape[0] == 1:
            return found[0]
        return merge(found)

    def predict(self, x: Any) -> Tensor:
        """Mean of the targets: (rows, targets)."""
        self._need_fit()
        found = torch.cat([self._predictive(part).mean for part in self._rows(x).split(CHUNK)])
        return found.to(mdn_rows.precision(self.schema, "y"))

    def uncertainty(self, x: Any, draws: int = 200, seed: int = 0) -> Uncertainty:
        """Split what is not known about y into noise (aleatoric) and ignorance (epistemic).

        Ignorance is disagreement between members: a single network with point weights claims to have none.
        """
        generator = torch.Generator().manual_seed(seed)
        return uncertainty(self.members(x, seed=seed), draws, generator)

    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        x: Any = None,
        pi_temperature: float = 1.0,
        sigma_temperature: float = 1.0,
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Draw targets.

        Args:
            n: how many; for each row of `x`, if given.
            x: inputs; None draws `n` of the training inputs kept with the model, one target each.
            pi_temperature: divides logits; 0 takes the most probable component.
            sigma_temperature: multiplies variances; 0 returns means of components.
            seed: of this call; None draws from torch's generator.

        Returns:
            `x` and `y`, in the precision of the data that were fitted: (n, features) and (n, targets), or with inputs
            given (rows, features) and (n, rows, targets).

        Raises:
            ConfigError: n below 1, or no inputs given and none kept.
        """
        self._need_fit()
        if n < 1:
            raise ConfigError(f"n must be at least 1; got {n}")
        own = x is None
        if own and not len(self.network.inputs):
            raise ConfigError("this model keeps no training inputs (keep_inputs=0); give x")
        with torch.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            rows = self.network.inputs[torch.randint(len(self.network.inputs), (n,))] if own else self._rows(x)
            options: dict[str, Any] = {"pi_temperature": pi_temperature, "sigma_temperature": sigma_temperature}
            parts = [self._predictive(p).draw(() if own else (n,), **options) for p in rows.split(CHUNK)]
            y = torch.cat(parts, 0 if own else 1)
        if self.config.grid:
            y = torch.round(y / self.config.grid) * self.config.grid
        return {"x": rows.to(mdn_rows.precision(self.schema, "x")), "y": y.to(mdn_rows.precision(self.schema, "y"))}

    def log_prob(self, x: Any, *, y: Any = None, seed: int = 0) -> Score:  # type: ignore[override]
        """Log density of targets given inputs, in nats and in the data's units.

        Args:
            x: a dataset (its test rows), split or dict with inputs and targets; or the inputs alone.
            y: targets (rows, targets), where x is the inputs alone.
            seed: of the weights' draws, where they are random.

        Returns:
            Scores (rows,): exact; an estimate where weights are random, with standard errors from the spread between
            the weights' draws, which all rows share. With `config.grid` the log probability of the grid's cell,
            otherwise the log density.
        """
        self._need_fit()
        tensors = self._tensors(x, y)
        rows, targets = self._inputs(tensors), self._targets(tensors)
        if isinstance(self.model, BayesianMDN):
            return self._random_log_prob(rows, targets, seed, tensors.get("weight"))
        values = []
        for part, goal in zip(rows.split(CHUNK), targets.split(CHUNK), strict=True):
            with torch.no_grad():
                found = self._predictive(part, seed)
                if self.config.grid:
                    values.append(found.interval_log_prob(goal, self.config.grid))  # type: ignore[union-attr]
                else:
                    values.append(found.log_prob(goal))
        return Score(torch.cat(values), "exact", weight=tensors.get("weight"))

    def _random_log_prob(self, rows: Tensor, targets: Tensor, seed: int, weight: Tensor | None) -> Score:
        """Log density under random weights: the log of the mean over draws of them, with its error."""
        values, errors = [], []
        for part, goal in zip(rows.split(CHUNK), targets.split(CHUNK), strict=True):
            with torch.no_grad():
                found = self._members(part, seed)
                if self.config.grid:
                    each = found.interval_log_prob(goal, self.config.grid)  # type: ignore[union-attr]
                else:
                    each = found.log_prob(goal)  # (draws, rows)
            value, error = mean_and_error(each)
            values.append(value)
            errors.append(error)
        told = len(each) > 1  # one draw of the weights tells no error
        return Score(torch.cat(values), "estimate", torch.cat(errors) if told else None, weight=weight)

    def query(  # type: ignore[override]
        self,
        evidence: Any = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 1000,
        *,
        particles: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Sample targets (and inputs) given evidence about either.

        Any subset of the targets may be known, boxed, nearly known or bounded by half-spaces; inputs may be known,
        `Near` something, or unknown. See `systems.mdn.query` for how, and `inference.query.evidence` for the words.

        Args:
            evidence: pieces about `x` and `y`; several rows are several questions.
            ask: sites to return; both by default.
            num_samples: samples per row of evidence.
            particles: inputs drawn where they are not all known.
            seed: of this call; None draws from torch's generator.

        Returns:
            An `inference.query.answer.Answer`.

        Raises:
            EvidenceError: malformed or impossible evidence.
        """
        from phlogiston.systems.mdn.query import MDNQuery

        self._need_fit()
        network = self.network
        weights_seed = int(torch.randint(2**31, ())) if seed is None else seed
        random = isinstance(self.model, BayesianMDN)
        answerer = MDNQuery(
            lambda x: self._predictive(x, weights_seed),
            network.features,
            network.targets,
            network.inputs,
            self.config.weight_samples if random else 1,
            self.vocabulary()[0],
        )
        return answerer.ask(evidence, ask, num_samples, particles=particles, seed=seed)

    def vocabulary(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Names evidence may be written in: the inputs as `x` (labels of categories one by one), the targets as `y`."""
        self._need_fit()
        return {"x": tuple(mdn_rows.input_names(self.schema)), "y": tuple(self.schema["targets"])}, {}

    # ----- evaluation ---------------------------------------------------------------------------------------------

    METRICS: ClassVar[tuple[str, ...]] = ("log_likelihood", "rmse", "draw", "crps", "coverage", "pit")

    def evaluate(self, data: Any, metrics: Sequence[str] | None = None) -> dict[str, Metric]:
        """Score on held-out rows.

        Args:
            data: a dataset (its test rows), split or dict.
            metrics: some of `METRICS`; all by default.

        Returns:
            `log_likelihood` (and that of the truth, where it is known), `rmse` of the mean, `mse_of_draw` (one random
            draw per row), `crps`, `coverage_90` (central intervals), `coverage_hpd_90` (shortest regions),
            `pit_deviation` (Kolmogorov distance from uniform).
        """
        from phlogiston.systems.mdn.report import evaluate

        return evaluate(self, data, self._chosen_metrics(metrics))

    def figures(self, data: Any) -> dict[str, Figure]:
        """Data and draws, branches and intervals for one input and one target; calibration; the loss."""
        from phlogiston.systems.mdn.report import figures

        self._need_fit()
        return figures(self, data)

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
                "ask": [["x = 0"], ["x = 0", "y >= 0"], ["x ~ 0 +- 2"]],
                "next": [("phlogiston sample RUN -n 2000 --out draws.png", "draws in the plane")],
                "options": {**PRESETS["arcsine"], "steps": 400 if quick else 3_000},
            },
            {
                "title": "Knowing what one does not know: 150 rows",
                "text": "The weights are random here. Where there are no data the networks drawn from the posterior "
                "disagree: that part of the uncertainty more data would remove.",
                "data": "arcsine",
                "data_options": {"sizes": (150, 0, 200 if quick else 400)},
                "ask": [["x = 0"], ["x = 25"]],
                "options": {
                    **PRESETS["bayesian"],
                    "weight_samples": 20 if quick else 40,
                    "steps": 200 if quick else 1_000,
                    "posterior_steps": 200 if quick else 3_000,
                },
            },
        ]

    # ----- inside -------------------------------------------------------------------------------------------------

    def _tensors(self, x: Any, y: Any = None) -> dict[str, Tensor]:
        target = [self.schema["columns"][i] for i in self.schema["target"] or ()]
        tensors = fitting_rows(self, x, optional=target)
        if y is None:
            return tensors
        given = plain("y", y, "the targets given").numbers("y", "the targets given")
        return Split({**tensors, "y": given[:, None] if given.ndim == 1 else given}, double=self.DOUBLE).tensors

    def _rows(self, x: Any) -> Tensor:
        """Inputs in any accepted form, as the network takes them."""
        return self._inputs(self._tensors(x))
