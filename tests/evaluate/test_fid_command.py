"""The verb `fid`: what it takes, what it prints, what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from phlogiston.cli import fid
from phlogiston.errors import ConfigError, DataError, PhlogistonError, RunError

from .test_fid import pictures, save_folder

pytestmark = pytest.mark.filterwarnings("ignore::phlogiston.errors.SampleSizeWarning")


def run(*arguments: object) -> str:
    """Run the verb in an app of its own; raise what it raised."""
    app = typer.Typer(pretty_exceptions_enable=False)
    fid.register(app)
    app.command("other")(lambda: None)  # with a single command typer drops its name
    outcome = CliRunner().invoke(app, ["fid", *map(str, arguments)])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return save_folder(tmp_path / "real", pictures(60)), save_folder(tmp_path / "fake", pictures(50, 1))


def test_one_json_object_with_the_agreed_fields(folders: tuple[Path, Path]) -> None:
    content = json.loads(run(*folders, "--features", "pixels", "--json"))
    assert content["value"] == content["metrics"]["fid"]["value"]
    assert content["std_error"] > 0
    assert (content["n_real"], content["n_generated"], content["features"]) == (60, 50, "pixels")
    assert set(content["metrics"]) == {"fid", "kid"}


def test_the_text_names_the_figures_and_their_provenance(folders: tuple[Path, Path]) -> None:
    text = run(*folders, "--features", "pixels", "--metrics", "all")
    for told in ("fid ", "kid ", "fid_infinity", "precision", "coverage", "±", "n real", "60", "(lower is better)"):
        assert told in text
    assert "inception_score" not in text, "meaningless without the Inception network"


def test_numbers_and_sizes_reach_the_comparison(folders: tuple[Path, Path]) -> None:
    content = json.loads(run(*folders, "--features", "pixels", "-n", 40, "--size", "4x3", "--json"))
    assert (content["n_real"], content["n_generated"]) == (40, 40)
    assert content["metrics"]["fid"]["detail"]["size"] == [4, 3]


def test_saved_statistics_stand_in_for_the_real_set(folders: tuple[Path, Path], tmp_path: Path) -> None:
    first = json.loads(run(*folders, "--features", "pixels", "--save", tmp_path / "s.npz", "--json"))
    again = json.loads(run(tmp_path / "s.npz", folders[1], "--features", "pixels", "--json"))
    assert again["value"] == pytest.approx(first["value"], rel=1e-6)
    with pytest.raises((ConfigError, RunError)):
        run(*folders, "--features", "pixels", "--save", tmp_path / "s.npz")
    with pytest.raises(ConfigError, match=r"written as \.npz"):
        run(*folders, "--features", "pixels", "--save", tmp_path / "s.json")


def test_a_data_set_by_name_stands_for_its_training_images(tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 256, (100, 8, 8)).astype(np.uint8))
    content = json.loads(run("digits", tmp_path / "noise.npy", "--features", "pixels", "--json"))
    assert content["n_real"] > 1000
    judged = json.loads(run("digits", tmp_path / "noise.npy", "--features", "judge", "--json", "-n", 100))
    assert judged["features"] == "judge of digits"
    with pytest.raises(ConfigError, match="say whose judge"):
        run(tmp_path / "noise.npy", tmp_path / "noise.npy", "--features", "judge")
    with pytest.raises(ConfigError, match="holds no images"):
        run("swissroll", tmp_path / "noise.npy", "--features", "pixels")


def test_misuse_is_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "nowhere", folders[1], "--features", "pixels")
    with pytest.raises(ConfigError, match="as in 64x64"):
        run(*folders, "--features", "pixels", "--size", "64")
    with pytest.raises(PhlogistonError, match="Did you mean 'kid'"):
        run(*folders, "--features", "pixels", "--metrics", "kidd")


def test_without_inception_weights_the_message_says_what_to_do(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phlogiston.evaluate.inception.LOCATIONS", ("file:///nowhere",))
    with pytest.raises(DataError, match=r"pt_inception-2015-12-05-6726825d\.pth.*--features judge:NAME"):
        run(*folders)
