"""Isolation: `fit` restores random states, Pyro's settings, warning filters, modes, signal handlers and threads."""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyro
import torch
from torch import nn

from phlogiston.errors import ConfigError, TrainingError

_training = threading.RLock()


@contextlib.contextmanager
def sole_training() -> Iterator[None]:
    """Keep out a second training in another thread of this process, before it starts.

    The random states and Pyro's settings belong to the process: two trainings at once would draw each other's noise,
    and neither would be the run of its seed.

    Raises:
        TrainingError: another thread is training.
    """
    if not _training.acquire(blocking=False):
        raise TrainingError(
            "another thread of this process is training. Random state and Pyro's settings belong to the process, so "
            "two trainings at once would draw each other's noise; nothing was started. Wait for the other one, or "
            "train in a process of its own."
        )
    try:
        yield
    finally:
        _training.release()


@contextlib.contextmanager
def isolated(device: torch.device | None) -> Iterator[None]:
    """Restore random states (Python, NumPy, torch, the device's), Pyro's settings and warning filters afterwards.

    Inside, Pyro's validation is off and its global store empty; what the store held is restored.

    Args:
        device: the device training runs on, None for where the modules are.
    """
    cuda = device if device is not None and device.type == "cuda" else None
    python, torch_state = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()  # noqa: NPY002 (the state others use is the one to keep)
    on_device = torch.cuda.get_rng_state(cuda) if cuda is not None else None
    try:
        with (
            warnings.catch_warnings(),
            torch.enable_grad(),  # whatever the caller has switched off
            pyro.validation_enabled(False),
            pyro.get_param_store().scope(),
        ):
            # the engine checks every loss itself
            warnings.filterwarnings("ignore", message="Encountered NaN", category=UserWarning)
            # pyro.module says so of parameters that a stage has frozen
            warnings.filterwarnings("ignore", message=".* was not registered in the param store", category=UserWarning)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if cuda is not None and on_device is not None:
            torch.cuda.set_rng_state(on_device, cuda)


@contextlib.contextmanager
def on_threads(threads: int | None) -> Iterator[None]:
    """Let torch compute on this many threads, and on as many as before afterwards; None leaves the number alone.

    Raises:
        ConfigError: what is no number of threads.
    """
    if threads is None:
        yield
        return
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ConfigError(f"threads={threads!r}: a whole number from 1 on is expected, or None for torch's own")
    before = torch.get_num_threads()
    if threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads != before:
            torch.set_num_threads(before)


class OnThreads:
    """Runs every public method of a subclass on `threads` threads.

    Attributes:
        threads: how many threads torch computes on in the methods; never more than torch has outside, unless set on
            the object itself. None leaves torch's own number. Where steps are small, more threads than one wait for
            each other longer than they compute, and on a busy machine many times longer.
    """

    threads: int | None = 1

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, method in list(vars(cls).items()):
            if inspect.isfunction(method) and not name.startswith("_"):
                setattr(cls, name, _threaded(method))


def _threaded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: OnThreads, *arguments: Any, **options: Any) -> Any:
        threads = self.threads
        if threads is not None and "threads" not in vars(self):
            threads = min(threads, torch.get_num_threads())
        with on_threads(threads):
            return method(self, *arguments, **options)

    return run


@contextlib.contextmanager
def preserved_modes(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Restore the train or eval mode of every submodule afterwards."""
    modes = [(module, module.training) for top in modules for module in top.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class Signals:
    """Turns SIGTERM and Ctrl-C into a flag that is read between steps. Does nothing outside the main thread.

    Attributes:
        number: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def _note(self, number: int, frame: Any) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait
        self.number = number

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Catch signals, and restore the previous handlers afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
