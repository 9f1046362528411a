"""How mixture density networks are trained: the likelihood without a program around it, and each member at its best."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from phlogiston.errors import TrainingWarning
from phlogiston.guides.mdn import LowRankGuide, MeanFieldGuide
from phlogiston.models.mdn import MDN, BayesianMDN

KEPT, AVERAGE = "kept_", "average_"
BEGIN = 0.1  # share of the steps before parameters are averaged


class MaximumLikelihood(nn.Module):
    """Minus the log likelihood, summed over the batch: the negative ELBO where the guide has no latent site.

    For a Bayesian network it is taken at the guide's centre. Buffers hold the best parameters seen so far (by member),
    so that a resumed run has them, too.

    Args:
        model: the program.
        guide: the guide whose centre is trained; only for Bayesian networks.
    """

    def __init__(self, model: MDN | BayesianMDN, guide: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.guide = guide if isinstance(guide, MeanFieldGuide | LowRankGuide) else None
        self.members = model.members if isinstance(model, MDN) else None
        # members that share weights are good or bad together
        self.choices = self.members if isinstance(model, MDN) and not model.shared else None
        for name, value in self.trained().items():
            for prefix in (KEPT, AVERAGE):
                self.register_buffer(prefix + name.replace(".", "_"), value.detach().clone())
        self.register_buffer("best", torch.full((self.choices or 1,), float("inf")))

    best: Tensor

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters this objective trains, by name."""
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if self.guide is not None:
            parameters.update({f"guide.{name}": p for name, p in self.guide.loc.named_parameters()})
        return parameters

    def by_member(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Log likelihood of every row: (rows,), or (members, rows)."""
        if isinstance(self.model, BayesianMDN):
            assert self.guide is not None
            rows = self.model.log_likelihood(x, y, self.guide.locations())
        else:
            rows = self.model.log_likelihood(x, y)
        return rows if weight is None else rows * weight

    def forward(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss, summed over rows and averaged over members, in nats."""
        rows = self.by_member(x, y, weight)
        return -rows.sum() / self.members if self.members is not None else -rows.sum()

    @torch.no_grad()
    def update_best(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> bool:
        """Score all members on validation rows, keep the parameters of those that improved; True if any did."""
        rows = self.by_member(x, y, weight)
        loss = -(rows.mean() if self.choices is None else rows.mean(-1)).reshape(-1)
        better = loss < self.best
        if bool(better.any()):
            self.best = torch.where(better, loss, self.best)
            for value, kept in self._pairs():
                kept.copy_(torch.where(self._mask(better, value), value, kept))
        return bool(better.any())

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the kept parameters into the programs, for every member that was ever scored."""
        scored = torch.isfinite(self.best)
        for value, kept in self._pairs():
            value.copy_(torch.where(self._mask(scored, value), kept, value))

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the average of the parameters towards the present ones by a share of 1 - decay; 0 copies them."""
        for value, average in self._pairs(AVERAGE):
            average.lerp_(value.to(average.dtype), 1.0 - decay)

    @torch.no_grad()
    def keep_average(self) -> None:
        """Keep the average of the parameters, for `restore`."""
        self.best.zero_()
        for (_, average), (_, kept) in zip(self._pairs(AVERAGE), self._pairs(), strict=True):
            kept.copy_(average)

    @torch.no_grad()
    def keep_better_average(self, rows: Mapping[str, Tensor], last: bool = False) -> None:
        """Keep the average if it gives validation rows a higher density than any before.

        The last one is kept, too, unless the best beats it by more than chance would, a standard error of their
        difference: where training goes on to do good, or no harm, its end is the better guess.

        Densities are those after recalibration, where there is any: narrow components are no fault it cannot mend.
        """
        weight = rows.get("weight", torch.ones(len(rows["y"]))).double()
        share = weight / weight.sum()
        now = self._scores(AVERAGE, rows)
        loss = -float(now @ share)
        if loss < float(self.best[0]) or (last and not bool(torch.isfinite(self.best[0]))):
            self.keep_average()
            self.best.fill_(loss)
        elif last:
            gain = self._scores(KEPT, rows) - now
            mean = gain @ share
            if mean <= ((gain - mean).square() @ share / len(gain)).sqrt():
                self.keep_average()
                self.best.fill_(loss)

    def _scores(self, prefix: str, rows: Mapping[str, Tensor]) -> Tensor:
        """Log densities of rows under the parameters kept under a prefix: (rows,)."""
        assert isinstance(self.model, MDN)
        present = [value.clone() for value, _ in self._pairs(prefix)]
        for value, other in self._pairs(prefix):
            value.copy_(other)
        scores = self.model.calibrated(rows["x"], rows["y"], rows.get("weight"))
        for (value, _), before in zip(self._pairs(prefix), present, strict=True):
            value.copy_(before)
        return scores

    def _pairs(self, prefix: str = KEPT) -> list[tuple[nn.Parameter, Tensor]]:
        """Each parameter with the buffer that holds its best value, or its average."""
        return [(value, getattr(self, prefix + name.replace(".", "_"))) for name, value in self.trained().items()]

    def _mask(self, mask: Tensor, value: Tensor) -> Tensor:
        """A mask over members in the shape that broadcasts against a parameter of theirs."""
        return mask.reshape(-1, *[1] * (value.dim() - 1)) if self.choices is not None else mask[0]


class KeepBest:
    """Engine callback: scores the validation rows at intervals, and leaves every member at its best.

    Without validation rows it does nothing, and the last parameters stay.

    Args:
        every: steps between evaluations.
        patience: evaluations without improvement that end training; 0 for never.
        stage: name of the stage it acts on.
    """

    def __init__(self, every: int, patience: int, stage: str) -> None:
        self.every, self.patience, self.stage = every, patience, stage
        self.waited = 0

    @staticmethod
    def make(model: Any, guide: Any) -> MaximumLikelihood:
        """Return the objective of the stage. Run folders name it by this method, and resuming compares the names."""
        return MaximumLikelihood(model, guide)

    def on_step(self, state: Any) -> None:
        """Evaluate when it is due, keep what improved, and end training when nothing has for long."""
        if state.stage.name != self.stage or state.valid is None or state.step % self.every:
            return
        self._evaluate(state)
        if self.patience and self.waited >= self.patience:
            state.request_stop()

    def on_stage_end(self, state: Any) -> None:
        """Evaluate once more, and put the best parameters in place, whichever way training ended."""
        if state.stage.name != self.stage or state.valid is None:
            return
        if state.step % self.every:
            self._evaluate(state)
        state.objective.restore()

    def _evaluate(self, state: Any) -> None:
        self.waited = 0 if state.objective.update_best(**_valid_rows(state)) else self.waited + 1
        state.metrics["valid_loss_of_best"] = float(state.objective.best.mean())

    def state_dict(self) -> dict[str, Any]:
        """Return how many evaluations in a row brought no improvement."""
        return {"waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the count from a checkpoint."""
        self.waited = int(state["waited"])


class Averaging:
    """Engine callback: training ends at an exponential average of the parameters, begun after a tenth of the steps.

    It is scored on the validation rows at intervals, and the best one is kept, if it is clearly better than the last:
    where targets are mostly noise, a network that is trained to the end has learned the noise by heart. Without
    validation rows the last one stays.

    Args:
        decay: what remains of the average at every step.
        every: steps between scores.
        stage: name of the stage it acts on.
    """

    def __init__(self, decay: float, every: int, stage: str) -> None:
        self.decay, self.every, self.stage = decay, every, stage

    def on_step(self, state: Any) -> None:
        """Update the average, and score it when that is due."""
        if state.stage.name != self.stage:
            return
        state.objective.average(self.decay if state.stage_progress > BEGIN else 0.0)
        if state.valid is not None and state.stage_progress > BEGIN and state.step % self.every == 0:
            self._score(state)

    def on_stage_end(self, state: Any) -> None:
        """Put the best average in place, whichever way training ended."""
        if state.stage.name != self.stage:
            return
        if state.valid is None:
            state.objective.keep_average()
        else:
            self._score(state, last=True)
        state.objective.restore()

    @staticmethod
    def _score(state: Any, last: bool = False) -> None:
        state.objective.keep_better_average(_valid_rows(state), last)
        state.metrics["valid_loss_of_average"] = float(state.objective.best[0])


class Recalibrate:
    """Engine callback: at the end of the stage the validation rows choose how wide components are.

    It comes after the callback that puts the final parameters in place.

    Args:
        stage: name of the stage it acts on.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def on_stage(self, state: Any) -> None:
        """Train with the components' own widths, also where a run that was stopped, and recalibrated, is resumed."""
        if state.stage.name != self.stage or state.step >= state.total:
            return
        state.model.widths.copy_(state.model.own_widths())
        if state.valid is None and state.leader:
            warnings.warn(
                "recalibrate=True, but there are no validation rows to choose widths by: intervals stay as wide as "
                "training rows made them, often too narrow. Give data with a valid part, or recalibrate=False.",
                TrainingWarning,
                stacklevel=2,
            )

    def on_stage_end(self, state: Any) -> None:
        """Recalibrate what training leaves behind."""
        if state.stage.name == self.stage and state.valid is not None:
            state.model.calibrate(**_valid_rows(state))


def _valid_rows(state: Any) -> dict[str, Tensor]:
    """All validation rows, where the model is."""
    return {name: value.to(state.device) for name, value in state.valid[:].items()}
