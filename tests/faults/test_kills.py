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
