"""How mixture density networks are trained: the likelihood without a program around it, and each member at its best."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from phlogiston.guides.mdn import LowRankGuide, MeanFieldGuide
from phlogiston.models.mdn import MDN, BayesianMDN

KEPT = "kept_"


class MaximumLikelihood(nn.Module):
    """Minus the log likelihood, summed over the batch: what the ELBO is when the guide has nothing to guess.

    For a Bayesian network it is taken at the guide's centre. Buffers hold the best parameters seen so far (by member),
    so that a run that is resumed knows them, too.

    Args:
        model: the program.
        guide: the guide whose centre is trained; only for Bayesian networks.
    """

    def __init__(self, model: MDN | BayesianMDN, guide: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.guide = guide if isinstance(guide, MeanFieldGuide | LowRankGuide) else None
        self.members = model.members if isinstance(model, MDN) else None
        for name, value in self.trained().items():
            self.register_buffer(KEPT + name.replace(".", "_"), value.detach().clone())
        self.register_buffer("best", torch.full((self.members or 1,), float("inf")))

    best: Tensor

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters this stage is about, by name."""
        found = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if self.guide is not None:
            found.update({f"guide.{name}": p for name, p in self.guide.loc.named_parameters()})
        return found

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
    def look(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> bool:
        """Score all members on validation rows, keep the parameters of those that improved, say whether any did."""
        loss = -self.by_member(x, y, weight).mean(-1).reshape(-1)
        better = loss < self.best
        if bool(better.any()):
            self.best = torch.where(better, loss, self.best)
            for name, value in self.trained().items():
                kept = getattr(self, KEPT + name.replace(".", "_"))
                mask = better.reshape(-1, *[1] * (value.dim() - 1)) if self.members is not None else better[0]
                kept.copy_(torch.where(mask, value, kept))
        return bool(better.any())

    @torch.no_grad()
    def restore(self) -> None:
        """Put the kept parameters in place, for every member that was ever scored."""
        seen = torch.isfinite(self.best)
        for name, value in self.trained().items():
            kept = getattr(self, KEPT + name.replace(".", "_"))
            mask = seen.reshape(-1, *[1] * (value.dim() - 1)) if self.members is not None else seen[0]
            value.copy_(torch.where(mask, kept, value))


class KeepBest:
    """Engine callback: looks at the validation rows now and then, and ends with every member at its best.

    Args:
        rows: validation rows as the program takes them.
        every: steps between looks.
        patience: looks without improvement that end training; 0 for never.
        stage: the stage that is watched.
    """

    def __init__(self, rows: dict[str, Tensor], every: int, patience: int, stage: str) -> None:
        self.rows, self.every, self.patience, self.stage = rows, every, patience, stage
        self.objective: MaximumLikelihood | None = None
        self.waited = 0

    def make(self, model: Any, guide: Any) -> MaximumLikelihood:
        """The objective of the watched stage, as a `Stage` wants it."""
        self.objective = MaximumLikelihood(model, guide)
        return self.objective

    def on_step(self, state: Any) -> None:
        """Look, keep, and at the end of the stage put the best back."""
        if state.stage.name != self.stage or self.objective is None:
            return
        last = state.stage_progress >= 1.0 or state.step >= state.total
        if state.step % self.every and not last:
            return
        rows = {name: value.to(state.device) for name, value in self.rows.items()}
        self.waited = 0 if self.objective.look(**rows) else self.waited + 1
        state.metrics["valid_loss_of_best"] = float(self.objective.best.mean())
        if self.patience and self.waited >= self.patience and not last:
            state.request_stop()
            last = True
        if last:
            self.objective.restore()

    def state_dict(self) -> dict[str, Any]:
        """Return how many looks in a row brought nothing."""
        return {"waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved memory."""
        self.waited = int(state["waited"])
