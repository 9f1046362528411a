"""Normals and Bernoullis of which only some entries count.

A scene with N slots for objects holds fewer most of the time. The entries of an empty slot have no density, no draw
(they are zero) and no gradient, whatever stands in their parameters, NaN and infinity included: the parameters are
replaced before anything is computed with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy_with_logits

from phlogiston.distributions.shapes import joint_shape
from phlogiston.errors import ShapeError

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class MaskedReals(TorchDistribution):
    """Real entries of which only some count: zero, and drawn as zero, where `mask_of_entries` is False."""

    has_rsample = True

    @property
    def support(self) -> Any:
        """All real numbers."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)


class MaskedNormal(MaskedReals):
    """Independent Normal entries, those that are masked out being no part of it.

    Args:
        loc: (*batch, *event).
        scale: positive where it counts; broadcasts against `loc`. One number for all entries is computed faster.
        mask: bool, broadcasts against `loc`, True where an entry counts; None for everywhere.
        event_dim: number of event axes.

    Raises:
        ShapeError: fewer axes than `event_dim`.
        ValueError: with validation on, a parameter that counts is NaN, or a scale that counts is not positive.

    Example:
        >>> masked = MaskedNormal(torch.zeros(2, 3), torch.ones(()), torch.tensor([[True], [False]]), event_dim=1)
        >>> masked.log_prob(torch.zeros(2, 3))
        tensor([-2.7568, 0.0000])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}
    has_empty_entries: ClassVar[bool] = True  # moves that change what is masked would have to jump between dimensions

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        mask: Tensor | None = None,
        event_dim: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        shape = joint_shape(loc.shape, scale.shape, torch.Size() if mask is None else mask.shape)
        if len(shape) < event_dim:
            raise ShapeError(f"loc has shape {tuple(loc.shape)}; at least {event_dim} axes are expected.")
        self._raw = (loc, scale)
        self.mask_of_entries = mask
        cut = len(shape) - event_dim
        super().__init__(shape[:cut], shape[cut:], validate_args=validate_args)

    @cached_property
    def loc(self) -> Tensor:
        """The location, zero where masked out; may lack axes over which it is the same."""
        mask = self.mask_of_entries
        return self._raw[0] if mask is None else torch.where(mask, self._raw[0], 0.0)

    @cached_property
    def scale(self) -> Tensor:
        """The scale, one where masked out; may lack axes over which it is the same."""
        mask = self.mask_of_entries
        return self._raw[1] if mask is None else torch.where(mask, self._raw[1], 1.0)

    @classmethod
    def stack_log_prob(cls, parts: Sequence[MaskedNormal], values: Sequence[Tensor]) -> Tensor | None:
        """Log densities of several of the same shapes at a value each, (parts, *batch); None where they differ.

        The fewest operations, forth and back: a gradient can be taken once, not of a gradient.
        """
        shape = parts[0].batch_shape + parts[0].event_shape
        masks = [part.mask_of_entries for part in parts]
        known = [mask for mask in masks if mask is not None]
        if any(part.batch_shape + part.event_shape != shape for part in parts) or 0 < len(known) < len(masks):
            return None
        mask = stacked(known, len(shape)) if known else None
        if known and mask is None:
            return None
        columns = []
        for tensors in ([part._raw[0] for part in parts], [part._raw[1] for part in parts], values):
            one = all(tensor is tensors[0] for tensor in tensors)
            columns.append([tensors[0]] if one else [t if t.shape == shape else t.expand(shape) for t in tensors])
        axes = len(parts[0].event_shape)
        flat = [tensor for column in columns for tensor in column]
        result = _Densities.apply(mask, axes, [len(column) for column in columns], *flat)  # type: ignore[no-untyped-call]
        return result.expand(len(parts), *parts[0].batch_shape)  # type: ignore[no-any-return]

    @property
    def mean(self) -> Tensor:
        """The location, zero where masked out."""
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def stddev(self) -> Tensor:
        """The scale, zero where masked out."""
        scale = self.scale if self.mask_of_entries is None else torch.where(self.mask_of_entries, self.scale, 0.0)
        return scale.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Of every entry, zero where masked out."""
        return self.stddev.square()

    def expand(self, batch_shape: Any, _instance: Any = None) -> MaskedNormal:
        """Repeat over new batch axes; parameters are not copied."""
        new = MaskedNormal.__new__(MaskedNormal)
        new._raw, new.mask_of_entries = self._raw, self.mask_of_entries
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw, zero where masked out."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        drawn = self.loc + self.scale * torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return drawn if self.mask_of_entries is None else torch.where(self.mask_of_entries, drawn, 0.0)

    def entry_log_prob(self, value: Tensor) -> Tensor:
        """Log density of every entry, (*batch, *event); zero for those that do not count."""
        if self.mask_of_entries is not None:
            value = torch.where(self.mask_of_entries, value, 0.0)
        terms = -0.5 * ((value - self.loc) / self.scale).square() - self.scale.log() - _HALF_LOG_TWO_PI
        if self.mask_of_entries is not None:
            terms = torch.where(self.mask_of_entries, terms, 0.0)
        return terms.expand(joint_shape(terms.shape, self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the entries that count, in nats, summed over the event axes."""
        if self._validate_args:
            known = value if self.mask_of_entries is None else torch.where(self.mask_of_entries, value, 0.0)
            self._validate_sample(known)
        axes = list(range(-len(self.event_shape), 0))
        if self.mask_of_entries is None and self.scale.numel() == 1:
            scale = self.scale.reshape(())
            constant = self.event_shape.numel() * (scale.log() + _HALF_LOG_TWO_PI)
            out = -0.5 * ((value - self.loc) / scale).square().sum(axes) - constant
        else:
            out = self.entry_log_prob(value).sum(axes)
        return out.expand(joint_shape(out.shape, self.batch_shape))


class MaskedBernoulli(TorchDistribution):
    """Independent coins, those that are masked out showing tails for certain.

    Args:
        logits: (*batch, coins).
        mask: bool, broadcasts against `logits`, True where a coin is thrown.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    has_rsample = False
    has_empty_entries: ClassVar[bool] = True

    def __init__(self, logits: Tensor, mask: Tensor, validate_args: bool | None = None) -> None:
        shape = joint_shape(logits.shape, mask.shape)
        self._raw = logits
        self.mask_of_entries = mask
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @cached_property
    def logits(self) -> Tensor:
        """Of heads, zero where masked out."""
        return torch.where(self.mask_of_entries, self._raw, 0.0)

    @classmethod
    def stack_log_prob(cls, parts: Sequence[MaskedBernoulli], values: Sequence[Tensor]) -> Tensor | None:
        """Log probabilities of several of the same shapes at a value each, (parts, *batch); None where they differ."""
        rank = len(parts[0].batch_shape) + 1
        logits = stacked([part._raw for part in parts], rank)
        mask = stacked([part.mask_of_entries for part in parts], rank)
        if logits is None or mask is None or len({(part.batch_shape, part.event_shape) for part in parts}) > 1:
            return None
        whole = cls(logits, mask, validate_args=False).expand(torch.Size([len(parts), *parts[0].batch_shape]))
        return whole.log_prob(torch.stack(list(values)))

    @property
    def support(self) -> Any:
        """Zeros and ones."""
        return constraints.independent(constraints.boolean, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MaskedBernoulli:
        """Repeat over new batch axes; parameters are not copied."""
        new = MaskedBernoulli.__new__(MaskedBernoulli)
        new._raw, new.mask_of_entries = self._raw, self.mask_of_entries
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """Probability of heads, zero where masked out."""
        return (torch.sigmoid(self.logits) * self.mask_of_entries).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Of every coin, zero where masked out."""
        return self.mean * (1.0 - self.mean)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Throw the coins: 1.0 or 0.0, and 0.0 where masked out."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        with torch.no_grad():
            return torch.bernoulli(torch.sigmoid(self.logits).expand(shape)) * self.mask_of_entries

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of the coins that are thrown, summed over them; tails is the only way for the others."""
        if self._validate_args:
            self._validate_sample(value)
        shape = joint_shape(self.logits.shape, value.shape)
        terms = -binary_cross_entropy_with_logits(self.logits.expand(shape), value.expand(shape), reduction="none")
        impossible = torch.where(value == 0, 0.0, -math.inf)
        out = torch.where(self.mask_of_entries, terms, impossible).sum(-1)
        return out.expand(joint_shape(out.shape, self.batch_shape))


def stacked(parts: Sequence[Tensor], rank: int) -> Tensor | None:
    """Stack tensors of one shape, to broadcast as they do against `rank` axes; None for several shapes.

    A tensor that stands for all is returned as it is.
    """
    first = parts[0]
    if all(part is first for part in parts):
        return first
    if any(part.shape != first.shape for part in parts):
        return None
    whole = torch.stack(list(parts))
    return whole.reshape(len(parts), *[1] * (rank - first.dim()), *first.shape) if first.dim() < rank else whole


class _Densities(torch.autograd.Function):
    """Summed log densities of stacked Normals of which only some entries count.

    Args:
        mask: (parts or 1, *shape), bool, where entries count; None for everywhere.
        axes: of an event.
        counts: how many of the tensors are locations, scales and values: one for all parts, or one for each.

    Returns:
        (parts, *batch).
    """

    @staticmethod
    def forward(ctx: Any, mask: Tensor | None, axes: int, counts: list[int], *tensors: Tensor) -> Tensor:
        loc, scale, value = (part[0] if len(part) == 1 else torch.stack(part) for part in _split(tensors, counts))
        gap, weight = torch.sub(value, loc), None
        if mask is not None:  # what does not count may be NaN
            away = ~mask
            gap.masked_fill_(away, 0.0)
            scale = scale.to(gap.dtype).masked_fill(away, 1.0)
            weight = mask.to(gap.dtype)
        gap.div_(scale)
        terms = torch.log(scale).add_(_HALF_LOG_TWO_PI)
        terms = torch.addcmul(terms, gap, gap, value=0.5)
        if weight is not None:
            terms.mul_(weight)
        ctx.save_for_backward(gap, scale, weight)
        ctx.axes, ctx.counts, ctx.shapes = axes, counts, [part[0].shape for part in _split(tensors, counts)]
        return terms.sum(list(range(-axes, 0))).neg_()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        gap, scale, weight = ctx.saved_tensors
        whole = gradient.reshape(*gradient.shape, *[1] * ctx.axes)
        each = (whole if weight is None else whole * weight) / scale
        of_loc = each * gap
        columns = [of_loc, torch.addcmul(-each, of_loc, gap), -of_loc]
        out: list[Any] = []
        for column, count, shape in zip(columns, ctx.counts, ctx.shapes, strict=True):
            out += [column.sum_to_size(shape)] if count == 1 else column.unbind(0)
        return None, None, None, *out


def _split(tensors: tuple[Tensor, ...], counts: Sequence[int]) -> list[tuple[Tensor, ...]]:
    starts = [sum(counts[:i]) for i in range(len(counts))]
    return [tensors[start : start + count] for start, count in zip(starts, counts, strict=True)]
