"""Systems from folders nobody vouches for: configurations larger than their parameters, other formats, other runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.errors import CheckpointError, PhlogistonError, RunError, RunMismatchError, RunWarning, TrainingWarning
from phlogiston.systems import loading, run_table
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.sequence.system import SequenceModel

OPTIONS: dict[str, Any] = {"num_layers": 2, "num_components": 4, "steps": 12}


def table(rows: int = 60, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed)) @ torch.tensor([[1.0, 0.4], [0, 0.6]])


class Stop:
    def on_step(self, state: Any) -> None:
        if state.step == 7:
            raise KeyboardInterrupt


def unfinished(out: Path, data: Any = None) -> None:
    with pytest.raises(KeyboardInterrupt):
        DRMM(OPTIONS).fit(
            table() if data is None else data, out=out, callbacks=[Stop()], checkpoint_every=5, log_every=3
        )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return DRMM(OPTIONS).fit(table()).save(tmp_path_factory.mktemp("saved") / "drmm")


def with_config(saved: Path, folder: Path, part: str, **changes: Any) -> Path:
    shutil.copytree(saved, folder)
    content = json.loads((folder / "config.json").read_text())
    (content if part == "" else content[part]).update(changes)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("options", {"num_components": 10**9}),
        ("options", {"num_layers": 10**9}),
        ("options", {"num_layers": 10**6, "num_components": 10**6}),
        ("options", {"num_components": -1}),
        ("options", {"frame": 7}),
        ("options", {"unknown": 1}),
        ("schema", {"location": None}),
        ("schema", {"location": [0.0] * 100_000, "scale": [1.0] * 100_000}),
        ("", {"options": 5}),
        ("", {"schema": [1]}),
    ],
)
def test_a_configuration_that_is_not_that_of_the_parameters_is_refused_before_it_is_built(
    saved: Path, tmp_path: Path, part: str, changes: dict[str, Any]
) -> None:
    folder = with_config(saved, tmp_path / "altered", part, **changes)
    with pytest.raises(RunError, match=r"config.json|does not fit"):
        systems.load(folder)


def test_layers_without_end_are_refused(tmp_path: Path) -> None:
    x = torch.randn(20, 9, 2)
    folder = SequenceModel(steps=2, hidden=4, num_components=2).fit({"x": x}).save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"too many tensors|too many bytes"):
        systems.load(with_config(folder, tmp_path / "altered", "options", layers=10**7))


def test_a_budget_counts_what_is_made_and_stops_before_what_is_too_large() -> None:
    with loading._Budget(1000, 50) as budget:
        a = torch.zeros(10)
        (a + a)[2:].view(2, 4).transpose(0, 1)
    assert budget.most == 1000 - 80
    limit = 1 << 21
    for make in (
        lambda: torch.zeros(10**12),
        lambda: torch.eye(10**9),
        lambda: torch.randn((10**6, 10**6)),
        lambda: torch.arange(10**12),
        lambda: torch.zeros(5).repeat(10**11),
        lambda: torch.zeros(5).new_zeros((10**12,)),
        lambda: torch.zeros(10**4, 1) * torch.zeros(1, 10**4),
        lambda: torch.nn.Linear(10**6, 10**6),
        lambda: torch.nn.LSTM(3, 10**7),
    ):
        with pytest.raises(loading.ExceededError), loading._Budget(limit, 50):
            make()


def test_another_format_is_refused_and_one_that_is_not_told_is_the_first(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="format 99; this version of phlogiston reads 1"):
        systems.load(with_config(saved, tmp_path / "newer", "", format=99))
    older = with_config(saved, tmp_path / "older", "")
    content = json.loads((older / "config.json").read_text())
    del content["format"]
    (older / "config.json").write_text(json.dumps(content))
    systems.load(older)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a": NaN}', "\x00", "nonsense", "5"])
def test_a_configuration_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match="is damaged"):
        systems.load(tmp_path)


def test_whoever_reads_an_unfinished_run_is_told_its_step(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    with pytest.warns(RunWarning, match=r"run is unfinished: step 5 of 12 \(metrics.jsonl reaches step 6"):
        systems.load(tmp_path / "run")
    (told,) = run_table.runs(tmp_path)
    assert (told["steps"], told["recorded"], told["finished"]) == (5, 6, False)
    DRMM(OPTIONS).fit(table(), out=tmp_path / "run", checkpoint_every=5, log_every=3)
    systems.load(tmp_path / "run")
    (told,) = run_table.runs(tmp_path)
    assert (told["steps"], told["finished"]) == (12, True)


def test_one_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    DRMM(OPTIONS).fit(table(), out=tmp_path / "a")
    for name in "bcd":
        shutil.copytree(tmp_path / "a", tmp_path / name)
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"step": "x", "loss": 1}\n')
    (tmp_path / "c" / "config.json").write_text("[1]")
    (tmp_path / "d" / "metrics.json").write_text('{"metrics": {"m": {"value": 1' + "0" * 400 + "}}}")
    with pytest.warns(RunWarning) as caught:
        found = run_table.runs(tmp_path)
    assert [Path(r["run"]).name for r in found] == ["a", "b", "d"]
    assert [r["steps"] for r in found] == [12, 12, 12]
    told = " ".join(str(w.message) for w in caught)
    assert "damaged line" in told
    assert "c/config.json is damaged" in told


def test_a_run_on_other_rows_goes_on_by_force_under_its_own_scales(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    more = torch.cat([table(), table(20, seed=3) + 5.0])
    with pytest.raises(RunMismatchError):
        DRMM(OPTIONS).fit(more, out=tmp_path / "run", checkpoint_every=5)
    before = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["schema"]
    with pytest.warns(TrainingWarning, match=r"by force.*the data \(60 rows.*80 rows"):
        system = DRMM(OPTIONS).fit(more, out=tmp_path / "run", checkpoint_every=5, resume="force")
    assert system.history is not None
    assert system.history.finished
    assert json.loads(json.dumps(system.schema)) == before
    again = systems.load(tmp_path / "run")
    assert torch.equal(again.log_prob(table()).value, system.log_prob(table()).value)


def test_a_system_of_another_size_is_not_built_on_a_resume(tmp_path: Path) -> None:
    unfinished(tmp_path / "run")
    with pytest.raises(PhlogistonError, match="far larger system"):
        DRMM({**OPTIONS, "num_components": 10**9}).fit(table(), out=tmp_path / "run")


def test_the_data_of_a_system_are_known_by_their_content_not_by_their_moments(tmp_path: Path) -> None:
    data = datasets.load("swissroll", sizes=(60, 10, 10))
    with pytest.raises(KeyboardInterrupt):
        DRMM(OPTIONS).fit(data, out=tmp_path / "run", callbacks=[Stop()], checkpoint_every=5)
    for part in ("train", "valid"):
        other = datasets.load("swissroll", sizes=(60, 10, 10))
        rows = getattr(other, part)
        rows.tensors["x"] = rows.tensors["x"].flip(0)
        with pytest.raises(RunMismatchError, match="the data" if part == "train" else "the validation rows"):
            DRMM(OPTIONS).fit(other, out=tmp_path / "run", checkpoint_every=5)
    DRMM(OPTIONS).fit(data, out=tmp_path / "run", checkpoint_every=5)
