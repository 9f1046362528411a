import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import drive_two
import pytest
import torch
from inference_pairs import flat, pair, rows

from phlogiston.errors import ConfigError
from phlogiston.inference.svi.checkpoints import load_parameters
from phlogiston.inference.svi.engine import Stage, fit
from phlogiston.inference.svi.parallel import make_fabric


def launch(folder: Path, what: str, timeout: float = 150) -> tuple[int, str]:
    """Start the script, which starts its own second process; kill what is left of both if it takes too long."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, "-P", str(Path(drive_two.__file__)), str(folder), what]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the session we started, and nothing else
    return process.returncode, output


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """One launch of two processes that tries everything; each test looks at one part of what came of it."""
    folder = tmp_path_factory.mktemp("two")
    code, output = launch(folder, "equal")
    assert code == 0, output
    results = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    return folder, results[0], results[1]


@pytest.mark.parametrize("case", drive_two.CASES)
def test_two_processes_equal_one(case: str, two: Any) -> None:
    _, first, second = two
    model, guide, history = drive_two.train(case)
    assert first[case]["digest"] == second[case]["digest"]
    torch.testing.assert_close(torch.tensor(first[case]["end"]), flat(model, guide), rtol=1e-5, atol=1e-6)
    assert first[case]["loss"] == pytest.approx(history.loss.tolist(), rel=1e-5)
    start = flat(*pair(drive_two.CASES[case][0]))
    assert (flat(model, guide) - start).abs().max() > 0.02  # and they went somewhere


def test_processes_end_alike_with_sampled_noise_and_different_beginnings(two: Any) -> None:
    _, first, second = two
    assert first["sampled"] == second["sampled"]


def test_numbers_that_go_bad_on_one_process_are_skipped_on_both(two: Any) -> None:
    _, first, second = two
    assert first["poisoned"] == second["poisoned"]
    assert first["poisoned"]["skipped"] == 2
    assert first["poisoned"]["rollbacks"] == 0


def test_a_signal_to_one_process_stops_both_and_the_run_goes_on_exactly(two: Any) -> None:
    _, first, second = two
    assert first["signal"] == second["signal"] == 143
    assert first["continued"] == second["continued"] == first["elbo"]["end"]


def test_an_error_on_the_writing_process_is_raised_on_both(two: Any) -> None:
    _, first, second = two
    assert first["refused"] == second["refused"]
    assert first["refused"].startswith("RunMismatchError")
    assert "another configuration" in first["refused"]


def test_validation_is_divided_and_added_up(two: Any) -> None:
    _, first, second = two
    _, _, history = drive_two.train("elbo", valid=rows("point", 11, seed=5), checkpoint_every=25)
    assert first["valid_loss"] == second["valid_loss"] == pytest.approx(history.records[-1]["valid_loss"], rel=1e-5)


def test_a_checkpoint_of_two_processes_loads_on_one(two: Any) -> None:
    folder, first, _ = two
    model, guide = pair("point", seed=5)
    state = load_parameters(folder / "elbo", model, guide)
    assert state["processes"] == 2
    assert flat(model, guide).tolist() == first["elbo"]["end"]
    again, _, history = drive_two.train("elbo", out=folder / "elbo")  # finished there, so finished here
    assert torch.equal(flat(again), flat(model))
    assert len(history) == 5


def test_when_one_process_is_killed_the_other_ends_soon_with_a_clear_error(tmp_path: Path) -> None:
    began = time.monotonic()
    code, output = launch(tmp_path, "kill", timeout=100)
    assert code != 0, output
    assert time.monotonic() - began < 90
    assert "another process of this run has gone" in (tmp_path / "error.txt").read_text()
    model, guide = pair("point")
    assert load_parameters(tmp_path / "killed", model, guide)["step"] == 4
    again, _, history = drive_two.train("elbo", out=tmp_path / "killed", checkpoint_every=2)  # one process goes on
    assert history.finished
    assert torch.isfinite(flat(again)).all()


def test_precisions_we_do_not_offer_are_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="choose one of 32-true, 64-true, bf16-mixed"):
        make_fabric(precision="16-mixed")


@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("bf16-mixed", torch.float32)])
def test_other_precisions_train_too(precision: str, dtype: torch.dtype) -> None:
    fabric = make_fabric(accelerator="cpu", precision=precision)
    model, guide = pair()
    data = rows(count=200)
    history = fit(model, guide, data, stages=Stage("a", 200, learning_rate=0.02), fabric=fabric, log_every=20)
    assert model.linear.weight.dtype == dtype
    assert history.loss[-1] < history.loss[0] - 0.5
    assert torch.get_default_dtype() == torch.float32


def test_one_process_under_fabric_equals_none() -> None:
    ends = []
    for fabric in (None, make_fabric(accelerator="cpu")):
        model, guide = pair()
        fit(model, guide, rows(), stages=Stage("a", 10, batch_size=16), fabric=fabric)
        ends.append(flat(model, guide))
    assert torch.equal(*ends)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_trains_resumes_and_leaves_files_a_cpu_can_read(tmp_path: Path) -> None:
    fabric = make_fabric(accelerator="cuda")
    ends = []
    for name, cut in (("whole", False), ("cut", True), ("cut", False)):
        model, guide = pair()
        callbacks = [Stop()] if cut else []
        try:
            stage = Stage("a", 40, batch_size=16, learning_rate=0.02)
            fit(
                model,
                guide,
                rows(),
                stages=stage,
                fabric=fabric,
                out=tmp_path / name,
                checkpoint_every=10,
                callbacks=callbacks,
            )
        except RuntimeError:
            continue
        assert model.linear.weight.device.type == "cuda"
        ends.append(flat(model.cpu(), guide.cpu()))
    assert torch.equal(*ends)
    load_parameters(tmp_path / "whole", *pair())


class Stop:
    def on_step(self, state: Any) -> None:
        if state.step == 25:
            raise RuntimeError("power cut")
