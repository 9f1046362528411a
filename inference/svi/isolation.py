"""Isolation: `fit` restores random states, Pyro's settings, warning filters, train modes and signal handlers."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyro
import torch
from torch import nn

from phlogiston.errors import TrainingError

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
