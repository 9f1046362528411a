import contextlib
import json
import os
import signal
import subprocess
import sys
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
from phlogiston.inference.svi.processes.launchers import Launched, checked, launched
from phlogiston.inference.svi.run_folder.metrics import read_metrics

Results = dict[str, tuple[dict[str, Any], ...]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results, dict[str, list[int]]]:
    """One start of the script that tries everything; each test looks at one part of what came of it."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-P", str(Path(drive_two.__file__)), str(folder)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=400)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the session we started, and nothing else
    assert process.returncode == 0, output
    assert "Traceback" not in output, output
    codes = json.loads((folder / "codes.json").read_text())
    results: Results = {}
    for path in sorted(folder.glob("*-[0-9].json")):
        name = path.stem[:-2]
        results[name] = (*results.get(name, ()), json.loads(path.read_text()))
    return folder, results, codes


@pytest.mark.parametrize("case", drive_two.CASES)
def test_two_processes_equal_one(case: str, two: Any) -> None:
    first, second = two[1]["cases"]
    model, guide, history = drive_two.train(case)
    assert first[case]["digest"] == second[case]["digest"]
    torch.testing.assert_close(torch.tensor(first[case]["end"]), flat(model, guide), rtol=1e-5, atol=1e-6)
    assert first[case]["loss"] == pytest.approx(history.loss.tolist(), rel=1e-5)
    start = flat(*pair(drive_two.CASES[case][0]))
    assert (flat(model, guide) - start).abs().max() > 0.02  # and they went somewhere


def test_buckets_and_one_piece_end_with_the_same_parameters(two: Any) -> None:
    first, second = two[1]["roads"]
    assert first == second
    for (ours, ended), (foreign, ended_too) in first.values():
        assert (ours, foreign) == (["Bucketed"], ["Flat"])
        assert ended == ended_too


@pytest.mark.parametrize("name", drive_two.SYSTEMS)
def test_two_processes_equal_their_shards_and_seeds_one_after_the_other(name: str, two: Any) -> None:
    first, second = two[1]["shards"]
    assert first[name] == second[name]
    for there, here in zip(first[name], two[1]["turn"][0][name], strict=True):
        torch.testing.assert_close(torch.tensor(there), torch.tensor(here), rtol=1e-6, atol=1e-6)


def test_processes_end_alike_with_sampled_noise_and_different_beginnings(two: Any) -> None:
    first, second = two[1]["noise"]
    assert first["sampled"] == second["sampled"]


@pytest.mark.parametrize("kind", ["Poisoned", "Refusing"])
def test_numbers_that_go_bad_on_one_process_are_skipped_on_both(kind: str, two: Any) -> None:
    first, second = two[1]["noise"]
    assert first[kind] == second[kind]
    assert first[kind]["skipped"] == 2
    assert first[kind]["rollbacks"] == 0


def test_a_parameter_that_no_process_has_a_gradient_for_is_named_by_both(two: Any) -> None:
    first, second = two[1]["noise"]
    assert first["spare"] == second["spare"]
    assert "1 trainable parameters got no gradient in 10 steps: model.spare" in first["spare"]


def test_a_signal_to_one_process_stops_both_and_the_run_goes_on_exactly(two: Any) -> None:
    first, second = two[1]["decisions"]
    assert first["signal"] == second["signal"] == 143
    assert first["continued"] == second["continued"] == two[1]["cases"][0]["elbo"]["end"]


def test_an_error_on_the_writing_process_is_raised_on_both(two: Any) -> None:
    first, second = two[1]["decisions"]
    assert first["refused"] == second["refused"]
    assert first["refused"].startswith("RunMismatchError")
    assert "another configuration" in first["refused"]


def test_validation_is_divided_and_added_up(two: Any) -> None:
    first, second = two[1]["decisions"]
    _, _, history = drive_two.train("elbo", valid=rows("point", 11, seed=5), checkpoint_every=25)
    assert first["valid_loss"] == second["valid_loss"] == pytest.approx(history.records[-1]["valid_loss"], rel=1e-5)


def test_a_checkpoint_of_two_processes_loads_on_one(two: Any) -> None:
    folder, results, _ = two
    model, guide = pair("point", seed=5)
    state = load_parameters(folder / "elbo", model, guide)
    assert state["processes"] == 2
    assert flat(model, guide).tolist() == results["cases"][0]["elbo"]["end"]
    again, _, history = drive_two.train("elbo", out=folder / "elbo")  # finished there, so finished here
    assert torch.equal(flat(again), flat(model))
    assert len(history) == 5


@pytest.mark.parametrize("rank", [0, 1])
def test_when_either_process_is_killed_the_other_keeps_the_last_step_and_ends_soon(rank: int, two: Any) -> None:
    folder, results, codes = two
    assert codes[f"killed-{rank}"][rank] == -signal.SIGKILL
    assert codes[f"killed-{rank}"][1 - rank] == 0
    (told,) = results[f"killed-{rank}"]
    assert "another process of this run has gone" in told["error"]
    assert "it continues from step" in told["error"]
    run = folder / f"killed-{rank}"
    assert load_parameters(run, *pair("point"))["step"] in (14, 15)  # died after its 15th step; checkpoints at 10, 20
    again, _, history = drive_two.train("elbo", out=run, checkpoint_every=10)  # one process goes on
    assert history.finished
    whole = two[1]["cases"][0]["elbo"]
    torch.testing.assert_close(flat(again), torch.tensor(whole["end"])[: len(flat(again))], rtol=1e-5, atol=1e-6)
    assert history.loss.tolist() == pytest.approx(whole["loss"], rel=1e-5)
    assert [record["step"] for record in read_metrics(run / "metrics.jsonl")] == [10, 20, 30, 40, 50]


def test_a_run_goes_on_with_one_process_and_with_two_again(two: Any) -> None:
    folder, results, codes = two
    assert [codes[name] for name in ("elastic-2", "elastic-1", "elastic-end")] == [[143, 143], [143], [0, 0]]
    first, second = results["elastic-end"]
    assert first == second
    whole = results["cases"][0]["elbo"]
    torch.testing.assert_close(torch.tensor(first["end"]), torch.tensor(whole["end"]), rtol=1e-5, atol=1e-6)
    assert first["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    events = [json.loads(line) for line in (folder / "elastic" / "metrics.jsonl").read_text().splitlines()]
    resumed = [(e["step"], e["processes"]) for e in events if e.get("event") == "resume"]
    assert resumed == [(17, 1), (37, 2)]


def test_tasks_of_srun_find_each_other_without_being_told_how_many_they_are(two: Any) -> None:
    first, second = two[1]["srun"]
    assert [(r["rank"], r["size"]) for r in (first, second)] == [(0, 2), (1, 2)]
    assert first["end"] == second["end"] == two[1]["cases"][0]["elbo"]["end"]


def test_several_machines_without_a_launcher_are_refused_at_once_with_the_commands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NODE_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"torchrun --nnodes 3 --nproc-per-node 2 .* srun --nodes 3"):
        make_fabric(devices=2, nodes=3, accelerator="cpu")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"}, Launched("torchrun", 2, 3)),
        ({"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, Launched("torchrun", 1, 1)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}, Launched("srun", 4, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, None),  # a shell inside a job
    ],
)
def test_launchers_are_told_by_their_environment(environment: dict[str, str], expected: Launched | None) -> None:
    assert launched(environment) == expected


def test_numbers_that_contradict_the_launcher_are_refused() -> None:
    with pytest.raises(ConfigError, match="devices=3, but torchrun has started 2 processes per machine"):
        checked(Launched("torchrun", 2, 3), 3)
    assert checked(Launched("torchrun", 2, 3), 1).size == 6
    uneven = {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2"}
    with pytest.raises(ConfigError, match="start equally many"):
        launched(uneven)


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
