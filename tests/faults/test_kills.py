"""Kills at random moments, some of them inside the writing of a checkpoint: the run ends as if there had been none."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phlogiston.inference.svi import checkpoints
from phlogiston.inference.svi.run_folder.metrics import read_metrics

POINTS = ("open", "write", "fsync", "replace", "after")
SYSTEMS = ("drmm", "mdn", "sequence", "vdsm", "sqair")


def ending(run: Path) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """Return all tensors of the last checkpoint, and the records without times."""
    tensors, state = checkpoints.read(checkpoints.find(run))
    assert state["finished"]
    records = read_metrics(run / "metrics.jsonl")
    return tensors, [{k: v for k, v in record.items() if k not in ("seconds", "rate")} for record in records]


def kills(server: Any, name: str, count: int, inside: int) -> tuple[int, int]:
    """Kill runs until `count` kills hit, `inside` of them while a checkpoint was written; four at most per run.

    Returns:
        Kills, and runs that ended as the one that was not killed.
    """
    for old in server.folder.glob(f"{name}-*"):
        shutil.rmtree(old)
    whole = server.folder / f"{name}-whole"
    reference = server(train=name, out=str(whole))
    assert reference.code == 0, reference.err
    seconds = reference.seconds  # of a run; a busy machine changes it meanwhile
    dice = random.Random(name)
    written = len(json.loads((whole / "config.json").read_text())["stages"])  # at least one checkpoint per stage
    todo = [{"nth": dice.randint(1, 1 + written), "point": POINTS[i % 5]} for i in range(inside)]
    hit = runs = 0
    while hit < count:
        run = server.folder / f"{name}-{runs}"
        for _ in range(4):
            if hit == count:
                break
            if todo:
                done = server(train=name, out=str(run), checkpoint={**todo[0], "then": "kill"})
            else:
                done = server(train=name, out=str(run), kill=dice.uniform(0.05, 0.95) * seconds)
            assert done.code in (0, -9), done.err
            if done.code == 0:  # it had ended before: no kill
                seconds = min(seconds, done.seconds)
                break
            hit += 1
            todo = todo[1:]
        done = server(train=name, out=str(run))
        assert done.code == 0, done.err
        tensors, records = ending(run)
        expected, expected_records = ending(whole)
        assert tensors.keys() == expected.keys()
        assert [n for n in tensors if not torch.equal(tensors[n], expected[n])] == []
        assert records == expected_records
        assert not list((run / "checkpoints").glob(".*"))
        runs += 1
        shutil.rmtree(run)
    return hit, runs


def test_kills_inside_the_writing_of_a_checkpoint_and_at_a_random_moment(server: Any) -> None:
    kills(server, "drmm", 3, inside=2)


def test_a_killed_search_goes_on_with_the_trial_it_was_at(
    server: Any, observed: Callable[[str, str, str, str], None]
) -> None:
    pytest.importorskip("optuna", reason="a search needs the extra phlogiston[sweep]")
    (server.folder / "space.toml").write_text("learning_rate = { low = 1e-3, high = 1e-1, log = true }\n")
    words = ["sweep", "drmm", "--data", "swissroll", "--data-set", "n=300", "--set", "num_components=4"]
    words += ["--steps", "300", "--trials", "2", "--space", "space.toml", "--out"]
    assert server(argv=[*words, "whole-search"]).code == 0
    assert server(argv=[*words, "search"], step={"at": 250, "do": "kill"}).code == -9
    done = server(argv=["sweep", "drmm", "--resume", "--trials", "2", "--out", "search"])
    assert done.code == 0, done.err
    folders = [server.folder / "whole-search", server.folder / "search"]
    first, again = (json.loads((folder / "result.json").read_text()) for folder in folders)
    assert (again["complete"], again["failed"]) == (2, 0)
    assert again["trials"][0] == first["trials"][0]
    (whole, records), (resumed, again_records) = (ending(folder / "trials" / "0000") for folder in folders)
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []
    assert records == again_records
    observed(
        "kill/sweep",
        "`sweep` is killed (SIGKILL) at step 250 of a trial",
        "`--resume` goes on with that trial from its newest checkpoint",
        "resumed, exit 0; the trial's parameters, optimiser and records equal bit for bit",
    )


@pytest.mark.faults
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SYSTEMS)
def test_forty_kills_of_each_of_five_systems(
    server: Any, observed: Callable[[str, str, str, str], None], name: str
) -> None:
    hit, runs = kills(server, name, int(os.environ.get("PHLOGISTON_KILLS", "40")), inside=5)
    observed(
        f"kill/{name}",
        f"{name}: {hit} kills (SIGKILL), 5 inside the writing of a checkpoint, the others at random moments",
        "resumed, every run ends with the parameters, optimiser and records of one that was not killed",
        f"{hit} kills over {runs} runs, all {runs} equal bit for bit",
    )
