"""A count by breaking a stick: continue with probability sigma(l_0), then sigma(l_1), ..., until a coin shows tails."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.nn.functional import logsigmoid

from phlogiston.distributions.masked import stacked
from phlogiston.distributions.shapes import joint_shape


class StickCount(TorchDistribution):
    """Number of heads before the first tails.

    Args:
        logits: (*batch, steps) of going on at each step.
        capacity: int64 (*batch), at most `steps`: after so many heads it ends for certain. Logits of steps that cannot
            be reached do not count, whatever stands in them.

    Example:
        >>> count = StickCount(torch.zeros(3), torch.tensor(2))
        >>> count.log_prob(torch.tensor([0, 1, 2, 3])).exp()
        tensor([0.5000, 0.2500, 0.2500, 0.0000])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "capacity": constraints.dependent(is_discrete=True, event_dim=0),
    }
    has_rsample = False

    def __init__(self, logits: Tensor, capacity: Tensor, validate_args: bool | None = None) -> None:
        self.steps = logits.shape[-1]
        self.capacity = capacity
        self._raw = logits
        super().__init__(joint_shape(logits.shape[:-1], capacity.shape), validate_args=validate_args)
        if self._validate_args and not bool(((capacity >= 0) & (capacity <= self.steps)).all()):
            raise ValueError(f"capacity lies outside 0 ... {self.steps}, the number of steps with logits")

    @cached_property
    def logits(self) -> Tensor:
        """Of going on at each step, zero at steps that cannot be reached."""
        reachable = torch.arange(self.steps, device=self._raw.device) < self.capacity.unsqueeze(-1)
        return torch.where(reachable, self._raw, 0.0)

    @classmethod
    def stack_log_prob(cls, parts: Sequence[StickCount], values: Sequence[Tensor]) -> Tensor | None:
        """Log probabilities of several of the same shapes at a value each, (parts, *batch); None where they differ."""
        rank = len(parts[0].batch_shape)
        logits = stacked([part._raw for part in parts], rank + 1)
        capacity = stacked([part.capacity for part in parts], rank)
        if logits is None or capacity is None or len({part.batch_shape for part in parts}) > 1:
            return None
        whole = cls(logits, capacity, validate_args=False)
        return whole.expand(torch.Size([len(parts), *parts[0].batch_shape])).log_prob(torch.stack(list(values)))

    @property
    def support(self) -> Any:
        """Whole numbers from 0 to the number of steps."""
        return constraints.integer_interval(0, self.steps)

    def expand(self, batch_shape: Any, _instance: Any = None) -> StickCount:
        """Repeat over new batch axes."""
        shape = torch.Size(batch_shape)
        new = StickCount(self._raw.expand(*shape, self.steps), self.capacity.expand(shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """Expected count."""
        chance = self.log_probs().exp()
        return (chance * torch.arange(self.steps + 1, device=chance.device)).sum(-1).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """Of the count."""
        gap = torch.arange(self.steps + 1, device=self.logits.device) - self.mean.unsqueeze(-1)
        return (self.log_probs().exp() * gap.square()).sum(-1).expand(self.batch_shape)

    def log_probs(self) -> Tensor:
        """Log probability of every count, (*batch, steps + 1); minus infinity beyond the capacity."""
        heads = torch.cat([torch.zeros_like(self.logits[..., :1]), logsigmoid(self.logits).cumsum(-1)], -1)
        tails = torch.cat([logsigmoid(-self.logits), torch.zeros_like(self.logits[..., :1])], -1)
        count = torch.arange(self.steps + 1, device=self.logits.device)
        room = self.capacity.unsqueeze(-1)
        ends = torch.where(count < room, heads + tails, heads)
        return torch.where(count <= room, ends, -torch.inf)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw a count, int64."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            coins = torch.rand((*shape, self.steps), device=self.logits.device) < torch.sigmoid(self.logits)
            reachable = torch.arange(self.steps, device=self.logits.device) < self.capacity.unsqueeze(-1)
            return (coins & reachable).long().cumprod(-1).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of a count."""
        if self._validate_args:
            self._validate_sample(value)
        table = self.log_probs()
        shape = joint_shape(table.shape[:-1], value.shape)
        possible = (value >= 0) & (value <= self.steps) & (value == value.floor())
        chosen = torch.where(possible, value, 0).long().expand(shape).unsqueeze(-1)
        result = table.expand(*shape, self.steps + 1).gather(-1, chosen).squeeze(-1)
        return torch.where(possible, result, -torch.inf)
