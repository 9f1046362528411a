"""Objectives: what a pair of model and guide is trained to minimise.

Every objective is a `pyro.infer.ELBO` whose `differentiable_loss(model, guide, **batch)` is the loss in nats, summed
over the rows of the batch. `bind` turns any of the forms a `Stage` accepts (a name, an ELBO, a callable) into one
module the engine can call. `validity` has the table of the guides each is valid for, and refuses the others.

    elbo         Pyro's Trace_ELBO: samples, score-function terms where a site is not reparameterised
    mean_field   Pyro's TraceMeanField_ELBO: analytic Kullback-Leibler terms where they exist
    enum         Pyro's TraceEnum_ELBO: sums out sites marked for enumeration
    iwae         importance-weighted bound per data point (Burda, Grosse and Salakhutdinov, 2016)
    vimco        the same bound for guides with discrete sites, gradient unbiased (Mnih and Rezende, 2016)
    free_bits    mean_field with a floor under each latent site's Kullback-Leibler term (Kingma et al., 2016)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO, TraceEnum_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.distributions import kl_divergence

from phlogiston.errors import ConfigError, unknown_name
from phlogiston.inference.svi import objective_state
from phlogiston.inference.svi.bounds import Elbo, MeanField, ParticleBound, divergence
from phlogiston.inference.svi.handlers import DATA_PLATE, in_data_plate
from phlogiston.inference.svi.vimco import VIMCO


class IWAE(ParticleBound):
    """The importance-weighted bound, one per data point.

    For each row `n` of the plate "data" and K particles from the guide the bound is
    `log 1/K sum_k p(x_n, z_nk) / q(z_nk | x_n)`; the loss is minus the sum over rows. (Pyro's `RenyiELBO` of order zero
    is the same where every site lies inside the plate; with a single site outside it weights whole batches, a far
    looser bound.)

    Args:
        num_particles: K, at least 1; all particles run at once, as an outermost plate.
        max_plate_nesting: number of plate axes in model and guide; determined by running the pair once if not given.

    Reference:
        Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, equation 8.
    """

    def __init__(self, num_particles: int = 8, max_plate_nesting: float = math.inf) -> None:
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting, vectorize_particles=True)

    def log_weights(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | float]:
        """Run the pair and return the log importance weights.

        Returns:
            `(weights, rest)`: `weights` (particles, data) and `rest`, the log-density of observed sites outside the
            plate "data" (scalar; the same for every particle, so it is averaged over them).

        Raises:
            ConfigError: for latent sites outside the plate "data", and for guide sites that are not reparameterised.
        """
        model_trace, guide_trace = next(self._get_traces(model, guide, args, kwargs))
        particles = -int(self.max_plate_nesting) if self.num_particles > 1 else None
        weights: Tensor | None = None
        rest: Tensor | float = 0.0
        for trace, sign in ((model_trace, 1.0), (guide_trace, -1.0)):
            for name, site in trace.nodes.items():
                if site["type"] != "sample":
                    continue
                log_prob = site["log_prob"]
                if sign < 0 and not getattr(site["fn"], "has_rsample", False):
                    raise ConfigError(
                        f"iwae needs reparameterised guide sites; {name!r} is a {type(site['fn']).__name__}, whose "
                        "parameters would get a wrong gradient. Use objective 'vimco', 'elbo' or 'enum'."
                    )
                if not in_data_plate(site):
                    if sign < 0 or not site["is_observed"]:
                        raise ConfigError(
                            f"iwae weights each data point by itself; the latent site {name!r} lies outside the plate "
                            f"{DATA_PLATE!r}. Use objective 'elbo', or move the site inside the plate."
                        )
                    if particles and is_validation_enabled() and _varies(log_prob, particles):
                        raise ConfigError(
                            f"iwae weights each data point by itself; the observed site {name!r} lies outside the "
                            f"plate {DATA_PLATE!r} and depends on what lies inside. Use objective 'vimco' or 'elbo'."
                        )
                    rest = rest + (log_prob.sum() / self.num_particles if particles else log_prob.sum())
                    continue
                rows = next(f.dim for f in site["cond_indep_stack"] if f.name == DATA_PLATE)
                term = sign * _reduce(log_prob, particles, rows)
                weights = term if weights is None else weights + term
        if weights is None:
            raise ConfigError(f"iwae: no site of the model lies inside a plate named {DATA_PLATE!r}.")
        return weights.expand(self.num_particles, weights.shape[-1]), rest

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over rows (nats), differentiable."""
        weights, rest = self.log_weights(model, guide, *args, **kwargs)
        bound = torch.logsumexp(weights, 0) - math.log(self.num_particles)
        return -(bound.sum() + rest)


