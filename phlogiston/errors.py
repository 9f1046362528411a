"""Every error and warning phlogiston raises on purpose, so that callers can catch or filter them by name.

Each error derives from `PhlogistonError` and from the builtin a caller expects.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PhlogistonError(Exception):
    """Base of all errors raised by phlogiston on purpose."""


class ShapeError(PhlogistonError, ValueError):
    """An array has the wrong number of axes or the wrong size along one of them."""


class DataError(PhlogistonError, ValueError):
    """The data cannot be used as they are: NaN or infinite entries, an empty table, an unreadable file."""


class ConfigError(PhlogistonError, ValueError):
    """An option is unknown, has the wrong type, or contradicts another."""


class UnknownNameError(ConfigError):
    """A name that is not registered: a dataset, a system, a preset, an objective, a metric."""


class RunError(PhlogistonError, RuntimeError):
    """A run folder is missing, belongs to something else, is in use, or would be overwritten."""


class CheckpointError(RunError):
    """A checkpoint is truncated, altered, or does not fit the model."""


class RunMismatchError(RunError):
    """A run folder holds a run of other settings, on other data, or computed otherwise."""


class TrainingError(PhlogistonError, RuntimeError):
    """Training cannot go on: parameters without gradients, or losses that stay non-finite."""


class ProcessLostError(TrainingError):
    """Another process of a run has gone: the others cannot go on without it."""


class EvidenceError(PhlogistonError, ValueError):
    """Evidence that is malformed, or that has no probability under the model."""


class PhlogistonWarning(UserWarning):
    """Base of all warnings raised by phlogiston."""


class DataWarning(PhlogistonWarning):
    """The data are usable, with something the user should know."""


class TrainingWarning(PhlogistonWarning):
    """Training goes on, with something the user should know: skipped steps, roll-backs, a full disk."""


class RunWarning(PhlogistonWarning):
    """A run is not finished, or a file in its folder is damaged and passed over."""


class PluginWarning(PhlogistonWarning):
    """An installed plug-in cannot be used and is left out."""


class SampleSizeWarning(PhlogistonWarning):
    """A figure rests on fewer samples than it needs to be trusted."""


class QueryWarning(PhlogistonWarning):
    """A query was answered, but by fewer effective samples than a tenth of those asked for."""


def unknown_name(kind: str, name: object, choices: Iterable[str]) -> UnknownNameError:
    """Build the error for an unregistered name, with the nearest valid one.

    Args:
        kind: what is being named, as a user would say it: `"dataset"`, `"option of DRMM"`.
        name: what was given.
        choices: every valid name.

    Returns:
        The error to raise.
    """
    known = sorted(choices)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownNameError(f"unknown {kind} {name!r}.{hint} Choose from: {', '.join(known) or '(none)'}.")
