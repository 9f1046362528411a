import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inference_pairs import LinearGaussian, flat, pair, rows
from torch import nn

from phlogiston.errors import CheckpointError, RunError, TrainingWarning
from phlogiston.inference.svi import checkpoints
from phlogiston.inference.svi.checkpoints import load_parameters
from phlogiston.inference.svi.engine import Stage, fit


def trained(out: Path, steps: int = 30, **options: Any) -> tuple[Any, Any]:
    model, guide = pair()
    fit(model, guide, rows(), stages=Stage("a", steps, batch_size=16), out=out, checkpoint_every=10, **options)
    return model, guide


def files(out: Path) -> list[str]:
    return sorted(p.name for p in (out / "checkpoints").iterdir())


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_parameters_come_back_bit_for_bit_for_the_pair_and_for_the_model_alone(tmp_path: Path) -> None:
    model, guide = trained(tmp_path / "run")
    again = pair(seed=7)
    state = load_parameters(tmp_path / "run", *again)
    assert torch.equal(flat(*again), flat(model, guide))
    assert (state["step"], state["stage"], state["finished"]) == (30, "a", True)
    alone, _ = pair(seed=8)
    load_parameters(tmp_path / "run" / "checkpoints" / "step-00000030.safetensors", alone)
    assert torch.equal(flat(alone), flat(model))


def test_parameters_shared_by_model_and_guide_are_stored_once(tmp_path: Path) -> None:
    model, guide = pair()
    guide.model = model
    fit(model, guide, rows(), stages=Stage("a", 2), out=tmp_path / "run")
    tensors, _ = checkpoints.read(checkpoints.find(tmp_path / "run"))
    assert not [name for name in tensors if name.startswith("guide.model")]
    assert "model.linear.weight" in tensors
    assert "optimizer.model.linear.weight.exp_avg" in tensors


@pytest.mark.parametrize("cut", [0, 5, 200, -1])
def test_a_truncated_newest_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, cut: int) -> None:
    trained(tmp_path / "run")
    newest = checkpoints.find(tmp_path / "run")
    newest.write_bytes(newest.read_bytes()[:cut])
    model, guide = pair(seed=7)
    with pytest.warns(TrainingWarning, match=r"(?s)truncated.*newest good checkpoint is .*step-00000020"):
        assert load_parameters(tmp_path / "run", model, guide)["step"] == 20
    with pytest.raises(CheckpointError, match=r"truncated.*newest good checkpoint is .*step-00000020"):
        load_parameters(newest, model, guide)


