"""`make pretrained`: every recipe can be followed to its end, on few rows and with few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from phlogiston import datasets, systems
from phlogiston.errors import UnknownNameError
from phlogiston.systems.hub.address import CHECKSUMS
from phlogiston.systems.pretrained import make, shelf
from phlogiston.systems.pretrained.recipes import RECIPES, Recipe

SHORT = ("mdn/arcsine", "drmm/flights", "sketch/letters", "handwriting/script", "world/dodge")
"""One of every kind that takes a second; `make learn` and `make pretrained QUICK=1` go through all."""


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(r, id=r.address, marks=() if r.address in SHORT else pytest.mark.learn) for r in RECIPES],
)
def test_a_recipe_can_be_followed_to_its_end(recipe: Recipe, tmp_path: Path) -> None:
    short = make.quick(recipe)
    rows = datasets.load(short.data, **short.data_options)
    system, seconds = make.train(short, rows)
    folder = make.put(short, system, rows, seconds, tmp_path)
    assert folder == tmp_path / recipe.address
    assert (folder / CHECKSUMS).is_file()
    loaded = systems.load(folder)
    assert loaded.count_parameters() == system.count_parameters()
    assert sum(loaded.step_options().values()) == 2 * len(loaded.step_options())
    card = (folder / "README.md").read_text()
    before, _, after = card.partition(f"\n\n{recipe.text}\n\n")  # a paragraph between summary and paper
    assert before.endswith(systems.summary(recipe.system))
    assert after.startswith(f"System `{recipe.system}` of phlogiston. Paper: ")


def test_trying_recipes_leaves_the_shelf_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in shelf.WEIGHTS.rglob("*")}
    make.main(["--quick", "mdn/arcsine"])
    assert capsys.readouterr().out.startswith("mdn/arcsine: ")
    assert {path: path.stat().st_mtime_ns for path in shelf.WEIGHTS.rglob("*")} == before
    with pytest.raises(UnknownNameError, match="arcsine"):
        make.main(["--quick", "mdn/arcsin"])


def test_a_recipe_made_short_is_the_same_otherwise() -> None:
    for recipe in RECIPES:
        short = make.quick(recipe)
        kind = systems.get(recipe.system)
        whole = kind(preset=recipe.preset, **recipe.options)
        changed = {*whole.step_options(), *recipe.quick}
        other = kind(preset=short.preset, **short.options)
        for name, value in vars(whole.config).items():
            assert name in changed or getattr(other.config, name) == value