def _varies(log_prob: Tensor, particles: int) -> bool:
    """Say whether a density is another for another particle."""
    if log_prob.dim() < -particles:
        return False
    return not bool((log_prob == log_prob.narrow(particles, 0, 1)).all())


def _reduce(log_prob: Tensor, particles: int | None, rows: int) -> Tensor:
    """Sum `log_prob` over every axis but particles and rows; the result broadcasts to (particles, rows)."""
    keep = {rows} if particles is None else {rows, particles}
    dims = [d for d in range(-log_prob.dim(), 0) if d not in keep]
    out = log_prob.sum(dims) if dims else log_prob  # axes stay in order: particles lie left of everything
    return out if out.dim() == 2 else out.unsqueeze(0)


class FreeBits(MeanField):
    """The mean-field bound with a floor under the Kullback-Leibler term of each latent site.

    A site inside the plate "data" contributes `max(mean over rows of KL, nats) * rows`: below the floor it costs a
    constant and feels no pull towards the prior. Scales set by handlers multiply the term before the floor. With
    `each` the floor is under every term by itself, of every entry of every plate, `sum of max(KL, nats)`, as in Ha and
    Schmidhuber, "World models", 2018.

    Args:
        nats: the floor, in nats per data point and site; not negative. A schedule may move it (`"objective.nats"`).
        each: whether every entry has a floor of its own. Then guide and prior must have a closed divergence.
        num_particles: number of samples.
        max_plate_nesting: number of plate axes; only needed with `vectorize_particles`.

    Reference:
        Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", NeurIPS 2016, section 5 of the
        appendix.
    """

    def __init__(
        self, nats: float = 0.5, num_particles: int = 1, max_plate_nesting: float = math.inf, each: bool = False
    ) -> None:
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        if nats < 0:
            raise ConfigError(f"free_bits: nats={nats}; the floor must not be negative.")
        self.nats, self.each = nats, each

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[float, Any]:
        loss = self._particle(model_trace, guide_trace)
        return loss.item(), loss

    def _cost(self, name: str, model_trace: Any, guide_trace: Any) -> Tensor:
        site = model_trace.nodes[name]
        if self.each and in_data_plate(site):
            in_guide = guide_trace.nodes[name]
            terms = (kl_divergence(in_guide["fn"], site["fn"]) * in_guide["scale"]).clamp(min=self.nats)
            return cast(Tensor, scale_and_mask(terms, mask=in_guide["mask"])).sum()
        cost = divergence(name, model_trace, guide_trace)
        if not in_data_plate(site):
            return cost
        rows = next(frame.size for frame in site["cond_indep_stack"] if frame.name == DATA_PLATE)
        return cost.clamp(min=self.nats * rows)


_MAKERS: dict[str, Callable[..., ELBO]] = {
    "elbo": Elbo,
    "mean_field": MeanField,
    "enum": TraceEnum_ELBO,
    "iwae": IWAE,
    "vimco": VIMCO,
    "free_bits": FreeBits,
}


def names() -> list[str]:
    """Return the names of all objectives."""
    return sorted(_MAKERS)


def make(name: str, **options: Any) -> ELBO:
    """Make an objective by name.

    Args:
        name: one of `names()`.
        options: for the objective's constructor: `num_particles`, `max_plate_nesting` (determined from the pair if left
            out), and for Pyro's own classes whatever they accept (`vectorize_particles=True` runs all particles at
            once).

    Raises:
        UnknownNameError: for a name that is not in `names()`.
        ConfigError: for an option the objective does not have.
    """
    if name not in _MAKERS:
        raise unknown_name("objective", name, _MAKERS)
    if int(options.get("num_particles", 1)) < 1:
        raise ConfigError(f"objective {name!r}: num_particles={options['num_particles']}; at least 1 is needed.")
    try:
        return _MAKERS[name](**options)
    except TypeError as error:
        raise ConfigError(f"objective {name!r} does not take these options: {error}") from error


