"""The space of a search: a TOML file that says between which values options are chosen.

    learning_rate = { low = 1e-4, high = 1e-1, log = true }
    num_components = { low = 2, high = 32 }
    frame = ["diag", "tril"]
    batch_size = 256

A table is an interval (of whole numbers where both ends are; `step` for a grid, `log` for a logarithmic scale), a list
holds choices, a single value stays. Names are the options of the system, as `phlogiston systems NAME` lists them.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phlogiston import systems
from phlogiston.errors import ConfigError, PhlogistonError, unknown_name
from phlogiston.systems.options import validate_options

WORDS = ("low", "high", "step", "log")
_MOST = 1 << 20  # bytes of a space file


@dataclass(frozen=True)
class Axis:
    """One option that is searched: an interval, or choices.

    Attributes:
        name: of the option.
        low: least value of an interval.
        high: greatest value.
        step: distance of the values of a grid, or None.
        log: whether values are drawn on a logarithmic scale.
        choices: the values to choose from; () for an interval.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def labels(self) -> list[Any]:
        """The choices as one value each; lists as JSON text."""
        return [v if isinstance(v, bool | int | float | str) else json.dumps(v) for v in self.choices]

    def suggest(self, trial: Any) -> Any:
        """Let an Optuna trial choose."""
        if self.choices:
            return self.choices[self.labels.index(trial.suggest_categorical(self.name, self.labels))]
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.name, self.low, self.high, step=step, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)


def read_space(path: str | Path) -> dict[str, Any]:
    """Read a space file; `axes` makes sense of it.

    Raises:
        ConfigError: no such file, or no TOML.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"there is no space file {str(path)!r}.")
    if file.stat().st_size > _MOST:
        raise ConfigError(f"{str(path)!r} has {file.stat().st_size:,} bytes; a space file has {_MOST:,} at most.")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is no TOML file: {error}.") from error
    except RecursionError:
        raise ConfigError(f"{str(path)!r} is no space file: it is nested too deeply.") from None


def axes(
    content: Mapping[str, Any], system: str, given: Mapping[str, Any], what: str = "the space"
) -> tuple[list[Axis], dict[str, Any]]:
    """Check a space and divide it into what is searched and what stays.

    Args:
        content: option -> interval, choices or value, as `read_space` returns it.
        system: whose options they are.
        given: options that stay for all trials; the ends of every interval and every choice are tried beside them.
        what: what messages call the space.

    Returns:
        The options to search, and those that stay.

    Raises:
        UnknownNameError: no such option, with the nearest one.
        ConfigError: an interval or a choice that the option cannot have; the message names it.
    """
    known = list(systems.config(system).__dataclass_fields__)
    for name in content:
        if name not in known:
            raise unknown_name(f"option of {system} in {what}", name, known)
    searched = [_axis(name, entry, what) for name, entry in content.items() if isinstance(entry, dict | list)]
    fixed = {name: entry for name, entry in content.items() if not isinstance(entry, dict | list)}
    if not searched:
        raise ConfigError(f"{what} holds nothing to search: give an interval or choices, as in {_EXAMPLE}.")
    beside = {**given, **fixed}
    twice = [axis.name for axis in searched if axis.name in given]
    if twice:
        raise ConfigError(f"{what}: {twice[0]} is searched, and given by --set, too. Leave one of them out.")
    _try(system, beside, what)
    for axis in searched:
        for value in axis.choices or (axis.low, axis.high):
            _try(system, {**beside, axis.name: value}, f"{what}: {axis.name} = {json.dumps(value)}")
    return searched, fixed


_EXAMPLE = "learning_rate = { low = 1e-4, high = 1e-1, log = true }"


def _try(system: str, options: Mapping[str, Any], what: str) -> None:
    try:
        validate_options(system, options)
    except PhlogistonError as error:
        raise ConfigError(f"{what}: {error}") from error


def _axis(name: str, entry: Any, what: str) -> Axis:
    """An interval or choices.

    Raises:
        ConfigError: neither; the message names the option and what is wrong with it.
    """
    where = f"{what}: {name}"
    if isinstance(entry, list):
        if not entry:
            raise ConfigError(f"{where} has no choices.")
        axis = Axis(name, choices=tuple(entry))
        if len({json.dumps(label) for label in axis.labels}) < len(entry):
            raise ConfigError(f"{where} names a choice twice.")
        return axis
    for word in entry:
        if word not in WORDS:
            raise unknown_name(f"word of {where}", word, WORDS)
    for word in ("low", "high"):
        if word not in entry:
            raise ConfigError(f"{where} has no {word!r}; an interval reads {_EXAMPLE}.")
    numbers = {word: entry[word] for word in ("low", "high", "step") if word in entry}
    for word, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
            raise ConfigError(f"{where}: {word} is {value!r}; expected a number.")
    log = entry.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{where}: log is {log!r}; expected true or false.")
    low, high, step = entry["low"], entry["high"], entry.get("step")
    if not low < high:
        raise ConfigError(f"{where}: low is {low!r} and high {high!r}; low must be the less.")
    if log and low <= 0:
        raise ConfigError(f"{where}: low is {low!r}; a logarithmic scale needs it above 0.")
    if step is not None and (log or step <= 0):
        raise ConfigError(f"{where}: step is {step!r}; it must be above 0, and goes with no logarithmic scale.")
    whole = isinstance(low, int) and isinstance(high, int)
    if whole and step is not None and not isinstance(step, int):
        raise ConfigError(f"{where}: step is {step!r}; between whole numbers it must be one, too.")
    return Axis(name, low if whole else float(low), high if whole else float(high), step, log)