def test_one_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    newest = checkpoints.find(tmp_path / "run")
    whole = newest.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    model, guide = pair()
    for place in (8 + header // 2, 8 + header + 3, len(whole) - 2):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        newest.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError, match=r"altered|truncated|no checkpoint"):
            load_parameters(newest, model, guide)
    newest.write_bytes(whole)
    load_parameters(newest, model, guide)


def test_a_resumed_run_goes_on_from_the_good_one_and_ends_alike(tmp_path: Path) -> None:
    model, guide = trained(tmp_path / "whole")
    trained(tmp_path / "run")
    newest = checkpoints.find(tmp_path / "run")
    newest.write_bytes(newest.read_bytes()[:-7])
    with pytest.warns(TrainingWarning, match="truncated"):
        again = trained(tmp_path / "run")
    assert torch.equal(flat(*again), flat(model, guide))


def test_no_good_checkpoint_left_is_an_error_and_touches_nothing(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="No good checkpoint is left"):
        trained(tmp_path / "run")
    assert all(p.read_bytes() == b"nonsense" for p in (tmp_path / "run" / "checkpoints").iterdir())


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    keeper = checkpoints.Keeper(tmp_path)
    scores = {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 2.0}
    for step, score in scores.items():
        keeper.save({"a": torch.ones(1)}, {"step": step, "stage_index": 0, "score": score})
    assert [checkpoints.read_state(p)["step"] for p in checkpoints.list_files(tmp_path)] == [2, 4, 5]
    assert checkpoints.find(tmp_path, "best").name == "step-00000002.safetensors"
    keeper = checkpoints.Keeper(tmp_path)  # a restarted process knows the best as well
    keeper.save({"a": torch.ones(1)}, {"step": 6, "stage_index": 0, "score": 9.0})
    assert [checkpoints.read_state(p)["step"] for p in checkpoints.list_files(tmp_path)] == [2, 5, 6]
    keeper.save({"a": torch.ones(1)}, {"step": 7, "stage_index": 1, "score": 99.0})
    keeper.save({"a": torch.ones(1)}, {"step": 8, "stage_index": 1, "score": 100.0})
    # losses of different stages do not compare: the best is one of the last stage
    assert [checkpoints.read_state(p)["step"] for p in checkpoints.list_files(tmp_path)] == [7, 8]


def test_validation_chooses_the_best(tmp_path: Path) -> None:
    model, guide = pair()
    stage = Stage("a", 200, learning_rate=0.02)
    fit(
        model,
        guide,
        rows(count=8),
        stages=stage,
        out=tmp_path / "run",
        valid=rows(count=200, seed=5),
        checkpoint_every=5,
    )
    best = checkpoints.read_state(checkpoints.find(tmp_path / "run", "best"))
    last = checkpoints.read_state(checkpoints.find(tmp_path / "run"))
    assert best["step"] < last["step"] == 200  # eight rows are overfitted by then
    assert best["valid_loss"] < last["valid_loss"]


def test_a_full_disk_is_a_warning_and_costs_no_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole")

    failing: list[bool] = []
    failed: list[int] = []

    def full(descriptor: int) -> None:
        if failing:
            failed.append(descriptor)
            raise OSError(28, "No space left on device")

    def settled() -> bool:
        return files(tmp_path / "run") == ["step-00000000.safetensors", "step-00000010.safetensors"]

    class Fill:  # checkpoints are written beside the loop, at their own pace
        def on_step(self, state: Any) -> None:
            if state.step == 15:
                wait_for(settled)
                failing.append(True)
            if state.step == 25:
                wait_for(lambda: bool(failed) and settled())
                failing.clear()

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.warns(TrainingWarning, match=r"(?s)step 20 could not be written.*No space left"):
        model, guide = trained(tmp_path / "run", callbacks=[Fill()])
    assert torch.equal(flat(model, guide), flat(*whole))
    assert files(tmp_path / "run") == ["step-00000010.safetensors", "step-00000030.safetensors"]


def test_a_file_that_does_not_fit_says_what_differs(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"model.linear.weight is \(3, 2\) there, \(4, 2\) here"):
        load_parameters(tmp_path / "run", LinearGaussian(features=4))
    with pytest.raises(CheckpointError, match=r"lacks model.weight.*has model.linear.weight, model.linear.bias"):
        load_parameters(tmp_path / "run", nn.Linear(2, 2))


def test_what_is_not_there_is_said_plainly(tmp_path: Path) -> None:
    model, _ = pair()
    with pytest.raises(RunError, match="there is no run folder"):
        load_parameters(tmp_path / "none", model)
    with pytest.raises(RunError, match="holds no checkpoint"):
        load_parameters(tmp_path, model)
    trained(tmp_path / "run")
    with pytest.raises(RunError, match="'newest' or 'best'"):
        checkpoints.find(tmp_path / "run", "latest")


def test_a_foreign_safetensors_file_and_another_format_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint of phlogiston"):
        checkpoints.read(tmp_path / "foreign.safetensors")
    metadata = {"format": "99", "state": json.dumps({}), "sha256": ""}
    save_file({"a": torch.ones(2)}, tmp_path / "newer.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoints.read(tmp_path / "newer.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_every_kind_of_tensor_survives(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "a": torch.tensor([[0, 1], [1, 0]]).to(dtype),
        "b": torch.tensor(1).to(dtype),
        "c": torch.empty(0, 3).to(dtype),
    }
    checkpoints.write(tmp_path / "x", checkpoints.capture(tensors), {"step": 1})
    back, state = checkpoints.read(tmp_path / "x")
    assert state == {"step": 1}
    assert all(torch.equal(back[k], tensors[k]) and back[k].dtype == dtype for k in tensors)
    assert os.listdir(tmp_path) == ["x"]


def test_who_only_looks_at_a_run_loads_no_numpy_and_notices_every_cut(tmp_path: Path) -> None:
    model, guide = pair()
    fit(model, guide, rows(), stages=Stage("a", 2), out=tmp_path / "run", progress="off")
    file = checkpoints.find(tmp_path / "run")
    code = (
        "import sys, pathlib; from phlogiston.inference.svi.run_folder.readers import progress_of\n"
        "print(progress_of(pathlib.Path(sys.argv[1])).step, [m for m in ('numpy', 'torch') if m in sys.modules])"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2 []", done.stderr
    whole = file.read_bytes()
    for damaged in (
        b"",
        whole[:7],
        whole[:100],
        whole[:-1],
        whole + b"0",
        b"\xff" * 8 + whole[8:],
        b"\2" + bytes(7) + b"[]",
    ):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
            checkpoints.read_state(file)


@pytest.mark.parametrize("event", ["on_step", "on_checkpoint"])
def test_a_stage_that_a_callback_ends_is_finished_before_its_checkpoint_is_written(tmp_path: Path, event: str) -> None:
    model, guide = pair()
    told = []

    class Stops:
        def on_stage_end(self, state: Any) -> None:
            told.append((state.step, state.valid_loss))
            with torch.no_grad():
                next(iter(model.parameters())).zero_()

    def stop(self: Any, state: Any) -> None:
        if state.step == 4:
            state.request_stop()

    setattr(Stops, event, stop)
    options: dict[str, Any] = {"stages": Stage("a", 9), "callbacks": [Stops()], "checkpoint_every": 2}
    history = fit(model, guide, rows(), valid=rows(count=20), out=tmp_path, **options)
    assert [step for step, _ in told] == [4]
    assert history.finished
    assert history.interrupted
    newest = checkpoints.newest_good(tmp_path / "checkpoints")
    assert newest is not None
    _, tensors, state = newest
    assert state["valid_loss"] != told[0][1], "the checkpoint's loss is that of the parameters put in place"
    first, _ = next(iter(model.named_parameters()))
    assert bool((tensors[f"model.{first}"] == 0).all())
