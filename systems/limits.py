"""Limits that options keep, checked when a configuration is made; imports no torch, as listing systems must not."""

from __future__ import annotations

from typing import Any

from phlogiston.errors import ConfigError


def at_least(config: Any, least: float, *names: str) -> None:
    """Refuse options below a number; NaN is below any.

    Raises:
        ConfigError: naming the first one.
    """
    for name in names:
        if not getattr(config, name) >= least:
            bound = "not be negative" if least == 0 else f"be at least {least}"
            raise ConfigError(f"{name} must {bound}; got {getattr(config, name)}")


def positive(config: Any, *names: str) -> None:
    """Refuse options that are not above zero; NaN is not.

    Raises:
        ConfigError: naming the first one.
    """
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} must be positive; got {getattr(config, name)}")


def share(config: Any, *names: str) -> None:
    """Refuse options that do not lie between 0 and 1, both excluded.

    Raises:
        ConfigError: naming the first one.
    """
    for name in names:
        if not 0 < getattr(config, name) < 1:
            raise ConfigError(f"{name} must lie between 0 and 1; got {getattr(config, name)}")
