"""The trained systems in the package: checked when loaded, as good as their cards say, and never written to."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

import phlogiston
from phlogiston import datasets
from phlogiston.errors import CheckpointError, ConfigError, RunError
from phlogiston.evaluate.report import read_metrics
from phlogiston.systems import workflow
from phlogiston.systems.hub.address import CHECKSUMS, describe
from phlogiston.systems.pretrained import shelf
from phlogiston.systems.pretrained.recipes import RECIPES, Recipe, told

FEW: dict[str, dict[str, object]] = {  # rows enough for the figure, and few for the rest
    "sqair/moving-digits": {"sizes": (8, 1, 48)},
    "world/dodge": {"sizes": (4, 1, 20)},
    "scene/courts": {"sizes": (4, 1, 16)},
    "handwriting/script": {"sizes": (4, 1, 40)},
    "sequence/touch": {"sizes": (4, 1, 60)},
    "sketch/letters": {"sizes": (4, 1, 60)},
    "drmm/swissroll": {"sizes": (4, 0, 1_000)},
}
LARGEST = 12 << 20

each = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.address)


def snapshot() -> dict[str, tuple[int, int]]:
    found = (path for path in shelf.WEIGHTS.rglob("*"))
    return {str(path): ((stat := path.stat()).st_size, stat.st_mtime_ns) for path in found}


def test_every_recipe_lies_on_the_shelf_and_nothing_else() -> None:
    assert set(shelf.names()) == {recipe.address for recipe in RECIPES} == set(told())


def test_together_they_take_no_more_than_12_mib() -> None:
    assert sum(path.stat().st_size for path in shelf.WEIGHTS.rglob("*") if path.is_file()) <= LARGEST


@each
def test_its_files_are_those_of_its_checksums_and_its_card_tells_all(recipe: Recipe) -> None:
    folder = shelf.WEIGHTS / recipe.address
    assert json.loads((folder / CHECKSUMS).read_text())["files"] == describe(folder)
    assert not [path for path in folder.iterdir() if path.suffix not in (".json", ".safetensors", ".md")]
    card = (folder / "README.md").read_text()
    for heading in ("## Data", "## Recipe", "## Figures", "## Limits", "## Licence"):
        assert heading in card
    for said in (f'ph.load("{recipe.address}")', recipe.text, recipe.limits, "CPU seconds", "Apache-2.0", "Seed: 0"):
        assert said in card


@each
def test_it_scores_on_fresh_rows_what_its_card_says(recipe: Recipe) -> None:
    """Rows of another seed, which no training saw; within four joint standard errors."""
    stated = read_metrics(shelf.WEIGHTS / recipe.address)[recipe.figure]
    options = {**recipe.data_options, **FEW.get(recipe.address, {}), "seed": 0 if recipe.data == "digits" else 4321}
    system = phlogiston.load(recipe.address)
    fresh = system.evaluate(datasets.load(recipe.data, **options), recipe.figures[:1])[recipe.figure]
    error = math.hypot(stated.std_error or 0.05 * abs(stated.value), fresh.std_error or 0.0)
    assert abs(fresh.value - stated.value) <= 4.0 * error + 1e-6, (fresh, stated)


@each
def test_it_samples_alike_from_alike_seeds(recipe: Recipe) -> None:
    system = phlogiston.load(recipe.address)
    first, second = system.sample(2, seed=7), system.sample(2, seed=7)
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert not value.is_floating_point() or bool(torch.isfinite(value).all())


@pytest.mark.parametrize(
    ("typed", "near"), [("drmm/pose", "drmm/poses"), ("dmrm/poses", "drmm/poses"), ("mdn/arcsin", "mdn/arcsine")]
)
def test_a_misspelt_name_is_told_the_nearest(typed: str, near: str) -> None:
    with pytest.raises(RunError, match=f"Did you mean '{near}'"):
        phlogiston.load(typed)


def test_another_path_is_still_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="not a run folder"):
        phlogiston.load("runs/mine")
    Path("drmm/poses").mkdir(parents=True)  # a folder of the user's comes first
    assert shelf.find("drmm/poses") is None
    with pytest.raises(RunError, match="not a run folder"):
        phlogiston.load("drmm/poses")


def test_an_altered_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(shelf.WEIGHTS / "mdn", tmp_path / "mdn")
    monkeypatch.setattr(shelf, "WEIGHTS", tmp_path)
    assert phlogiston.load("mdn/arcsine").name == "mdn"
    config = tmp_path / "mdn" / "arcsine" / "config.json"
    config.write_text(config.read_text().replace('"tanh"', '"relu"'))
    with pytest.raises(CheckpointError, match=r"config.json is altered"):
        phlogiston.load("mdn/arcsine")


@pytest.mark.parametrize("by_path", [False, True], ids=["name", "path"])
def test_no_verb_writes_into_the_package(by_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = snapshot()
    run = str(shelf.WEIGHTS / "mdn/arcsine") if by_path else "mdn/arcsine"
    with pytest.raises(ConfigError, match="--out"):
        workflow.evaluate(run)
    assert workflow.evaluate(run, metrics=["log_likelihood"], out=tmp_path / "scores")["metrics"]
    workflow.sample(run, 3)
    with pytest.raises(RunError):
        workflow.train("mdn", data="arcsine", out=shelf.WEIGHTS / "mdn/arcsine", steps=1, resume=True)
    with pytest.raises(RunError, match="nothing was written"):
        phlogiston.load(run).save(shelf.WEIGHTS / "mdn/arcsine")
    if not by_path:
        with pytest.raises(ConfigError, match="--out"):
            workflow.practise("mdn/arcsine")
    assert snapshot() == before


@pytest.mark.parametrize("inside", ["", "mdn/arcsine", "mdn/new", "mdn/arcsine/deeper", "mdn/../new"])
def test_no_run_and_no_system_is_written_among_them(inside: str) -> None:
    before = snapshot()
    place = shelf.WEIGHTS / inside
    system = phlogiston.load("mdn/arcsine")
    for write in (lambda: type(system)(steps=1).fit(torch.rand(20, 2), out=place), lambda: system.save(place)):
        with pytest.raises(RunError, match="in the package, among the trained systems"):
            write()
    assert snapshot() == before