class Bound(nn.Module):
    """An objective tied to a pair: `module(**batch)` for training, `evaluate(batch)` for its value alone.

    Attributes:
        module: the `nn.Module` behind it, holding model and guide (and whatever an objective brings along).
        target: the object whose attributes the schedule keys `"objective.<attribute>"` set.
        own_backward: True if computing the loss also adds the gradients (ELBOs with `loss_and_grads` only).
    """

    def __init__(self, module: nn.Module, target: Any, own_backward: bool, depth: float | None = None) -> None:
        super().__init__()
        self._told = getattr(target, "max_plate_nesting", None)
        if depth is not None and self._told == math.inf:
            target.max_plate_nesting = depth
        self.module = module
        self.target = target
        self.own_backward = own_backward
        self._before = objective_state.capture(target) if isinstance(target, ELBO) else ({}, {})

    def evaluate(self, batch: dict[str, Tensor]) -> float:
        """Return the loss of one batch, summed over its rows (nats), leaving gradients alone.

        It is computed as in training: some objectives (`enum`, a callable that differentiates something) cannot do
        without gradients.
        """
        if isinstance(self.module, _LossAndGrads):
            return self.module.evaluate(batch)
        with torch.enable_grad():
            return float(self.module(**batch).detach())

    def state(self) -> objective_state.State:
        """Return what an ELBO remembers from step to step: tensors by name, and JSON."""
        if not isinstance(self.target, ELBO):
            return {}, {}  # a module keeps what it remembers in its buffers
        tensors, numbers = objective_state.changes(self.target, self._before)
        if isinstance(self.module, _LossAndGrads):
            own = objective_state.capture(self.module.averages)
            tensors.update({f"{_AVERAGES}.{name}": value for name, value in own[0].items()})
            numbers[_AVERAGES] = own[1]
        return tensors, numbers

    def release(self) -> None:
        """Leave the objective as it was before it was bound."""
        self.load_state({}, {})
        if isinstance(self.target, ELBO):
            self.target.max_plate_nesting = self._told

    def load_state(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Take up what `state` returned; with nothing in it, what the ELBO began with."""
        if not isinstance(self.target, ELBO):
            return
        inner = {n.removeprefix(f"{_AVERAGES}."): t for n, t in tensors.items() if n.startswith(f"{_AVERAGES}.")}
        attributes = {key: value for key, value in numbers.items() if key != _AVERAGES}
        objective_state.put_back(self.target, (tensors, attributes), self._before)
        if isinstance(self.module, _LossAndGrads):
            objective_state.put_back(self.module.averages, (inner, numbers.get(_AVERAGES, {"values": {}})))


_AVERAGES = "averages of TraceGraph_ELBO"


class _LossAndGrads(nn.Module):
    """Runs `loss_and_grads` of an ELBO that has no `differentiable_loss`."""

    def __init__(self, model: nn.Module, guide: nn.Module, elbo: Any) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.elbo = elbo
        self.averages = objective_state.Averages()

    def forward(self, **batch: Any) -> float:
        with self.averages.in_store(next((len(value) for value in batch.values()), 0)):
            return float(self.elbo.loss_and_grads(self.model, self._visible_guide, **batch))

    def evaluate(self, batch: dict[str, Tensor]) -> float:
        """Return the loss alone; gradients and averages stay as they are."""
        if hasattr(self.elbo, "loss"):
            return float(self.elbo.loss(self.model, self.guide, **batch))
        before, grads = objective_state.capture(self.averages), [(p, p.grad) for p in self.parameters()]
        for parameter, _ in grads:
            parameter.grad = None
        with torch.enable_grad():
            loss = self(**batch)
        for parameter, grad in grads:
            parameter.grad = grad
        objective_state.put_back(self.averages, before)
        return loss

    def _visible_guide(self, **batch: Any) -> Any:
        # Some Pyro objectives leave out the backward pass unless a "param" site was traced; our modules register none.
        _mark(name="_phlogiston_parameters_exist")
        return self.guide(**batch)


@effectful(type="param")
def _mark() -> Tensor:
    return torch.zeros(())


_REFUSED: dict[str, str] = {
    "ReweightedWakeSleep": "it has two losses and gives a whole batch one weight. Use objective 'vimco' (any guide) or "
    "'iwae' (reparameterised guides), which weight each data point",
    "TraceTailAdaptive_ELBO": "it reports no loss. Use objective 'iwae', or pyro.infer.RenyiELBO",
    "EnergyDistance": "it is no sum over data points. Wrap it: a function (model, guide) -> nn.Module whose "
    "forward(**batch) is the loss",
    "MMD": "it is no sum over data points. Wrap it: a function (model, guide) -> nn.Module whose forward(**batch) is "
    "the loss",
    "SVGD": "it moves particles by itself. Use its own step()",
    "CSIS": "it trains on batches it draws itself. Use its own step()",
    "SVI": "it is a training loop of its own. Give its loss, such as pyro.infer.Trace_ELBO()",
}


def refuse(objective: Any) -> None:
    """Refuse what the engine cannot train with, in one line that says what to use.

    Raises:
        ConfigError: if so.
    """
    if isinstance(objective, type) and issubclass(objective, ELBO):
        raise ConfigError(f"objective={objective.__name__}: give an instance, {objective.__name__}().")
    for base in type(objective).__mro__:
        name = base.__name__
        if not base.__module__.startswith("pyro."):
            continue
        if name in _REFUSED:
            raise ConfigError(f"objective={type(objective).__name__}(...): {_REFUSED[name]}.")
        if name.startswith("Jit"):
            raise ConfigError(
                f"objective={type(objective).__name__}(...): it compiles programs of positional arguments, and batches "
                f"come by name. Use {name.removeprefix('Jit')}(...)."
            )


def bind(objective: Any, model: nn.Module, guide: nn.Module, depth: int | None = None) -> Bound:
    """Tie an objective to a pair.

    Args:
        objective: a name, a `pyro.infer.ELBO`, or a callable `(model, guide) -> nn.Module` whose `forward(**batch)` is
            the differentiable loss summed over the batch.
        model: the generative program.
        guide: the inference program.
        depth: how many plate axes the pair has, where known; an ELBO without it need not determine it,
            which would draw random numbers at a step of its choosing.

    Raises:
        ConfigError: if `objective` is none of these, or is set for fewer plate axes than there are.
    """
    if isinstance(objective, str):
        objective = make(objective)
    refuse(objective)
    if isinstance(objective, ELBO):
        return _bind_elbo(objective, model, guide, depth)
    if not callable(objective):
        raise ConfigError(
            f"objective={objective!r}: give a name ({', '.join(names())}), a pyro.infer.ELBO, or a callable "
            "(model, guide) -> nn.Module."
        )
    module = objective(model, guide)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"the objective returned a {type(module).__name__}; (model, guide) -> nn.Module is expected.")
    return Bound(module, module, own_backward=False)


def _bind_elbo(objective: Any, model: nn.Module, guide: nn.Module, depth: int | None) -> Bound:
    plates = objective.max_plate_nesting
    if depth is not None:
        # with particles as a plate of their own, that one counts
        depth += int(runs_particles_at_once(objective))
        if plates < depth:
            raise ConfigError(
                f"{type(objective).__name__}: max_plate_nesting={plates}, but the plates of this pair reach to axis "
                f"-{depth}. Leave max_plate_nesting out: the engine finds it."
            )
    if hasattr(objective, "differentiable_loss"):
        return Bound(objective(model, guide), objective, own_backward=False, depth=depth)
    if hasattr(objective, "loss_and_grads"):
        return Bound(_LossAndGrads(model, guide, objective), objective, own_backward=True, depth=depth)
    raise ConfigError(
        f"objective={type(objective).__name__}(...): it has neither differentiable_loss(model, guide, **batch) nor "
        "loss_and_grads(model, guide, **batch)."
    )


def runs_particles_at_once(objective: Any) -> bool:
    """Say whether an objective lays its particles out as a plate around model and guide."""
    thing = make(objective) if isinstance(objective, str) else objective
    return isinstance(thing, ELBO) and thing.vectorize_particles and thing.num_particles > 1


def describe(objective: Any) -> Any:
    """Return an objective as JSON-able data, so that two runs can be compared."""
    if isinstance(objective, str):
        return objective
    if isinstance(objective, ELBO):
        return {"objective": type(objective).__name__, **dict(_scalars(objective))}
    return {"objective": getattr(objective, "__qualname__", type(objective).__name__)}


def _scalars(thing: Any) -> Iterator[tuple[str, Any]]:
    for key, value in sorted(vars(thing).items()):
        if key == "max_plate_nesting":  # an ELBO may find it out and change it while it runs
            continue
        if isinstance(value, float) and not math.isfinite(value):
            yield key, str(value)
        elif isinstance(value, bool | int | float | str):
            yield key, value
