"""Options: programs take them from the configuration by name, and each is described once, where it is declared."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from phlogiston import systems
from phlogiston.errors import ConfigError
from phlogiston.systems.drmm import DRMM
from phlogiston.systems.limits import at_least, positive, share
from phlogiston.systems.options import from_config

SYSTEMS = Path(__file__).resolve().parents[2] / "systems"


@dataclasses.dataclass(frozen=True)
class Config:
    hidden: int = 3
    rate: float = 0.5


class Program(nn.Module):
    def __init__(self, features: int, hidden: int = 7, depth: int = 1) -> None:
        super().__init__()
        self.built = (features, hidden, depth)


def test_parameters_take_the_option_of_their_name_and_what_is_given_wins() -> None:
    assert from_config(Program, Config(hidden=5), features=2).built == (2, 5, 1)
    assert from_config(Program, Config(hidden=5), features=2, hidden=9, depth=4).built == (2, 9, 4)
    with pytest.raises(TypeError, match="width"):
        from_config(Program, Config(), features=2, width=1)


def builds(name: str) -> Iterator[tuple[Callable[..., Any], set[str]]]:
    """The classes that a system builds from its configuration, and the parameters that it gives them itself."""
    for path in sorted((SYSTEMS / name).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = importlib.import_module(f"phlogiston.systems.{name}.{path.stem}")
        assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "from_config":
                program = ast.unparse(node.args[0])  # a class, or the name of a choice of classes made before
                sources = [node.args[0], *(a.value for a in assigned if ast.unparse(a.targets[0]) == program)]
                classes = {n.id for s in sources for n in ast.walk(s) if isinstance(n, ast.Name) and n.id[:1].isupper()}
                assert classes, ast.unparse(node)
                for found in classes:
                    yield getattr(module, found), {keyword.arg for keyword in node.keywords if keyword.arg}


@pytest.mark.parametrize("name", sorted(systems.names()))
def test_every_option_is_described_in_the_configuration_alone(name: str) -> None:
    kind = systems.config(name)
    options = {field.name for field in dataclasses.fields(kind)}
    assert set(re.findall(r"^ {8}(\w+): ", kind.__doc__ or "", re.M)) == options
    built = list(builds(name))
    assert built
    for program, given in built:
        described = set(re.findall(r"^ {8}(\w+): ", program.__doc__ or "", re.M))
        taken = set(inspect.signature(program).parameters) & options - given
        assert not described & taken, program


@pytest.mark.parametrize("name", sorted(systems.names()))
def test_every_option_is_used(name: str) -> None:
    options = {field.name for field in dataclasses.fields(systems.config(name))}
    used = {parameter for program, _ in builds(name) for parameter in inspect.signature(program).parameters}
    bases = [Path(inspect.getfile(kind)) for kind in systems.get(name).__mro__ if kind.__module__.startswith("phlog")]
    for path in [*(SYSTEMS / name).glob("*.py"), *bases]:
        if path.name != "config.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not options - used


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_limits_refuse_what_is_out_of_range_and_nan(value: float) -> None:
    config = Config(hidden=4, rate=value)
    positive(config, "hidden")
    at_least(config, 4, "hidden")
    share(Config(), "rate")
    for check in (positive, share, lambda options, *names: at_least(options, 1, *names)):
        with pytest.raises(ConfigError, match="rate must"):
            check(config, "rate")


def test_arguments_of_fit_among_the_options_are_sent_where_they_belong() -> None:
    with pytest.raises(ConfigError, match=r"'seed' is no option of drmm .*: DRMM\(\.\.\.\)\.fit\(data, seed=3\)"):
        DRMM(num_layers=1, seed=3)
    assert DRMM(steps=5).config.steps == 5  # an option and an argument of fit at once
