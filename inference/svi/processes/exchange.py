"""How processes add up their gradients: in buckets while the backward pass runs, or in one piece after it.

Both compute the same sums, over gradients and a few numbers of the step (loss, rows, failures, flags to stop), so that
every decision made from them is the same on every process. `Bucketed` is torch's `DistributedDataParallel`; it needs a
loss to call `backward` on. `Flat` is for objectives that do their backward pass themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from phlogiston.errors import ProcessLostError

BUCKET_MEGABYTES = 4.0
"""Size of a bucket. These models are of 0.4 to 40 MB: with torch's 25 MB most would be one bucket, and wait for it."""

_FOREIGN = ("gloo", "nccl", "connection", "timed out", "socket", "broken pipe")

Compute = Callable[[], tuple[Any, bool]]
"""Computes the loss of this process's rows, in nats, and says whether that failed on numbers that are not finite."""


@contextlib.contextmanager
def peers() -> Iterator[None]:
    """Turn the failure of a collective into an error that says what happened.

    Raises:
        ProcessLostError: another process has gone.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        backend = getattr(torch.distributed, "DistError", ())
        if isinstance(error, ProcessLostError) or not (
            isinstance(error, backend) or any(word in text.lower() for word in _FOREIGN)
        ):
            raise
        raise ProcessLostError(
            f"another process of this run has gone, or the connection to it broke ({text.splitlines()[0][:200]})."
        ) from error


def all_reduce(buffer: Tensor) -> None:
    """Sum a tensor over all processes, in place.

    Raises:
        ProcessLostError: another process has gone.
    """
    with peers():
        torch.distributed.all_reduce(buffer)


class Flat:
    """Sums gradients and numbers in one flat buffer, after the backward pass.

    Args:
        parameters: the trainable parameters, in the same order on every process.
        numbers: how many numbers travel along, the loss included.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], numbers: int) -> None:
        self.parameters = list(parameters)
        sizes = [p.numel() for p in self.parameters]
        self.buffer = torch.zeros(
            sum(sizes) + len(sizes) + numbers, dtype=_dtype(self.parameters), device=self.parameters[0].device
        )
        self._views = [
            view.view(p.shape) for view, p in zip(self.buffer[: sum(sizes)].split(sizes), self.parameters, strict=True)
        ]

    def __call__(self, compute: Compute, numbers: Sequence[float]) -> list[float]:
        """Compute loss and gradients, and sum over all processes; gradients are replaced by their sums.

        Args:
            compute: leaves gradients in the parameters and returns the loss.
            numbers: of this process; 1 is added to the first where `compute` failed.

        Returns:
            The sums of the loss and of `numbers`. A parameter keeps no gradient only if no process has one for it.

        Raises:
            ProcessLostError: another process has gone.
        """
        loss, failed = compute()
        for parameter, view in zip(self.parameters, self._views, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        has = [0.0 if p.grad is None else 1.0 for p in self.parameters]
        tail = torch.tensor([*has, float(loss), numbers[0] + failed, *numbers[1:]], dtype=self.buffer.dtype)
        self.buffer[-len(tail) :].copy_(tail)
        all_reduce(self.buffer)
        sums = self.buffer[-len(tail) :].tolist()
        for parameter, view, present in zip(self.parameters, self._views, sums[: len(has)], strict=True):
            parameter.grad = view.to(parameter.dtype) if present > 0 else None
        return sums[len(has) :]


class Bucketed:
    """Sums gradients in buckets, each sent on its way while the backward pass fills the next.

    The numbers of the step travel as the gradient of a parameter of their own, whose gradient is there in every step of
    every process: with rows or without, with a loss that depends on parameters or none, and where computing it failed.
    So all processes make the same collectives, and no second exchange is needed for decisions.

    Args:
        parameters: the trainable parameters by name, `guide.*` and others, in the same order on every process.
        numbers: how many numbers travel along, the loss included.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], numbers: int) -> None:
        self._sum = _Sum(parameters, numbers)
        with peers():
            self._parallel = DistributedDataParallel(
                self._sum,
                find_unused_parameters=True,
                gradient_as_bucket_view=True,
                bucket_cap_mb=BUCKET_MEGABYTES,
            )
        # a lambda: torch compares annotations with its classes, and ours are text
        self._parallel.register_comm_hook(None, lambda group, bucket: _added_up(group, bucket))

    def __call__(self, compute: Compute, numbers: Sequence[float]) -> list[float]:
        """As `Flat.__call__`; `compute` returns a loss to differentiate and leaves gradients alone."""
        carrier = self._sum.numbers
        carrier.grad = None
        with peers():
            self._parallel(compute, numbers).backward()
        assert carrier.grad is not None
        return carrier.grad.tolist()


class _Sum(nn.Module):
    """The loss of a process plus a term of value zero whose gradient are the numbers of the step."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], numbers: int) -> None:
        super().__init__()
        # buckets fill from the end: the model runs after the guide, so its gradients are there first
        order = sorted(parameters, key=lambda name: not name.startswith("guide."))
        self.trained = nn.ParameterList([parameters[name] for name in order])
        kept = list(parameters.values())
        self.numbers = nn.Parameter(torch.zeros(numbers, dtype=_dtype(kept), device=kept[0].device))
        self.idle = nn.Parameter(torch.zeros_like(self.numbers[:1]))  # torch warns where every parameter is used

    def forward(self, compute: Compute, numbers: Sequence[float]) -> Tensor:
        loss, failed = compute()
        zero = self.numbers
        values = torch.tensor([0.0, numbers[0] + failed, *numbers[1:]], dtype=zero.dtype)
        values = values.to(zero.device, non_blocking=True)
        if isinstance(loss, Tensor):
            values[0] = loss.detach()
        else:
            values[0] = float(loss)
        term = (zero * values).sum()
        return loss + term if isinstance(loss, Tensor) and loss.requires_grad else term


def _added_up(group: Any, bucket: Any) -> torch.futures.Future[Tensor]:
    """Add a bucket up over processes; torch's own hook would divide it by their number."""
    work = torch.distributed.all_reduce(bucket.buffer(), group=group, async_op=True)
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future


def _dtype(parameters: Sequence[nn.Parameter]) -> torch.dtype:
    return torch.float64 if any(p.dtype == torch.float64 for p in parameters) else torch.float32
