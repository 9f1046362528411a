"""From options to a configuration, and from a configuration to programs: options are described in `config.py` alone."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from phlogiston import systems
from phlogiston.errors import ConfigError, unknown_name

Program = TypeVar("Program")


def validate_options(name: str, options: Mapping[str, Any]) -> Any:
    """Turn options into a system's frozen configuration, text coerced to numbers where it fits.

    Args:
        name: the system.
        options: field -> value; fields not named keep their defaults. A single value stands for a list of one.

    Raises:
        UnknownNameError: an option the system does not have, with the nearest one it has.
        ConfigError: a value of the wrong type or out of range.
    """
    from pydantic import ValidationError

    kind: Any = systems.config(name)
    known = {field.name for field in dataclasses.fields(kind)}
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    hints = get_type_hints(kind)
    lists = {field for field, hint in hints.items() if get_origin(hint) is tuple and get_args(hint)[-1] is ...}
    whole = {k: (v,) if k in lists and isinstance(v, str | int | float) else v for k, v in options.items()}
    try:
        return _validator(kind).validate_python(whole)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "configuration"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{name}: {where}: {message} (got {first['input']!r})" if first["loc"] else message) from None


@cache
def _validator(kind: type) -> Any:
    """What checks a configuration: making it takes longer than using it a hundred times."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def shared_steps(options: Mapping[str, int], total: int) -> dict[str, int]:
    """Share a number of steps out among stages in the proportion of their own numbers, each at least one.

    Args:
        options: option -> steps, as the configuration has them.
        total: of all stages together.

    Raises:
        ConfigError: fewer steps than stages.

    Example:
        >>> shared_steps({"frame_steps": 1500, "steps": 1200}, 100)
        {'frame_steps': 55, 'steps': 45}
    """
    if total < len(options):
        names = ", ".join(options)
        raise ConfigError(f"--steps {total}: there are {len(options)} stages ({names}), of one step each at least.")
    spare, whole = total - len(options), sum(options.values())
    exact = {name: spare * count / whole for name, count in options.items()}
    found = {name: 1 + int(share) for name, share in exact.items()}
    by_rest = sorted(exact, key=lambda name: int(exact[name]) - exact[name])
    for name in by_rest[: total - sum(found.values())]:
        found[name] += 1
    return found


def preset_options(name: str, preset: str | None) -> dict[str, Any]:
    """The options of a preset; none without a preset.

    Raises:
        UnknownNameError: no such preset.
    """
    if preset is None:
        return {}
    known = systems.presets(name)
    if preset not in known:
        raise unknown_name(f"preset of {name}", preset, known)
    return dict(known[preset])


def from_config(program: Callable[..., Program], config: Any, **given: Any) -> Program:
    """Build a model, a guide or a part of one by keyword: what is named like an option takes that option's value.

    A new option therefore is a field of the configuration and a parameter of the class that uses it, and nothing in
    between.

    Args:
        program: the class.
        config: a system's configuration.
        **given: what comes from the data or from other programs, and parameters whose option has another name.
    """
    options = {field.name for field in dataclasses.fields(config)}
    named = {name: getattr(config, name) for name in inspect.signature(program).parameters if name in options}
    return program(**{**named, **given})
