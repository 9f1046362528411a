"""What the demo promises: commands that make its runs, a word where a simpler method is ahead."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from phlogiston import datasets, systems
from phlogiston.evaluate.metric import Metric
from phlogiston.systems import demo
from phlogiston.systems.commands import train_command
from phlogiston.systems.options import validate_options
from phlogiston.systems.workflow import merged_options

RECIPES = [
    pytest.param(name, recipe, id=f"{name}-{recipe['title']}-{'quick' if quick else 'full'}")
    for name in systems.names()
    for quick in (False, True)
    for recipe in systems.get(name).demo(quick)
]


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_the_command_of_a_section_says_data_and_options_of_its_run(name: str, recipe: dict[str, Any]) -> None:
    words = shlex.split(train_command(name, recipe["data"], recipe["data_options"], recipe["options"], seed=3))
    assert words[:5] == ["phlogiston", "train", name, "--data", recipe["data"]]
    assert words[-2:] == ["--seed", "3"]
    flags, texts = words[5:-2:2], (word.split("=", 1) for word in words[6:-2:2])
    given: dict[str, dict[str, str]] = {"--set": {}, "--data-set": {}}
    for flag, (key, text) in zip(flags, texts, strict=True):
        given[flag][key] = text
    chosen = merged_options(name, None, given["--set"])
    assert validate_options(name, chosen) == validate_options(name, recipe["options"])
    read = datasets.read_options(recipe["data"], given["--data-set"])
    usual = datasets.info(recipe["data"]).options
    assert {**usual, **read} == {**usual, **recipe["data_options"]}


@pytest.mark.parametrize(("value", "said"), [(9.0, True), (1.0, False), (5.05, False)])
def test_a_simpler_method_that_is_ahead_is_named(value: float, said: bool) -> None:
    own = {"log_likelihood": Metric(5.0, 0.1, 100, "exact", True)}
    plain = {"log_likelihood_of_a_mixture": Metric(value, 0.1, 100, "exact", True)}
    assert ("A simpler method is ahead here" in demo._beaten(own, plain)) == said
